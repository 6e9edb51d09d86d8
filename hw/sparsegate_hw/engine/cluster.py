"""A cluster: neighbouring PE rows over all column groups, whose partial sums meet here."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout, timing
from sparsegate_hw.engine.pe import Beat, ProcessingElement, Read
from sparsegate_hw.fabric.primitives import Register


def _fields(port: Any, signature: wiring.Signature) -> Value:
    return Cat(getattr(port, name) for name in signature.members)


class Cluster(wiring.Component):
    """``layout.cluster`` rows x ``layout.groups`` PEs.

    Members: ``beat`` of every group (:class:`Beat`), ``read`` (:class:`Read`), ``value`` of every row, summed over the groups;
    ``apart`` the same of the second accumulators of ``layout.apart_rows``. Of a layout whose weights are loaded: ``write`` has a
    bit for every PE (row * groups + group), which takes ``data`` to the address of its group's beat.

    Timing: ``value`` is ``readout - 1 + group_sum(groups)`` cycles behind ``read``: ``broadcast`` to the cluster's own register of
    beats and reads, three for the PE, one for each level of the adder tree.
    """

    def __init__(self, layout: Layout, index: Any, weight: Any) -> None:
        self._layout = layout
        self._pes = [
            [
                ProcessingElement(layout, index[row, group], weight[row, group], row in layout.apart_rows)
                for group in range(layout.groups)
            ]
            for row in range(layout.cluster)
        ]
        self.latency = layout.depths.readout - 1 + timing.group_sum(layout.groups)
        value, count = signed(layout.acc_width), layout.cluster * layout.groups
        super().__init__(
            {
                "beat": In(Beat(layout)).array(layout.groups),
                "read": In(Read(layout)),
                "value": Out(value).array(layout.cluster),
                **({"apart": Out(value).array(len(layout.apart_rows))} if layout.apart_rows else {}),
                **({"write": In(count), "data": In(layout.entry_width)} if layout.config.loaded else {}),
            }
        )

    @staticmethod
    def model(partial: Any) -> Any:
        """Integer model: partial sums (rows, groups) to (rows,)."""
        return partial.sum(axis=1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout = self._layout
        beats = [
            self._near(m, f"beat_{group}", _fields(self.beat[group], Beat(layout))) for group in range(layout.groups)
        ]
        read = self._near(m, "read", _fields(self.read, Read(layout)))
        if layout.config.loaded:
            write = self._near(m, "write", Cat(self.data, self.write))
        for row, pes in enumerate(self._pes):
            for group, pe in enumerate(pes):
                m.submodules[f"pe_{row}_{group}"] = pe
                m.d.comb += [_fields(pe.beat, Beat(layout)).eq(beats[group]), _fields(pe.read, Read(layout)).eq(read)]
                if layout.config.loaded:
                    number = layout.entry_width + row * layout.groups + group
                    m.d.comb += [pe.data.eq(write[: layout.entry_width]), pe.write.eq(write[number])]
            m.d.comb += self.value[row].eq(self._total(m, [pe.value for pe in pes], f"sum_{row}"))
        for at, row in enumerate(layout.apart_rows):
            values = [pe.value_apart for pe in self._pes[row]]
            m.d.comb += self.apart[at].eq(self._total(m, values, f"sum_apart_{row}"))
        return m

    def _near(self, m: Module, name: str, fields: Value) -> Value:
        """What comes from afar, in a register of the cluster's own, after others on the way."""
        for stage in range(self._layout.depths.broadcast):
            m.submodules[f"{name}_{stage}"] = register = Register(len(fields))
            m.d.comb += register.i.eq(fields)
            fields = register.o
        return fields

    def _total(self, m: Module, level: list[Value], name: str) -> Value:
        """Sum of the groups' values, a register for each level of the tree."""
        depth = 0
        while len(level) > 1:
            depth += 1
            sums = []
            for at in range(0, len(level), 2):
                # the total fits acc_width by the Program's bound, and so does every partial sum
                register = Signal(signed(self._layout.acc_width), name=f"{name}_{depth}_{at // 2}", reset_less=True)
                m.d.sync += register.eq(sum(level[at : at + 2][1:], level[at]))
                sums.append(register)
            level = sums
        return level[0]
