"""Quantization: calibrate formats on data, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.fixed import MAX_WIDTH, QFormat, bits_for, frac_for
from sparsegate.network import Layer as FloatLayer
from sparsegate.network import Network, sequences
from sparsegate.pattern import common_block
from sparsegate.program import FRACS, Layer, Matrix, Program, accumulator_bound


@dataclass(frozen=True)
class QuantizeConfig:
    """Bit widths and thresholds of a quantization.

    ``activation_bits``: input x and every h that feeds columns, 4..16. ``weight_bits``: 2..16. ``gate_bits``: gates and tanh,
    default activation_bits + 2, of which all but two are fractional so that 0 and 1 are exact. ``pre_bits``: input of the
    activation tables, default min(activation_bits + 4, 16), range -8..8. ``state_bits``: cell state. ``output_bits``: a final
    layer that feeds nothing. ``table_bits``: address bits of a table; wider pre-activations are interpolated. ``threshold``:
    default Θ of every vector, in LSBs.
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

    network.evaluate(x, lengths, observe)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    return Calibration(float(np.abs(x[valid]).max()), dict(ranges))


def choose_formats(network: Network, calibration: Calibration, config: QuantizeConfig) -> list[dict[str, QFormat]]:
    """Formats of every layer except "acc", which needs the rounded weights (:func:`build`).

    Layers of one kind share their state and gate formats, so that one pipeline of the engine serves them all.
    """
    source = QFormat(config.activation_bits, frac_for(calibration.input, config.activation_bits))
    shared: dict[tuple[str, str], float] = defaultdict(float)
    for layer in network.layers:
        for state in cell(layer.kind).states:
            shared[layer.kind, state] = max(shared[layer.kind, state], calibration.ranges[layer.name, state])
    chosen = []
    for position, layer in enumerate(network.layers):
        what = cell(layer.kind)
        final = position == len(network.layers) - 1 and not what.recurrent
        h_bits = config.output_bits if final else config.activation_bits
        formats = {
            "x": source,
            "h": QFormat(h_bits, frac_for(calibration.ranges[layer.name, "h"], h_bits)),
            "wx": QFormat(config.weight_bits, frac_for(float(np.abs(layer.w_x).max()), config.weight_bits)),
        }
        if layer.w_h is not None:
            formats["h"] = QFormat(h_bits, h_bits - 1)  # |h| < 1 by construction
            formats["wh"] = QFormat(config.weight_bits, frac_for(float(np.abs(layer.w_h).max()), config.weight_bits))
        for name in what.formats:
            if name == "gate":
                formats[name] = config.gate
            elif name == "pre":
                formats[name] = config.pre
            else:
                formats[name] = QFormat(config.state_bits, frac_for(shared[layer.kind, name], config.state_bits))
        chosen.append(formats)
        source = formats["h"]
    _fit_operands(network, chosen, config)
    for layer, formats in zip(network.layers, chosen, strict=True):
        for key, form in formats.items():
            if form.frac not in FRACS:
                raise SparseGateError(
                    f"layer {layer.name!r}: {key} would need {form.frac} fractional bits, expected {FRACS[0]} to {FRACS[-1]}; "
                    f"its values are too {'large' if form.frac < 0 else 'small'}, scale the data or the weights"
                )
    return chosen


def _fit_operands(network: Network, chosen: list[dict[str, QFormat]], config: QuantizeConfig) -> None:
    """Take fractional bits from the weights whose products are finest, until every shifted delta fits the multiplier.

    A delta of the coarser matrix is shifted left to the accumulator's binary point; only wide activations come near the
    multiplier's width, and then with weights that have bits to spare.
    """
    products: dict[str, list[tuple[dict[str, QFormat], str, str]]] = defaultdict(list)
    for layer, formats in zip(network.layers, chosen, strict=True):
        products[layer.kind].append((formats, "x", "wx"))
        if "wh" in formats:
            products[layer.kind].append((formats, "h", "wh"))
    for of_kind in products.values():
        # each product allows the shared accumulator so many fractional bits
        most = min(
            form[key].frac + form[w].frac + config.operand_bits - form[key].width - 1 for form, key, w in of_kind
        )
        for form, key, w in of_kind:
            excess = form[key].frac + form[w].frac - most
            if excess > 0:
                form[w] = QFormat(form[w].width, form[w].frac - excess)


