from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.hw.blocks import both_ways, simulate, small_layout

from sparsegate.array import INPUT, Layout, timing
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.sequencer import Sequencer

MOVE = 7
"""Cycles that the state port takes here."""


def walk(layout: Layout, number: int, last: bool) -> list[tuple[int, ...]]:
    """(phase, address, turn, sub, clear) of every read-out of a phase, by definition.

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
                found.append((number, address, turn, sub))
    final = {row[1]: at for at, row in enumerate(found)}
    return [(*row, int(last and final[row[1]] == at)) for at, row in enumerate(found)]


def runs(layout: Layout, run: int, last: bool) -> list[int]:
    """Phases that a step of a pass runs; a pass of a single step is always its last."""
    return [number for number in layout.passes[run].phases if layout.phases[number].phase.when == "step" or last]


@dataclass
class Seen:
    """A phase of a step on its way: when it is dispatched, read out and done."""

    phase: int
    first: int
    prime: int
    start: int
    late: int
    work: list[int]  # cycles of early and of late columns that are left
    wanted: list[int]
    known: int = -1  # cycle in which the late ones were let through
    opened: int = -1
    idle: int = -1
    reads: list[tuple[int, ...]] = field(default_factory=list)
    when: list[int] = field(default_factory=list)
    released: bool = False


class Watch:
    """Drives the sequencer's surroundings and writes down what it does."""

    def __init__(self, layout: Layout, seed: int, initial: bool = False, final: bool = False) -> None:
        self.layout, self.dut = layout, Sequencer(layout)
        self.rng = random.Random(seed)
        self.given = {"initial": initial, "final": final}
        self.cleared: list[tuple[int, int]] = []
        self.seen: list[Seen] = []
        self.starts: list[int] = []
        self.done: list[tuple[int, int, int]] = []  # cycle, whether an output leaves, whether of a sequence's last step
        self.loads: list[tuple[int, int]] = []
        self.dumps: list[tuple[int, int]] = []

    def run(self, lasts: list[int], gap: int = 0) -> None:
        """Run steps; frames come at once, or up to ``gap`` cycles after the one before was taken."""

        async def testbench(ctx: Any) -> None:
            await self._watch(ctx, lasts, gap)

        simulate(self.dut, testbench)

    async def _watch(self, ctx: Any, lasts: list[int], gap: int) -> None:
        dut, rng, states = self.dut, self.rng, self.layout.config.states
        for name, value in self.given.items() if states else ():
            ctx.set(getattr(dut, name), int(value))
        cycle = moving = quiet = 0
        waits = 0
        while len(self.done) < len(lasts) or quiet < 200:
            quiet = 0 if len(self.done) < len(lasts) else quiet + 1
            more = len(self.starts) < len(lasts)
            ctx.set(dut.frame_ready, int(more and not waits))
            ctx.set(dut.frame_last, lasts[len(self.starts)] if more else 0)
            now = next((one for one in self.seen if one.idle < 0 or one.idle > cycle), None)
            ctx.set(dut.idle, int(now is None and not ctx.get(dut.start)))
            waits = max(0, waits - 1)
            if ctx.get(dut.step_start):
                self.starts.append(cycle)
                waits = rng.randint(0, gap)
            if ctx.get(dut.start):
                assert now is None, "two dispatches at once"
                prime = ctx.get(dut.prime) if states else 0
                work = [rng.choice([0, 0, 3, rng.randint(1, 60)]) for _ in range(2)]
                late = ctx.get(dut.late)
                now = Seen(ctx.get(dut.ahead), ctx.get(dut.ahead_first), prime, cycle, late, work, list(work))
                self.seen.append(now)
            elif now is not None and now.idle < 0:
                assert ctx.get(dut.ahead) == now.phase
            if now is not None:
                if now.known < 0 and ctx.get(dut.known):
                    now.known = cycle
                if now.opened < 0 and ctx.get(dut.open):
                    now.opened = cycle
                if now.opened >= 0 and cycle > now.start:
                    if now.work[0]:
                        now.work[0] -= 1
                    elif now.known >= 0 and now.work[1]:
                        now.work[1] -= 1
                if now.known >= 0 and not any(now.work):
                    now.idle = max(cycle + 1, now.start + self.layout.depths.nothing)
            if ctx.get(dut.release):
                before = [one for one in self.seen if not one.prime][-1]
                assert not before.released
                before.released = True
            if ctx.get(dut.read.valid):
                row = [ctx.get(signal) for signal in (dut.read.address, dut.turn, dut.sub)]
                if ctx.get(dut.clearing):
                    self.cleared.append((row[0], ctx.get(dut.read.clear)))
                else:
                    into = next(one for one in self.seen if not one.prime and len(one.reads) < self._positions(one))
                    into.reads.append((ctx.get(dut.phase), *row, ctx.get(dut.read.clear)))
                    into.when.append(cycle - 1)  # of the decision
            if ctx.get(dut.step_done):
                self.done.append((cycle, ctx.get(dut.output), ctx.get(dut.last)))
            if states:
                for pulse, found in ((dut.load, self.loads), (dut.dump, self.dumps)):
                    if ctx.get(pulse):
                        found.append((cycle, ctx.get(dut.phase)))
                        moving = MOVE
                ctx.set(dut.moved, int(moving == 1))
                moving = max(0, moving - 1)
            await ctx.tick()
            cycle += 1

    def _positions(self, one: Seen) -> int:
        return self.layout.phases[one.phase].positions


