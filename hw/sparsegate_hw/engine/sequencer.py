"""The sequencer: runs the phases of a Program for every frame, and dispatches a phase while the one before is read out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import INPUT, Layout, timing
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.engine.pe import Read, depth_bits


class Sequencer(wiring.Component):
    """After reset: clear the accumulators. Then two activities at once, each through the phases of frame after frame: *dispatch*,
    and behind it *read-out*, which drains, reads out and waits for the lanes. Passes take turns, a sequence each.

    A phase is handed from one to the other when its dispatch is done and the phase before has left the lanes; with that
    the dispatch of the next phase begins, of the next frame if there is one. It may not issue a beat before the
    read-out has left its bank of accumulators (``open``), nor read the columns that the lanes are making before all of
    them are there (``known``).

    Members: ``frame_ready``, ``frame_last`` and ``release`` from and to the input encoder; ``idle`` when every dispatcher
    is, no sooner than ``depths.nothing`` after a start; ``output_busy`` while an output frame is leaving.
    Of the dispatch: ``ahead`` its phase, ``ahead_first`` whether of a sequence's first step, ``start`` pulses, ``late``,
    ``known`` and ``open`` as :class:`~sparsegate_hw.engine.dispatcher.Dispatcher` has them.
    Of the read-out: ``phase``, ``first`` and ``last`` (of the sequence); ``begin`` pulses before it; ``clearing``: reads only clear
    accumulators; ``read`` (:class:`Read`) with ``turn``, ``sub`` registered, a phase's positions in order. ``step_start`` when a
    frame is taken, ``step_done`` with its last result; ``output`` pulses with ``step_done`` when the step has an output frame.

    With state ports a sequence begins when the one before is over: ``initial`` and ``final`` ask for a sequence's state to be
    taken and given; ``load`` and ``dump`` start the state port on ``phase``, which answers ``moved`` when done;
    ``loading`` while it takes one, ``dumping`` while it gives one; ``loaded``: this sequence started so; ``prime``: the
    dispatch is of the columns that the loaded state sends.

    Timing: the laws in ``sparsegate.array.cycles``.
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
        phase = depth_bits(len(layout.phases))
        super().__init__(
            {
                "frame_ready": In(1),
                "frame_last": In(1),
                "release": Out(1),
                "idle": In(1),
                "output_busy": In(1),
                "ahead": Out(phase),
                "ahead_first": Out(1, init=1),
                "start": Out(1),
                "late": Out(1),
                "known": Out(1),
                "open": Out(1, init=1),
                "phase": Out(phase),
                "first": Out(1),
                "last": Out(1),
                "begin": Out(1),
                "read": Out(Read(layout)),
                "clearing": Out(1, init=1),
                "turn": Out(depth_bits(layout.lane_clusters)),
                "sub": Out(depth_bits(layout.cluster)),
                "step_start": Out(1),
                "step_done": Out(1),
                "output": Out(1),
                **(states if layout.states else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, phases = self._layout, self._layout.phases
        mine = [layout.passes[phase.run].phases for phase in phases]
        self._final = [int(number == run[-1]) for number, run in enumerate(mine)]
        # the phase after which a step that is not the sequence's last is done
        always = [layout.every_step(number) for number in range(len(phases))]
        self._ends_early = [
            int(number == run[-1] or (always[number] and not always[number + 1])) for number, run in enumerate(mine)
        ]
        self._start = [run.start for run in mine]
        self._following = [run.stop % len(phases) for run in mine]
        self._holds = [int(bool(phase.loads)) for phase in phases]

        # what one activity tells the other
        handed = Signal()  # the phase of the dispatch goes to the read-out
        # a phase is being read out, or in the lanes; nothing is handed over before accumulators are cleared
        busy = Signal(init=1)
        left_bank = Signal()  # its last read-out address is issued
        over = Signal()  # nothing of a sequence is in work
        cleared = Signal()
        ahead_last = Signal()
        with m.If(handed):
            m.d.sync += [
                self.phase.eq(self.ahead),
                self.first.eq(self.ahead_first),
                self.last.eq(ahead_last),
            ]
        self._dispatch(m, handed, busy, left_bank, over, cleared, ahead_last)
        self._read_out(m, handed, busy, left_bank, over, cleared)
        return m

    def _table(self, m: Module, phase: Value, prefix: str) -> Callable[[list[int], str], Signal]:
        return lambda values, name: constant(m, phase, values, f"{prefix}_{name}")

    def _ends(self, m: Module, phase: Value, last: Value, prefix: str) -> tuple[Signal, Signal]:
        """Whether a phase is its step's last, and its pass's."""
        table = self._table(m, phase, prefix)
        ends, final = Signal(name=f"{prefix}_ends"), table(self._final, "final")
        m.d.comb += ends.eq(final | (table(self._ends_early, "ends_early").bool() & ~last))
        return ends, final

    def _dispatch(
        self,
        m: Module,
        handed: Signal,
        busy: Signal,
        left_bank: Signal,
        over: Signal,
        cleared: Signal,
        ahead_last: Signal,
    ) -> None:
        layout, phases = self._layout, self._layout.phases
        states = layout.states
        table = self._table(m, self.ahead, "ahead")
        ends, final = self._ends(m, self.ahead, ahead_last, "ahead")
        # the pass's input is held until the last phase that multiplies it is dispatched
        takers = [
            [n for n in run.phases if any(x.source == INPUT for x in phases[n].matrices)] for run in layout.passes
        ]
        releases = table([int(n == max(takers[phase.run])) for n, phase in enumerate(phases)], "releases")
        after = Signal.like(self.ahead, name="after")
        m.d.comb += after.eq(
            Mux(
                ends,
                Mux(ahead_last, table(self._following, "following"), table(self._start, "start")),
                self.ahead + 1,
            )
        )

        self._depend(m, after, ends, ahead_last, handed, busy)
        self._open_bank(m, table, after, handed, left_bank)

        with m.FSM(name="dispatch"):
            with m.State("FRAME"):
                ready = self.frame_ready & cleared
                if states:
                    ready = ready & (over | ~self.ahead_first)
                with m.If(ready):
                    m.d.comb += self.step_start.eq(1)
                    m.d.sync += ahead_last.eq(self.frame_last)
                    m.next = "DISPATCH"
                    if states:
                        with m.If(self.ahead_first):
                            m.d.sync += self.loaded.eq(self.initial)
                        with m.If(self.ahead_first & self.initial):
                            m.d.sync += self.phase.eq(self.ahead)
                            m.next = "LOAD"
                        with m.Else():
                            m.d.comb += self.start.eq(1)
                    else:
                        m.d.comb += self.start.eq(1)
            with m.State("START"):
                m.d.comb += self.start.eq(1)
                m.next = "DISPATCH"
            with m.State("DISPATCH"), m.If(self.idle & ~busy):
                m.d.comb += [handed.eq(1), self.release.eq(releases.bool())]
                m.d.sync += self.ahead.eq(after)
                m.next = "START"
                with m.If(ends):
                    m.d.sync += self.ahead_first.eq(ahead_last)
                    m.next = "FRAME"
            if states:
                self._load(m, table, final)

    def _depend(self, m: Module, after: Signal, ends: Signal, ahead_last: Signal, handed: Signal, busy: Signal) -> None:
        """Whose columns are in the making: of the phase just handed over, which is known while it is dispatched."""
        phases = self._layout.phases
        after_ahead, after_first = Signal.like(self.ahead, name="after_ahead"), Signal(name="after_first")
        m.d.sync += [after_ahead.eq(after), after_first.eq(Mux(ends, ahead_last, self.ahead_first))]
        table_after = self._table(m, after_ahead, "after")
        waits = []
        for at in range(2):
            pair = [phase.matrices[at] if at < len(phase.matrices) else None for phase in phases]
            listed = table_after([int(x is not None and x.source != INPUT) for x in pair], f"listed_{at}")
            now = table_after([int(x is not None and x.now) for x in pair], f"now_{at}")
            source = table_after([x.source if x is not None and x.source != INPUT else 0 for x in pair], f"source_{at}")
            soon, depends = Signal(name=f"soon_{at}"), Signal(name=f"depends_{at}")
            m.d.sync += soon.eq(listed & (now | ~after_first) & (source == self.ahead))
            with m.If(handed):
                m.d.sync += depends.eq(soon)
            waits.append(busy & depends)
        m.d.comb += [self.late.eq(waits[0]), self.known.eq(~(waits[0] | waits[1]))]

    def _open_bank(
        self, m: Module, table: Callable[[list[int], str], Signal], after: Signal, handed: Signal, left_bank: Signal
    ) -> None:
        """Whether products may go to the bank of the next phase: another one than is read out, or one that has been."""
        layout, phases = self._layout, self._layout.phases
        with m.If(left_bank):
            m.d.sync += self.open.eq(1)
        with m.If(handed):
            if layout.acc_banks > 1:
                banks = [layout.acc_bank(number) for number in range(len(phases))]
                here, there = table(banks, "bank"), constant(m, after, banks, "after_bank")
                m.d.sync += self.open.eq(here != there)
            else:
                m.d.sync += self.open.eq(0)

    def _load(self, m: Module, table: Callable[[list[int], str], Signal], final: Signal) -> None:
        """States of the dispatch: initial states into the lanes, phase by phase, then a dispatch of the columns that they send."""

        def advance(then: str, again: str) -> None:
            """To the next phase of the pass in state ``again``; after the last one to the first, in state ``then``."""
            following = Mux(final, table(self._start, "start_again"), self.ahead + 1)
            m.d.sync += [self.ahead.eq(following), self.phase.eq(following)]
            with m.If(final):
                m.next = then
            with m.Else():
                m.next = again

        holds = table(self._holds, "holds")
        with m.State("LOAD"):
            m.d.comb += [self.load.eq(holds), self.begin.eq(1), self.loading.eq(1)]
            with m.If(holds):
                m.next = "LOADING"
            with m.Else():
                advance("PRIME", "LOAD")
        with m.State("LOADING"):
            m.d.comb += self.loading.eq(1)
            with m.If(self.moved):
                advance("PRIME", "LOAD")
        with m.State("PRIME"):
            m.d.comb += [self.start.eq(1), self.prime.eq(1)]
            m.next = "PRIMING"
        with m.State("PRIMING"):
            m.d.comb += self.prime.eq(1)
            with m.If(self.idle):
                advance("START", "PRIME")

    def _read_out(
        self, m: Module, handed: Signal, busy: Signal, left_bank: Signal, over: Signal, cleared: Signal
    ) -> None:
        layout, phases = self._layout, self._layout.phases
        states = layout.states
        table = self._table(m, self.phase, "read")
        ends, final = self._ends(m, self.phase, self.last, "read")
        latencies = [
            timing.result_latency(p.phase.spec, p.phase.step_bits, layout.groups, layout.depths) for p in phases
        ]
        waits = table([latency - 1 for latency in latencies], "waits")
        positions = table([p.positions - 1 for p in phases], "positions")
        subs = table([p.packed - 1 for p in phases], "subs")
        blocks = table([p.phase.block - 1 for p in phases], "blocks")
        tails = table([p.phase.block * layout.lane_clusters - 1 for p in phases], "tails")
        acc_base = table([p.acc_base for p in phases], "acc_base")

        left = Signal(range(max(2, max(p.positions for p in phases))))
        wait = Signal(range(max(2, layout.depths.drain, *latencies)))
        address = Signal.like(self.read.address, name="next_address")
        slot = Signal.like(self.read.address, name="next_slot")
        turn = Signal.like(self.turn, name="next_turn")
        index = Signal.like(blocks, name="next_index")
        sub = Signal.like(self.sub, name="next_sub")
        turned, swept = Signal(), Signal()
        # nothing to wait for, and the phase's last position: known a cycle ahead
        drained, ended = Signal(), Signal()
        m.d.comb += [turned.eq(turn == layout.lane_clusters - 1), swept.eq((sub == subs) | (left <= tails))]

        # what the end of a wait decides is known a cycle before: it starts the output buffer, which may be far
        assert min(latencies) > 2, "a wait is long enough to be counted ahead"
        waited = Signal()
        m.d.sync += [waited.eq(0), self.step_done.eq(0), self.output.eq(0)]

        # a request is registered once, here, for the whole array
        m.d.sync += [
            self.read.valid.eq(0),
            self.read.address.eq(address),
            self.read.clear.eq(self.last & turned & swept),
            self.turn.eq(turn),
            self.sub.eq(sub),
        ]
        with m.If(handed):
            m.d.sync += busy.eq(1)

        def rest() -> None:
            m.d.sync += busy.eq(0)
            m.next = "IDLE"

        with m.FSM(name="read_out"):
            with m.State("CLEAR"):
                # a reset may come in the middle of a sequence, and no reset reaches the contents of a memory
                m.d.sync += [self.read.valid.eq(1), self.read.clear.eq(1), address.eq(address + 1)]
                with m.If(address == layout.acc_depth - 1):
                    m.d.sync += cleared.eq(1)
                    rest()
            with m.State("IDLE"):
                m.d.comb += over.eq(1)
                m.d.sync += self.clearing.eq(0)
                with m.If(handed):
                    m.d.sync += [wait.eq(layout.depths.drain - 1), drained.eq(layout.depths.drain == 1)]
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.begin.eq(1)
                m.d.sync += [
                    left.eq(positions),
                    ended.eq(positions == 0),
                    address.eq(acc_base),
                    slot.eq(acc_base),
                    index.eq(blocks),
                    turn.eq(0),
                    sub.eq(0),
                ]
                with m.If(~drained):
                    m.d.sync += [wait.eq(wait - 1), drained.eq(wait == 1)]
                with m.Elif(~(self.output_busy & final)):
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += [self.read.valid.eq(1), left.eq(left - 1), ended.eq(left == 1), turn.eq(turn + 1)]
                with m.If(turned):
                    m.d.sync += [turn.eq(0), index.eq(index - 1), address.eq(address + 1)]
                    with m.If(index == 0):
                        m.d.sync += [index.eq(blocks), sub.eq(sub + 1), address.eq(slot)]
                        with m.If(sub == subs):
                            m.d.sync += [sub.eq(0), slot.eq(address + 1), address.eq(address + 1)]
                with m.If(ended):
                    m.d.comb += left_bank.eq(1)
                    m.d.sync += wait.eq(waits)
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 1):
                    m.d.sync += [waited.eq(1), self.step_done.eq(ends), self.output.eq(ends & final)]
                with m.If(waited):
                    rest()
                    if states:
                        with m.If(self.step_done & self.last & self.final):
                            m.d.sync += [self.phase.eq(table(self._start, "start")), busy.eq(1)]
                            m.next = "DUMP"
            if states:
                self._dump(m, table, final, rest)

    def _dump(
        self, m: Module, table: Callable[[list[int], str], Signal], final: Signal, rest: Callable[[], None]
    ) -> None:
        """States of the read-out: final states out of the lanes, phase by phase."""
        holds = table(self._holds, "holds")

        def advance() -> None:
            with m.If(final):
                rest()
            with m.Else():
                m.d.sync += self.phase.eq(self.phase + 1)
                m.next = "DUMP"

        with m.State("DUMP"):
            m.d.comb += [self.dump.eq(holds), self.dumping.eq(1)]
            with m.If(holds):
                m.next = "DUMPING"
            with m.Else():
                advance()
        with m.State("DUMPING"):
            m.d.comb += self.dumping.eq(1)
            with m.If(self.moved):
                advance()
