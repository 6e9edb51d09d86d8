from __future__ import annotations

import numpy as np
import pytest

from sparsegate import timing
from sparsegate_hw.cluster import Cluster
from tests.hw.blocks import simulate, small_layout


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_partial_sums_meet_after_exactly_the_latency(groups: int) -> None:
    layout = small_layout(8, groups)
    rng = np.random.default_rng(groups)
    index = np.zeros((layout.cluster, groups, 2), np.int64)
    weight = rng.integers(-128, 128, index.shape)
    dut = Cluster(layout, index, weight)
    deltas = rng.integers(-200, 200, groups)

    async def testbench(ctx):
        for group in range(groups):
            beat = dut.beat[group]
            ctx.set(beat.valid, 1)
            ctx.set(beat.address, group % 2)
            ctx.set(beat.delta, int(deltas[group]))
            ctx.set(beat.slot, 1)
        await ctx.tick()
        for group in range(groups):
            ctx.set(dut.beat[group].valid, 0)
        await ctx.tick().repeat(timing.MAC)
        ctx.set(dut.read.valid, 1)
        ctx.set(dut.read.address, 0)
        await ctx.tick().repeat(8)
        assert all(ctx.get(value) == 0 for value in dut.value)
        ctx.set(dut.read.address, 1)
        await ctx.tick().repeat(dut.latency - 1)
        assert all(ctx.get(value) == 0 for value in dut.value)
        await ctx.tick()
        partial = np.array(
            [[weight[row, g, g % 2] * deltas[g] for g in range(groups)] for row in range(layout.cluster)]
        )
        assert [ctx.get(value) for value in dut.value] == dut.model(partial).tolist()

    simulate(dut, testbench)
