"""The golden model against a scalar model in plain Python integers that shares no code with it.

The scalar model takes the engine's route: accumulators that live from step to step and are moved by deltas.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsegate import golden, synthetic
from sparsegate.errors import SparseGateError
from sparsegate.pattern import NM
from sparsegate.program import Layer, Program
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.synthetic import Shape

# --- a scalar model ----------------------------------------------------------------------------------------------------


def rounded(value: int, shift: int) -> int:
    return value << -shift if shift <= 0 else (value + 2 ** (shift - 1)) // 2**shift


def clipped(value: int, width: int, symmetric: bool = False) -> int:
    top = 2 ** (width - 1) - 1
    return max(-top if symmetric else -top - 1, min(top, value))


@cache
def activation(name: str, raw: int, pre_frac: int, gate_frac: int, step_bits: int) -> int:
    def knot(segment: int) -> int:
        real = (segment * 2**step_bits) / 2**pre_frac
        return math.floor((math.tanh(real) if name == "tanh" else 1 / (1 + math.exp(-real))) * 2**gate_frac + 0.5)

    segment, within = divmod(abs(raw), 2**step_bits)
    value = knot(segment) + rounded((knot(segment + 1) - knot(segment)) * within, step_bits)
    if raw >= 0:
        return value
    return -value if name == "tanh" else 2**gate_frac - value


class Unit:
    """One unit of a layer, with its accumulators."""

    def __init__(self, layer: Layer, unit: int) -> None:
        self.layer, self.unit = layer, unit
        self.acc = [int(layer.bias[gate, unit]) for gate in range(layer.gates)]
        self.c = 0

    def column(self, matrix: str, column: int, delta: int) -> None:
        layer = self.layer
        weights, shift = (layer.w_x, layer.shift_x) if matrix == "x" else (layer.w_h, layer.shift_h)
        for gate in range(layer.gates):
            self.acc[gate] += int(weights[gate * layer.units + self.unit, column]) * (delta << shift)

    def finish(self) -> int:
        form = self.layer.formats
        acc, out = form["acc"].frac, form["h"]
        if self.layer.kind == "linear":
            return clipped(rounded(self.acc[0], acc - out.frac), out.width)
        pre, gate, state = form["pre"], form["gate"], form["c"]
        i, f, g, o = (
            activation(
                name,
                clipped(rounded(value, acc - pre.frac), pre.width, True),
                pre.frac,
                gate.frac,
                self.layer.step_bits,
            )
            for name, value in zip(("sigmoid", "sigmoid", "tanh", "sigmoid"), self.acc, strict=True)
        )
        # f c has gate + state fractional bits, i g has twice gate
        top = max(gate.frac + state.frac, 2 * gate.frac)
        total = (f * self.c << (top - gate.frac - state.frac)) + (i * g << (top - 2 * gate.frac))
        self.c = clipped(rounded(total, top - state.frac), state.width)
        narrow_c = clipped(rounded(self.c, state.frac - pre.frac), pre.width, True)
        tanh_c = activation("tanh", narrow_c, pre.frac, gate.frac, self.layer.step_bits)
        return clipped(rounded(o * tanh_c, 2 * gate.frac - out.frac), out.width)


class Vector:
    """The values of a vector as they were last sent."""

    def __init__(self, size: int, threshold: int) -> None:
        self.hat, self.threshold = [0] * size, threshold

    def deltas(self, values: list[int]) -> list[tuple[int, int]]:
        pairs = enumerate(zip(values, self.hat, strict=True))
        moved = [(c, value - hat) for c, (value, hat) in pairs if abs(value - hat) > self.threshold]
        for c, _ in moved:
            self.hat[c] = values[c]
        return moved


def scalar(program: Program, sequence: list[list[int]], thresholds: tuple[int, ...]) -> tuple[list, list, list]:
    """One sequence: outputs of every layer and step, the columns sent of every vector and step, and x^ at the end."""
    sizes = [program.inputs, *(layer.units for layer in program.layers)]
    vectors = [Vector(size, theta) for size, theta in zip(sizes, thresholds, strict=True)]
    units = [[Unit(layer, unit) for unit in range(layer.units)] for layer in program.layers]
    feedback: list[list[tuple[int, int]]] = [[] for _ in program.layers]
    outputs: list[list[list[int]]] = [[] for _ in program.layers]
    sent: list[list[set[int]]] = [[] for _ in vectors]
    for t, values in enumerate(sequence):
        moved = vectors[0].deltas(values)
        sent[0].append({c for c, _ in moved})
        for k, layer in enumerate(program.layers):
            for unit in units[k]:
                for column, delta in moved:
                    unit.column("x", column, delta)
                for column, delta in feedback[k]:
                    unit.column("h", column, delta)
            if layer.when == "last" and t < len(sequence) - 1:
                outputs[k].append([0] * layer.units)
                sent[k + 1].append(set())
                continue
            values = [unit.finish() for unit in units[k]]
            outputs[k].append(values)
            moved = vectors[k + 1].deltas(values)
            sent[k + 1].append({c for c, _ in moved})
            feedback[k] = moved if layer.cell.recurrent else []
    return outputs, sent, [vector.hat for vector in vectors]


def check(
    program: Program, raw: np.ndarray, lengths: np.ndarray, thresholds: tuple[int, ...] | None = None
) -> golden.Trace:
    trace = golden.run(program, raw, lengths, thresholds)
    for n, length in enumerate(lengths):
        outputs, sent, held = scalar(program, raw[n, :length].tolist(), thresholds or program.thresholds)
        for k, layer in enumerate(program.layers):
            assert trace.layers[k][n, :length].tolist() == outputs[k], (layer.name, n)
            assert not trace.layers[k][n, length:].any()
        for k, vector in enumerate(sent):
            if program.layers[k - 1].when == "last" and k:
                continue  # nothing takes its columns
            got = [set(np.flatnonzero(row)) for row in trace.sent[k][n, :length]]
            assert got == vector, (k, n)
            assert not trace.sent[k][n, length:].any()
            assert trace.held[k][n].tolist() == held[k]
    return trace


# --- the tests ---------------------------------------------------------------------------------------------------------


def made(seed: int, shapes: list[Shape], inputs: int = 4, gain: float = 2.0, **config) -> Program:
    network = synthetic.network(inputs, shapes, seed, gain)
    data = np.random.default_rng(seed).normal(size=(4, 6, inputs))
    return quantize(network, data, config=QuantizeConfig(**config))


patterns = st.sampled_from([NM(1, 1), NM(1, 4), NM(2, 4), NM(3, 4), NM(1, 8)])


@st.composite
def programs(draw) -> Program:
    depth = draw(st.integers(1, 2))
    shapes = [Shape("lstm", draw(st.integers(1, 9)), draw(patterns), draw(patterns)) for _ in range(depth)]
    if draw(st.booleans()):
        shapes.append(Shape("linear", draw(st.integers(1, 4)), when=draw(st.sampled_from(["step", "last"]))))
    return made(
        draw(st.integers(0, 1 << 20)),
        shapes,
        inputs=draw(st.integers(1, 6)),
        gain=draw(st.sampled_from([0.3, 2.0, 8.0])),
        activation_bits=draw(st.integers(4, 16)),
        weight_bits=draw(st.integers(2, 16)),
        state_bits=draw(st.sampled_from([6, 12, 16, 24])),
        table_bits=draw(st.sampled_from([4, 8, 11])),
        output_bits=draw(st.sampled_from([4, 16, 32])),
    )


@settings(max_examples=60, deadline=None)
@given(programs(), st.data())
def test_equals_the_scalar_model(program, data):
    thresholds = tuple(
        data.draw(st.lists(st.integers(0, 6), min_size=len(program.layers) + 1, max_size=len(program.layers) + 1))
    )
    raw = synthetic.stimulus(program.input_format, 3, 5, program.inputs, seed=data.draw(st.integers(0, 1 << 20)))
    lengths = np.array(data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)))
    check(program, raw, lengths, thresholds)


def test_equals_the_scalar_model_on_real_data(trained, vowels):
    program = quantize(trained, vowels.x_train, vowels.length_train).with_thresholds(1)
    raw = program.quantize(vowels.x_test[:4])
    check(program, raw, vowels.length_test[:4])


def test_threshold_zero_is_the_plain_lstm():
    """With nothing held back x^ is x: b + W x, whatever was sent."""
    program = made(3, [Shape("lstm", 5), Shape("linear", 2)])
    raw = synthetic.stimulus(program.input_format, 2, 6, 4, seed=3)
    trace = golden.run(program, raw)
    layer, seen = program.layers[1], trace.layers[0]
    acc = seen @ layer.w_x.T * 2**layer.shift_x + layer.bias[0]
    shift = layer.formats["acc"].frac - layer.formats["h"].frac
    assert trace.outputs.tolist() == [
        [[clipped(rounded(v, shift), 16) for v in row] for row in rows] for rows in acc.tolist()
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_every_bit_of_a_wide_accumulator_counts(bits):
    """An output so wide that nothing is dropped shows whether sums were exact, below 2**24 and far beyond."""
    program = made(1, [Shape("linear", 3)], activation_bits=bits, weight_bits=bits, output_bits=32)
    layer = program.layers[0]
    assert layer.formats["h"].frac >= layer.formats["acc"].frac
    assert (layer.bound > golden.FLOAT32_EXACT) == (bits > 8)
    check(program, synthetic.stimulus(program.input_format, 4, 8, 4, seed=1), np.array([8, 8, 8, 3]))


def test_unchanged_inputs_are_not_sent():
    program = made(3, [Shape("lstm", 5)])
    raw = np.repeat(synthetic.stimulus(program.input_format, 2, 1, 4, seed=3), 6, axis=1)
    trace = golden.run(program, raw)
    assert (trace.sent[0][:, 0] == (raw[:, 0] != 0)).all()
    assert not trace.sent[0][:, 1:].any()


def test_a_batch_is_its_sequences():
    program = made(5, [Shape("lstm", 6, NM(1, 2), NM(1, 2)), Shape("linear", 3)])
    raw = synthetic.stimulus(program.input_format, 4, 7, 4, seed=5)
    lengths = np.array([7, 1, 4, 6])
    whole = golden.run(program, raw, lengths, thresholds=(1, 2, 3))
    for n, length in enumerate(lengths):
        alone = golden.run(program, raw[n : n + 1, :length], thresholds=(1, 2, 3))
        assert (whole.outputs[n, :length] == alone.outputs[0]).all()
        assert (whole.last[n] == alone.last[0]).all()


def test_what_stands_past_the_end_does_not_matter():
    program = made(5, [Shape("lstm", 6), Shape("linear", 3, when="last")])
    raw = synthetic.stimulus(program.input_format, 3, 7, 4, seed=5)
    lengths = np.array([7, 1, 4])
    garbage = np.where(np.arange(7)[None, :, None] < lengths[:, None, None], raw, 10**9)
    assert (golden.run(program, garbage, lengths).outputs == golden.run(program, raw, lengths).outputs).all()


def test_saturations_are_counted():
    """Against a count of the values that an observer sees; past a sequence's end nothing counts."""
    program = made(7, [Shape("lstm", 6)], gain=30.0)
    raw = np.full((2, 5, 4), program.input_format.max)
    lengths = np.array([5, 2])
    trace = golden.run(program, raw, lengths, saturations=True)
    pre = program.layers[0].formats["pre"]
    seen = dict.fromkeys("ifgo", 0)

    def observe(layer, t, site, value):
        if site in seen:
            running = value.raw[lengths > t]
            seen[site] += int(np.count_nonzero(np.abs(running) == pre.max))

    golden.run(program, raw, lengths, observe=observe)
    counts = trace.saturations["lstm0"]
    assert set(counts) == {"i", "f", "g", "o", "c", "tanh_c", "h"}
    assert 0 < sum(counts[site] for site in "ifgo") <= sum(seen.values())
    assert golden.run(program, raw, lengths).saturations == {}
    assert (golden.run(program, raw, lengths).outputs == trace.outputs).all()


