"""Fake-quantization gives exactly the golden model's integers, and gradients that train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tests.sw.shapes import configs, stacks

from sparsegate import golden, pattern, quantize
from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate.quantize.calibration import Levels
from sparsegate.training.fake_quant import FakeQuant, _together
from sparsegate.training.torch_arithmetic import TorchArithmetic, narrow, narrow_weight
from sparsegate.training.trainable import Trainable


def module(network, x, lengths=None, config=None) -> FakeQuant:
    config = config or QuantizeConfig()
    return FakeQuant(network, quantize.choose_formats(network, quantize.calibrate(network, x, lengths), config), config)


def check(made: FakeQuant, x: np.ndarray, lengths: np.ndarray | None = None, state=None) -> None:
    """Every output of every layer at every step, as integers."""
    program = made.program()
    raw = None if state is None else program.quantize_state(state, len(x))
    trace = golden.run(program, program.quantize(x), lengths, state=raw)
    valid = np.arange(x.shape[1])[None, :] < trace.lengths[:, None]
    with torch.no_grad():
        outputs = made.trace(torch.from_numpy(x), lengths, state)
        whole = made(torch.from_numpy(x), lengths, state).numpy()
    for layer, values, expected in zip(program.layers, outputs, trace.layers, strict=True):
        integers = values.numpy() * 2.0 ** layer.formats["h"].frac
        assert (integers[valid] == expected[valid]).all(), layer.name
    assert (whole[valid] * 2.0**program.output_format.frac == trace.outputs[valid]).all()


def test_equals_golden_on_the_whole_test_set(trained, vowels):
    made = module(trained, vowels.x_train, vowels.length_train)
    check(made, vowels.x_test, vowels.length_test)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 1 << 20),
    stacks(depth=3),
    configs,
    st.sampled_from([0.5, 3.0, 20.0]),
    st.lists(st.sampled_from([0, 0, 1, 3]), min_size=20, max_size=20),
    st.sampled_from(["zero", "network", "given"]),
)
def test_equals_golden_on_random_programs(seed, shapes, config, gain, thresholds, start):
    """Every kind, direction and projection, thresholds of its own for each vector, interpolated tables, saturation everywhere."""
    network = synthetic.network(4, shapes, seed, gain, initial=start != "zero")
    x = np.random.default_rng(seed).normal(size=(3, 6, 4))
    try:
        made = module(network, x / 2, config=config)
    except SparseGateError:  # magnitudes that are refused, here or by the Program
        reject()
    made.thresholds = tuple(thresholds[: len(made.thresholds)])
    rng = np.random.default_rng(seed + 1)
    state = None
    if start == "given":
        state = {
            layer.name: {key: rng.uniform(-1, 1, (3, size)) for key, size in layer.carried.items()}
            for layer in network.layers
            if layer.carried
        }
    check(made, x, np.array([6, 3, 1]), state)


@st.composite
def narrow_configs(draw, matrices: list[str]) -> QuantizeConfig:
    """Widths of single matrices, levels, every calibration and preparation."""
    named = st.lists(st.sampled_from(matrices), unique=True, max_size=3)
    bits = {name: draw(st.integers(2, 16)) for name in draw(named)}
    levels = {name: draw(st.sampled_from([3, 5, 7, 33])) for name in draw(named) if name not in bits}
    return QuantizeConfig(
        activation_bits=draw(st.integers(4, 10)),
        weight_bits=draw(st.integers(2, 6)),
        weight_levels=draw(st.sampled_from([None, 3, 5, 9])),
        matrix_bits=bits,
        matrix_levels=levels,
        calibration=draw(st.sampled_from(["min-max", "percentile", "mse"])),
        percentile=draw(st.sampled_from([90.0, 99.9])),
        rounding=draw(st.sampled_from(["nearest", "compensated"])),
        bias_correction=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 20),
    stacks(depth=2),
    st.data(),
    st.lists(st.sampled_from([0, 0, 1, 3]), min_size=20, max_size=20),
)
def test_equals_golden_with_every_preparation(seed, shapes, data, thresholds):
    """Before and after weights are pushed out of their ranges, as training may do."""
    network = synthetic.network(4, shapes, seed, 2.0)
    keys = {"wx": "w_x", "wh": "w_h", "wp": "w_p"}
    matrices = [
        f"{layer.name}.{key}"
        for layer in network.layers
        for key, name in keys.items()
        if getattr(layer, name) is not None
    ]
    config = data.draw(narrow_configs(matrices))
    x = np.random.default_rng(seed).normal(0.3, 1, size=(3, 6, 4))
    lengths = np.array([6, 3, 1])
    try:
        made = FakeQuant(*quantize.prepare(network, x / 2, lengths, config), config, data.draw(st.booleans()))
    except SparseGateError:
        reject()
    made.thresholds = tuple(thresholds[: len(made.thresholds)])
    check(made, x, lengths)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    check(made, x, lengths)
    for layer in made.program().layers:
        for key, raw in (("wx", layer.w_x), ("wh", layer.w_h)):
            form = config.weight_format(f"{layer.name}.{key}")
            assert raw is None or (form.min <= raw.min() and raw.max() <= form.max)


@pytest.mark.parametrize("when", ["last", "final"])
def test_a_head_of_two_directions(when):
    """The backward layer's final value is that of the first step, its last value that of the last."""
    network = synthetic.network(4, [Shape("lstm", 5, both=True), Shape("linear", 3, when=when)], 1, 3.0)
    x = np.random.default_rng(0).normal(size=(3, 6, 4))
    check(module(network, x), x, np.array([6, 3, 1]))


