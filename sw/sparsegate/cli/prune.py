"""``sparsegate prune``: N:M column sparsity with gradual schedule and fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsegate import console
from sparsegate.cli.options import Data, Json, NetworkFile, Seed, check_classes, one_thread, open_data, percent
from sparsegate.cli.train import epochs_of


def prune(
    network: NetworkFile,
    data: Data = "vowels",
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern", "-p", metavar="N:M", help="At most N weights in every M consecutive units of a column."
        ),
    ] = "4:16",
    pattern_h: Annotated[
        str | None, typer.Option("--pattern-h", metavar="N:M", help="Another pattern for the recurrent matrices.")
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the training sequences; the first half prunes.")
    ] = 120,
    out: Annotated[Path, typer.Option("--out", "-o", help="Network file to write.")] = Path("build/pruned.safetensors"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Prune the recurrent layers to N:M patterns, gradually, while training goes on.

    For a training loop of your own, see the Python API: [bold]sparsegate.prune.attach[/].

    Example: [bold]sparsegate prune build/network.safetensors --pattern 4:16 --out build/pruned.safetensors[/]
    """
    one_thread()
    from sparsegate import train as training
    from sparsegate.network import Network

    model = Network.load(network)
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    before = training.accuracy(model, dataset.x_test, dataset.length_test, dataset.y_test)
    with console.task(f"prune to {pattern} and fine-tune") as task:
        pruned = training.prune_and_finetune(
            model, dataset, (pattern, pattern_h or pattern), epochs=epochs, seed=seed, progress=epochs_of(task)
        )
    after = training.accuracy(pruned, dataset.x_test, dataset.length_test, dataset.y_test)
    pruned = replace(pruned, meta={**model.meta, "data": dataset.name, "accuracy": {"float": before, "pruned": after}})
    pruned.save(out)
    layers = [
        {"name": layer.name, "pattern_x": str(layer.pattern_x), "pattern_h": str(layer.pattern_h)}
        for layer in pruned.layers
    ]
    result = {"network": str(out), "accuracy": {"float": before, "pruned": after}, "layers": layers}
    rows: list[tuple[str, object]] = [
        ("network", out),
        ("test accuracy before", percent(before)),
        ("test accuracy after", percent(after)),
    ]
    console.emit(result, as_json, "prune", rows)
