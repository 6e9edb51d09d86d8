"""The sequencer: runs the phases of a Program for every frame."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.layout import INPUT, Layout
from sparsegate_hw.constant import constant
from sparsegate_hw.pe import Read, depth_bits


class Sequencer(wiring.Component):
    """After reset: clear the accumulators. For each frame and phase of its pass: dispatch the columns, drain, read out, wait for
    the lanes. Passes take turns, a sequence each.

    Members: ``frame_ready``, ``frame_last`` and ``release`` from and to the input encoder; ``idle`` when every dispatcher
    is; ``output_busy`` while an output frame is leaving; ``phase``, ``first`` and ``last`` (of the sequence), ``run``
    (dispatch); ``begin`` pulses before a read-out; ``clearing``: reads only clear accumulators; ``read`` (:class:`Read`)
    with ``turn``, ``sub``, ``position`` registered; ``step_start``, ``step_done``; ``output`` pulses with ``step_done``
    when the step has an output frame.

    With state ports: ``initial`` and ``final`` ask for a sequence's state to be taken and given; ``load`` and ``dump``
    start the state
    port on ``phase``, which answers ``moved`` when done; ``loading`` while it takes one, ``dumping`` while it gives one;
    ``loaded``: this sequence started so;
    ``prime``: the dispatch is of the columns that the loaded state sends.

    Timing: the sum in ``sparsegate.cycles``.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        states = {
            "initial": In(1),
            "final": In(1),
            "load": Out(1),
            "dump": Out(1),
            "dumping": Out(1),
            "moved": In(1),
            "loading": Out(1),
            "loaded": Out(1),
            "prime": Out(1),
        }
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
                **(states if layout.states else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, phases, runs = self._layout, self._layout.phases, self._layout.passes
        states = layout.states
        latencies = [timing.result_latency(p.phase.spec, p.phase.step_bits, layout.groups) for p in phases]

        def per_phase(values: list[int], name: str) -> Signal:
            return constant(m, self.phase, values, name)

        waits = per_phase([latency - 1 for latency in latencies], "waits")
        positions = per_phase([p.positions - 1 for p in phases], "positions")
        subs = per_phase([p.packed - 1 for p in phases], "subs")
        blocks = per_phase([p.phase.block - 1 for p in phases], "blocks")
        tails = per_phase([p.phase.block * layout.lane_clusters - 1 for p in phases], "tails")
        acc_base = per_phase([p.acc_base for p in phases], "acc_base")
        position_base = per_phase([p.position_base for p in phases], "position_base")
        mine = [runs[p.run].phases for p in phases]
        final = per_phase([int(n == run[-1]) for n, run in enumerate(mine)], "final")
        # the phase after which a step that is not the sequence's last is done
        always = [layout.every_step(n) for n in range(len(phases))]
        ends_early = [int(n == run[-1] or (always[n] and not always[n + 1])) for n, run in enumerate(mine)]
        ends = Signal()
        m.d.comb += ends.eq(final | (per_phase(ends_early, "ends_early").bool() & ~self.last))
        start = per_phase([run.start for run in mine], "start")
        following = per_phase([run.stop % len(phases) for run in mine], "following")
        # the pass's input is held until the last phase that multiplies it is dispatched
        taken = [max(n for n in run if any(x.source == INPUT for x in phases[n].matrices)) for run in mine]
        releases = per_phase([int(n == last) for n, last in enumerate(taken)], "releases")

        left = Signal(range(max(2, max(p.positions for p in phases))))
        wait = Signal(range(max(2, timing.DRAIN, *latencies)))
        address = Signal.like(self.read.address, name="next_address")
        slot = Signal.like(self.read.address, name="next_slot")
        turn = Signal.like(self.turn, name="next_turn")
        index = Signal.like(blocks, name="next_index")
        sub = Signal.like(self.sub, name="next_sub")
        position = Signal.like(self.position, name="next_position")
        turned, swept = Signal(), Signal()
        m.d.comb += [turned.eq(turn == layout.lane_clusters - 1), swept.eq((sub == subs) | (left <= tails))]

        # a request is registered once, here, for the whole array
        m.d.sync += [
            self.read.valid.eq(0),
            self.read.address.eq(address),
            self.read.clear.eq(self.last & turned & swept),
            self.turn.eq(turn),
            self.sub.eq(sub),
            self.position.eq(position),
        ]
        after_last = Signal.like(self.phase, name="after_last")
        m.d.comb += after_last.eq(Mux(self.last, following, start))

        def advance(then: str, again: str, phase: Value) -> None:
            """To the next phase of the pass in state ``again``; after the last one, with ``phase``, in state ``then``."""
            with m.If(final):
                m.d.sync += self.phase.eq(phase)
                m.next = then
            with m.Else():
                m.d.sync += self.phase.eq(self.phase + 1)
                m.next = again

        with m.FSM():
            with m.State("CLEAR"):
                # a reset may come in the middle of a sequence, and no reset reaches the contents of a memory
                m.d.sync += [self.read.valid.eq(1), self.read.clear.eq(1), address.eq(address + 1)]
                with m.If(address == layout.acc_depth - 1):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.sync += self.clearing.eq(0)
                with m.If(self.frame_ready):
                    m.d.comb += self.step_start.eq(1)
                    m.d.sync += self.last.eq(self.frame_last)
                    m.next = "DISPATCH"
                    if states:
                        with m.If(self.first):
                            m.d.sync += self.loaded.eq(self.initial)
                            with m.If(self.initial):
                                m.next = "LOAD"
            with m.State("DISPATCH"):
                m.d.comb += self.run.eq(1)
                with m.If(self.idle):
                    m.d.comb += self.release.eq(releases.bool())
                    m.d.sync += wait.eq(timing.DRAIN - 1)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.begin.eq(1)
                m.d.sync += [
                    left.eq(positions),
                    address.eq(acc_base),
                    slot.eq(acc_base),
                    position.eq(position_base),
                    index.eq(blocks),
                    turn.eq(0),
                    sub.eq(0),
                ]
                with m.If(wait != 0):
                    m.d.sync += wait.eq(wait - 1)
                with m.Elif(~(self.output_busy & final)):
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += [self.read.valid.eq(1), left.eq(left - 1), position.eq(position + 1), turn.eq(turn + 1)]
                with m.If(turned):
                    m.d.sync += [turn.eq(0), index.eq(index - 1), address.eq(address + 1)]
                    with m.If(index == 0):
                        m.d.sync += [index.eq(blocks), sub.eq(sub + 1), address.eq(slot)]
                        with m.If(sub == subs):
                            m.d.sync += [sub.eq(0), slot.eq(address + 1), address.eq(address + 1)]
                with m.If(left == 0):
                    m.d.sync += wait.eq(waits)
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    with m.If(ends):
                        m.d.comb += [self.step_done.eq(1), self.output.eq(final)]
                        m.d.sync += [self.first.eq(self.last), self.phase.eq(after_last)]
                        m.next = "IDLE"
                        if states:
                            with m.If(self.last & self.final):
                                m.d.sync += self.phase.eq(start)
                                m.next = "DUMP"
                    with m.Else():
                        m.d.sync += self.phase.eq(self.phase + 1)
                        m.next = "DISPATCH"
            if states:
                holds = per_phase([int(bool(p.loads)) for p in phases], "holds")
                with m.State("LOAD"):
                    m.d.comb += [self.load.eq(holds), self.begin.eq(1), self.loading.eq(1)]
                    with m.If(holds):
                        m.next = "LOADING"
                    with m.Else():
                        advance("PRIME", "LOAD", start)
                with m.State("LOADING"):
                    m.d.comb += self.loading.eq(1)
                    with m.If(self.moved):
                        advance("PRIME", "LOAD", start)
                with m.State("PRIME"):
                    m.d.comb += [self.run.eq(1), self.prime.eq(1)]
                    with m.If(self.idle):
                        m.next = "PRIMED"
                with m.State("PRIMED"):  # the dispatchers' pointers go back
                    advance("DISPATCH", "PRIME", start)
                with m.State("DUMP"):
                    m.d.comb += [self.dump.eq(holds), self.dumping.eq(1)]
                    with m.If(holds):
                        m.next = "DUMPING"
                    with m.Else():
                        advance("IDLE", "DUMP", following)
                with m.State("DUMPING"):
                    m.d.comb += self.dumping.eq(1)
                    with m.If(self.moved):
                        advance("IDLE", "DUMP", following)
        return m
