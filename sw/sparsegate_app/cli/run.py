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
    from sparsegate import host
    from sparsegate_app.stages.compiled import open_program

    model = open_program(program).program
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    lengths = dataset.length_test[:sequences]
    with console.task(f"run {len(lengths)} sequences on {port}") as task:
        result = host.run(
            port,
            model,
            model.quantize(dataset.x_test[:sequences]),
            lengths,
            thresholds=chosen_thresholds(model, threshold),
            progress=task.say,
        )
    last = result.outputs[range(len(lengths)), lengths - 1]
    right = int((last.argmax(axis=1) == dataset.y_test[:sequences]).sum())
    clock = result.identity.clock_hz
    values = {
        "port": port,
        "sequences": len(lengths),
        "steps": result.steps,
        "correct": right,
        "values_compared": result.values_compared,
        "mismatches": result.mismatches,
        "first_mismatch": result.first_mismatch,
        "cycles_per_step": result.cycles_per_step,
        "clock_hz": clock,
        "counters": dict(result.counters),
        "retries": result.retries,
        "seconds": round(result.seconds, 3),
    }
    rows: list[tuple[str, object]] = [
        ("steps", f"{result.steps} in {len(lengths)} sequences"),
        ("right answers", f"{right} of {len(lengths)}"),
        ("values that differ from the golden model", f"{result.mismatches} of {result.values_compared}"),
        ("requests sent again", result.retries),
    ]
    if result.cycles_per_step is not None:  # the golden model has no clock
        rows.append(
            (
                "cycles of a step alone, as the board counted them",
                f"{result.cycles_per_step:.1f} at {clock / 1e6:g} MHz",
            )
        )
    console.emit(values, as_json, "board", rows)
    if result.mismatches:
        console.error(f"{result.mismatches} values differ from the golden model; first: {result.first_mismatch}")
        raise typer.Exit(1)
