"""Quantization: choose formats, round weights, build a Program. Needs numpy only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.numerics.fixed import MAX_WIDTH, QFormat, bits_for, frac_for
from sparsegate.pattern import NM, common_block
from sparsegate.program import ACTIVATION_BITS, FRACS, Matrix, Program, QuantizedLayer
from sparsegate.quantize import compensate
from sparsegate.quantize.calibration import (
    METHODS,
    Calibration,
    Histogram,
    Levels,
    Method,
    calibrate,
    of_weights,
    weights_of,
)

Rounding = Literal["nearest", "compensated"]
MATRIX_KEYS = ("wx", "wh", "wp")
"""Formats of a layer's matrices; ``matrix_bits`` and ``matrix_levels`` name them as "layer.wx"."""
MOST_LEVELS = (1 << 16) - 1


@dataclass(frozen=True)
class QuantizeConfig:
    """Bit widths and thresholds of a quantization.

    ``activation_bits``: input x and every h that feeds columns, 4..16; ``input_bits``: of x alone, where it needs others.
    ``weight_bits``: 2..16. ``gate_bits``: gates and tanh, default activation_bits + 2, of which all but two are fractional so
    that 0 and 1 are exact. ``pre_bits``: input of the activation tables, default min(activation_bits + 4, 16), range -8..8.
    ``state_bits``: cell state. ``output_bits``: a final layer that feeds nothing. ``table_bits``: address bits of a table; wider
    pre-activations are interpolated. ``threshold``: default Θ, in LSBs, of the input and of every vector that a recurrent layer
    gives.

    ``matrix_bits``: bits of single matrices, such as ``{"lstm.wh": 4, "fc.wx": 8}``; the others have ``weight_bits``.
    ``weight_levels``: an odd number of levels (3, 5, 7 ...) that all weights of matrices are rounded to, and ``matrix_levels``
    the same for single ones. A weight w becomes clip(round(w / r), -(levels - 1) / 2, (levels - 1) / 2) r. With five levels these
    are the low-precision weights of binary-gate LSTMs (Li et al., ICML 2018: round to r = 0.2, then clip to c = 0.4), but r is a
    power of two here, as every scale is (0.25 and not 0.2), chosen for each matrix by the smallest squared error.

    ``calibration`` says how the fractional bits of inputs, states, unbounded outputs and weights are chosen: "min-max", so that
    nothing seen saturates; "percentile", so that ``percentile`` per cent of the magnitudes do not (Wu et al. 2020 compare these);
    "mse", by the smallest squared error of rounding and saturation together (as Banner et al. 2019 choose a clipping value).
    ``rounding``: each weight to the nearest, or "compensated" (``sparsegate.quantize.compensate.compensate``).
    ``bias_correction``: take from the biases what rounding the weights adds to mean pre-activations
    (``sparsegate.quantize.compensate.correct_bias``).
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
    input_bits: int | None = None
    matrix_bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    weight_levels: int | None = None
    matrix_levels: Mapping[str, int] = field(default_factory=dict, hash=False)
    calibration: Method = "min-max"
    percentile: float = 99.99
    rounding: Rounding = "nearest"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("activation_bits", 4, 16),
            ("weight_bits", 2, 16),
            ("state_bits", 4, 24),
            ("output_bits", 4, 32),
            ("table_bits", 3, 15),
            ("gate_bits", 4, 18),
            ("pre_bits", 6, 16),
            ("input_bits", 4, 16),
            ("operand_bits", max(self.activation_bits, self.input_bits or 0) + 1, 64),
        ):
            value = getattr(self, name)
            if value is not None and (not _integer(value) or not low <= value <= high):
                raise SparseGateError(f"{name} is {value}, expected {low} to {high}")
        if not _integer(self.threshold) or self.threshold < 0:
            raise SparseGateError(f"threshold is {self.threshold}, expected 0 or more LSBs")
        for name, bits in self.matrix_bits.items():
            if not _integer(bits) or not 2 <= bits <= 16:
                raise SparseGateError(f"matrix_bits of {name!r} is {bits!r}, expected 2 to 16")
            if name in self.matrix_levels:
                raise SparseGateError(f"matrix {name!r} is given both bits and levels, expected one of them")
        levels = {f"matrix_levels of {name!r}": count for name, count in self.matrix_levels.items()}
        for name, count in (
            levels if self.weight_levels is None else {"weight_levels": self.weight_levels} | levels
        ).items():
            if not _integer(count) or not 3 <= count <= MOST_LEVELS or count % 2 == 0:
                raise SparseGateError(f"{name} is {count!r}, expected an odd number from 3 to {MOST_LEVELS}")
        for name, known in (("calibration", METHODS), ("rounding", get_args(Rounding))):
            if getattr(self, name) not in known:
                raise SparseGateError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not 50 <= self.percentile <= 100:
            raise SparseGateError(f"percentile is {self.percentile}, expected 50 to 100")

    def weight_format(self, matrix: str) -> QFormat:
        """Width, and levels, of a matrix ("lstm.wx"); its fraction is chosen later."""
        levels = self.matrix_levels.get(matrix, None if matrix in self.matrix_bits else self.weight_levels)
        if levels is None:
            return QFormat(self.matrix_bits.get(matrix, self.weight_bits), 0)
        return Levels(bits_for(levels // 2), 0, levels // 2)

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


def _integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


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
    _fit_operands(network, chosen, config)
    _check_fracs(network, chosen)
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


def _check_fracs(network: Network, chosen: Sequence[dict[str, QFormat]]) -> None:
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
                form[w] = replace(form[w], frac=form[w].frac - excess)


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


def _accs(formats: Mapping[str, QFormat]) -> list[str]:
    """Accumulator formats that a layer needs."""
    return ["acc", "acc_p"] if "wp" in formats else ["acc"]


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
        _fit_operands(network, fitted, config)
        if fitted != formats:  # finer weights than the multiplier allows were chosen
            made, formats = compensate.compensate(network, fitted, x, lengths, finer=0)
        _check_fracs(network, formats)
    if config.bias_correction:
        made = compensate.correct_bias(made, formats, x, lengths, network)
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
