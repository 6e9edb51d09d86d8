"""Cycles, occupancy, clock, area and throughput of whole workloads: ``sparsegate bench``.

A *case* is how many columns move: all of them (which depends on shapes alone), those of real inputs at Θ = 0, or one in ten. The
cycle part takes minutes and gives the same cycles every time; how much of the tools is run beside it is an :class:`Effort`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, estimate, golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_app.bench import cpu, tools
from sparsegate_app.bench.figures import (
    SEED,
    STEPS,
    TENTH,
    beyond,
    counted,
    dense,
    drawn,
    every_step,
    full,
    limits,
    nonzeros,
    overlap,
)
from sparsegate_app.bench.workloads import Work, Workload

DEFINITION = """\
cycles_per_step: cycles from the end of a step to the end of the next, by the cycle model, which RTL is held against
(rtl_mismatches: values, step times and counters that differ). Case nothing_skipped: every column of every matrix is sent at
every step, in the middle of a sequence. real: the inputs named beside it at threshold 0, whole sequences back to back, first
and last steps included. nine_tenths_unchanged: each column moves with probability 1/10, drawn from a seed. latency: cycles from
taking a frame to its last result while the next one is on its way; alone: the same where a frame comes when the one before is
done, as a board's wrapper runs them. nnz, dense_macs: of the layers that run at every step; nnz are the N entries of every real
block and column. occupancy: useful MACs / (PEs x cycles), of the matrix-vector phases and of all cycles; padding and idle rows
are not useful. gops_sparse = 2 nnz / t, gops_dense_equivalent = 2 dense_macs / t, t = us_per_step = cycles_per_step / fmax_mhz,
which is nextpnr's estimate after routing; nothing is measured on a board. group_imbalance: the longest column group's beats
over their mean, both summed over steps. rtl_quieted: RTL with inputs and thresholds of which about a tenth of the columns move;
cycles_counted from its first step's start to its last one's end, in the simulation, beside cycles_predicted;
group_imbalance_counted: of the beats that the dispatchers issued there; longest_beats, longest_beats_counted: beats of each
dispatch's longest group, summed; imbalance_cycles: how many of them are beyond the mean. limits: cycles of a step with nothing
skipped that each part takes at least, bits of nonzeros with their indices and of the memories that hold them, and bytes of a step
through the UART. overlap: nothing skipped, with one bank of accumulators, in which phases wait for the read-out of the
one before, and with more. stretch: the same of arrays that are not built. digests: of the Program, and of its shape alone.
report: of place and route: the longest path, the seed and the router that gave it, MHz of every seed that was tried (null: it
found no placement), the clock that was asked for, seconds of Yosys, nextpnr and packer, and form, the digest of the design
without its memories' contents; form beside report is that of the hardware as it was when the row was written. engine_cells:
Yosys' cells of the engine without UART and packet layer. alternative: the same layer on the CPU that is named."""

HEADLINE = "nothing_skipped"
"""The case whose figures stand for a workload: it depends on shapes alone, so that anybody gets the same cycles."""
QUIET_STEPS = 24
"""Steps of its like that RTL runs."""
QUIET_THETAS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192)

AREA = ("fmax_mhz", "luts", "ffs", "bram", "dsp")
REPORT = ("critical_path", "seed", "tried", "router", "untimed", "frequency_mhz", "stages", "form")
"""What place-and-route said beside clock and area: ns and nets of the longest path, placements and their MHz, the router, cells
without delays in its model, the clock asked for, seconds, and the digest of the design without its memories' contents."""

