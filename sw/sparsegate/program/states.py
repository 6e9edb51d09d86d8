"""States of a Program's layers: raw ones made whole and checked, real ones quantized, raw ones made real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.network import State, states_of
from sparsegate.numerics.fixed import narrow
from sparsegate.program.layer import QuantizedLayer

RawState = Mapping[str, Mapping[str, NDArray[np.int64]]]
"""Raw states by layer and name ("h", "c", "s"), each (N, size)."""


def complete(layers: Sequence[QuantizedLayer], state: RawState, count: int) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Raw states of all recurrent layers and names, each (count, size); zero where nothing is given."""
    given = states_of(layers, state, count)
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for layer in layers:
        for key, size in layer.carried.items():
            value = given.get(layer.name, {}).get(key, np.zeros((count, size), np.int64))
            form = layer.formats[key]
            if not np.issubdtype(value.dtype, np.integer):
                raise SparseGateError(
                    f"state {key!r} of layer {layer.name!r} holds {value.dtype}, expected raw integers;"
                    " use quantize_state first"
                )
            if value.min() < form.min or value.max() > form.max:
                raise SparseGateError(
                    f"state {key!r} of layer {layer.name!r} lies in {value.min()}..{value.max()}, which {form} cannot hold"
                )
            found.setdefault(layer.name, {})[key] = value.astype(np.int64)
        wide = layer.cell.wide
        if wide is not None:
            mine = found[layer.name]
            if (mine["h"] != narrow(mine[wide], layer.formats[wide].frac, layer.formats["h"])).any():
                raise SparseGateError(
                    f"states 'h' and {wide!r} of layer {layer.name!r} disagree; h must be {wide} narrowed"
                )
    return found


def quantized(
    layers: Sequence[QuantizedLayer], state: State, count: int = 1
) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Real states ("h", "c"), as :meth:`Network.evaluate` takes and gives them, to raw ones (count, size)."""
    given = states_of([_Real(layer) for layer in layers], state, count)
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for layer in layers:
        wide = layer.cell.wide
        for key, value in given.get(layer.name, {}).items():
            mine = found.setdefault(layer.name, {})
            if key == "h" and wide is not None:
                mine[wide] = layer.formats[wide].quantize(value)
                mine["h"] = narrow(mine[wide], layer.formats[wide].frac, layer.formats["h"])
            else:
                mine[key] = layer.formats[key].quantize(value)
    return complete(layers, found, count)


def real(layers: Sequence[QuantizedLayer], state: RawState) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Raw states to real ones: "h" with all the bits there are, and "c"."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for layer in layers:
        parts = state.get(layer.name, {})
        for key in parts:
            if key != layer.cell.wide:
                wide = layer.cell.wide
                source = wide if key == "h" and wide is not None and wide in parts else key
                found.setdefault(layer.name, {})[key] = layer.formats[source].real(parts[source])
    return found


class _Real:
    """A layer as :func:`sparsegate.network.states_of` sees it, with the states that users know: h once, whatever its bits."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.name = layer.name
        self.carried = {key: size for key, size in layer.carried.items() if key != layer.cell.wide}
