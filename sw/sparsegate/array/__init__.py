"""Where everything of a Program lives on an array of processing elements: pure arithmetic, no hardware description."""

from __future__ import annotations

from sparsegate.array.config import MAX_MULTIPLIER, HardwareConfig, default_rows, suited
from sparsegate.array.layout import Layout
from sparsegate.array.place import INPUT, MAX_PLANES, MatrixLayout, PhaseLayout, weight_shape

__all__ = [
    "INPUT",
    "MAX_MULTIPLIER",
    "MAX_PLANES",
    "HardwareConfig",
    "Layout",
    "MatrixLayout",
    "PhaseLayout",
    "default_rows",
    "suited",
    "weight_shape",
]
