"""Relabelled units: the same function to the integer, states that translate, and a search that wins magnitude."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden, quantize
from sparsegate.cells import CELLS
from sparsegate.compress import permute
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM

RECURRENT = [kind for kind, cell in CELLS.items() if cell.recurrent]

NETWORKS = {
    **{kind: [Shape(kind, 6), Shape("linear", 3)] for kind in RECURRENT},
    "stack": [Shape("gru", 5), Shape("lstm", 7), Shape("linear_tanh", 4), Shape("linear", 2, when="last")],
    "both directions": [Shape("lstm", 5, both=True), Shape("gru", 4, both=True), Shape("linear", 3, when="final")],
    "backwards": [Shape("gru_reset_before", 5, reverse=True), Shape("linear", 3)],
    "projected": [Shape("lstm", 6, outputs=4), Shape("lstm_peephole", 5, outputs=2, both=True), Shape("linear", 3)],
}


def drawn(name: str) -> tuple[Network, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A network with an initial state, an order for all but its output, inputs and lengths."""
    network = synthetic.network(3, NETWORKS[name], seed=4, initial=True)
    rng = np.random.default_rng(2)
    orders = {layer.name: rng.permutation(layer.units) for layer in network.layers[:-1]}
    return network, orders, rng.normal(size=(4, 6, 3)), np.array([6, 1, 4, 5])


def skipping() -> Network:
    """A network whose head takes the input, one layer twice, and another."""
    network = synthetic.network(3, [Shape("lstm", 5), Shape("gru", 4)], seed=6)
    lstm, gru = network.layers
    rng = np.random.default_rng(0)
    head = synthetic.network(3 + 5 + 4 + 5, [Shape("linear", 2)], seed=1).layers[0]
    gru = replace(gru, sources=("input", lstm.name), w_x=rng.normal(size=(12, 8)))
    head = replace(head, name="head", sources=(lstm.name, "input", gru.name, lstm.name))
    return Network((lstm, gru, head))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_permuted_network_is_the_same_function(name):
    network, orders, x, lengths = drawn(name)
    other = permute.permuted(network, orders)
    assert any((a.w_x != b.w_x).any() for a, b in zip(network.layers[:-1], other.layers[:-1], strict=True))
    before, after = network.evaluate(x, lengths), other.evaluate(x, lengths)
    np.testing.assert_allclose(after.outputs, before.outputs, rtol=0, atol=1e-13)
    translated = permute.relabelled(network, before.state, orders)
    for layer in network.layers[:-1]:
        expected = before.layers[network.layers.index(layer)]
        found = after.layers[network.layers.index(layer)]
        np.testing.assert_allclose(
            found, expected if layer.w_p is not None else expected[..., orders[layer.name]], atol=1e-13
        )
        for key, value in translated.get(layer.name, {}).items():
            np.testing.assert_allclose(after.state[layer.name][key], value, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_equal(name):
    network, orders, x, lengths = drawn(name)
    programs = [quantize.quantize(this, x, lengths) for this in (network, permute.permuted(network, orders))]
    traces = [golden.run(program.with_thresholds(3), program.quantize(x), lengths) for program in programs]
    assert np.array_equal(traces[0].outputs, traces[1].outputs)
    assert len(np.unique(traces[0].outputs)) > 8
    states = permute.relabelled(network, traces[0].state, orders)
    for layer, parts in states.items():
        for key, value in parts.items():
            assert np.array_equal(traces[1].state[layer][key], value)
    sent = [sum(int(stream.sent.sum()) for stream in trace.streams) for trace in traces]
    assert sent[0] == sent[1]


def test_layers_that_take_several_others():
    network = skipping()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 3))
    orders = {layer.name: rng.permutation(layer.units) for layer in network.layers[:2]}
    other = permute.permuted(network, orders)
    np.testing.assert_allclose(other.evaluate(x).outputs, network.evaluate(x).outputs, rtol=0, atol=1e-13)


def test_the_inverse_brings_back_the_network_and_its_states():
    network, orders, x, lengths = drawn("both directions")
    other = permute.permuted(network, orders)
    back = permute.permuted(other, permute.inverse(orders))
    for mine, theirs in zip(back.layers, network.layers, strict=True):
        for key in ("w_x", "w_h", "bias", "bias_h"):
            value = getattr(theirs, key)
            assert value is None or np.array_equal(getattr(mine, key), value)
    for layer, parts in network.initial.items():
        for key, value in parts.items():
            assert np.array_equal(back.initial[layer][key], value)
    state = other.evaluate(x, lengths).state
    mine = permute.relabelled(other, state, permute.inverse(orders))
    continued = network.evaluate(x, lengths, state=mine).outputs
    np.testing.assert_allclose(other.evaluate(x, lengths, state=state).outputs, continued, rtol=0, atol=1e-13)


def brute(network: Network, patterns: dict[str, tuple[NM, NM]]) -> dict[str, float]:
    """Kept share by the masks that pruning would choose."""
    shares = {}
    for layer in network.layers:
        if layer.name in patterns:
            masks = [
                nm.mask(w, layer.gates) for w, nm in zip((layer.w_x, layer.w_h), patterns[layer.name], strict=True)
            ]
            squares = [np.square(layer.w_x), np.square(layer.w_h)]
            most = sum(square[keep].sum() for square, keep in zip(squares, masks, strict=True))
            shares[layer.name] = most / sum(square.sum() for square in squares)
    return shares


