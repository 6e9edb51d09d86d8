"""Compensated rounding: weights on the grid, smaller errors in what they compute, the rest untouched."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden, quantize, rounding, synthetic
from sparsegate.network import Layer, Network
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate.synthetic import Shape

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
    made, chosen = rounding.compensate(network, formats, x)
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

    assert error(*rounding.compensate(network, formats, train)) < 0.75 * error(network, formats)


def test_a_column_takes_the_error_of_its_twin():
    """Two equal columns: 0.3 + 0.3 on a grid of halves is 0.5 + 0.0, where plain rounding gives 0.5 + 0.5."""
    weights = np.array([[0.3, 0.3], [-1.0, 0.5]])
    network = Network((Layer("y", "linear", weights, None, np.zeros(2)),))
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 4, 1)), 2, axis=2)
    formats = quantize.choose_formats(network, quantize.calibrate(network, x), QuantizeConfig(weight_bits=3))
    formats[0]["wx"] = formats[0]["wx"].parse("s3f1")
    made, _ = rounding.compensate(network, formats, x)
    assert made.layers[0].w_x[0].sum() == 0.5
    assert (made.layers[0].w_x[1] == weights[1]).all()


def test_padding_does_not_count(case):
    network, x, formats = case
    one, _ = rounding.compensate(network, formats, x)
    longer = np.concatenate([x, np.full_like(x, 50.0)], axis=1)
    other, _ = rounding.compensate(network, formats, longer, np.full(len(x), x.shape[1]))
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(a.w_x, b.w_x, rtol=0, atol=1e-9)


def test_layers_that_it_does_not_cover_stay(case):
    _, x, _ = case
    sparse = synthetic.network(12, [Shape("lstm", 16, NM(1, 4), NM(1, 4)), Shape("linear", 4)], seed=2)
    formats = quantize.choose_formats(sparse, quantize.calibrate(sparse, x), CONFIG)
    made, chosen = rounding.compensate(sparse, formats, x)
    assert made.layers[0] is sparse.layers[0]
    assert chosen[0] == formats[0]
    assert made.layers[1] is not sparse.layers[1]
