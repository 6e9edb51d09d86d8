"""The cells that SparseGate knows: one file for each, one line in the registry."""

from __future__ import annotations

from sparsegate.cells import bounds
from sparsegate.cells.cell import Arithmetic, Cell, Fixed, FloatArithmetic, IntegerArithmetic, Step
from sparsegate.cells.linear import Linear
from sparsegate.cells.lstm import LSTM
from sparsegate.errors import SparseGateError

CELLS: dict[str, Cell] = {cell.kind: cell for cell in (LSTM(), Linear())}


def cell(kind: str) -> Cell:
    """The cell called ``kind``; an unknown one is refused by name."""
    if kind not in CELLS:
        raise SparseGateError(f"unsupported layer kind {kind!r}; SparseGate has {', '.join(CELLS)}")
    return CELLS[kind]


__all__ = ["CELLS", "Arithmetic", "Cell", "Fixed", "FloatArithmetic", "IntegerArithmetic", "Step", "bounds", "cell"]
