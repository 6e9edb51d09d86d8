"""Passes: how a network with layers in both directions of time runs as a series of plain streams.

A layer takes the concatenation of one or more *vectors*: number 0 is the network's input, number k + 1 the output of layer k.
Layers that follow one another in the same direction of time, each taking just the one before, form a *pass*: they can be
streamed, a step at a time. A network of one forward pass streams for ever; any other needs its sequence buffered, as each
pass runs over all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError

When = Literal["step", "last", "final"]
WHEN = ("step", "last", "final")
"""When a layer runs: at every step; on the values of a sequence's last step; on each source's final value, which of a reversed
layer is that of the first step."""


class Linked(Protocol):
    """What passes need to know of a layer."""

    @property
    def name(self) -> str: ...
    @property
    def when(self) -> When: ...
    @property
    def reverse(self) -> bool: ...


@dataclass(frozen=True)
class Pass:
    """Consecutive ``layers`` over the concatenation of ``sources``, backwards in time if ``reverse``.

    ``when``: on all steps, or on a single one made of the sources' last (or final) values.
    """

    layers: range
    sources: tuple[int, ...]
    reverse: bool
    when: When


def vectors(names: Sequence[str], taken: Sequence[tuple[str, ...]], output: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Names of sources to vector numbers: one tuple for each layer, and one for the output.

    "input" is the network's input; no name at all is the layer before, or for the output the last layer.
    """
    known = {"input": 0} | {name: position for position, name in enumerate(names, 1)}
    found = []
    for position, wanted in enumerate((*taken, output)):
        at = f"layer {names[position]!r}" if position < len(names) else "the output"
        for name in wanted:
            if known.get(name, position + 1) > position:
                raise SparseGateError(
                    f"{at} takes {name!r}, which is no earlier layer; there are {', '.join(['input', *names[:position]])}"
                )
        found.append(tuple(known[name] for name in wanted) or (position,))
    return found


def passes(layers: Sequence[Linked], sources: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> tuple[Pass, ...]:
    """Cut layers into passes; a layer whose output nothing takes is refused."""
    takers = [0] * (len(layers) + 1)
    for taken in (*sources, output):
        for vector in taken:
            takers[vector] += 1
    for position, layer in enumerate(layers, 1):
        if not takers[position]:
            raise SparseGateError(f"nothing takes the output of layer {layer.name!r}")
        if any(layers[vector - 1].when != "step" for vector in sources[position - 1] if vector) and (
            layer.when == "step" or len(sources[position - 1]) > 1
        ):
            before = next(layers[v - 1] for v in sources[position - 1] if v and layers[v - 1].when != "step")
            raise SparseGateError(
                f"layer {before.name!r} runs on the {before.when} step only, so {layer.name!r} after it cannot run on every one"
            )
    if len(output) > 1 and any(layers[vector - 1].when != "step" for vector in output if vector):
        raise SparseGateError(
            "an output made of several layers is given at every step, so none of them may run on the last only"
        )
    if 0 in output:
        raise SparseGateError("the network's output cannot be its input")
    found: list[Pass] = []
    for position, layer in enumerate(layers):
        alone = found and sources[position] == (position,) and takers[position] == 1
        if alone and found[-1].reverse == layer.reverse and not (layer.when == "last" and layer.reverse):
            found[-1] = Pass(
                range(found[-1].layers.start, position + 1), found[-1].sources, layer.reverse, found[-1].when
            )
        else:
            found.append(Pass(range(position, position + 1), sources[position], layer.reverse, layer.when))
    return tuple(found)


def flipped(values: NDArray, lengths: NDArray) -> NDArray:
    """Sequences (N, T, ...) backwards in time, each within its own length; what lies beyond stays."""
    steps = np.arange(values.shape[1])[None, :]
    order = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)


def single(values: NDArray, lengths: NDArray, reverse: bool, when: When) -> NDArray:
    """The one step (N, 1, size) that a layer's values (N, T, size) give to a layer that runs on the last or final step."""
    at = np.zeros_like(lengths) if when == "final" and reverse else lengths - 1
    return values[np.arange(len(lengths)), at][:, None]
