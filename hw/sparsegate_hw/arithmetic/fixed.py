"""Rounding and saturation as combinational Amaranth expressions: the hardware twins of ``sparsegate.numerics.fixed``."""

from __future__ import annotations

from amaranth.hdl import Const, Mux, Value, signed

from sparsegate.numerics.fixed import QFormat


def round_shift(value: Value, shift: int) -> Value:
    """Scale a signed value by ``2**-shift``, rounding half up; ``shift <= 0`` is an exact left shift. No bit is lost on top."""
    if shift <= 0:
        return value.shift_left(-shift)
    return (value + (1 << (shift - 1))).shift_right(shift)


def saturate(value: Value, target: QFormat, symmetric: bool = False) -> tuple[Value, Value]:
    """Clip a signed value to ``target``; returns the clipped value and a flag that is 1 where clipping changed it."""
    width = value.shape().width
    low = -target.max if symmetric else target.min
    if width < target.width or (width == target.width and not symmetric):
        return value, Const(0, 1)
    # by the bits beyond the target's, which must all be the sign; a comparison would be a carry chain behind the rounding's
    sign, beyond, within = value[-1], value[target.width - 1 :], value[: target.width - 1]
    over, under = ~sign & beyond.any(), sign & ~beyond.all()
    if symmetric:
        under |= sign & ~within.any()
    shape = signed(target.width)
    inside = value[: target.width].as_signed()
    return Mux(over, Const(target.max, shape), Mux(under, Const(low, shape), inside)), over | under
