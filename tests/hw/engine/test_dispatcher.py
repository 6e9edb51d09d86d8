from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.hw.blocks import both_ways, simulate, small_layout

from sparsegate.array import INPUT, Layout
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.columns import input_list, lane_lists
from sparsegate_hw.engine.dispatcher import Dispatcher


class Bench(wiring.Component):
    """A dispatcher with its lists, as the engine wires them."""

    def __init__(self, layout: Layout, group: int) -> None:
        self.input, self.lists = input_list(layout, group), lane_lists(layout, group)
        self.dut = Dispatcher(layout, group, self.input, self.lists)
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut, m.submodules.input = self.dut, self.input
        sides = [(self.dut.input, self.input)]
        for lane, columns in enumerate(self.lists):
            m.submodules[f"list_{lane}"] = columns
            sides.append((getattr(self.dut, f"lane_{lane}"), columns))
        for side, columns in sides:
            wiring.connect(m, side, columns.read)
        return m


SHAPES = {
    "lstm, linear": (Shape("lstm", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)),
    # only the GRU sums apart
    "gru, lstm": (Shape("gru", 10, NM(1, 4), NM(2, 4)), Shape("lstm", 4)),
    # the second matrix of its second phase multiplies what the first phase gives in the same step
    "gru_reset_before": (Shape("gru_reset_before", 6, NM(1, 2), NM(1, 2)), Shape("lstm", 4)),
    "projection": (Shape("lstm", 7, NM(1, 2), NM(1, 2), outputs=4), Shape("linear", 2, when="last")),
    "both ways": both_ways("lstm", 5),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize(("rows", "groups", "lanes"), [(4, 1, 1), (8, 2, 2), (16, 3, 2)])
@pytest.mark.parametrize(("density", "states"), [(0.0, False), (0.3, True), (1.0, False)])
@pytest.mark.parametrize("deep", [False, True])
def test_beats_of_every_listed_column_without_a_bubble(
    shapes: tuple[Shape, ...], rows: int, groups: int, lanes: int, density: float, states: bool, deep: bool
) -> None:
    layout = small_layout(rows, groups, lanes, shapes, {"cluster": 4, "states": states, "deep": deep})
    rng = random.Random(rows * groups)
    for group in range(groups):
        bench = Bench(layout, group)
        dut = bench.dut
        listed: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (source phase or INPUT, bank)

        async def push(ctx, columns, section, place, delta):
            ctx.set(columns.push.section, section)
            if columns.steady:
                await ctx.tick()
            ctx.set(columns.push.valid, 1)
            ctx.set(columns.push.entry, {"place": place, "delta": delta})
            await ctx.tick()
            ctx.set(columns.push.valid, 0)

        async def run(ctx, early, late, swapped, dut=dut):
            """Dispatch once, with beats (address, delta, slot, apart) of the early columns and the late ones.

            The late ones are known, and beats are let through, at once or at some cycle.
            """
            known, opened = (rng.choice([0, 0, 1, 2, 3, rng.randint(4, 40)]) for _ in range(2))
            cycle = 0
            ctx.set(dut.start, 1)
            ctx.set(dut.late, int(swapped))
            beats, columns, when = [], 0, []
            while True:
                ctx.set(dut.known, int(cycle >= known))
                ctx.set(dut.open, int(cycle >= opened))
                columns += ctx.get(dut.issued)
                if ctx.get(dut.beat.valid):
                    when.append(cycle)
                    beat = dut.beat
                    apart = ctx.get(beat.apart) if layout.apart_rows else 0
                    beats.append((ctx.get(beat.address), ctx.get(beat.delta), ctx.get(beat.slot), apart))
                assert cycle < 5000, "a dispatch does not end"
                if cycle and ctx.get(dut.idle):
                    break
                await ctx.tick()
                # only ``start`` counts
                ctx.set(dut.start, 0)
                ctx.set(dut.late, rng.randrange(2))
                cycle += 1
            flat = [[beat for column in part for beat in column] for part in (early, late)]
            assert beats == flat[0] + flat[1]
            assert columns == len(early) + len(late)
            begin = max(layout.depths.dispatch, opened + 1)
            expected = list(range(begin, begin + len(flat[0])))
            begin = max(known + layout.depths.dispatch, opened + 1, *(last + 1 for last in expected[-1:]))
            expected += range(begin, begin + len(flat[1]))
            assert when == expected
            assert cycle == max(
                known + layout.depths.nothing - layout.depths.hand, *(last + 1 for last in expected[-1:]), 0
            )

        def column_beats(phase, matrix, group=group, listed=listed):
            entries = matrix.term.matrix.entries
            apart = int(bool(phase.phase.apart) and matrix is phase.matrices[-1])
            for bank in range(1 if matrix.source == INPUT else layout.lanes):
                for place, delta in listed.get((matrix.source, bank), []):
                    base = matrix.bases[group][bank] + place * matrix.burst
                    yield [
                        (
                            base + beat,
                            delta << matrix.term.shift,
                            phase.acc_base + beat // entries * phase.phase.block,
                            apart,
                        )
                        for beat in range(matrix.burst)
                    ]

        async def dispatch(ctx, number, taken, dut=dut, run=run, column_beats=column_beats):
            """A phase whose first matrix is the late one, or not."""
            phase, swapped = layout.phases[number], rng.random() < 0.5
            ctx.set(dut.phase, number)
            parts = [
                [beats for matrix in pair if matrix in taken for beats in column_beats(phase, matrix)]
                for pair in (phase.matrices[:1], phase.matrices[1:])
            ]
            await run(ctx, *(parts[::-1] if swapped else parts), swapped)

        async def testbench(ctx, bench=bench, dut=dut, group=group, push=push, dispatch=dispatch, listed=listed):
            for source in range(INPUT, len(layout.phases)):
                for bank in range(1 if source == INPUT else layout.lanes):
                    depth = layout.input_depth(group) if source == INPUT else layout.bank_depth(source, group, bank)
                    for place in range(depth):
                        if rng.random() < density:
                            delta = rng.randint(-255, 255)
                            listed.setdefault((source, bank), []).append((place, delta))
                            columns = bench.input if source == INPUT else bench.lists[bank]
                            # the input's second bank is the one in use; the first holds nothing
                            await push(ctx, columns, 1 if source == INPUT else source, place, delta)
            for _ in range(layout.depths.known):
                await ctx.tick()
            ctx.set(dut.bank, 1)
            for first in (1, 0):
                ctx.set(dut.first, first)
                for number, phase in enumerate(layout.phases):
                    # a vector of the step before does not exist in the first one
                    await dispatch(ctx, number, [x for x in phase.matrices if x.source < number or not first])
            if states:
                ctx.set(dut.prime, 1)
                for number, phase in enumerate(layout.phases):
                    ctx.set(dut.first, 1)
                    await dispatch(ctx, number, [matrix for matrix in phase.matrices if matrix.carried])

        simulate(bench, testbench)


def test_only_states_are_carried_into_a_sequence() -> None:
    """What a loaded state sends: h to its own layer and, at once, to the next; neither q, nor m, nor a head's values at the end."""
    shapes = (
        Shape("gru_reset_before", 6, NM(1, 2), NM(1, 2)),
        Shape("lstm", 7, NM(1, 2), NM(1, 2), outputs=4),
        Shape("linear", 3),
        Shape("linear", 2, when="last"),
    )
    layout = small_layout(8, shapes=shapes)
    carried = [[(matrix.term.column, matrix.carried) for matrix in phase.matrices] for phase in layout.phases]
    assert carried == [
        [("x", False), ("h", True)],
        [("x", False), ("q", False)],
        [("x", True), ("h", True)],
        [("m", False)],
        [("x", True)],
        [("x", False)],
    ]
    last = small_layout(6, shapes=(Shape("gru", 6), Shape("linear", 2, when="last")))
    assert [matrix.carried for matrix in last.phases[1].matrices] == [False]
