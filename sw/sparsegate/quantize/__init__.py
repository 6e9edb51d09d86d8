"""Quantization: choose formats, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from sparsegate.quantize.build import QuantizeConfig, build, choose_formats, prepare, quantize
from sparsegate.quantize.calibration import calibrate

__all__ = ["QuantizeConfig", "build", "calibrate", "choose_formats", "prepare", "quantize"]