@pytest.mark.parametrize(
    "patterns", [("1:4", "1:4"), ("2:8", "1:4"), ("1:3", "2:5"), ("dense", "1:6"), ("1:32", "1:4")]
)
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_the_search_wins_what_it_says(kind, patterns):
    network = synthetic.network(3, [Shape(kind, 18), Shape("linear", 2)], seed=3)
    name = network.layers[0].name
    pair = {name: tuple(NM.parse(text) for text in patterns)}
    before = permute.kept(network, patterns)
    assert before == pytest.approx(brute(network, pair), rel=1e-6)
    orders = permute.search(network, patterns, seed=0, rounds=12)
    other = permute.permuted(network, orders)
    after = permute.kept(other, patterns)
    assert after == pytest.approx(brute(other, pair), rel=1e-6)
    assert after[name] > before[name] + 0.003
    again = permute.search(network, patterns, seed=0, rounds=12)
    assert np.array_equal(again[name], orders[name])


def test_gains_are_what_swaps_win():
    network = synthetic.network(3, [Shape("lstm", 11)], seed=3)
    layer = network.layers[0]
    order = np.random.default_rng(0).permutation(11)
    for nm in (NM(1, 4), NM(2, 4), NM(3, 4), NM(2, 5)):
        part = permute._Part.of(layer.w_h, 4, nm)
        gains, now = part.gains(order), part.best(order).sum()
        for a in range(11):
            for b in range(11):
                swapped = order.copy()
                swapped[[a, b]] = swapped[[b, a]]
                assert gains[a, b] == pytest.approx(part.best(swapped).sum() - now, abs=1e-5)


def test_swaps_of_a_round_do_not_disturb_one_another():
    """A round wins at least its best swap: the blocks of the others are different ones."""
    network = synthetic.network(3, [Shape("lstm", 40)], seed=3)
    part = permute._Part.of(network.layers[0].w_h, 4, NM(1, 4))
    order = np.arange(40)
    for _ in range(6):
        after, _ = permute._climb([part], 4, order, 1)
        if np.array_equal(after, order):
            break
        won = part.best(after).sum() - part.best(order).sum()
        gains = part.gains(order)
        moved = np.flatnonzero(after != order)
        swaps = [(a, b) for a in moved for b in moved if a < b and after[a] == order[b] and after[b] == order[a]]
        assert len({place // 4 for pair in swaps for place in pair}) == 2 * len(swaps)
        assert won == pytest.approx(sum(gains[a, b] for a, b in swaps), rel=1e-3)
        assert won > gains.max() * 0.999
        order = after


def test_a_hidden_structure_is_found():
    """Units of four kinds, each with columns of its own: 1:4 keeps everything once every block holds one of each kind."""
    units, rng = 16, np.random.default_rng(0)
    network = synthetic.network(4, [Shape("rnn_tanh", units), Shape("linear", 2)], seed=3)
    layer = network.layers[0]
    w_x = np.zeros((units, 4))
    w_x[np.arange(units), np.arange(units) // 4] = rng.uniform(1, 2, units)
    network = network.with_layers([replace(layer, w_x=w_x), network.layers[1]])
    assert permute.kept(network, ("1:4", "dense"))[layer.name] < 0.95
    orders = permute.search(network, ("1:4", "dense"))
    assert permute.kept(permute.permuted(network, orders), ("1:4", "dense"))[layer.name] == pytest.approx(
        1.0, abs=1e-12
    )


def test_layers_that_keep_their_labels():
    network = synthetic.network(3, [Shape("lstm", 8), Shape("gru", 8)], seed=3)
    assert set(permute.search(network, "1:4", rounds=4)) == {"lstm0"}  # the GRU's units are the output
    assert permute.search(network, "1:16", rounds=4) == {}  # a single block
    assert permute.search(network, "dense") == {}
    with pytest.raises(SparseGateError, match="'gru1' are the network's output"):
        permute.permuted(network, {"gru1": np.arange(8)})


def test_refusals():
    network = synthetic.network(3, [Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("linear", 2)], seed=3)
    with pytest.raises(SparseGateError, match="no layer 'x'; it has lstm0, linear1"):
        permute.permuted(network, {"x": np.arange(8)})
    for order in (np.arange(7), np.zeros(8, int), np.arange(1, 9), np.arange(8.0)):
        with pytest.raises(SparseGateError, match=r"expected a permutation of 0\.\.7"):
            permute.permuted(network, {"lstm0": order})
    with pytest.raises(SparseGateError, match="w_x is not 1:4"):
        permute.permuted(network, {"lstm0": np.array([0, 4, 1, 5, 2, 6, 3, 7])})
    within = permute.permuted(network, {"lstm0": np.array([3, 1, 0, 2, 7, 6, 5, 4])})  # blocks stay as they are
    assert within.layers[0].pattern_h == NM(1, 4)
    with pytest.raises(SparseGateError, match="no layer 'y'"):
        permute.search(network, {"y": "1:4"})
