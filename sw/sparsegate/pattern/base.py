"""What every sparsity pattern can do, and the one selection on which all of them rest.

A pattern cuts a matrix into groups of weights and keeps so many of the largest magnitudes in each. How it cuts, and how many it
keeps, is all that a pattern adds (``_groups`` and ``_least``).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError

MAX_SIZE = 1024
"""Largest number of units, columns or processing elements by which a pattern cuts a matrix."""

Groups = NDArray[np.intp]
"""Flat positions in a matrix, (groups, length)."""


@dataclass(frozen=True)
class Storage:
    """What a pruned matrix takes in memory, in bits, in the encoding published with its pattern.

    ``entries`` are the weights stored, zeros that only fill a place included; ``weights`` the bits of their values, ``indices``
    those of their places, and ``pointers`` those that say where columns begin, in an encoding that needs them.
    """

    entries: int
    weights: int
    indices: int
    pointers: int = 0

    @property
    def bits(self) -> int:
        """All of it."""
        return self.weights + self.indices + self.pointers


class Pattern(ABC):
    """Which weights of a matrix (gates * units, columns), gate-major as in PyTorch, may be nonzero."""

    @property
    @abstractmethod
    def density(self) -> float:
        """Share of the weights that is kept where the pattern's sizes divide those of the matrix."""

    @property
    def dense(self) -> bool:
        """Whether every weight is kept."""
        return self.density == 1

    @abstractmethod
    def __str__(self) -> str:
        """The text from which ``pattern.parse`` makes the same pattern."""

    @abstractmethod
    def _stored(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Memory of a matrix that obeys the pattern."""

    @abstractmethod
    def _groups(self, rows: int, columns: int, gates: int) -> Groups:
        """Positions of the weights that compete with each other, short groups filled up behind their end with -1.

        Of equal magnitudes the one that comes first is kept.
        """

    @abstractmethod
    def _least(self, length: int) -> int:
        """Weights kept in a group of so many when pruning is complete."""

    @abstractmethod
    def _excess(self, broken: int) -> str:
        """What is wrong with a matrix in which ``broken`` groups hold too many nonzeros."""

    def mask(self, matrix: NDArray, gates: int, release: Fraction = Fraction(0)) -> NDArray[np.bool_]:
        """Keep the largest magnitudes of each group: a bool array of the matrix's shape.

        Parameters
        ----------
        matrix : (gates * units, columns) weights, or any other nonnegative scores.
        gates : in how many gates the rows divide.
        release : share, in 0..1, of the weights outside of the pattern that is kept nevertheless, rounded up in each group. 0 is
            the pattern itself, 1 keeps all; a larger one keeps the weights that a smaller one keeps, and more.

        Exactly the number promised is kept, of equal magnitudes and of zeros too, and always the same ones.
        """
        check_rows(matrix, gates)
        if not 0 <= release <= 1:
            raise SparseGateError(f"a pattern is released by a share in 0..1, not {release}")
        if self.dense or release == 1:
            return np.ones(matrix.shape, bool)
        magnitude = _magnitude(matrix)
        keep = np.empty(matrix.size, bool)
        for groups in groups_of(self, *matrix.shape, gates):
            length = groups.shape[1]
            least = self._least(length)
            keep[groups] = largest(magnitude[groups], least + _up((length - least) * Fraction(release)))
        return keep.reshape(matrix.shape)

    def violations(self, matrix: NDArray, gates: int) -> int:
        """Number of groups with more nonzeros than the pattern allows."""
        check_rows(matrix, gates)
        if self.dense:
            return 0
        nonzero = matrix.ravel() != 0
        return sum(
            int(np.count_nonzero(np.count_nonzero(nonzero[groups], axis=1) > self._least(groups.shape[1])))
            for groups in groups_of(self, *matrix.shape, gates)
        )

    def check(self, matrix: NDArray, gates: int, name: str) -> None:
        """Refuse a matrix that breaks the pattern."""
        broken = self.violations(matrix, gates)
        if broken:
            raise SparseGateError(f"{name} is not {self}: {self._excess(broken)}")

    def storage(self, matrix: NDArray, gates: int, bits: int) -> Storage:
        """Memory that a matrix of this pattern takes with weights of ``bits`` bits; one that breaks the pattern is refused."""
        self.check(matrix, gates, "the matrix to store")
        return Storage(matrix.size, matrix.size * bits, 0) if self.dense else self._stored(matrix, gates, bits)


def largest(score: NDArray, count: int) -> NDArray[np.bool_]:
    """The ``count`` largest of each row of ``score`` (groups, length); of equal scores the first."""
    if count == 0:
        return np.zeros(score.shape, bool)
    least = np.partition(score, -count, axis=1)[:, -count, None]  # the smallest that is kept, of each group
    keep = score >= least
    if np.count_nonzero(keep) > count * len(score):  # some are equal to the smallest
        above, equal = score > least, score == least
        left = count - np.count_nonzero(above, axis=1)[:, None]
        keep = above | (equal & (equal.cumsum(axis=1) <= left))
    return keep


@lru_cache(maxsize=8)
def groups_of(pattern: Pattern, rows: int, columns: int, gates: int) -> tuple[Groups, ...]:
    """Groups of a matrix, those of equal length together.

    Kept because a schedule asks for the same ones at every step; of few matrices only, as they take eight bytes a weight.
    """
    groups = pattern._groups(rows, columns, gates)
    lengths = np.count_nonzero(groups >= 0, axis=1)
    parts = [
        np.ascontiguousarray(groups[lengths == length, :length]) for length in sorted({*lengths.tolist()}) if length
    ]
    for part in parts:
        part.flags.writeable = False
    return tuple(parts)


def positions(rows: int, columns: int, height: int = 1, width: int = 1, gates: int = 1) -> NDArray[np.intp]:
    """Flat positions in a matrix, (gates, units, columns), with -1 up to multiples of ``height`` units and ``width`` columns."""
    units = rows // gates
    found = np.full((gates, -(-units // height) * height, -(-columns // width) * width), -1, np.intp)
    found[:, :units, :columns] = np.arange(rows * columns).reshape(gates, units, columns)
    return found


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def check_rows(matrix: NDArray, gates: int) -> None:
    """Refuse what is no matrix of so many gates."""
    if matrix.ndim != 2:
        raise SparseGateError(f"a pattern is of a matrix, not of an array of shape {matrix.shape}")
    if matrix.shape[0] % gates:
        raise SparseGateError(f"{matrix.shape[0]} rows do not divide into {gates} gates")


def _magnitude(matrix: NDArray) -> NDArray:
    """Flat magnitudes, in the matrix's own precision."""
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)  # exact for every smaller type
    magnitude = np.abs(matrix.ravel())
    nan = int(np.count_nonzero(np.isnan(magnitude)))
    if nan:
        raise SparseGateError(f"{nan} of the weights are NaN, which have no order")
    return magnitude


