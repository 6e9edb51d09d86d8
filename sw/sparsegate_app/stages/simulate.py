"""Simulation: the engine's RTL against the golden model and the cycle model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sparsegate import golden
from sparsegate.array import HardwareConfig, cycles
from sparsegate.extras import named
from sparsegate.network import lengths_of
from sparsegate_app.stages.compiled import Source, compiled_of
from sparsegate_app.stages.golden import Columns
from sparsegate_app.stages.result import Result, Rows

if TYPE_CHECKING:
    from sparsegate_sim.simulate import SimulationResult


@dataclass(frozen=True)
class Rtl:
    """What was run and compared; ``first_mismatch`` is None where all values are equal, ``cycle_mismatches`` with stalls."""

    simulator: str
    sequences: int
    steps: int
    values_compared: int
    mismatches: int
    first_mismatch: str | None
    cycle_mismatches: int | None
    counter_mismatches: tuple[str, ...]
    seconds: float
    build_seconds: float
    cycles_per_second: int

    @classmethod
    def of(cls, outcome: SimulationResult) -> Rtl:
        return cls(
            simulator=outcome.simulator,
            sequences=outcome.sequences,
            steps=outcome.steps,
            values_compared=outcome.values_compared,
            mismatches=outcome.mismatches,
            first_mismatch=outcome.first_mismatch,
            cycle_mismatches=outcome.cycle_mismatches,
            counter_mismatches=tuple(outcome.counter_mismatches),
            seconds=round(outcome.seconds, 3),
            build_seconds=round(outcome.build_seconds, 3),
            cycles_per_second=round(outcome.cycles / max(outcome.seconds, 1e-9)),
        )


@dataclass(frozen=True)
class Counted:
    """Cycles of the whole run by the cycle model and in RTL; the mean of a step, and the longest from frame to last result."""

    predicted: int
    counted: int
    step_mean: float
    step_longest: int


@dataclass(frozen=True)
class Occupancy:
    """Useful MACs over what all PEs could do in the matrix-vector phases, and in all cycles."""

    matvec: float
    total: float


@dataclass(frozen=True, repr=False)
class Simulation(Result):
    """A simulation held against the models; ``said`` says in a sentence how many values are equal, or which differs first."""

    passed: bool
    said: str = field(metadata={"json": "summary"})
    data: str
    digests: Mapping[str, str | None]
    thresholds: tuple[int, ...]
    inputs: int
    inputs_saturated: int
    rtl: Rtl
    cycles: Counted
    occupancy: Occupancy
    columns: Columns

    @property
    def stage(self) -> str:
        return f"simulate-{self.rtl.simulator}"

    @property
    def sentence(self) -> str:
        return self.said

    def rows(self) -> Rows:
        rtl, counted = self.rtl, self.cycles
        stalls = "" if rtl.cycle_mismatches is not None else " (with stalls)"
        rows: Rows = [
            ("steps", f"{rtl.steps} in {rtl.sequences} sequences"),
            ("values compared", rtl.values_compared),
            ("values that differ", rtl.mismatches),
            ("cycles predicted", counted.predicted),
            ("cycles counted", f"{counted.counted}{stalls}"),
            ("occupancy, matrix-vector and total", f"{self.occupancy.matvec:.1%}, {self.occupancy.total:.1%}"),
            ("columns skipped", f"{self.columns.skipped} of {self.columns.seen}"),
            ("cycles a second", rtl.cycles_per_second),
        ]
        if self.inputs_saturated:
            rows.append(("inputs outside the calibrated range", f"{self.inputs_saturated} of {self.inputs}"))
        return rows


def simulate(
    source: Source,
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    simulator: str = "verilator",
    thresholds: Sequence[int] | None = None,
    stalls: int | None = None,
    waves: str | Path | None = None,
    config: HardwareConfig | None = None,
    data: str = "arrays",
) -> Simulation:
    """Stream real sequences ``x`` (N, T, I) of ``lengths`` (N,) steps through the engine, and compare all that it gives.

    Of a compiled folder the very file that is there is run. ``simulator``, ``stalls`` and ``waves`` are those of
    ``sparsegate_sim.simulate.simulate``; ``thresholds``: Θ of each of ``program.vectors``, the Program's own where omitted.
    """
    compiled = compiled_of(source, config)
    program, config, layout, x = compiled.program, compiled.config, compiled.layout, np.asarray(x)
    lengths = lengths_of(x.shape, lengths, program.inputs)
    thresholds = tuple(program.thresholds if thresholds is None else thresholds)
    raw = program.quantize(x)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    verilog = None if compiled.folder is None else (compiled.folder / "engine.v").read_text(encoding="utf-8")
    with named("sim"):
        from sparsegate_sim.simulate import simulate as run

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
            layout=layout,
        )
    trace = golden.run(program, raw, lengths, thresholds)
    counted, occupancy, columns = _counted(outcome, cycles.predict(trace, layout, config.states), config)
    return Simulation(
        passed=outcome.passed,
        said=outcome.summary,
        data=data,
        digests={
            "program": program.digest,
            "verilog": None if verilog is None else hashlib.sha256(verilog.encode()).hexdigest(),
        },
        thresholds=thresholds,
        inputs=int(valid.sum()) * program.inputs,
        inputs_saturated=program.input_format.saturated(x[valid]),
        rtl=Rtl.of(outcome),
        cycles=counted,
        occupancy=occupancy,
        columns=columns,
    )


def _counted(
    outcome: SimulationResult, predicted: cycles.Cycles, config: HardwareConfig
) -> tuple[Counted, Occupancy, Columns]:
    """What a run took, beside what the cycle model says."""
    counted = outcome.cycles_counted
    seen, sent = outcome.counters["columns_seen"], outcome.counters["columns_sent"]
    busy = (outcome.step_end - outcome.step_start)[outcome.step_end >= 0]
    return (
        Counted(predicted.total, counted, counted / len(busy), int(busy.max())),
        # the work is the golden model's, the cycles are those that were counted
        Occupancy(predicted.occupancy_matvec, predicted.useful_macs / (config.pes * counted)),
        Columns(seen, seen - sent),
    )
