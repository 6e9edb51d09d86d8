"""Magnitude pruning of a Network at once, without training and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sparsegate.cells import cell
from sparsegate.cells.matrices import KEYS
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.pattern import NM, Pattern, Written, both


def one_shot(network: Network, patterns: Written | Mapping[str, Written]) -> Network:
    """Keep the largest weights of each matrix and set the others to zero.

    Parameters
    ----------
    patterns : one pattern for the recurrent layers, a pair for Wx and Wh, or a mapping from names to these. A name is that of a
        layer or of a matrix (``lstm.w_h``, ``lstm.w_p``), which wins over its layer's; a projection is pruned by its own name only.

    Returns
    -------
    Network
        With the N:M patterns in its layers. A matrix of another pattern has dense for its pattern: to the hardware it is a dense
        matrix with zeros. A matrix to which a dense pattern is given stays as it is, and keeps the pattern that it has.
    """
    if not isinstance(patterns, Mapping):
        recurrent = [layer.name for layer in network.layers if cell(layer.kind).recurrent]
        if not recurrent:
            raise SparseGateError("the network has no recurrent layer to prune; give the patterns by layer name")
        patterns = dict.fromkeys(recurrent, patterns)
    chosen: dict[str, Pattern] = {}  # by matrix
    exact: dict[str, Pattern] = {}
    known = {f"{layer.name}.{key}" for layer in network.layers for key in _matrices(layer)}
    names = [layer.name for layer in network.layers]
    for name, wanted in patterns.items():
        x, h = both(wanted)
        if name in names:
            chosen |= {f"{name}.w_x": x, f"{name}.w_h": h}
        elif name not in known:
            raise SparseGateError(f"the network has no layer or matrix {name!r}; its layers are {', '.join(names)}")
        elif x != h:
            raise SparseGateError(f"{name} is one matrix and takes one pattern, not the pair {x} and {h}")
        else:
            exact[name] = x
    chosen |= exact
    return network.with_layers([_pruned(layer, chosen) for layer in network.layers])


def _matrices(layer: Layer) -> list[str]:
    return [f"w_{key}" for key in KEYS if getattr(layer, f"w_{key}") is not None]


def _pruned(layer: Layer, chosen: Mapping[str, Pattern]) -> Layer:
    changes: dict[str, Any] = {}
    for key in _matrices(layer):
        pattern = chosen.get(f"{layer.name}.{key}")
        if pattern is None or pattern.dense:
            continue
        weights = getattr(layer, key)
        changes[key] = np.where(pattern.mask(weights, 1 if key == "w_p" else layer.gates), weights, 0.0)
        if isinstance(pattern, NM):
            changes[key.replace("w_", "pattern_")] = pattern
    return replace(layer, **changes)
