"""Values of a recurrent network's gates over data: are they open and shut, or somewhere between?"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.numerics import tables

SIGMOID = ("i", "f", "o", "r", "z")
"""Gates that are sigmoids, by the names that the cells give them."""


def gate_values(
    network: Network, x: ArrayLike, lengths: ArrayLike | None = None
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Run in float and collect the sigmoid gates of every recurrent layer: layer -> gate -> (real steps, units) in 0..1.

    Gates are those of the cell: i, f, o of an LSTM (with coupled gates f = 1 - i), r and z of a GRU. Rows are the steps of
    all sequences without padding, ordered by step, then by sequence. x is (N, T, I), lengths (N,).
    """
    found: dict[str, dict[str, list[NDArray]]] = defaultdict(lambda: defaultdict(list))
    wanted = {layer.name: set(SIGMOID).intersection(cell(layer.kind).gates) for layer in network.layers}

    def observe(layer: str, target: str, site: str, value: NDArray) -> None:
        if target == "pre" and site in wanted[layer]:
            found[layer][site].append(tables.exact("sigmoid", value))

    network.evaluate(x, lengths, observe=observe)
    values = {layer: {gate: np.concatenate(parts) for gate, parts in gates.items()} for layer, gates in found.items()}
    for layer in network.layers:
        if layer.kind.startswith("cifg"):
            values[layer.name]["f"] = 1.0 - values[layer.name]["i"]
    return values


def binary_share(values: ArrayLike, margin: float = 0.1) -> float:
    """Share of gate values within ``margin`` of 0 or 1."""
    values = np.asarray(values)
    if not 0 < margin < 0.5 or not values.size:
        raise SparseGateError(f"a margin lies between 0 and 0.5 and is asked of values, not {margin} of {values.size}")
    return float(np.mean((values <= margin) | (values >= 1 - margin)))
