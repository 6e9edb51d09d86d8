"""The dispatcher of a column group: turns listed columns into one weight entry a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.layout import INPUT, Layout, MatrixLayout, PhaseLayout
from sparsegate_hw.columns import ColumnList
from sparsegate_hw.constant import constant
from sparsegate_hw.pe import Beat, depth_bits


class Dispatcher(wiring.Component):
    """Runs through the moved columns of a phase in fixed order and issues their entries without a bubble.

    The order is: the columns of the phase's first matrix bank by bank, then those of its second, if it has one. While
    ``run`` is 0 the pointers rest at the lists' starts.

    Members: ``run``, ``phase``, ``first`` (the sequence's first step: there is no earlier output), ``prime`` (with state ports:
    only the columns of carried vectors, which a loaded state sends), ``bank`` (of the input's two); ``input`` and
    ``lanes`` the read sides of the group's lists (counts of each section, address, entry); ``beat``
    (:class:`Beat`); ``issued`` pulses for each column; ``idle`` when nothing is left.

    Timing: the first beat comes ``DISPATCH`` = 4 cycles after ``run``; a column takes its burst of slots * N beats;
    ``idle`` holds from the cycle after the last beat, and at once where no column is listed.
    """

    latency = timing.DISPATCH

    def __init__(self, layout: Layout, group: int, input_list: ColumnList, lane_lists: list[ColumnList]) -> None:
        self._layout, self._group = layout, group
        self._input_bases, self._lane_bases = input_list.bases, [columns.bases for columns in lane_lists]

        def side(columns: ColumnList) -> wiring.Signature:
            return wiring.Signature(
                {
                    "counts": In(columns.counts[0].shape()).array(len(columns.bases)),
                    "address": Out(depth_bits(columns.depth)),
                    "entry": In(columns.entry),
                }
            )

        self._sides = [side(columns) for columns in lane_lists]
        super().__init__(
            {
                "run": In(1),
                "phase": In(depth_bits(len(layout.phases))),
                "first": In(1),
                "bank": In(1),
                "input": Out(side(input_list)),
                **{f"lane_{lane}": Out(signature) for lane, signature in enumerate(self._sides)},
                "beat": Out(Beat(layout)),
                "issued": Out(1),
                "idle": Out(1),
                **({"prime": In(1)} if layout.states else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, beat = self._layout, self.beat
        phases, lanes = layout.phases, layout.lanes
        sides = [getattr(self, f"lane_{lane}") for lane in range(lanes)]

        # -- select: the first bank with a column left -----------------------------------------------------------------
        def table(values: list[bool]) -> Value:
            return Array([int(value) for value in values])[self.phase].bool()

        prime = self.prime if layout.states else Const(0)
        pairs: dict[str, list[MatrixLayout | None]] = {
            "x": [phase.matrices[0] for phase in phases],
            "h": [phase.matrices[1] if len(phase.matrices) > 1 else None for phase in phases],
        }
        from_input = Signal()
        enables = {key: Signal(name=f"{key}_enable") for key in pairs}
        m.d.comb += from_input.eq(table([phase.matrices[0].source == INPUT for phase in phases]) & ~prime)
        for key, matrices in pairs.items():
            listed = [matrix is not None and matrix.source != INPUT for matrix in matrices]
            now = [bool(matrix and matrix.now) for matrix in matrices]
            enable = table(listed) & (table(now) | ~self.first)
            if layout.states:
                enable = Mux(prime, table([bool(matrix and matrix.carried) for matrix in matrices]), enable)
            m.d.comb += enables[key].eq(enable)

        def pointer(name: str, like: Value) -> Signal:
            return Signal.like(like, name=name)

        input_pointer = pointer("input_pointer", self.input.counts[0])
        input_left = Signal()
        m.d.comb += input_left.eq(
            from_input & (input_pointer != Mux(self.bank, self.input.counts[1], self.input.counts[0]))
        )
        x_pointers, h_pointers, x_left, h_left = [], [], [], []
        for lane, side in enumerate(sides):
            for pointers, left, key in ((x_pointers, x_left, "x"), (h_pointers, h_left, "h")):
                at = pointer(f"{key}_pointer_{lane}", side.counts[0])
                some = Signal(name=f"{key}_left_{lane}")
                counts = Array(
                    Const(0) if matrix is None or matrix.source == INPUT else side.counts[matrix.source]
                    for matrix in pairs[key]
                )
                m.d.comb += some.eq(enables[key] & (counts[self.phase] != at))
                pointers.append(at)
                left.append(some)
        from_x = Signal()
        m.d.comb += from_x.eq(input_left | Cat(*x_left).any())
        some_left = Signal()
        m.d.comb += some_left.eq(from_x | Cat(*h_left).any())
        lane_left = [Signal(name=f"lane_left_{lane}") for lane in range(lanes)]
        for lane in range(lanes):
            m.d.comb += lane_left[lane].eq(Mux(from_x, x_left[lane], h_left[lane]))

        # -- S: where the column is listed -----------------------------------------------------------------------------
        s_valid = Signal()
        s_h = Signal()
        s_input = Signal()
        s_bank = Signal(depth_bits(lanes))
        s_address = Signal(max(len(side.address) for side in (self.input, *sides)))
        a_valid = Signal()
        b_valid = Signal()
        s_move = Signal()
        a_move = Signal()
        b_move = Signal()
        m.d.comb += [s_move.eq(~s_valid | a_move), self.issued.eq(self.run & some_left & s_move)]
        with m.If(s_move):
            m.d.sync += [s_valid.eq(self.run & some_left), s_h.eq(~from_x), s_input.eq(input_left)]
        with m.If(~self.run):
            m.d.sync += [at.eq(0) for at in (input_pointer, *x_pointers, *h_pointers)]
        with m.Elif(s_move):
            with m.If(input_left):
                base = Mux(self.bank, self._input_bases[1], self._input_bases[0])
                m.d.sync += [s_bank.eq(0), s_address.eq(base + input_pointer), input_pointer.eq(input_pointer + 1)]
            for lane in range(lanes):
                bases = self._lane_bases[lane]
                x_base, h_base = (
                    Array([bases[matrix.source] if matrix and matrix.source != INPUT else 0 for matrix in matrices])[
                        self.phase
                    ]
                    for matrices in pairs.values()
                )
                before = Cat(input_left, *lane_left[:lane]).any()
                with m.If(lane_left[lane] & ~before):
                    m.d.sync += s_bank.eq(lane)
                    with m.If(from_x):
                        m.d.sync += [s_address.eq(x_base + x_pointers[lane]), x_pointers[lane].eq(x_pointers[lane] + 1)]
                    with m.Else():
                        m.d.sync += [s_address.eq(h_base + h_pointers[lane]), h_pointers[lane].eq(h_pointers[lane] + 1)]
        m.d.comb += [side.address.eq(s_address) for side in (self.input, *sides)]

        # -- A: the column ---------------------------------------------------------------------------------------------
        places = max(len(side.entry.place) for side in (self.input, *sides))
        a_h = Signal()
        a_place = Signal(places)
        a_delta = Signal(signed(layout.delta_width))
        a_bank = Signal.like(s_bank, name="a_bank")
        m.d.comb += a_move.eq(~a_valid | b_move)
        with m.If(a_move):
            m.d.sync += [a_valid.eq(s_valid), a_h.eq(s_h), a_bank.eq(s_bank)]
            with m.If(s_input):
                m.d.sync += [a_place.eq(self.input.entry.place), a_delta.eq(self.input.entry.delta)]
            with m.Else():
                m.d.sync += [
                    a_place.eq(Array(side.entry.place for side in sides)[s_bank]),
                    a_delta.eq(Array(side.entry.delta for side in sides)[s_bank]),
                ]

        # -- B: its place in the weight memory, its delta at the matrix's scale -----------------------------------------
        def both(phase: PhaseLayout) -> list[MatrixLayout]:
            return [phase.matrices[0], phase.matrices[-1]]

        def of_matrix(values: list[list[int]], name: str, h: Value) -> Signal:
            return constant(m, Cat(h, self.phase), [value for pair in values for value in pair], name)

        burst = of_matrix([[x.burst for x in both(phase)] for phase in phases], "burst", a_h)
        b_product = Signal(places + burst.shape().width)
        b_base = Signal(depth_bits(layout.weight_depth))
        b_delta = Signal(signed(layout.operand_width))
        b_h = Signal()
        q_load = Signal()
        m.d.comb += b_move.eq(~b_valid | q_load)
        with m.If(b_move):
            m.d.sync += [b_valid.eq(a_valid), b_h.eq(a_h), b_product.eq(a_place * burst)]
            with m.Switch(Cat(a_h, self.phase)):
                for number, phase in enumerate(phases):
                    for h, matrix in enumerate(phase.matrices):
                        with m.Case(2 * number + h):
                            bases = list(matrix.bases[self._group])
                            bases += [0] * (lanes - len(bases))
                            m.d.sync += [
                                b_base.eq(Array(bases)[a_bank]),
                                b_delta.eq(a_delta.shift_left(matrix.term.shift)),
                            ]

        # -- Q: the burst ----------------------------------------------------------------------------------------------
        entries = of_matrix([[x.term.matrix.entries - 1 for x in both(phase)] for phase in phases], "entries", b_h)
        slots = constant(m, self.phase, [phase.slots - 1 for phase in phases], "slots")
        acc_base = constant(m, self.phase, [phase.acc_base for phase in phases], "acc_base")
        block = constant(m, self.phase, [phase.phase.block for phase in phases], "block")
        entry_left = Signal.like(entries, name="entry_left")
        entry_reload = Signal.like(entries, name="entry_reload")
        slot_left = Signal.like(slots, name="slot_left")
        # whether this beat is its burst's last: known a cycle ahead, as the whole pipeline waits for it
        final = Signal()
        m.d.comb += q_load.eq(~beat.valid | final)
        with m.If(q_load):
            m.d.sync += [
                beat.valid.eq(b_valid),
                beat.address.eq(b_product + b_base),
                beat.delta.eq(b_delta),
                beat.slot.eq(acc_base),
                *([beat.apart.eq(b_h & table([bool(p.phase.apart) for p in phases]))] if layout.apart_rows else []),
                entry_left.eq(entries),
                entry_reload.eq(entries),
                slot_left.eq(slots),
                final.eq((entries == 0) & (slots == 0)),
            ]
        with m.Else():
            m.d.sync += beat.address.eq(beat.address + 1)
            with m.If(entry_left == 0):
                m.d.sync += [
                    entry_left.eq(entry_reload),
                    slot_left.eq(slot_left - 1),
                    beat.slot.eq(beat.slot + block),
                    final.eq((slot_left == 1) & (entry_reload == 0)),
                ]
            with m.Else():
                m.d.sync += [entry_left.eq(entry_left - 1), final.eq((entry_left == 1) & (slot_left == 0))]

        m.d.comb += self.idle.eq(~(self.run & some_left) & ~s_valid & ~a_valid & ~b_valid & ~beat.valid)
        return m
