"""``sparsegate synth``: a bitstream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    Array,
    Compiled,
    Json,
    Multipliers,
    ProgramPath,
    array_options,
    open_program,
)

DEFAULT_BOARD = "ulx3s-85f"


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
    compiled = open_program(program, array)
    with console.task("synthesize") as task:
        frequency = None if mhz is None else round(mhz * 1e6)
        result = implement(
            compiled,
            out,
            task,
            board=board,
            device=device,
            multipliers=multipliers,
            frequency_hz=frequency,
            seed=seed,
            seeds=seeds,
        )
    record(compiled, result)
    if points is not None:
        from sparsegate import estimate

        estimate.add_point(points, estimate.point(compiled.program, compiled.config, result, command(sys.argv)))
    clock = "meets" if result["met"] else "misses"
    table: list[tuple[str, object]] = [
        ("device", result["device"] + (f" (speed grade {result['speed']})" if result["speed"] else "")),
        (
            "highest clock",
            f"{result['fmax_mhz']:.1f} MHz, {clock} the {result['frequency_mhz']:g} MHz of the bitstream",
        ),
        ("LUTs", result["luts"]),
        ("flip-flops", result["ffs"]),
        ("block RAMs", result["bram"]),
        *([("single-port memories", result["sprams"])] if result["sprams"] else []),
        ("multipliers", result["dsp"]),
        ("bitstream", result["bitstream"]),
        ("seconds", f"{result['seconds']:.0f}{' (an earlier run)' if result['cached'] else ''}"),
    ]
    console.emit(result, as_json, "synthesis", table)
    if not result["met"]:
        console.error(
            f"timing is not met: {result['fmax_mhz']:.1f} MHz reached, {result['frequency_mhz']:g} MHz expected; "
            "try more --seeds, fewer --rows or a lower --mhz"
        )
        raise typer.Exit(1)


def command(arguments: list[str]) -> str:
    """The command line, so that a result can be made again; without where this machine keeps the program."""
    return " ".join(["sparsegate", *arguments[1:]])


def implement(
    compiled: Compiled,
    out: Path,
    task: console.Task,
    *,
    board: str | None = None,
    device: str | None = None,
    multipliers: str | None = None,
    frequency_hz: int | None = None,
    seed: int = 1,
    seeds: int | None = None,
) -> dict[str, Any]:
    """Run synthesis; the stage's result, its bitstream as a path."""
    from sparsegate_hw.synthesis.emit import verilog_digest
    from sparsegate_hw.synthesis.synth import synthesize

    program, config = compiled.program, compiled.config
    # synthesis makes the engine anew: a folder that was compiled with another version of it must not take the result for its own
    verilog = None if compiled.folder is None else verilog_digest(program, config)
    outcome = synthesize(
        program,
        config,
        board=board,
        device=device,
        multipliers=multipliers,
        folder=out,
        seed=seed,
        seeds=seeds,
        progress=task.say,
        frequency_hz=frequency_hz,
    )
    return outcome.as_json() | {
        "bitstream": str(outcome.bitstream),
        "met": outcome.met,
        "cached": outcome.cached,
        "tools": dict(outcome.tools),
        "digests": {"program": program.digest, "verilog": verilog},
    }


def record(compiled: Compiled, result: dict[str, Any]) -> None:
    """Keep the result in the compiled folder, with the bitstream's path relative to it."""
    import os

    if compiled.folder is not None:
        compiled.record("synth", result | {"bitstream": os.path.relpath(result["bitstream"], compiled.folder)})