SHAPES = {
    "lstm, linear": (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 9)),
    "last": (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 9, when="last")),
    # two and four unit blocks of a cluster share a slot, and one slot is not full
    "packed": (Shape("gru_reset_before", 11, NM(1, 2), NM(1, 2)), Shape("rnn_tanh", 13, NM(1, 4), NM(1, 4))),
    "projection": (Shape("lstm", 9, NM(1, 2), NM(1, 2), outputs=7, pattern_p=NM(1, 4)), Shape("linear", 2)),
    "one after the other": both_ways("lstm", 5),
    "final": both_ways("gru", 3, Shape("linear", 2, when="final")),
}


def plan_of(layout: Layout, rng: random.Random, rounds: int = 2) -> list[tuple[int, int]]:
    """(pass, last) of every step; passes take turns, a sequence each."""
    plan = []
    for _ in range(rounds):
        for run in range(len(layout.passes)):
            single = layout.passes[run].of.when != "step"
            plan += [(run, 0)] * (0 if single else rng.randint(0, 3)) + [(run, 1)]
    return plan


def check(watch: Watch, plan: list[tuple[int, int]]) -> None:
    """Order, addresses, and every cycle against the laws; and that no one ran ahead of what it needs."""
    layout = watch.layout
    assert watch.cleared == [(address, 1) for address in range(layout.acc_depth)]
    expected, first = [], 1
    for step, (run, last) in enumerate(plan):
        numbers = runs(layout, run, bool(last))
        expected += [(step, number, first, last, number == numbers[-1]) for number in numbers]
        first = last
    seen = [one for one in watch.seen if not one.prime]
    assert [one.phase for one in seen] == [number for _, number, *_ in expected]
    over, unread, before = 0, 0, -1  # of the phase before: F + 1, the cycle after its last read-out address, its number
    free = layout.acc_depth
    for one, (step, number, first, last, ends) in zip(seen, expected, strict=True):
        phase = layout.phases[number]
        assert one.first == first
        assert one.reads == walk(layout, number, bool(last))
        # -- what the dispatch waits for
        making = [at for at, x in enumerate(phase.matrices) if x.source == before and (x.now or not first)]
        busy = one.start < over
        assert one.late == int(busy and making == [0])
        assert one.known == (over if busy and making else one.start)
        same = before >= 0 and layout.acc_bank(before) == layout.acc_bank(number)
        if any(one.wanted):
            assert one.opened == (max(one.start, unread) if same else one.start)
        takes_frame = number == runs(layout, layout.phases[number].run, True)[0]
        if takes_frame:
            assert one.start >= max(free, watch.starts[step])
        else:
            assert one.start == free
        # -- the read-out
        handed = max(one.idle, over)
        assert one.when == list(
            range(handed + 1 + layout.depths.drain, handed + 1 + layout.depths.drain + phase.positions)
        )
        unread, before, free = one.when[-1] + 1, number, handed + 1
        over = unread + timing.result_latency(phase.phase.spec, phase.phase.step_bits, 1, layout.depths)
        takers = [
            n for n in runs(layout, phase.run, bool(last)) if any(x.source == INPUT for x in layout.phases[n].matrices)
        ]
        assert one.released == (number == max(takers))
        if ends:
            outputs = number == layout.passes[phase.run].phases[-1]
            assert watch.done[step] == (over - 1, int(outputs), last)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize(("rows", "lanes", "gap"), [(4, 1, 0), (8, 1, 60), (8, 2, 0), (24, 2, 0)])
def test_phases_addresses_and_cycles_of_every_step(shapes: tuple[Shape, ...], rows: int, lanes: int, gap: int) -> None:
    layout = small_layout(rows, 1, lanes, shapes, {"cluster": 4})
    plan = plan_of(layout, random.Random(rows + lanes), 3)
    watch = Watch(layout, rows)
    watch.run([last for _, last in plan], gap)
    check(watch, plan)


def test_a_pass_of_three_phases_has_three_banks() -> None:
    shapes = (Shape("lstm", 5), Shape("gru", 3), Shape("linear", 4))
    layout = small_layout(4, 1, 1, shapes)
    assert [layout.acc_bank(number) for number in range(3)] == [0, 1, 2]
    plan = [(0, int(at % 4 == 3)) for at in range(8)]
    watch = Watch(layout, 5)
    watch.run([last for _, last in plan])
    check(watch, plan)
    # no dispatch ever waited for a bank
    assert all(one.opened == one.start for one in watch.seen if any(one.wanted))


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
    plan = plan_of(layout, random.Random(3))
    watch = Watch(layout, 4, initial, final)
    watch.run([last for _, last in plan])
    check(watch, plan)
    holders = {n for n, phase in enumerate(layout.phases) if phase.loads}
    loads, dumps, primes, first = [], [], [], 1
    for run, last in plan:
        phases = layout.passes[run].phases
        loads += [n for n in phases if n in holders and first and initial]
        primes += [n for n in phases if first and initial]
        dumps += [n for n in phases if n in holders and last and final]
        first = last
    assert [phase for _, phase in watch.loads] == loads
    assert [phase for _, phase in watch.dumps] == dumps
    assert [one.phase for one in watch.seen if one.prime] == primes
    # a sequence begins when the one before is over, and its state given
    ends = [(cycle, step) for step, (cycle, _, last) in enumerate(watch.done) if last]
    for cycle, step in ends[:-1]:
        given = [at for at, _ in watch.dumps if cycle < at < watch.starts[step + 1]]
        assert watch.starts[step + 1] >= max([cycle + 1, *(at + MOVE for at in given)])
        assert len(given) == (sum(n in holders for n in layout.passes[plan[step][0]].phases) if final else 0)
