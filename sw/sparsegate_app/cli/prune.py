"""``sparsegate prune``: any sparsity pattern, tightened by a schedule while the network is fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    resuming,
)

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

    For a training loop of your own, see the Python API: [bold]sparsegate.prune.attach[/].

    Example: [bold]sparsegate prune build/network.safetensors --pattern 1:8 --pattern-h 2:16 --out build/pruned.safetensors[/]
    """
    one_thread()
    from sparsegate.network import Network
    from sparsegate.training.trainable import usable
    from sparsegate_app.stages import prune as stage

    usable(device)
    kept = checkpoint_of(out, checkpoint)
    model = Network.load(network)
    if allocation is not None:
        patterns = stage.allocated(model, allocation, pattern_h if pattern is None else pattern)
        what = f"by {allocation.name}"
    else:
        patterns = stage.of_matrices(model, DEFAULT if pattern is None else pattern, pattern_h)
        what = stage.words(patterns)
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    with console.task(f"prune {what} and fine-tune") as task, resuming(task, kept):
        result = stage.prune(
            model,
            dataset,
            patterns,
            out,
            epochs=epochs,
            seed=seed,
            progress=epochs_of(task),
            schedule=schedule,
            checkpoint=kept,
            device=device,
        )
    console.emit(result.as_json(), as_json, "prune", result.rows())
