"""Biases corrected for what rounding the weights adds to mean pre-activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell
from sparsegate.network import Layer, Network, sequences
from sparsegate.network.passes import flipped, single
from sparsegate.numerics.fixed import QFormat
from sparsegate.quantize.compensate import alone

ROUNDS = 6
"""How often a recurrent layer is run to see where its corrected biases bring it."""


def correct_bias(
    network: Network,
    formats: Sequence[Mapping[str, QFormat]],
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    reference: Network | None = None,
) -> Network:
    """Correct biases so that mean pre-activations over calibration data (N, T, I) are those of the float network.

    Rounding shifts the mean of what a layer computes, and the bias can take that back (Nagel et al. 2019, for layers
    without recurrence; Banner et al. 2019 correct the weights' mean instead). Layers are corrected in order, each on what the
    rounded ones before it give; a recurrent layer, whose own outputs change with its biases, in a few rounds, of which the best is
    taken. Every kind of cell is covered; sums that are kept apart have a bias of their own each. A projection has no bias.

    Parameters
    ----------
    network : float weights, rounded to ``formats`` here; only its biases come back changed.
    formats : as ``quantize.choose_formats`` gives them.
    reference : the network whose means are wanted, if not this one: the float network, where weights were compensated already.
    """
    x, lengths = sequences(x, lengths, network.inputs)
    reference = reference or network
    wanted = [x, *reference.evaluate(x, lengths).layers]
    values = [formats[0]["x"].real(formats[0]["x"].quantize(x))]
    layers = []
    for number, (layer, exact, form) in enumerate(zip(network.layers, reference.layers, formats, strict=True)):
        taken = network.sources[number]
        start = network.initial.get(layer.name, {})
        backwards = [vector > 0 and network.layers[vector - 1].reverse for vector in taken]

        def run(
            one: Layer,
            vectors: list[NDArray],
            taken: tuple[int, ...] = taken,
            backwards: list[bool] = backwards,
            start: Mapping[str, NDArray] = start,
        ) -> tuple[NDArray, NDArray]:
            """Mean pre-activations, and outputs (N, T, size)."""
            parts, steps = [vectors[vector] for vector in taken], lengths
            if one.when != "step":
                parts = [single(part, lengths, back, one.when) for part, back in zip(parts, backwards, strict=True)]
                steps = np.ones_like(lengths)
            means, given = _means(one, np.concatenate(parts, axis=2), steps, start)
            if one.when != "step":
                at_end = np.zeros((*x.shape[:2], one.outputs))
                at_end[np.arange(len(x)), lengths - 1] = given[:, 0]
                given = at_end
            return means, given

        goal, _ = run(exact, wanted)
        now = _on_grid(layer, form)
        best: tuple[float, Layer, NDArray] | None = None
        for _ in range(ROUNDS if cell(layer.kind).recurrent else 2):
            means, given = run(now, values)
            error = float(np.square(means - goal).sum())
            if best is not None and error >= best[0]:
                break
            best = error, now, given
            own, apart = np.split(goal - means, [len(now.bias)])
            bias_h = None if now.bias_h is None else now.bias_h + apart
            now = replace(now, bias=now.bias + own, bias_h=bias_h)
        assert best is not None
        _, now, given = best
        layers.append(replace(layer, bias=now.bias, bias_h=now.bias_h))
        values.append(form["h"].real(form["h"].quantize(given)))
    return network.with_layers(layers)


def _on_grid(layer: Layer, form: Mapping[str, QFormat]) -> Layer:
    """The layer with weights as its formats round them."""

    def held(key: str, weights: NDArray | None) -> NDArray | None:
        return None if weights is None else form[key].real(form[key].quantize(weights))

    parameters = {name: form["parameter"].real(form["parameter"].quantize(v)) for name, v in layer.parameters.items()}
    w_x = held("wx", layer.w_x)
    assert w_x is not None
    return replace(layer, w_x=w_x, w_h=held("wh", layer.w_h), w_p=held("wp", layer.w_p), parameters=parameters)


def _means(
    layer: Layer, source: NDArray, lengths: NDArray[np.int64], start: Mapping[str, NDArray]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean sums of a layer's gates, and of those kept apart, over all steps of a source (N, T, I); and its outputs."""
    total, count = np.zeros(layer.units), 0  # of q = r h, where a second phase multiplies it

    def observe(name: str, target: str, site: str, value: NDArray) -> None:
        nonlocal total, count
        if target == "q":
            total, count = total + value.sum(axis=0), count + len(value)

    outputs = alone(layer, start).evaluate(source, lengths, observe=observe).outputs
    steps = (flipped(source, lengths), flipped(outputs, lengths)) if layer.reverse else (source, outputs)
    valid = np.arange(source.shape[1])[None, :] < lengths[:, None]
    means = layer.bias + layer.w_x @ steps[0][valid].mean(axis=0)
    if layer.w_h is None:
        return means, outputs
    first = np.broadcast_to(start.get("h", np.zeros(layer.outputs)), steps[1][:, 0].shape)
    before = np.concatenate([first[:, None], steps[1][:, :-1]], axis=1)[valid].mean(axis=0)
    what = cell(layer.kind)
    product = (layer.w_h @ before).reshape(layer.gates, -1)
    if count:  # the gates of the second phase see q
        for name in what.phases[-1].gates:
            gate = what.gates.index(name)
            product[gate] = layer.w_h.reshape(layer.gates, layer.units, -1)[gate] @ (total / count)
    apart = [what.gates.index(name) for name in what.apart]
    inner = product[apart].reshape(-1)
    product[apart] = 0.0
    if layer.bias_h is not None:
        inner = inner + layer.bias_h
    return np.concatenate([means + product.reshape(-1), inner]), outputs
