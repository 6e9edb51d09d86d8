"""The golden model against a scalar model in plain Python integers that shares no code with it.

The scalar model takes the engine's route: accumulators that live from step to step and are moved by deltas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tests.sw.shapes import configs, recurrent, stacks

from sparsegate import golden
from sparsegate.cells import CELLS as KINDS
from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.passes import WHEN
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program, QuantizedLayer
from sparsegate.quantize import QuantizeConfig, quantize

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


Value = tuple[int, int]
"""A raw integer and its number of fractional bits."""


class Numbers:
    """What the cells' equations below are written with: exact sums and products, and the layer's tables and formats."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.form, self.step_bits = layer.formats, layer.step_bits

    @property
    def one(self) -> Value:
        return 1, 0

    def times(self, a: Value, b: Value) -> Value:
        return a[0] * b[0], a[1] + b[1]

    def plus(self, a: Value, b: Value, sign: int = 1) -> Value:
        frac = max(a[1], b[1])
        return a[0] * 2 ** (frac - a[1]) + sign * b[0] * 2 ** (frac - b[1]), frac

    def to(self, name: str, value: Value) -> Value:
        form = self.form[name]
        return clipped(rounded(value[0], value[1] - form.frac), form.width), form.frac

    def through(self, function: str, value: Value) -> Value:
        pre, gate = self.form["pre"], self.form["gate"]
        raw = clipped(rounded(value[0], value[1] - pre.frac), pre.width, True)
        return activation(function, raw, pre.frac, gate.frac, self.step_bits), gate.frac


State = dict[str, Value]
Equations = Callable[[Numbers, Mapping[str, Value], State, Mapping[str, Value]], Value]


def lstm(k: Numbers, acc: Mapping[str, Value], state: State, p: Mapping[str, Value]) -> Value:
    """Also with peepholes p, and with coupled gates, where there is no f."""
    i, c = acc["i"], state["c"]
    if "p_i" in p:
        i = k.plus(i, k.times(p["p_i"], c))
    i = k.through("sigmoid", i)
    if "f" in acc:
        f = k.plus(acc["f"], k.times(p["p_f"], c)) if "p_f" in p else acc["f"]
        f = k.through("sigmoid", f)
    else:
        f = k.plus(k.one, i, -1)
    state["c"] = k.to("c", k.plus(k.times(f, c), k.times(i, k.through("tanh", acc["g"]))))
    o = k.plus(acc["o"], k.times(p["p_o"], state["c"])) if "p_o" in p else acc["o"]
    return k.times(k.through("sigmoid", o), k.through("tanh", state["c"]))


def blend(k: Numbers, z: Value, n: Value, state: State) -> Value:
    state["s"] = k.to("s", k.plus(k.times(k.plus(k.one, z, -1), n), k.times(z, state["s"])))
    return state["s"]


def gru(k: Numbers, acc: Mapping[str, Value], state: State, p: Mapping[str, Value]) -> Value:
    r, z = (k.through("sigmoid", acc[name]) for name in "rz")
    return blend(k, z, k.through("tanh", k.plus(acc["n"], k.times(r, acc["n_h"]))), state)


def gru_reset(k: Numbers, acc: Mapping[str, Value], state: State, p: Mapping[str, Value]) -> Value:
    state["z"] = k.through("sigmoid", acc["z"])
    return k.times(k.through("sigmoid", acc["r"]), state["s"])


def gru_candidate(k: Numbers, acc: Mapping[str, Value], state: State, p: Mapping[str, Value]) -> Value:
    return blend(k, state["z"], k.through("tanh", acc["n"]), state)


def dense(name: str, activation: str = "") -> Equations:
    def equations(k: Numbers, acc: Mapping[str, Value], state: State, p: Mapping[str, Value]) -> Value:
        if activation == "relu":
            return max(0, acc[name][0]), acc[name][1]
        return k.through(activation, acc[name]) if activation else acc[name]

    return equations