def test_inputs_outside_of_the_calibrated_range_saturate():
    program = made(3, [Shape("lstm", 5)])
    top = program.input_format.real(program.input_format.max)
    assert (program.quantize([[[99.0] * 4]]) == program.input_format.max).all()
    assert program.input_format.saturated([99.0, -99.0, 0.0, top]) == 2


BAD = [
    (np.zeros((1, 2, 4)), {}, r"takes integers, not float64; use Program.quantize first"),
    (np.zeros((1, 2, 3), int), {}, r"x has shape \(1, 2, 3\), expected \(N, T, 4\)"),
    (np.full((1, 2, 4), 128), {}, r"raw inputs lie in 128\.\.128, but s8f\d+ holds -128\.\.127"),
    (np.zeros((1, 2, 4), int), {"lengths": [3]}, r"lengths lie in 3\.\.3"),
    (np.zeros((1, 2, 4), int), {"thresholds": (0,)}, r"2 thresholds in 0\.\.65535 expected, found 0"),
    (np.zeros((1, 2, 4), int), {"thresholds": (0, -1)}, r"2 thresholds in 0\.\.65535 expected, found 0, -1"),
]


@pytest.mark.parametrize(("raw", "options", "message"), BAD)
def test_bad_input(raw, options, message):
    with pytest.raises(SparseGateError, match=message):
        golden.run(made(3, [Shape("lstm", 5)]), raw, **options)
