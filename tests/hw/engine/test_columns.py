from __future__ import annotations

import random

import pytest
from tests.hw.blocks import simulate, small_layout

from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.columns import ColumnList, input_list, lane_lists


@pytest.mark.parametrize(("late", "steady"), [(False, False), (True, False), (True, True)])
def test_sections_fill_empty_and_read_independently(late: bool, steady: bool) -> None:
    depths = [3, 0, 5]
    dut = ColumnList(depths, places=6, delta_width=7, late=late, steady=steady)
    assert dut.bases == [0, 3, 3]
    rng = random.Random(7)
    model: list[list[tuple[int, int]]] = [[] for _ in depths]

    async def testbench(ctx):
        section = 0
        for _ in range(200):
            before, section = section, rng.choice([0, 2])
            push = rng.random() < 0.7 and len(model[section]) < depths[section]
            clear = rng.random() < 0.1
            victim = rng.choice([s for s in range(3) if s != section])
            place, delta = rng.randrange(6), rng.randint(-64, 63)
            ctx.set(dut.push.section, section)
            if steady and before != section:
                await ctx.tick()
            ctx.set(dut.push.valid, int(push))
            ctx.set(dut.push.entry, {"place": place, "delta": delta})
            ctx.set(dut.clear.valid, int(clear))
            ctx.set(dut.clear.section, victim)
            await ctx.tick()
            ctx.set(dut.push.valid, 0)
            ctx.set(dut.clear.valid, 0)
            if push:
                model[section] = dut.model(model[section], place, delta)
            if clear:
                model[victim] = []
            if steady:
                await ctx.tick()
            assert [ctx.get(count) for count in dut.read.counts] == [len(entries) for entries in model]
            assert [ctx.get(some) for some in dut.read.some] == [int(bool(entries)) for entries in model]
            if late:
                await ctx.tick()
            for base, entries in zip(dut.bases, model, strict=True):
                for offset, entry in enumerate(entries):
                    ctx.set(dut.read.address, base + offset)
                    await ctx.tick()
                    assert (ctx.get(dut.read.entry.place), ctx.get(dut.read.entry.delta)) == entry

    simulate(dut, testbench)


def test_the_lists_of_a_group_lie_alike() -> None:
    """One address reads the lists of all lanes, though some lanes have fewer columns."""
    layout = small_layout(16, 2, 4, (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("gru", 3)), {"cluster": 4})
    for group in range(2):
        lists = lane_lists(layout, group)
        assert len(lists) == 4
        assert not any(columns.late or columns.steady for columns in lists)
        assert {tuple(columns.bases) for columns in lists} == {tuple(lists[0].bases)}
        for lane, columns in enumerate(lists):
            ends = [*columns.bases[1:], columns.depth]
            for phase, (base, end) in enumerate(zip(columns.bases, ends, strict=True)):
                assert end - base >= layout.bank_depth(phase, group, lane)


@pytest.mark.parametrize("deep", [False, True])
def test_lists_are_written_late_where_they_are_read_late(deep: bool) -> None:
    layout = small_layout(4, 1, 1, (Shape("lstm", 6, NM(1, 4), NM(1, 4)),), {"deep": deep})
    inputs, lane = input_list(layout, 0), lane_lists(layout, 0)[0]
    assert [inputs.late, lane.late, lane.steady] == [deep] * 3
    assert not inputs.steady
