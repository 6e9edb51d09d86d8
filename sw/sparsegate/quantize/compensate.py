"""Round or prune weights so that their errors cancel: each column's error is made up for by the columns that follow.

Rounding every weight to the nearest integer minimises the error of the weights, not that of what they compute. Columns of a
recurrent layer are far from independent, so the error of one can be taken back by the others. This is the optimal brain surgeon
(Hassibi & Stork 1993) in the column-wise form of GPTQ (Frantar et al. 2022) for rounding and of SparseGPT (Frantar & Alistarh
2023) for pruning. The error of pre-activations is D H Dᵀ, with D the weights' errors and H = Σ u uᵀ over the columns u of
calibration data; columns are treated in turn, and after each the best correction goes to those that are left. The bias comes
last and, having bits to spare, is not rounded at all. No labels, no gradients, no training.

A pruned matrix keeps its zeros: a weight that is 0 is in no place to make up for anything, and stays 0.

The simplest compensation of all, that of biases, is ``sparsegate.quantize.bias``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import pattern
from sparsegate.cells import cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, sequences
from sparsegate.network.passes import flipped
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import DENSE, NM, Pattern, Written

DAMPING = 1e-2
"""Added to the diagonal of H, as a share of it: what calibration data did not show is not trusted to hold exactly."""
FAINT = 1e-1
"""A column with less than this share of the largest one's root mean square counts as if it had so much: what is next to nothing in
the calibration data can make up for nothing, and would be given weights without bounds."""
FINER = 3
"""How many fractional bits more than the largest weight allows are tried; what lies outside saturates, and is made up for too."""

CHUNK = 64
BATCH = 1 << 22
"""Numbers in the moments of rows that are treated together, each row having kept columns of its own."""
REFITS = 10
STRIDE = 0.5
"""How often the kept weights of a recurrent layer are solved for again, and how far they go each time: all the way, they swing."""

Formats = list[dict[str, QFormat]]


def compensate(
    network: Network,
    formats: Sequence[dict[str, QFormat]],
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    finer: int = FINER,
) -> tuple[Network, Formats]:
    """Round the weights of a network on calibration data (N, T, I), and choose how many fractional bits they have.

    Returns the network with weights on the grids of the returned formats, from which ``quantize.build`` takes them as they are. Of
    each matrix the fractional bits are chosen, up to ``finer`` more than given, that give the layer's float outputs the smallest
    squared error; a few weights may saturate. Weights that are 0 stay 0, and errors go to the others only. Layers that the method
    does not cover (with a projection, or gated products summed apart or in two phases) stay as they are, with their formats.

    Rows without a 0 are treated together. Each of the others has moments of its own, and takes time with the cube of its nonzeros:
    for each of up to ``1 + 2 * finer`` trials 12 s on one core for an LSTM of 153 inputs and 1024 units at 1:8, 3 minutes at 1:2.
    """
    x, lengths = sequences(x, lengths, network.inputs)
    values = [x, *network.evaluate(x, lengths).layers]
    layers, chosen = [], []
    for layer, taken, given in zip(network.layers, network.sources, formats, strict=True):
        form = dict(given)
        if covered(layer):
            source = np.concatenate([values[vector] for vector in taken], axis=2)
            layer, form = _layer(layer, form, source, lengths, finer)
        layers.append(layer)
        chosen.append(form)
    return network.with_layers(layers), chosen


def covered(layer: Layer) -> bool:
    """Whether a layer's pre-activations are b + Wx x + Wh h with h the layer's own output."""
    return len(phases_of(cell(layer.kind), layer.w_p is not None)) == 1 and layer.bias_h is None


def _layer(
    layer: Layer, form: dict[str, QFormat], source: NDArray, lengths: NDArray[np.int64], finer: int
) -> tuple[Layer, dict[str, QFormat]]:
    """A layer with rounded weights, for float inputs (N, T, I)."""
    outputs = alone(layer, {}).evaluate(source, lengths).outputs  # (N, T, outputs)
    moments = _Moments.of(layer, source, outputs, lengths)

    def tried(fracs: dict[str, int]) -> tuple[float, Layer, dict[str, QFormat]]:
        forms = form | {key: replace(form[key], frac=frac) for key, frac in fracs.items()}
        rounded = _rounded(layer, forms, moments)
        found = alone(rounded, {}).evaluate(source, lengths).outputs
        return float(np.square(found - outputs).sum()), rounded, forms

    fracs: dict[str, int] = {key: form[key].frac for key in ("wh", "wx") if key in form}
    best = tried(fracs)
    for key, start in list(fracs.items()):  # one matrix after the other: Wh, whose errors come back every step, first
        for frac in range(start + 1, start + 1 + finer):
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


@dataclass(frozen=True, eq=False)
class _Moments:
    """H of a layer's columns, scaled so that its diagonal is 1 before damping: columns of any scale are damped alike, those that
    are all but silent (``FAINT``) more.

    ``places``: the order in which columns are treated: those of x, then those of h, in each the largest first; the bias takes the
    rest. ``size`` is every column's scale.
    """

    alike: NDArray[np.float64]
    size: NDArray[np.float64]
    places: NDArray[np.intp]

    @classmethod
    def of(cls, layer: Layer, source: NDArray, outputs: NDArray, lengths: NDArray[np.int64]) -> _Moments:
        columns = _columns(layer, source, outputs, lengths)
        moments = columns.T @ columns / len(columns)
        power = np.diag(moments)
        parts = np.split(power, [layer.inputs, len(power) - 1])
        largest = np.repeat([part.max(initial=0.0) for part in parts], [len(part) for part in parts])
        size = np.sqrt(np.maximum(power, FAINT**2 * np.where(largest > 0, largest, 1.0)))
        alike = moments / np.outer(size, size)
        alike[np.diag_indices_from(alike)] = 1 + DAMPING
        alike[-1, -1] = 1 + DAMPING * 1e-3  # the bias costs nothing
        starts = (0, layer.inputs, len(power) - 1)
        order = [start + np.argsort(-part, kind="stable") for start, part in zip(starts, parts, strict=True)]
        return cls(alike, size, np.concatenate(order))

    def factor(self) -> NDArray[np.float64]:
        """Upper Cholesky factor of H's inverse, in the order of ``places``: row k corrects an error in column k."""
        return _factor(self.alike[np.ix_(self.places, self.places)]) / self.size[self.places]

    def rows(
        self, kept: NDArray[np.bool_], which: NDArray[np.intp] | None = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_], NDArray]]:
        """Rows that keep about as many columns each (``kept`` is (rows, columns)), with the moments of what they keep.

        ``which`` rows are given, or all: the rows (R,), their kept columns (R, K) in the order of ``places``, which of these are
        real and not there to fill the row up, and the moments (R, K, K) of the real ones; of the others they are the identity's.
        """
        ordered = kept[:, self.places]
        counts = ordered.sum(axis=1)
        left = np.argsort(counts, kind="stable")
        left = left if which is None else left[np.isin(left, which)]
        while left.size:
            most = max(1, BATCH // int(counts[left[-1]]) ** 2)
            rows, left = left[-most:], left[:-most]
            at = np.argsort(~ordered[rows], axis=1, kind="stable")[:, : counts[rows].max()]
            real = np.take_along_axis(ordered[rows], at, axis=1)
            columns = self.places[at]
            alike = self.alike[columns[:, :, None], columns[:, None, :]]
            both = real[:, :, None] & real[:, None, :]
            yield rows, columns, real, np.where(both, alike, np.eye(at.shape[1]))


def _factor(alike: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the inverse of (..., n, n)."""
    return np.swapaxes(np.linalg.cholesky(np.linalg.inv(alike)), -1, -2)


def _weights(layer: Layer) -> NDArray[np.float64]:
    """Wx, Wh and the bias side by side, as ``_columns`` has the columns."""
    parts = [layer.w_x, *([] if layer.w_h is None else [layer.w_h]), layer.bias[:, None]]
    return np.concatenate(parts, axis=1)


def _with_weights(layer: Layer, weights: NDArray[np.float64], **fields: Any) -> Layer:
    inputs = layer.inputs
    w_h = None if layer.w_h is None else weights[:, inputs:-1]
    return replace(layer, w_x=weights[:, :inputs], w_h=w_h, bias=weights[:, -1], **fields)


def _rounded(layer: Layer, forms: Mapping[str, QFormat], moments: _Moments) -> Layer:
    """Round one column after the other."""
    weights = _weights(layer)
    kept = weights != 0
    kept[:, -1] = True
    of_column = [forms["wx"]] * layer.inputs + [forms.get("wh", forms["wx"])] * (weights.shape[1] - layer.inputs - 1)

    def nearest(column: int, exact: NDArray) -> NDArray:
        return of_column[column].real(of_column[column].quantize(exact))

    done = weights.copy()
    whole = kept.all(axis=1)
    if whole.any():  # these rows share their corrections, and need no moments of their own
        done[whole] = _in_turn(weights[whole], moments, nearest)
    frac, low, high = (np.array([getattr(form, name) for form in of_column] + [0]) for name in ("frac", "min", "max"))
    for rows, columns, real, alike in moments.rows(kept, np.flatnonzero(~whole)):
        factor = _factor(alike) / moments.size[columns][:, None, :]
        left = np.where(real, weights[rows[:, None], columns], 0.0)  # (R, K)
        for position in range(left.shape[1]):
            column, exact = columns[:, position], left[:, position].copy()
            raw = np.clip(np.floor(np.ldexp(exact, frac[column]) + 0.5), low[column], high[column])
            free = column == weights.shape[1] - 1  # the bias
            left[:, position] = np.where(free, exact, np.ldexp(raw, -frac[column]))
            error = (exact - left[:, position]) / factor[:, position, position]
            left[:, position + 1 :] -= error[:, None] * factor[:, position, position + 1 :]
        which = np.broadcast_to(rows[:, None], columns.shape)[real]
        done[which, columns[real]] = left[real]
    return _with_weights(layer, done)


def _in_turn(
    weights: NDArray[np.float64], moments: _Moments, treat: Callable[[int, NDArray], NDArray]
) -> NDArray[np.float64]:
    """Replace one column after the other, all but the bias, by ``treat(column, values)``, and correct those that are left."""
    factor, places = moments.factor(), moments.places
    left = np.ascontiguousarray(weights.T[places])  # (columns, rows): a column is one contiguous piece
    count = len(places) - 1
    for start in range(0, count, CHUNK):  # in chunks, after which all that is left is corrected at once
        end = min(start + CHUNK, count)
        errors = np.empty((end - start, left.shape[1]))
        for position in range(start, end):
            exact = left[position].copy()
            left[position] = treat(int(places[position]), exact)
            error = errors[position - start] = (exact - left[position]) / factor[position, position]
            left[position + 1 : end] -= np.outer(factor[position, position + 1 : end], error)
        left[end:] -= factor[start:end, end:].T @ errors
    done = np.empty_like(weights)
    done[:, places] = left.T
    return done


# -- pruning -------------------------------------------------------------------------------------------------------------


def prune_compensated(
    network: Network,
    patterns: Written | Mapping[str, Written],
    x: ArrayLike,
    lengths: ArrayLike | None = None,
) -> Network:
    """Prune in one shot on calibration data (N, T, I), kept weights making up for what is lost (Frantar & Alistarh 2023).

    Columns are treated in order. The mask of an N:M pattern is chosen for each column on weights that have taken over the errors
    of the columns before; that of any other pattern beforehand, for the whole matrix, by the saliency w² / [H⁻¹]cc of the
    optimal brain surgeon. Then the kept weights of every row are solved for together, which is the surgeon's exact answer for
    the mask; and a few times more on the columns that the pruned layers before and the layer itself, so pruned, really give,
    with the float network's sums as the goal. What gives the best outputs is kept.

    Parameters
    ----------
    patterns : one pattern, a pair for Wx and Wh, or a mapping from layer names to these; for the recurrent layers where it is no
        mapping. A layer given as "dense" loses nothing, and is solved for as the others are; one that is not mentioned stays as it
        is. Layers that the method does not cover (see :func:`compensate`) are pruned by magnitude, and nothing makes up for it.

    Every row has moments of its own, as in :func:`compensate`, and is solved for up to ``REFITS + 1`` times.
    """
    x, lengths = sequences(x, lengths, network.inputs)
    recurrent = [layer.name for layer in network.layers if cell(layer.kind).recurrent]
    wanted = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(recurrent, patterns)
    names = [layer.name for layer in network.layers]
    for unknown in wanted.keys() - set(names):
        raise SparseGateError(f"the network has no layer {unknown!r}; it has {', '.join(names)}")
    before = [x, *network.evaluate(x, lengths).layers]
    layers = list(network.layers)
    for number, taken in enumerate(network.sources):
        layer = layers[number]
        if layer.name in wanted:
            now = [x, *network.with_layers(layers).evaluate(x, lengths).layers]
            float_source, source = (
                np.concatenate([values[vector] for vector in taken], axis=2) for values in (before, now)
            )
            start = network.initial.get(layer.name, {})
            float_outputs = alone(layer, start).evaluate(float_source, lengths).outputs
            layer, kept = _pruned(layer, pattern.both(wanted[layer.name]), float_source, float_outputs, lengths)
            if kept is not None:
                sums = _columns(layer, float_source, float_outputs, lengths) @ _weights(layers[number]).T
                layer = _refitted(layer, kept, sums, float_outputs, source, lengths, start)
            layers[number] = layer
    return network.with_layers(layers)


def alone(layer: Layer, start: Mapping[str, NDArray]) -> Network:
    """A network of a layer only, at every step."""
    return Network((replace(layer, sources=(), when="step"),), initial={layer.name: start} if start else {})


def _pruned(
    layer: Layer, wanted: tuple[Pattern, Pattern], source: NDArray, outputs: NDArray, lengths: NDArray[np.int64]
) -> tuple[Layer, NDArray[np.bool_] | None]:
    """A pruned layer, and which of its weights (side by side) are kept, for float inputs (N, T, I); None if not covered."""
    by_matrix = dict(zip(("w_x", "w_h"), wanted, strict=True)) if layer.w_h is not None else {"w_x": wanted[0]}
    fields: dict[str, Any] = {
        f"pattern{key[1:]}": each if isinstance(each, NM) else DENSE for key, each in by_matrix.items()
    }
    if not covered(layer):
        for key, each in by_matrix.items():
            weights = getattr(layer, key)
            fields[key] = np.where(each.mask(weights, layer.gates), weights, 0.0)
        return replace(layer, **fields), None
    moments = _Moments.of(layer, source, outputs, lengths)
    weights, size = _weights(layer), moments.size
    uncertain = np.empty_like(size)  # the roots of [H^-1]_cc
    uncertain[moments.places] = np.sqrt(np.square(moments.factor()).sum(axis=0))
    kept = np.ones(weights.shape, bool)
    start = 0
    of_column: list[Pattern] = []
    for key, each in by_matrix.items():
        end = start + getattr(layer, key).shape[1]
        of_column += [each] * (end - start)
        if not isinstance(each, NM):
            kept[:, start:end] = each.mask(weights[:, start:end] / uncertain[start:end], layer.gates)
        start = end

    def chosen(column: int, exact: NDArray) -> NDArray:
        each = of_column[column]
        if isinstance(each, NM):
            kept[:, column] = each.mask(exact[:, None], layer.gates)[:, 0]
        return np.where(kept[:, column], exact, 0.0)

    _in_turn(weights, moments, chosen)
    done = _solved(kept, moments, (weights * size) @ moments.alike)
    return _with_weights(layer, done, **fields), kept


def _solved(kept: NDArray[np.bool_], moments: _Moments, goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights W, 0 but where kept, for which W H is nearest to ``goal`` (rows, columns), both scaled as the moments are."""
    done = np.zeros(kept.shape)
    for rows, columns, real, alike in moments.rows(kept):
        right = np.where(real, goal[rows[:, None], columns], 0.0)
        found = np.linalg.solve(alike, right[:, :, None])[:, :, 0] / moments.size[columns]
        which = np.broadcast_to(rows[:, None], columns.shape)[real]
        done[which, columns[real]] = found[real]
    return done


def _refitted(
    layer: Layer,
    kept: NDArray[np.bool_],
    sums: NDArray[np.float64],
    wanted: NDArray[np.float64],
    source: NDArray,
    lengths: NDArray[np.int64],
    start: Mapping[str, NDArray],
) -> Layer:
    """A pruned layer solved for on what it sees: ``sums`` (steps, gates * units) and outputs ``wanted`` are those of the float
    network, ``source`` (N, T, I) what the layers before give now."""
    best: tuple[float, Layer] | None = None
    recurrent = layer.w_h is not None
    for _ in range(REFITS if recurrent else 2):
        outputs = alone(layer, start).evaluate(source, lengths).outputs
        error = float(np.square(outputs - wanted).sum())
        if best is None or error < best[0]:
            best = error, layer
        columns = _columns(layer, source, outputs, lengths)
        moments = _Moments.of(layer, source, outputs, lengths)
        weights = _weights(layer)
        left = (sums - columns @ weights.T).T @ columns / len(columns) / moments.size
        layer = _with_weights(layer, weights + (STRIDE if recurrent else 1.0) * _solved(kept, moments, left))
    assert best is not None
    return best[1]


# -- biases --------------------------------------------------------------------------------------------------------------
