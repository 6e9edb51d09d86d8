"""``sparsegate simulate``: the engine's RTL against the golden model and the cycle model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    ARRAY,
    PORTS,
    Array,
    Compiled,
    Data,
    Json,
    ProgramPath,
    Thresholds,
    array_options,
    chosen_thresholds,
    open_data,
    open_program,
)

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset


class Simulator(StrEnum):
    """Simulators that run the engine."""

    verilator = "verilator"
    icarus = "icarus"
    amaranth = "amaranth"


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
    compiled = open_program(program, array)
    dataset = open_data(data, compiled.program.inputs)
    thresholds = chosen_thresholds(compiled.program, threshold)
    with console.task(f"simulate {min(sequences, len(dataset.length_test))} sequences with {simulator.value}"):
        result = compare(
            compiled, dataset, sequences, simulator.value, thresholds=thresholds, stalls=stalls, waves=waves
        )
    if threshold is None and stalls is None:
        compiled.record(f"simulate-{simulator.value}", result)
    rtl, counted = result["rtl"], result["cycles"]
    table: list[tuple[str, object]] = [
        ("steps", f"{rtl['steps']} in {rtl['sequences']} sequences"),
        ("values compared", rtl["values_compared"]),
        ("values that differ", rtl["mismatches"]),
        ("cycles predicted", counted["predicted"]),
        ("cycles counted", counted["counted"] if stalls is None else f"{counted['counted']} (with stalls)"),
        ("occupancy, matrix-vector and total", "{matvec:.1%}, {total:.1%}".format(**result["occupancy"])),
        ("columns skipped", f"{result['columns']['skipped']} of {result['columns']['seen']}"),
        ("cycles a second", f"{rtl['cycles_per_second']:.0f}"),
    ]
    if result.get("inputs_saturated"):
        table.append(("inputs outside the calibrated range", f"{result['inputs_saturated']} of {result['inputs']}"))
    console.emit(result, as_json, "simulation", table)
    if not result["passed"]:
        console.error(result["summary"])
        raise typer.Exit(1)


def compare(
    compiled: Compiled,
    dataset: Dataset,
    sequences: int,
    simulator: str,
    *,
    thresholds: tuple[int, ...] | None = None,
    stalls: int | None = None,
    waves: Path | None = None,
) -> dict[str, Any]:
    """Stream the first test sequences through the engine; the stage's result."""
    import hashlib

    import numpy as np

    from sparsegate import golden
    from sparsegate.array import Layout, cycles
    from sparsegate_sim.simulate import simulate as run

    program, config = compiled.program, compiled.config
    x, lengths = dataset.x_test[:sequences], dataset.length_test[:sequences]
    raw = program.quantize(x)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    # of a compiled folder, the very file that is there
    verilog = None if compiled.folder is None else (compiled.folder / "engine.v").read_text(encoding="utf-8")
    outcome = run(
        program,
        config,
        raw,
        lengths,
        simulator=simulator,
        thresholds=thresholds,
        stalls=stalls,
        waves=waves,
        verilog=verilog,
    )
    count = cycles.predict(golden.run(program, raw, lengths, thresholds), Layout(program, config), config.states)
    counted = outcome.cycles_counted
    seen, sent = outcome.counters["columns_seen"], outcome.counters["columns_sent"]
    busy = (outcome.step_end - outcome.step_start)[outcome.step_end >= 0]
    return {
        "passed": outcome.passed,
        "summary": outcome.summary,
        "data": dataset.name,
        "digests": {
            "program": program.digest,
            "verilog": None if verilog is None else hashlib.sha256(verilog.encode()).hexdigest(),
        },
        "thresholds": list(program.thresholds if thresholds is None else thresholds),
        "inputs": int(valid.sum()) * program.inputs,
        "inputs_saturated": program.input_format.saturated(x[valid]),
        "rtl": {
            "simulator": outcome.simulator,
            "sequences": outcome.sequences,
            "steps": outcome.steps,
            "values_compared": outcome.values_compared,
            "mismatches": outcome.mismatches,
            "first_mismatch": outcome.first_mismatch,
            "cycle_mismatches": outcome.cycle_mismatches,
            "counter_mismatches": outcome.counter_mismatches,
            "seconds": round(outcome.seconds, 3),
            "build_seconds": round(outcome.build_seconds, 3),
            "cycles_per_second": round(outcome.cycles / max(outcome.seconds, 1e-9)),
        },
        "cycles": {
            "predicted": count.total,
            "counted": counted,
            "step_mean": counted / len(busy),
            "step_longest": int(busy.max()),
        },
        "occupancy": {
            "matvec": count.occupancy_matvec,
            # the work is the golden model's, the cycles are those that were counted
            "total": count.useful_macs / (config.pes * counted),
        },
        "columns": {"seen": seen, "skipped": seen - sent},
    }
