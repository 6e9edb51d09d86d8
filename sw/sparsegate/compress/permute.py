"""Hidden-unit permutation: relabel units, which is free in function, so that N:M blocks keep more magnitude.

An N:M pattern makes the units of a block compete in every column. Which units share a block is a matter of names: the units
of a layer can be relabelled, if all that reads them is relabelled too (for N:M along channels of other networks: Pool & Yu,
NeurIPS 2021). Only the membership of blocks matters, neither the order of the blocks nor the order inside of one.

An *order* is a permutation (units,): the new unit j is the old unit ``order[j]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, State
from sparsegate.pattern import NM, Wanted, blocked, common_block, pair

Orders = Mapping[str, ArrayLike]
"""Layer name -> order of its units."""


def permuted(network: Network, orders: Orders) -> Network:
    """The same function with the units of some layers relabelled.

    Rows of the layer's matrices, biases and constants move; columns of its own recurrent matrix, or of its projection, and of
    every layer that takes it; its initial state. A layer whose units are the network's output keeps its labels: an order for it is
    refused. So is one that breaks the N:M pattern of a layer that is pruned already.

    States that are handed in or out afterwards are in the new labels: see :func:`relabelled`.
    """
    known = _checked(network, orders)
    layers = []
    for layer, taken in zip(network.layers, network.sources, strict=True):
        if layer.name in known:
            layer = _relabelled(layer, known[layer.name])
        columns, at = np.arange(layer.inputs), 0
        for vector in taken:
            size = network.inputs if vector == 0 else network.layers[vector - 1].outputs
            source = network.layers[vector - 1] if vector else None
            if source is not None and source.name in known and source.w_p is None:
                columns[at : at + size] = at + known[source.name]
            at += size
        layers.append(replace(layer, w_x=layer.w_x[:, columns]))
    return replace(network, layers=tuple(layers), initial=relabelled(network, network.initial, known))


def relabelled(network: Network, state: State, orders: Orders) -> dict[str, dict[str, NDArray]]:
    """A state (layer -> "h", "c" -> (..., size)) of ``network`` in the labels of ``permuted(network, orders)``.

    With :func:`inverse` of the orders it goes back. A projected h has no units and stays. It serves raw states of Programs too.
    """
    known = _checked(network, orders)
    projected = {layer.name for layer in network.layers if layer.w_p is not None}
    return {
        name: {
            key: np.asarray(value)[..., known[name]]
            if name in known and not (key == "h" and name in projected)
            else np.asarray(value)
            for key, value in parts.items()
        }
        for name, parts in state.items()
    }


def inverse(orders: Orders) -> dict[str, NDArray[np.int64]]:
    """Orders that undo these."""
    return {name: np.argsort(np.asarray(order)) for name, order in orders.items()}


def kept(network: Network, patterns: Wanted | Mapping[str, Wanted]) -> dict[str, float]:
    """Share of the squared magnitude of Wx and Wh together that their patterns would keep, by layer."""
    shares = {}
    for layer, both in _wanted(network, patterns):
        parts = [_Part.of(weights, layer.gates, nm) for weights, nm in zip(_matrices(layer), both, strict=True)]
        total = sum(float(part.values.sum(dtype=np.float64)) for part in parts)
        best = sum(float(part.best(np.arange(layer.units)).sum()) for part in parts)
        shares[layer.name] = best / total if total else 1.0
    return shares


def search(
    network: Network, patterns: Wanted | Mapping[str, Wanted], seed: int = 0, rounds: int = 48
) -> dict[str, NDArray[np.int64]]:
    """Orders with which N:M patterns of Wx and Wh keep more squared magnitude than with the present labels.

    Two starts, the present labels and units dealt to the blocks by falling magnitude, are climbed by swaps: in each round
    the gains of all swaps are known exactly, and the best ones that share no block are made. What is left of the rounds goes to
    kicks: a few random swaps from the best order so far, climbed again.

    Parameters
    ----------
    patterns : one N:M pattern, a pair for Wx and Wh, or a mapping from layer names to these.
    seed : of the kicks.
    rounds : of each layer; a round costs gates * units**2 * (inputs + outputs) operations (0.1 s for 64 inputs and 256 units).

    Returns
    -------
    dict
        An order for each layer that wins; layers whose units are the network's output, and those in a single block, are left out.
    """
    orders = {}
    outputs = {network.layers[vector - 1].name for vector in network.output_vectors}
    for layer, both in _wanted(network, patterns):
        sparse = [(weights, nm) for weights, nm in zip(_matrices(layer), both, strict=True) if not nm.dense]
        if not sparse or (layer.name in outputs and layer.w_p is None):
            continue
        parts = [_Part.of(weights, layer.gates, nm) for weights, nm in sparse]
        order = _search(parts, common_block(*(nm for _, nm in sparse)), np.random.default_rng(seed), rounds)
        if order is not None:
            orders[layer.name] = order
    return orders


class _Part:
    """One matrix as squared magnitudes by unit, (units, gates * columns), float32, and its pattern."""

    def __init__(self, values: NDArray[np.float32], pattern: NM) -> None:
        self.values, self.pattern = values, pattern

    @classmethod
    def of(cls, weights: NDArray, gates: int, pattern: NM) -> _Part:
        units = weights.shape[0] // gates
        values = np.square(weights).reshape(gates, units, -1).transpose(1, 0, 2).reshape(units, -1)
        return cls(values.astype(np.float32), pattern)

    def best(self, order: NDArray) -> NDArray[np.float64]:
        """What each block keeps, (blocks,)."""
        cut = blocked(self.values[order], 1, self.pattern.m)[:, 0]  # (blocks, M, columns)
        return np.sort(cut, axis=1)[:, -self.pattern.n :].sum(axis=(1, 2), dtype=np.float64)

    def gains(self, order: NDArray) -> NDArray[np.float32]:
        """What swapping the units at two positions of ``order`` wins, (units, units).

        A block without its unit a keeps ``without[a]``, and the smallest that it keeps of a column is ``limit[a]``: unit b in
        its place adds ``sum(max(0, b - limit[a]))`` over columns.
        """
        n, m, units = self.pattern.n, self.pattern.m, len(order)
        values = self.values[order]
        cut = blocked(values, 1, m)[:, 0]
        ranked = np.concatenate([np.sort(cut, axis=1)[:, ::-1], np.zeros_like(cut[:, :1])], axis=1)
        block = np.arange(units) // m
        last, following = ranked[block, n - 1], ranked[block, n]  # (units, columns)
        limit = np.where(values >= last, following, last)
        top = ranked[:, :n].sum(axis=(1, 2))
        without = top[block] - np.maximum(values - limit, 0).sum(axis=1)
        added = np.empty((units, units), np.float32)  # by the unit of the row, in the place of the column's
        buffer = np.empty_like(values)
        for a, row in enumerate(limit):
            added[:, a] = np.maximum(values, row, out=buffer).sum(axis=1) - row.sum()
        new = without[None, :] + added  # the block of a, with b in its place
        gain = new + new.T - top[block][:, None] - top[block][None, :]
        gain[block[:, None] == block[None, :]] = 0
        return gain


def _search(parts: list[_Part], block: int, rng: np.random.Generator, rounds: int) -> NDArray[np.int64] | None:
    units = len(parts[0].values)
    if all(units <= part.pattern.m for part in parts):
        return None

    def score(order: NDArray) -> float:
        return sum(float(part.best(order).sum()) for part in parts)

    present = np.arange(units)
    magnitude = np.sum([part.values.sum(axis=1) for part in parts], axis=0)
    dealt = np.empty(units, np.int64)
    dealt[np.argsort(np.arange(units) % block, kind="stable")] = np.argsort(-magnitude, kind="stable")
    best, most, left = present, score(present), rounds
    start = present
    for attempt in range(rounds):
        climbed, used = _climb(parts, block, start, left)
        left -= used
        found = score(climbed)
        if found > most:
            best, most = climbed, found
        if left <= 0:
            break
        start = dealt if attempt == 0 else _kicked(best, rng)
    return None if np.array_equal(best, present) else best


def _climb(parts: list[_Part], block: int, order: NDArray, rounds: int) -> tuple[NDArray, int]:
    """Swap while it wins; the order, and how many rounds it took."""
    order = order.copy()
    units = len(order)
    for used in range(rounds):
        gain = np.triu(np.sum([part.gains(order) for part in parts], axis=0), 1)
        # float32 sums are rounded: what is less than that is no gain
        floor = 1e-6 * float(np.sum([part.values.sum(dtype=np.float64) for part in parts])) / units
        taken: set[int] = set()
        for flat in np.argsort(-gain, axis=None, kind="stable")[: 64 * units]:
            a, b = divmod(int(flat), units)
            if gain[a, b] <= floor:
                break
            if not taken & {a // block, b // block}:
                order[[a, b]] = order[[b, a]]
                taken |= {a // block, b // block}
        if not taken:
            return order, used + 1
    return order, rounds


def _kicked(order: NDArray, rng: np.random.Generator) -> NDArray:
    """Some units, drawn at random, change places."""
    order = order.copy()
    places = rng.choice(len(order), max(2, len(order) // 8), replace=False)
    order[places] = order[rng.permutation(places)]
    return order


def _matrices(layer: Layer) -> list[NDArray]:
    return [layer.w_x] if layer.w_h is None else [layer.w_x, layer.w_h]


def _wanted(network: Network, patterns: Any) -> list[tuple[Layer, tuple[NM, ...]]]:
    """Layers and the patterns of their matrices."""
    if not isinstance(patterns, Mapping):
        patterns = {layer.name: patterns for layer in network.layers if cell(layer.kind).recurrent}
    layers = _by_name(network, patterns)
    return [(layer, pair(patterns[name])[: len(_matrices(layer))]) for name, layer in layers.items()]


def _by_name(network: Network, names: Mapping[str, Any]) -> dict[str, Layer]:
    layers = {layer.name: layer for layer in network.layers}
    for unknown in names.keys() - layers.keys():
        raise SparseGateError(f"the network has no layer {unknown!r}; it has {', '.join(layers)}")
    return {name: layers[name] for name in names}


def _checked(network: Network, orders: Orders) -> dict[str, NDArray[np.int64]]:
    outputs = {network.layers[vector - 1].name for vector in network.output_vectors}
    known = {}
    for name, layer in _by_name(network, orders).items():
        order = np.asarray(orders[name])
        whole = order.shape == (layer.units,) and order.dtype.kind in "iu"
        if not whole or not np.array_equal(np.sort(order), np.arange(layer.units)):
            raise SparseGateError(
                f"the order of layer {name!r} has shape {order.shape} and type {order.dtype}, expected a permutation of"
                f" 0..{layer.units - 1}"
            )
        if name in outputs and layer.w_p is None:
            raise SparseGateError(f"the units of layer {name!r} are the network's output, so they cannot be relabelled")
        known[name] = order
    return known


def _relabelled(layer: Layer, order: NDArray) -> Layer:
    """A layer's own rows, and the columns that are its units."""

    def rows(values: NDArray) -> NDArray:
        cut = values.reshape(-1, layer.units, *values.shape[1:])
        return cut[:, order].reshape(values.shape)

    fields: dict[str, Any] = {"w_x": rows(layer.w_x), "bias": rows(layer.bias)}
    if layer.w_h is not None:
        w_h = rows(layer.w_h)
        fields["w_h"] = w_h if layer.w_p is not None else w_h[:, order]
    if layer.w_p is not None:
        fields["w_p"] = layer.w_p[:, order]
    if layer.bias_h is not None:
        fields["bias_h"] = rows(layer.bias_h)
    return replace(layer, parameters={key: value[order] for key, value in layer.parameters.items()}, **fields)
