"""A sparse integer matrix as an engine stores it: N entries in every block of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.pattern import blocked, unblocked
from sparsegate.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class Matrix(Shown):
    """A sparse integer matrix: in every block and column exactly N entries of (index in block, weight).

    ``index`` and ``weight`` are (blocks, columns, N) with block = unit_block * gates + gate. Indices of a (block, column) are
    distinct and ascending; padding entries have weight 0.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.int64]

    @property
    def blocks(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    @property
    def entries(self) -> int:
        """N: entries of a block in a column, and the cycles they take."""
        return self.weight.shape[2]

    @property
    def sentence(self) -> str:
        return f"{self.blocks} blocks x {self.columns} columns x {self.entries} entries, {self.nonzeros} nonzeros"

    @classmethod
    def pack(cls, dense: NDArray[np.int64], gates: int, block: int, entries: int, name: str = "matrix") -> Matrix:
        """Pack a dense (gates * units, columns) integer matrix; too many nonzeros in a block are refused."""
        if not 1 <= entries <= block:
            raise SparseGateError(f"{name}: {entries} entries do not fit a block of {block}")
        cut = blocked(dense, gates, block)  # (unit blocks, gates, block, columns)
        unit_blocks, _, _, columns = cut.shape
        cut = cut.reshape(unit_blocks * gates, block, columns).transpose(0, 2, 1)  # (blocks, columns, block)
        count = (cut != 0).sum(axis=2)
        if count.max() > entries:
            raise SparseGateError(
                f"{name}: a column holds {count.max()} nonzeros in a block of {block}, expected at most {entries}"
            )
        # nonzeros first, then unused indices, each in ascending order
        order = np.argsort(cut == 0, axis=2, kind="stable")[:, :, :entries]
        index = np.sort(order, axis=2)
        return cls(index.astype(np.int64), np.take_along_axis(cut, index, axis=2).astype(np.int64))

    def dense(self, gates: int, units: int, block: int) -> NDArray[np.int64]:
        """Back to (gates * units, columns)."""
        full = np.zeros((self.blocks, self.columns, block), np.int64)
        np.put_along_axis(full, self.index, self.weight, axis=2)
        cut = full.transpose(0, 2, 1).reshape(self.blocks // gates, gates, block, self.columns)
        return unblocked(cut, units)

    def select(self, gates: int, chosen: Sequence[int]) -> Matrix:
        """The blocks of some of the gates, in the order given."""

        def pick(values: NDArray) -> NDArray:
            return values.reshape(-1, gates, *values.shape[1:])[:, list(chosen)].reshape(-1, *values.shape[1:])

        return self if list(chosen) == list(range(gates)) else Matrix(pick(self.index), pick(self.weight))

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))
