"""Column-balanced pruning: every sub-column keeps the same number of weights."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sparsegate.pattern.base import Groups, Share, Storage, check_size, groups_of, index_bits, positions, share_of


@dataclass(frozen=True)
class ColumnBalanced(Share):
    """The largest magnitudes of each sub-column (CBTD of Spartus: Gao et al., TNNLS 2022, algorithm 1).

    A column of the stacked matrix, with all of its gates, is dealt out to ``subcolumns`` sub-columns: row r belongs to number
    ``r % subcolumns``. Each keeps ``share`` of its weights, rounded up: the algorithm drops the smallest γ = 1 - ``share``,
    rounded down. Its probability α of a drop is that of the schedule (``sparsegate.training.schedule.Annealed``).
    """

    share: Fraction
    subcolumns: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share_of(self.share))
        check_size(self.subcolumns, "the number of sub-columns")

    def __str__(self) -> str:
        return f"cbtd:{self.share}:{self.subcolumns}"

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """CBCSC of the paper: the same number of entries for each sub-column, each with its place in it; no pointers."""
        parts = groups_of(self, *matrix.shape, gates)
        longest = parts[-1].shape[1]
        entries = sum(map(len, parts)) * self._least(longest)
        return Storage(entries, entries * bits, entries * index_bits(longest))

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        found = positions(rows, columns, height=self.subcolumns).reshape(-1, self.subcolumns, columns)
        return np.moveaxis(found, 0, 2).reshape(self.subcolumns * columns, -1)

    def _excess(self, broken: int) -> str:
        return f"{broken} sub-columns hold more than {self.share} nonzeros"
