"""Delta encoding: send a column only when it moved by more than a threshold since it was last sent."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout
from sparsegate.program import THRESHOLD_BITS
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.engine.pe import depth_bits
from sparsegate_hw.fabric.primitives import memory_style


class DeltaCompare(wiring.Component):
    """The rule of the delta network: moved if |value - reference| > threshold, then the reference becomes the value.

    Members: ``value`` and ``reference`` signed(width), ``threshold`` unsigned(16); ``moved``, ``delta`` signed(width + 1),
    ``update`` signed(width) (the new reference), ``some`` (whether that is not 0).

    Timing: ``latency`` 1, or 2 with a register between the differences and the comparison; the threshold belongs to the cycle
    before that register, or the outputs' where there is none. Source: Neil et al., Delta Networks, ICML 2017, eq. 3.
    """

    def __init__(self, width: int, latency: int = 1) -> None:
        self.latency = latency
        super().__init__(
            {
                "value": In(signed(width)),
                "reference": In(signed(width)),
                "threshold": In(THRESHOLD_BITS),
                "moved": Out(1),
                "delta": Out(signed(width + 1)),
                "update": Out(signed(width)),
                "some": Out(1),
            }
        )

    @staticmethod
    def model(value: int, reference: int, threshold: int) -> tuple[bool, int, int]:
        """Integer model: moved, delta, new reference."""
        moved = abs(value - reference) > threshold
        return moved, value - reference, value if moved else reference

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value = Signal.like(self.value, name="value_1")
        reference = Signal.like(self.reference, name="reference_1")
        # both differences, so that the comparison needs no negation
        opposite = Signal.like(self.delta, name="opposite")
        difference = Signal.like(self.delta, name="difference")
        moved: Value = (difference > self.threshold) | (opposite > self.threshold)
        some_value, some_reference = Signal(), Signal()
        m.d.sync += [
            some_value.eq(self.value.any()),
            some_reference.eq(self.reference.any()),
            value.eq(self.value),
            reference.eq(self.reference),
            difference.eq(self.value - self.reference),
            opposite.eq(self.reference - self.value),
        ]
        value, reference, difference, moved, some_value, some_reference = (
            delay(m, item, self.latency - 1, name)
            for item, name in (
                (value, "late_value"),
                (reference, "late_reference"),
                (difference, "late"),
                (moved, "moved"),
                (some_value, "late_some_value"),
                (some_reference, "late_some_reference"),
            )
        )
        m.d.comb += [
            self.moved.eq(moved),
            self.delta.eq(difference),
            self.update.eq(Mux(self.moved, value, reference)),
            self.some.eq(Mux(self.moved, some_value, some_reference)),
        ]
        return m


def source_width(layout: Layout) -> int:
    """Bits of the widest value that a pass takes."""
    return max(layout.program.layers[run.of.layers.start].formats["x"].width for run in layout.passes)


def input_payload(layout: Layout) -> data.StructLayout:
    """Payload of a pass's input stream: one column's value; ``last`` with the final value of a sequence's final frame."""
    return data.StructLayout({"data": signed(source_width(layout)), "last": 1})


