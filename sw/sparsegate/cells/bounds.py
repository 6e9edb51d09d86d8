"""The arithmetic of a cell on magnitudes: how large can every intermediate value become?"""

from __future__ import annotations

from collections.abc import Mapping

from sparsegate.cells.cell import Fixed, PhaseSpec
from sparsegate.numerics.fixed import QFormat


class BoundArithmetic:
    """``raw`` of a value is the largest magnitude that its raw integer can have; ``peak`` the largest of all so far.

    Python integers, so that the bound itself cannot wrap.
    """

    def __init__(self, formats: Mapping[str, QFormat], bound: int) -> None:
        self._formats, self._bound, self.peak = formats, bound, 0

    def _see(self, raw: int, frac: int) -> Fixed:
        self.peak = max(self.peak, raw)
        return Fixed(raw, frac)

    def gate(self, name: str) -> Fixed:
        return self._see(self._bound, self._formats["acc"].frac)

    def state(self, name: str) -> Fixed:
        return self._see(-self._formats[name].min, self._formats[name].frac)

    def parameter(self, name: str) -> Fixed:
        return self._see(-self._formats["parameter"].min, self._formats["parameter"].frac)

    def mul(self, a: Fixed, b: Fixed) -> Fixed:
        return self._see(a.raw * b.raw, a.frac + b.frac)

    def add(self, a: Fixed, b: Fixed) -> Fixed:
        frac = max(a.frac, b.frac)
        return self._see((a.raw << (frac - a.frac)) + (b.raw << (frac - b.frac)), frac)

    sub = add

    def one(self) -> Fixed:
        frac = self._formats["gate"].frac
        return self._see(1 << frac, frac)

    def relu(self, value: Fixed) -> Fixed:
        return value

    def narrow(self, value: Fixed, target: str, site: str, symmetric: bool = False) -> Fixed:
        form = self._formats[target]
        shift = value.frac - form.frac
        self._see(value.raw + (1 << (shift - 1)) if shift > 0 else value.raw << -shift, form.frac)
        return self._see(-form.min, form.frac)

    def lookup(self, function: str, value: Fixed) -> Fixed:
        frac = self._formats["gate"].frac
        return self._see(1 << frac, frac)


def peak(phase: PhaseSpec, formats: Mapping[str, QFormat], bound: int) -> int:
    """Largest magnitude of any intermediate of a phase whose accumulators stay within ``bound``."""
    arithmetic = BoundArithmetic(formats, bound)
    phase.step(arithmetic)
    return arithmetic.peak
