"""Constants chosen at run time: the entries of the phase table."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Module, Signal, ValueLike


def constant(m: Module, select: ValueLike, values: Sequence[int], name: str) -> Signal:
    """``values[select]``, unsigned and just wide enough; combinational."""
    signal = Signal(range(max(2, max(values) + 1)), name=name)
    m.d.comb += signal.eq(Array(values)[select])
    return signal
