"""Gated recurrent units (Cho et al. 2014) in both conventions: reset after and before the recurrent product."""

from __future__ import annotations

from typing import Any

from sparsegate.cells.cell import Arithmetic, Cell, PhaseSpec, Step


def _mix(a: Arithmetic, z: Any, n: Any) -> Step:
    """``h = (1 - z) n + z h``, one rounding of the exact sum into the wide state, which the columns see narrowed."""
    s = a.narrow(a.add(a.mul(a.sub(a.one(), z), n), a.mul(z, a.state("s"))), "s", "s")
    return Step(a.narrow(s, "h", "h"), {"s": s})


class GRU(Cell):
    """``n = tanh(Wn x + b + r (Un h + b_h))``: reset after the product, as in PyTorch. Gate order r, z, n as there.

    The two halves of the candidate are summed apart. The state has a format of its own: an 8-bit one would stall short of its
    target where z is near 1.
    """

    kind = "gru"
    gates = ("r", "z", "n")
    apart = ("n",)
    recurrent = True
    bounded = True
    states = ("s",)
    wide = "s"
    formats = ("pre", "gate", "s")
    sites = ("r", "z", "n", "s", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        r = a.lookup("sigmoid", a.narrow(a.gate("r"), "pre", "r", symmetric=True))
        z = a.lookup("sigmoid", a.narrow(a.gate("z"), "pre", "z", symmetric=True))
        candidate = a.add(a.gate("n"), a.mul(r, a.gate("n_h")))
        n = a.lookup("tanh", a.narrow(candidate, "pre", "n", symmetric=True))
        return _mix(a, z, n)


class ResetBeforeGRU(Cell):
    """``n = tanh(Wn x + Un (r h) + b)``: reset before the product, as in the paper. A second phase multiplies q = r h.

    The first phase hands z to the second; both find a unit in the same place.
    """

    kind = "gru_reset_before"
    gates = ("r", "z", "n")
    recurrent = True
    bounded = True
    states = ("s",)
    wide = "s"
    handed = ("z",)
    formats = ("pre", "gate", "s", "q", "z")
    sites = ("r", "z", "q", "n", "s", "h")
    functions = ("sigmoid", "tanh")

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        return (
            PhaseSpec("q", ("r", "z"), ("x", "h"), ("r", "z", "q"), self._reset),
            PhaseSpec("h", ("n",), ("x", "q"), ("n", "s", "h"), self.step),
        )

    def _reset(self, a: Arithmetic) -> Step:
        r = a.lookup("sigmoid", a.narrow(a.gate("r"), "pre", "r", symmetric=True))
        z = a.lookup("sigmoid", a.narrow(a.gate("z"), "pre", "z", symmetric=True))
        return Step(a.narrow(a.mul(r, a.state("s")), "h", "q"), {"z": z})

    def step(self, a: Arithmetic) -> Step:
        n = a.lookup("tanh", a.narrow(a.gate("n"), "pre", "n", symmetric=True))
        return _mix(a, a.state("z"), n)
