"""``sparsegate train``: a float LSTM classifier, to have something to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Checkpoint,
    Data,
    Device,
    Json,
    Seed,
    checkpoint_of,
    epochs_of,
    one_thread,
    open_data,
    resuming,
)


def train(
    data: Data = "vowels",
    out: Annotated[Path, typer.Option("--out", "-o", help="Network file to write.")] = Path(
        "build/network.safetensors"
    ),
    hidden: Annotated[int, typer.Option("--hidden", help="Units of each LSTM layer.")] = 64,
    depth: Annotated[int, typer.Option("--depth", help="Stacked LSTM layers.")] = 1,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training sequences.")] = 60,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a float LSTM with a linear head on labelled sequences.

    Example: [bold]sparsegate train --data vowels --hidden 64 --out build/network.safetensors[/]
    """
    one_thread()
    from sparsegate_app.stages import train as stage

    kept = checkpoint_of(out, checkpoint)
    dataset = open_data(data)
    with console.task("train the float LSTM") as task, resuming(task, kept):
        result = stage.train(
            dataset,
            out,
            hidden=hidden,
            epochs=epochs,
            seed=seed,
            progress=epochs_of(task),
            depth=depth,
            checkpoint=kept,
            device=device,
        )
    console.emit(result.as_json(), as_json, "train", result.rows())
