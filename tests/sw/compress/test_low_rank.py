"""Recurrent matrices factored into projections: the same function at full rank, the nearest one below, sparse and on integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsegate import golden, importers, quantize
from sparsegate.compress import low_rank
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig
from sparsegate.training import masks as prune
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.masks import Cubic

KINDS = ("lstm", "lstm_peephole", "cifg", "cifg_peephole")

NETWORKS = {
    **{kind: [Shape(kind, 6), Shape("linear", 3)] for kind in KINDS},
    "stack": [Shape("lstm", 7), Shape("lstm", 5), Shape("gru", 4), Shape("linear", 2, when="last")],
    "both directions": [Shape("lstm", 5, both=True), Shape("cifg", 4, both=True), Shape("linear", 3, when="final")],
    "pruned": [Shape("lstm", 8, NM(1, 4), NM(2, 4)), Shape("lstm", 8, NM(2, 4), NM(1, 4)), Shape("linear", 3)],
}


def drawn(name: str) -> tuple[Network, list[str], np.ndarray, np.ndarray]:
    """A network that starts from a state, the layers to factor, inputs and lengths."""
    network = synthetic.network(3, NETWORKS[name], seed=4, initial=True)
    layers = [layer.name for layer in network.layers[:-1] if layer.kind in KINDS]
    return network, layers, np.random.default_rng(2).normal(size=(9, 7, 3)), np.array([7, 1, 4, 5, 7, 7, 2, 3, 6])


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_rank_is_the_same_function(name, data):
    network, layers, x, lengths = drawn(name)
    ranks = {layer.name: layer.units for layer in network.layers if layer.name in layers}
    made = low_rank.factor(network, ranks, *((x, lengths) if data else ()))
    before, after = network.evaluate(x, lengths), made.evaluate(x, lengths)
    assert np.abs(after.outputs - before.outputs).max() <= 1e-10
    for layer in made.layers[:-1]:
        assert (layer.w_p is not None) == (layer.name in layers)
        if layer.name in layers:
            assert not np.allclose(layer.w_p, np.eye(layer.units))
            h = after.layers[made.layers.index(layer)]
            assert np.abs(h).max() == pytest.approx(1.0) if data else 0.01 < np.abs(h).max() < 1
            assert np.array_equal(after.state[layer.name]["c"].shape, before.state[layer.name]["c"].shape)
    assert {layer.pattern_x for layer in made.layers[1:]} == {DENSE}
    assert made.layers[0].pattern_x == network.layers[0].pattern_x  # the first layer's inputs are not factored


def test_a_layer_that_is_taken_twice_and_beside_others():
    network = synthetic.network(3, [Shape("lstm", 5), Shape("lstm", 4)], seed=6)
    first, second = network.layers
    head = synthetic.network(3 + 5 + 4 + 5, [Shape("linear", 2)], seed=1).layers[0]
    second = replace(second, sources=("input", first.name), w_x=np.random.default_rng(0).normal(size=(16, 8)))
    head = replace(head, name="head", sources=(first.name, "input", second.name, first.name))
    network = Network((first, second, head))
    x = np.random.default_rng(1).normal(size=(3, 6, 3))
    made = low_rank.factor(network, {first.name: 5, second.name: 4}, x)
    np.testing.assert_allclose(made.evaluate(x).outputs, network.evaluate(x).outputs, rtol=0, atol=1e-10)
    small = low_rank.factor(network, {first.name: 3}, x)
    assert [layer.w_x.shape for layer in small.layers] == [(20, 3), (16, 6), (2, 3 + 3 + 4 + 3)]


def test_the_products_are_as_near_as_a_matrix_of_that_rank_can_bring_them():
    """Eckart and Young, by weights and by data: the error is that of the singular values that are left out."""
    network, _, x, lengths = drawn("lstm")
    layer, head = network.layers
    stack = np.concatenate([layer.w_h, head.w_x])
    run = network.evaluate(x, lengths)
    h = run.layers[0][np.arange(7)[None, :] < run.lengths[:, None]]
    for data in (False, True):
        made = low_rank.factor(network, {layer.name: 2}, *((x, lengths) if data else ()))
        product = np.concatenate([made.layers[0].w_h, made.layers[1].w_x]) @ made.layers[0].w_p
        over = h.T if data else np.eye(6)
        values = np.linalg.svd(stack @ over, compute_uv=False)
        error = np.linalg.norm((stack - product) @ over)
        assert error == pytest.approx(np.sqrt(np.square(values[2:]).sum()), rel=1e-5)
        split = np.linalg.norm(np.concatenate([made.layers[0].w_h, made.layers[1].w_x]), axis=0)
        spread = np.linalg.norm(made.layers[0].w_p @ over, axis=1)
        assert split[0] / split[1] == pytest.approx(spread[0] / spread[1], rel=1e-5)  # shared evenly


def test_data_brings_outputs_nearer():
    network = synthetic.network(5, [Shape("lstm", 24), Shape("linear", 4)], seed=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 10, 2)) @ rng.normal(size=(2, 5))  # inputs, and so states, of few dimensions
    expected = network.evaluate(x[30:]).outputs
    errors = [
        np.abs(low_rank.factor(network, {"lstm0": 8}, *data).evaluate(x[30:]).outputs - expected).mean()
        for data in ((), (x[:30],))
    ]
    assert errors[1] < errors[0] / 1.5


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_sparsity_on_top_and_integers():
    """Factored, pruned in the user's own loop, quantized: the golden model and the fake-quantized module agree raw by raw."""
    network = synthetic.network(5, [Shape("lstm", 16), Shape("linear", 4)], seed=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 9, 5))
    made = low_rank.factor(network, {"lstm0": 8}, x)
    layer, head = made.layers
    model = torch.nn.ModuleDict(
        {"lstm": torch.nn.LSTM(5, 16, proj_size=8, batch_first=True), "head": torch.nn.Linear(8, 4)}
    )
    with torch.no_grad():
        for name, value in (("ih", layer.w_x), ("hh", layer.w_h), ("hr", layer.w_p)):
            getattr(model["lstm"], f"weight_{name}_l0").copy_(torch.from_numpy(value))
        model["lstm"].bias_ih_l0.copy_(torch.from_numpy(layer.bias))
        model["lstm"].bias_hh_l0.zero_()
        model["head"].weight.copy_(torch.from_numpy(head.w_x))
        model["head"].bias.copy_(torch.from_numpy(head.bias))
    pruner = prune.attach(model, {"lstm": ("1:2", "2:4")}, Cubic(0, 0), projection="1:2")
    pruner.finish()
    sparse = importers.load(model, patterns={"lstm": ("1:2", "2:4")})
    for key in ("w_x", "w_h", "w_p"):
        weights, full = getattr(sparse.layers[0], key), getattr(layer, key)
        assert np.count_nonzero(weights) == weights.size // 2
        np.testing.assert_allclose(weights[weights != 0], full[weights != 0], rtol=1e-6)
    sparse = sparse.with_layers([replace(sparse.layers[0], pattern_p=NM(1, 2)), sparse.layers[1]])
    config = QuantizeConfig(threshold=2)
    program = quantize.quantize(sparse, x, config=config)
    assert program.layers[0].matrix_p.entries == 1
    assert program.layers[0].formats["h"].width == 8
    trace = golden.run(program, program.quantize(x))
    module = FakeQuant(sparse, quantize.choose_formats(sparse, quantize.calibrate(sparse, x), config), config)
    outputs = module(torch.from_numpy(x)).detach().numpy()
    assert np.array_equal(outputs / program.output_format.lsb, trace.outputs)
    error = np.abs(program.output_format.real(trace.outputs) - sparse.evaluate(x).outputs).mean()
    assert error < 0.05 * np.abs(sparse.evaluate(x).outputs).mean() + 0.05


