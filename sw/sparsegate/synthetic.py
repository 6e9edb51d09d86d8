"""Random networks of any shape and stimulus for them, for tests, benchmarks and area studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsegate.cells import cell
from sparsegate.fixed import QFormat
from sparsegate.network import Layer, Network
from sparsegate.pattern import DENSE, NM, mask


@dataclass(frozen=True)
class Shape:
    """Kind, units and patterns of one layer to draw."""

    kind: str
    units: int
    pattern_x: NM = DENSE
    pattern_h: NM = DENSE
    when: str = "step"


def network(inputs: int, shapes: Sequence[Shape], seed: int, gain: float = 1.0) -> Network:
    """A Network with normally distributed weights that obey their patterns."""
    rng = np.random.default_rng(seed)
    layers = []
    for position, shape in enumerate(shapes):
        what = cell(shape.kind)
        rows = len(what.gates) * shape.units

        def draw(columns: int, pattern: NM, rows: int = rows, gates: int = len(what.gates)) -> np.ndarray:
            scale = gain / np.sqrt(max(1.0, columns * pattern.density))
            full = rng.normal(0.0, scale, (rows, columns))
            return np.where(mask(full, gates, pattern), full, 0.0)

        layers.append(
            Layer(
                name=f"{shape.kind}{position}",
                kind=shape.kind,
                w_x=draw(inputs, shape.pattern_x),
                w_h=draw(shape.units, shape.pattern_h) if what.recurrent else None,
                bias=rng.normal(0.0, 0.3, rows),
                when=shape.when,  # type: ignore[arg-type]
                pattern_x=shape.pattern_x,
                pattern_h=shape.pattern_h,
            )
        )
        inputs = shape.units
    return Network(tuple(layers), name="random")


def stimulus(form: QFormat, count: int, steps: int, inputs: int, seed: int, hold: float = 0.3) -> np.ndarray:
    """Raw inputs (count, steps, inputs) in which each value repeats its predecessor with probability ``hold``."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(form.min, form.max + 1, (count, steps, inputs))
    for t in range(1, steps):
        keep = rng.random((count, inputs)) < hold
        raw[:, t] = np.where(keep, raw[:, t - 1], raw[:, t])
    return raw
