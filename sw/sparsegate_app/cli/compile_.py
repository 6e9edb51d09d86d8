"""``sparsegate compile``: Verilog, memory images and a manifest for a Program on an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    MANIFEST,
    PORTS,
    PROGRAM_FILE,
    Array,
    Compiled,
    Json,
    OptionalData,
    ProgramPath,
    array_options,
    open_data,
    open_program,
)

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset


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
    compiled = open_program(program, array)
    dataset = None if data is None else open_data(data, compiled.program.inputs)
    with console.task("compile"):
        made, result = build(compiled, out)
    if dataset is not None:
        with console.task("predict cycles"):
            result["prediction"] = predict(made, dataset)
    made.record("compile", result)
    config = made.config
    table: list[tuple[str, object]] = [
        ("folder", result["folder"]),
        ("processing elements", f"{config.rows} rows x {config.groups} groups = {config.pes}"),
    ]
    table += [(f"idle share of the array in {layer}", f"{share:.1%}") for layer, share in result["idle_share"].items()]
    if dataset is not None:
        p = result["prediction"]
        table += [
            ("predicted cycles", f"{p['cycles']} for {p['steps']} steps of {p['sequences']} sequences"),
            ("cycles a step", f"{p['cycles_per_step']:.1f}, from the end of a step to the end of the next"),
            ("longest latency", f"{p['longest_step']} cycles, from taking a frame to its last result"),
            (
                "occupancy, matrix-vector and total",
                f"{100 * p['occupancy_matvec']:.1f} %, {100 * p['occupancy_total']:.1f} %",
            ),
        ]
    console.emit(result, as_json, "compile", table)


def build(compiled: Compiled, out: Path) -> tuple[Compiled, dict[str, Any]]:
    """Emit ``out/<name>-<digest>/``; where it is there already it keeps its bytes, and loses what later stages found."""
    from sparsegate_app import report
    from sparsegate_hw.synthesis import emit

    folder = emit.build_folder(compiled.program, compiled.config, out)
    manifest = emit.emit(compiled.program, compiled.config, folder)
    report.clear(folder)
    layers = manifest.content["layout"]["layers"]
    result = {
        "folder": str(folder),
        "pes": compiled.config.pes,
        "idle_share": {layer["name"]: layer["idle_share"] for layer in layers},
        "memory_bits": manifest.content["layout"]["memory_bits"],
        "files": sorted((*manifest.content["files"], PROGRAM_FILE, MANIFEST)),
        "digests": manifest.content["digests"],
    }
    return Compiled(compiled.program, compiled.config, folder), result


def predict(compiled: Compiled, dataset: Dataset) -> dict[str, Any]:
    """Cycles of the whole test part, streamed back to back."""
    from sparsegate import golden
    from sparsegate.array import Layout, cycles

    program = compiled.program
    run = golden.run(program, program.quantize(dataset.x_test), dataset.length_test)
    count = cycles.predict(run, Layout(program, compiled.config))
    busy = count.busy[count.end >= 0]
    return {
        "data": dataset.name,
        "sequences": len(dataset.length_test),
        "steps": int(dataset.length_test.sum()),
        "cycles": count.total,
        "cycles_per_step": count.total / count.steps,
        "longest_step": int(busy.max()),
        "occupancy_matvec": count.occupancy_matvec,
        "occupancy_total": count.occupancy_total,
        "columns_seen": count.columns_seen,
        "columns_sent": count.columns_sent,
    }