# kind -> the phases of a step: what it gives, its gates, the vector that Wh multiplies in it, and its equations
CELLS: dict[str, list[tuple[str, str, str, Equations]]] = {
    "lstm": [("h", "ifgo", "h", lstm)],
    "lstm_peephole": [("h", "ifgo", "h", lstm)],
    "cifg": [("h", "igo", "h", lstm)],
    "cifg_peephole": [("h", "igo", "h", lstm)],
    "gru": [("h", "rzn", "h", gru)],
    "gru_reset_before": [("q", "rz", "h", gru_reset), ("h", "n", "q", gru_candidate)],
    "rnn_tanh": [("h", "a", "h", dense("a", "tanh"))],
    "rnn_relu": [("h", "a", "h", dense("a", "relu"))],
    "linear": [("h", "y", "", dense("y"))],
    "linear_relu": [("h", "y", "", dense("y", "relu"))],
    "linear_sigmoid": [("h", "y", "", dense("y", "sigmoid"))],
    "linear_tanh": [("h", "y", "", dense("y", "tanh"))],
}
Deltas = list[tuple[int, int]]


class Vector:
    """The values of a vector as they were last sent."""

    def __init__(self, thresholds: list[int]) -> None:
        self.hat, self.thresholds = [0] * len(thresholds), thresholds

    def deltas(self, values: list[int]) -> Deltas:
        triples = enumerate(zip(values, self.hat, self.thresholds, strict=True))
        moved = [(c, value - hat) for c, (value, hat, theta) in triples if abs(value - hat) > theta]
        for c, _ in moved:
            self.hat[c] = values[c]
        return moved


class Scalar:
    """A layer whose accumulators live from step to step."""

    def __init__(self, layer: QuantizedLayer, thresholds: list[int], start: dict[str, list[int]]) -> None:
        self.layer, self.k, form = layer, Numbers(layer), layer.formats
        self.phases = CELLS[layer.kind]
        self.gates = "".join(gates for _, gates, _, _ in self.phases)  # the order of the rows
        names = [*self.gates, "n_h"] if layer.kind == "gru" else [*self.gates]
        self.acc = {name: [int(b) for b in layer.bias[row]] for row, name in enumerate(names)}
        self.matrices = {"x": layer.w_x.tolist(), "h": [] if layer.w_h is None else layer.w_h.tolist()}
        self.p = layer.matrix_p and layer.matrix_p.dense(1, layer.outputs, layer.block_p).tolist()
        self.acc_p = [0] * layer.outputs
        self.shift = {
            key: form["acc"].frac - form[key].frac - form[f"w{key}"].frac for key in "xh" if f"w{key}" in form
        }
        self.outputs = [name for name, _, _, _ in self.phases]
        sizes = [layer.units] * len(self.outputs)
        if self.p:
            self.outputs[-1:] = ["m", "h"]
            sizes.append(layer.outputs)
        self.vectors = {
            name: Vector([theta] * size) for name, size, theta in zip(self.outputs, sizes, thresholds, strict=True)
        }
        self.states = [
            {key: (start[key][unit], form[key].frac) for key in start if key != "h"} for unit in range(layer.units)
        ]
        self.h = start.get("h", [])
        self.feedback: Deltas = []

    def column(self, matrix: str, gates: str, moved: Deltas) -> None:
        for row, gate in enumerate(self.gates):
            into = "n_h" if matrix == "h" and self.layer.kind == "gru" and gate == "n" else gate
            if gate in gates:
                for unit in range(self.layer.units):
                    weights = self.matrices[matrix][row * self.layer.units + unit]
                    self.acc[into][unit] += sum(weights[c] * delta * 2 ** self.shift[matrix] for c, delta in moved)

    def prime(self) -> Deltas:
        self.feedback = self.vectors["h"].deltas(self.h) if self.h else []
        return self.feedback

    def step(self) -> tuple[dict[str, list[int]], dict[str, Deltas]]:
        """What each phase gives, and what of it moved; the input's columns have been added before."""
        layer, form = self.layer, self.layer.formats
        values: dict[str, list[int]] = {}
        moved = {"h": self.feedback}
        for name, gates, seen, equations in self.phases:
            if seen:
                self.column("h", gates, moved[seen])
            given = "m" if self.p and name == "h" else name
            values[given] = []
            for unit in range(layer.units):
                acc = {gate: (sums[unit], form["acc"].frac) for gate, sums in self.acc.items()}
                constants = {key: (int(v[unit]), form["parameter"].frac) for key, v in layer.parameters.items()}
                result = equations(self.k, acc, self.states[unit], constants)
                values[given].append(self.k.to(given, result)[0])
            moved[given] = self.vectors[given].deltas(values[given])
        if self.p:
            frac = form["m"].frac + form["wp"].frac
            for unit, weights in enumerate(self.p):
                self.acc_p[unit] += sum(weights[c] * delta for c, delta in moved["m"]) * 2 ** (
                    form["acc_p"].frac - frac
                )
            values["h"] = [self.k.to("h", (value, form["acc_p"].frac))[0] for value in self.acc_p]
            moved["h"] = self.vectors["h"].deltas(values["h"])
        self.h, self.feedback = values["h"], moved["h"] if layer.cell.recurrent else []
        return values, moved

    @property
    def state(self) -> dict[str, list[int]]:
        return {"h": self.h} | {key: [unit[key][0] for unit in self.states] for key in self.layer.cell.states}


