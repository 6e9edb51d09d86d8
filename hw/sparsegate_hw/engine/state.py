"""The state port: takes the state in which a sequence starts, and gives the one in which it ends."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout
from sparsegate.array.pipelines import state_count
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.engine.pe import depth_bits


class StatePort(wiring.Component):
    """Walks the positions of a phase, a word of the stream a cycle: position by position, lane by lane, the phase's ``loads``.

    Members: ``load`` and ``dump`` start on ``phase``; ``done`` pulses at the end. ``i`` and ``o`` streams of raw values.
    ``position``:
    address of the position that is read or written in the lanes. Taking: ``words`` of each lane (h, then the states; those
    that the phase
    does not hold are 0), to be pushed when ``push`` is. Giving: ``kept`` of each lane, a cycle after ``position``.

    Timing: ``timing.load_cycles`` and ``timing.dump_cycles``, less one, where the streams do not stall.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._words = 1 + state_count(layout)
        value = signed(layout.state_width)
        super().__init__(
            {
                "load": In(1),
                "dump": In(1),
                "phase": In(depth_bits(len(layout.phases))),
                "done": Out(1),
                "i": In(stream.Signature(value)),
                "o": Out(stream.Signature(value)),
                "position": Out(depth_bits(layout.position_depth)),
                "push": Out(1),
                "words": Out(value).array(layout.lanes * self._words),
                "kept": In(value).array(layout.lanes * self._words),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, count = self._layout, self._words
        phases = layout.phases
        positions = constant(m, self.phase, [phase.positions - 1 for phase in phases], "positions")
        base = constant(m, self.phase, [phase.position_base for phase in phases], "base")
        # a phase's words are some of h and the states, without a gap: from ``first`` on
        firsts = constant(m, self.phase, [0 if phase.carried else 1 for phase in phases], "firsts")
        lasts = constant(m, self.phase, [max(0, len(p.loads) - int(p.carried)) for p in phases], "lasts")
        left = Signal.like(positions, name="left")
        lane = Signal(range(max(2, layout.lanes)))
        word = Signal(range(max(2, count)))
        moved = Signal()
        ends = Signal()
        at = Signal(range(max(2, layout.lanes * count)))
        m.d.comb += [ends.eq((lane == layout.lanes - 1) & (word == lasts)), at.eq(lane * count + word)]
        with m.If(moved):
            with m.If(word == lasts):
                m.d.sync += [word.eq(firsts), lane.eq(Mux(lane == layout.lanes - 1, 0, lane + 1))]
            with m.Else():
                m.d.sync += word.eq(word + 1)
        wait = Signal(range(layout.depths.delta + layout.depths.known + 1))
        begin = [left.eq(positions), self.position.eq(base), lane.eq(0), word.eq(firsts)]
        step = [left.eq(left - 1), self.position.eq(self.position + 1)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.load):
                    m.d.sync += [*begin, *(value.eq(0) for value in self.words)]
                    m.next = "TAKE"
                with m.Elif(self.dump):
                    m.d.sync += begin
                    m.next = "FETCH"
            with m.State("TAKE"):
                m.d.comb += [self.i.ready.eq(1), moved.eq(self.i.valid)]
                with m.If(moved):
                    m.d.sync += Array(self.words)[at].eq(self.i.payload)
                    with m.If(ends):
                        m.next = "PUSH"
            with m.State("PUSH"):
                m.d.comb += self.push.eq(1)
                m.d.sync += step
                m.next = "TAKE"
                with m.If(left == 0):
                    m.d.sync += wait.eq(layout.depths.delta + layout.depths.known)
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
            with m.State("FETCH"):
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(Array(self.kept)[at]),
                    moved.eq(self.o.ready),
                ]
                with m.If(moved & ends):
                    m.d.sync += step
                    m.next = "FETCH"
                    with m.If(left == 0):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
        return m
