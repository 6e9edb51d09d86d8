"""``sparsegate patch``: a fine-tuned Program in an existing bitstream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Json


def patch(
    build: Annotated[Path, typer.Argument(metavar="BUILD", help="A folder made by synth: it holds synth.json.")],
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A Program file of the same shape.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The bitstream to write.")],
    as_json: Json = False,
) -> None:
    """Put a Program of the same shape into an existing bitstream, in seconds: nothing is placed or routed.

    Weights, indices, biases, parameters and thresholds may differ. Beside the bitstream, [bold]FILE.safetensors[/] is the
    Program that it runs: the one given, with accumulators as wide as the bitstream's. What was written is checked by
    unpacking it. A Program of another shape or format, or one that needs wider accumulators or biases, is refused.

    Example: [bold]sparsegate patch build/vowels-ulx3s-85f-0123456789ab tuned.safetensors -o tuned.bit[/]
    """
    from sparsegate_app.stages.compiled import open_program
    from sparsegate_hw.synthesis.reprogram import reprogram

    given = open_program(program).program
    with console.task("patch") as task:
        done = reprogram(build, given, out, task.say)
        beside = out.with_name(out.name + ".safetensors")
        done.program.save(beside)
    result = {
        "bitstream": str(done.bitstream),
        "program": str(beside),
        "memories": done.memories,
        "changed": done.changed,
        "seconds": done.seconds,
    }
    table: list[tuple[str, object]] = [
        ("bitstream", result["bitstream"]),
        ("runs", result["program"]),
        ("memory cells", f"{done.memories}, of which {done.changed} changed"),
        ("seconds", f"{done.seconds:.0f}"),
    ]
    console.emit(result, as_json, "patch", table)
