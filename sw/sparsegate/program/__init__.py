"""The Program: integers and formats only, the contract between quantization, golden model, cycle model and engine."""

from __future__ import annotations

from sparsegate.program.file import FORMAT, VERSION
from sparsegate.program.layer import Phase, QuantizedLayer, Term
from sparsegate.program.limits import ACTIVATION_BITS, EXACT, FRACS, MAX_THRESHOLD, THRESHOLD_BITS
from sparsegate.program.matrix import Matrix
from sparsegate.program.program import Program, Vector
from sparsegate.program.states import RawState

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
    "Vector",
]