def scalar(
    program: Program, sequence: list[list[int]], thresholds: tuple[int, ...], start: dict
) -> tuple[list, list, dict]:
    """One sequence: outputs of every layer in order of time; for each pass the values, columns sent, x^ at the end and columns
    primed of its vectors; and the final states."""
    left, of_layer = list(thresholds[1:]), []
    for layer in program.layers:
        count = len(CELLS[layer.kind]) + (layer.matrix_p is not None)
        of_layer.append(left[:count])
        left = left[count:]
    theta = [thresholds[0], *(mine[-1] for mine in of_layer)]
    plain: list[list[list[int]]] = [sequence]
    runs, final = [], {}
    for this in program.passes:
        taken = list(this.sources)
        steps = len(sequence)
        source = [[value for vector in taken for value in plain[vector][t]] for t in range(steps)]
        if this.when != "step":
            steps, picked = 1, []
            for vector in taken:
                first = this.when == "final" and vector and program.layers[vector - 1].reverse
                picked += plain[vector][0 if first else -1]
            source = [picked]
        if this.reverse:
            source = source[::-1]
        vector = Vector([theta[v] for v in taken for _ in plain[v][0]])
        layers = [Scalar(program.layers[k], of_layer[k], start.get(program.layers[k].name, {})) for k in this.layers]
        values: list[list] = [[], *([] for layer in layers for _ in layer.outputs)]
        sent: list[list] = [[] for _ in values]
        primed: list[Deltas] = [[]]
        moved: Deltas = []
        for layer in layers:
            layer.column("x", layer.gates, moved)
            moved = layer.prime()
            primed += [[]] * (len(layer.outputs) - 1) + [moved]
        for t, row in enumerate(source):
            moved = vector.deltas(row)
            values[0].append(row)
            sent[0].append({c for c, _ in moved})
            at = 1
            for layer in layers:
                layer.column("x", layer.gates, moved)
                if layer.layer.when != "step" and t < steps - 1:
                    values[at].append([0] * layer.layer.units)
                    sent[at].append(set())
                    at, moved = at + 1, []
                    continue
                now, moves = layer.step()
                for name in layer.outputs:
                    values[at].append(now[name])
                    sent[at].append({c for c, _ in moves[name]})
                    at += 1
                moved = moves["h"]
        at = 0
        for layer in layers:
            at += len(layer.outputs)
            out = values[at][::-1] if this.reverse else values[at]
            plain.append([[0] * layer.layer.outputs] * (len(sequence) - len(out)) + out)
            if layer.layer.cell.recurrent:
                final[layer.layer.name] = layer.state
        held = [vector.hat, *(layer.vectors[name].hat for layer in layers for name in layer.outputs)]
        runs.append(list(zip(values, sent, held, [{c for c, _ in columns} for columns in primed], strict=True)))
    return plain[1:], runs, final


