from __future__ import annotations

import random

import pytest

from sparsegate import timing
from sparsegate_hw.pe import ProcessingElement
from tests.hw.blocks import simulate, small_layout


@pytest.mark.parametrize("seed", range(3))
def test_accumulates_and_reads_out(seed: int) -> None:
    layout = small_layout()
    rng = random.Random(seed)
    depth = layout.weight_depth
    block = 1 << layout.index_width
    slots = range(layout.acc_depth - block + 1)
    index = [rng.randrange(block) for _ in range(depth)]
    weight = [rng.randint(-128, 127) for _ in range(depth)]
    dut = ProcessingElement(layout, index, weight)
    expected: dict[int, int] = {}

    async def testbench(ctx):
        model = dict.fromkeys(range(layout.acc_depth), 0)
        for _ in range(300):
            valid = rng.random() < 0.8
            # few addresses, so that one accumulator is hit in consecutive cycles
            address, slot, delta = rng.randrange(min(depth, 4)), rng.choice(slots[:2]), rng.randint(-200, 200)
            ctx.set(dut.beat.valid, int(valid))
            ctx.set(dut.beat.address, address)
            ctx.set(dut.beat.slot, slot)
            ctx.set(dut.beat.delta, delta)
            if valid:
                model = dut.model(model, slot, index[address], weight[address], delta)
            await ctx.tick()
        ctx.set(dut.beat.valid, 0)
        # the last beat was set one tick ago; its write ends MAC cycles after it was visible
        for _ in range(timing.MAC):
            await ctx.tick()
        expected.update(model)
        for clear in (0, 1, 0):
            for address in range(layout.acc_depth):
                ctx.set(dut.read.valid, 1)
                ctx.set(dut.read.clear, clear)
                ctx.set(dut.read.address, address)
                await ctx.tick().repeat(timing.READOUT - 1)
                assert ctx.get(dut.value) == model[address]
            if clear:
                model = dict.fromkeys(model, 0)

    simulate(dut, testbench)
    assert any(expected.values())
