"""Activation table in hardware."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.activation import ActivationTable
from sparsegate_hw.fixed import round_shift


class ActivationLookup(wiring.Component):
    """Look a pre-activation up in an :class:`~sparsegate.activation.ActivationTable`.

    Members: ``i`` signed(source.width), must lie in -source.max..source.max; ``o`` signed(target.width).

    Timing: latency ``timing.lookup(step_bits)`` (4 cycles, 6 with interpolation), one item per cycle, no back-pressure.
    Arithmetic: as the table's ``lookup``, to the integer.
    """

    def __init__(self, table: ActivationTable) -> None:
        self.table = table
        self.latency = timing.lookup(table.step_bits)
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
        rows = [
            {"base": int(base), **({"slope": int(slope)} if step else {})}
            for base, slope in zip(table.base, table.slope, strict=True)
        ]
        m.submodules.rom = rom = Memory(shape=entry, depth=table.depth, init=rows)
        port = rom.read_port()

        magnitude = Signal(table.source.width - 1)
        negative = [Signal(name=f"negative_{stage}") for stage in range(self.latency - 1)]
        m.d.sync += magnitude.eq(Mux(self.i < 0, -self.i, self.i))
        m.d.sync += negative[0].eq(self.i < 0)
        for before, after in zip(negative, negative[1:], strict=False):
            m.d.sync += after.eq(before)
        m.d.comb += port.addr.eq(magnitude[step:])

        # the memory's output register, then a second one, which the block RAM of most devices has inside
        word = Signal(entry)
        m.d.sync += word.eq(port.data)
        positive: Value = word.base
        if step:
            fractions = [Signal(step, name=f"within_{stage}") for stage in (1, 2)]
            base = Signal(value)
            rise = Signal(len(word.slope) + step)
            sum_ = Signal(value.width + 1)
            m.d.sync += [fractions[0].eq(magnitude[:step]), fractions[1].eq(fractions[0])]
            m.d.sync += [base.eq(word.base), rise.eq(word.slope * fractions[1])]
            m.d.sync += sum_.eq(base + round_shift(rise, step))
            positive = sum_
        mirrored = (table.one - positive) if table.function == "sigmoid" else -positive
        m.d.sync += self.o.eq(Mux(negative[-1], mirrored, positive))
        return m
