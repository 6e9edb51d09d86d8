"""Quantization: choose formats, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.numerics.fixed import MAX_WIDTH, QFormat, bits_for
from sparsegate.pattern import NM, common_block
from sparsegate.program import Matrix, Program, QuantizedLayer
from sparsegate.quantize import compensate
from sparsegate.quantize.bias import correct_bias
from sparsegate.quantize.calibration import (
    Levels,
    calibrate,
)
from sparsegate.quantize.config import QuantizeConfig
from sparsegate.quantize.formats import accumulators, check_fracs, choose_formats, fit_operands, products

Rounding = Literal["nearest", "compensated"]


def build(
    network: Network, formats: Sequence[dict[str, QFormat]], config: QuantizeConfig, meta: dict | None = None
) -> Program:
    """Round weights and biases to the given formats and assemble a Program."""
    fracs = {
        key: max(form[column].frac + form[weight].frac for form, column, weight in products)
        for key, products in products(network, formats).items()
    }
    # as wide as can be at first, to learn what the rounded weights need
    loose = [
        _layer(
            layer,
            sources,
            form,
            {acc: QFormat(MAX_WIDTH, fracs[layer.kind, acc]) for acc in accumulators(form)},
            config,
        )
        for layer, sources, form in zip(network.layers, network.sources, formats, strict=True)
    ]
    widths: dict[tuple[str, str], int] = {}
    for layer in loose:
        for phase in layer.phases:
            if bits_for(phase.bound) >= MAX_WIDTH:
                raise SparseGateError(
                    f"layer {layer.name!r}: accumulators may reach {phase.bound}, which {MAX_WIDTH - 1} bits cannot hold; "
                    "the scales of its weights and inputs lie too far apart"
                )
            # one bit of margin, so that a fine-tuned Program usually fits the same netlist
            key = layer.kind, phase.spec.acc
            widths[key] = max(widths.get(key, 0), bits_for(phase.bound) + 1)
    layers = []
    for layer in loose:
        accs = {acc: QFormat(widths[layer.kind, acc], fracs[layer.kind, acc]) for acc in accumulators(layer.formats)}
        plain = {key: form.plain if isinstance(form, Levels) else form for key, form in layer.formats.items()}
        layers.append(replace(layer, formats={**plain, **accs}))
    program = Program(
        network.name,
        formats[0]["x"],
        tuple(layers),
        config.threshold,
        meta or {},
        _numbers(network.output_vectors, layers),
    )
    initial = program.quantize_state(network.initial)
    return replace(
        program,
        initial={name: {key: initial[name][key][0] for key in initial[name]} for name in network.initial},
    )


def _numbers(vectors: tuple[int, ...], before: Sequence[object]) -> tuple[int, ...]:
    """Vector numbers as a Program holds them: none at all for the one before."""
    return () if vectors == (len(before),) else vectors


def _layer(
    layer: Layer,
    sources: tuple[int, ...],
    form: dict[str, QFormat],
    accs: dict[str, QFormat],
    config: QuantizeConfig,
) -> QuantizedLayer:
    """A layer with rounded weights."""
    what, at = cell(layer.kind), f"layer {layer.name!r}"
    gates, units = layer.gates, layer.units
    block = common_block(layer.pattern_x, *(() if layer.w_h is None else (layer.pattern_h,)))

    def pack(key: str, weights: NDArray | None, gates: int, pattern: NM, block: int) -> Matrix | None:
        if weights is None:
            return None
        return Matrix.pack(form["w" + key].quantize(weights), gates, block, pattern.stored(block), f"{at}: w_{key}")

    floats = layer.bias if layer.bias_h is None else np.concatenate([layer.bias, layer.bias_h])
    frac = accs["acc"].frac
    bias = np.floor(np.ldexp(floats, frac) + 0.5)
    if np.abs(bias).max() >= 2.0 ** (MAX_WIDTH - 2):  # beyond what integers hold; whether it can run is seen later
        raise SparseGateError(
            f"{at}: a bias of {np.abs(floats).max():g} does not fit an accumulator with {frac} fractional bits;"
            " the weights are too small for it"
        )
    block_p = common_block(layer.pattern_p)
    matrix_x = pack("x", layer.w_x, gates, layer.pattern_x, block)
    assert matrix_x is not None
    thresholds = (config.threshold,) * len(phases_of(what, layer.w_p is not None))
    return QuantizedLayer(
        name=layer.name,
        kind=layer.kind,
        units=units,
        block=block,
        when=layer.when,
        formats={**form, **accs},
        step_bits=config.step_bits if what.functions else 0,
        matrix_x=matrix_x,
        matrix_h=pack("h", layer.w_h, gates, layer.pattern_h, block),
        bias=bias.astype(np.int64).reshape(-1, units),
        thresholds=thresholds if what.recurrent else (),
        matrix_p=pack("p", layer.w_p, 1, layer.pattern_p, block_p),
        block_p=block_p,
        parameters={name: form["parameter"].quantize(values) for name, values in layer.parameters.items()},
        sources=sources,
        reverse=layer.reverse,
    )


def prepare(
    network: Network, x: ArrayLike, lengths: ArrayLike | None = None, config: QuantizeConfig | None = None
) -> tuple[Network, list[dict[str, QFormat]]]:
    """All that a configuration asks for before integers are made, on real data (N, T, I): formats, compensation, biases.

    Returns what :func:`build` and ``fake_quant.FakeQuant`` take: a network, whose weights are on the formats' grids already where
    they were compensated, and the formats.
    """
    config = config or QuantizeConfig()
    formats = choose_formats(network, calibrate(network, x, lengths), config)
    made = network
    if config.rounding == "compensated":
        made, formats = compensate.compensate(network, formats, x, lengths)
        fitted = [dict(form) for form in formats]
        fit_operands(network, fitted, config)
        if fitted != formats:  # finer weights than the multiplier allows were chosen
            made, formats = compensate.compensate(network, fitted, x, lengths, finer=0)
        check_fracs(network, formats)
    if config.bias_correction:
        made = correct_bias(made, formats, x, lengths, network)
    return made, formats


def quantize(
    network: Network,
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    config: QuantizeConfig | None = None,
    meta: dict | None = None,
) -> Program:
    """Post-training quantization: prepare on real data (N, T, I) and build the Program."""
    config = config or QuantizeConfig()
    return build(*prepare(network, x, lengths, config), config, meta)
