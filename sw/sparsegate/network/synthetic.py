"""Random networks of any shape and stimulus for them, for tests, benchmarks and area studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsegate.cells import cell
from sparsegate.network.layer import Layer
from sparsegate.network.network import Network
from sparsegate.network.passes import When
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import DENSE, NM


@dataclass(frozen=True)
class Shape:
    """Kind, units and patterns of one layer to draw; ``outputs`` of a projection (0: none).

    ``both``: a forward and a backward layer, whose outputs the next layer takes together; ``reverse``: a backward one alone.
    """

    kind: str
    units: int
    pattern_x: NM = DENSE
    pattern_h: NM = DENSE
    when: When = "step"
    outputs: int = 0
    pattern_p: NM = DENSE
    both: bool = False
    reverse: bool = False


def network(inputs: int, shapes: Sequence[Shape], seed: int, gain: float = 1.0, initial: bool = False) -> Network:
    """A Network with normally distributed weights that obey their patterns; with ``initial``, a drawn state to start from."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    sources: tuple[str, ...] = ("input",)
    start = {}
    for position, shape in enumerate(shapes):
        made = []
        for reverse in (False, True) if shape.both else (shape.reverse,):
            name = f"{shape.kind}{position}{'_reverse' if reverse else ''}"
            made.append(_layer(rng, name, shape, inputs, sources, reverse, gain))
            if initial and made[-1].carried:
                start[name] = {key: rng.uniform(-0.9, 0.9, size) for key, size in made[-1].carried.items()}
        layers += made
        inputs = sum(layer.outputs for layer in made)
        sources = tuple(layer.name for layer in made)
    return Network(tuple(layers), name="random", output=sources, initial=start)


def _layer(
    rng: np.random.Generator, name: str, shape: Shape, inputs: int, sources: tuple[str, ...], reverse: bool, gain: float
) -> Layer:
    what = cell(shape.kind)
    units, outputs = shape.units, shape.outputs or shape.units

    def draw(gates: int, units: int, columns: int, pattern: NM) -> np.ndarray:
        scale = gain / np.sqrt(max(1.0, columns * pattern.density))
        full = rng.normal(0.0, scale, (gates * units, columns))
        return np.where(pattern.mask(full, gates), full, 0.0)

    gates = len(what.gates)
    return Layer(
        name=name,
        kind=shape.kind,
        w_x=draw(gates, units, inputs, shape.pattern_x),
        w_h=draw(gates, units, outputs, shape.pattern_h) if what.recurrent else None,
        bias=rng.normal(0.0, 0.3, gates * units),
        when=shape.when,
        pattern_x=shape.pattern_x,
        pattern_h=shape.pattern_h,
        bias_h=rng.normal(0.0, 0.3, len(what.apart) * units) if what.apart else None,
        w_p=draw(1, outputs, units, shape.pattern_p) if shape.outputs else None,
        pattern_p=shape.pattern_p,
        parameters={key: rng.normal(0.0, 0.5, units) for key in what.parameters},
        sources=sources,
        reverse=reverse,
    )


def stimulus(form: QFormat, count: int, steps: int, inputs: int, seed: int, hold: float = 0.3) -> np.ndarray:
    """Raw inputs (count, steps, inputs) in which each value repeats its predecessor with probability ``hold``."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(form.min, form.max + 1, (count, steps, inputs))
    for t in range(1, steps):
        keep = rng.random((count, inputs)) < hold
        raw[:, t] = np.where(keep, raw[:, t - 1], raw[:, t])
    return raw