def build(
    network: Network, formats: Sequence[dict[str, QFormat]], config: QuantizeConfig, meta: dict | None = None
) -> Program:
    """Round weights and biases to the given formats and assemble a Program."""
    fracs: dict[str, int] = {}
    for layer, form in zip(network.layers, formats, strict=True):
        need = [form["x"].frac + form["wx"].frac]
        if layer.w_h is not None:
            need.append(form["h"].frac + form["wh"].frac)
        fracs[layer.kind] = max(fracs.get(layer.kind, need[0]), *need)
    parts = [_parts(layer, form, fracs[layer.kind]) for layer, form in zip(network.layers, formats, strict=True)]
    widths: dict[str, int] = {}
    for layer, (_, bound) in zip(network.layers, parts, strict=True):
        if bits_for(bound) >= MAX_WIDTH:
            raise SparseGateError(
                f"layer {layer.name!r}: accumulators may reach {bound}, which {MAX_WIDTH - 1} bits cannot hold; "
                "the scales of its weights and inputs lie too far apart"
            )
        # one bit of margin, so that a fine-tuned Program usually fits the same netlist
        widths[layer.kind] = max(widths.get(layer.kind, 0), bits_for(bound) + 1)
    layers = []
    for layer, form, (fields, _) in zip(network.layers, formats, parts, strict=True):
        acc = QFormat(widths[layer.kind], fracs[layer.kind])
        layers.append(
            Layer(
                name=layer.name,
                kind=layer.kind,
                units=layer.units,
                when=layer.when,
                formats={**form, "acc": acc},
                step_bits=config.step_bits if cell(layer.kind).functions else 0,
                threshold=config.threshold if cell(layer.kind).recurrent else 0,
                **fields,  # type: ignore[arg-type]
            )
        )
    return Program(network.name, formats[0]["x"], tuple(layers), config.threshold, meta or {})


def _parts(layer: FloatLayer, form: dict[str, QFormat], frac: int) -> tuple[dict[str, object], int]:
    """Matrices and bias of a layer, and its accumulator bound."""
    gates = layer.gates
    block = common_block(layer.pattern_x, *(() if layer.w_h is None else (layer.pattern_h,)))
    raw_x = form["wx"].quantize(layer.w_x)
    matrix_x = Matrix.pack(raw_x, gates, block, layer.pattern_x.stored(block), f"layer {layer.name!r}: w_x")
    bias = np.floor(np.ldexp(layer.bias, frac) + 0.5)
    if np.abs(bias).max() >= 2.0 ** (MAX_WIDTH - 2):  # beyond what integers hold; whether it can run is seen later
        raise SparseGateError(
            f"layer {layer.name!r}: a bias of {np.abs(layer.bias).max():g} does not fit an accumulator with {frac} fractional bits;"
            " the weights are too small for it"
        )
    raw_bias = bias.astype(np.int64).reshape(gates, layer.units)
    terms = [(raw_x, form["x"], frac - form["x"].frac - form["wx"].frac)]
    matrix_h = None
    if layer.w_h is not None:
        raw_h = form["wh"].quantize(layer.w_h)
        matrix_h = Matrix.pack(raw_h, gates, block, layer.pattern_h.stored(block), f"layer {layer.name!r}: w_h")
        terms.append((raw_h, form["h"], frac - form["h"].frac - form["wh"].frac))
    fields = {"block": block, "matrix_x": matrix_x, "matrix_h": matrix_h, "bias": raw_bias}
    return fields, accumulator_bound(raw_bias, terms)


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
