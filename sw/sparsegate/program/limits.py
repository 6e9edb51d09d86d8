"""What a Program's numbers may be: widths, fractional bits, thresholds, and the proof that a sum fits its accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsegate.numerics.fixed import QFormat

ACTIVATION_BITS = range(4, 17)
WEIGHT_BITS = range(2, 17)
PRE_BITS = range(2, 19)
VALUE_BITS = range(2, 33)
"""Of gates, states and outputs."""
FRACS = range(-64, 65)
THRESHOLD_BITS = 16
MAX_THRESHOLD = (1 << THRESHOLD_BITS) - 1
"""Largest Θ: the engine's threshold inputs have 16 bits."""
EXACT = 1 << 53
"""Integers up to here are exact in float64, through which the golden model multiplies."""


def accumulator_bounds(bias: NDArray[np.int64], terms: Sequence[tuple[NDArray[np.int64], QFormat, int]]) -> list[int]:
    """Largest magnitude of b + Σ W x~ · 2**shift of every row, for any x~ inside its format's range.

    ``terms`` are dense raw matrices (rows, columns) with their columns' format and shift. Python integers: the bound cannot wrap.
    """
    rows = [abs(int(value)) for value in bias.reshape(-1)]
    for matrix, form, shift in terms:
        scale = -form.min << shift
        rows = [row + int(total) * scale for row, total in zip(rows, np.abs(matrix).sum(axis=1), strict=True)]
    return rows
