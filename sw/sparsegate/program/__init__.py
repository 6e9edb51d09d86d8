"""The Program: integers and formats only, the contract between quantization, golden model, cycle model and engine."""

from __future__ import annotations

from sparsegate.program.program import (
    ACTIVATION_BITS,
    EXACT,
    FORMAT,
    FRACS,
    MAX_THRESHOLD,
    THRESHOLD_BITS,
    VERSION,
    Matrix,
    Phase,
    Program,
    QuantizedLayer,
    RawState,
    Term,
)

__all__ = [
    "ACTIVATION_BITS",
    "EXACT",
    "FORMAT",
    "FRACS",
    "MAX_THRESHOLD",
    "THRESHOLD_BITS",
    "VERSION",
    "Matrix",
    "Phase",
    "Program",
    "QuantizedLayer",
    "RawState",
    "Term",
]
