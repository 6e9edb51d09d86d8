"""The sequencer: runs the phases of a Program for every frame."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.layout import Layout
from sparsegate_hw.constant import constant
from sparsegate_hw.pe import Read, depth_bits


class Sequencer(wiring.Component):
    """After reset: clear the accumulators. For each frame and phase: dispatch the columns, drain, read out, wait for the lanes.

    Members: ``frame_ready``, ``frame_last`` and ``release`` from and to the input encoder; ``idle`` when every dispatcher
    is; ``output_busy`` while an output frame is leaving; ``phase``, ``first`` and ``last`` (of the sequence), ``run``
    (dispatch); ``begin`` pulses before a read-out; ``clearing``: reads only clear accumulators; ``read`` (:class:`Read`)
    with ``turn``, ``sub``, ``position`` registered; ``step_start``, ``step_done``; ``output`` pulses with ``step_done``
    when the step has an output frame.

    Timing: the sum in ``sparsegate.cycles``.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        super().__init__(
            {
                "frame_ready": In(1),
                "frame_last": In(1),
                "release": Out(1),
                "idle": In(1),
                "output_busy": In(1),
                "phase": Out(depth_bits(len(layout.phases))),
                "first": Out(1, init=1),
                "last": Out(1),
                "run": Out(1),
                "begin": Out(1),
                "read": Out(Read(layout)),
                "clearing": Out(1, init=1),
                "turn": Out(depth_bits(layout.lane_clusters)),
                "sub": Out(depth_bits(layout.cluster)),
                "position": Out(depth_bits(layout.position_depth)),
                "step_start": Out(1),
                "step_done": Out(1),
                "output": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, phases = self._layout, self._layout.phases
        final = len(phases) - 1
        only_last = phases[final].layer.when == "last"

        def per_phase(values: list[int], name: str) -> Signal:
            return constant(m, self.phase, values, name)

        waits = per_phase(
            [timing.result_latency(p.layer.cell, p.layer.step_bits, layout.groups) - 1 for p in phases], "waits"
        )
        positions = per_phase([p.positions - 1 for p in phases], "positions")
        subs = per_phase([p.packed - 1 for p in phases], "subs")
        acc_base = per_phase([p.acc_base for p in phases], "acc_base")
        position_base = per_phase([p.position_base for p in phases], "position_base")

        left = Signal(range(max(2, max(p.positions for p in phases))))
        wait = Signal(
            range(
                max(
                    2,
                    timing.DRAIN,
                    *(timing.result_latency(p.layer.cell, p.layer.step_bits, layout.groups) for p in phases),
                )
            )
        )
        address = Signal.like(self.read.address, name="next_address")
        turn = Signal.like(self.turn, name="next_turn")
        sub = Signal.like(self.sub, name="next_sub")
        position = Signal.like(self.position, name="next_position")
        wrapped = Signal()
        m.d.comb += wrapped.eq((sub == subs) & (turn == layout.lane_clusters - 1))

        # a request is registered once, here, for the whole array
        m.d.sync += [
            self.read.valid.eq(0),
            self.read.address.eq(address),
            self.read.clear.eq(self.last & wrapped),
            self.turn.eq(turn),
            self.sub.eq(sub),
            self.position.eq(position),
        ]
        ends = Signal()
        if only_last:
            m.d.comb += ends.eq((self.phase == final) | ((self.phase == final - 1) & ~self.last))
        else:
            m.d.comb += ends.eq(self.phase == final)

        with m.FSM():
            with m.State("CLEAR"):
                # a reset may come in the middle of a sequence, and no reset reaches the contents of a memory
                m.d.sync += [self.read.valid.eq(1), self.read.clear.eq(1), address.eq(address + 1)]
                with m.If(address == layout.acc_depth - 1):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.sync += self.clearing.eq(0)
                m.d.sync += self.phase.eq(0)
                with m.If(self.frame_ready):
                    m.d.comb += self.step_start.eq(1)
                    m.d.sync += self.last.eq(self.frame_last)
                    m.next = "DISPATCH"
            with m.State("DISPATCH"):
                m.d.comb += self.run.eq(1)
                with m.If(self.idle):
                    m.d.comb += self.release.eq(self.phase == 0)
                    m.d.sync += wait.eq(timing.DRAIN - 1)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.begin.eq(1)
                m.d.sync += [
                    left.eq(positions),
                    address.eq(acc_base),
                    position.eq(position_base),
                    turn.eq(0),
                    sub.eq(0),
                ]
                with m.If(wait != 0):
                    m.d.sync += wait.eq(wait - 1)
                with m.Elif(~(self.output_busy & (self.phase == final))):
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += [self.read.valid.eq(1), left.eq(left - 1), position.eq(position + 1)]
                with m.If(sub == subs):
                    m.d.sync += [sub.eq(0), turn.eq(turn + 1)]
                with m.Else():
                    m.d.sync += sub.eq(sub + 1)
                with m.If(wrapped):
                    m.d.sync += [turn.eq(0), address.eq(address + 1)]
                with m.If(left == 0):
                    m.d.sync += wait.eq(waits)
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    with m.If(ends):
                        m.d.comb += [self.step_done.eq(1), self.output.eq(self.phase == final)]
                        m.d.sync += self.first.eq(self.last)
                        m.next = "IDLE"
                    with m.Else():
                        m.d.sync += self.phase.eq(self.phase + 1)
                        m.next = "DISPATCH"
        return m
