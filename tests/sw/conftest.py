"""Fixtures of the numbers' tests: real data where it is installed, trained once a session."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(scope="session")
def vowels():
    """JapaneseVowels from sktime."""
    from sparsegate import datasets

    if importlib.util.find_spec("sktime") is None and importlib.util.find_spec("aeon") is None:
        pytest.skip("JapaneseVowels needs the package sktime")
    return datasets.load("vowels")


@pytest.fixture(scope="session")
def trained(vowels):
    """A float network of 16 units, trained for a few epochs: enough to be far from random."""
    from sparsegate import train

    return train.train_float(vowels, hidden=16, epochs=8, seed=1)
