"""``sparsegate synth``: a bitstream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    DEFAULT_BOARD,
    Array,
    Json,
    Multipliers,
    ProgramPath,
    array_options,
)


@array_options(ARRAY)
def synth(
    *,
    program: ProgramPath,
    board: Annotated[
        str | None, typer.Option("--board", help=f"Board of amaranth-boards. Default: {DEFAULT_BOARD}.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="A bare device such as LFE5U-25F, iCE40UP5K or GW2A-18, instead of a board."),
    ] = None,
    multipliers: Multipliers = None,
    array: Array,
    mhz: Annotated[float | None, typer.Option("--mhz", help="Clock to build for. Default: the device's.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the placement.")] = 1,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Place with so many seeds and keep the fastest. Default: until timing is met, at most 3.",
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--points", metavar="FILE", help="Add what was measured to this file of synthesized points."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which the result's folder is made.")] = Path(
        "build"
    ),
    as_json: Json = False,
) -> None:
    """Synthesize, place, route and pack a bitstream; report area and the highest clock.

    Placed and routed designs are kept in the folder [bold]routed[/] beside the result: the same design, seed and tools are never
    placed twice, and a fine-tuned Program of the same shape only gets its own memory contents.

    Example: [bold]sparsegate synth build/program.safetensors --board ulx3s-85f[/]
    """
    from sparsegate_app.stages import synth as stage
    from sparsegate_app.stages.compiled import open_program

    compiled = open_program(program, array)
    with console.task("synthesize") as task:
        result = stage.synth(
            compiled,
            board=board,
            device=device,
            multipliers=multipliers,
            frequency_hz=None if mhz is None else round(mhz * 1e6),
            seed=seed,
            seeds=seeds,
            out=out,
            progress=task.say,
        )
    compiled.record(result)
    shown, measured = result.as_json(), result.measured
    if points is not None:
        from sparsegate import estimate

        estimate.add_point(points, estimate.point(compiled.program, compiled.config, shown, command(sys.argv)))
    console.emit(shown, as_json, "synthesis", result.rows())
    if not measured.met:
        console.error(
            f"timing is not met: {measured.fmax_mhz:.1f} MHz reached, {measured.frequency_mhz:g} MHz expected; "
            "try more --seeds, fewer --rows or a lower --mhz"
        )
        raise typer.Exit(1)


def command(arguments: list[str]) -> str:
    """The command line, so that a result can be made again; without where this machine keeps the program."""
    return " ".join(["sparsegate", *arguments[1:]])
