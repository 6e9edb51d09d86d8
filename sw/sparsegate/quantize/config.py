"""How a Network is quantized: widths, roundings, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from sparsegate.cells.matrices import WEIGHT_FORMATS
from sparsegate.errors import SparseGateError
from sparsegate.numerics.fixed import QFormat, bits_for
from sparsegate.quantize.calibration import (
    METHODS,
    Levels,
    Method,
)

Rounding = Literal["nearest", "compensated"]
MATRIX_KEYS = tuple(WEIGHT_FORMATS.values())
"""Formats of a layer's matrices; ``matrix_bits`` and ``matrix_levels`` name them as "layer.wx"."""
MOST_LEVELS = (1 << 16) - 1


@dataclass(frozen=True)
class QuantizeConfig:
    """Bit widths and thresholds of a quantization.

    ``activation_bits``: input x and every h that feeds columns, 4..16; ``input_bits``: of x alone, where it needs others.
    ``weight_bits``: 2..16. ``gate_bits``: gates and tanh, default activation_bits + 2, of which all but two are fractional so
    that 0 and 1 are exact. ``pre_bits``: input of the activation tables, default min(activation_bits + 4, 16), range -8..8.
    ``state_bits``: cell state. ``output_bits``: a final layer that feeds nothing. ``table_bits``: address bits of a table; wider
    pre-activations are interpolated. ``threshold``: default Θ, in LSBs, of the input and of every vector that a recurrent layer
    gives.

    ``matrix_bits``: bits of single matrices, such as ``{"lstm.wh": 4, "fc.wx": 8}``; the others have ``weight_bits``.
    ``weight_levels``: an odd number of levels (3, 5, 7 ...) that all weights of matrices are rounded to, and ``matrix_levels``
    the same for single ones. A weight w becomes clip(round(w / r), -(levels - 1) / 2, (levels - 1) / 2) r. With five levels these
    are the low-precision weights of binary-gate LSTMs (Li et al., ICML 2018: round to r = 0.2, then clip to c = 0.4), but r is a
    power of two here, as every scale is (0.25 and not 0.2), chosen for each matrix by the smallest squared error.

    ``calibration`` says how the fractional bits of inputs, states, unbounded outputs and weights are chosen: "min-max", so that
    nothing seen saturates; "percentile", so that ``percentile`` per cent of the magnitudes do not (Wu et al. 2020 compare these);
    "mse", by the smallest squared error of rounding and saturation together (as Banner et al. 2019 choose a clipping value).
    ``rounding``: each weight to the nearest, or "compensated" (``sparsegate.quantize.compensate.compensate``).
    ``bias_correction``: take from the biases what rounding the weights adds to mean pre-activations
    (``sparsegate.quantize.bias.correct_bias``).
    """

    activation_bits: int = 8
    weight_bits: int = 8
    gate_bits: int | None = None
    pre_bits: int | None = None
    state_bits: int = 16
    output_bits: int = 16
    table_bits: int = 11
    threshold: int = 0
    operand_bits: int = 18
    input_bits: int | None = None
    matrix_bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    weight_levels: int | None = None
    matrix_levels: Mapping[str, int] = field(default_factory=dict, hash=False)
    calibration: Method = "min-max"
    percentile: float = 99.99
    rounding: Rounding = "nearest"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("activation_bits", 4, 16),
            ("weight_bits", 2, 16),
            ("state_bits", 4, 24),
            ("output_bits", 4, 32),
            ("table_bits", 3, 15),
            ("gate_bits", 4, 18),
            ("pre_bits", 6, 16),
            ("input_bits", 4, 16),
            ("operand_bits", max(self.activation_bits, self.input_bits or 0) + 1, 64),
        ):
            value = getattr(self, name)
            if value is not None and (not _integer(value) or not low <= value <= high):
                raise SparseGateError(f"{name} is {value}, expected {low} to {high}")
        if not _integer(self.threshold) or self.threshold < 0:
            raise SparseGateError(f"threshold is {self.threshold}, expected 0 or more LSBs")
        for name, bits in self.matrix_bits.items():
            if not _integer(bits) or not 2 <= bits <= 16:
                raise SparseGateError(f"matrix_bits of {name!r} is {bits!r}, expected 2 to 16")
            if name in self.matrix_levels:
                raise SparseGateError(f"matrix {name!r} is given both bits and levels, expected one of them")
        levels = {f"matrix_levels of {name!r}": count for name, count in self.matrix_levels.items()}
        for name, count in (
            levels if self.weight_levels is None else {"weight_levels": self.weight_levels} | levels
        ).items():
            if not _integer(count) or not 3 <= count <= MOST_LEVELS or count % 2 == 0:
                raise SparseGateError(f"{name} is {count!r}, expected an odd number from 3 to {MOST_LEVELS}")
        for name, known in (("calibration", METHODS), ("rounding", get_args(Rounding))):
            if getattr(self, name) not in known:
                raise SparseGateError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not 50 <= self.percentile <= 100:
            raise SparseGateError(f"percentile is {self.percentile}, expected 50 to 100")

    def weight_format(self, matrix: str) -> QFormat:
        """Width, and levels, of a matrix ("lstm.wx"); its fraction is chosen later."""
        levels = self.matrix_levels.get(matrix, None if matrix in self.matrix_bits else self.weight_levels)
        if levels is None:
            return QFormat(self.matrix_bits.get(matrix, self.weight_bits), 0)
        return Levels(bits_for(levels // 2), 0, levels // 2)

    @property
    def gate(self) -> QFormat:
        bits = self.gate_bits or self.activation_bits + 2
        return QFormat(bits, bits - 2)

    @property
    def pre(self) -> QFormat:
        bits = self.pre_bits or min(self.activation_bits + 4, 16)
        return QFormat(bits, bits - 4)

    @property
    def step_bits(self) -> int:
        return max(0, self.pre.width - 1 - self.table_bits)


def _integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
