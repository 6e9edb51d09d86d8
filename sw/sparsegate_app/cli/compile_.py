"""``sparsegate compile``: Verilog, memory images and a manifest for a Program on an array."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    PORTS,
    Array,
    Json,
    OptionalData,
    ProgramPath,
    array_options,
    open_data,
)


@array_options(ARRAY | PORTS)
def compile_(
    *,
    program: ProgramPath,
    array: Array,
    data: OptionalData = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which <name>-<digest>/ is made.")] = Path("build"),
    as_json: Json = False,
) -> None:
    """Compile a Program for an array of processing elements: Verilog, memory images, manifest.

    With [bold]--data[/], the cycle model predicts how long the test sequences take. The folder is addressed by content: the
    same Program and array give the same folder, byte for byte. Compiling again removes the results of golden, simulate and synth
    from it.

    Example: [bold]sparsegate compile build/program.safetensors --rows 8 --groups 1 --data vowels[/]
    """
    from sparsegate_app.stages import compile as stage
    from sparsegate_app.stages.compiled import open_program

    compiled = open_program(program, array)
    dataset = None if data is None else open_data(data, compiled.program.inputs)
    with console.task("compile"):
        made = stage.compile_(compiled, out=out)
    if dataset is not None:
        with console.task("predict cycles"):
            made = stage.predicted(made, dataset.x_test, dataset.length_test, data=dataset.name)
    made.compiled.record(made)
    console.emit(made.as_json(), as_json, "compile", made.rows())
