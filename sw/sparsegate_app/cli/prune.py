"""``sparsegate prune``: any sparsity pattern, tightened by a schedule while the network is fine-tuned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Checkpoint,
    Data,
    Device,
    Json,
    NetworkFile,
    Seed,
    check_classes,
    checkpoint_of,
    epochs_of,
    one_thread,
    open_data,
    percent,
    resuming,
)

if TYPE_CHECKING:
    from sparsegate.network import Network
    from sparsegate.pattern import Pattern

DEFAULT = "4:16"


def prune(
    network: NetworkFile,
    data: Data = "vowels",
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            "-p",
            metavar="N:M",
            help="At most N weights in every M consecutive units of a column, which is what the hardware runs; or, to compare, "
            f"another one: unstructured:1/8, bbs:2:16, ese:1/8:16, block:1/8:4x4, block:1/8:4x4:max, cbtd:1/8:8. "
            f"Default: {DEFAULT}.",
        ),
    ] = None,
    pattern_h: Annotated[
        str | None, typer.Option("--pattern-h", metavar="N:M", help="Another pattern for the recurrent matrices.")
    ] = None,
    allocation: Annotated[
        Path | None, typer.Option("--allocation", "-a", help="Patterns of every matrix, as allocate wrote them.")
    ] = None,
    schedule: Annotated[
        Literal["cubic", "one-shot", "annealed"],
        typer.Option(
            "--schedule", help="How masks tighten: gradually, at once, or by dropping at random until certain (CBTD)."
        ),
    ] = "cubic",
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the training sequences; the first half prunes.")
    ] = 120,
    out: Annotated[Path, typer.Option("--out", "-o", help="Network file to write.")] = Path("build/pruned.safetensors"),
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Prune the recurrent layers while training goes on.

    For a training loop of your own, see the Python API: [bold]sparsegate.training.masks.attach[/].

    Example: [bold]sparsegate prune build/network.safetensors --pattern 1:8 --pattern-h 2:16 --out build/pruned.safetensors[/]
    """
    one_thread()
    from sparsegate.network import Network
    from sparsegate.training import train as training
    from sparsegate.training.trainable import usable

    usable(device)
    kept = checkpoint_of(out, checkpoint)
    model = Network.load(network)
    if allocation is not None:
        given = pattern_h if pattern is None else pattern
        patterns, what = _allocated(model, allocation, given), f"by {allocation.name}"
    else:
        patterns, what = _given(model, DEFAULT if pattern is None else pattern, pattern_h)
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    before = training.accuracy(model, dataset.x_test, dataset.length_test, dataset.y_test)
    with console.task(f"prune {what} and fine-tune") as task, resuming(task, kept), warnings.catch_warnings():
        # PyTorch says that it has no fast kernel for projections
        warnings.filterwarnings("ignore", message="LSTM with projections")
        pruned = training.prune_and_finetune(
            model, dataset, patterns, epochs, seed, epochs_of(task), schedule=schedule, checkpoint=kept, device=device
        )
    after = training.accuracy(pruned, dataset.x_test, dataset.length_test, dataset.y_test)
    pruned = replace(
        pruned,
        meta={
            **model.meta,
            "data": dataset.name,
            "accuracy": {"float": before, "pruned": after},
            "patterns": {name: [str(one) for one in pair] for name, pair in patterns.items()},
        },
    )
    pruned.save(out)
    layers = [
        {
            "name": layer.name,
            "pattern_x": str(layer.pattern_x),
            "pattern_h": str(layer.pattern_h),
            "pruned_x": str(patterns[layer.name][0]) if layer.name in patterns else None,
            "pruned_h": str(patterns[layer.name][1]) if layer.name in patterns else None,
            "density": _density(pruned, layer.name),
        }
        for layer in pruned.layers
    ]
    result = {"network": str(out), "accuracy": {"float": before, "pruned": after}, "layers": layers}
    rows: list[tuple[str, object]] = [
        ("network", out),
        *((f"{layer['name']}: weights kept", percent(float(str(layer["density"])))) for layer in layers),
        ("test accuracy before", percent(before)),
        ("test accuracy after", percent(after)),
    ]
    console.emit(result, as_json, "prune", rows)


Patterns = Mapping[str, "tuple[Pattern, Pattern]"]


def _given(model: Network, x: str, h: str | None) -> tuple[Patterns, str]:
    """The recurrent layers' patterns from the command line."""
    from sparsegate import pattern
    from sparsegate.cells import cell
    from sparsegate.errors import SparseGateError

    both = pattern.both((x, x if h is None else h))
    m = [each.m for each in both if isinstance(each, pattern.NM) and not each.dense]
    block = math.lcm(*m)
    if block > pattern.MAX_BLOCK:  # no Program has such blocks, and training would be in vain
        raise SparseGateError(
            f"blocks of {m[0]} and {m[1]} units meet at {block}, expected at most {pattern.MAX_BLOCK}: choose multiples"
        )
    found = {layer.name: both for layer in model.layers if cell(layer.kind).recurrent}
    if not found:
        raise SparseGateError("the network has no recurrent layer to prune")
    return found, f"to {both[0]}" + (f" and {both[1]}" if both[0] != both[1] else "")


def _allocated(model: Network, path: Path, given: str | None) -> Patterns:
    """Every layer's patterns from a file, which must be of this network."""
    from sparsegate.compress.budget import Allocation
    from sparsegate.errors import SparseGateError

    if given is not None:
        raise SparseGateError(f"both an allocation and the pattern {given} are given, expected one of them")
    made = Allocation.load(path)
    made.check(model)
    projections = {f"{name}.w_p": (chosen["p"],) * 2 for name, chosen in made.patterns.items() if "p" in chosen}
    return made.pairs | projections


def _density(network: Network, name: str) -> float:
    """Share of a layer's weights that are not zero."""
    import numpy as np

    layer = next(layer for layer in network.layers if layer.name == name)
    matrices = [matrix for matrix in (layer.w_x, layer.w_h, layer.w_p) if matrix is not None]
    return sum(int(np.count_nonzero(matrix)) for matrix in matrices) / sum(matrix.size for matrix in matrices)
