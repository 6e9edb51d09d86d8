from __future__ import annotations

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.hw.blocks import simulate

from sparsegate.numerics import fixed
from sparsegate.numerics.fixed import QFormat
from sparsegate_hw.arithmetic.fixed import round_shift, saturate


class Narrow(wiring.Component):
    def __init__(self, width: int, shift: int, target: QFormat, symmetric: bool) -> None:
        self.shift, self.target, self.symmetric = shift, target, symmetric
        super().__init__({"i": In(signed(width)), "o": Out(signed(target.width)), "clipped": Out(1)})

    def elaborate(self, platform):
        m = Module()
        value, flag = saturate(round_shift(self.i, self.shift), self.target, self.symmetric)
        m.d.comb += [self.o.eq(value), self.clipped.eq(flag)]
        m.d.sync += Signal().eq(0)  # gives the simulator its clock
        return m


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 2, 5])
@pytest.mark.parametrize("target_width", [2, 4, 7, 8, 12])
def test_every_value_narrows_as_the_integer_model_says(shift: int, target_width: int, symmetric: bool) -> None:
    source, target = QFormat(7, 0), QFormat(target_width, 0)
    dut = Narrow(source.width, shift, target, symmetric)

    async def testbench(ctx):
        for raw in range(source.min, source.max + 1):
            ctx.set(dut.i, raw)
            rounded = fixed.round_shift(raw, shift)
            expected = fixed.saturate(rounded, target, symmetric)
            assert ctx.get(dut.o) == expected
            assert ctx.get(dut.clipped) == (expected != rounded)

    simulate(dut, testbench)
