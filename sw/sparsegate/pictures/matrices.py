"""Which weights are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells import cell
from sparsegate.cells.matrices import TITLES
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.pattern import DENSE, common_block
from sparsegate.pictures.look import BLUE, figure_of, percent, raster
from sparsegate.program import Program, QuantizedLayer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATES = {
    "i": "input gate i",
    "f": "forget gate f",
    "g": "candidate g",
    "o": "output gate o",
    "r": "reset gate r",
    "z": "update gate z",
    "n": "candidate n",
}


def sparsity_map(model: Network | Program, layer: str | None = None) -> Figure:
    """Which weights of a layer are kept: Wx, Wh and Wp side by side, gates labelled, blocks of N:M ruled.

    ``layer``: its name; the first recurrent one where omitted. A matrix larger than its picture is shown as local density.
    """
    chosen = _layer(model, layer)
    matrices = matrices_of(chosen)
    rows = max(matrix.shape[0] for _, matrix in matrices)
    figure = figure_of(8, float(np.clip(1.2 + rows / 45, 3.2, 7)))
    widths = np.array([matrix.shape[1] for _, matrix in matrices], float)
    axes = figure.subplots(
        1, len(matrices), squeeze=False, gridspec_kw={"width_ratios": np.maximum(widths, 0.15 * widths.max())}
    )[0]
    drawn: list[str] = []  # matrices whose blocks are told apart
    for axis, (key, matrix) in zip(axes, matrices, strict=True):
        gates = 1 if key == "p" else len(cell(chosen.kind).gates)
        units, block = matrix.shape[0] // gates, _block(chosen, key)
        raster(axis, matrix != 0, BLUE)
        if block > 1 and block < units and matrix.shape[0] / block <= 80:
            drawn.append(key)
            for gate in range(gates):
                for edge in range(block, units, block):
                    axis.axhline(gate * units + edge - 0.5, color="#9AA5B1", linewidth=0.4)
        for gate in range(1, gates):
            axis.axhline(gate * units - 0.5, color="black", linewidth=1.0)
        labels = [GATES.get(gate, gate) for gate in cell(chosen.kind).gates] if gates > 1 else []
        axis.set_yticks((np.arange(len(labels)) + 0.5) * units - 0.5, labels if axis is axes[0] else [""] * len(labels))
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True, nbins=max(2, int(8 * matrix.shape[1] / widths.max())))
        axis.set_title(f"{TITLES[key]}: {percent(np.mean(matrix != 0))} kept", fontsize=10)
        axis.set_xlabel({"x": "input", "h": "hidden unit", "p": "hidden unit"}[key])
        if gates == 1:
            axis.set_ylabel("output" if key == "p" or chosen.kind.startswith("linear") else "hidden unit")
    ruled = {_block(chosen, key) for key in drawn} - {1}
    blocks = f" of {ruled.copy().pop()} units" if len(ruled) == 1 else ""
    figure.suptitle(
        f"Weights kept in {chosen.name}{f'; thin lines part the blocks{blocks}' if ruled else ''}", fontsize=11
    )
    return figure


def _layer(model: Network | Program, name: str | None) -> Any:
    layers: Sequence[Any] = model.layers
    if name is None:
        return next((layer for layer in layers if cell(layer.kind).recurrent), layers[0])
    found = next((layer for layer in layers if layer.name == name), None)
    if found is None:
        raise SparseGateError(f"there is no layer {name!r}; there are {', '.join(layer.name for layer in layers)}")
    return found


def matrices_of(layer: Any) -> list[tuple[str, NDArray]]:
    """The dense matrices that a float or an integer (raw) layer has: x, h and p."""
    if isinstance(layer, QuantizedLayer):
        projection = None if layer.matrix_p is None else layer.matrix_p.dense(1, layer.outputs, layer.block_p)
    else:
        projection = layer.w_p
    found = (("x", layer.w_x), ("h", layer.w_h), ("p", projection))
    return [(key, matrix) for key, matrix in found if matrix is not None]


def _block(layer: Any, key: str) -> int:
    """Units of a block of a matrix; 1 where it is dense."""
    if isinstance(layer, QuantizedLayer):
        return int(layer.block_p if key == "p" else layer.block)
    return common_block(getattr(layer, f"pattern_{key}", DENSE))
