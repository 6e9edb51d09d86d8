from __future__ import annotations

import numpy as np
import pytest
from tests.hw.blocks import simulate, small_layout

from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.cluster import Cluster

LSTM = (Shape("lstm", 10, NM(1, 4), NM(2, 4)),)
GRU = (Shape("gru", 10, NM(1, 4), NM(2, 4)),)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("shapes", "cluster", "rows_apart"), [(LSTM, 4, ()), (GRU, 3, (2,)), (GRU, 6, (2, 5)), (GRU, 4, (2,))]
)
def test_partial_sums_meet_after_exactly_the_latency(
    shapes: tuple[Shape, ...], cluster: int, rows_apart: tuple[int, ...], groups: int, deep: bool
) -> None:
    layout = small_layout(2 * cluster, groups, shapes=shapes, hardware={"cluster": cluster, "deep": deep})
    assert layout.apart_rows == rows_apart
    rng = np.random.default_rng(groups)
    index = np.zeros((layout.cluster, groups, 2), np.int64)
    weight = rng.integers(-128, 128, index.shape)
    dut = Cluster(layout, index, weight)
    apart = list(dut.apart) if rows_apart else []
    deltas = rng.integers(-200, 200, (2, groups))

    async def testbench(ctx):
        for later in (0, 1):
            for group in range(groups):
                beat = dut.beat[group]
                ctx.set(beat.valid, 1)
                ctx.set(beat.address, group % 2)
                ctx.set(beat.delta, int(deltas[later, group]))
                ctx.set(beat.slot, 1)
                if rows_apart:
                    ctx.set(beat.apart, later)
            await ctx.tick()
            for group in range(groups):
                ctx.set(dut.beat[group].valid, 0)
            for _ in range(layout.loop_distance - 1):
                await ctx.tick()
        await ctx.tick().repeat(layout.depths.mac - 1)
        ctx.set(dut.read.valid, 1)
        ctx.set(dut.read.address, 0)
        await ctx.tick().repeat(dut.latency)
        assert all(ctx.get(value) == 0 for value in [*dut.value, *apart])
        ctx.set(dut.read.address, 1)
        await ctx.tick().repeat(dut.latency - 1)
        assert all(ctx.get(value) == 0 for value in [*dut.value, *apart])
        await ctx.tick()
        partial = np.array(
            [
                [[weight[row, g, g % 2] * deltas[later, g] for g in range(groups)] for row in range(layout.cluster)]
                for later in (0, 1)
            ]
        )
        first, second = (dut.model(part) for part in partial)
        # a row without a second accumulator adds both to its only one
        together = np.array([row not in rows_apart for row in range(layout.cluster)])
        assert [ctx.get(value) for value in dut.value] == (first + second * together).tolist()
        assert [ctx.get(value) for value in apart] == second[list(rows_apart)].tolist()

    simulate(dut, testbench)
