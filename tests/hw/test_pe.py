from __future__ import annotations

import random

import pytest

from sparsegate import timing
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape
from sparsegate_hw.pe import ProcessingElement
from tests.hw.blocks import simulate, small_layout


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("apart", [False, True])
def test_accumulates_and_reads_out(seed: int, apart: bool) -> None:
    layout = small_layout(6, shapes=[Shape("gru", 10, NM(1, 4), NM(2, 4))]) if apart else small_layout()
    rng = random.Random(seed)
    depth = layout.weight_depth
    block = 1 << layout.index_width
    slots = range(layout.acc_depth - block + 1)
    index = [rng.randrange(block) for _ in range(depth)]
    weight = [rng.randint(-128, 127) for _ in range(depth)]
    dut = ProcessingElement(layout, index, weight, apart)
    values = (dut.value, dut.value_apart) if apart else (dut.value,)
    models = [dict.fromkeys(range(layout.acc_depth), 0) for _ in values]

    async def testbench(ctx):
        for _ in range(300):
            valid = rng.random() < 0.8
            which = rng.randrange(len(models))
            # few addresses, so that one accumulator is hit in consecutive cycles
            address, slot, delta = rng.randrange(min(depth, 4)), rng.choice(slots[:2]), rng.randint(-200, 200)
            ctx.set(dut.beat.valid, int(valid))
            ctx.set(dut.beat.address, address)
            ctx.set(dut.beat.slot, slot)
            ctx.set(dut.beat.delta, delta)
            if apart:
                ctx.set(dut.beat.apart, which)
            if valid:
                models[which] = dut.model(models[which], slot, index[address], weight[address], delta)
            await ctx.tick()
        ctx.set(dut.beat.valid, 0)
        # the last beat was set one tick ago; its write ends MAC cycles after it was visible
        for _ in range(timing.MAC):
            await ctx.tick()
        assert all(any(model.values()) for model in models)
        for clear in (0, 1, 0):
            for address in range(layout.acc_depth):
                ctx.set(dut.read.valid, 1)
                ctx.set(dut.read.clear, clear)
                ctx.set(dut.read.address, address)
                await ctx.tick().repeat(timing.READOUT - 1)
                assert [ctx.get(value) for value in values] == [model[address] for model in models]
            if clear:
                models[:] = [dict.fromkeys(model, 0) for model in models]

    simulate(dut, testbench)


def test_a_row_without_sums_apart_takes_every_beat() -> None:
    """In a cluster whose other rows keep sums apart, the beat's flag means nothing to this one."""
    layout = small_layout(6, shapes=[Shape("gru", 10, NM(1, 4), NM(2, 4))])
    dut = ProcessingElement(layout, [0], [3])
    assert not hasattr(dut, "value_apart")

    async def testbench(ctx):
        for apart in (0, 1):
            ctx.set(dut.beat.valid, 1)
            ctx.set(dut.beat.delta, 5)
            ctx.set(dut.beat.apart, apart)
            await ctx.tick()
        ctx.set(dut.beat.valid, 0)
        await ctx.tick().repeat(timing.MAC)
        ctx.set(dut.read.valid, 1)
        await ctx.tick().repeat(timing.READOUT - 1)
        assert ctx.get(dut.value) == 2 * 3 * 5

    simulate(dut, testbench)
