"""Fully connected layer without activation, the usual classifier head."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class Linear(Cell):
    """``y = round(b + W x)``."""

    kind = "linear"
    gates = ("y",)
    recurrent = False
    formats = ()
    sites = ("h",)

    def step(self, a: Arithmetic) -> Step:
        return Step(a.narrow(a.gate("y"), "h", "h"))
