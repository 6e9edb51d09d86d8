"""A register between two ends of a stream."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Relay(wiring.Component):
    """Room for two items of a stream, so that neither end waits for the other within a cycle.

    Members: ``i``, ``o`` streams of ``shape``. ``i.ready``, ``o.valid`` and ``o.payload`` are registers.

    Timing: latency 1, an item a cycle.
    """

    latency = 1

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        kept = Signal.like(self.i.payload, name="kept", reset_less=True)
        full = Signal()
        m.d.comb += self.i.ready.eq(~full)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(full | self.i.valid),
                self.o.payload.eq(Mux(full, kept, self.i.payload)),
                full.eq(0),
            ]
        with m.Elif(self.i.valid & ~full):
            m.d.sync += full.eq(1)
        with m.If(~full):
            m.d.sync += kept.eq(self.i.payload)
        return m
