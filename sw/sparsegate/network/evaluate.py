"""A Network run in float64: what the formats of a Program are calibrated on, and what its integers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import FloatArithmetic, cell, phases_of
from sparsegate.network.checks import State, sequences, states_of
from sparsegate.network.layer import Layer
from sparsegate.network.passes import flipped, single

Observe = Callable[[str, str, str, NDArray], None]
"""Called as ``observe(layer, target, site, value)`` with the values (n,) of the sequences still running, for every narrowing."""


@dataclass(frozen=True)
class Evaluation:
    """Outputs of every layer: arrays (N, T, size), zero past a sequence's end; ``state`` after each sequence's last step.

    ``output_vectors`` are the layers' numbers, from 1, that make up the network's output.
    """

    layers: tuple[NDArray, ...]
    lengths: NDArray[np.int64]
    state: dict[str, dict[str, NDArray]]
    output_vectors: tuple[int, ...]

    @cached_property
    def outputs(self) -> NDArray:
        """(N, T, outputs) of the network."""
        return np.concatenate([self.layers[vector - 1] for vector in self.output_vectors], axis=2)

    @property
    def last(self) -> NDArray:
        """(N, outputs) at each sequence's last step."""
        return self.outputs[np.arange(len(self.lengths)), self.lengths - 1]


def evaluate(
    layers: Sequence[Layer],
    sources: Sequence[tuple[int, ...]],
    output: Sequence[int],
    x: ArrayLike,
    lengths: ArrayLike | None,
    state: State,
    observe: Observe | None,
) -> Evaluation:
    """What :meth:`Network.evaluate` gives: ``sources`` and ``output`` are numbers of vectors, ``state`` what layers start from."""
    x, lengths = sequences(x, lengths, layers[0].inputs)
    start = states_of(layers, state, len(x))
    active = np.arange(x.shape[1])[None, :] < lengths[:, None]  # (N, T)
    values = [np.where(active[:, :, None], x, 0.0)]  # of every vector
    final: dict[str, dict[str, NDArray]] = {}
    for layer, taken in zip(layers, sources, strict=True):
        parts = [values[vector] for vector in taken]
        if layer.when != "step":
            backwards = [vector > 0 and layers[vector - 1].reverse for vector in taken]
            parts = [single(part, lengths, reverse, layer.when) for part, reverse in zip(parts, backwards, strict=True)]
            out = np.zeros((*x.shape[:2], layer.outputs))
            source = np.concatenate(parts, axis=2)
            now, _ = _run_float(layer, source, np.ones((len(x), 1), bool), {}, observe)
            out[np.arange(len(x)), lengths - 1] = now[:, 0]
        else:
            source = np.concatenate(parts, axis=2)
            if layer.reverse:
                source = flipped(source, lengths)
            out, last = _run_float(layer, source, active, start.get(layer.name, {}), observe)
            if layer.reverse:
                out = flipped(out, lengths)
            if last:
                final[layer.name] = last
        values.append(out)
    return Evaluation(tuple(values[1:]), lengths, final, tuple(output))


def _run_float(
    layer: Layer, source: NDArray, active: NDArray, start: Mapping[str, NDArray], observe: Any
) -> tuple[NDArray, dict[str, NDArray]]:
    """One layer over whole sequences: source (N, T, I) -> outputs (N, T, size) and, of a recurrent layer, the final state."""
    what = cell(layer.kind)
    count, steps, _ = source.shape
    units = layer.units
    pre_x = source @ layer.w_x.T + layer.bias  # (N, T, G * units)
    h = np.asarray(start.get("h", np.zeros((count, layer.outputs))), np.float64)
    states = {name: np.asarray(start.get(name, np.zeros((count, units))), np.float64) for name in what.states}
    if what.wide is not None:
        states[what.wide] = h
    rows = {name: slice(g * units, (g + 1) * units) for g, name in enumerate(what.gates)}
    apart = {name: slice(g * units, (g + 1) * units) for g, name in enumerate(what.apart)}
    out = np.zeros((count, steps, layer.outputs))
    for t in range(steps):
        now = active[:, t]
        keep = now[:, None]
        vectors, handed = {"h": h}, dict(states)
        for phase in phases_of(what, layer.w_p is not None):
            see = None
            if observe is not None:

                def see(target: str, site: str, value: NDArray, output: str = phase.output, now: NDArray = now) -> None:
                    observe(layer.name, output if target == "h" else target, site, value[now])

            gates: dict[str, NDArray] = {}
            if phase.columns == ("m",):
                gates["p"] = vectors["m"] @ layer.w_p.T  # type: ignore[union-attr]
            for name in phase.gates if not gates else ():
                gates[name] = pre_x[:, t, rows[name]]
                if layer.w_h is not None:
                    product = vectors[phase.columns[1]] @ layer.w_h[rows[name]].T
                    if name in phase.apart:
                        gates[f"{name}_h"] = product + layer.bias_h[apart[name]]  # type: ignore[index]
                    else:
                        gates[name] = gates[name] + product
            step = phase.step(FloatArithmetic(gates, handed, layer.parameters, see))
            vectors[phase.output] = step.h
            handed |= step.states
        h = np.where(keep, vectors["h"], h)
        states = {name: np.where(keep, handed[name], states[name]) for name in what.states}
        out[:, t] = np.where(keep, h, 0.0)
    return out, {name: h if name == "h" else states[name] for name in layer.carried}
