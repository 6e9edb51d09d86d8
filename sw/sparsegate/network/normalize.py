"""Scale a network's inputs, exactly: what is done to the columns is undone in the weights that read them.

All input columns share one fixed-point format, and all weights of a matrix another. Columns that differ a hundredfold in size waste
both. Folding (:func:`fold`) lets the user give ``(x - mean) * scale``, with weights and biases that make up for it;
:func:`balance` chooses mean and scale. Doubling (:func:`double`) gives the input matrix twice the bits: every column is read a
second time, at a fraction of its value, with the weights' remainders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.errors import SparseGateError
from sparsegate.network.checks import sequences
from sparsegate.network.layer import Layer
from sparsegate.network.network import Network
from sparsegate.numerics.fixed import QFormat


@dataclass(frozen=True, eq=False)
class Scaling:
    """What is done to the inputs before a network sees them: ``(x - mean) * scale``, then a copy of all columns times 2**-copy.

    ``mean`` and ``scale`` are (I,). Without ``copy`` there is no second copy.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    copy: int | None = None

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Real inputs (..., I) to the columns (..., I) or (..., 2 I) that the network takes."""
        columns = (np.asarray(x, np.float64) - self.mean) * self.scale
        return columns if self.copy is None else np.concatenate([columns, np.ldexp(columns, -self.copy)], axis=-1)


def balance(network: Network, x: ArrayLike, lengths: ArrayLike | None = None, centre: bool = True) -> Scaling:
    """Mean and scale of every column after which input and weights spend their bits alike.

    The mean is the middle of the column's range in ``x`` (N, T, I), or 0 without ``centre``: for columns that are mostly small and
    rarely large, whose largest values may saturate. The scale is √(largest weight / largest distance from the mean): then
    largest value and largest weight of a column are equal, and their product is what it was. A column that never moves, or that
    nothing reads, keeps its scale.
    """
    x, lengths = sequences(x, lengths, network.inputs)
    seen = x[np.arange(x.shape[1])[None, :] < lengths[:, None]]  # (steps, I)
    mean = (seen.max(axis=0) + seen.min(axis=0)) / 2 if centre else np.zeros(network.inputs)
    reach = np.abs(seen - mean).max(axis=0)
    weight = np.max([np.abs(matrix).max(axis=0) for matrix in _readers(network).values()], axis=0)
    used = (reach > 0) & (weight > 0)
    return Scaling(mean, np.where(used, np.sqrt(np.where(used, weight, 1) / np.where(used, reach, 1)), 1.0))


def fold(network: Network, scaling: Scaling) -> Network:
    """The network that gives for ``scaling(x)`` what ``network`` gives for x, in real arithmetic.

    W' = W / scale, b' = b + W mean.
    """
    if scaling.copy is not None:
        raise SparseGateError("a scaling with a copy of the columns is folded by double")
    for name, value in (("mean", scaling.mean), ("scale", scaling.scale)):
        if value.shape != (network.inputs,) or not np.all(np.isfinite(value)):
            raise SparseGateError(
                f"{name} has shape {value.shape}, expected {network.inputs} finite values, one for each input"
            )
    if not np.all(scaling.scale > 0):
        raise SparseGateError(f"the smallest scale is {scaling.scale.min():g}, expected positive scales")
    readers = _readers(network)

    def folded(number: int, layer: Layer) -> Layer:
        if number not in readers:
            return layer
        w_x = layer.w_x.copy()
        _of_input(network, number, w_x)[:] = readers[number] / scaling.scale
        return replace(layer, w_x=w_x, bias=layer.bias + readers[number] @ scaling.mean)

    return network.with_layers([folded(number, layer) for number, layer in enumerate(network.layers)])


def double(network: Network, form: QFormat, scaling: Scaling) -> tuple[Network, Scaling]:
    """Read every input column twice: once with weights rounded to ``form``, once with the remainders, enlarged to fill ``form``.

    The remainder of a rounded weight is at most half an LSB. The copy of the column is 2**(width - 1) times smaller and the
    remainder as many times larger, at most half of what ``form`` holds. The weights then act as if they had 2 * width - 1 bits.
    Exact in real arithmetic.
    A weight beyond the range of ``form`` would leave a remainder that does not fit and is refused.
    """
    if network.sources[0] != (0,) or any(0 in taken for taken in network.sources[1:]):
        raise SparseGateError("only a network whose first layer alone takes the input can have its columns doubled")
    first = network.layers[0]
    if form.saturated(first.w_x):
        raise SparseGateError(
            f"layer {first.name!r}: weights reach {np.abs(first.w_x).max():g}, but {form} ends at {form.real(form.max):g}"
        )
    copy = form.width - 1
    rounded = form.real(form.quantize(first.w_x))
    remainder = np.ldexp(first.w_x - rounded, copy)
    doubled = replace(first, w_x=np.concatenate([rounded, remainder], axis=1))
    return network.with_layers([doubled, *network.layers[1:]]), replace(scaling, copy=copy)


def _readers(network: Network) -> dict[int, NDArray[np.float64]]:
    """Number of every layer that takes the input -> its weights (gates * units, I) for it."""
    for layer, taken in zip(network.layers, network.sources, strict=True):
        if taken.count(0) > 1:
            raise SparseGateError(f"layer {layer.name!r} takes the input twice, expected once")
    return {
        number: _of_input(network, number, layer.w_x)
        for number, layer in enumerate(network.layers)
        if 0 in network.sources[number]
    }


def _of_input(network: Network, number: int, w_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of a layer's input matrix that multiply the network's input: a view."""
    start = sum(_sizes(network)[vector] for vector in _before_input(network.sources[number]))
    return w_x[:, start : start + network.inputs]


def _before_input(taken: Sequence[int]) -> Sequence[int]:
    return taken[: taken.index(0)]


def _sizes(network: Network) -> list[int]:
    """Size of every vector: the input, then each layer's output."""
    return [network.inputs, *(layer.outputs for layer in network.layers)]
