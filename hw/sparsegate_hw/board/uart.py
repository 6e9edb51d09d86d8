"""UART, 8 data bits, no parity, 1 stop bit, as byte streams."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.errors import SparseGateError

MIN_DIVISOR = 4
"""Fewer clock cycles a bit leave no middle to sample after the synchroniser."""


def divisor_for(clock_hz: float, baud: float) -> int:
    """Clock cycles of a bit. A rate that misses ``baud`` by more than 2 % is refused.

    Both ends may be off; a frame of 10 bits tolerates about half a bit, 5 %, in total.
    """
    divisor = max(1, round(clock_hz / baud))
    if divisor < MIN_DIVISOR or abs(clock_hz / divisor / baud - 1) > 0.02:
        raise SparseGateError(
            f"a clock of {clock_hz / 1e6:g} MHz gives {clock_hz / divisor:.0f} baud, not {baud:.0f} within 2 %; "
            f"at most {clock_hz / MIN_DIVISOR:.0f} baud can be had"
        )
    return divisor


class Receiver(wiring.Component):
    """Bits to bytes.

    Members
    -------
    rx : In(1)
        The line, idle high, of any clock: it passes two flip-flops first.
    o : Out(stream of 8 bits)
        Bytes. The line cannot wait: a byte that is not taken before the next one ends is replaced by it.
    error : Out(1)
        One cycle: a byte without stop bit was dropped.
    overflow : Out(1)
        One cycle: a byte that nobody took was replaced.

    Timing: bits are sampled in their middle; a byte, or what became of it, is given a cycle after its stop bit has been sampled.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < MIN_DIVISOR:
            raise SparseGateError(f"a UART needs at least {MIN_DIVISOR} clock cycles a bit, not {divisor}")
        self.divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),
                "o": Out(stream.Signature(8)),
                "error": Out(1),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = cdc.FFSynchronizer(self.rx, rx, init=1)

        timer = Signal(range(self.divisor))
        # timer <= 1, and timer == 0, in registers: much waits for it
        soon, due = Signal(init=1), Signal(init=1)
        bits = Signal(range(8))
        shift = Signal(8)

        def wait(cycles: int) -> None:
            m.d.sync += [timer.eq(cycles - 1), soon.eq(cycles == 2), due.eq(0)]  # more than one, as MIN_DIVISOR has it

        m.d.sync += [self.error.eq(0), self.overflow.eq(0)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += [soon.eq(timer <= 2), due.eq(soon)]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)

        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(~rx):
                wait(self.divisor // 2)
                m.next = "START"
            with m.State("START"), m.If(due):
                wait(self.divisor)
                m.d.sync += bits.eq(0)
                with m.If(rx):  # a spike, not a start bit
                    m.next = "IDLE"
                with m.Else():
                    m.next = "DATA"
            with m.State("DATA"), m.If(due):
                wait(self.divisor)
                m.d.sync += [shift.eq(Cat(shift[1:], rx)), bits.eq(bits + 1)]
                with m.If(bits == 7):
                    m.next = "STOP"
            with m.State("STOP"), m.If(due):
                with m.If(rx):
                    m.d.sync += [
                        self.overflow.eq(self.o.valid & ~self.o.ready),
                        self.o.payload.eq(shift),
                        self.o.valid.eq(1),
                    ]
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += self.error.eq(1)
                    m.next = "BREAK"
            # a line held low is one error, not a byte of zeros after another
            with m.State("BREAK"), m.If(rx):
                m.next = "IDLE"
        return m


class Transmitter(wiring.Component):
    """Bytes to bits.

    Members
    -------
    i : In(stream of 8 bits)
        Bytes.
    tx : Out(1)
        The line, idle high, from a flip-flop.

    Timing: 10 bit times a byte, without a gap while ``i.valid``.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < MIN_DIVISOR:
            raise SparseGateError(f"a UART needs at least {MIN_DIVISOR} clock cycles a bit, not {divisor}")
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        left = Signal(range(11))
        shift = Signal(10, init=0x3FF)
        # left == 0, or left == 1 and timer == 0: known a cycle ahead, as much waits for it
        ready = Signal(init=1)
        with m.If((left == 1) & (timer == 1)):
            m.d.sync += ready.eq(1)
        m.d.comb += self.i.ready.eq(ready)
        m.d.sync += self.tx.eq(shift[0])
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(left != 0):
            m.d.sync += [shift.eq(Cat(shift[1:], Const(1, 1))), left.eq(left - 1), timer.eq(self.divisor - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                shift.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))),
                left.eq(10),
                timer.eq(self.divisor - 1),
                ready.eq(0),
            ]
        return m