class InputEncoder(wiring.Component):
    """Takes frames of the pass's input and lists the columns that moved, in two banks in turn. Passes take turns, a sequence each.

    Members: ``i`` stream of :func:`input_payload`; ``threshold`` unsigned(16) of each of ``program.vectors``, of which a column has
    that of the vector it is part of; ``push`` (valid, bank, group, place, delta) to
    the column groups' lists; ``open`` (valid, bank) pulses with ``release``, to empty
    that bank for a later frame; ``ready``, ``bank`` and
    ``last``: a frame is complete in ``bank``, and whether it ends its sequence; ``release`` (in) gives that bank back.

    Timing: one value a cycle; a frame's list is complete, and ``ready``, ``latency`` + 1 cycles after its last value was taken.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.latency = layout.depths.encode
        width = source_width(layout)
        places = -(-max(run.inputs for run in layout.passes) // layout.groups)
        super().__init__(
            {
                "i": In(stream.Signature(input_payload(layout))),
                "threshold": In(THRESHOLD_BITS).array(len(layout.program.vectors)),
                "push": Out(
                    wiring.Signature(
                        {
                            "valid": Out(1),
                            "bank": Out(1),
                            "group": Out(depth_bits(layout.groups)),
                            "place": Out(depth_bits(places)),
                            "delta": Out(signed(width + 1)),
                        }
                    )
                ),
                "open": Out(wiring.Signature({"valid": Out(1), "bank": Out(1)})),
                "ready": Out(1),
                "bank": Out(1),
                "last": Out(1),
                "release": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout = self._layout
        inputs, groups = [run.inputs for run in layout.passes], layout.groups
        width = source_width(layout)
        m.submodules.sent = sent = Memory(
            shape=signed(width), depth=max(inputs), init=[], attrs=memory_style(platform, width, max(inputs))
        )
        m.submodules.compare = compare = DeltaCompare(width)
        write = sent.write_port()
        # read a cycle ahead of the column: one that comes again after another meets its own update on the way
        read = sent.read_port(transparent_for=[write] if min(inputs) <= 2 else [])

        column = Signal(range(max(2, max(inputs))))
        following = Signal.like(column, name="following")
        after = Signal.like(column, name="after", init=int(min(inputs) > 1))
        written = Signal.like(column, name="written")
        run = Signal(range(max(2, len(inputs))))
        group = Signal.like(self.push.group, name="group")
        place = Signal.like(self.push.place, name="place")
        # the reference counts as 0 throughout a sequence's first frame, whatever the memory holds
        first = Signal(init=1)
        filling = Signal()
        # a bank is taken with its frame's last value, and full once that value's comparison is in the list
        taken_banks = Signal(2)
        full = Signal(2)
        ends = Signal(2)
        take = Signal()
        final = Signal()
        reference = Signal.like(read.data, name="reference")
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(~taken_banks.bit_select(filling, 1)),
            take.eq(self.i.valid & self.i.ready),
            following.eq(Mux(take, after, column)),
            read.addr.eq(following),
            reference.eq(read.data),
            compare.value.eq(self.i.payload.data),
            compare.reference.eq(Mux(first, 0, reference)),
            compare.threshold.eq(self._threshold(m, run, column)),
            self.ready.eq(full.bit_select(self.bank, 1)),
            self.last.eq(ends.bit_select(self.bank, 1)),
            self.open.bank.eq(self.bank),
            self.open.valid.eq(self.release),
        ]
        # the column after this one, and whether that ends the frame: nothing is counted between a value and its reference
        if min(inputs) == 1:
            m.d.comb += after.eq(Mux(final, 0, column + 1))
            m.d.comb += final.eq(column == constant(m, run, [count - 1 for count in inputs], "final_column"))
        else:
            before = constant(m, run, [count - 2 for count in inputs], "before_final")
            with m.If(take):
                m.d.sync += [
                    final.eq(~final & (column == before)),
                    after.eq(Mux(~final & (column == before), 0, after + 1)),
                ]
        update = [write.addr.eq(written), write.data.eq(compare.update), write.en.eq(taken)]
        if layout.config.deep and min(inputs) > 3:
            # a cycle after the comparison, still before the column is read again
            m.d.sync += update
        else:
            m.d.comb += update
        if min(inputs) == 1:
            # the only column may come again while its comparison is in work
            again = Signal()
            m.d.comb += again.eq(taken & (constant(m, run, inputs, "inputs") == 1))
            m.d.comb += reference.eq(Mux(again, compare.update, read.data))
        # the comparison's stage, then the list's
        where = Signal(data.StructLayout({"bank": 1, "group": len(self.push.group), "place": len(self.push.place)}))
        completing = data.StructLayout({"frame": 1, "last": 1, "bank": 1})
        ending, complete = Signal(completing, name="ending"), Signal(completing, name="complete")
        m.d.sync += [
            taken.eq(take),
            written.eq(column),
            where.eq(Cat(filling, group, place)),
            ending.frame.eq(take & final),
            ending.last.eq(self.i.payload.last),
            ending.bank.eq(filling),
            self.push.valid.eq(taken & compare.moved),
            self.push.bank.eq(where.bank),
            self.push.group.eq(where.group),
            self.push.place.eq(where.place),
            self.push.delta.eq(compare.delta),
            complete.eq(ending),
        ]
        complete = delay(m, complete, layout.depths.known, "known")
        with m.If(complete.frame):
            m.d.sync += [
                full.bit_select(complete.bank, 1).eq(1),
                ends.bit_select(complete.bank, 1).eq(complete.last),
            ]
        m.d.sync += column.eq(following)
        with m.If(take):
            with m.If(group == groups - 1):
                m.d.sync += [group.eq(0), place.eq(place + 1)]
            with m.Else():
                m.d.sync += group.eq(group + 1)
            with m.If(final):
                m.d.sync += taken_banks.bit_select(filling, 1).eq(1)
                m.d.sync += [
                    group.eq(0),
                    place.eq(0),
                    filling.eq(~filling),
                    first.eq(self.i.payload.last),
                ]
                with m.If(self.i.payload.last):
                    m.d.sync += run.eq(Mux(run == len(inputs) - 1, 0, run + 1))
        with m.If(self.release):
            m.d.sync += [banks.bit_select(self.bank, 1).eq(0) for banks in (full, taken_banks)]
            m.d.sync += [self.bank.eq(~self.bank)]
        return m

    def _threshold(self, m: Module, run: Signal, column: Signal) -> Signal:
        """Θ of the column whose comparison comes out in this cycle, one after it was taken."""
        program = self._layout.program
        last = {0: 0}  # number of a source to that of its vector
        for phase in program.phases:
            last[program.layers.index(phase.layer) + 1] = program.phases.index(phase) + 1
        sizes = [program.inputs, *(layer.outputs for layer in program.layers)]
        if len(self._layout.passes) == 1 and len(self._layout.passes[0].of.sources) == 1:
            return self.threshold[last[self._layout.passes[0].of.sources[0]]]
        threshold = Signal(THRESHOLD_BITS)
        with m.Switch(run):
            for number, this in enumerate(self._layout.passes):
                with m.Case(number):
                    end = this.inputs
                    # from the last part to the first, so that the lowest end that the column is below wins
                    for source in reversed(this.of.sources):
                        with m.If(column < end):
                            m.d.sync += threshold.eq(self.threshold[last[source]])
                        end -= sizes[source]
        return threshold


__all__ = ["THRESHOLD_BITS", "DeltaCompare", "InputEncoder", "input_payload", "source_width"]
