"""Programs of fixed shapes for the simulation tests, and an engine that is not hardware at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.network.synthetic import Shape, network, stimulus
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_sim.drive import LOAD, SAVE, Port, Recording


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
    initial: bool = False

    @property
    def program(self) -> Program:
        floats = network(self.inputs, self.shapes, self.seed, gain=2.0, initial=self.initial)
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
    # an inner vector, two gates counts, states that come in and go out
    "mixed": Case(
        4,
        (Shape("lstm", 9, NM(2, 4), NM(1, 4), outputs=5, pattern_p=NM(1, 2)), Shape("gru_reset_before", 6), HEAD),
        HardwareConfig(8, 2, multiplier=24, states=True),
        initial=True,
    ),
    # both directions of time, each in a pass of its own, and a head that sees the ends of both
    "both": Case(
        3,
        (Shape("gru", 6, NM(1, 3), NM(2, 3), both=True), Shape("linear", 4, when="final")),
        HardwareConfig(6, 1, multiplier=24, states=True, steps=4),
    ),
}


def perfect(trace: golden.Trace, layout: Layout, final: bool = False) -> Recording:
    """What a flawless engine would give, step by step, one event a cycle."""
    events: list[list[int]] = []
    out: list[list[int]] = []
    words: list[list[int]] = []
    start, done = [], []
    cycle = 0
    program = trace.program
    at_end = program.layers[-1].when != "step"
    for n, length in enumerate(trace.lengths):
        frames = []
        for t in range(length):
            if not at_end or t == length - 1:
                last = [0] * (program.outputs - 1) + [int(t == length - 1)]
                frames.append(list(zip(trace.outputs[n, t].tolist(), last, strict=True)))
        for run, this in enumerate(trace.passes):
            for t in range(this.lengths[n]):
                start.append(cycle)
                for number, phase, stream in zip(layout.passes[run].phases, this.phases, this.streams[1:], strict=True):
                    if phase.when != "step" and t < this.lengths[n] - 1:
                        continue
                    table = layout.units(number)
                    for position in range(table.shape[1]):
                        mine = table[:, position]
                        real = sum(1 << lane for lane, unit in enumerate(mine) if unit >= 0)
                        values = [int(stream.values[n, t, unit]) if unit >= 0 else 77 for unit in mine]
                        events.append([cycle, number, position, real, *values])
                        cycle += 1
                if program.streams and (not at_end or t == length - 1):
                    out += [[cycle, *item] for item in frames.pop(0)]
                done.append(cycle)
                cycle += 1
            if final:
                state = {
                    layer: {name: value[n] for name, value in parts.items()} for layer, parts in trace.state.items()
                }
                words += [[cycle, word] for word in layout.pack_state(run, state)]
        for frame in frames:
            out += [[cycle, *item] for item in frame]
    return Recording.from_rows(
        np.array(events, np.int64),
        np.array(out, np.int64),
        np.array(words, np.int64).reshape(-1, 2),
        step_start=np.array(start),
        step_done=np.array(done),
        cycles=cycle,
        accepted=int(trace.lengths.sum()) * program.inputs,
    )


class Adder:
    """Pins of an engine of plain Python: a step takes 2 inputs and gives their sum in the next cycle.

    ``fault`` may change what is read: called with cycle, port and value. From cycle ``stops`` on nothing is taken. With ``states``
    every sequence adds a word of an initial state to its sums, if it is told to load one, and gives its last sum as its final
    state, if it is told to save it.
    """

    def __init__(
        self, fault: Callable[[int, str, int], int] | None = None, stops: int = 1 << 30, states: bool = False
    ) -> None:
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
        if states:
            self.ports |= {
                LOAD: Port(1),
                SAVE: Port(1),
                "state_in__payload": Port(6, True),
                "state_in__valid": Port(1),
                "state_in__ready": Port(1),
                "state_out__payload": Port(10, True),
                "state_out__valid": Port(1),
                "state_out__ready": Port(1),
                "too_long": Port(1),
            }
        self.values = dict.fromkeys(self.ports, 0)
        self._fault, self._stops, self._states = fault, stops, states
        self._taken: list[int] = []
        self._full: tuple[int, int] | None = None
        self._state: int | None = None
        self._saved: int | None = None
        self.cycle = 0
        self._settle()

    def _settle(self) -> None:
        values = self.values
        idle = self._full is None and self._saved is None
        wanted = idle and self._states and values[LOAD] and self._state is None
        values["x__ready"] = int(idle and not wanted and self.cycle < self._stops)
        values["y__valid"] = int(self._full is not None)
        if self._full is not None:
            total, last = self._full
            values["y__payload"] = total & 0x3FF | last << 10
            values["trace__h__0"] = total
        if self._states:
            values["state_in__ready"] = int(wanted)
            values["state_out__valid"] = int(self._saved is not None)
            values["state_out__payload"] = self._saved or 0

    def read(self, name: str) -> int:
        if name == "x__ready":
            self._settle()
        value = self.values[name]
        return value if self._fault is None else self._fault(self.cycle, name, value)

    def write(self, name: str, value: int) -> None:
        self.values[name] = value

    def clock(self) -> None:
        values = self.values
        self._settle()
        values["step_start"] = values["step_done"] = values["trace__valid"] = 0
        if self._saved is not None:
            if values["state_out__ready"]:
                self._saved = None
        elif self._full is not None:
            if values["y__ready"]:
                total, last = self._full
                self._full = None
                if last:
                    self._state = None
                    if self._states and values[SAVE]:
                        self._saved = total
        elif self._states and values["state_in__ready"]:
            if values["state_in__valid"]:
                self._state = Port(6, True).value(values["state_in__payload"])
        elif values["x__valid"] and values["x__ready"]:
            self._taken.append(Port(8, True).value(values["x__payload"]))
            values["step_start"] = int(len(self._taken) == 1)
            if len(self._taken) == 2:
                self._full = (sum(self._taken) + (self._state or 0), values["x__payload"] >> 8)
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
