"""Fixed-point numbers: one Q format, one rounding, one saturation.

Every level of SparseGate (torch fake-quantization, golden model, RTL) narrows values with the two functions of this file
and nothing else; see ``docs/reference/numerics.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int = TypeVar("Int", int, NDArray[np.int64])

MAX_WIDTH = 64


@dataclass(frozen=True, order=True)
class QFormat:
    """A signed two's-complement fixed-point format: value = raw * 2**-frac.

    ``width`` counts the sign bit. ``frac`` may be negative or exceed ``width``: the binary point may lie outside the bits.

    Raises
    ------
    ValueError
        If ``width`` is not in 2..64.
    """

    width: int
    frac: int

    def __post_init__(self) -> None:
        if not 2 <= self.width <= MAX_WIDTH:
            raise ValueError(f"a Q format is 2 to {MAX_WIDTH} bits wide, not {self.width}")

    @property
    def max(self) -> int:
        """Largest raw integer."""
        return (1 << (self.width - 1)) - 1

    @property
    def min(self) -> int:
        """Smallest raw integer."""
        return -(1 << (self.width - 1))

    @property
    def lsb(self) -> float:
        """Value of one raw unit."""
        return 2.0**-self.frac

    def quantize(self, value: ArrayLike) -> NDArray[np.int64]:
        """Real values to raw integers: half-up rounding, then saturation."""
        scaled = np.floor(np.ldexp(np.asarray(value, np.float64), self.frac) + 0.5)
        return np.clip(scaled, self.min, self.max).astype(np.int64)

    def real(self, raw: ArrayLike) -> NDArray[np.float64]:
        """Raw integers to real values (exact up to 53 bits)."""
        return np.ldexp(np.asarray(raw, np.float64), -self.frac)

    def saturated(self, value: ArrayLike) -> int:
        """How many of the real values ``quantize`` would saturate."""
        scaled = np.floor(np.ldexp(np.asarray(value, np.float64), self.frac) + 0.5)
        return int(np.count_nonzero((scaled < self.min) | (scaled > self.max)))

    def __str__(self) -> str:
        return f"s{self.width}f{self.frac}"

    @classmethod
    def parse(cls, text: str) -> QFormat:
        """Inverse of ``str``: ``"s8f7"`` is 8 bits with 7 fractional bits."""
        try:
            width, frac = text.removeprefix("s").split("f")
            return cls(int(width), int(frac))
        except ValueError as error:
            raise ValueError(f"a Q format is written like 's8f7', not {text!r}") from error


def round_shift(raw: Any, shift: int) -> Any:
    """Scale integers by ``2**-shift``, rounding half up; ``shift <= 0`` is an exact left shift.

    Arithmetic: for ``shift > 0``, ``(raw + (1 << (shift - 1))) >> shift`` with an arithmetic shift.
    """
    if shift <= 0:
        return raw << -shift
    return (raw + (1 << (shift - 1))) >> shift


def saturate(raw: Any, target: QFormat, symmetric: bool = False) -> Any:
    """Clip integers to the range of ``target``; ``symmetric`` leaves out the most negative value."""
    low = -target.max if symmetric else target.min
    if isinstance(raw, int):
        return min(max(raw, low), target.max)
    return np.clip(raw, low, target.max)


def narrow(raw: Any, frac: int, target: QFormat, symmetric: bool = False) -> Any:
    """Round integers with ``frac`` fractional bits to ``target``, then saturate: the only way to lose bits."""
    return saturate(round_shift(raw, frac - target.frac), target, symmetric)


def bits_for(bound: int) -> int:
    """Width of the narrowest signed format holding every integer in -bound..bound."""
    return max(2, int(bound).bit_length() + 1)


def frac_for(largest: float, width: int) -> int:
    """Most fractional bits with which ``largest`` (a magnitude) still fits ``width`` bits without saturating.

    For ``largest == 0`` every format is exact; the fraction then is ``width - 1``.
    """
    if not largest > 0:
        return width - 1
    frac = width - 1 - int(np.floor(np.log2(largest))) - 1
    while np.floor(np.ldexp(largest, frac) + 0.5) > (1 << (width - 1)) - 1:
        frac -= 1
    while np.floor(np.ldexp(largest, frac + 1) + 0.5) <= (1 << (width - 1)) - 1:
        frac += 1
    return frac
