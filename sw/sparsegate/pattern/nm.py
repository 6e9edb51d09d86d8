"""N:M sparsity along the columns of a weight matrix: which weights the hardware can keep.

In every column, every block of M consecutive units of one gate keeps at most N nonzeros. The last block of a gate may be short,
and is the only one where M exceeds the units: it still keeps N, so that the matrix is denser than N / M.

N:M sparsity is that of Mishra et al. 2021 (2:4) and Zhou et al., ICLR 2021 (section 3.1, figure 1), whose groups of M lie along the
inputs that a sum runs over. Here they lie along the units, as an engine that takes one column after another must give each of its
processing elements the same number of weights in a column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.pattern.base import MAX_SIZE, Groups, Pattern, Storage, index_bits, positions

MAX_BLOCK = MAX_SIZE


@dataclass(frozen=True, order=True)
class NM(Pattern):
    """At most ``n`` nonzeros in every block of ``m`` units. ``NM(1, 1)`` is dense."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise SparseGateError(f"an N:M pattern needs 1 <= N <= M, not {self.n}:{self.m}")
        if self.m > MAX_BLOCK:
            raise SparseGateError(f"blocks of an N:M pattern have at most {MAX_BLOCK} units, not {self.m}")

    @property
    def density(self) -> float:
        """Kept share of a full block."""
        return self.n / self.m

    @property
    def dense(self) -> bool:
        return self.n == self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> NM:
        """``"2:16"``, or ``"dense"``."""
        if text == "dense":
            return DENSE
        try:
            n, m = (int(part) for part in text.split(":"))
        except ValueError:
            raise SparseGateError(f"an N:M pattern is written like '2:16' or 'dense', not {text!r}") from None
        return cls(n, m)

    @classmethod
    def from_density(cls, density: float, m: int) -> NM:
        """The pattern of exactly this density in blocks of ``m``; a density that N:M cannot express is refused."""
        n = density * m
        if not (math.isfinite(n) and abs(n - round(n)) < 1e-9 and 1 <= round(n) <= m):
            raise SparseGateError(f"a density of {density:g} cannot be expressed as N:{m}: N would be {n:g}")
        return cls(round(n), m)

    def stored(self, block: int) -> int:
        """Entries in a column of a block of ``block`` units when this pattern is stored as N:block."""
        if self.dense:
            return block
        if block % self.m:
            raise SparseGateError(
                f"pattern {self} does not fit blocks of {block} units: {self.m} does not divide {block}"
            )
        return self.n * (block // self.m)

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """N entries for every block of a column, short ones too, each with its place in the block."""
        rows, columns = matrix.shape
        entries = gates * -(-(rows // gates) // self.m) * columns * self.n
        return Storage(entries, entries * bits, entries * index_bits(self.m))

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        found = positions(rows, columns, height=self.m, gates=gates).reshape(gates, -1, self.m, columns)
        return found.transpose(0, 1, 3, 2).reshape(-1, self.m)

    def _least(self, length: int) -> int:
        return min(self.n, length)

    def _excess(self, broken: int) -> str:
        return f"{broken} blocks hold more than {self.n} nonzeros in a column"


DENSE = NM(1, 1)


Wanted = str | NM | tuple[str | NM, str | NM]
"""How a layer's patterns may be written: one for both matrices, or a pair for Wx and Wh."""


def pair(wanted: Wanted) -> tuple[NM, NM]:
    """Patterns of Wx and Wh: ``"2:16"``, an :class:`NM`, or a pair of these."""
    both = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if len(both) != 2:
        raise SparseGateError(f"a pattern is one N:M or a pair for Wx and Wh, not {len(both)} values")
    for value in both:
        if not isinstance(value, (str, NM)):
            raise SparseGateError(f"a matrix of the hardware is N:M or dense, not {value}")
    x, h = (NM.parse(value) if isinstance(value, str) else value for value in both)
    return x, h


def common_block(*patterns: NM) -> int:
    """Block length of a layer whose matrices have these patterns: the least common multiple of their M."""
    return math.lcm(*(pattern.m for pattern in patterns if not pattern.dense), 1)


def blocked(matrix: NDArray, gates: int, block: int) -> NDArray:
    """Cut a matrix into blocks: (gates * units, columns) -> (unit blocks, gates, block, columns), zero-padded."""
    rows, columns = matrix.shape
    if rows % gates:
        raise SparseGateError(f"{rows} rows do not divide into {gates} gates")
    units = rows // gates
    unit_blocks = -(-units // block)
    padded = np.zeros((gates, unit_blocks * block, columns), matrix.dtype)
    padded[:, :units] = matrix.reshape(gates, units, columns)
    return padded.reshape(gates, unit_blocks, block, columns).transpose(1, 0, 2, 3)


def unblocked(blocks: NDArray, units: int) -> NDArray:
    """Inverse of :func:`blocked`: (unit blocks, gates, block, columns) -> (gates * units, columns)."""
    unit_blocks, gates, block, columns = blocks.shape
    whole = blocks.transpose(1, 0, 2, 3).reshape(gates, unit_blocks * block, columns)
    return whole[:, :units].reshape(gates * units, columns)