def test_wide_intermediates_are_refused():
    """Sums that float64 does not hold exactly; the golden model has 63 bits for them."""
    network = synthetic.network(300, [Shape("gru", 300)], seed=0, gain=30.0)
    config = QuantizeConfig(activation_bits=16, weight_bits=16, gate_bits=18)
    with pytest.raises(SparseGateError, match="layer 'gru0': an intermediate of the cell may reach .* beyond 2"):
        module(network, np.random.default_rng(0).normal(size=(1, 2, 300)), config=config)


def test_equals_golden_after_training(trained, vowels):
    """The Program is built from the trained weights with the same formats."""
    made = module(trained, vowels.x_train, vowels.length_train)
    before = made.program().digest
    x, y = torch.from_numpy(vowels.x_train), torch.from_numpy(vowels.y_train)
    last = torch.from_numpy(vowels.length_train) - 1
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(made(x)[torch.arange(len(y)), last], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert made.program().digest != before
    check(made, vowels.x_test[:40], vowels.length_test[:40])


def test_patterns_survive_training():
    network = synthetic.network(4, [Shape("lstm", 8, NM(2, 8), NM(1, 4)), Shape("linear", 2)], seed=1)
    made = module(network, np.random.default_rng(0).normal(size=(3, 5, 4)))
    optimizer = torch.optim.AdamW(made.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        made(torch.randn(3, 5, 4)).square().sum().backward()
        optimizer.step()
    layer = made.network().layers[0]
    NM(2, 8).check(layer.w_x, 4, "w_x")
    NM(1, 4).check(layer.w_h, 4, "w_h")
    assert not (layer.w_x == network.layers[0].w_x).all()


def test_zeros_are_held_where_asked_for():
    """A network pruned to a pattern that the hardware does not know."""
    network = synthetic.network(4, [Shape("lstm", 8), Shape("linear", 2)], seed=1)
    layer = network.layers[0]
    keep = pattern.parse("unstructured:1/4").mask(layer.w_h, 4)
    network = network.with_layers([replace(layer, w_h=np.where(keep, layer.w_h, 0.0)), network.layers[1]])
    x, config = np.random.default_rng(0).normal(size=(3, 5, 4)), QuantizeConfig(weight_bits=3)
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), config)
    for hold in (False, True):
        made = FakeQuant(network, formats, config, hold_zeros=hold)
        optimizer = torch.optim.AdamW(made.parameters(), 0.1)
        for _ in range(3):
            made(torch.randn(3, 5, 4)).square().sum().backward()
            optimizer.step()
        found = made.network().layers[0].w_h
        assert (not found[~keep].any()) == hold
        assert (found[keep] != 0).all()
        check(made, x)


def test_weights_that_compensation_rounds_to_zero_are_free():
    """Only what pruning removed is held: with two bits many of the others start at 0."""
    network = synthetic.network(4, [Shape("lstm", 8, NM(2, 4), NM(2, 4)), Shape("linear", 2)], seed=1)
    x, config = np.random.default_rng(0).normal(size=(9, 5, 4)), QuantizeConfig(weight_bits=2, rounding="compensated")
    start, formats = quantize.prepare(network, x, None, config)
    kept = network.layers[0].w_h != 0
    assert (start.layers[0].w_h[kept] == 0).any()
    made = FakeQuant(start, formats, config, pruned=network)
    optimizer = torch.optim.Adam(made.parameters(), 0.1)
    made(torch.randn(3, 5, 4)).square().sum().backward()
    optimizer.step()
    found = made.network().layers[0].w_h
    assert not found[~kept].any()
    assert (found[kept] != 0).all()
    check(made, x)


