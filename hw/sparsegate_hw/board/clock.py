"""The engine's clock on a board: its oscillator or a PLL, and the reset that goes with it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Module, Signal, Value
from amaranth.lib import cdc, io

from sparsegate_hw.fabric.budget import family


def power_up(m: Module, seconds: float, clock_hz: int, domain: str) -> Value:
    """1 for so many seconds after configuration, counted in a domain without a reset."""
    left = Signal(range(int(seconds * clock_hz) + 1), init=int(seconds * clock_hz), name="power_up", reset_less=True)
    with m.If(left != 0):
        m.d[domain] += left.eq(left - 1)
    return left != 0


class Clock(Elaboratable):
    """Drives the clock domain "sync" from a board's clock and reset, through a PLL unless the frequency is the board's own.

    The domain is held in reset until the PLL has locked, the board's reset button, if it has one, is released, and the device's
    block RAMs can be read.
    """

    def __init__(self, clock_hz: int) -> None:
        self.clock_hz = clock_hz

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = family(platform)
        assert of is not None, "a board has an FPGA"
        source = platform.request(platform.default_clk, dir="-")
        reset: Value = Const(0)
        if platform.default_rst is not None:
            m.submodules.reset_buffer = button = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
            reset = button.i
        locked: Value = Const(1)
        frequency = int(platform.default_clk_frequency)
        direct = frequency == self.clock_hz
        if direct or not of.pll_at_pin:
            m.submodules.clock_buffer = clock = io.Buffer("i", source)
            if direct:
                m.d.comb += ClockSignal("sync").eq(clock.i)
            else:
                locked = of.pll(m, frequency, self.clock_hz, clock.i)
        else:
            locked = of.pll(m, frequency, self.clock_hz, source.io)
        if of.power_up_s:
            m.domains.start = ClockDomain("start", reset_less=True, local=True)
            m.d.comb += ClockSignal("start").eq(ClockSignal("sync"))
            reset = reset | power_up(m, of.power_up_s, self.clock_hz, "start")
        m.submodules.reset = cdc.ResetSynchronizer(reset | ~locked, domain="sync")
        return m
