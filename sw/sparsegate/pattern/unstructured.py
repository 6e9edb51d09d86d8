"""Unstructured magnitude pruning: the largest weights of a matrix, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sparsegate.pattern.base import Groups, Share, Storage, fillers, share_of

INDEX = 5
"""Bits of an index of Deep Compression's fully connected layers."""


@dataclass(frozen=True)
class Unstructured(Share):
    """The largest magnitudes of the whole matrix, ``share`` of its weights, rounded up (Han et al., NeurIPS 2015, section 3).

    The paper drops what lies below a threshold, a multiple of the deviation of the layer's weights; here it is the threshold that
    leaves the share.
    """

    share: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share_of(self.share))

    def __str__(self) -> str:
        return f"unstructured:{self.share}"

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Deep Compression (Han et al., ICLR 2016, section 2): each nonzero with the number of zeros since the one before, in 5
        bits, through the whole matrix row by row; where more zeros lie between, zeros are stored to bridge them."""
        nonzero = matrix.reshape(1, -1) != 0
        entries = int(np.count_nonzero(nonzero)) + fillers(nonzero, INDEX)
        return Storage(entries, entries * bits, entries * INDEX)

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        return np.arange(rows * columns)[None]

    def _excess(self, broken: int) -> str:
        return f"more than {self.share} of its weights are nonzero"
