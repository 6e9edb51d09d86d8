"""Activation tables: sigmoid and tanh of a fixed-point input, symmetry used, optional linear interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.numerics.fixed import QFormat, round_shift

FUNCTIONS = ("sigmoid", "tanh")


def exact(function: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The real function that a table approximates."""
    if function == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * value))
    return np.tanh(value)


@dataclass(frozen=True)
class ActivationTable:
    """A table for ``function`` from ``source`` to ``target``.

    Arithmetic: the input lies in -source.max..source.max (symmetric saturation comes before the table). The table holds the
    half with ``raw >= 0``; negative inputs follow from ``tanh(-v) = -tanh(v)`` and ``sigmoid(-v) = 2**frac - sigmoid(v)``, by
    definition. The ``step_bits`` low bits of the magnitude are interpolated:
    ``y = base[m >> s] + round_shift(slope[m >> s] * (m & (2**s - 1)), s)``; ``step_bits = 0`` is a plain table.

    Raises
    ------
    ValueError
        For an unknown function, a target that cannot hold 1 exactly, or more step bits than magnitude bits.
    """

    function: str
    source: QFormat
    target: QFormat
    step_bits: int = 0

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"activation function is one of {', '.join(FUNCTIONS)}, not {self.function!r}")
        if self.target.frac < 0 or self.one > self.target.max:
            raise ValueError(
                f"{self.target} cannot hold 1 exactly; a gate format needs width >= frac + 2 and frac >= 0"
            )
        if not 0 <= self.step_bits < self.source.width - 1:
            raise ValueError(f"step_bits lies in 0..{self.source.width - 2} for {self.source}, not {self.step_bits}")

    @property
    def one(self) -> int:
        """Raw value of 1.0 in the target."""
        return 1 << self.target.frac

    @property
    def depth(self) -> int:
        """Number of table entries."""
        return 1 << (self.source.width - 1 - self.step_bits)

    @cached_property
    def base(self) -> NDArray[np.int64]:
        """Values at the segments' left ends, raw in ``target``, in 0..one. (depth,)"""
        return self._knots[:-1]

    @cached_property
    def slope(self) -> NDArray[np.int64]:
        """Rise over a whole segment, raw in ``target``; never negative. (depth,)"""
        return np.diff(self._knots)

    @cached_property
    def _knots(self) -> NDArray[np.int64]:
        magnitude = self.source.real(np.arange(self.depth + 1) << self.step_bits)
        return np.floor(np.ldexp(exact(self.function, magnitude), self.target.frac) + 0.5).astype(np.int64)

    def lookup(self, raw: Any) -> Any:
        """Integer model: raw inputs in ``source`` to raw outputs in ``target``."""
        raw = np.asarray(raw)
        magnitude = np.abs(raw)
        segment = magnitude >> self.step_bits
        positive = self.base[segment]
        if self.step_bits:
            within = magnitude & ((1 << self.step_bits) - 1)
            positive = positive + round_shift(self.slope[segment] * within, self.step_bits)
        mirrored = self.one - positive if self.function == "sigmoid" else -positive
        return np.where(raw < 0, mirrored, positive)

    @cached_property
    def full(self) -> NDArray[np.int64]:
        """The whole function, indexed by ``raw + source.max``. (2 * source.max + 1,)"""
        return self.lookup(np.arange(-self.source.max, self.source.max + 1))

    def full_of(self, dtype: np.dtype) -> NDArray[Any]:
        """The same in another integer type."""
        if dtype not in self._typed:
            self._typed[dtype] = self.full.astype(dtype)
        return self._typed[dtype]

    @cached_property
    def _typed(self) -> dict[np.dtype, NDArray[Any]]:
        return {}

    def worst_error(self) -> float:
        """Largest distance from the real function, in output LSBs, over every input."""
        raw = np.arange(-self.source.max, self.source.max + 1)
        real = np.ldexp(exact(self.function, self.source.real(raw)), self.target.frac)
        return float(np.max(np.abs(self.full - real)))


@lru_cache(maxsize=256)
def table(function: str, source: QFormat, target: QFormat, step_bits: int = 0) -> ActivationTable:
    """A cached :class:`ActivationTable`."""
    return ActivationTable(function, source, target, step_bits)
