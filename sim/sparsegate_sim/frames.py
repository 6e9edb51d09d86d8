"""State frames: what an engine takes before a sequence and gives after it, as one stream of words.

Sequence by sequence, and within one pass by pass: the words of ``Layout.pack_state``. A pass without recurrent layers has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sparsegate.array import Layout
from sparsegate.program import RawState


def words(layout: Layout, state: RawState, count: int) -> NDArray[np.int64]:
    """The words of ``count`` sequences' states, each (count, size)."""
    found: list[int] = []
    for n in range(count):
        mine = _of(state, n)
        for run in range(len(layout.passes)):
            found += layout.pack_state(run, mine)
    return np.array(found, np.int64)


def sizes(layout: Layout) -> list[int]:
    """Words of each pass's frame."""
    empty = _of(layout.program.states({}, 1), 0)
    return [len(layout.pack_state(run, empty)) for run in range(len(layout.passes))]


def places(layout: Layout) -> Iterator[tuple[int, str, str, NDArray[np.int64]]]:
    """For every carried value the number of its pass, its layer and name, and in which word of a sequence each unit is."""
    first = 0
    for run, size in enumerate(sizes(layout)):
        for layer, parts in layout.unpack_state(run, range(first, first + size)).items():
            for name, place in parts.items():
                yield run, layer, name, place
        first += size


def states(layout: Layout, given: NDArray[np.int64], count: int) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Inverse of :func:`words`."""
    table = np.asarray(given, np.int64).reshape(count, sum(sizes(layout)))
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for _, layer, name, place in places(layout):
        found.setdefault(layer, {})[name] = table[:, place]
    return found


def _of(state: RawState, n: int) -> Mapping[str, Mapping[str, NDArray[np.int64]]]:
    return {layer: {name: value[n] for name, value in parts.items()} for layer, parts in state.items()}
