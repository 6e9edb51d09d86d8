"""Quantization: choose formats, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from sparsegate.quantize.build import build, prepare, quantize
from sparsegate.quantize.calibration import calibrate
from sparsegate.quantize.config import MATRIX_KEYS, MOST_LEVELS, QuantizeConfig
from sparsegate.quantize.formats import choose_formats

__all__ = [
    "MATRIX_KEYS",
    "MOST_LEVELS",
    "QuantizeConfig",
    "build",
    "calibrate",
    "choose_formats",
    "prepare",
    "quantize",
]
