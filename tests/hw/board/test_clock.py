"""The engine's clock: oscillator or PLL, and how long the engine stays in reset."""

from __future__ import annotations

import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from tests.hw.blocks import simulate

from sparsegate_hw.board.clock import Clock, power_up
from sparsegate_hw.synthesis import boards


class Blink(Elaboratable):
    """A counter that runs on the clock."""

    def __init__(self, clock_hz):
        self.clock_hz = clock_hz

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.clock = Clock(self.clock_hz)
        count = Signal(4)
        m.d.sync += count.eq(count + 1)
        return m


def design(board, clock_hz):
    return boards.target(board).platform().prepare(Blink(clock_hz), "top", emit_src=False).files["top.il"]


@pytest.mark.parametrize(
    ("board", "own_hz", "clock_hz", "pll"),
    [
        ("ulx3s-85f", 25_000_000, 80_000_000, "EHXPLLL"),
        ("icebreaker", 12_000_000, 20_250_000, "SB_PLL40_PAD"),
        ("tang-primer-20k", 27_000_000, 54_000_000, "rPLL"),
    ],
)
def test_a_pll_where_the_frequency_is_not_the_boards_own(board, own_hz, clock_hz, pll):
    assert design(board, clock_hz).count(f"cell \\{pll} ") == 1
    assert f"cell \\{pll} " not in design(board, own_hz)


def test_an_ice40s_pll_takes_the_clock_at_its_pin():
    assert "clock_buffer" not in design("icebreaker", 20_250_000)
    assert "clock_buffer" in design("icebreaker", 12_000_000)
    assert "clock_buffer" in design("ulx3s-85f", 80_000_000)


def test_only_an_ice40_waits_for_its_block_rams():
    assert "power_up" in design("icebreaker", 20_250_000)
    assert "power_up" in design("icebreaker", 12_000_000)
    assert "power_up" not in design("ulx3s-85f", 80_000_000)
    assert "power_up" not in design("tang-primer-20k", 54_000_000)


def test_the_time_after_configuration():
    """15 µs at 2 MHz are 30 cycles."""

    class Wait(wiring.Component):
        def __init__(self):
            super().__init__({"o": Out(1)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(power_up(m, 15e-6, 2_000_000, "sync"))
            return m

    dut, found = Wait(), []

    async def testbench(ctx):
        for _ in range(40):
            found.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, testbench)
    assert found == [1] * 30 + [0] * 10
