"""What the block tests share: Programs of a few units, and a clocked simulation in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from sparsegate.array import HardwareConfig, Layout
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import DENSE, NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize


def simulate(component: Any, *testbenches: Callable) -> None:
    """Run testbenches on a component with a clock; all but the last are background."""
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    for testbench in testbenches[:-1]:
        simulator.add_testbench(testbench, background=True)
    simulator.add_testbench(testbenches[-1])
    simulator.run()


def small_program(
    *shapes: Shape, inputs: int = 5, seed: int = 1, gain: float = 3.0, config: QuantizeConfig | None = None
) -> Program:
    """A random Program; by default an LSTM of 10 units in blocks of 4 and a linear head of 3."""
    shapes = shapes or (Shape("lstm", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3, DENSE))
    floats = network(inputs, shapes, seed, gain)
    x = np.random.default_rng(seed).normal(size=(4, 6, inputs))
    return quantize(floats, x, config=config or QuantizeConfig())


def small_layout(
    rows: int = 8,
    groups: int = 1,
    lanes: int | None = None,
    shapes: Sequence[Shape] = (),
    hardware: Mapping[str, Any] | None = None,
    **program: Any,
) -> Layout:
    """Layout of a :func:`small_program`; ``hardware`` are further fields of the configuration."""
    return Layout(small_program(*shapes, **program), HardwareConfig(rows, groups, lanes, **(hardware or {})))


def both_ways(kind: str = "lstm", units: int = 4, *heads: Shape) -> tuple[Shape, ...]:
    """A layer in both directions of time, whose outputs the next one takes together."""
    return (Shape(kind, units, NM(1, 2), NM(1, 2), both=True), *(heads or (Shape("linear", 3),)))
