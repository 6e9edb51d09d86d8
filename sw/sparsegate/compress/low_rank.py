"""Low rank: the recurrent matrix of a layer factored into a projection, which the engine runs as it is.

Everything that reads h, the layer's own ``w_h`` and the columns of each layer that takes it, is one matrix S over h. With
``S = A P`` of rank r, a projection P (r, units) behind the cell gives ``P h``, and the factor A (rows, r) reads that: a projected
LSTM (Sak et al. 2014). P must serve all readers, so they are factored together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.pattern import DENSE

RIDGE = 1e-9
"""Of the mean square of h, added to each unit's: where units always move together, the rest of S still decides."""


def factor(
    network: Network, ranks: Mapping[str, int], x: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> Network:
    """Factor the recurrent matrices of some layers, each with all that reads the layer.

    S is projected on its r leading left singular vectors: the nearest matrix of rank r (Eckart & Young 1936). With data, those of
    ``S E[h h^T]^(1/2)`` are taken instead, so that the squared error of the products ``S h`` is least, not that of the weights.
    Singular values are split evenly between A and P, so that neither the columns of A nor the values of ``P h`` spread further than
    they must; one scale for all brings ``P h`` to within -1..1, on the data or, without any, for certain.

    Parameters
    ----------
    ranks : layer name -> r, 1 to the layer's units. A rank of all units changes no output. Layers of a kind that cannot have a
        projection, that have one already, or whose h is the network's output are refused.
    x, lengths : (N, T, I) real inputs and (N,) steps of each, such as training data.

    Returns
    -------
    Network
        With ``w_p``; matrices that were factored are dense, whatever their patterns were, and are to be fine-tuned, and
        pruned, from there.
    """
    for name, rank in ranks.items():
        network = _factor(network, name, rank, x, lengths)
    return network


def _factor(network: Network, name: str, rank: int, x: ArrayLike | None, lengths: ArrayLike | None) -> Network:
    places = {layer.name: place for place, layer in enumerate(network.layers)}
    if name not in places:
        raise SparseGateError(f"the network has no layer {name!r}; it has {', '.join(places)}")
    place = places[name]
    layer, at = network.layers[place], f"layer {name!r}"
    if not cell(layer.kind).projectable:
        raise SparseGateError(f"{at}: a {layer.kind} layer cannot have a projection, so it cannot be factored")
    if layer.w_p is not None or layer.w_h is None:
        raise SparseGateError(f"{at} has a projection already; factor the layer that it was trained as")
    if place + 1 in network.output_vectors:
        raise SparseGateError(f"{at}: its h is the network's output, which a projection would replace")
    if not isinstance(rank, int | np.integer) or not 1 <= rank <= layer.units:
        raise SparseGateError(f"{at}: a rank of {rank!r} given, expected 1 to {layer.units}, its units")
    readers = _readers(network, place + 1)
    stack = np.concatenate([layer.w_h, *(network.layers[k].w_x[:, columns] for k, columns in readers)])
    h = None if x is None else _outputs(network, place, x, lengths)
    left, projection = _split(stack, rank, h)
    largest = float(np.abs(projection).sum(axis=1).max() if h is None else np.abs(h @ projection.T).max())
    scale = largest or 1.0
    left, projection = left * scale, projection / scale
    layers = list(network.layers)
    w_h, *parts = np.split(left, np.cumsum([len(layer.w_h), *(len(layers[k].w_x) for k, _ in readers)])[:-1])
    layers[place] = replace(layer, w_h=w_h, w_p=projection, pattern_h=DENSE, pattern_p=DENSE)
    # from the last columns to the first: those before them stay where they are
    for (k, columns), part in zip(reversed(readers), reversed(parts), strict=True):
        w_x = layers[k].w_x
        w_x = np.concatenate([w_x[:, : columns.start], part, w_x[:, columns.stop :]], axis=1)
        layers[k] = replace(layers[k], w_x=w_x, pattern_x=DENSE)
    initial = {key: dict(parts) for key, parts in network.initial.items()}
    if "h" in initial.get(name, {}):
        initial[name]["h"] = projection @ initial[name]["h"]
    return replace(network, layers=tuple(layers), initial=initial)


def _split(stack: NDArray, rank: int, h: NDArray | None) -> tuple[NDArray, NDArray]:
    """A (rows, rank) and P (rank, units) of a stack (rows, units); h (steps, units) weighs its products."""
    weighted = stack
    if h is not None:
        moment = h.T @ h / len(h)
        moment += np.eye(len(moment)) * max(RIDGE * float(np.trace(moment)) / len(moment), 1e-30)
        values, vectors = np.linalg.eigh(moment)
        weighted = stack @ (vectors * np.sqrt(values.clip(0)))
    left, values, _ = np.linalg.svd(weighted, full_matrices=False)
    left, root = left[:, :rank], np.sqrt(np.maximum(values[:rank], 1e-12 * values[0]) if values[0] else np.ones(rank))
    return left * root, (left / root).T @ stack


def _readers(network: Network, vector: int) -> list[tuple[int, slice]]:
    """Layers that take a vector, and in which columns; once for each time."""
    found = []
    sizes = [network.inputs, *(layer.outputs for layer in network.layers)]
    for k, taken in enumerate(network.sources):
        start = 0
        for source in taken:
            if source == vector:
                found.append((k, slice(start, start + sizes[source])))
            start += sizes[source]
    return found


def _outputs(network: Network, place: int, x: ArrayLike, lengths: ArrayLike | None) -> NDArray[np.float64]:
    """h of a layer at all real steps, (steps, units)."""
    run = network.evaluate(x, lengths)
    values = run.layers[place]
    return values[np.arange(values.shape[1])[None, :] < run.lengths[:, None]]
