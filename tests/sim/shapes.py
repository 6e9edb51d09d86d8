"""Programs of fixed shapes for the simulation tests, and an engine that is not hardware at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.synthetic import Shape, network, stimulus
from sparsegate_sim.drive import Port, Recording


@dataclass(frozen=True)
class Case:
    """A network's shape, bits, an array, and how much to run on it."""

    inputs: int
    shapes: tuple[Shape, ...]
    config: HardwareConfig
    bits: int = 8
    weight_bits: int = 8
    threshold: int = 0
    steps: int = 4
    seed: int = 1

    @property
    def program(self) -> Program:
        floats = network(self.inputs, self.shapes, self.seed, gain=2.0)
        x = np.random.default_rng(self.seed).normal(size=(4, 5, self.inputs))
        config = QuantizeConfig(activation_bits=self.bits, weight_bits=self.weight_bits, threshold=self.threshold)
        return quantize(floats, x, config=config)

    def data(self, program: Program, count: int = 2) -> tuple[NDArray, NDArray]:
        """Raw sequences of different lengths, some values held from step to step."""
        lengths = np.array([self.steps - n % self.steps for n in range(count)])
        return stimulus(program.input_format, count, self.steps, self.inputs, self.seed), lengths


HEAD = Shape("linear", 3)

FIXED = {
    # hidden size no multiple of the block, different densities, N > 1, two groups
    "ragged": Case(5, (Shape("lstm", 10, NM(1, 4), NM(2, 4)), HEAD), HardwareConfig(8, 2)),
    # one slot a PE, one lane for two clusters, a head that runs at the end only
    "one-slot": Case(
        7, (Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("linear", 2, when="last")), HardwareConfig(8, 3, lanes=1)
    ),
    # dense everywhere, narrow numbers
    "dense": Case(6, (Shape("lstm", 9), HEAD), HardwareConfig(4, 1), bits=4, weight_bits=4),
    # two recurrent layers of different patterns, wide numbers
    "stacked": Case(
        4,
        (Shape("lstm", 12, NM(1, 2), NM(1, 4)), Shape("lstm", 6, NM(2, 3), NM(1, 3)), HEAD),
        HardwareConfig(8, 1, multiplier=40),
        bits=12,
        weight_bits=10,
    ),
}


def layout_units(program: Program, config: HardwareConfig) -> list[NDArray]:
    """The scoreboard's units of every layer."""
    layout = Layout(program, config)
    return [layout.units(number) for number in range(len(program.layers))]


def perfect(trace: golden.Trace, units: list[NDArray]) -> Recording:
    """What a flawless engine would give, step by step, one event a cycle."""
    events: list[list[int]] = []
    out: list[list[int]] = []
    start, done = [], []
    lanes = units[0].shape[0]
    cycle = 0
    for n, length in enumerate(trace.lengths):
        for t in range(length):
            start.append(cycle)
            for number, table in enumerate(units):
                layer = trace.program.layers[number]
                if layer.when == "last" and t < length - 1:
                    continue
                for position in range(table.shape[1]):
                    mine = table[:, position]
                    real = sum(1 << lane for lane in range(lanes) if mine[lane] >= 0)
                    values = [int(trace.layers[number][n, t, unit]) if unit >= 0 else 77 for unit in mine]
                    events.append([cycle, number, position, real, *values])
                    cycle += 1
                if number == len(units) - 1:
                    frame = trace.outputs[n, t].tolist()
                    last = [0] * (len(frame) - 1) + [int(t == length - 1)]
                    out += [[cycle, value, flag] for value, flag in zip(frame, last, strict=True)]
            done.append(cycle)
            cycle += 1
    flat, frames = np.array(events, np.int64), np.array(out, np.int64)
    return Recording(
        trace_cycle=flat[:, 0],
        trace_layer=flat[:, 1],
        trace_position=flat[:, 2],
        trace_real=flat[:, 3].astype(np.uint64),
        trace_h=flat[:, 4:],
        y_cycle=frames[:, 0],
        y_data=frames[:, 1],
        y_last=frames[:, 2].astype(bool),
        step_start=np.array(start),
        step_done=np.array(done),
        cycles=cycle,
        accepted=int(trace.lengths.sum()) * trace.program.inputs,
    )


class Adder:
    """Pins of an engine of plain Python: a step takes 2 inputs and gives their sum in the next cycle.

    ``fault`` may change what is read: called with cycle, port and value. From cycle ``stops`` on nothing is taken.
    """

    def __init__(self, fault: Callable[[int, str, int], int] | None = None, stops: int = 1 << 30) -> None:
        self.ports: dict[str, Port] = {
            "x__payload": Port(9),
            "x__valid": Port(1),
            "x__ready": Port(1),
            "y__payload": Port(11),
            "y__valid": Port(1),
            "y__ready": Port(1),
            "threshold__0": Port(16),
            "counters__steps": Port(32),
            "step_start": Port(1),
            "step_done": Port(1),
            "trace__valid": Port(1),
            "trace__layer": Port(1),
            "trace__position": Port(1),
            "trace__real": Port(1),
            "trace__h__0": Port(10, True),
        }
        self.values = dict.fromkeys(self.ports, 0)
        self._fault, self._stops = fault, stops
        self._taken: list[int] = []
        self._full: tuple[int, int] | None = None
        self.cycle = 0
        self._settle()

    def _settle(self) -> None:
        values = self.values
        values["x__ready"] = int(self._full is None and self.cycle < self._stops)
        values["y__valid"] = int(self._full is not None)
        if self._full is not None:
            total, last = self._full
            values["y__payload"] = total & 0x3FF | last << 10
            values["trace__h__0"] = total

    def read(self, name: str) -> int:
        value = self.values[name]
        return value if self._fault is None else self._fault(self.cycle, name, value)

    def write(self, name: str, value: int) -> None:
        self.values[name] = value

    def clock(self) -> None:
        values = self.values
        values["step_start"] = values["step_done"] = values["trace__valid"] = 0
        if self._full is not None and values["y__ready"]:
            self._full = None
        elif values["x__valid"] and values["x__ready"]:
            self._taken.append(Port(8, True).value(values["x__payload"]))
            values["step_start"] = int(len(self._taken) == 1)
            if len(self._taken) == 2:
                self._full = (sum(self._taken), values["x__payload"] >> 8)
                self._taken = []
                values["trace__valid"] = values["trace__real"] = values["step_done"] = 1
                values["counters__steps"] += 1
        self.cycle += 1
        self._settle()


def played(driver: Any, engine: Adder) -> Recording:
    """Run a driver on an engine of plain Python."""
    driver.reset()
    while not driver.done:
        driver.before()
        driver.after()
        engine.clock()
    return driver.finish()
