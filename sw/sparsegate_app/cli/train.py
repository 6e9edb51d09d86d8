"""``sparsegate train``: a float LSTM classifier, to have something to start from."""

from __future__ import annotations

from dataclasses import replace
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
    percent,
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
    from sparsegate.training import train as training

    kept = checkpoint_of(out, checkpoint)
    dataset = open_data(data)
    with console.task("train the float LSTM") as task, resuming(task, kept):
        network = training.train_float(
            dataset, hidden, epochs, seed, epochs_of(task), depth=depth, checkpoint=kept, device=device
        )
    reached = training.accuracy(network, dataset.x_test, dataset.length_test, dataset.y_test)
    network = replace(network, meta={"data": dataset.name, "seed": seed, "accuracy": {"float": reached}})
    network.save(out)
    result = {"network": str(out), "accuracy": {"float": reached}, "test_sequences": len(dataset.y_test)}
    console.emit(result, as_json, "train", [("network", out), ("test accuracy, float", percent(reached))])
