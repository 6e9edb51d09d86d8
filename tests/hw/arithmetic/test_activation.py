from __future__ import annotations

import pytest
from tests.hw.blocks import simulate

from sparsegate.array import timing
from sparsegate.numerics.fixed import QFormat
from sparsegate.numerics.tables import ActivationTable
from sparsegate_hw.arithmetic.activation import ActivationLookup


@pytest.mark.parametrize("depths", [timing.SHALLOW, timing.DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
@pytest.mark.parametrize(
    ("source", "target", "step"),
    [("s8f4", "s6f4", 0), ("s10f6", "s10f8", 0), ("s11f7", "s16f14", 4), ("s6f2", "s18f16", 1)],
)
def test_every_input_gives_the_table_after_exactly_the_latency(
    function: str, source: str, target: str, step: int, depths: timing.Depths
) -> None:
    table = ActivationTable(function, QFormat.parse(source), QFormat.parse(target), step)
    dut = ActivationLookup(table, depths)
    inputs = list(range(-table.source.max, table.source.max + 1))
    outputs = []

    async def testbench(ctx):
        for raw in inputs + [0] * dut.latency:
            ctx.set(dut.i, raw)
            outputs.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, testbench)
    assert outputs[dut.latency :] == [int(dut.model(raw)) for raw in inputs]
