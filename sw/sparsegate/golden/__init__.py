"""The golden model: the integers that every other level must give, vectorised over a batch of sequences."""

from __future__ import annotations

from sparsegate.golden.layer import FLOAT32_EXACT
from sparsegate.golden.model import run
from sparsegate.golden.trace import PassTrace, Stream, Trace

__all__ = ["FLOAT32_EXACT", "PassTrace", "Stream", "Trace", "run"]
