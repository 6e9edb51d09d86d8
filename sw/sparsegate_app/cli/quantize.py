"""``sparsegate quantize``: from a float Network to a Program of integers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
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
    from sparsegate.data.datasets import Dataset
    from sparsegate.network import Network
    from sparsegate.program import Program


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
    from sparsegate.errors import SparseGateError
    from sparsegate.network import Network
    from sparsegate.quantize import QuantizeConfig
    from sparsegate.training import train as training
    from sparsegate_app.report import formats as formats_of

    kept = checkpoint_of(out, checkpoint)
    model = Network.load(network)
    dataset = open_data(data, model.inputs)
    if epochs or threshold_budget is not None:
        check_classes(dataset, model.outputs)
    chosen = threshold or [0]
    # a single one is for every vector that drives columns; what a final layer gives drives none
    common = chosen[0] if len(chosen) == 1 else 0
    if weight_bits is not None and weight_levels is not None:
        raise SparseGateError(
            f"weights are given {weight_bits} bits and {weight_levels} levels, expected one of --weight-bits and --weight-levels"
        )
    config = QuantizeConfig(
        activation_bits=activation_bits,
        input_bits=input_bits,
        weight_bits=8 if weight_bits is None else weight_bits,
        threshold=common,
        matrix_bits=_bits(matrix_bits or []),
        weight_levels=weight_levels,
        calibration=calibration,
        percentile=percentile,
        rounding=rounding,
        bias_correction=bias_correction,
    )
    with (
        console.task("quantize and fine-tune" if epochs else "quantize") as task,
        resuming(task, kept) if epochs else nullcontext(),
    ):
        program = training.quantize_and_finetune(
            model,
            dataset,
            config,
            epochs,
            seed,
            epochs_of(task),
            thresholds=chosen if len(chosen) > 1 else (),
            hold_zeros=_scattered(network, model) if hold_zeros is None else hold_zeros,
            checkpoint=kept,
        )
    raised: dict[str, Any] = {}
    if threshold_budget is not None:
        with console.task("choose the thresholds") as task:
            program, raised = _raised(program, dataset, threshold_budget, task)
    reached = training.accuracy(program, dataset.x_test, dataset.length_test, dataset.y_test)
    known = dict(model.meta.get("accuracy", {}))
    program = replace(program, meta={**model.meta, "data": dataset.name, "accuracy": {**known, "golden": reached}})
    program.save(out)
    formats = formats_of(program)
    result = {"program": str(out), "digest": program.digest, "accuracy": {"golden": reached}, "formats": formats}
    result |= raised
    rows: list[tuple[str, object]] = [("Program", out), ("digest", program.digest), ("input", program.input_format)]
    rows += [
        (name, ", ".join(f"{key} {value}" for key, value in form.items())) for name, form in formats["layers"].items()
    ]
    if raised:
        skipped = raised["skipped"]
        rows += [
            ("thresholds", ", ".join(f"{name} {value}" for name, value in raised["thresholds"].items())),
            (
                "products skipped on the test sequences",
                f"{percent(skipped['after'])} (before: {percent(skipped['before'])})",
            ),
        ]
    rows.append(("test accuracy, golden model", percent(reached)))
    console.emit(result, as_json, "quantize", rows)


def _scattered(path: Path, network: Network) -> bool:
    """Whether it was pruned to patterns of which its zeros alone tell: formats know N:M."""
    from sparsegate import artefact, pattern

    with artefact.reading(path):
        given = [text for pair in network.meta.get("patterns", {}).values() for text in pair]
        return not all(isinstance(pattern.parse(text), pattern.NM) for text in given)


def _raised(program: Program, dataset: Dataset, points: float, task: console.Task) -> tuple[Program, dict[str, Any]]:
    """The Program with thresholds chosen within a budget of accuracy, and what they are and win."""
    from sparsegate.golden import temporal
    from sparsegate.training import train as training

    noisy = dataset.noisy()

    def score(trial: Program) -> float:
        found = training.accuracy(trial, *noisy)
        task.say(f"accuracy {percent(found)} with Θ = {', '.join(map(str, trial.thresholds))}")
        return found

    chosen = temporal.choose(program, dataset.x_train, dataset.length_train, score, points / 100)
    before, after = (temporal.skipped(made, dataset.x_test, dataset.length_test).total for made in (program, chosen))
    named = {vector.name: value for vector, value in zip(chosen.vectors, chosen.thresholds, strict=True)}
    return chosen, {"thresholds": named, "skipped": {"before": before, "after": after}}


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
