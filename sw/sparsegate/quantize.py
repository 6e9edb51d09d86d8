"""Quantization: calibrate formats on data, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.fixed import MAX_WIDTH, QFormat, bits_for, frac_for
from sparsegate.network import Layer as FloatLayer
from sparsegate.network import Network, sequences
from sparsegate.pattern import NM, common_block
from sparsegate.program import ACTIVATION_BITS, FRACS, Layer, Matrix, Program


@dataclass(frozen=True)
class QuantizeConfig:
    """Bit widths and thresholds of a quantization.

    ``activation_bits``: input x and every h that feeds columns, 4..16. ``weight_bits``: 2..16. ``gate_bits``: gates and tanh,
    default activation_bits + 2, of which all but two are fractional so that 0 and 1 are exact. ``pre_bits``: input of the
    activation tables, default min(activation_bits + 4, 16), range -8..8. ``state_bits``: cell state. ``output_bits``: a final
    layer that feeds nothing. ``table_bits``: address bits of a table; wider pre-activations are interpolated. ``threshold``:
    default Θ, in LSBs, of the input and of every vector that a recurrent layer gives.
    """

    activation_bits: int = 8
    weight_bits: int = 8
    gate_bits: int | None = None
    pre_bits: int | None = None
    state_bits: int = 16
    output_bits: int = 16
    table_bits: int = 11
    threshold: int = 0
    operand_bits: int = 18

    def __post_init__(self) -> None:
        for name, low, high in (
            ("activation_bits", 4, 16),
            ("weight_bits", 2, 16),
            ("state_bits", 4, 24),
            ("output_bits", 4, 32),
            ("table_bits", 3, 15),
            ("gate_bits", 4, 18),
            ("pre_bits", 6, 16),
            ("operand_bits", self.activation_bits + 1, 64),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SparseGateError(f"{name} is {value}, expected {low} to {high}")
        if self.threshold < 0:
            raise SparseGateError(f"threshold is {self.threshold}, expected 0 or more")

    @property
    def gate(self) -> QFormat:
        bits = self.gate_bits or self.activation_bits + 2
        return QFormat(bits, bits - 2)

    @property
    def pre(self) -> QFormat:
        bits = self.pre_bits or min(self.activation_bits + 4, 16)
        return QFormat(bits, bits - 4)

    @property
    def step_bits(self) -> int:
        return max(0, self.pre.width - 1 - self.table_bits)


@dataclass(frozen=True)
class Calibration:
    """Largest magnitudes seen: of the input, and of each (layer, format) that values are narrowed to."""

    input: float
    ranges: dict[tuple[str, str], float]


def calibrate(network: Network, x: ArrayLike, lengths: ArrayLike | None = None) -> Calibration:
    """Run the float network over data (N, T, I) and record min-max ranges."""
    x, lengths = sequences(x, lengths, network.inputs)
    ranges: dict[tuple[str, str], float] = defaultdict(float)

    def observe(layer: str, target: str, site: str, value: NDArray) -> None:
        if value.size:
            ranges[layer, target] = max(ranges[layer, target], float(np.abs(value).max()))

    network.evaluate(x, lengths, observe=observe)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    return Calibration(float(np.abs(x[valid]).max()), dict(ranges))


def choose_formats(network: Network, calibration: Calibration, config: QuantizeConfig) -> list[dict[str, QFormat]]:
    """Formats of every layer except those of the accumulators, which need the rounded weights (:func:`build`).

    Layers of one kind share their state and gate formats, so that one pipeline of the engine serves them all. Vectors that some
    layer takes together share one format.
    """
    bits = config.activation_bits
    shared: dict[tuple[str, str], float] = defaultdict(float)
    for layer in network.layers:
        what = cell(layer.kind)
        for state in what.states:
            start = network.initial.get(layer.name, {}).get("h" if state == what.wide else state, np.zeros(1))
            seen = max(calibration.ranges[layer.name, state], float(np.abs(start).max()))
            shared[layer.kind, state] = max(shared[layer.kind, state], seen)
    taken = [vector for sources in network.sources for vector in sources]
    outputs = [QFormat(bits, frac_for(calibration.input, bits))]
    for vector, layer in enumerate(network.layers, 1):
        what = cell(layer.kind)
        width = bits if what.recurrent or vector in taken else config.output_bits
        if what.bounded and layer.w_p is None:
            outputs.append(QFormat(width, width - 1))
        else:
            start = np.abs(network.initial.get(layer.name, {}).get("h", np.zeros(1))).max()
            outputs.append(QFormat(width, frac_for(max(calibration.ranges[layer.name, "h"], float(start)), width)))
    _share(outputs, [*network.sources, network.output_vectors])
    chosen = []
    for layer, sources, output in zip(network.layers, network.sources, outputs[1:], strict=True):
        what = cell(layer.kind)

        def of_weights(weights: NDArray) -> QFormat:
            return QFormat(config.weight_bits, frac_for(float(np.abs(weights).max()), config.weight_bits))

        formats = {"x": outputs[sources[0]], "h": output, "wx": of_weights(layer.w_x)}
        if layer.w_h is not None:
            formats["wh"] = of_weights(layer.w_h)
        if layer.w_p is not None:
            formats |= {"m": QFormat(bits, bits - 1), "wp": of_weights(layer.w_p)}
        for name in what.formats:
            if name == "gate" or name in what.handed:
                formats[name] = config.gate
            elif name == "pre":
                formats[name] = config.pre
            elif name == "q":  # like h, which a reset makes smaller
                formats[name] = output
            elif name == "parameter":
                formats[name] = of_weights(np.concatenate(list(layer.parameters.values())))
            else:
                formats[name] = QFormat(config.state_bits, frac_for(shared[layer.kind, name], config.state_bits))
        chosen.append(formats)
    _fit_operands(network, chosen, config)
    for layer, formats in zip(network.layers, chosen, strict=True):
        for key, form in formats.items():
            if form.frac not in FRACS:
                raise SparseGateError(
                    f"layer {layer.name!r}: {key} would need {form.frac} fractional bits, expected {FRACS[0]} to {FRACS[-1]}; "
                    f"its values are too {'large' if form.frac < 0 else 'small'}, scale the data or the weights"
                )
    return chosen


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


def _products(
    network: Network, chosen: Sequence[dict[str, QFormat]]
) -> dict[tuple[str, str], list[tuple[dict[str, QFormat], str, str]]]:
    """(kind, accumulator) -> formats, columns and weights of every product that its accumulators sum."""
    found: dict[tuple[str, str], list[tuple[dict[str, QFormat], str, str]]] = defaultdict(list)
    for layer, formats in zip(network.layers, chosen, strict=True):
        for column, weight, acc in PRODUCTS:
            if weight in formats:
                found[layer.kind, acc].append((formats, column, weight))
    return found


def _fit_operands(network: Network, chosen: list[dict[str, QFormat]], config: QuantizeConfig) -> None:
    """Take fractional bits from the weights whose products are finest, until every shifted delta fits the multiplier.

    A delta of the coarser matrix is shifted left to the accumulator's binary point; only wide activations come near the
    multiplier's width, and then with weights that have bits to spare.
    """
    for products in _products(network, chosen).values():
        # each product allows the shared accumulator so many fractional bits
        most = min(
            form[key].frac + form[w].frac + config.operand_bits - form[key].width - 1 for form, key, w in products
        )
        for form, key, w in products:
            excess = form[key].frac + form[w].frac - most
            if excess > 0:
                form[w] = QFormat(form[w].width, form[w].frac - excess)


def build(
    network: Network, formats: Sequence[dict[str, QFormat]], config: QuantizeConfig, meta: dict | None = None
) -> Program:
    """Round weights and biases to the given formats and assemble a Program."""
    fracs = {
        key: max(form[column].frac + form[weight].frac for form, column, weight in products)
        for key, products in _products(network, formats).items()
    }
    # as wide as can be at first, to learn what the rounded weights need
    loose = [
        _layer(layer, sources, form, {acc: QFormat(MAX_WIDTH, fracs[layer.kind, acc]) for acc in _accs(form)}, config)
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
        accs = {acc: QFormat(widths[layer.kind, acc], fracs[layer.kind, acc]) for acc in _accs(layer.formats)}
        layers.append(replace(layer, formats={**layer.formats, **accs}))
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


def _accs(formats: Mapping[str, QFormat]) -> list[str]:
    """Accumulator formats that a layer needs."""
    return ["acc", "acc_p"] if "wp" in formats else ["acc"]


def _numbers(vectors: tuple[int, ...], before: Sequence[object]) -> tuple[int, ...]:
    """Vector numbers as a Program holds them: none at all for the one before."""
    return () if vectors == (len(before),) else vectors


def _layer(
    layer: FloatLayer,
    sources: tuple[int, ...],
    form: dict[str, QFormat],
    accs: dict[str, QFormat],
    config: QuantizeConfig,
) -> Layer:
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
    return Layer(
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


def quantize(
    network: Network,
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    config: QuantizeConfig | None = None,
    meta: dict | None = None,
) -> Program:
    """Post-training quantization: calibrate on real data (N, T, I) and build the Program."""
    config = config or QuantizeConfig()
    return build(network, choose_formats(network, calibrate(network, x, lengths), config), config, meta)
