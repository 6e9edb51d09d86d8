"""Calibration, formats and rounding of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate import golden, synthetic
from sparsegate.errors import SparseGateError
from sparsegate.fixed import QFormat
from sparsegate.network import Layer, Network
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig, build, calibrate, choose_formats, quantize
from sparsegate.synthetic import Shape

NETWORK = synthetic.network(
    4, [Shape("lstm", 8, NM(2, 8), NM(2, 4)), Shape("lstm", 5), Shape("linear", 3)], seed=1, gain=2.0
)
X = np.random.default_rng(0).normal(size=(5, 7, 4))


def test_defaults():
    config = QuantizeConfig()
    assert (config.gate, config.pre, config.step_bits) == (QFormat(10, 8), QFormat(12, 8), 0)
    assert QuantizeConfig(activation_bits=16).pre == QFormat(16, 12)
    assert QuantizeConfig(activation_bits=16).step_bits == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation_bits": 3}, "activation_bits is 3, expected 4 to 16"),
        ({"weight_bits": 1}, "weight_bits is 1, expected 2 to 16"),
        ({"weight_bits": 17}, "weight_bits is 17"),
        ({"state_bits": 30}, "state_bits is 30"),
        ({"output_bits": 2}, "output_bits is 2"),
        ({"table_bits": 16}, "table_bits is 16"),
        ({"threshold": -1}, "threshold is -1"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(SparseGateError, match=message):
        QuantizeConfig(**fields)


def test_calibration_sees_only_real_steps():
    lengths = np.array([7, 3, 1, 7, 5])
    garbage = np.where(np.arange(7)[None, :, None] < lengths[:, None, None], X, 1e6)
    assert calibrate(NETWORK, garbage, lengths) == calibrate(NETWORK, np.where(garbage == 1e6, 0, X), lengths)
    assert calibrate(NETWORK, X).input == np.abs(X).max()


def test_nothing_saturates_on_the_calibration_data_but_the_tables_input():
    program = quantize(NETWORK, X)
    trace = golden.run(program, program.quantize(X), saturations=True)
    for layer in program.layers:
        for site in layer.sites:
            if layer.kind == "linear" or site == "c":
                assert trace.saturations[layer.name][site] <= 2, (layer.name, site)


def test_formats_chain_and_kinds_share_their_pipeline():
    first, second, head = quantize(NETWORK, X).layers
    assert second.formats["x"] == first.formats["h"] == QFormat(8, 7)
    assert head.formats["x"] == second.formats["h"]
    for name in ("acc", "pre", "gate", "c"):
        assert first.formats[name] == second.formats[name]
    assert head.formats["h"].width == 16


def test_weights_are_rounded_to_the_nearest():
    program = quantize(NETWORK, X)
    for layer, source in zip(program.layers, NETWORK.layers, strict=True):
        assert np.abs(layer.formats["wx"].real(layer.w_x) - source.w_x).max() <= layer.formats["wx"].lsb / 2
        bias = layer.formats["acc"].real(layer.bias).reshape(-1)
        assert np.abs(bias - source.bias).max() <= layer.formats["acc"].lsb / 2


def test_blocks_are_common_to_both_matrices():
    first, second, head = quantize(NETWORK, X).layers
    assert (first.block, first.matrix_x.entries, first.matrix_h.entries) == (8, 2, 4)
    assert (second.block, second.matrix_x.entries, second.matrix_h.entries) == (1, 1, 1)
    assert head.block == 1
    layers = [replace(NETWORK.layers[0], pattern_x=DENSE), *NETWORK.layers[1:]]
    assert quantize(NETWORK.with_layers(layers), X).layers[0].matrix_x.entries == 4


@given(st.integers(4, 16), st.integers(2, 16), st.integers(0, 50))
def test_any_widths_build_a_valid_program(activation_bits, weight_bits, seed):
    network = synthetic.network(
        3, [Shape("lstm", 4, NM(1, 2), NM(1, 4)), Shape("linear", 2)], seed, gain=10.0 ** (seed % 5 - 2)
    )
    config = QuantizeConfig(activation_bits, weight_bits)
    data = X[:, :, :3] * 10.0 ** (seed % 7 - 3)
    formats = choose_formats(network, calibrate(network, data), config)
    program = build(network, formats, config)  # validated at birth
    assert program.layers[0].formats["wx"].width == weight_bits
    assert program.input_format.width == activation_bits


def test_an_all_zero_matrix():
    layers = list(NETWORK.layers)
    layers[0] = replace(layers[0], w_x=np.zeros_like(layers[0].w_x))
    program = quantize(NETWORK.with_layers(layers), X)
    assert not program.layers[0].w_x.any()


def test_constant_zero_input():
    program = quantize(NETWORK, np.zeros((1, 2, 4)))
    assert program.input_format == QFormat(8, 7)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"x": 1e-30}, "layer 'lstm0': x would need 1.. fractional bits, expected -64 to 64; its values are too small"),
        ({"w_x": 1e-30, "w_h": 1e-30}, "layer 'lstm0': wx would need 1.. fractional bits"),
        ({"w_x": 1e-9, "w_h": 1e-9, "bias": 1e9}, "a bias of .* does not fit an accumulator with .. fractional bits"),
    ],
)
def test_scales_that_integers_cannot_hold(scale, message):
    x = X * scale.get("x", 1)
    layers = [
        replace(layer, **{key: getattr(layer, key) * value for key, value in scale.items() if key != "x"})
        for layer in NETWORK.layers[:2]
    ]
    with pytest.raises(SparseGateError, match=message):
        quantize(NETWORK.with_layers([*layers, NETWORK.layers[2]]), x)


def test_an_output_of_several_layers_holds_the_largest_of_them():
    """A head that reaches 9 beside an LSTM that reaches 1: the common format must hold both, and lose no bit that one had."""
    rng = np.random.default_rng(0)
    lstm = Layer("lstm", "lstm", rng.normal(size=(8, 3)), rng.normal(size=(8, 2)), np.zeros(8))
    head = Layer("fc", "linear", 5 * rng.normal(size=(2, 2)), None, np.array([6.0, -9.0]))
    network = Network((lstm, head), output=("lstm", "fc"))
    x = rng.normal(size=(4, 6, 3))
    program = quantize(network, x)
    trace = golden.run(program, program.quantize(x), saturations=True)
    assert trace.saturations["fc"] == {"h": 0}
    error = program.output_format.real(trace.outputs) - network.evaluate(x).outputs
    assert np.abs(error).max() < 0.2


def test_an_initial_state_counts_in_the_range_of_an_unbounded_cell():
    rng = np.random.default_rng(0)
    layer = Layer("rnn", "rnn_relu", 0.1 * rng.normal(size=(4, 3)), 0.1 * rng.normal(size=(4, 4)), np.zeros(4))
    network = Network((layer,), initial={"rnn": {"h": np.array([50.0, 0, 0, 1])}})
    program = quantize(network, rng.normal(size=(2, 5, 3)))
    assert (
        abs(program.real_state(program.initial)["rnn"]["h"] - [50, 0, 0, 1]).max() <= program.layers[0].formats["h"].lsb
    )
