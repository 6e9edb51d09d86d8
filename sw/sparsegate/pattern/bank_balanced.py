"""Bank-balanced sparsity: every bank of a row keeps the same number of weights."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.pattern.base import MAX_SIZE, Groups, Pattern, Storage, index_bits, positions


@dataclass(frozen=True)
class BankBalanced(Pattern):
    """At most ``n`` nonzeros in every bank of ``m`` consecutive columns of a row (BBS: Cao et al., FPGA 2019, algorithm 1).

    The paper gives the number of banks, of equal size; here the size is given, and the last bank of a row may be short. It still
    keeps ``n``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m <= MAX_SIZE:
            raise SparseGateError(f"bbs:N:M needs 1 <= N <= M <= {MAX_SIZE}, not {self.n}:{self.m}")

    @property
    def density(self) -> float:
        """Kept share of a full bank."""
        return self.n / self.m

    def __str__(self) -> str:
        return f"bbs:{self.n}:{self.m}"

    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """CSB of the paper: N entries for every bank, each with its place in the bank; no pointers."""
        rows, columns = matrix.shape
        entries = rows * -(-columns // self.m) * self.n
        return Storage(entries, entries * bits, entries * index_bits(self.m))

    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        return positions(rows, columns, width=self.m).reshape(-1, self.m)

    def _least(self, length: int) -> int:
        return min(self.n, length)

    def _excess(self, broken: int) -> str:
        return f"{broken} banks hold more than {self.n} nonzeros"