SIMULATED = ("rtl", "rtl_quieted", "rtl_mismatches")
"""What RTL said of a row."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """What is run beside the cycle model.

    ``rtl``: the first ``frames`` steps and a run of which a tenth of the columns move, Verilated. ``place``: place and route with
    ``seeds`` placements, the workload's own number where None; what it measures becomes a point of the file ``points``, if any.
    ``cpu``: the same layer on the CPU. ``form``: whether what was placed and routed before is what would be placed now.
    """

    frames: int = 6
    seeds: int | None = None
    points: Path | None = None
    rtl: bool = True
    place: bool = True
    cpu: bool = True
    form: bool = True


def quieted(work: Work, config: HardwareConfig, seed: int = SEED) -> tuple[Program, NDArray[np.int64]]:
    """A Program and raw inputs (1, T, I) of which about a tenth of all columns move, in the engine itself.

    Each input takes the value of the next frame with probability 1/10 and else stays as it is; thresholds on all other vectors are
    the ones at which the share of moving columns comes nearest to a tenth. So it stands for ``nine_tenths_unchanged``, whose
    columns are drawn and have no values.
    """
    real = work.raw[0, np.arange(QUIET_STEPS) % int(work.lengths[0])]
    moves = np.random.default_rng(seed).random(real.shape) < TENTH
    moves[0] = True
    last = np.maximum.accumulate(np.where(moves, np.arange(len(real))[:, None], 0))  # step whose value is still there
    raw = np.take_along_axis(real, last, axis=0)[None]

    def from_tenth(program: Program) -> float:
        found = cycles.predict(golden.run(program, raw), Layout(program, config))
        return abs(found.columns_sent / found.columns_seen - TENTH)

    others = len(work.program.thresholds) - 1
    tried = [work.program.with_thresholds(0, *[theta] * others) for theta in QUIET_THETAS] if others else [work.program]
    return min(tried, key=from_tenth), raw


def rtl(work: Work, config: HardwareConfig, frames: int) -> dict[str, Any]:
    """The first frames of the first sequence through the Verilated engine, every value, step and counter compared."""
    return _compared(tools.simulate(work.program, config, work.raw[:1, : min(frames, int(work.lengths[0]))]))


def rtl_quieted(work: Work, config: HardwareConfig) -> dict[str, Any]:
    """The same of a run in which a tenth of the columns move; cycles and imbalance of the column groups, predicted and counted."""
    program, raw = quieted(work, config)
    found = cycles.predict(golden.run(program, raw), Layout(program, config))
    result = tools.simulate(program, config, raw)
    longest, counted = int(found.beats.sum()), result.group_beats
    even = float(longest - found.mean_beats.sum())  # what the longest group has to do beyond the mean
    return _compared(result) | {
        "thresholds": list(program.thresholds),
        "columns_skipped": round(1 - found.columns_sent / found.columns_seen, 5),
        "cycles_predicted": found.total,
        "cycles_counted": int(result.step_end.max() - result.step_start[0, 0]),
        "group_imbalance": round(found.imbalance, 4),
        "group_imbalance_counted": None if counted is None else round(spread(counted), 4),
        "longest_beats": longest,
        "longest_beats_counted": None if counted is None else int(counted.max(axis=1).sum()),
        "imbalance_cycles": round(even, 1),
    }


def spread(beats: NDArray[np.int64]) -> float:
    """Of the beats of every dispatch and column group (D, G): those of each dispatch's longest group over their mean."""
    return float(beats.max(axis=1).sum() / beats.mean(axis=1).sum()) if beats.any() else 1.0


def _compared(result: Any) -> dict[str, Any]:
    return {
        "simulator": result.simulator,
        "steps": result.steps,
        "values_compared": result.values_compared,
        "mismatches": result.mismatches,
        "cycle_mismatches": result.cycle_mismatches,
        "counter_mismatches": len(result.counter_mismatches),
        "cycles": result.cycles,
        "build_seconds": round(result.build_seconds, 1),
    }


