"""``sparsegate run``: stream sequences through a board."""

from __future__ import annotations

from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Data,
    Json,
    ProgramPath,
    Thresholds,
    check_classes,
    chosen_thresholds,
    open_data,
)


def run(
    program: ProgramPath,
    port: Annotated[
        str,
        typer.Option("--port", "-p", help="Serial port of the board, a pyserial URL, or 'simulated' for a dry run."),
    ],
    data: Data = "vowels",
    sequences: Annotated[int, typer.Option("--sequences", "-n", min=1, help="Test sequences to stream.")] = 8,
    threshold: Thresholds = None,
    as_json: Json = False,
) -> None:
    """Stream test sequences through a board that runs this Program, and compare with the golden model.

    Example: [bold]sparsegate run build/program.safetensors --port /dev/ttyUSB0 --sequences 4[/]
    """
    from sparsegate_app.stages import run as stage
    from sparsegate_app.stages.compiled import open_program

    model = open_program(program).program
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    x, y, lengths = dataset.x_test[:sequences], dataset.y_test[:sequences], dataset.length_test[:sequences]
    thresholds = chosen_thresholds(model, threshold)
    with console.task(f"run {len(lengths)} sequences on {port}") as task:
        result = stage.run(model, port, x, y, lengths, thresholds=thresholds, progress=task.say)
    console.emit(result.as_json(), as_json, "board", result.rows())
    if result.mismatches:
        console.error(result.sentence)
        raise typer.Exit(1)
