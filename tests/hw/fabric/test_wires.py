"""What cells are wired with."""

from __future__ import annotations

import random

import numpy as np
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.hw.blocks import simulate

from sparsegate_hw.fabric.wires import choose, extended, pins, shifted_sum, word_bits


class Wires(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"a": In(signed(4)), "at": In(2), "sum": Out(8), "wide": Out(signed(7)), "chosen": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = [self.at, self.at, self.at]
        m.d.comb += [
            self.sum.eq(shifted_sum(rows)),
            self.wide.eq(extended(self.a, 7)),
            self.chosen.eq(choose([self.a, self.at, ~self.a], self.at)),
        ]
        return m


def test_sums_choices_and_signs() -> None:
    dut = Wires()

    async def testbench(ctx) -> None:
        for a in range(-8, 8):
            for at in range(3):
                ctx.set(dut.a, a)
                ctx.set(dut.at, at)
                assert ctx.get(dut.sum) == at + 2 * at + 4 * at
                assert ctx.get(dut.wide) == a
                assert ctx.get(dut.chosen) == [a & 15, at, ~a & 15][at]
                await ctx.tick()

    class Clocked(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"o": Out(1)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.dut = dut
            m.d.sync += self.o.eq(~self.o)
            return m

    simulate(Clocked(), testbench)


def test_the_only_value_needs_no_choice() -> None:
    one = Signal(3)
    assert choose([one], Signal(2)) is one
    assert set(pins("i_A", one)) == {"i_A0", "i_A1", "i_A2"}


def test_bits_of_words() -> None:
    rng = random.Random(1)
    words = [rng.getrandbits(19) for _ in range(5)]
    found = word_bits(words, 19, 8)
    assert found.shape == (8, 19)
    assert [int(sum(int(bit) << at for at, bit in enumerate(row))) for row in found] == [*words, 0, 0, 0]
    assert found.dtype == np.uint8
