"""Magnitude pruning of a Network at once."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate.compress.magnitude import one_shot
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import DENSE, NM, parse


@pytest.fixture
def dense() -> Network:
    return network(8, [Shape("lstm", 16, outputs=8), Shape("gru", 12), Shape("linear", 4)], seed=3)


def kept(matrix: np.ndarray) -> float:
    return np.count_nonzero(matrix) / matrix.size


def test_recurrent_layers_are_pruned_and_know_it(dense):
    pruned = one_shot(dense, ("2:4", "1:4"))
    for old, new in zip(dense.layers[:2], pruned.layers, strict=False):
        assert (new.pattern_x, new.pattern_h) == (NM(2, 4), NM(1, 4))
        assert (kept(new.w_x), kept(new.w_h)) == (0.5, 0.25)
        assert (new.w_x[new.w_x != 0] == old.w_x[new.w_x != 0]).all()
        assert (new.w_x != 0).sum() == NM(2, 4).mask(old.w_x, old.gates).sum()
        assert (new.bias == old.bias).all()
    assert (pruned.layers[0].w_p == dense.layers[0].w_p).all()
    assert (pruned.layers[2].w_x == dense.layers[2].w_x).all()


def test_other_patterns_leave_a_dense_matrix_with_zeros(dense):
    layer = one_shot(dense, ("bbs:1:4", "cbtd:1/4:4")).layers[0]
    assert (layer.pattern_x, layer.pattern_h) == (DENSE, DENSE)
    assert (kept(layer.w_x), kept(layer.w_h)) == (0.25, 0.25)
    parse("bbs:1:4").check(layer.w_x, 4, "w_x")
    parse("cbtd:1/4:4").check(layer.w_h, 4, "w_h")


def test_matrices_by_name(dense):
    first, second, head = (layer.name for layer in dense.layers)
    pruned = one_shot(dense, {f"{first}.w_h": "1:4", first: "1:2", f"{first}.w_p": "1:8", head: "1:4"})
    layer = pruned.layers[0]
    assert (layer.pattern_x, layer.pattern_h, layer.pattern_p) == (NM(1, 2), NM(1, 4), NM(1, 8))
    assert (kept(layer.w_x), kept(layer.w_h), kept(layer.w_p)) == (0.5, 0.25, 0.125)
    assert kept(pruned.layers[1].w_x) == 1
    assert pruned.layers[2].pattern_x == NM(1, 4)
    NM(1, 4).check(pruned.layers[2].w_x, 1, second)


def test_dense_leaves_what_is_there(dense):
    once = one_shot(dense, "1:4")
    twice = one_shot(once, ("dense", "1:8"))
    assert (twice.layers[0].pattern_x, twice.layers[0].pattern_h) == (NM(1, 4), NM(1, 8))
    assert (twice.layers[0].w_x == once.layers[0].w_x).all()
    assert one_shot(dense, "dense").layers[0].w_x is dense.layers[0].w_x


def test_refusals(dense):
    name = dense.layers[0].name
    with pytest.raises(SparseGateError, match="the network has no layer or matrix 'gru9'; its layers are"):
        one_shot(dense, {"gru9": "1:4"})
    with pytest.raises(SparseGateError, match="has no layer or matrix 'lstm0.w_q'"):
        one_shot(dense, {"lstm0.w_q": "1:4"})
    with pytest.raises(SparseGateError, match="is one matrix and takes one pattern, not the pair 1:4 and 1:8"):
        one_shot(dense, {f"{name}.w_h": ("1:4", "1:8")})
    with pytest.raises(SparseGateError, match="no recurrent layer to prune"):
        one_shot(network(8, [Shape("linear", 4)], seed=0), "1:4")
