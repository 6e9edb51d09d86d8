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
        return _Pipeline(self).build()


class _Pipeline:
    """One elaboration of a :class:`Dispatcher`: six stages that share signals, each in a method."""

    def __init__(self, port: Dispatcher) -> None:
        self.port = port
        self.m = Module()

    def build(self) -> Module:
        """The whole module, part by part."""
        m = self.m
        self.layout, self.beat, self.group = self.port._layout, self.port.beat, self.port._group
        self.phases, lanes = self.layout.phases, self.layout.lanes
        sides = [getattr(self.port, f"lane_{lane}") for lane in range(lanes)]
        self.lists = [self.port.input, *sides]  # in this order, everywhere

        # what comes from the lists, at lanes all over a large device, in registers on its way
        self.some_columns = [
            [
                delay(m, some, self.layout.depths.known, f"some_{number}_{section}")
                for section, some in enumerate(side.some)
            ]
            for number, side in enumerate(self.lists)
        ]
        self.pairs: tuple[list[MatrixLayout | None], ...] = (
            [phase.matrices[0] for phase in self.phases],
            [phase.matrices[1] if len(phase.matrices) > 1 else None for phase in self.phases],
        )

        self._which()
        self._list()
        self._walk()
        self._fetch()
        self._column()
        self._place()
        self._burst()

        # nothing in front of the fetch stage: known a cycle late, which the stages behind make up for
        walked = Signal()
        m.d.sync += [
            walked.eq(
                ~(
                    self.port.start
                    | self.pending
                    | self.early.any()
                    | self.late.any()
                    | self.list_valid
                    | self.walk_valid
                )
            ),
            self.port.idle.eq(
                ~self.port.start & walked & ~(self.owed.any() | self.place_valid | (self.beat.valid & ~self.final)),
            ),
        ]
        return m

    def table(self, values: list[int] | list[bool], name: str) -> Value:
        """A constant of the phase, registered: it is used from two cycles after the phase's start on."""
        m = self.m
        if len(set(values)) == 1:
            return Const(int(values[0]), range(max(2, values[0] + 1)))
        register = Signal(range(max(2, max(values) + 1)), name=name)
        m.d.sync += register.eq(constant(m, self.port.phase, [int(value) for value in values], f"{name}_now"))
        return register

    def of_matrices(self, of: Any, name: str) -> list[Value]:
        """The same for the first and the second matrix; a phase without one has any value."""
        any_value = of(next(matrix for pair in self.pairs for matrix in pair if matrix is not None))
        return [
            self.table([any_value if matrix is None else of(matrix) for matrix in pair], f"{name}_{at}")
            for at, pair in enumerate(self.pairs)
        ]

    def _which(self) -> None:
        """Which lists have columns of either matrix, how many, and whether it is one."""
        m = self.m
        self.some: list[Value] = []
        self.counts: list[list[Signal]] = []
        self.single: list[list[Signal]] = []
        for at, pair in enumerate(self.pairs):

            def phased(values: list[bool], name: str, at: int = at) -> Value:
                return constant(m, self.port.phase, [int(value) for value in values], f"{name}_{at}").bool()

            inputs = phased([matrix is not None and matrix.source == INPUT for matrix in pair], "of_input")
            listed = phased([matrix is not None and matrix.source != INPUT for matrix in pair], "of_lanes")
            now = phased([bool(matrix and matrix.now) for matrix in pair], "now")
            enable = listed & (now | ~self.port.first)
            if self.layout.states:
                carried = phased([bool(matrix and matrix.carried) for matrix in pair], "carried")
                inputs, enable = inputs & ~self.port.prime, Mux(self.port.prime, carried, enable)
            sections = [matrix.source if matrix and matrix.source != INPUT else 0 for matrix in pair]
            found = [inputs & Array(self.some_columns[0])[self.port.bank]]
            mine, ones = [], []
            for number, side in enumerate(self.lists):
                count = Signal.like(side.counts[0], name=f"count_{at}_{number}")
                one = Signal(name=f"single_{at}_{number}")
                of = (
                    Array(self.port.input.counts)[self.port.bank]
                    if number == 0
                    else Array(side.counts[section] for section in sections)[self.port.phase]
                )
                m.d.sync += [count.eq(of), one.eq(count == 1)]
                mine.append(count)
                ones.append(one)
                if number:
                    found.append(
                        enable & Array(self.some_columns[number][section] for section in sections)[self.port.phase]
                    )
            self.some.append(Cat(*found))
            self.counts.append(mine)
            self.single.append(ones)

    def _list(self) -> None:
        """The next list with columns, as one bit of a mask."""
        m = self.m
        self.early, self.late = (Signal(len(self.lists), name=name) for name in ("early_lists", "late_lists"))
        swapped, self.pending = Signal(), Signal(name="pending")
        self.list_valid, self.list_second = Signal(), Signal()
        self.chosen = Signal(len(self.lists))
        self.walk_take = Signal()
        spare_list = Signal()
        following = Signal(data.StructLayout({"valid": 1, "second": 1, "chosen": len(self.lists)}))
        m.d.comb += following.eq(
            Cat(
                self.early.any() | self.late.any(),
                Mux(self.early.any(), swapped, ~swapped),
                Mux(self.early.any(), _lowest(self.early), _lowest(self.late)),
            )
        )
        stage = Cat(self.list_valid, self.list_second, self.chosen)
        _buffered(m, stage, following, self.list_valid, following.valid, self.walk_take, spare_list, "spare_list")
        with m.If(~spare_list):
            m.d.sync += self.early.eq(self.early & (self.early - 1))
            with m.If(~self.early.any()):
                m.d.sync += self.late.eq(self.late & (self.late - 1))
        with m.If(self.port.start):
            m.d.sync += [
                self.early.eq(Mux(self.port.late, self.some[1], self.some[0])),
                swapped.eq(self.port.late),
                self.pending.eq(~self.port.known),
            ]
            with m.If(self.port.known):
                m.d.sync += self.late.eq(Mux(self.port.late, self.some[0], self.some[1]))
        with m.Elif(self.pending & self.port.known):
            m.d.sync += [self.late.eq(Mux(swapped, self.some[0], self.some[1])), self.pending.eq(0)]

    def picked(self, values: list[list[Signal]]) -> Value:
        """Of the chosen list and matrix: an OR over one-hot choices."""
        terms = [
            Mux(self.chosen[number] & (self.list_second == at), value, 0)
            for at, mine in enumerate(values)
            for number, value in enumerate(mine)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total | term
        return total

    def _walk(self) -> None:
        """Through a list's columns."""
        m = self.m
        bases = self.of_matrices(lambda x: 0 if x.source == INPUT else self.port._bases[x.source], "list_base")
        input_base = Signal(depth_bits(max(self.port._input_bases) + 1))
        m.d.sync += input_base.eq(Array(self.port._input_bases)[self.port.bank])
        self.walk_valid, walk_final, self.walk_second = Signal(), Signal(), Signal(name="walk_second")
        self.walk_list = Signal(range(len(self.lists)))
        walk_left = Signal(max(len(side.counts[0]) for side in self.lists))
        self.address = Signal(max(len(side.address) for side in self.lists))
        self.fetch_valid, self.fetch_second = Signal(), Signal(name="fetch_second")
        self.fetch_list = Signal.like(self.walk_list, name="fetch_list")
        self.fetch_move = Signal()
        m.d.comb += [
            self.walk_take.eq(~self.walk_valid | (walk_final & self.fetch_move)),
            self.port.issued.eq(self.walk_valid & self.fetch_move),
        ]
        with m.If(self.walk_take):
            m.d.sync += [
                self.walk_valid.eq(self.list_valid),
                self.walk_second.eq(self.list_second),
                self.walk_list.eq(_position(self.chosen)),
                walk_left.eq(self.picked(self.counts)),
                walk_final.eq(self.picked(self.single)),
                self.address.eq(Mux(self.chosen[0], input_base, Mux(self.list_second, bases[1], bases[0]))),
            ]
        with m.Elif(self.fetch_move):
            m.d.sync += [walk_left.eq(walk_left - 1), walk_final.eq(walk_left == 2), self.address.eq(self.address + 1)]

    def _fetch(self) -> None:
        """The lists' own read registers; columns on the way are counted, so that their reads need no enable."""
        m = self.m
        self.column_valid, self.column_second = Signal(), Signal(name="column_second")
        self.column_move = Signal()
        # columns between *walk* and *place*: no more than the ways there and *column* hold if *place* does not take them
        self.room = self.layout.depths.lists + 1
        self.owed, owed_next = Signal(range(self.room + 1)), Signal(range(self.room + 1), name="owed_next")
        full = Signal()
        m.d.comb += [
            self.fetch_move.eq(~full | (self.column_valid & self.column_move)),
            owed_next.eq(self.owed + self.port.issued - (self.column_valid & self.column_move)),
        ]
        m.d.sync += [self.owed.eq(owed_next), full.eq(owed_next == self.room)]
        fetched: Value = Cat(self.port.issued, self.walk_second, self.walk_list)
        # one of these registers is each list's own
        self.far = self.layout.depths.lists > 1
        fetched = delay(m, fetched, self.layout.depths.lists - self.far, "fetch")
        self.entries_read = []
        for number, side in enumerate(self.lists):
            where: Value = self.address
            if self.far:
                m.submodules[f"address_{number}"] = register = Register(len(self.address))
                m.d.comb += register.i.eq(self.address)
                where = register.o
            m.d.comb += side.address.eq(where)
            entry = Cat(side.entry.place, side.entry.delta)
            self.entries_read.append(delay(m, entry, self.layout.depths.lists - 1 - 2 * self.far, f"entry_{number}"))
        m.d.comb += Cat(self.fetch_valid, self.fetch_second, self.fetch_list).eq(fetched)

    def _column(self) -> None:
        """What the list says, and where the bank of its columns begins in the weight memory."""
        m = self.m
        starts = []
        for number in range(len(self.phases)):
            for pair in self.pairs:
                matrix = pair[number]
                banks = [0] * (1 << len(self.walk_list))
                if matrix is not None:
                    first = int(matrix.source != INPUT)
                    banks[first : first + len(matrix.bases[self.group])] = matrix.bases[self.group]
                starts += banks
        self.column_base = Signal(depth_bits(self.layout.weight_depth))
        self.place = Signal(max(len(side.entry.place) for side in self.lists))
        self.delta = Signal(signed(self.layout.delta_width))
        self.place_valid, self.place_second = Signal(), Signal(name="place_second")
        self.take = Signal()
        self.spare_place = Signal()
        m.d.comb += self.column_move.eq(~self.spare_place)
        read = [(entry, len(side.entry.place)) for entry, side in zip(self.entries_read, self.lists, strict=True)]
        found = Cat(
            self.fetch_valid,
            self.fetch_second,
            _fitted(Array(starts)[Cat(self.fetch_list, self.fetch_second, self.port.phase)], self.column_base),
            _fitted(Array(entry[:places] for entry, places in read)[self.fetch_list], self.place),
            _fitted(Array(entry[places:].as_signed() for entry, places in read)[self.fetch_list], self.delta),
        )
        found = delay(m, found, int(self.far), "found")
        stage = Cat(self.column_valid, self.column_second, self.column_base, self.place, self.delta)
        _queued(m, stage, found, self.column_move, self.room - 1, "kept_column")

    def _place(self) -> None:
        """A column's place in the weight memory; the delta at the matrix's scale."""
        m = self.m
        bursts = sorted({matrix.burst for pair in self.pairs for matrix in pair if matrix is not None})
        burst = self.of_matrices(lambda x: bursts.index(x.burst), "burst")
        shifts = sorted({matrix.term.shift for pair in self.pairs for matrix in pair if matrix is not None})
        shift = self.of_matrices(lambda x: shifts.index(x.term.shift), "shift")
        self.product = Signal(len(self.place) + bursts[-1].bit_length())
        self.base = Signal.like(self.column_base, name="base")
        self.scaled = Signal(signed(self.layout.operand_width))
        placed = Cat(
            self.column_valid,
            self.column_second,
            _fitted(
                Array(_times(self.place, each) for each in bursts)[Mux(self.column_second, burst[1], burst[0])],
                self.product,
            ),
            self.column_base,
            _fitted(
                Array(self.delta.shift_left(by) for by in shifts)[Mux(self.column_second, shift[1], shift[0])]
                if len(shifts) > 1
                else self.delta.shift_left(shifts[0]),
                self.scaled,
            ),
        )
        stage = Cat(self.place_valid, self.place_second, self.product, self.base, self.scaled)
        _buffered(m, stage, placed, self.place_valid, self.column_valid, self.take, self.spare_place, "spare_place")

    def _burst(self) -> None:
        """An entry a cycle, slot by slot."""
        m = self.m
        entries = self.of_matrices(lambda x: x.term.matrix.entries - 1, "entries")
        lone = self.of_matrices(lambda x: int(x.burst == 1), "lone")
        slots = self.table([phase.slots - 1 for phase in self.phases], "slots")
        acc_base = self.table([phase.acc_base for phase in self.phases], "acc_base")
        block = self.table([phase.phase.block for phase in self.phases], "block")
        entry_reload = Signal(max(len(each) for each in entries))
        entry_left = Signal.like(entry_reload, name="entry_left")
        slot_left = Signal.like(slots, name="slot_left")
        # whether this beat is its burst's last: known a cycle ahead, as the whole pipeline waits for it
        self.final, free = Signal(), Signal(name="free")
        m.d.comb += [free.eq(~self.beat.valid | self.final), self.take.eq(free & self.port.open)]
        with m.If(free):
            fresh = Mux(self.place_second, entries[1], entries[0])
            m.d.sync += [
                self.beat.valid.eq(self.place_valid & self.port.open),
                self.beat.address.eq(self.product + self.base),
                self.beat.delta.eq(self.scaled),
                self.beat.slot.eq(acc_base),
                entry_left.eq(fresh),
                entry_reload.eq(fresh),
                slot_left.eq(slots),
                self.final.eq(Mux(self.place_second, lone[1], lone[0])),
            ]
            if self.layout.apart_rows:
                m.d.sync += self.beat.apart.eq(
                    self.place_second & self.table([bool(p.phase.apart) for p in self.phases], "apart")
                )
        with m.Else():
            m.d.sync += self.beat.address.eq(self.beat.address + 1)
            with m.If(entry_left == 0):
                m.d.sync += [
                    entry_left.eq(entry_reload),
                    slot_left.eq(slot_left - 1),
                    self.beat.slot.eq(self.beat.slot + block),
                    self.final.eq((slot_left == 1) & (entry_reload == 0)),
                ]
            with m.Else():
                m.d.sync += [entry_left.eq(entry_left - 1), self.final.eq((entry_left == 1) & (slot_left == 0))]


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
