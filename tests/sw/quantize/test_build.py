"""Calibration, formats and rounding of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate import golden
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig, bias, build, choose_formats, prepare, quantize
from sparsegate.quantize.calibration import calibrate

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
        ({"threshold": 1.5}, "threshold is 1.5, expected 0 or more LSBs"),
        ({"weight_bits": 2.5}, "weight_bits is 2.5, expected 2 to 16"),
        ({"matrix_bits": {"lstm.wx": 17}}, r"matrix_bits of 'lstm.wx' is 17, expected 2 to 16"),
        ({"matrix_bits": {"lstm.wx": 3.0}}, "matrix_bits of 'lstm.wx' is 3.0, expected 2 to 16"),
        ({"weight_levels": 4}, "weight_levels is 4, expected an odd number from 3 to 65535"),
        ({"weight_levels": 1}, "weight_levels is 1, expected an odd number from 3 to 65535"),
        ({"matrix_levels": {"fc.wx": 6}}, "matrix_levels of 'fc.wx' is 6, expected an odd number"),
        (
            {"matrix_levels": {"fc.wx": 5}, "matrix_bits": {"fc.wx": 4}},
            "matrix 'fc.wx' is given both bits and levels, expected one of them",
        ),
        ({"calibration": "median"}, "calibration is 'median', expected one of min-max, percentile, mse"),
        ({"rounding": "up"}, "rounding is 'up', expected one of nearest, compensated"),
        ({"percentile": 20.0}, "percentile is 20.0, expected 50 to 100"),
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


# -- widths, levels and methods ------------------------------------------------------------------------------------------


def test_matrices_have_widths_of_their_own():
    config = QuantizeConfig(weight_bits=6, matrix_bits={"lstm0.wh": 3, "linear2.wx": 16})
    program = quantize(NETWORK, X, config=config)
    widths = [
        {key: layer.formats[key].width for key in ("wx", "wh") if key in layer.formats} for layer in program.layers
    ]
    assert widths == [{"wx": 6, "wh": 3}, {"wx": 6, "wh": 6}, {"wx": 16}]
    assert np.abs(program.layers[0].w_h).max() in (3, 4)
    assert hash(config) == hash(replace(config, matrix_bits={}))  # a mapping takes no part in it
    assert config != replace(config, matrix_bits={})


@pytest.mark.parametrize("field", ["matrix_bits", "matrix_levels"])
def test_an_unknown_matrix_is_refused_by_name(field):
    with pytest.raises(
        SparseGateError, match="no matrix 'lstm0.wp'; it has lstm0.wx, lstm0.wh, lstm1.wx, lstm1.wh, linear2.wx"
    ):
        quantize(NETWORK, X, config=QuantizeConfig(**{field: {"lstm0.wp": 5}}))


@pytest.mark.parametrize(("levels", "width"), [(3, 2), (5, 3), (7, 3), (9, 4), (255, 8)])
@pytest.mark.parametrize("method", ["nearest", "compensated"])
def test_levels_are_rounded_then_clipped(levels, width, method):
    config = QuantizeConfig(
        weight_levels=levels, matrix_bits={"linear2.wx": 8}, matrix_levels={"lstm1.wx": 5}, rounding=method
    )
    program = quantize(NETWORK, X, config=config)
    limit = levels // 2
    for layer, source in zip(program.layers[:2], NETWORK.layers, strict=False):
        for key, raw, weights in (("wx", layer.w_x, source.w_x), ("wh", layer.w_h, source.w_h)):
            most = 2 if (layer.name, key) == ("lstm1", "wx") else limit
            assert type(layer.formats[key]) is QFormat
            assert layer.formats[key].width == (3 if most == 2 else width)
            assert np.abs(raw).max() <= most
            if method == "nearest":
                step = layer.formats[key].lsb
                assert (raw == np.clip(np.floor(weights / step + 0.5), -most, most)).all()
    assert program.layers[2].formats["wx"].width == 8
    assert np.abs(program.layers[2].w_x).max() > 64


@pytest.mark.parametrize("levels", [3, 5, 9])
def test_levels_take_the_step_of_the_smallest_error(levels):
    formats = choose_formats(NETWORK, calibrate(NETWORK, X), QuantizeConfig(weight_levels=levels))
    for layer, form in zip(NETWORK.layers, formats, strict=True):
        steps = 2.0 ** -np.arange(-3, 10)
        weights = layer.w_x[layer.w_x != 0]
        limit = levels // 2
        errors = [np.square(np.clip(np.round(weights / s), -limit, limit) * s - weights).sum() for s in steps]
        assert form["wx"].lsb == steps[np.argmin(errors)]


@pytest.mark.parametrize("calibration", ["percentile", "mse"])
def test_calibration_methods_let_outliers_saturate(calibration):
    """One input of thousands is far larger than the rest, and one weight of a thousand."""
    x = np.random.default_rng(1).normal(size=(20, 50, 4))
    x[0, 0, 0] = 20.0
    (layer,) = synthetic.network(4, [Shape("lstm", 64)], 1).layers
    w_x = np.clip(layer.w_x, -1, 1)
    w_x[0, 0] = 2.9
    network = Network((replace(layer, w_x=w_x),))
    config = QuantizeConfig(activation_bits=4, weight_bits=3, percentile=99.0)
    (plain,), (made,) = (
        choose_formats(network, calibrate(network, x), replace(config, calibration=method))
        for method in ("min-max", calibration)
    )
    for key in ("x", "wx"):
        assert made[key].frac > plain[key].frac
        assert made[key].width == plain[key].width
    assert made["h"] == plain["h"]  # bounded by construction


def test_an_initial_state_never_saturates():
    network = replace(NETWORK, initial={"lstm0": {"c": np.full(8, 9.0)}})
    for calibration in ("min-max", "percentile", "mse"):
        program = quantize(network, X, config=QuantizeConfig(calibration=calibration, percentile=50.0))
        assert program.real_state(program.initial)["lstm0"]["c"] == pytest.approx(
            9.0, abs=program.layers[0].formats["c"].lsb
        )


def test_preparation_is_what_quantization_builds():
    config = QuantizeConfig(weight_bits=4, rounding="compensated", bias_correction=True, calibration="mse")
    network, formats = prepare(NETWORK, X, None, config)
    assert build(network, formats, config).digest == quantize(NETWORK, X, config=config).digest
    for layer, form in zip(network.layers, formats, strict=True):
        assert (form["wx"].real(form["wx"].quantize(layer.w_x)) == layer.w_x).all()
    made, formats = prepare(NETWORK, X, None, replace(config, bias_correction=False))
    corrected = bias.correct_bias(made, formats, X, None, NETWORK)  # towards the float network, not the rounded one
    assert build(corrected, formats, config).digest == quantize(NETWORK, X, config=config).digest
    plain = build(*prepare(NETWORK, X), QuantizeConfig()).digest
    assert (
        plain
        == build(NETWORK, choose_formats(NETWORK, calibrate(NETWORK, X), QuantizeConfig()), QuantizeConfig()).digest
    )


def test_compensated_weights_fit_the_multiplier():
    """Compensation would take finer weights than 16-bit activations leave room for."""
    config = QuantizeConfig(activation_bits=16, weight_bits=4, rounding="compensated")
    scaled = NETWORK.with_layers([replace(layer, w_x=layer.w_x * 30) for layer in NETWORK.layers])
    for operand_bits in (17, 18, 20):
        program = quantize(scaled, X, config=replace(config, operand_bits=operand_bits))
        terms = [term for layer in program.layers for phase in layer.phases for term in phase.terms]
        assert max(term.form.width + 1 + term.shift for term in terms) <= operand_bits


@given(st.integers(0, 50), st.sampled_from(["nearest", "compensated"]), st.booleans(), st.sampled_from([2, 3, 5, 16]))
def test_every_preparation_builds_a_valid_program(seed, method, bias_correction, bits):
    shapes = [Shape("gru", 4, NM(1, 2), NM(1, 4)), Shape("lstm", 4, NM(1, 2), NM(1, 4)), Shape("linear", 2)]
    network = synthetic.network(4, shapes, seed)
    config = QuantizeConfig(weight_bits=bits, rounding=method, bias_correction=bias_correction, calibration="mse")
    program = quantize(network, X, np.array([7, 3, 1, 7, 5]), config)
    for layer, source in zip(program.layers, network.layers, strict=True):
        assert not layer.w_x[source.w_x == 0].any()
