"""The cells that SparseGate knows: one file for each family, one line for each in the registry."""

from __future__ import annotations

from sparsegate.cells import bounds
from sparsegate.cells.cell import (
    PROJECTION,
    Arithmetic,
    Cell,
    Fixed,
    FloatArithmetic,
    IntegerArithmetic,
    PhaseSpec,
    Step,
    phases_of,
)
from sparsegate.cells.cifg import CIFG, PeepholeCIFG
from sparsegate.cells.gru import GRU, ResetBeforeGRU
from sparsegate.cells.linear import Linear, ReluLinear, SigmoidLinear, TanhLinear
from sparsegate.cells.lstm import LSTM
from sparsegate.cells.peephole import PeepholeLSTM
from sparsegate.cells.rnn import ReluRNN, TanhRNN
from sparsegate.errors import SparseGateError

CELLS: dict[str, Cell] = {
    cell.kind: cell
    for cell in (
        LSTM(),
        PeepholeLSTM(),
        CIFG(),
        PeepholeCIFG(),
        GRU(),
        ResetBeforeGRU(),
        TanhRNN(),
        ReluRNN(),
        Linear(),
        ReluLinear(),
        SigmoidLinear(),
        TanhLinear(),
    )
}


def cell(kind: str) -> Cell:
    """The cell called ``kind``; an unknown one is refused by name."""
    if kind not in CELLS:
        raise SparseGateError(f"unsupported layer kind {kind!r}; SparseGate has {', '.join(CELLS)}")
    return CELLS[kind]


__all__ = [
    "CELLS",
    "PROJECTION",
    "Arithmetic",
    "Cell",
    "Fixed",
    "FloatArithmetic",
    "IntegerArithmetic",
    "PhaseSpec",
    "Step",
    "bounds",
    "cell",
    "phases_of",
]