def measure(
    workload: Workload, folder: Path, work: Path, effort: Effort, before: Mapping[str, Any] | None, say: Say
) -> dict[str, Any]:
    """One row, of data in ``folder``; networks and bitstreams are kept in ``work``.

    ``before``: the row of an earlier run, or None. Its clock and area stand where the shape and the array are the same and nothing
    is placed anew. What its RTL said stands where none is run, and the Program and the hardware are the same.

    Raises
    ------
    MissingData
        If the data of a workload, or what reads them, are missing.
    SparseGateError
        If it fails otherwise.
    """
    say(f"{workload.name}: network and inputs")
    made = workload.make(folder, work)
    say(f"{workload.name}: cycles")
    row = _of_cycles(workload, made)
    versions: dict[str, str] = {}
    if effort.rtl:
        say(f"{workload.name}: RTL")
        row |= _of_rtl(made, workload.config, effort.frames)
        versions = tools.versions()
    if effort.cpu and workload.alternative is not None:
        say(f"{workload.name}: the same layer on the CPU")
        row["alternative"] = cpu.measure(*workload.alternative)
    area: Mapping[str, Any] = dict.fromkeys(AREA) | {"how": "not placed and routed", "tools": {}}
    if effort.place:
        area = _place(made.program, workload, work, effort, row, say)
    elif before is not None and _same(before, row):
        area = _earlier(made.program, workload, effort, before, row, say)
    known = dict(area["tools"])
    if not effort.rtl and before is not None and _unchanged(before, row):
        row |= {key: before[key] for key in SIMULATED}
        versions = {key: before["tools"][key] for key in ("verilator",) if key in before["tools"]}
    elif not effort.rtl:
        known.pop("verilator", None)
    row |= {key: area[key] for key in AREA} | {"pnr": area["how"], "tools": {**known, **versions}}
    return timed(row)


def _of_cycles(workload: Workload, made: Work) -> dict[str, Any]:
    """A row with all that shapes and the cycle model say, and places for what tools do."""
    program, config = made.program, workload.config
    layout = Layout(program, config)
    phases = every_step(layout)
    return {
        "name": workload.name,
        "about": workload.about,
        "device": workload.device,
        "pes": config.pes,
        "hardware": asdict(config) | {"lanes": layout.lanes},
        "network": made.network,
        "inputs": made.inputs,
        "nnz": sum(nonzeros(phase) for phase in phases),
        "dense_macs": sum(dense(phase) for phase in phases),
        "case": HEADLINE,
        "cases": {
            "nothing_skipped": full(program, layout),
            "real": counted(golden.run(program, made.raw, made.lengths), layout),
            "nine_tenths_unchanged": counted(drawn(program, STEPS, TENTH), layout),
        },
        "limits": limits(layout),
        "overlap": overlap(program, config),
        "stretch": [beyond(program, other, workload.device) for other in workload.stretch],
        "digests": {"program": program.digest, "shape": program.shape_digest},
        "rtl_mismatches": None,
        "rtl": None,
        "rtl_quieted": None,
        "published": [asdict(each) for each in workload.published],
        "alternative": None,
        "report": None,
        "engine_cells": None,
        "form": None,
    }


def _of_rtl(made: Work, config: HardwareConfig, frames: int) -> dict[str, Any]:
    """What RTL said."""
    found, quiet = rtl(made, config, frames), rtl_quieted(made, config)
    differ = [
        each["mismatches"] + (each["cycle_mismatches"] or 0) + each["counter_mismatches"] for each in (found, quiet)
    ]
    return {"rtl": found, "rtl_quieted": quiet, "rtl_mismatches": sum(differ)}


def _place(
    program: Program, workload: Workload, work: Path, effort: Effort, row: dict[str, Any], say: Say
) -> Mapping[str, Any]:
    """Clock and area by place and route; what else it said goes into the row, and a point of the laws into a file."""
    say(f"{workload.name}: place and route")
    area = tools.place(program, workload, work, effort.seeds or workload.seeds, say)
    if effort.points is not None:
        named = replace(program, name=workload.name)
        point = estimate.point(named, workload.config, area, f"sparsegate bench {workload.name}")
        estimate.add_point(effort.points, point)
    row["report"] = {key: area[key] for key in REPORT}
    row["form"] = area["form"]
    if workload.cell:
        say(f"{workload.name}: the engine alone")
        row["engine_cells"] = tools.cells(program, workload, say)
    return area


