from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.layout import Layout
from sparsegate_hw.columns import ColumnList
from sparsegate_hw.dispatcher import Dispatcher
from tests.hw.blocks import simulate, small_layout


class Bench(wiring.Component):
    """A dispatcher with its lists, as the engine wires them."""

    def __init__(self, layout: Layout, group: int) -> None:
        depth = max(1, layout.bank_depth(0, group, 0))
        self.input = ColumnList([depth, depth], depth, layout.delta_width)
        self.lists = []
        for lane in range(layout.lanes):
            depths = [
                layout.bank_depth(v, group, lane) if layout.consumed[v] else 0 for v in range(1, len(layout.phases) + 1)
            ]
            self.lists.append(ColumnList(depths, max(1, *depths), layout.delta_width))
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
            m.d.comb += [columns.read.address.eq(side.address), side.entry.eq(columns.read.entry)]
            m.d.comb += [into.eq(value) for into, value in zip(side.counts, columns.counts, strict=True)]
        return m


@pytest.mark.parametrize(("rows", "groups", "lanes"), [(4, 1, 1), (8, 1, 2), (8, 2, 2), (16, 3, 2)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_beats_of_every_listed_column_without_a_bubble(rows: int, groups: int, lanes: int, density: float) -> None:
    layout = small_layout(rows, groups, lanes)
    rng = random.Random(rows * groups)
    for group in range(groups):
        bench = Bench(layout, group)
        dut = bench.dut

        async def push(ctx, columns, section, place, delta):
            ctx.set(columns.push.valid, 1)
            ctx.set(columns.push.section, section)
            ctx.set(columns.push.entry, {"place": place, "delta": delta})
            await ctx.tick()
            ctx.set(columns.push.valid, 0)

        async def testbench(ctx, bench=bench, dut=dut, group=group, push=push):
            listed: dict[tuple[int, int], list[tuple[int, int]]] = {}
            for vector in range(len(layout.phases) + 1):
                for bank in range(layout.banks(vector)):
                    if not layout.consumed[vector]:
                        continue
                    for place in range(layout.bank_depth(vector, group, bank)):
                        if rng.random() < density:
                            delta = rng.randint(-255, 255)
                            listed.setdefault((vector, bank), []).append((place, delta))
                            columns = bench.input if vector == 0 else bench.lists[bank]
                            # the input's second bank is the one in use; the first holds nothing
                            await push(ctx, columns, 1 if vector == 0 else vector - 1, place, delta)
            ctx.set(dut.bank, 1)
            for first in (1, 0):
                for number, phase in enumerate(layout.phases):
                    expected = []
                    issued = 0
                    for matrix in phase.matrices:
                        if first and matrix.vector == number + 1:
                            continue
                        for bank in range(layout.banks(matrix.vector)):
                            for place, delta in listed.get((matrix.vector, bank), []):
                                base = matrix.bases[group][bank] + place * matrix.burst
                                issued += 1
                                for beat in range(matrix.burst):
                                    slot = phase.acc_base + beat // matrix.matrix.entries * phase.layer.block
                                    expected.append((base + beat, delta << matrix.shift, slot))
                    ctx.set(dut.phase, number)
                    ctx.set(dut.first, first)
                    await ctx.tick()
                    ctx.set(dut.run, 1)
                    beats, columns, cycle, when = [], 0, 0, []
                    while True:
                        idle = ctx.get(dut.idle)
                        columns += ctx.get(dut.issued)
                        if ctx.get(dut.beat.valid):
                            when.append(cycle)
                            beats.append((ctx.get(dut.beat.address), ctx.get(dut.beat.delta), ctx.get(dut.beat.slot)))
                        if idle:
                            break
                        await ctx.tick()
                        cycle += 1
                    ctx.set(dut.run, 0)
                    await ctx.tick()
                    assert beats == expected
                    assert columns == issued
                    assert when == list(range(timing.DISPATCH, timing.DISPATCH + len(expected)))
                    assert cycle == (timing.DISPATCH + len(expected) if expected else 0)

        simulate(bench, testbench)
