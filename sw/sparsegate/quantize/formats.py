"""Q formats of every value of a network, chosen from what calibration saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.numerics.fixed import QFormat, frac_for
from sparsegate.program import ACTIVATION_BITS, FRACS
from sparsegate.quantize.calibration import (
    Calibration,
    Histogram,
    Levels,
    Method,
    of_weights,
    weights_of,
)
from sparsegate.quantize.config import MATRIX_KEYS, QuantizeConfig

Rounding = Literal["nearest", "compensated"]


def choose_formats(network: Network, calibration: Calibration, config: QuantizeConfig) -> list[dict[str, QFormat]]:
    """Formats of every layer except those of the accumulators, which need the rounded weights (:func:`build`).

    Layers of one kind share their state and gate formats, so that one pipeline of the engine serves them all. Vectors that some
    layer takes together share one format.
    """
    _check_names(network, config)
    bits = config.activation_bits

    def chosen_for(width: int, seen: Histogram, start: float = 0.0) -> QFormat:
        """A format for what was seen, which holds the largest value of a start, too."""
        frac = seen.frac(QFormat(width, 0), config.calibration, config.percentile)
        if start:
            frac = min(frac, frac_for(start, width)) if seen.largest else frac_for(start, width)
        return QFormat(width, frac)

    def start_of(layer: Layer, state: str) -> float:
        return float(np.abs(network.initial.get(layer.name, {}).get(state, np.zeros(1))).max())

    starts: dict[tuple[str, str], float] = defaultdict(float)
    keys: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for layer in network.layers:
        what = cell(layer.kind)
        for state in what.states:
            start = start_of(layer, "h" if state == what.wide else state)
            starts[layer.kind, state] = max(starts[layer.kind, state], start)
            keys[layer.kind, state].append((layer.name, state))
    taken = [vector for sources in network.sources for vector in sources]
    outputs = [chosen_for(config.input_bits or bits, calibration.of([("input", "x")]))]
    for vector, layer in enumerate(network.layers, 1):
        what = cell(layer.kind)
        width = bits if what.recurrent or vector in taken else config.output_bits
        if what.bounded and layer.w_p is None:
            outputs.append(QFormat(width, width - 1))
        else:
            outputs.append(chosen_for(width, calibration.of([(layer.name, "h")]), start_of(layer, "h")))
    _share(outputs, [*network.sources, network.output_vectors])
    chosen = []
    for layer, sources, output in zip(network.layers, network.sources, outputs[1:], strict=True):
        what = cell(layer.kind)

        weights = {
            key: _weight_format(values, config, f"{layer.name}.{key}") for key, values in weights_of(layer).items()
        }
        formats = {"x": outputs[sources[0]], "h": output, **weights}
        if layer.w_p is not None:
            formats["m"] = QFormat(bits, bits - 1)
        for name in what.formats:
            if name == "gate" or name in what.handed:
                formats[name] = config.gate
            elif name == "pre":
                formats[name] = config.pre
            elif name == "q":  # like h, which a reset makes smaller
                formats[name] = output
            elif name != "parameter":
                key = layer.kind, name
                formats[name] = chosen_for(config.state_bits, calibration.of(keys[key]), starts[key])
        chosen.append(formats)
    fit_operands(network, chosen, config)
    check_fracs(network, chosen)
    return chosen


def _check_names(network: Network, config: QuantizeConfig) -> None:
    known = [f"{layer.name}.{key}" for layer in network.layers for key in MATRIX_KEYS if key in weights_of(layer)]
    for name in (*config.matrix_bits, *config.matrix_levels):
        if name not in known:
            raise SparseGateError(f"the network has no matrix {name!r}; it has {', '.join(known)}")


def _weight_format(values: NDArray[np.float64], config: QuantizeConfig, matrix: str) -> QFormat:
    """Format of a matrix of weights, or of a layer's parameters, which have no levels."""
    parameter = matrix.endswith(".parameter")
    form = QFormat(config.weight_bits, 0) if parameter else config.weight_format(matrix)
    method: Method = "mse" if isinstance(form, Levels) else config.calibration
    return replace(form, frac=of_weights(values).frac(form, method, config.percentile))


def check_fracs(network: Network, chosen: Sequence[dict[str, QFormat]]) -> None:
    for layer, formats in zip(network.layers, chosen, strict=True):
        for key, form in formats.items():
            if form.frac not in FRACS:
                raise SparseGateError(
                    f"layer {layer.name!r}: {key} would need {form.frac} fractional bits, expected {FRACS[0]} to {FRACS[-1]}; "
                    f"its values are too {'large' if form.frac < 0 else 'small'}, scale the data or the weights"
                )


def _share(outputs: list[QFormat], together: Sequence[tuple[int, ...]]) -> None:
    """Give vectors that are taken together the format of the one that reaches furthest."""
    for _ in outputs:  # a chain of sharing is no longer than that
        for vectors in together:
            reach = max(outputs[vector].width - outputs[vector].frac for vector in vectors)
            width = min(max(outputs[vector].width for vector in vectors), ACTIVATION_BITS[-1])
            common = QFormat(width, width - reach) if len(vectors) > 1 else outputs[vectors[0]]
            for vector in vectors:
                outputs[vector] = common


PRODUCTS = (("x", "wx", "acc"), ("h", "wh", "acc"), ("m", "wp", "acc_p"))
"""Which columns meet which weights in which accumulators."""


def products(
    network: Network, chosen: Sequence[dict[str, QFormat]]
) -> dict[tuple[str, str], list[tuple[dict[str, QFormat], str, str]]]:
    """(kind, accumulator) -> formats, columns and weights of every product that its accumulators sum."""
    found: dict[tuple[str, str], list[tuple[dict[str, QFormat], str, str]]] = defaultdict(list)
    for layer, formats in zip(network.layers, chosen, strict=True):
        for column, weight, acc in PRODUCTS:
            if weight in formats:
                found[layer.kind, acc].append((formats, column, weight))
    return found


def fit_operands(network: Network, chosen: list[dict[str, QFormat]], config: QuantizeConfig) -> None:
    """Take fractional bits from the weights whose products are finest, until every shifted delta fits the multiplier.

    A delta of the coarser matrix is shifted left to the accumulator's binary point; only wide activations come near the
    multiplier's width, and then with weights that have bits to spare.
    """
    for sums in products(network, chosen).values():
        # each product allows the shared accumulator so many fractional bits
        most = min(form[key].frac + form[w].frac + config.operand_bits - form[key].width - 1 for form, key, w in sums)
        for form, key, w in sums:
            excess = form[key].frac + form[w].frac - most
            if excess > 0:
                form[w] = replace(form[w], frac=form[w].frac - excess)


def accumulators(formats: Mapping[str, QFormat]) -> list[str]:
    """Accumulator formats that a layer needs."""
    return ["acc", "acc_p"] if "wp" in formats else ["acc"]
