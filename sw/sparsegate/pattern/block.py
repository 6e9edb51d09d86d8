"""Block sparsity: rectangles of weights are kept or dropped as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.pattern.base import Groups, Share, Storage, check_rows, check_size, index_bits, share_of

MEASURES = ("norm", "max")
"""By what blocks are compared."""


@dataclass(frozen=True)
class Block(Share):
    """The most important blocks of ``height`` units and ``width`` columns, ``share`` of them, rounded up.

    Block-sparse recurrent networks (Narang et al. 2017, section 3.1). ``measure`` of a block: its Euclidean norm, or with "max" the
    largest of its magnitudes, which is the paper's. The paper drops what lies below a threshold that rises; here a share is kept.
    No block crosses a gate. Those at an edge may be smaller, and are compared as if filled with zeros.
    """

    share: Fraction
    height: int
    width: int
    measure: str = "norm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share_of(self.share))
        check_size(self.height, "the height of a block")
        check_size(self.width, "the width of a block")
        if self.measure not in MEASURES:
            raise SparseGateError(f"blocks are compared by {' or '.join(MEASURES)}, not {self.measure!r}")

    def __str__(self) -> str:
        return f"block:{self.share}:{self.height}x{self.width}" + (":max" if self.measure == "max" else "")

    def mask(self, matrix: NDArray, gates: int, release: Fraction = Fraction(0)) -> NDArray[np.bool_]:
        check_rows(matrix, gates)
        if self.measure == "max":
            blocks = self._each(np.maximum, np.abs(matrix), gates)
        else:
            blocks = np.sqrt(self._each(np.add, np.square(matrix, dtype=np.float64), gates))
        keep = super().mask(blocks, gates, release).reshape(gates, -1, blocks.shape[1])
        whole = keep.repeat(self.height, axis=1).repeat(self.width, axis=2)
        return whole[:, : len(matrix) // gates, : matrix.shape[1]].reshape(matrix.shape)

    def violations(self, matrix: NDArray, gates: int) -> int:
        check_rows(matrix, gates)
        return super().violations(self._each(np.add, matrix != 0, gates), gates)

    def _each(self, function: np.ufunc, values: NDArray, gates: int) -> NDArray:
        """``function`` over each block's values: (gates * blocks of units, blocks of columns)."""
        rows, columns = values.shape
        whole = values.reshape(gates, rows // gates, columns)
        strips = function.reduceat(whole, range(0, rows // gates, self.height), axis=1)
        return function.reduceat(strips, range(0, columns, self.width), axis=2).reshape(-1, -(-columns // self.width))

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Every weight of the blocks that are kept, and the number of each."""
        blocks = self._each(np.add, matrix != 0, gates).size
        kept = self._least(blocks)
        entries = kept * self.height * self.width
        return Storage(entries, entries * bits, kept * index_bits(blocks))

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        return np.arange(rows * columns)[None]

    def _excess(self, broken: int) -> str:
        return f"more than {self.share} of its blocks hold nonzeros"
