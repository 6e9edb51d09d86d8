from __future__ import annotations

import random

from sparsegate_hw.columns import ColumnList
from tests.hw.blocks import simulate


def test_sections_fill_empty_and_read_independently() -> None:
    depths = [3, 0, 5]
    dut = ColumnList(depths, places=6, delta_width=7)
    assert dut.bases == [0, 3, 3]
    rng = random.Random(7)
    model: list[list[tuple[int, int]]] = [[] for _ in depths]

    async def testbench(ctx):
        for _ in range(400):
            section = rng.choice([0, 2])
            push = rng.random() < 0.7 and len(model[section]) < depths[section]
            clear = rng.random() < 0.1
            victim = rng.choice([s for s in range(3) if s != section])
            place, delta = rng.randrange(6), rng.randint(-64, 63)
            ctx.set(dut.push.valid, int(push))
            ctx.set(dut.push.section, section)
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
            assert [ctx.get(count) for count in dut.counts] == [len(entries) for entries in model]
            for section, entries in enumerate(model):
                for offset, (place, delta) in enumerate(entries):
                    ctx.set(dut.read.address, dut.bases[section] + offset)
                    assert (ctx.get(dut.read.entry.place), ctx.get(dut.read.entry.delta)) == (place, delta)

    simulate(dut, testbench)
