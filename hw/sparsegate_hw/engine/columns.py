"""Lists of columns that moved: the queue in front of a column group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout
from sparsegate_hw.engine.pe import depth_bits
from sparsegate_hw.fabric.primitives import Register, memory_style


def entry_layout(places: int, delta_width: int) -> data.StructLayout:
    """A column in a list: its ``place`` in the bank and the ``delta`` (or value) to apply."""
    return data.StructLayout({"place": depth_bits(places), "delta": signed(delta_width)})


class ColumnReads(wiring.Signature):
    """How a dispatcher reads a list of sections: ``counts`` entries of each and ``some``, whether there are any, both registered;
    ``entry`` at ``address`` of the whole memory, a cycle later.
    """

    def __init__(self, columns: ColumnList) -> None:
        super().__init__(
            {
                "counts": In(columns.count).array(len(columns.bases)),
                "some": In(1).array(len(columns.bases)),
                "address": Out(depth_bits(columns.depth)),
                "entry": In(columns.entry),
            }
        )


class ColumnList(wiring.Component):
    """A memory in sections, each filled from its start and emptied at once.

    A section is written once and may be read several times (a layer's moved outputs drive the next layer in the same step and
    the layer itself in the next one).

    Members: ``push`` (valid, section, entry) appends; ``clear`` (valid, section) empties a section; ``read``
    (:class:`ColumnReads`). ``bases`` are the sections' first addresses.

    Timing: a push is visible in ``counts`` and ``some`` one cycle later, and from then on it may be read, or with ``late`` from the
    cycle after. A clear wins over a push to the same section in the same cycle. With ``steady`` a clear comes a cycle late, and a
    push's section is asked for a cycle before it, as it may come from afar.
    """

    latency = 1

    def __init__(
        self, depths: Sequence[int], places: int, delta_width: int, late: bool = False, steady: bool = False
    ) -> None:
        self.late, self.steady = late, steady
        self.bases = [sum(depths[:section]) for section in range(len(depths))]
        self.depth = max(1, sum(depths))
        self.entry = entry_layout(places, delta_width)
        self.count = max(depths).bit_length() or 1
        section = depth_bits(len(depths))
        super().__init__(
            {
                "push": In(wiring.Signature({"valid": Out(1), "section": Out(section), "entry": Out(self.entry)})),
                "clear": In(wiring.Signature({"valid": Out(1), "section": Out(section)})),
                "read": In(ColumnReads(self)),
            }
        )

    @staticmethod
    def model(entries: list[tuple[int, int]], place: int, delta: int) -> list[tuple[int, int]]:
        """Integer model of a push."""
        return [*entries, (place, delta)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=self.entry,
            depth=self.depth,
            init=[],
            attrs=memory_style(platform, self.entry.size, self.depth),
        )
        write, read = memory.write_port(), memory.read_port()
        counts = self.read.counts
        m.d.comb += [read.addr.eq(self.read.address), self.read.entry.eq(read.data)]
        m.d["sync" if self.late else "comb"] += [
            write.en.eq(self.push.valid),
            write.addr.eq(Array(self.bases)[self.push.section] + Array(counts)[self.push.section]),
            write.data.eq(self.push.entry),
        ]
        sections = range(len(self.bases))
        cleared = Cat(self.clear.valid & (self.clear.section == section) for section in sections)
        pushed = Cat(self.push.section == section for section in sections)
        if self.steady:
            m.submodules.near = near = Register(2 * len(sections))
            m.d.comb += near.i.eq(Cat(cleared, pushed))
            cleared, pushed = near.o[: len(sections)], near.o[len(sections) :]
        for section in sections:
            with m.If(cleared[section]):
                m.d.sync += [counts[section].eq(0), self.read.some[section].eq(0)]
            with m.Elif(self.push.valid & pushed[section]):
                m.d.sync += [counts[section].eq(counts[section] + 1), self.read.some[section].eq(1)]
        return m


def input_list(layout: Layout, group: int) -> ColumnList:
    """The list of the input's columns in a group: two banks."""
    depth = max(1, layout.input_depth(group))
    return ColumnList([depth, depth], depth, layout.delta_width, _late(layout))


def lane_lists(layout: Layout, group: int) -> list[ColumnList]:
    """The lists of the lanes' columns in a group: a section for each phase's output, at the same place in all of them."""
    depths = [
        max(layout.bank_depth(phase, group, lane) for lane in range(layout.lanes))
        for phase in range(len(layout.phases))
    ]
    late = _late(layout)
    # a phase begins long before its first column, and no one reads its section in between
    return [ColumnList(depths, max(1, *depths), layout.delta_width, late, late) for _ in range(layout.lanes)]


def _late(layout: Layout) -> bool:
    """Whether a dispatcher's address goes through a register beside each list, and so comes a cycle later."""
    return layout.depths.lists > 1
