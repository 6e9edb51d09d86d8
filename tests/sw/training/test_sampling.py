"""A network writes sequences: by its own probabilities, and the same ones for a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.training import sampling

SYMBOLS = 5


@pytest.fixture(scope="module")
def writer():
    return synthetic.network(SYMBOLS, [Shape("lstm", 12), Shape("linear", SYMBOLS)], seed=4)


def test_symbols_follow_as_often_as_the_network_says(writer, monkeypatch):
    """Against its own evaluation of what it wrote."""
    monkeypatch.setattr(sampling, "BATCH", 1500)  # the last batch is a smaller one
    first = np.arange(4000) % SYMBOLS
    x = sampling.sample(writer, first, 6, seed=1)
    assert x.shape == (4000, 6, SYMBOLS)
    assert x.dtype == np.float32
    assert (x.sum(axis=2) == 1).all()
    assert (x[:, 0].argmax(axis=1) == first).all()
    logits = writer.evaluate(x).outputs
    share = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    # the mean of (drawn - expected) over 4,000 draws has a deviation below 0.5 / sqrt(4000) = 0.008
    assert np.abs((x[:, 1:] - share[:, :-1]).mean(axis=0)).max() < 0.04
    # and so has that weighted by what came long before: the state is carried on
    weight = x[:, :1, 0:1] - x[:, :1, 1:2]
    assert np.abs((weight * (x[:, 3:] - share[:, 2:-1])).mean(axis=0)).max() < 0.04


def test_a_seed_decides(writer):
    first = np.zeros(8, np.int64)
    one, same, other = (sampling.sample(writer, first, 9, seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_refusals(writer):
    with pytest.raises(SparseGateError, match=r"has 3 inputs and 4 outputs"):
        sampling.sample(synthetic.network(3, [Shape("lstm", 4)], seed=0), [0], 2)
    last = writer.with_layers([writer.layers[0], replace(writer.layers[1], when="last")])
    with pytest.raises(SparseGateError, match="at every step"):
        sampling.sample(last, [0], 2)
    for first in ([5], [-1], [[0]], [0.5]):
        with pytest.raises(SparseGateError, match=r"begin with classes 0\.\.4"):
            sampling.sample(writer, first, 2)
    with pytest.raises(SparseGateError, match="steps is 0"):
        sampling.sample(writer, [0], 0)
