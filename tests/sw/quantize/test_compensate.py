"""Compensated rounding: weights on the grid, smaller errors in what they compute, the rest untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden, pattern, quantize
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig, bias, compensate

CONFIG = QuantizeConfig(weight_bits=5)


@pytest.fixture(scope="module")
def case():
    """A stack whose columns depend on each other, as those of speech do, and data for it."""
    rng = np.random.default_rng(3)
    network = synthetic.network(12, [Shape("lstm", 16), Shape("lstm", 12), Shape("linear", 4)], seed=2)
    x = rng.normal(size=(60, 12, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(60, 12, 12))
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), CONFIG)
    return network, x, formats


def test_weights_lie_on_the_grids(case):
    network, x, formats = case
    made, chosen = compensate.compensate(network, formats, x)
    for layer, form in zip(made.layers, chosen, strict=True):
        for key, weights in (("wx", layer.w_x), ("wh", layer.w_h)):
            if weights is not None:
                assert (form[key].real(form[key].quantize(weights)) == weights).all()
                assert form[key].width == 5
    program = quantize.build(made, chosen, CONFIG)
    assert (program.layers[0].formats["wx"].real(program.layers[0].w_x) == made.layers[0].w_x).all()


def test_errors_of_outputs_shrink_on_data_that_it_did_not_see(case):
    network, x, formats = case
    train, test = x[:40], x[40:]
    wanted = network.evaluate(test).outputs

    def error(network, formats):
        program = quantize.build(network, formats, CONFIG)
        got = program.output_format.real(golden.run(program, program.quantize(test)).outputs)
        return float(np.sqrt(np.mean((got - wanted) ** 2)))

    assert error(*compensate.compensate(network, formats, train)) < 0.75 * error(network, formats)


def test_a_column_takes_the_error_of_its_twin():
    """Two equal columns: 0.3 + 0.3 on a grid of halves is 0.5 + 0.0, where plain rounding gives 0.5 + 0.5."""
    weights = np.array([[0.3, 0.3], [-1.0, 0.5]])
    network = Network((Layer("y", "linear", weights, None, np.zeros(2)),))
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 4, 1)), 2, axis=2)
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), QuantizeConfig(weight_bits=3))
    formats[0]["wx"] = formats[0]["wx"].parse("s3f1")
    made, _ = compensate.compensate(network, formats, x)
    assert made.layers[0].w_x[0].sum() == 0.5
    assert (made.layers[0].w_x[1] == weights[1]).all()


def test_padding_does_not_count(case):
    network, x, formats = case
    one, _ = compensate.compensate(network, formats, x)
    longer = np.concatenate([x, np.full_like(x, 50.0)], axis=1)
    other, _ = compensate.compensate(network, formats, longer, np.full(len(x), x.shape[1]))
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(a.w_x, b.w_x, rtol=0, atol=1e-9)


def test_layers_that_it_does_not_cover_stay(case):
    _, x, _ = case
    network = synthetic.network(12, [Shape("lstm", 8, outputs=5), Shape("gru", 6), Shape("linear", 4)], seed=2)
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), CONFIG)
    made, chosen = compensate.compensate(network, formats, x)
    for number in (0, 1):
        assert made.layers[number] is network.layers[number]
        assert chosen[number] == formats[number]
    assert made.layers[2] is not network.layers[2]


# -- pruned layers -------------------------------------------------------------------------------------------------------


def error(network, formats, x, wanted, config=CONFIG) -> float:
    """Root mean square error of the outputs of the Program that is built."""
    program = quantize.build(network, formats, config)
    got = program.output_format.real(golden.run(program, program.quantize(x)).outputs)
    return float(np.sqrt(np.mean((got - wanted) ** 2)))


def test_zeros_stay_and_errors_of_pruned_layers_shrink(case):
    """An N:M layer, a layer pruned without any structure, and a dense head; each row has kept columns of its own."""
    _, x, _ = case
    network = synthetic.network(
        12, [Shape("lstm", 16, NM(2, 4), NM(1, 4)), Shape("lstm", 12), Shape("linear", 4)], seed=2
    )
    middle = network.layers[1]
    sparse = [np.where(np.abs(w) > np.quantile(np.abs(w), 0.6), w, 0.0) for w in (middle.w_x, middle.w_h)]
    network = network.with_layers([network.layers[0], replace(middle, w_x=sparse[0], w_h=sparse[1]), network.layers[2]])
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), CONFIG)
    made, chosen = compensate.compensate(network, formats, x[:40])
    for layer, source, form in zip(made.layers[:2], network.layers, chosen, strict=False):
        for key, weights, before in (("wx", layer.w_x, source.w_x), ("wh", layer.w_h, source.w_h)):
            assert not weights[before == 0].any()
            assert (form[key].real(form[key].quantize(weights)) == weights).all()
        assert layer.pattern_h == source.pattern_h
    wanted = network.evaluate(x[40:]).outputs
    assert error(made, chosen, x[40:], wanted) < 0.75 * error(network, formats, x[40:], wanted)


def test_a_pruned_column_leaves_the_error_to_those_kept():
    """Three equal columns, the second pruned in row 0: 0.3 + 0.3 becomes 0.5 + 0.0, and the third takes the error, not the hole."""
    weights = np.array([[0.3, 0.0, 0.3], [-1.0, 0.5, 0.5]])
    network = Network((Layer("y", "linear", weights, None, np.zeros(2)),))
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 4, 1)), 3, axis=2)
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), QuantizeConfig(weight_bits=3))
    formats[0]["wx"] = formats[0]["wx"].parse("s3f1")
    made, _ = compensate.compensate(network, formats, x, finer=0)
    assert made.layers[0].w_x[0].tolist() == [0.5, 0.0, 0.0]
    assert (made.layers[0].w_x[1] == weights[1]).all()


def test_rows_of_their_own_agree_with_rows_that_share(case, monkeypatch):
    """Rows with a zero that no data ever multiply get the same weights as those without, and in batches of any size."""
    network, x, formats = case
    source = np.concatenate([x, np.zeros_like(x[:, :, :1])], axis=2)
    steps = np.full(len(x), x.shape[1])
    outputs = network.evaluate(x).layers[0]

    def rounded(dead: np.ndarray) -> Layer:
        layer = network.layers[0]
        layer = replace(layer, w_x=np.concatenate([layer.w_x, dead[:, None]], axis=1))
        return compensate._rounded(layer, formats[0], compensate._Moments.of(layer, source, outputs, steps))

    rows = len(network.layers[0].w_x)
    shared, mixed = rounded(np.ones(rows)), rounded(np.arange(rows) % 2 * 1.0)
    monkeypatch.setattr(compensate, "BATCH", 3000)
    for apart in (mixed, rounded(np.zeros(rows))):
        one, other = (np.column_stack([layer.w_x[:, :-1], layer.w_h, layer.bias]) for layer in (apart, shared))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    assert not mixed.w_x[::2, -1].any()
    assert mixed.w_x[1::2, -1].all()


# -- pruning -------------------------------------------------------------------------------------------------------------


def magnitude(network, wanted):
    layers = []
    for layer in network.layers:
        if layer.w_h is not None:
            w_x, w_h = (np.where(wanted.mask(w, layer.gates), w, 0.0) for w in (layer.w_x, layer.w_h))
            layer = replace(layer, w_x=w_x, w_h=w_h)
        layers.append(layer)
    return network.with_layers(layers)


WRITTEN = ["2:4", "1:4", "unstructured:1/4", "bbs:1:4", "ese:1/4:4", "block:1/2:2x2", "cbtd:1/4:4"]


@pytest.mark.parametrize("written", WRITTEN)
def test_compensated_pruning_obeys_its_pattern_and_beats_magnitude(case, written):
    network, x, _ = case
    wanted = pattern.parse(written)
    made = compensate.prune_compensated(network, written, x[:40])
    exact = network.evaluate(x[40:]).outputs

    def off(other):
        return np.sqrt(np.mean((other.evaluate(x[40:]).outputs - exact) ** 2))

    assert off(made) < 0.75 * off(magnitude(network, wanted))
    for layer in made.layers[:2]:
        for weights, stands in ((layer.w_x, layer.pattern_x), (layer.w_h, layer.pattern_h)):
            wanted.check(weights, 4, "weights")
            assert np.count_nonzero(weights) == np.count_nonzero(wanted.mask(weights, 4))
            assert stands == (wanted if isinstance(wanted, NM) else DENSE)
    assert made.layers[2] is network.layers[2]


def test_an_all_but_silent_column_is_given_no_weights_without_bounds(case):
    """What is next to nothing in the calibration data may be large in others."""
    network, x, _ = case
    x = x.copy()
    x[:, :, 0] = 1e-12 * np.random.default_rng(1).normal(size=x.shape[:2])
    for written in ("1:4", "dense"):
        made = compensate.prune_compensated(network, written, x)
        assert np.abs(made.layers[0].w_x[:, 0]).max() < 2 * np.abs(network.layers[0].w_x).max()


def test_a_mask_is_chosen_on_what_a_column_has_taken_over():
    """Twin columns at 1:2: row 1 loses 0.9 in the first, so that in the second it has 1.4 and wins over 0.8."""
    network = Network((Layer("y", "linear", np.array([[1.0, 0.8], [0.9, 0.5]]), None, np.zeros(2)),))
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 4, 1)), 2, axis=2)
    made = compensate.prune_compensated(network, {"y": "1:2"}, x).layers[0].w_x
    np.testing.assert_allclose(made, [[1.8, 0.0], [0.0, 1.4]], rtol=0.02)


def test_the_best_of_all_rounds_is_taken(case, monkeypatch):
    """Strides so long that they lead away."""
    network, x, _ = case
    wanted = network.evaluate(x).layers[0]
    monkeypatch.setattr(compensate, "STRIDE", 4.0)
    off = []
    for rounds in (1, 6):
        monkeypatch.setattr(compensate, "REFITS", rounds)
        made = compensate.prune_compensated(network, {network.layers[0].name: "1:4"}, x)
        off.append(np.square(made.evaluate(x).layers[0] - wanted).sum())
    assert off[1] <= off[0]


def test_pairs_names_and_dense_layers(case):
    network, x, _ = case
    names = [layer.name for layer in network.layers]
    made = compensate.prune_compensated(network, {names[0]: ("1:4", "2:4"), names[2]: "dense"}, x)
    assert (made.layers[0].pattern_x, made.layers[0].pattern_h) == (NM(1, 4), NM(2, 4))
    assert made.layers[1] is network.layers[1]
    assert made.layers[2].w_x.all()  # loses nothing, and is solved for on what it sees now
    wanted = network.evaluate(x).outputs
    without = compensate.prune_compensated(network, {names[0]: ("1:4", "2:4")}, x)
    errors = [np.mean((each.evaluate(x).outputs - wanted) ** 2) for each in (made, without)]
    assert errors[0] < errors[1]
    with pytest.raises(SparseGateError, match="no layer 'fc'; it has lstm0, lstm1, linear2"):
        compensate.prune_compensated(network, {"fc": "1:4"}, x)


def test_pruning_falls_back_to_magnitude_where_it_does_not_cover(case):
    _, x, _ = case
    network = synthetic.network(12, [Shape("gru", 8), Shape("lstm", 8, outputs=4), Shape("linear", 2)], seed=1)
    made = compensate.prune_compensated(network, "1:4", x)
    for layer, source in zip(made.layers[:2], network.layers, strict=False):
        assert (layer.w_h == np.where(NM(1, 4).mask(source.w_h, source.gates), source.w_h, 0.0)).all()
        assert layer.pattern_x == NM(1, 4)


@pytest.mark.parametrize("when", ["step", "last", "final"])
def test_padding_and_direction_do_not_matter_to_pruning(case, when):
    _, x, _ = case
    network = synthetic.network(12, [Shape("lstm", 8, both=True), Shape("linear", 3, when=when)], 1)
    wanted = {layer.name: "2:4" if layer.w_h is not None else "dense" for layer in network.layers}
    one = compensate.prune_compensated(network, wanted, x)
    longer = np.concatenate([x, np.full_like(x, 50.0)], axis=1)
    other = compensate.prune_compensated(network, wanted, longer, np.full(len(x), x.shape[1]))
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(a.w_x, b.w_x, rtol=0, atol=1e-6)


# -- biases --------------------------------------------------------------------------------------------------------------


def sums(network, x, lengths, layer: int) -> np.ndarray:
    """Mean input of the tables of a layer's first gates, by hand: what evaluation shows before it narrows."""
    found = {}

    def observe(name, target, site, value):
        if name == network.layers[layer].name:
            found.setdefault(site, []).append(value)

    network.evaluate(x, lengths, observe=observe)
    return np.concatenate([np.concatenate(values).mean(axis=0) for values in found.values()])


