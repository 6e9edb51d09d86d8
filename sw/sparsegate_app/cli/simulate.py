"""``sparsegate simulate``: the engine's RTL against the golden model and the cycle model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    PORTS,
    Array,
    Data,
    Json,
    ProgramPath,
    Simulator,
    Thresholds,
    array_options,
    chosen_thresholds,
    open_data,
)


@array_options(ARRAY | PORTS)
def simulate(
    *,
    program: ProgramPath,
    data: Data = "vowels",
    simulator: Annotated[Simulator, typer.Option("--simulator", help="What runs the RTL.")] = Simulator.verilator,
    sequences: Annotated[int, typer.Option("--sequences", "-n", min=1, help="Test sequences to stream.")] = 8,
    array: Array,
    threshold: Thresholds = None,
    stalls: Annotated[
        int | None,
        typer.Option("--stalls", metavar="SEED", help="Random stalls at both ends; cycles are then not compared."),
    ] = None,
    waves: Annotated[Path | None, typer.Option("--waves", help="Write waveforms to this .vcd or .fst file.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate the engine and compare every hidden state, every output and every step's cycles with the models.

    With state ports, the state after each sequence is compared too.

    Exits with status 1 on the first kind of difference, and says where it is.

    Example: [bold]sparsegate simulate build/program.safetensors --simulator icarus --sequences 4[/]
    """
    from sparsegate_app.stages import simulate as stage
    from sparsegate_app.stages.compiled import open_program

    compiled = open_program(program, array)
    dataset = open_data(data, compiled.program.inputs)
    thresholds = chosen_thresholds(compiled.program, threshold)
    x, lengths = dataset.x_test[:sequences], dataset.length_test[:sequences]
    with console.task(f"simulate {len(lengths)} sequences with {simulator.value}"):
        result = stage.simulate(
            compiled,
            x,
            lengths,
            simulator=simulator.value,
            thresholds=thresholds,
            stalls=stalls,
            waves=waves,
            data=dataset.name,
        )
    if threshold is None and stalls is None:
        compiled.record(result)
    console.emit(result.as_json(), as_json, "simulation", result.rows())
    if not result.passed:
        console.error(result.sentence)
        raise typer.Exit(1)
