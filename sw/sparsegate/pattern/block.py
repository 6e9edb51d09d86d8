"""Block sparsity: rectangles of weights are kept or dropped as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sparsegate.pattern.base import Groups, Share, Storage, check_rows, check_size, index_bits, share_of


@dataclass(frozen=True)
class Block(Share):
    """The blocks of ``height`` units and ``width`` columns with the largest Euclidean norms, ``share`` of them, rounded up.

    Block-sparse recurrent networks: Narang et al. 2017, who compare the largest magnitude of each block where norms are compared
    here. No block crosses a gate. Those at an edge may be smaller, and are compared as if filled with zeros.
    """

    share: Fraction
    height: int
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share_of(self.share))
        check_size(self.height, "the height of a block")
        check_size(self.width, "the width of a block")

    def __str__(self) -> str:
        return f"block:{self.share}:{self.height}x{self.width}"

    def mask(self, matrix: NDArray, gates: int, release: Fraction = Fraction(0)) -> NDArray[np.bool_]:
        check_rows(matrix, gates)
        norms = np.sqrt(self._sums(np.square(matrix, dtype=np.float64), gates))
        keep = super().mask(norms, gates, release).reshape(gates, -1, norms.shape[1])
        whole = keep.repeat(self.height, axis=1).repeat(self.width, axis=2)
        return whole[:, : len(matrix) // gates, : matrix.shape[1]].reshape(matrix.shape)

    def violations(self, matrix: NDArray, gates: int) -> int:
        check_rows(matrix, gates)
        return super().violations(self._sums(matrix != 0, gates), gates)

    def _sums(self, values: NDArray, gates: int) -> NDArray:
        """Sum of each block: (gates * blocks of units, blocks of columns)."""
        rows, columns = values.shape
        whole = values.reshape(gates, rows // gates, columns)
        strips = np.add.reduceat(whole, range(0, rows // gates, self.height), axis=1)
        return np.add.reduceat(strips, range(0, columns, self.width), axis=2).reshape(-1, -(-columns // self.width))

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Every weight of the blocks that are kept, and the number of each."""
        blocks = self._sums(matrix != 0, gates).size
        kept = self._least(blocks)
        entries = kept * self.height * self.width
        return Storage(entries, entries * bits, kept * index_bits(blocks))

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        return np.arange(rows * columns)[None]

    def _excess(self, broken: int) -> str:
        return f"more than {self.share} of its blocks hold nonzeros"