GATES = {"lstm": 4, "cifg": 3, "gru": 2, "gru_reset_before": 3, "rnn_tanh": 1, "lstm_peephole": 4}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_mean_sums_are_those_that_an_evaluation_shows(kind, reverse):
    """Of the gates whose sums reach a table as they are."""
    network = synthetic.network(5, [Shape(kind, 6, reverse=reverse)], seed=3, gain=2.0, initial=True)
    x, lengths = np.random.default_rng(0).normal(0.5, 1, (7, 9, 5)), np.array([9, 1, 4, 9, 2, 6, 3])
    layer = replace(network.layers[0], parameters={key: 0 * v for key, v in network.layers[0].parameters.items()})
    network = network.with_layers([layer])
    means, _ = bias._means(layer, x, lengths, network.initial[layer.name])
    shown = sums(network, x, lengths, 0)  # sites in the order of the gates, but for a reset's q and a peephole's c
    gates = means[: layer.gates * 6].reshape(-1, 6)
    order = {"gru_reset_before": [0, 1, 3], "lstm_peephole": [0, 1, 2, 4]}.get(kind, range(GATES[kind]))
    for gate, site in zip(range(GATES[kind]), order, strict=False):
        np.testing.assert_allclose(gates[gate], shown[site * 6 : site * 6 + 6], rtol=0, atol=1e-12)


