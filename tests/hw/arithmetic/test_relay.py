from __future__ import annotations

import random

import pytest
from tests.hw.blocks import simulate

from sparsegate_hw.arithmetic.relay import Relay


@pytest.mark.parametrize("coming", [1.0, 0.5])
@pytest.mark.parametrize("ready", [1.0, 0.5])
def test_items_pass_in_order(coming: float, ready: float) -> None:
    dut = Relay(7)
    rng = random.Random(7)
    items = [rng.randrange(128) for _ in range(200)]
    got: list[int] = []
    cycles = 0

    async def sink(ctx):
        while True:
            ctx.set(dut.o.ready, int(rng.random() < ready))
            _, _, valid, take, value = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
            if valid and take:
                got.append(value)

    async def testbench(ctx):
        nonlocal cycles
        for item in items:
            while rng.random() >= coming:
                ctx.set(dut.i.valid, 0)
                await ctx.tick()
            ctx.set(dut.i.payload, item)
            ctx.set(dut.i.valid, 1)
            taken = 0
            while not taken:
                # a register: what comes in this cycle does not change it
                before = ctx.get(dut.i.ready)
                _, _, taken = await ctx.tick().sample(dut.i.ready)
                assert taken == before
                cycles += 1
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(10)

    simulate(dut, sink, testbench)
    assert got == items
    if ready == 1:
        assert cycles == len(items)