def check(
    program: Program,
    raw: np.ndarray,
    lengths: np.ndarray,
    thresholds: tuple[int, ...] | None = None,
    state: dict | None = None,
) -> golden.Trace:
    trace = golden.run(program, raw, lengths, thresholds, state=state)
    given = program.states(state, len(raw))
    for n, length in enumerate(lengths):
        start = {name: {key: value[n].tolist() for key, value in parts.items()} for name, parts in given.items()}
        outputs, runs, final = scalar(program, raw[n, :length].tolist(), thresholds or program.thresholds, start)
        for k, layer in enumerate(program.layers):
            assert trace.layers[k][n, :length].tolist() == outputs[k], (layer.name, n)
            assert not trace.layers[k][n, length:].any()
        assert {
            name: {key: value[n].tolist() for key, value in parts.items()} for name, parts in trace.state.items()
        } == final
        for found, expected in zip(trace.passes, runs, strict=True):
            steps = found.lengths[n]
            for stream, (values, _, _, primed) in zip(found.streams, expected, strict=True):
                assert stream.values[n, :steps].tolist() == values
                assert not stream.values[n, steps:].any()
                assert not stream.sent[n, steps:].any()
                assert set(np.flatnonzero(stream.primed[n])) == primed
            # which columns of a step that is not streamed moved, nobody counts
            streamed = 1 + sum(phase.when == found.of.when for phase in found.phases)
            for stream, (_, sent, held, _) in list(zip(found.streams, expected, strict=True))[:streamed]:
                assert [set(np.flatnonzero(row)) for row in stream.sent[n, :steps]] == sent
                assert stream.held[n].tolist() == held
    return trace


# --- the tests ---------------------------------------------------------------------------------------------------------


def made(seed: int, shapes: list[Shape], inputs: int = 4, gain: float = 2.0, **config) -> Program:
    network = synthetic.network(inputs, shapes, seed, gain)
    data = np.random.default_rng(seed).normal(size=(4, 6, inputs))
    return quantize(network, data, config=QuantizeConfig(**config))


@st.composite
def cases(draw, kind: str):
    """A Program whose first layer is of ``kind`` (or, of a head, its last), with input, lengths, thresholds and a state."""
    if cell(kind).recurrent:
        shapes = draw(stacks(kind))
    else:
        shapes = [draw(recurrent()), Shape(kind, draw(st.integers(1, 4)), when=draw(st.sampled_from(WHEN)))]
    seed, inputs = draw(st.integers(0, 1 << 20)), draw(st.integers(1, 6))
    network = synthetic.network(inputs, shapes, seed, draw(st.sampled_from([0.3, 2.0, 8.0])), draw(st.booleans()))
    data = np.random.default_rng(seed).normal(size=(4, 6, inputs))
    try:
        program = quantize(network, data, config=draw(configs))
    except SparseGateError:  # scales that integers cannot hold
        reject()
    count = len(program.vectors)
    thresholds = tuple(draw(st.lists(st.sampled_from([0, 0, 1, 2, 6]), min_size=count, max_size=count)))
    state = None
    if draw(st.booleans()):
        rng = np.random.default_rng(seed)
        state = program.quantize_state(
            {each.name: {key: rng.uniform(-1, 1, (3, size)) for key, size in each.carried.items()} for each in network.layers
             if each.carried},
            3,
        )  # fmt: skip
    lengths = np.array(draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)))
    raw = synthetic.stimulus(program.input_format, 3, 5, inputs, seed=draw(st.integers(0, 1 << 20)))
    return program, raw, lengths, thresholds, state


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_equals_the_scalar_model(kind, data):
    check(*data.draw(cases(kind)))


def test_every_kind_has_equations_here():
    assert set(CELLS) == set(KINDS)


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
    (term,) = layer.phases[0].terms
    acc = seen @ layer.w_x.T * 2**term.shift + layer.bias[0]
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if cell(kind).recurrent])
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 6), seed=st.integers(0, 99), bits=st.integers(4, 16))
def test_a_run_continues_another(kind, steps, seed, bits):
    """With Θ = 0 a state that is handed over is all that there is to know of the past."""
    shapes = [
        Shape(kind, 5, outputs=3 if cell(kind).projectable and seed % 2 else 0),
        Shape(kind, 4),
        Shape("linear", 2),
    ]
    program = made(seed, shapes, activation_bits=bits)
    raw = synthetic.stimulus(program.input_format, 3, 7, 4, seed)
    whole, first = golden.run(program, raw), golden.run(program, raw[:, :steps])
    rest = golden.run(program, raw[:, steps:], state=first.state)
    assert (np.concatenate([first.outputs, rest.outputs], axis=1) == whole.outputs).all()
    for name, parts in whole.state.items():
        for key, value in parts.items():
            assert (rest.state[name][key] == value).all()


