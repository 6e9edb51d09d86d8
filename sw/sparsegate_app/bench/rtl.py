"""Speed of RTL simulation: ``python -m sparsegate_app.bench.rtl``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import SparseGateError
from sparsegate.network.synthetic import Shape, network, stimulus
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_hw.engine.engine import Engine
from sparsegate_sim.drive import plan
from sparsegate_sim.scoreboard import Scoreboard
from sparsegate_sim.simulate import TOP, judge, record

DEFINITION = (
    "Clock cycles of one engine (LSTM 16 to 64 at 2:8, linear head, 8 PEs) a second of run time, building excluded; every "
    "simulator runs the same sequences, the fast ones more of them, and every value and cycle is compared."
)
RUNS = (("verilator", True, 256), ("verilator", False, 2), ("icarus", False, 2), ("amaranth", False, 2))
"""Simulator, whether the compiled loop drives it, and sequences: enough for about a second each."""


@dataclass(frozen=True)
class Speed:
    """One line of the comparison; ``ratio`` is to Amaranth's simulator."""

    simulator: str
    driver: str
    cycles: int
    seconds: float
    build_seconds: float
    ratio: float = 0.0

    @property
    def cycles_per_second(self) -> float:
        return self.cycles / self.seconds


def measure(runs: Sequence[tuple[str, bool, int]] = RUNS, steps: int = 16, units: int = 64) -> list[Speed]:
    """Measure every run; raises SparseGateError where a simulation differs from the models."""
    from sparsegate_hw.synthesis.verilog import convert

    inputs = 16
    floats = network(inputs, (Shape("lstm", units, NM(2, 8), NM(2, 8)), Shape("linear", 8)), seed=1)
    program = quantize(floats, np.random.default_rng(1).normal(size=(4, 8, inputs)))
    config = HardwareConfig(rows=8)
    layout = Layout(program, config)
    verilog = convert(Engine(program, config), TOP)
    speeds = []
    for simulator, fast, count in runs:
        raw = stimulus(program.input_format, count, steps, inputs, seed=2)
        trace = golden.run(program, raw)
        component = Engine(program, config) if simulator == "amaranth" else None
        recording, seconds, build_seconds = record(
            component,
            plan(program, raw),
            simulator=simulator,
            verilog=verilog,
            fast=fast if simulator == "verilator" else None,
        )
        result = judge(Scoreboard(trace, layout), recording, cycles.predict(trace, layout), simulator)
        if not result.passed:
            raise SparseGateError(result.summary)
        driver = "compiled C++" if fast else "Python" if simulator == "amaranth" else "cocotb"
        speeds.append(Speed(simulator, driver, recording.cycles, seconds, build_seconds))
    slowest = next((speed for speed in speeds if speed.simulator == "amaranth"), speeds[-1])
    return [Speed(**{**vars(speed), "ratio": speed.cycles_per_second / slowest.cycles_per_second}) for speed in speeds]


def available() -> list[tuple[str, bool, int]]:
    """The runs whose simulators are installed."""
    return [run for run in RUNS if run[0] != "icarus" or shutil.which("iverilog")]


def main() -> None:
    """Print the comparison."""
    print(DEFINITION)
    print(
        f"{'simulator':<10} {'driven by':<13} {'cycles':>9} {'seconds':>8} {'cycles/s':>10} {'ratio':>8} {'build s':>8}"
    )
    for speed in measure(available()):
        print(
            f"{speed.simulator:<10} {speed.driver:<13} {speed.cycles:>9} {speed.seconds:>8.2f}"
            f" {speed.cycles_per_second:>10.0f} {speed.ratio:>8.1f} {speed.build_seconds:>8.1f}"
        )


if __name__ == "__main__":
    main()
