"""SparseGate: from a trained recurrent network to a sparse, bit-exact FPGA accelerator.

This room holds the numbers: import, prune, quantize, the integer program, golden and cycle models, report. Nothing here
imports Amaranth or cocotb; torch is imported only by the modules that train, prune, calibrate or import torch models.

``sparsegate.load`` makes a Network of a trained model (``sparsegate.importers``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparsegate.importers import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``load`` is found when it is asked for: ``import sparsegate`` alone loads nothing."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("sparsegate.importers").load
