"""Load-balanced pruning: every processing element gets the same number of weights."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sparsegate.pattern.base import Groups, Share, Storage, check_size, fillers, positions, share_of

INDEX = 4
"""Bits of an index: zeros since the nonzero before in the column."""
POINTER = 16
"""Bits of a pointer to the begin of a column, as in EIE (Han et al., ISCA 2016), whose format ESE takes over."""


@dataclass(frozen=True)
class LoadBalanced(Share):
    """The largest magnitudes of each processing element's rows (ESE: Han et al., FPGA 2017, section 3, load-balance-aware pruning,
    which the paper gives in words: the same share of weights for the submatrix of each element).

    Row r of the matrix, with all of its gates, belongs to element ``r % elements``; each keeps ``share`` of its weights, rounded
    up. Where the rows do not divide, elements with one row less keep less.
    """

    share: Fraction
    elements: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share_of(self.share))
        check_size(self.elements, "the number of processing elements")

    def __str__(self) -> str:
        return f"ese:{self.share}:{self.elements}"

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Each element's columns one after the other: nonzeros with the number of zeros since the one before, in 4 bits, zeros
        stored to bridge more than 15 of them, and a pointer for every element and column, with one for the end."""
        rows, columns = matrix.shape
        padded = np.append(matrix.ravel() != 0, False)[positions(rows, columns, height=self.elements)]
        # (1, rows of an element * elements, columns) -> (elements * columns, rows of an element)
        nonzero = padded.reshape(-1, self.elements, columns).transpose(1, 2, 0).reshape(self.elements * columns, -1)
        entries = int(np.count_nonzero(nonzero)) + fillers(nonzero, INDEX)
        return Storage(entries, entries * bits, entries * INDEX, self.elements * (columns + 1) * POINTER)

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        found = positions(rows, columns, height=self.elements).reshape(-1, self.elements, columns)
        return found.transpose(1, 0, 2).reshape(self.elements, -1)

    def _excess(self, broken: int) -> str:
        return f"the rows of {broken} processing elements hold more than {self.share} nonzeros"
