"""Activation table in hardware."""

from __future__ import annotations

from functools import partial
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import images, timing
from sparsegate.numerics.tables import ActivationTable
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.arithmetic.fixed import round_shift
from sparsegate_hw.fabric.primitives import Multiplier, ReadOnlyMemory


class ActivationLookup(wiring.Component):
    """Look a pre-activation up in an :class:`~sparsegate.numerics.tables.ActivationTable`.

    Members: ``i`` signed(source.width), must lie in -source.max..source.max; ``o`` signed(target.width).

    Timing: latency ``depths.lookup(step_bits)`` (4 cycles, with interpolation 8, deep 9), one item per cycle, no back-pressure.
    Arithmetic: as the table's ``lookup``, to the integer.
    """

    def __init__(self, table: ActivationTable, depths: timing.Depths = timing.SHALLOW) -> None:
        self.table, self._rise = table, depths.rise
        self.latency = depths.lookup(table.step_bits)
        super().__init__({"i": In(signed(table.source.width)), "o": Out(signed(table.target.width))})

    def model(self, raw: Any) -> Any:
        """Integer model."""
        return self.table.lookup(raw)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        table = self.table
        step = table.step_bits
        value = unsigned(max(1, int(table.base.max()).bit_length()))
        fields: dict[str, Any] = {"base": value}
        if step:
            fields["slope"] = unsigned(max(1, int(table.slope.max()).bit_length()))
        entry = data.StructLayout(fields)
        later = partial(delay, m, reset_less=True)
        m.submodules.rom = rom = ReadOnlyMemory(entry.size, images.table_image(table).words)

        magnitude = Signal(table.source.width - 1, reset_less=True)
        m.d.sync += magnitude.eq(Mux(self.i < 0, -self.i, self.i))
        negative = later(self.i < 0, self.latency - 1, "negative")
        m.d.comb += rom.address.eq(magnitude[step:])
        word = data.View(entry, rom.o)
        positive: Value = word.base
        if step:
            m.submodules.rise = rise = Multiplier(len(word.slope) + 1, step + 1, small=True)
            within = later(magnitude[:step], timing.MEMORY, "within")
            # of a deep pipeline the product has a register of its own: the multiplier may be far away
            product = later(rise.o, self._rise - 1, "product")
            base = later(word.base, timing.MUL + self._rise - 1, "base")
            sum_ = Signal(value.width + 1, reset_less=True)
            m.d.comb += [rise.a.eq(word.slope), rise.b.eq(within)]
            m.d.sync += sum_.eq(base + round_shift(product, step))
            positive = sum_
        mirrored = (table.one - positive) if table.function == "sigmoid" else -positive
        out = Signal.like(self.o, name="out", reset_less=True)
        m.d.sync += out.eq(Mux(negative, mirrored, positive))
        m.d.comb += self.o.eq(out)
        return m
