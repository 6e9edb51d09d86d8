"""Float networks: shapes that must agree, evaluation against PyTorch, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sw.shapes import RECURRENT, stacks

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM


def small() -> Network:
    return synthetic.network(3, [Shape("lstm", 4, NM(2, 4), NM(1, 4)), Shape("linear", 2)], seed=1)


def test_evaluation_is_pytorchs():
    network = synthetic.network(5, [Shape("lstm", 6), Shape("lstm", 4), Shape("linear", 3)], seed=2)
    x = np.random.default_rng(0).normal(size=(4, 7, 5))
    value = torch.from_numpy(x)
    for layer, got in zip(network.layers, network.evaluate(x).layers, strict=True):
        with torch.no_grad():
            if layer.kind == "lstm":
                module = torch.nn.LSTM(layer.inputs, layer.units, batch_first=True, dtype=torch.float64)
                tensors = [torch.from_numpy(a) for a in (layer.w_x, layer.w_h, layer.bias, 0 * layer.bias)]
                module.load_state_dict(dict(zip(module.state_dict(), tensors, strict=True)))
                value = module(value)[0]
            else:
                value = value @ torch.from_numpy(layer.w_x).T + torch.from_numpy(layer.bias)
        np.testing.assert_allclose(got, value.numpy(), rtol=0, atol=1e-12)


def test_padding_changes_nothing():
    network = small()
    rng = np.random.default_rng(3)
    x, lengths = rng.normal(size=(3, 6, 3)), np.array([6, 2, 4])
    whole = network.evaluate(x, lengths)
    for row, length in enumerate(lengths):
        alone = network.evaluate(x[row : row + 1, :length])
        assert (whole.outputs[row, length:] == 0).all()
        np.testing.assert_allclose(whole.outputs[row, :length], alone.outputs[0], rtol=0, atol=1e-14)
        np.testing.assert_allclose(whole.last[row], alone.last[0], rtol=0, atol=1e-14)
    garbage = np.where(np.arange(6)[None, :, None] < lengths[:, None, None], x, np.nan)
    assert (network.evaluate(garbage, lengths).outputs == whole.outputs).all()


def test_a_head_on_the_last_step():
    network = small()
    last = network.with_layers([network.layers[0], replace(network.layers[1], when="last")])
    x, lengths = np.random.default_rng(3).normal(size=(2, 5, 3)), np.array([5, 3])
    got, every = last.evaluate(x, lengths), network.evaluate(x, lengths)
    np.testing.assert_allclose(got.last, every.last, rtol=0, atol=1e-14)
    assert np.count_nonzero(got.outputs) == got.last.size


def test_round_trip(tmp_path):
    network = replace(small(), meta={"origin": "test"})
    network.save(tmp_path / "n.safetensors")
    back = Network.load(tmp_path / "n.safetensors")
    assert (back.name, back.meta) == (network.name, network.meta)
    for old, new in zip(network.layers, back.layers, strict=True):
        assert (old.w_x == new.w_x).all()
        assert (old.bias == new.bias).all()
        assert old.w_h is None or (old.w_h == new.w_h).all()
        assert (old.name, old.kind, old.when, old.pattern_x, old.pattern_h) == (
            new.name, new.kind, new.when, new.pattern_x, new.pattern_h
        )  # fmt: skip


def same(old, new) -> bool:
    """Arrays, or mappings of them, alike."""
    if isinstance(old, Mapping):
        return set(old) == set(new) and all(same(old[key], new[key]) for key in old)
    return bool(np.array_equal(old, new)) if isinstance(old, np.ndarray) else old == new


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stacks(depth=3), st.integers(0, 99), st.booleans())
def test_every_kind_comes_back_from_its_file(tmp_path, shapes, seed, initial):
    network = synthetic.network(3, shapes, seed, initial=initial)
    network.save(tmp_path / "n")
    back = Network.load(tmp_path / "n")
    assert (back.output, back.passes) == (network.output, network.passes)
    assert same(network.initial, back.initial)
    for old, new in zip(network.layers, back.layers, strict=True):
        for each in fields(Layer):
            assert same(getattr(old, each.name), getattr(new, each.name)), each.name


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_continues_another(kind, steps):
    network = synthetic.network(3, [Shape(kind, 5, outputs=3 if cell(kind).projectable else 0), Shape(kind, 4)], seed=1)
    x = np.random.default_rng(2).normal(size=(2, 5, 3))
    whole, first = network.evaluate(x), network.evaluate(x[:, :steps])
    rest = network.evaluate(x[:, steps:], state=first.state)
    outputs = np.concatenate([first.outputs, rest.outputs], axis=1)
    np.testing.assert_allclose(outputs, whole.outputs, rtol=0, atol=1e-14)
    for name, parts in whole.state.items():
        for key, value in parts.items():
            np.testing.assert_allclose(rest.state[name][key], value, rtol=0, atol=1e-14)


def test_states_that_do_not_fit():
    network = small()
    x = np.zeros((2, 4, 3))
    for state, message in (
        ({"nobody": {}}, "a state is given for 'nobody'; the recurrent layers are: lstm0"),
        ({"linear1": {"h": np.zeros(2)}}, "a state is given for 'linear1'"),
        ({"lstm0": {"s": np.zeros(4)}}, "layer 'lstm0' has no state 's', it has h, c"),
        ({"lstm0": {"c": np.zeros(3)}}, r"state 'c' of layer 'lstm0' has shape \(3,\), expected \(2, 4\) or \(4,\)"),
    ):
        with pytest.raises(SparseGateError, match=message):
            network.evaluate(x, state=state)
    one = network.evaluate(x, state={"lstm0": {"c": np.ones(4)}})
    both = network.evaluate(x, state={"lstm0": {"c": np.ones((2, 4))}})
    assert (one.outputs == both.outputs).all()


W, H, B = np.ones((8, 3)), np.ones((8, 2)), np.ones(8)
BAD_LAYERS = [
    (("a", "mgu", W, H, B), "unsupported layer kind 'mgu'"),
    (("a", "lstm", np.full((8, 3), np.nan), H, B), "layer 'a': w_x holds 24 NaN or infinite values"),
    (("a", "lstm", W, H, np.array([np.inf, *B[1:]])), "layer 'a': bias holds 1 NaN or infinite"),
    (("a", "lstm", W, H * 1e300, B), r"layer 'a': w_h reaches a magnitude of 1e\+300, expected at most 1e\+09"),
    (("a", "lstm", np.ones((7, 3)), H, B), r"w_x has shape \(7, 3\), expected \(4 gates \* units, inputs\)"),
    (("a", "lstm", np.ones((8, 0)), H, B), "w_x has shape"),
    (("a", "lstm", np.ones(8), H, B), "w_x has shape"),
    (("a", "lstm", W, H, np.ones(4)), r"bias has shape \(4,\), expected \(8,\) for 2 units"),
    (("a", "lstm", W, None, B), "a lstm layer needs w_h"),
    (("a", "linear", W, H, B), "a linear layer has no w_h"),
    (("a", "lstm", W, np.ones((8, 3)), B), r"w_h has shape \(8, 3\), expected \(8, 2\)"),
    (("a", "lstm", W, H, B, "sometimes"), "when is 'step', 'last' or 'final', not 'sometimes'"),
    (("a", "lstm", W, H, B, "last"), "a recurrent layer runs at every step"),
    (("a", "lstm", W, H, B, "step", NM(1, 2)), "layer 'a': w_x is not 1:2: 12 blocks hold more than 1"),
    (("a", "lstm", W, H, B, "step", NM(1, 1), NM(1, 2)), "layer 'a': w_h is not 1:2"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_LAYERS)
def test_bad_layers_are_refused(arguments, message):
    with pytest.raises(SparseGateError, match=message):
        Layer(*arguments)


def test_bad_networks_are_refused():
    first, head = small().layers
    with pytest.raises(SparseGateError, match="needs at least one layer"):
        Network(())
    with pytest.raises(SparseGateError, match="layer 'last' takes 3 inputs, but 'linear1' gives? 2"):
        Network((replace(first, sources=()), replace(head, sources=()), replace(first, name="last", sources=())))
    with pytest.raises(SparseGateError, match="runs on the last step only, so 'b' after it cannot run on every one"):
        Network((first, replace(head, when="last"), Layer("b", "linear", np.ones((1, 2)), None, np.ones(1))))
    with pytest.raises(SparseGateError, match="layer names must differ"):
        Network((first, replace(head, name=first.name)))


BAD_DATA = [
    ((np.zeros((2, 5)), None), r"x has shape \(2, 5\), expected \(N, T, 3\)"),
    ((np.zeros((2, 5, 4)), None), "x has shape"),
    ((np.zeros((0, 5, 3)), None), "x has shape"),
    ((np.zeros((2, 5, 3)), [5, 6]), r"lengths lie in 5\.\.6, expected 1\.\.5"),
    ((np.zeros((2, 5, 3)), [0, 5]), "lengths lie in"),
    ((np.zeros((2, 5, 3)), [5]), "lengths has shape"),
    ((np.zeros((2, 5, 3)), [5.0, 5.0]), "float64"),
    ((np.full((2, 5, 3), np.nan), None), "x holds 30 NaN or infinite values"),
    ((np.zeros((2, 5, 3)) + 1j, None), "x holds values of type complex128, expected real numbers"),
    (([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], None), "x is ragged"),
    ((np.full((2, 5, 3), -2e9), None), r"x reaches a magnitude of 2e\+09, expected at most 1e\+09"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_DATA)
def test_bad_data_is_refused(arguments, message):
    with pytest.raises(SparseGateError, match=message):
        small().evaluate(*arguments)
