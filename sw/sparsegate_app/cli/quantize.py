"""``sparsegate quantize``: from a float Network to a Program of integers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Checkpoint,
    Data,
    Json,
    NetworkFile,
    Seed,
    Thresholds,
    check_classes,
    checkpoint_of,
    epochs_of,
    one_thread,
    open_data,
    percent,
    resuming,
)

if TYPE_CHECKING:
    from sparsegate.program import Program
    from sparsegate.quantize import QuantizeConfig


def quantize(
    network: NetworkFile,
    data: Data = "vowels",
    out: Annotated[Path, typer.Option("--out", "-o", help="Program file to write.")] = Path(
        "build/program.safetensors"
    ),
    activation_bits: Annotated[
        int, typer.Option("--activation-bits", help="Bits of inputs and hidden states, 4 to 16.")
    ] = 8,
    input_bits: Annotated[
        int | None,
        typer.Option("--input-bits", help="Bits of the inputs alone, 4 to 16. Default: those of hidden states."),
    ] = None,
    weight_bits: Annotated[
        int | None, typer.Option("--weight-bits", help="Bits of weights, 2 to 16. Default: 8.", show_default=False)
    ] = None,
    matrix_bits: Annotated[
        list[str] | None,
        typer.Option(
            "--matrix-bits", metavar="LAYER.MATRIX=BITS", help="Bits of one matrix, such as lstm.wh=4; repeatable."
        ),
    ] = None,
    weight_levels: Annotated[
        int | None,
        typer.Option("--weight-levels", help="Round weights to so many levels, an odd number, instead of bits."),
    ] = None,
    calibration: Annotated[
        Literal["min-max", "percentile", "mse"],
        typer.Option("--calibration", help="Formats that hold all values seen, nearly all, or those of least error."),
    ] = "min-max",
    percentile: Annotated[
        float, typer.Option("--percentile", help="Per cent of the magnitudes that must fit, with that calibration.")
    ] = 99.99,
    rounding: Annotated[
        Literal["nearest", "compensated"],
        typer.Option("--rounding", help="Each weight to the nearest, or so that errors of columns cancel."),
    ] = "nearest",
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="Take from the biases what rounding adds to the means.")
    ] = False,
    hold_zeros: Annotated[
        bool | None,
        typer.Option(
            help="Fine-tune only what is not 0. Default: where sparsegate prune wrote NETWORK, by a pattern other than N:M.",
            show_default=False,
        ),
    ] = None,
    threshold: Thresholds = None,
    threshold_budget: Annotated[
        float | None,
        typer.Option(
            "--threshold-budget",
            metavar="POINTS",
            min=0.0,
            help="Then raise Θ of each vector, while accuracy on training sequences with noise falls by no more points in all.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Quantization-aware fine-tuning; 0 only rounds.")] = 8,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Quantize a Network: calibrate formats on data, fine-tune on exact integers, write a Program.

    Example: [bold]sparsegate quantize build/pruned.safetensors --weight-bits 8 --out build/program.safetensors[/]
    """
    one_thread()
    from sparsegate.network import Network
    from sparsegate_app.stages import quantize as stage

    kept = checkpoint_of(out, checkpoint)
    model = Network.load(network)
    dataset = open_data(data, model.inputs)
    if epochs or threshold_budget is not None:
        check_classes(dataset, model.outputs)
    config = _config(
        weight_bits,
        weight_levels,
        activation_bits=activation_bits,
        input_bits=input_bits,
        matrix_bits=_bits(matrix_bits or []),
        calibration=calibration,
        percentile=percentile,
        rounding=rounding,
        bias_correction=bias_correction,
    )
    with (
        console.task("quantize and fine-tune" if epochs else "quantize") as task,
        resuming(task, kept) if epochs else nullcontext(),
    ):
        program = stage.finetuned(
            model,
            dataset,
            config,
            epochs,
            seed,
            epochs_of(task),
            thresholds=threshold or (),
            hold_zeros=stage.scattered(network, model) if hold_zeros is None else hold_zeros,
            checkpoint=kept,
        )
    chosen: dict[str, Any] = {}
    if threshold_budget is not None:
        with console.task("choose the thresholds") as task:
            program, chosen = stage.raised(program, dataset, threshold_budget, _tried(task))
    result = stage.written(program, model, dataset, out, chosen)
    console.emit(result.as_json(), as_json, "quantize", result.rows())


def _config(weight_bits: int | None, weight_levels: int | None, **more: Any) -> QuantizeConfig:
    """Widths and how to round, of which bits and levels of weights exclude each other."""
    from sparsegate.errors import SparseGateError
    from sparsegate.quantize import QuantizeConfig

    if weight_bits is not None and weight_levels is not None:
        raise SparseGateError(
            f"weights are given {weight_bits} bits and {weight_levels} levels, expected one of --weight-bits and --weight-levels"
        )
    return QuantizeConfig(weight_bits=8 if weight_bits is None else weight_bits, weight_levels=weight_levels, **more)


def _tried(task: console.Task) -> Callable[[Program, float], None]:
    """Says what thresholds were tried."""
    return lambda trial, found: task.say(f"accuracy {percent(found)} with Θ = {', '.join(map(str, trial.thresholds))}")


def _bits(given: list[str]) -> dict[str, int]:
    """``["lstm.wh=4"]`` as ``{"lstm.wh": 4}``."""
    from sparsegate.errors import SparseGateError

    found: dict[str, int] = {}
    for text in given:
        name, _, bits = text.rpartition("=")
        if not name or not bits.isdecimal():
            raise SparseGateError(f"bits of a matrix are written like 'lstm.wh=4', not {text!r}")
        if name in found:
            raise SparseGateError(f"the bits of {name} are given twice, {found[name]} and {int(bits)}")
        found[name] = int(bits)
    return found
