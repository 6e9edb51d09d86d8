from __future__ import annotations

import random
from typing import Any

import pytest

from sparsegate import timing
from sparsegate.layout import INPUT, Layout
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape
from sparsegate_hw.sequencer import Sequencer
from tests.hw.blocks import both_ways, simulate, small_layout

BUSY = 5
"""Cycles that every dispatch takes here."""
MOVE = 7
"""Cycles that the state port takes here."""


def walk(layout: Layout, number: int, last: bool) -> list[tuple[int, ...]]:
    """(phase, address, turn, sub, position, clear) of every read-out of a phase, by definition.

    Unit block of the cluster, then index in the block, then cluster of the lane; an address is cleared when it is read for the
    last time in a sequence.
    """
    phase = layout.phases[number]
    block = phase.phase.block
    found = []
    for of_cluster in range(phase.unit_blocks):
        slot, sub = divmod(of_cluster, phase.packed)
        for index in range(block):
            for turn in range(layout.lane_clusters):
                address = phase.acc_base + slot * block + index
                found.append((number, address, turn, sub, phase.position_base + len(found)))
    final = {row[1]: at for at, row in enumerate(found)}
    return [(*row, int(last and final[row[1]] == at)) for at, row in enumerate(found)]


def runs(layout: Layout, run: int, last: bool) -> list[int]:
    """Phases that a step of a pass runs; a pass of a single step is always its last."""
    return [number for number in layout.passes[run].phases if layout.phases[number].phase.when == "step" or last]


class Watch:
    """Drives the sequencer's surroundings and writes down what it does, one entry a step."""

    def __init__(self, layout: Layout, initial: bool = False, final: bool = False) -> None:
        self.layout, self.dut = layout, Sequencer(layout)
        self.given = {"initial": initial, "final": final}
        self.cleared: list[tuple[int, int]] = []
        self.steps: list[dict[str, Any]] = []

    async def dispatchers(self, ctx: Any) -> None:
        since = 0
        while True:
            _, _, run = await ctx.tick().sample(self.dut.run)
            since = since + 1 if run else 0
            ctx.set(self.dut.idle, int(since == BUSY - 1))

    async def state_port(self, ctx: Any) -> None:
        since = 0
        while True:
            _, _, load, dump = await ctx.tick().sample(self.dut.load, self.dut.dump)
            since = 1 if load or dump else (since + 1 if since else 0)
            ctx.set(self.dut.moved, int(since == MOVE))
            since = 0 if since == MOVE else since

    def run(self, lasts: list[int]) -> None:
        async def testbench(ctx: Any) -> None:
            dut = self.dut
            states = self.layout.config.states
            ctx.set(dut.frame_ready, 1)
            for name, value in self.given.items() if states else ():
                ctx.set(getattr(dut, name), int(value))
            for last in lasts:
                ctx.set(dut.frame_last, last)
                step: dict[str, Any] = {"reads": [], "cycles": 0, "releases": [], "primes": [], "begins": []}
                step |= {"loads": [], "loading": 0}
                await self._step(ctx, step, dut.step_done)
                self.steps.append(step)
                if states and last:
                    step |= {"dumps": [], "after": 0}
                    ctx.set(dut.frame_ready, 0)
                    for _ in range(2 + (MOVE + 2) * len(self.layout.phases)):
                        if ctx.get(dut.dump):
                            step["dumps"].append(ctx.get(dut.phase))
                        step["after"] += ctx.get(dut.dumping)
                        await ctx.tick()
                    ctx.set(dut.frame_ready, 1)

        benches = [self.dispatchers, *([self.state_port] if self.layout.config.states else []), testbench]
        simulate(self.dut, *benches)

    async def _step(self, ctx: Any, step: dict[str, Any], done: Any) -> None:
        dut = self.dut
        prime = 0
        while True:
            phase, running = ctx.get(dut.phase), ctx.get(dut.run)
            if ctx.get(dut.step_start):
                step["cycles"] = 0
            if ctx.get(dut.read.valid):
                row = [ctx.get(signal) for signal in (dut.read.address, dut.turn, dut.sub, dut.position)]
                if ctx.get(dut.clearing):
                    self.cleared.append((row[0], ctx.get(dut.read.clear)))
                else:
                    step["reads"].append((phase, *row, ctx.get(dut.read.clear)))
            if ctx.get(dut.release):
                step["releases"].append(phase)
            if self.layout.config.states:
                if ctx.get(dut.prime) and running and not prime:
                    step["primes"].append(phase)
                prime = ctx.get(dut.prime)
                if ctx.get(dut.load):
                    step["loads"].append(phase)
                step["loading"] += ctx.get(dut.loading)
            if ctx.get(done):
                step |= {"first": ctx.get(dut.first), "last": ctx.get(dut.last), "output": ctx.get(dut.output)}
                await ctx.tick()
                return
            await ctx.tick()
            step["cycles"] += 1


