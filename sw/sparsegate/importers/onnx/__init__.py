"""Import ONNX models: LSTM, GRU and RNN nodes, Gemm and MatMul heads, and the glue that exporters put around them."""

from __future__ import annotations

from sparsegate.importers.onnx.graph import describe, from_onnx

__all__ = ["describe", "from_onnx"]