def test_means_of_the_two_halves_of_a_candidate():
    """b + Wx E[x], and b_h + Wh E[h]."""
    network = synthetic.network(3, [Shape("gru", 4)], seed=3)
    layer, x = network.layers[0], np.random.default_rng(0).normal(1, 1, (4, 6, 3))
    means, outputs = bias._means(layer, x, np.full(4, 6), {})
    before = np.concatenate([np.zeros_like(outputs[:, :1]), outputs[:, :-1]], axis=1).mean(axis=(0, 1))
    np.testing.assert_allclose(means[8:12], (layer.bias + layer.w_x @ x.mean(axis=(0, 1)))[8:], atol=1e-12)
    np.testing.assert_allclose(means[12:], layer.bias_h + layer.w_h[8:] @ before, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_reset_before", "cifg", "rnn_relu"])
def test_corrected_means_are_those_of_the_float_network(kind):
    """Coarse weights on inputs that are not centred; most of the shift is gone in every layer."""
    rng = np.random.default_rng(0)
    network = synthetic.network(6, [Shape(kind, 10), Shape(kind, 8), Shape("linear", 3, when="last")], seed=5)
    x, lengths = rng.normal(1.0, 0.7, (60, 10, 6)), rng.integers(3, 11, 60)
    config = QuantizeConfig(weight_bits=3, calibration="mse")
    formats = quantize.choose_formats(network, quantize.calibrate(network, x, lengths), config)
    made = bias.correct_bias(network, formats, x, lengths)
    for layer, source in zip(made.layers, network.layers, strict=True):
        assert layer.w_x is source.w_x
    for number in range(3):
        wanted = sums(network, x, lengths, number)
        before, after = (
            np.square(
                sums(
                    one.with_layers([bias._on_grid(layer, f) for layer, f in zip(one.layers, formats, strict=True)]),
                    x,
                    lengths,
                    number,
                )
                - wanted
            ).sum()
            for one in (network, made)
        )
        assert after < 0.3 * before, number


def test_bias_correction_brings_outputs_nearer(case):
    """On data that it did not see, and with 3 bits."""
    network, x, _ = case
    config, x = QuantizeConfig(weight_bits=3, calibration="mse"), x + 0.7
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), config)
    made = bias.correct_bias(network, formats, x[:40])
    wanted = network.evaluate(x[40:]).outputs
    assert error(made, formats, x[40:], wanted, config) < 0.9 * error(network, formats, x[40:], wanted, config)


def test_nothing_to_correct_changes_nothing():
    """Weights on the grid, inputs too: the biases are the float ones."""
    weights = np.array([[0.5, -1.0], [0.25, 0.75]])
    network = Network((Layer("y", "linear", weights, None, np.array([0.1, 0.2])),))
    x = np.random.default_rng(0).integers(-8, 8, (5, 3, 2)) / 8.0
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), QuantizeConfig())
    made = bias.correct_bias(network, formats, x)
    np.testing.assert_allclose(made.layers[0].bias, [0.1, 0.2], rtol=0, atol=1e-12)
