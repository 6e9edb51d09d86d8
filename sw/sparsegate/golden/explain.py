"""Where does the error enter? The golden model against the float network, narrowing site by narrowing site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import Fixed
from sparsegate.errors import SparseGateError
from sparsegate.golden import model as golden
from sparsegate.network import Network, sequences
from sparsegate.program import Program

INPUT = "input"


@dataclass(frozen=True)
class SiteError:
    """Distance of one narrowing site's values from the float network's, in real units, over all steps, units and sequences.

    ``lsb`` is the value of the site's last bit: an error near ``lsb / 4`` on average is the rounding itself, more came from before.
    """

    layer: str
    site: str
    lsb: float
    mean: float
    max: float
    largest: float
    """Largest magnitude in the float network."""
    values: int
    saturations: int


def explain(
    network: Network,
    program: Program,
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    thresholds: Sequence[int] | None = None,
) -> list[SiteError]:
    """Compare a Program with a float network on data (N, T, I); rows in the order in which values are made, input first.

    A fine-tuned Program differs from the network it came from by its weights too; for rounding alone, compare with the network
    after fine-tuning (``FakeQuant.network``).
    """
    _check(network, program)
    x, lengths = sequences(x, lengths, network.inputs)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]  # (N, T)
    floats = _float_values(network, x, lengths)

    form = program.input_format
    raw = program.quantize(x)
    rows = [_row(INPUT, INPUT, form.frac, form.real(raw[valid]), x[valid], form.saturated(x[valid]))]
    fixed: dict[tuple[str, str], tuple[int, list[tuple[NDArray, NDArray]]]] = {}
    at_end = {layer.name for layer in program.layers if layer.when != "step"}

    def see(layer: str, t: int, site: str, value: Fixed) -> None:
        # a layer that runs on the last step is seen once, with all sequences; a reversed one in its own order, in both models
        who = slice(None) if layer in at_end else valid[:, t]
        real = np.ldexp(value.raw[who].astype(np.float64), -value.frac)
        fixed.setdefault((layer, site), (value.frac, []))[1].append((real, floats[layer, site][t]))

    trace = golden.run(program, raw, lengths, thresholds, saturations=True, observe=see)
    for layer in program.layers:
        for site in layer.sites:
            frac, pairs = fixed[layer.name, site]
            real, exact = (np.concatenate(part) for part in zip(*pairs, strict=True))
            rows.append(_row(layer.name, site, frac, real, exact, trace.saturations[layer.name][site]))
    return rows


def _check(network: Network, program: Program) -> None:
    ours, theirs = (
        [
            (layer.name, layer.kind, layer.inputs, layer.units, layer.outputs, layer.reverse, layer.when)
            for layer in layers
        ]
        for layers in (network.layers, program.layers)
    )
    if ours != theirs:
        raise SparseGateError(
            "network and Program differ in their layers (name, kind, inputs, units, outputs, reverse, when): "
            f"{ours} and {theirs}"
        )


def _float_values(network: Network, x: NDArray, lengths: NDArray) -> dict[tuple[str, str], list[NDArray]]:
    """Every value that is narrowed in the Program, as the float network has it: (layer, site) -> for each step (running, size)."""
    values: dict[tuple[str, str], list[NDArray]] = defaultdict(list)

    def see(layer: str, target: str, site: str, value: NDArray) -> None:
        values[layer, site].append(value)

    network.evaluate(x, lengths, observe=see)
    return values


def _row(layer: str, site: str, frac: int, fixed: NDArray, exact: NDArray, saturations: int) -> SiteError:
    error = np.abs(fixed - exact)
    return SiteError(
        layer,
        site,
        2.0**-frac,
        float(error.mean()),
        float(error.max()),
        float(np.abs(exact).max()),
        error.size,
        saturations,
    )
