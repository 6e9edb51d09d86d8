"""Lists of columns that moved: the queue in front of a column group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate_hw.pe import depth_bits


def entry_layout(places: int, delta_width: int) -> data.StructLayout:
    """A column in a list: its ``place`` in the bank and the ``delta`` (or value) to apply."""
    return data.StructLayout({"place": depth_bits(places), "delta": signed(delta_width)})


class ColumnList(wiring.Component):
    """A memory in sections, each filled from its start and emptied at once.

    A section is written once and may be read several times (a layer's moved outputs drive the next layer in the same step and
    the layer itself in the next one).

    Members: ``push`` (valid, section, entry) appends; ``clear`` (valid, section) empties a section; ``counts`` entries of
    each section; ``read`` (address in the whole memory, entry) is combinational. ``bases`` are the sections' first
    addresses.

    Timing: a push is visible in ``counts`` and ``read`` one cycle later. A clear wins over a push to the same section in
    the same cycle.
    """

    latency = 1

    def __init__(self, depths: Sequence[int], places: int, delta_width: int) -> None:
        self.bases = [sum(depths[:section]) for section in range(len(depths))]
        self._depths = list(depths)
        self.depth = max(1, sum(depths))
        self.entry = entry_layout(places, delta_width)
        section = depth_bits(len(depths))
        count = max(depths).bit_length() or 1
        super().__init__(
            {
                "push": In(wiring.Signature({"valid": Out(1), "section": Out(section), "entry": Out(self.entry)})),
                "clear": In(wiring.Signature({"valid": Out(1), "section": Out(section)})),
                "counts": Out(count).array(len(depths)),
                "read": In(wiring.Signature({"address": Out(depth_bits(self.depth)), "entry": In(self.entry)})),
            }
        )

    @staticmethod
    def model(entries: list[tuple[int, int]], place: int, delta: int) -> list[tuple[int, int]]:
        """Integer model of a push."""
        return [*entries, (place, delta)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.entry, depth=self.depth, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        bases = Array(self.bases)
        counts = Array(self.counts[section] for section in range(len(self._depths)))
        fill = Signal.like(self.counts[0])
        m.d.comb += [
            read.addr.eq(self.read.address),
            self.read.entry.eq(read.data),
            fill.eq(counts[self.push.section]),
            write.en.eq(self.push.valid),
            write.addr.eq(bases[self.push.section] + fill),
            write.data.eq(self.push.entry),
        ]
        for section in range(len(self._depths)):
            with m.If(self.clear.valid & (self.clear.section == section)):
                m.d.sync += self.counts[section].eq(0)
            with m.Elif(self.push.valid & (self.push.section == section)):
                m.d.sync += self.counts[section].eq(fill + 1)
        return m
