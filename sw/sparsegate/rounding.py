"""Round weights so that their errors cancel: each column's rounding error is made up for by the columns that follow.

Rounding every weight to the nearest integer minimises the error of the weights, not that of what they compute. Columns of a
recurrent layer are far from independent, so the error of one can be taken back by the others. This is the optimal brain surgeon
(Hassibi & Stork 1993) in the column-wise form of GPTQ (Frantar et al. 2022). The error of pre-activations is D H Dᵀ, with D the
weights' errors and H = Σ u uᵀ over the columns u of calibration data; columns are rounded in turn, and after each the best
correction goes to those that are left. The bias comes last and, having bits to spare, is not rounded at all. No labels, no
gradients, no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell, phases_of
from sparsegate.fixed import QFormat
from sparsegate.network import Layer, Network, sequences
from sparsegate.passes import flipped

DAMPING = 1e-2
"""Added to the diagonal of H, as a share of it: what calibration data did not show is not trusted to hold exactly."""
FINER = 3
"""How many fractional bits more than the largest weight allows are tried; what lies outside saturates, and is made up for too."""

CHUNK = 64

Formats = list[dict[str, QFormat]]


def compensate(
    network: Network, formats: Sequence[dict[str, QFormat]], x: ArrayLike, lengths: ArrayLike | None = None
) -> tuple[Network, Formats]:
    """Round the weights of a network on calibration data (N, T, I), and choose how many fractional bits they have.

    Returns the network with weights on the grids of the returned formats, from which ``quantize.build`` takes them as they are. Of
    each matrix the fractional bits are chosen that give the layer's float outputs the smallest squared error; a few weights may
    saturate. Layers that the method does not cover (pruned, projected, gated products apart) stay as they are, with their formats.
    """
    x, lengths = sequences(x, lengths, network.inputs)
    values = [x, *network.evaluate(x, lengths).layers]
    layers, chosen = [], []
    for layer, taken, given in zip(network.layers, network.sources, formats, strict=True):
        form = dict(given)
        if _covered(layer):
            source = np.concatenate([values[vector] for vector in taken], axis=2)
            layer, form = _layer(layer, form, source, lengths)
        layers.append(layer)
        chosen.append(form)
    return network.with_layers(layers), chosen


def _covered(layer: Layer) -> bool:
    """Whether a layer's pre-activations are b + Wx x + Wh h with dense matrices and h the layer's own output."""
    dense = layer.pattern_x.dense and layer.pattern_h.dense
    return dense and len(phases_of(cell(layer.kind), layer.w_p is not None)) == 1 and layer.bias_h is None


def _layer(
    layer: Layer, form: dict[str, QFormat], source: NDArray, lengths: NDArray[np.int64]
) -> tuple[Layer, dict[str, QFormat]]:
    """A layer with rounded weights, for float inputs (N, T, I)."""
    alone = Network((replace(layer, sources=(), when="step"),))
    outputs = alone.evaluate(source, lengths).outputs  # (N, T, outputs)
    columns = _columns(layer, source, outputs, lengths)
    moments = columns.T @ columns / len(columns)

    def tried(fracs: dict[str, int]) -> tuple[float, Layer, dict[str, QFormat]]:
        forms = form | {key: QFormat(form[key].width, frac) for key, frac in fracs.items()}
        rounded = _rounded(layer, forms, moments)
        found = alone.with_layers([replace(rounded, sources=(), when="step")]).evaluate(source, lengths).outputs
        return float(np.square(found - outputs).sum()), rounded, forms

    fracs: dict[str, int] = {key: form[key].frac for key in ("wh", "wx") if key in form}
    best = tried(fracs)
    for key, start in list(fracs.items()):  # one matrix after the other: Wh, whose errors come back every step, first
        for frac in range(start + 1, start + 1 + FINER):
            result = tried(fracs | {key: frac})
            if result[0] >= best[0]:
                break
            best, fracs = result, fracs | {key: frac}
    return best[1], best[2]


def _columns(layer: Layer, source: NDArray, outputs: NDArray, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a layer's weights multiply at every step: x, h of the step before, and 1 for the bias. (steps, I + H + 1)"""
    valid = np.arange(source.shape[1])[None, :] < lengths[:, None]
    if layer.reverse:
        source, outputs = flipped(source, lengths), flipped(outputs, lengths)
    parts = [source]
    if layer.w_h is not None:
        parts.append(np.concatenate([np.zeros_like(outputs[:, :1]), outputs[:, :-1]], axis=1))
    parts.append(np.ones_like(source[:, :, :1]))
    return np.concatenate(parts, axis=2)[valid]


def _rounded(layer: Layer, forms: dict[str, QFormat], moments: NDArray[np.float64]) -> Layer:
    """Round one column after the other: those of x, then those of h, in each the largest first; the bias takes the rest."""
    matrices = [("wx", layer.w_x)] + ([] if layer.w_h is None else [("wh", layer.w_h)])
    weights = np.concatenate([matrix for _, matrix in matrices] + [layer.bias[:, None]], axis=1)
    power = np.diag(moments)
    order, of_column, start = [], [], 0
    for key, matrix in matrices:
        end = start + matrix.shape[1]
        order.append(start + np.argsort(-power[start:end], kind="stable"))
        of_column += [forms[key]] * matrix.shape[1]
        start = end
    places = np.concatenate([*order, [start]])
    factor = _factor(moments[np.ix_(places, places)])
    left = np.ascontiguousarray(weights.T[places])  # (columns, rows): a column is one contiguous piece
    for start in range(0, len(of_column), CHUNK):  # in chunks, after which all that is left is corrected at once
        end = min(start + CHUNK, len(of_column))
        errors = np.empty((end - start, left.shape[1]))
        for position in range(start, end):
            form = of_column[position]
            exact = left[position].copy()
            left[position] = form.real(form.quantize(exact))
            error = errors[position - start] = (exact - left[position]) / factor[position, position]
            left[position + 1 : end] -= np.outer(factor[position, position + 1 : end], error)
        left[end:] -= factor[start:end, end:].T @ errors
    done = np.empty_like(weights)
    done[:, places] = left.T
    inputs = layer.inputs
    return replace(layer, w_x=done[:, :inputs], w_h=None if layer.w_h is None else done[:, inputs:-1], bias=done[:, -1])


def _factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the damped moments' inverse: row k holds the corrections for an error in column k."""
    power = np.diag(moments)
    size = np.sqrt(np.where(power > 0, power, 1.0))
    alike = moments / np.outer(size, size)  # unit diagonal: columns of any scale are damped alike
    alike[np.diag_indices_from(alike)] = 1 + DAMPING
    alike[-1, -1] = 1 + DAMPING * 1e-3  # the bias costs nothing
    return np.linalg.cholesky(np.linalg.inv(alike)).T / size
