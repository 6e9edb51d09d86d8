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
        return _Encoding(self, platform).build()

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


class _Encoding:
    """One elaboration of an :class:`InputEncoder`: parts that share signals."""

    def __init__(self, port: InputEncoder, platform: Any) -> None:
        self.port, self.platform = port, platform
        self.m = Module()

    def build(self) -> Module:
        """The whole module, part by part."""
        m = self.m
        self.layout = self.port._layout
        self.inputs, self.groups = [run.inputs for run in self.layout.passes], self.layout.groups
        width = source_width(self.layout)
        m.submodules.sent = sent = Memory(
            shape=signed(width),
            depth=max(self.inputs),
            init=[],
            attrs=memory_style(self.platform, width, max(self.inputs)),
        )
        m.submodules.compare = self.compare = DeltaCompare(width)
        self.write = sent.write_port()
        # read a cycle ahead of the column: one that comes again after another meets its own update on the way
        self.read = sent.read_port(transparent_for=[self.write] if min(self.inputs) <= 2 else [])

        self.column = Signal(range(max(2, max(self.inputs))))
        following = Signal.like(self.column, name="following")
        self.after = Signal.like(self.column, name="after", init=int(min(self.inputs) > 1))
        self.written = Signal.like(self.column, name="written")
        self.run = Signal(range(max(2, len(self.inputs))))
        self.group = Signal.like(self.port.push.group, name="group")
        self.place = Signal.like(self.port.push.place, name="place")
        # the reference counts as 0 throughout a sequence's first frame, whatever the memory holds
        self.first = Signal(init=1)
        self.filling = Signal()
        # a bank is taken with its frame's last value, and full once that value's comparison is in the list
        self.taken_banks = Signal(2)
        self.full = Signal(2)
        self.ends = Signal(2)
        self.take = Signal()
        self.final = Signal()
        self.reference = Signal.like(self.read.data, name="reference")
        self.taken = Signal()
        m.d.comb += [
            self.port.i.ready.eq(~self.taken_banks.bit_select(self.filling, 1)),
            self.take.eq(self.port.i.valid & self.port.i.ready),
            following.eq(Mux(self.take, self.after, self.column)),
            self.read.addr.eq(following),
            self.reference.eq(self.read.data),
            self.compare.value.eq(self.port.i.payload.data),
            self.compare.reference.eq(Mux(self.first, 0, self.reference)),
            self.compare.threshold.eq(self.port._threshold(m, self.run, self.column)),
            self.port.ready.eq(self.full.bit_select(self.port.bank, 1)),
            self.port.last.eq(self.ends.bit_select(self.port.bank, 1)),
            self.port.open.bank.eq(self.port.bank),
            self.port.open.valid.eq(self.port.release),
        ]
        self._count()
        self._keep()
        self._list()
        m.d.sync += self.column.eq(following)
        self._advance()
        with m.If(self.port.release):
            m.d.sync += [banks.bit_select(self.port.bank, 1).eq(0) for banks in (self.full, self.taken_banks)]
            m.d.sync += [self.port.bank.eq(~self.port.bank)]
        return m

    def _count(self) -> None:
        """The column after this one, and whether that ends the frame: nothing is counted between a value and its reference."""
        m = self.m
        if min(self.inputs) == 1:
            m.d.comb += self.after.eq(Mux(self.final, 0, self.column + 1))
            m.d.comb += self.final.eq(
                self.column == constant(m, self.run, [count - 1 for count in self.inputs], "final_column")
            )
        else:
            before = constant(m, self.run, [count - 2 for count in self.inputs], "before_final")
            with m.If(self.take):
                m.d.sync += [
                    self.final.eq(~self.final & (self.column == before)),
                    self.after.eq(Mux(~self.final & (self.column == before), 0, self.after + 1)),
                ]

    def _keep(self) -> None:
        """What was sent is written back."""
        m = self.m
        update = [
            self.write.addr.eq(self.written),
            self.write.data.eq(self.compare.update),
            self.write.en.eq(self.taken),
        ]
        if self.layout.config.deep and min(self.inputs) > 3:
            # a cycle after the comparison, still before the column is read again
            m.d.sync += update
        else:
            m.d.comb += update
        if min(self.inputs) == 1:
            # the only column may come again while its comparison is in work
            again = Signal()
            m.d.comb += again.eq(self.taken & (constant(m, self.run, self.inputs, "inputs") == 1))
            m.d.comb += self.reference.eq(Mux(again, self.compare.update, self.read.data))

    def _list(self) -> None:
        """The comparison's stage, then the list's; a bank is full once its frame's last value is compared."""
        m = self.m
        where = Signal(
            data.StructLayout({"bank": 1, "group": len(self.port.push.group), "place": len(self.port.push.place)})
        )
        completing = data.StructLayout({"frame": 1, "last": 1, "bank": 1})
        ending, complete = Signal(completing, name="ending"), Signal(completing, name="complete")
        m.d.sync += [
            self.taken.eq(self.take),
            self.written.eq(self.column),
            where.eq(Cat(self.filling, self.group, self.place)),
            ending.frame.eq(self.take & self.final),
            ending.last.eq(self.port.i.payload.last),
            ending.bank.eq(self.filling),
            self.port.push.valid.eq(self.taken & self.compare.moved),
            self.port.push.bank.eq(where.bank),
            self.port.push.group.eq(where.group),
            self.port.push.place.eq(where.place),
            self.port.push.delta.eq(self.compare.delta),
            complete.eq(ending),
        ]
        complete = delay(m, complete, self.layout.depths.known, "known")
        with m.If(complete.frame):
            m.d.sync += [
                self.full.bit_select(complete.bank, 1).eq(1),
                self.ends.bit_select(complete.bank, 1).eq(complete.last),
            ]

    def _advance(self) -> None:
        """The next column's group and place; the next bank and pass behind a frame's last value."""
        m = self.m
        with m.If(self.take):
            with m.If(self.group == self.groups - 1):
                m.d.sync += [self.group.eq(0), self.place.eq(self.place + 1)]
            with m.Else():
                m.d.sync += self.group.eq(self.group + 1)
            with m.If(self.final):
                m.d.sync += self.taken_banks.bit_select(self.filling, 1).eq(1)
                m.d.sync += [
                    self.group.eq(0),
                    self.place.eq(0),
                    self.filling.eq(~self.filling),
                    self.first.eq(self.port.i.payload.last),
                ]
                with m.If(self.port.i.payload.last):
                    m.d.sync += self.run.eq(Mux(self.run == len(self.inputs) - 1, 0, self.run + 1))


__all__ = ["THRESHOLD_BITS", "DeltaCompare", "InputEncoder", "input_payload", "source_width"]