def test_eight_bits_carry_the_factors():
    network = synthetic.network(5, [Shape("lstm", 24), Shape("linear", 4)], seed=1)
    x = np.random.default_rng(0).normal(size=(40, 10, 5))
    made = low_rank.factor(network, {"lstm0": 12}, x)
    program = quantize.quantize(made, x)
    expected = made.evaluate(x).outputs
    found = program.output_format.real(golden.run(program, program.quantize(x)).outputs)
    assert np.abs(found - expected).mean() < 0.04 * expected.std()


def test_nothing_recurrent_is_factored_too():
    network = synthetic.network(3, [Shape("lstm", 4), Shape("linear", 2)], seed=1)
    layer, head = network.layers
    network = network.with_layers([replace(layer, w_h=0 * layer.w_h), replace(head, w_x=0 * head.w_x)])
    x = np.random.default_rng(1).normal(size=(3, 6, 3))
    for data in ((), (x,)):
        made = low_rank.factor(network, {"lstm0": 2}, *data)
        assert np.array_equal(made.evaluate(x).outputs, network.evaluate(x).outputs)


def test_refusals():
    network = synthetic.network(
        3, [Shape("gru", 4), Shape("lstm", 4, outputs=2), Shape("lstm", 4), Shape("cifg", 4)], seed=1
    )
    for name, rank, message in (
        ("gru0", 2, "a gru layer cannot have a projection"),
        ("lstm1", 2, "has a projection already"),
        ("cifg3", 2, "its h is the network's output"),
        ("lstm2", 0, "a rank of 0 given, expected 1 to 4"),
        ("lstm2", 5, "a rank of 5 given, expected 1 to 4"),
        ("lstm9", 2, "no layer 'lstm9'; it has gru0, lstm1, lstm2, cifg3"),
    ):
        with pytest.raises(SparseGateError, match=message):
            low_rank.factor(network, {name: rank})