@pytest.mark.parametrize("limits", [QFormat(3, 1), Levels(3, 1, 2)])
def test_gradients_of_weights_lead_back_into_the_range(limits):
    """A step against the gradient: what pushes a weight further out is stopped, what brings it back is not."""
    weights = torch.tensor([0.3, 5.0, 5.0, -5.0, -5.0], dtype=torch.float64, requires_grad=True)
    narrowed = narrow_weight(weights, limits)
    assert narrowed.tolist() == [0.5, *[limits.max / 2] * 2, *[limits.min / 2] * 2]
    narrowed.backward(torch.tensor([1.0, 2.0, -2.0, 3.0, -3.0], dtype=torch.float64))
    assert weights.grad.tolist() == [1, 2, 0, 0, -3]


@pytest.mark.parametrize("bits", [2, 3])
def test_few_bits_train(trained, vowels, bits):
    """The loss falls, and the Program has the integers of the last forward."""
    config = QuantizeConfig(weight_bits=bits, calibration="mse")
    made = FakeQuant(*quantize.prepare(trained, vowels.x_train, vowels.length_train, config), config)
    x, y = torch.from_numpy(vowels.x_train), torch.from_numpy(vowels.y_train)
    last = torch.from_numpy(vowels.length_train) - 1
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(made(x)[torch.arange(len(y)), last], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    check(made, vowels.x_test[:40], vowels.length_test[:40])


@pytest.mark.parametrize(
    ("kind", "number", "functions"),
    [
        ("lstm", 0, ("sigmoid", "sigmoid", "tanh", "sigmoid")),
        ("cifg", 0, ("sigmoid", "tanh", "sigmoid")),
        ("gru_reset_before", 0, ("sigmoid", "sigmoid")),
        ("gru_reset_before", 1, ("tanh",)),
        ("lstm_peephole", 0, ()),
        ("rnn_relu", 0, ()),
    ],
)
def test_gates_that_are_looked_up_at_once(kind, number, functions):
    """Those that go through a table as they are; a peephole is added to the others first."""
    assert _together(cell(kind).phases[number]) == functions


def test_a_table_passes_no_gradient_where_its_input_saturates():
    formats = {"pre": QFormat(6, 2), "gate": QFormat(10, 8)}  # -7.75..7.75
    value = torch.tensor([-8.0, -7.75, 0.0, 7.75, 7.9, 100.0], dtype=torch.float64, requires_grad=True)
    found = TorchArithmetic(formats, 0, {}, {}, {}).lookup("tanh", value)
    found.sum().backward()
    assert found.tolist() == [-1, -1, 0, 1, 1, 1]
    assert (value.grad != 0).tolist() == [False, True, True, True, False, False]


def test_narrow_passes_gradients_inside_and_stops_them_outside():
    value = torch.tensor([0.3, 5.0, -5.0, 0.49], dtype=torch.float64, requires_grad=True)
    narrowed = narrow(value, QFormat(4, 1))  # -4..3.5 in halves
    assert narrowed.tolist() == [0.5, 3.5, -4.0, 0.5]
    narrowed.sum().backward()
    assert value.grad.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_lookup_has_the_gradient_of_the_real_function(name):
    formats = {"pre": QFormat(12, 8), "gate": QFormat(10, 8)}
    value = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    found = TorchArithmetic(formats, 0, {}, {}, {}).lookup(name, value)
    (got,) = torch.autograd.grad(found.sum(), value)
    (expected,) = torch.autograd.grad(getattr(torch, name)(value).sum(), value)
    torch.testing.assert_close(got, expected)
    assert (found - getattr(torch, name)(value)).abs().max() <= 0.5 / 256


def test_with_wide_formats_gradients_are_those_of_the_float_network():
    network = synthetic.network(3, [Shape("lstm", 5), Shape("linear", 2)], seed=4)
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 4, 3)))
    made = module(network, x.numpy(), config=QuantizeConfig(activation_bits=16, weight_bits=16, state_bits=24))
    plain = Trainable(network).double()
    for model in (made, plain):
        model(x).square().sum().backward()
    for got, expected in [
        (made.layers[0].w_h, plain.parts[0].weight_hh_l0),
        (made.layers[0].bias, plain.parts[0].bias_ih_l0),
        (made.layers[1].w_x, plain.parts[1].weight),
    ]:
        torch.testing.assert_close(got.grad, expected.grad, rtol=0.01, atol=0.01)


def test_runs_on_the_cpu_alone():
    network = synthetic.network(3, [Shape("lstm", 4)], seed=0)
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    config = QuantizeConfig()
    start, formats = quantize.prepare(network, x, np.full(2, 3), config)
    with pytest.raises(SparseGateError, match="exact integers run on the CPU, and the inputs are on meta"):
        FakeQuant(start, formats, config)(torch.zeros(1, 2, 3, device="meta"))