SHAPES = {
    "lstm, linear": (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 9)),
    "last": (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 9, when="last")),
    # two and four unit blocks of a cluster share a slot, and one slot is not full
    "packed": (Shape("gru_reset_before", 11, NM(1, 2), NM(1, 2)), Shape("rnn_tanh", 13, NM(1, 4), NM(1, 4))),
    "projection": (Shape("lstm", 9, NM(1, 2), NM(1, 2), outputs=7, pattern_p=NM(1, 4)), Shape("linear", 2)),
    "one after the other": both_ways("lstm", 5),
    "final": both_ways("gru", 3, Shape("linear", 2, when="final")),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize(("rows", "lanes"), [(4, 1), (8, 1), (8, 2), (24, 2)])
def test_phases_addresses_and_cycles_of_every_step(shapes: tuple[Shape, ...], rows: int, lanes: int) -> None:
    layout = small_layout(rows, 1, lanes, shapes, {"cluster": 4})
    rng = random.Random(rows)
    plan = []  # (pass, last) of every step; passes take turns, a sequence each
    for _ in range(2):
        for run in range(len(layout.passes)):
            single = layout.passes[run].of.when != "step"
            plan += [(run, 0)] * (0 if single else rng.randint(0, 2)) + [(run, 1)]
    watch = Watch(layout)
    watch.run([last for _, last in plan])
    assert watch.cleared == [(address, 1) for address in range(layout.acc_depth)]
    first = 1
    for (run, last), step in zip(plan, watch.steps, strict=True):
        numbers = runs(layout, run, bool(last))
        assert (step["first"], step["last"]) == (first, last)
        first = last
        assert step["output"] == (layout.passes[run].phases[-1] in numbers)
        assert step["reads"] == [row for number in numbers for row in walk(layout, number, bool(last))]
        cycles = 0
        for number in numbers:
            phase = layout.phases[number]
            cycles += BUSY + timing.DRAIN + phase.positions
            cycles += timing.result_latency(phase.phase.spec, phase.phase.step_bits, 1)
        assert step["cycles"] == cycles
        # the input's bank is given back once, after the last phase that multiplies it
        takers = [n for n in numbers if any(matrix.source == INPUT for matrix in layout.phases[n].matrices)]
        assert step["releases"] == [max(takers)]


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES["last"],
        SHAPES["packed"],
        SHAPES["projection"],
        SHAPES["one after the other"],
        (Shape("gru", 4), Shape("linear", 3), Shape("lstm", 5)),
    ],
)
def test_states_are_taken_primed_and_given_phase_by_phase(
    shapes: tuple[Shape, ...], initial: bool, final: bool
) -> None:
    layout = small_layout(8, 1, 2, shapes, {"cluster": 4, "states": True})
    plan = [(run, last) for run in range(len(layout.passes)) for last in (0, 1)] * 2
    plan = [(run, last) for run, last in plan if last or layout.passes[run].of.when == "step"]
    watch = Watch(layout, initial, final)
    watch.run([last for _, last in plan])
    for (run, last), step in zip(plan, watch.steps, strict=True):
        phases = list(layout.passes[run].phases)
        holders = [number for number in phases if layout.phases[number].loads]
        opens = initial and step["first"] == 1
        assert step["loads"] == (holders if opens else [])
        assert step["primes"] == (phases if opens else [])
        if opens:  # a cycle of every phase, and the port's time where there is something to take
            assert step["loading"] == len(phases) + MOVE * len(holders)
        assert step["reads"] == [
            row for number in runs(layout, run, bool(last)) for row in walk(layout, number, bool(last))
        ]
        if last:
            assert step["dumps"] == (holders if final else [])
            assert step["after"] == (len(phases) + MOVE * len(holders) if final else 0)
