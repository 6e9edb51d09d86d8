"""The tools that a benchmark runs on a workload: synthesis, place and route, simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.array import HardwareConfig
from sparsegate.program import Program
from sparsegate_app.bench.workloads import Workload
from sparsegate_hw.synthesis import plan, synth
from sparsegate_sim import simulate as simulation
from sparsegate_sim.simulate import SimulationResult
from sparsegate_sim.tools import verilator

Say = Callable[[str], None]


def place(program: Program, workload: Workload, work: Path, seeds: int, say: Say) -> Mapping[str, Any]:
    """What synthesis measured of a Program on a workload's device, from an earlier run in ``work`` where there is one."""
    result = synth.synthesize(
        program,
        workload.config,
        device=workload.device,
        folder=work,
        frequency_hz=workload.hertz,
        attempts=1,
        seeds=seeds,
        progress=say,
    )
    return result.as_json()


def pack(program: Program, config: HardwareConfig, workload: Workload, say: Say) -> Mapping[str, Any]:
    """What a Program takes of a workload's device on any array, packed and not placed."""
    return synth.pack(program, config, device=workload.device, frequency_hz=workload.hertz, progress=say)


def cells(program: Program, workload: Workload, say: Say) -> dict[str, int]:
    """Yosys' cells of a Program's engine alone, by type."""
    return dict(synth.engine_cells(program, workload.config, workload.device, say))


def form(program: Program, workload: Workload) -> str:
    """Digest of the design that would be placed, without its memories' contents."""
    return plan.form_digest(program, workload.config, device=workload.device, frequency_hz=workload.hertz)


def simulate(program: Program, config: HardwareConfig, raw: NDArray[np.int64]) -> SimulationResult:
    """Raw sequences (N, T, I) through the Verilated engine, every value, step and counter compared."""
    return simulation.simulate(program, config, raw)


def versions() -> dict[str, str]:
    """Version of what simulates the RTL."""
    return {"verilator": verilator().release}
