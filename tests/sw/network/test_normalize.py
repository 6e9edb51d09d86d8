"""Scaled inputs change nothing in real arithmetic, and spend bits where they are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden, quantize
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, normalize
from sparsegate.network.normalize import Scaling
from sparsegate.numerics.fixed import QFormat, frac_for

INPUTS = 5
SPREAD = np.array([300.0, 1.0, 20.0, 0.01, 3.0])


def layer(rng, name, inputs, units, sources=(), reverse=False):
    draw = lambda *shape: rng.normal(0, 0.4, shape)  # noqa: E731
    return Layer(
        name, "lstm", draw(4 * units, inputs), draw(4 * units, units), draw(4 * units), sources=sources, reverse=reverse
    )


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def uneven(rng):
    """A network whose input columns differ 30,000-fold, its weights accordingly, and data for it."""
    first = layer(rng, "first", INPUTS, 6)
    first = replace(first, w_x=first.w_x / SPREAD)
    network = Network((first, layer(rng, "second", 6, 4)))
    return network, rng.normal(0.5, 1, (40, 9, INPUTS)) * SPREAD


def test_folding_is_exact(uneven, rng):
    network, x = uneven
    scaling = Scaling(rng.normal(size=INPUTS) * SPREAD, rng.uniform(0.1, 5, INPUTS))
    folded = normalize.fold(network, scaling)
    np.testing.assert_allclose(folded.evaluate(scaling(x)).outputs, network.evaluate(x).outputs, rtol=0, atol=1e-12)
    assert [part.name for part in folded.layers] == ["first", "second"]


def test_folding_reaches_every_layer_that_takes_the_input(rng):
    forwards, backwards = layer(rng, "f", INPUTS, 3, ("input",)), layer(rng, "b", INPUTS, 3, ("input",), reverse=True)
    both = layer(rng, "both", 3 + INPUTS + 3, 2, ("f", "input", "b"))
    network = Network((forwards, backwards, both))
    x, lengths = rng.normal(size=(4, 6, INPUTS)), np.array([6, 3, 1, 5])
    scaling = normalize.balance(network, x, lengths)
    folded = normalize.fold(network, scaling)
    got, wanted = (net.evaluate(data, lengths).outputs for net, data in ((folded, scaling(x)), (network, x)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_balanced_columns_have_values_as_large_as_their_weights(uneven):
    network, x = uneven
    scaling = normalize.balance(network, x)
    columns = scaling(x)
    weights = np.abs(normalize.fold(network, scaling).layers[0].w_x).max(axis=0)
    np.testing.assert_allclose(np.abs(columns).max(axis=(0, 1)), weights)
    np.testing.assert_allclose(columns.max(axis=(0, 1)), -columns.min(axis=(0, 1)))
    assert not normalize.balance(network, x, centre=False).mean.any()


def test_a_column_that_never_moves_keeps_its_scale(uneven):
    network, x = uneven
    x[:, :, 1] = 7
    scaling = normalize.balance(network, x)
    assert (scaling.mean[1], scaling.scale[1]) == (7, 1)


def test_steps_beyond_a_sequence_do_not_count(uneven):
    network, x = uneven
    longer = np.concatenate([x, np.full_like(x, 1e6)], axis=1)
    one, other = normalize.balance(network, x), normalize.balance(network, longer, np.full(len(x), x.shape[1]))
    assert (one.scale == other.scale).all()
    assert (one.mean == other.mean).all()


def test_scaling_lowers_the_error_of_eight_bits(uneven):
    network, x = uneven
    wanted = network.evaluate(x).last

    def error(network, columns):
        program = quantize.quantize(network, columns)
        got = program.output_format.real(golden.run(program, program.quantize(columns)).last)
        return np.sqrt(np.mean((got - wanted) ** 2))

    scaling = normalize.balance(network, x)
    assert error(normalize.fold(network, scaling), scaling(x)) < error(network, x) / 3


def test_doubled_columns_are_exact_and_carry_fifteen_bits(uneven):
    network, x = uneven
    balanced = normalize.balance(network, x)
    folded = normalize.fold(network, balanced)
    form = QFormat(8, frac_for(np.abs(folded.layers[0].w_x).max(), 8))
    doubled, scaling = normalize.double(folded, form, balanced)
    assert doubled.inputs == 2 * INPUTS
    assert scaling(x).shape == (*x.shape[:2], 2 * INPUTS)
    np.testing.assert_allclose(doubled.evaluate(scaling(x)).outputs, network.evaluate(x).outputs, rtol=0, atol=1e-12)
    raw = form.quantize(doubled.layers[0].w_x)
    assert form.saturated(doubled.layers[0].w_x) == 0
    high, low = form.real(raw)[:, :INPUTS], form.real(raw)[:, INPUTS:]
    assert np.abs(high + np.ldexp(low, -7) - folded.layers[0].w_x).max() <= form.lsb / 256


def test_what_cannot_be_folded_is_a_sentence(uneven, rng):
    network, _ = uneven
    none = Scaling(np.zeros(5), np.ones(5))
    with pytest.raises(SparseGateError, match="mean has shape \\(3,\\), expected 5 finite values"):
        normalize.fold(network, Scaling(np.zeros(3), np.ones(5)))
    with pytest.raises(SparseGateError, match="the smallest scale is 0, expected positive scales"):
        normalize.fold(network, Scaling(np.zeros(5), np.arange(5.0)))
    with pytest.raises(SparseGateError, match="layer 'first': weights reach .*, but s8f9 ends at 0.248"):
        normalize.double(
            normalize.fold(network, Scaling(np.zeros(5), SPREAD / 300)), QFormat(8, 9), Scaling(np.zeros(5), np.ones(5))
        )
    two = Network((layer(rng, "a", INPUTS, 2), layer(rng, "b", INPUTS, 2, ("input",))), output=("a", "b"))
    with pytest.raises(SparseGateError, match="only a network whose first layer alone takes the input"):
        normalize.double(two, QFormat(8, 4), none)