class Share(Pattern):
    """A pattern that keeps a share of each of its groups, rounded towards more weights."""

    share: Fraction

    @property
    def density(self) -> float:
        return float(self.share)

    def _least(self, length: int) -> int:
        return _up(length * self.share)


def share_of(value: Fraction | float | str) -> Fraction:
    """A density, above 0 and at most 1: ``"1/8"``, ``"0.125"``, or a number."""
    if isinstance(value, str) and not re.fullmatch(r"\d{1,9}/0*[1-9]\d{0,8}|\d{1,9}(\.\d{1,9})?", value):
        raise SparseGateError(f"a density is written like '1/8' or '0.125', not {value!r}")
    if not isinstance(value, str) and not 0 < value <= 1:  # NaN too
        raise SparseGateError(f"a density is above 0 and at most 1, not {value}")
    share = Fraction(value)
    if isinstance(value, float):
        share = share.limit_denominator(1 << 20)  # 0.1 is meant to be 1/10
    if not 0 < share <= 1:
        raise SparseGateError(f"a density is above 0 and at most 1, not {value}")
    return share


def check_size(value: int, what: str) -> None:
    if not 1 <= value <= MAX_SIZE:
        raise SparseGateError(f"{what} is 1 to {MAX_SIZE}, not {value}")


def index_bits(places: int) -> int:
    """Bits that tell so many places apart."""
    return math.ceil(math.log2(places))


def fillers(nonzero: NDArray[np.bool_], bits: int) -> int:
    """Zeros that must be stored between nonzeros where an index counts the zeros before each in so many bits.

    ``nonzero`` is (sequences, length); every sequence is counted from its own beginning, and what follows the last nonzero takes
    nothing. Deep Compression (Han et al., ICLR 2016), figure 2.
    """
    sequence, place = np.nonzero(nonzero)
    before = np.where(np.diff(sequence, prepend=-1) == 0, np.roll(place, 1), -1)
    return int(((place - before - 1) >> bits).sum())
