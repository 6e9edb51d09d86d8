"""What is counted of a network and its Program: density, compression, products that are skipped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells import cell
from sparsegate.golden import temporal
from sparsegate.network import Network
from sparsegate.pattern import DENSE, Pattern
from sparsegate.program import Program
from sparsegate_app.bench.tasks import Part


def density(network: Network) -> float:
    """Share of nonzero weights in the matrices of the recurrent layers."""
    matrices = [matrix for layer in network.layers if cell(layer.kind).recurrent for matrix in _matrices(layer)]
    return round(sum(np.count_nonzero(matrix) for matrix in matrices) / sum(matrix.size for matrix in matrices), 6)


def compression(network: Network, program: Program, wanted: Pattern) -> dict[str, float]:
    """32-bit float weights of the dense model over what is stored, indices counted.

    ``compression_weights``: matrices of the recurrent layers. ``compression_model``: everything, with heads and biases. Where the
    recurrent layers were factored, the dense model is the one before.
    """
    dense = stored = other_dense = other_stored = 0
    for layer, made in zip(network.layers, program.layers, strict=True):
        recurrent = cell(layer.kind).recurrent
        for key, matrix in (("x", layer.w_x), ("h", layer.w_h), ("p", layer.w_p)):
            if matrix is None:
                continue
            form = made.formats["w" + key]
            own = wanted if recurrent and key != "p" else DENSE
            bits = own.storage(matrix, 1 if key == "p" else layer.gates, form.width).bits
            whole = 0 if key == "p" else matrix.shape[0] * (layer.units if key == "h" else matrix.shape[1])
            if recurrent:
                dense, stored = dense + 32 * whole, stored + bits
            else:
                other_dense, other_stored = other_dense + 32 * whole, other_stored + bits
        other_dense += 32 * layer.bias.size
        other_stored += made.formats["acc"].width * layer.bias.size
    return {
        "compression_weights": round(dense / stored, 3),
        "compression_model": round((dense + other_dense) / (stored + other_stored), 3),
    }


def _matrices(layer: Any) -> list[NDArray]:
    return [matrix for matrix in (layer.w_x, layer.w_h, layer.w_p) if matrix is not None]


def skipped(program: Program, part: Part) -> float:
    some = part.take(slice(None, 100))
    return round(float(temporal.skipped(program, some.x, some.lengths).total), 4)