def _earlier(
    program: Program,
    workload: Workload,
    effort: Effort,
    before: Mapping[str, Any],
    row: dict[str, Any],
    say: Say,
) -> Mapping[str, Any]:
    """Clock and area of an earlier row, with the form that the hardware has now."""
    row |= {key: before.get(key) for key in ("report", "engine_cells", "form")}
    if effort.form and before["fmax_mhz"] is not None:
        say(f"{workload.name}: whether it is what was placed and routed")
        row["form"] = tools.form(program, workload)
    return {key: before[key] for key in AREA} | {"how": before["pnr"], "tools": before["tools"]}


def _unchanged(before: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an earlier row is of the same Program on the same hardware, as far as its digests are known."""
    return (
        _same(before, row)
        and row["form"] is not None
        and before.get("form") == row["form"]
        and before["digests"]["program"] == row["digests"]["program"]
        and before["inputs"] == row["inputs"]
        and all(key in before for key in SIMULATED)
    )


def _same(before: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an earlier row is of the same shape on the same array and device."""
    arrays = [HardwareConfig(**one["hardware"]) for one in (before, row)]  # a field that came later has its default
    return (
        before["device"] == row["device"]
        and arrays[0] == arrays[1]
        and before.get("digests", {}).get("shape") == row["digests"]["shape"]
    )


def timed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with times and throughput of every case, and the headline case's figures at its top."""
    clock = row["fmax_mhz"]
    for case in row["cases"].values():
        time = None if clock is None else case["cycles_per_step"] / clock
        case["us_per_step"] = None if time is None else round(time, 4)
        for key, macs in (("gops_sparse", row["nnz"]), ("gops_dense_equivalent", row["dense_macs"])):
            case[key] = None if time is None else round(2e-3 * macs / time, 2)
    headline = row["cases"][row["case"]]
    keys = ("cycles_per_step", "columns_skipped", "occupancy_matvec", "occupancy_total", "us_per_step")
    row |= {key: headline[key] for key in (*keys, "gops_sparse", "gops_dense_equivalent")}
    row["us_how"] = (
        "no clock: not placed and routed" if clock is None else f"cycles by the cycle model / Fmax: {row['pnr']}"
    )
    if clock is not None and outdated(row):
        row["us_how"] += "; the hardware has changed since, and was not placed and routed again"
    return row


def bounded(row: Mapping[str, Any]) -> bool:
    """Whether the clock is an upper bound, as cells have no delays in nextpnr's model of the device."""
    return bool((row.get("report") or {}).get("untimed"))


def outdated(row: Mapping[str, Any]) -> bool:
    """Whether the design that was placed and routed is another one than would be placed now, as far as that is known."""
    return row.get("form") is not None and (row["report"] or {}).get("form") != row["form"]


def missed(row: Mapping[str, Any]) -> str | None:
    """In words, what clock was asked for and what was reached, where that is less; an earlier record does not know it."""
    asked = (row["report"] or {}).get("frequency_mhz")
    if asked is None or row["fmax_mhz"] >= asked:
        return None
    return f"timing is not met: {row['fmax_mhz']:g} MHz reached, {asked:g} MHz expected"


def merged(before: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> dict[str, Any]:
    """The record: new rows, and those of an earlier record that were not measured again."""
    found = {row["name"]: row for row in (before or {}).get("workloads", [])} | {row["name"]: row for row in rows}
    kept = {key: before[key] for key in ("laws",) if before and key in before}
    return {"definition": DEFINITION, "workloads": [found[name] for name in order if name in found]} | kept


def read(path: Path) -> dict[str, Any] | None:
    """An earlier record; None where there is none.

    Raises
    ------
    SparseGateError
        If the file is none, or a row lacks what another run may take from it.
    """
    if not path.exists():
        return None
    found = artefact.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("workloads"), list):
        raise SparseGateError(f"{path} is no record of 'sparsegate bench'; name another file with --json")
    with artefact.reading(path):
        for row in found["workloads"]:
            if lacking := [key for key in ("name", "device", "pnr", "tools", *AREA) if key not in row]:
                raise SparseGateError(
                    f"row {row.get('name', '')!r} has no {lacking[0]!r}; name another file with --json"
                )
            HardwareConfig(**row["hardware"])
    return found
