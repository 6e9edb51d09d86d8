"""The board top under cocotb, spoken to through its UART pins only, by the real host code."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_hw.board.board import Board
from sparsegate_hw.engine.engine import Engine
from sparsegate_sim import blocks
from sparsegate_sim.serial import Line
from tests.sim.test_runner import SIMULATORS

CLOCK, BAUD = 4_000_000, 1_000_000


def test_a_line_hears_what_it_sends() -> None:
    line = Line(5)
    data = bytes(range(0, 256, 7))
    line.send(data[:20])
    line.send(data[20:], pause=2)
    for _ in range(5 * 13 * len(data)):
        line.observe(line.drive())
    assert bytes(line.bytes) == data
    assert line.idle
    assert line.broken == 0
    # a line that stays low holds no byte
    for _ in range(5 * 12):
        line.observe(0)
    assert (bytes(line.bytes), line.broken) == (data, 1)


def converse(simulator: str, noise: float, when: str, folder) -> tuple[dict, golden.Trace]:
    shapes = [synthetic.Shape("lstm", 4, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2, when=when)]
    program = quantize(synthetic.network(3, shapes, 0), np.random.default_rng(0).normal(size=(4, 6, 3)))
    raw = synthetic.stimulus(program.input_format, 2, 3, 3, seed=1)
    lengths = np.array([3, 2])
    program.save(folder / "program.safetensors")
    np.savez(folder / "data.npz", raw=raw, lengths=lengths)
    board = Board(Engine(program, HardwareConfig(rows=4)), program, CLOCK, BAUD, timeout_s=500e-6)
    parameters = {
        "program": str(folder / "program.safetensors"),
        "data": str(folder / "data.npz"),
        "divisor": board.divisor,
        "noise": noise,
        "seed": 3,
        "thresholds": [1, 0, 0],
        "timeout": 20.0,
    }
    got = blocks.run(board, "sparsegate_sim.benches.board", parameters, simulator=simulator, folder=folder)
    return got, golden.run(program, raw, lengths, (1, 0, 0), saturations=True)


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_the_host_runs_sequences_through_the_pins(simulator: str, tmp_path) -> None:
    got, trace = converse(simulator, 0.0, "step", tmp_path)
    assert (got["steps"], got["values_compared"], got["mismatches"], got["retries"]) == (5, 10, 0, 0)
    assert got["counters"]["steps"] == 5
    for layer, sites in trace.saturations.items():
        for site, count in sites.items():
            assert got["counters"][f"saturations.{layer}.{site}"] == count
    assert min(cycles for row in got["cycles"] for cycles in row if cycles >= 0) > 0


@pytest.mark.verilator
@pytest.mark.slow
def test_a_noisy_line_costs_retries_and_nothing_else(tmp_path) -> None:
    got, _ = converse("verilator", 0.02, "step", tmp_path)
    assert got["damaged"] > 0
    assert got["retries"] > 0
    assert got["mismatches"] == 0
    assert got["values_compared"] == 10