def test_sequences_hand_over_where_each_of_them_ends():
    program = made(2, [Shape("gru", 5), Shape("lstm", 4)])
    raw, lengths = synthetic.stimulus(program.input_format, 3, 7, 4, 2), np.array([7, 2, 4])
    state = golden.run(program, raw, lengths).state
    for n, length in enumerate(lengths):
        alone = golden.run(program, raw[n : n + 1, :length]).state
        assert all((state[name][key][n] == alone[name][key][0]).all() for name in state for key in state[name])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if cell(kind).recurrent])
def test_an_encoder_hands_its_state_to_a_decoder(kind):
    """Two Programs with formats of their own: the state passes as real numbers, and comes within half an LSB."""
    encoder = made(1, [Shape(kind, 5)], inputs=4)
    decoder_float = synthetic.network(2, [Shape(kind, 5), Shape("linear", 3)], 2, 2.0)
    config = QuantizeConfig(activation_bits=10, state_bits=20)
    decoder = quantize(decoder_float, np.random.default_rng(3).normal(size=(4, 6, 2)), config=config)
    name = encoder.layers[0].name
    end = golden.run(encoder, synthetic.stimulus(encoder.input_format, 3, 6, 4, 1)).state
    real = encoder.real_state(end)
    state = decoder.quantize_state({decoder.layers[0].name: real[name]}, 3)
    for key, value in decoder.real_state(state)[decoder.layers[0].name].items():
        form = decoder.layers[0].formats["s" if kind.startswith("gru") and key == "h" else key]
        expected = np.clip(real[name][key], form.real(form.min), form.real(form.max))
        assert np.abs(value - expected).max() <= form.lsb / 2
    raw = synthetic.stimulus(decoder.input_format, 3, 5, 2, 4)
    decoder = decoder.with_thresholds(1)
    trace = check(decoder, raw, np.array([5, 2, 4]), None, state)
    assert (trace.outputs != golden.run(decoder, raw, np.array([5, 2, 4])).outputs).any()
    assert trace.passes[0].loaded


def test_an_initial_state_is_the_networks_where_none_is_given():
    network = synthetic.network(3, [Shape("lstm", 4)], 1, initial=True)
    program = quantize(network, np.random.default_rng(1).normal(size=(2, 4, 3)))
    raw = synthetic.stimulus(program.input_format, 2, 4, 3, 1)
    given = golden.run(program, raw, state=program.quantize_state(network.initial, 2))
    assert (golden.run(program, raw).outputs == given.outputs).all()
    assert (golden.run(program, raw, state={}).outputs != given.outputs).any()


def test_unchanged_inputs_are_not_sent():
    program = made(3, [Shape("lstm", 5)])
    raw = np.repeat(synthetic.stimulus(program.input_format, 2, 1, 4, seed=3), 6, axis=1)
    trace = golden.run(program, raw)
    sent = trace.streams[0].sent
    assert (sent[:, 0] == (raw[:, 0] != 0)).all()
    assert not sent[:, 1:].any()


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
    (np.zeros((1, 2, 4), int), {"thresholds": (0,)}, r"2 thresholds in 0\.\.65535 expected, for input, lstm0; found 0"),
    (
        np.zeros((1, 2, 4), int),
        {"thresholds": (0, -1)},
        r"2 thresholds in 0\.\.65535 expected, for input, lstm0; found 0, -1",
    ),
]


@pytest.mark.parametrize(("raw", "options", "message"), BAD)
def test_bad_input(raw, options, message):
    with pytest.raises(SparseGateError, match=message):
        golden.run(made(3, [Shape("lstm", 5)]), raw, **options)
