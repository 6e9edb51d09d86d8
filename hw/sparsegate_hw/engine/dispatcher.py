"""The dispatcher of a column group: turns listed columns into one weight entry a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import INPUT, Layout, MatrixLayout
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.engine.columns import ColumnList, ColumnReads
from sparsegate_hw.engine.pe import Beat, depth_bits
from sparsegate_hw.fabric.primitives import Register
from sparsegate_hw.fabric.wires import shifted_sum


class Dispatcher(wiring.Component):
    """Runs through the moved columns of a phase in fixed order and issues their entries without a bubble.

    The order: list by list (the input's, or one of each lane), first the columns of the matrix that is *early*, then those of the
    other. Early is the phase's first matrix, or its second where the first is ``late``.

    Members: ``start`` pulses with a new dispatch of ``phase``, which stays until ``idle``; ``first`` (the sequence's first step:
    there is no earlier output), ``prime`` (with state ports: only the columns of carried vectors, which a loaded state sends)
    and ``bank`` (of the input's two) hold from ``start`` on. ``late`` (at ``start``): the first matrix's columns are still being
    made. ``known``: so are none of the other, late, matrix; its lists are read from the first cycle on in which this holds.
    ``open``: beats may be issued. ``input`` and ``lanes`` the read sides of the group's lists; ``beat`` (:class:`Beat`);
    ``issued`` pulses for each column; ``idle`` when nothing is left.

    Timing: the first beat comes ``depths.dispatch`` cycles after ``start``, the first one of late columns as many after ``known``,
    and no beat before the cycle after ``open``; a column takes its burst of slots * N beats, and another follows at once, be bursts
    of a single beat. ``idle`` holds from the cycle after the last beat, and ``nothing`` less ``hand`` after ``start`` and ``known``
    where no column is listed.

    A column passes the stages *list* (which one), *walk* (address), *fetch* (the lists' memories), *column*, *place* (in the weight
    memory) and *burst*. *Walk* sends no more than *column* has room for, so *fetch* never waits, and no enable goes to the
    registers of all lists; *place* moves when it is free or the burst ends; *list* has room for two. No counter feeds a choice in
    the same cycle.
    """

    def __init__(self, layout: Layout, group: int, input_list: ColumnList, lane_lists: list[ColumnList]) -> None:
        self._layout, self._group = layout, group
        self.latency = layout.depths.dispatch
        self._input_bases, self._bases = input_list.bases, lane_lists[0].bases
        # one address serves the lists of all lanes
        assert all(columns.bases == self._bases for columns in lane_lists), "lists of one group lie alike"
        super().__init__(
            {
                "start": In(1),
                "phase": In(depth_bits(len(layout.phases))),
                "first": In(1),
                "bank": In(1),
                "late": In(1),
                "known": In(1),
                "open": In(1),
                "input": Out(ColumnReads(input_list)),
                **{f"lane_{lane}": Out(ColumnReads(columns)) for lane, columns in enumerate(lane_lists)},
                "beat": Out(Beat(layout)),
                "issued": Out(1),
                "idle": Out(1, init=1),
                **({"prime": In(1)} if layout.states else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, beat, group = self._layout, self.beat, self._group
        phases, lanes = layout.phases, layout.lanes
        sides = [getattr(self, f"lane_{lane}") for lane in range(lanes)]
        lists = [self.input, *sides]  # in this order, everywhere

        # what comes from the lists, at lanes all over a large device, in registers on its way
        some_columns = [
            [delay(m, some, layout.depths.known, f"some_{number}_{section}") for section, some in enumerate(side.some)]
            for number, side in enumerate(lists)
        ]
        pairs: tuple[list[MatrixLayout | None], ...] = (
            [phase.matrices[0] for phase in phases],
            [phase.matrices[1] if len(phase.matrices) > 1 else None for phase in phases],
        )

        def table(values: list[int] | list[bool], name: str) -> Value:
            """A constant of the phase, registered: it is used from two cycles after the phase's start on."""
            if len(set(values)) == 1:
                return Const(int(values[0]), range(max(2, values[0] + 1)))
            register = Signal(range(max(2, max(values) + 1)), name=name)
            m.d.sync += register.eq(constant(m, self.phase, [int(value) for value in values], f"{name}_now"))
            return register

        def of_matrices(of: Any, name: str) -> list[Value]:
            """The same for the first and the second matrix; a phase without one has any value."""
            any_value = of(next(matrix for pair in pairs for matrix in pair if matrix is not None))
            return [
                table([any_value if matrix is None else of(matrix) for matrix in pair], f"{name}_{at}")
                for at, pair in enumerate(pairs)
            ]

        # -- which lists have columns of either matrix ---------------------------------------------------------------------
        some: list[Value] = []
        counts: list[list[Signal]] = []
        single: list[list[Signal]] = []
        for at, pair in enumerate(pairs):

            def phased(values: list[bool], name: str, at: int = at) -> Value:
                return constant(m, self.phase, [int(value) for value in values], f"{name}_{at}").bool()

            inputs = phased([matrix is not None and matrix.source == INPUT for matrix in pair], "of_input")
            listed = phased([matrix is not None and matrix.source != INPUT for matrix in pair], "of_lanes")
            now = phased([bool(matrix and matrix.now) for matrix in pair], "now")
            enable = listed & (now | ~self.first)
            if layout.states:
                carried = phased([bool(matrix and matrix.carried) for matrix in pair], "carried")
                inputs, enable = inputs & ~self.prime, Mux(self.prime, carried, enable)
            sections = [matrix.source if matrix and matrix.source != INPUT else 0 for matrix in pair]
            found = [inputs & Array(some_columns[0])[self.bank]]
            mine, ones = [], []
            for number, side in enumerate(lists):
                count = Signal.like(side.counts[0], name=f"count_{at}_{number}")
                one = Signal(name=f"single_{at}_{number}")
                of = (
                    Array(self.input.counts)[self.bank]
                    if number == 0
                    else Array(side.counts[section] for section in sections)[self.phase]
                )
                m.d.sync += [count.eq(of), one.eq(count == 1)]
                mine.append(count)
                ones.append(one)
                if number:
                    found.append(enable & Array(some_columns[number][section] for section in sections)[self.phase])
            some.append(Cat(*found))
            counts.append(mine)
            single.append(ones)

        # -- list: the next one with columns, as one bit of a mask -----------------------------------------------------------
        early, late = (Signal(len(lists), name=name) for name in ("early_lists", "late_lists"))
        swapped, pending = Signal(), Signal()
        list_valid, list_second = Signal(), Signal()
        chosen = Signal(len(lists))
        walk_take = Signal()
        spare_list = Signal()
        following = Signal(data.StructLayout({"valid": 1, "second": 1, "chosen": len(lists)}))
        m.d.comb += following.eq(
            Cat(
                early.any() | late.any(),
                Mux(early.any(), swapped, ~swapped),
                Mux(early.any(), _lowest(early), _lowest(late)),
            )
        )
        stage = Cat(list_valid, list_second, chosen)
        _buffered(m, stage, following, list_valid, following.valid, walk_take, spare_list, "spare_list")
        with m.If(~spare_list):
            m.d.sync += early.eq(early & (early - 1))
            with m.If(~early.any()):
                m.d.sync += late.eq(late & (late - 1))
        with m.If(self.start):
            m.d.sync += [early.eq(Mux(self.late, some[1], some[0])), swapped.eq(self.late), pending.eq(~self.known)]
            with m.If(self.known):
                m.d.sync += late.eq(Mux(self.late, some[0], some[1]))
        with m.Elif(pending & self.known):
            m.d.sync += [late.eq(Mux(swapped, some[0], some[1])), pending.eq(0)]

        # -- walk: through a list's columns ----------------------------------------------------------------------------------
        def picked(values: list[list[Signal]]) -> Value:
            """Of the chosen list and matrix: an OR over one-hot choices."""
            terms = [
                Mux(chosen[number] & (list_second == at), value, 0)
                for at, mine in enumerate(values)
                for number, value in enumerate(mine)
            ]
            total = terms[0]
            for term in terms[1:]:
                total = total | term
            return total

        bases = of_matrices(lambda x: 0 if x.source == INPUT else self._bases[x.source], "list_base")
        input_base = Signal(depth_bits(max(self._input_bases) + 1))
        m.d.sync += input_base.eq(Array(self._input_bases)[self.bank])
        walk_valid, walk_final, walk_second = Signal(), Signal(), Signal()
        walk_list = Signal(range(len(lists)))
        walk_left = Signal(max(len(side.counts[0]) for side in lists))
        address = Signal(max(len(side.address) for side in lists))
        fetch_valid, fetch_second = Signal(), Signal()
        fetch_list = Signal.like(walk_list, name="fetch_list")
        fetch_move = Signal()
        m.d.comb += [
            walk_take.eq(~walk_valid | (walk_final & fetch_move)),
            self.issued.eq(walk_valid & fetch_move),
        ]
        with m.If(walk_take):
            m.d.sync += [
                walk_valid.eq(list_valid),
                walk_second.eq(list_second),
                walk_list.eq(_position(chosen)),
                walk_left.eq(picked(counts)),
                walk_final.eq(picked(single)),
                address.eq(Mux(chosen[0], input_base, Mux(list_second, bases[1], bases[0]))),
            ]
        with m.Elif(fetch_move):
            m.d.sync += [walk_left.eq(walk_left - 1), walk_final.eq(walk_left == 2), address.eq(address + 1)]

        # -- fetch: the lists' own read registers ------------------------------------------------------------------------------
        column_valid, column_second = Signal(), Signal()
        column_move = Signal()
        # columns between *walk* and *place*: no more than the ways there and *column* hold if *place* does not take them
        room = layout.depths.lists + 1
        owed, owed_next = Signal(range(room + 1)), Signal(range(room + 1))
        full = Signal()
        m.d.comb += [
            fetch_move.eq(~full | (column_valid & column_move)),
            owed_next.eq(owed + self.issued - (column_valid & column_move)),
        ]
        m.d.sync += [owed.eq(owed_next), full.eq(owed_next == room)]
        fetched: Value = Cat(self.issued, walk_second, walk_list)
        # one of these registers is each list's own
        far = layout.depths.lists > 1
        fetched = delay(m, fetched, layout.depths.lists - far, "fetch")
        entries_read = []
        for number, side in enumerate(lists):
            where: Value = address
            if far:
                m.submodules[f"address_{number}"] = register = Register(len(address))
                m.d.comb += register.i.eq(address)
                where = register.o
            m.d.comb += side.address.eq(where)
            entry = Cat(side.entry.place, side.entry.delta)
            entries_read.append(delay(m, entry, layout.depths.lists - 1 - 2 * far, f"entry_{number}"))
        m.d.comb += Cat(fetch_valid, fetch_second, fetch_list).eq(fetched)

        # -- column: what the list says, and where the bank of its columns begins in the weight memory ---------------------------
        starts = []
        for number in range(len(phases)):
            for pair in pairs:
                matrix = pair[number]
                banks = [0] * (1 << len(walk_list))
                if matrix is not None:
                    first = int(matrix.source != INPUT)
                    banks[first : first + len(matrix.bases[group])] = matrix.bases[group]
                starts += banks
        column_base = Signal(depth_bits(layout.weight_depth))
        place = Signal(max(len(side.entry.place) for side in lists))
        delta = Signal(signed(layout.delta_width))
        place_valid, place_second = Signal(), Signal()
        take = Signal()
        spare_place = Signal()
        m.d.comb += column_move.eq(~spare_place)
        read = [(entry, len(side.entry.place)) for entry, side in zip(entries_read, lists, strict=True)]
        found = Cat(
            fetch_valid,
            fetch_second,
            _fitted(Array(starts)[Cat(fetch_list, fetch_second, self.phase)], column_base),
            _fitted(Array(entry[:places] for entry, places in read)[fetch_list], place),
            _fitted(Array(entry[places:].as_signed() for entry, places in read)[fetch_list], delta),
        )
        found = delay(m, found, int(far), "found")
        stage = Cat(column_valid, column_second, column_base, place, delta)
        _queued(m, stage, found, column_move, room - 1, "kept_column")

        # -- place: in the weight memory; the delta at the matrix's scale -------------------------------------------------------
        bursts = sorted({matrix.burst for pair in pairs for matrix in pair if matrix is not None})
        burst = of_matrices(lambda x: bursts.index(x.burst), "burst")
        shifts = sorted({matrix.term.shift for pair in pairs for matrix in pair if matrix is not None})
        shift = of_matrices(lambda x: shifts.index(x.term.shift), "shift")
        product = Signal(len(place) + bursts[-1].bit_length())
        base = Signal.like(column_base, name="base")
        scaled = Signal(signed(layout.operand_width))
        placed = Cat(
            column_valid,
            column_second,
            _fitted(Array(_times(place, each) for each in bursts)[Mux(column_second, burst[1], burst[0])], product),
            column_base,
            _fitted(
                Array(delta.shift_left(by) for by in shifts)[Mux(column_second, shift[1], shift[0])]
                if len(shifts) > 1
                else delta.shift_left(shifts[0]),
                scaled,
            ),
        )
        stage = Cat(place_valid, place_second, product, base, scaled)
        _buffered(m, stage, placed, place_valid, column_valid, take, spare_place, "spare_place")

        # -- burst -------------------------------------------------------------------------------------------------------------
        entries = of_matrices(lambda x: x.term.matrix.entries - 1, "entries")
        lone = of_matrices(lambda x: int(x.burst == 1), "lone")
        slots = table([phase.slots - 1 for phase in phases], "slots")
        acc_base = table([phase.acc_base for phase in phases], "acc_base")
        block = table([phase.phase.block for phase in phases], "block")
        entry_reload = Signal(max(len(each) for each in entries))
        entry_left = Signal.like(entry_reload, name="entry_left")
        slot_left = Signal.like(slots, name="slot_left")
        # whether this beat is its burst's last: known a cycle ahead, as the whole pipeline waits for it
        final, free = Signal(), Signal()
        m.d.comb += [free.eq(~beat.valid | final), take.eq(free & self.open)]
        with m.If(free):
            fresh = Mux(place_second, entries[1], entries[0])
            m.d.sync += [
                beat.valid.eq(place_valid & self.open),
                beat.address.eq(product + base),
                beat.delta.eq(scaled),
                beat.slot.eq(acc_base),
                entry_left.eq(fresh),
                entry_reload.eq(fresh),
                slot_left.eq(slots),
                final.eq(Mux(place_second, lone[1], lone[0])),
            ]
            if layout.apart_rows:
                m.d.sync += beat.apart.eq(place_second & table([bool(p.phase.apart) for p in phases], "apart"))
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

        # nothing in front of the fetch stage: known a cycle late, which the stages behind make up for
        walked = Signal()
        m.d.sync += [
            walked.eq(~(self.start | pending | early.any() | late.any() | list_valid | walk_valid)),
            self.idle.eq(
                ~self.start & walked & ~(owed.any() | place_valid | (beat.valid & ~final)),
            ),
        ]
        return m


def _buffered(
    m: Module, stage: Value, new: Value, valid: Value, coming: Value, take: Value, spare: Signal, name: str
) -> None:
    """A pipeline stage with room for two: it takes a ``new`` item in every cycle that begins without a ``spare`` one.

    ``valid`` is the stage's own, ``coming`` that of the new item; ``take``: the next stage takes the item, if there is one.
    """
    kept = Signal(len(stage), name=name, reset_less=True)
    with m.If(take | ~valid):
        m.d.sync += [stage.eq(Mux(spare, kept, new)), spare.eq(0)]
    with m.Elif(coming & ~spare):
        m.d.sync += [kept.eq(new), spare.eq(1)]


def _queued(m: Module, stage: Value, new: Value, take: Value, more: int, name: str) -> None:
    """A pipeline stage with room for ``more`` items that never refuses one; whoever sends them counts.

    Bit 0 of an item, and of the stage, says whether there is one; ``take``: the next stage takes it, if there is.
    """
    kept = [Signal(len(stage), name=f"{name}_{number}", reset_less=True) for number in range(more)]
    held = [Signal(name=f"{name}_{number}_held") for number in range(more)]
    with m.If(take | ~stage[0]):
        m.d.sync += stage.eq(Mux(held[0], kept[0], new))
        for number, (item, there) in enumerate(zip(kept, held, strict=True)):
            behind = number + 1 < len(kept)
            after = Mux(held[number + 1], kept[number + 1], new) if behind else new
            follows = held[number + 1] | new[0] if behind else new[0]
            m.d.sync += [item.eq(after), there.eq(there & follows)]
    with m.Elif(new[0]):
        for number, (item, there) in enumerate(zip(kept, held, strict=True)):
            first = held[number - 1] if number else Const(1, 1)
            with m.If(first & ~there):
                m.d.sync += [item.eq(new), there.eq(1)]


def _fitted(value: Value, like: Signal) -> Value:
    """A value with the width of the register that holds it, sign included."""
    found = Value.cast(value)
    extra = len(like) - len(found)
    if extra <= 0:
        return found[: len(like)]
    return Cat(found, found[-1].replicate(extra) if found.shape().signed else Const(0, extra))


def _times(value: Value, factor: int) -> Value:
    """value * factor in adders: a multiplier's delay would be the dispatcher's longest."""
    return shifted_sum([value if factor >> bit & 1 else Const(0, 0) for bit in range(factor.bit_length())])


def _lowest(mask: Value) -> Value:
    """The lowest set bit alone."""
    return Cat(*(bit & ~mask[:number].any() if number else bit for number, bit in enumerate(mask)))


def _position(one_hot: Value) -> Value:
    """The number of the only bit that is set."""
    bits = (len(one_hot) - 1).bit_length()
    numbers = [[bit for number, bit in enumerate(one_hot) if number >> place & 1] for place in range(bits)]
    return Cat(*(Cat(*mine).any() for mine in numbers))
