"""What every test room shares: one thread, drawn examples that are the same in every run, and skips with a reason."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# before NumPy and torch are imported: two test processes already fill two cores, and results depend on torch's thread count
os.environ["OMP_NUM_THREADS"] = "1"
# most simulations of the suite run for a few thousand cycles: they are built rather than run
os.environ.setdefault("SPARSEGATE_OPTIMIZE", "-O0")
# Amaranth's own Yosys, whatever the machine has
os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
# a shell ignores SIGINT in what it starts in the background, and so would every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)

# seeded: a failure on one machine is a failure on every other, and shrinking starts from the same example
settings.register_profile("sparsegate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sparsegate")


HEAVY = ("slow", "synth", "verilator", "icarus")
"""Marks of tests that take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the longest tests first, so that no worker is left with one at the end; and skips with their reason."""
    weight: dict[Path, int] = {}
    for item in items:
        mine = next((at for at, mark in enumerate(HEAVY) if item.get_closest_marker(mark)), len(HEAVY))
        weight[item.path] = min(mine, weight.get(item.path, mine))
    items.sort(key=lambda item: weight[item.path])
    _skip_what_needs_a_tool(items)


def _skip_what_needs_a_tool(items: list[pytest.Item]) -> None:
    """Skip what needs a tool that the machine lacks, saying which and how to get it."""
    needed = {"icarus": ("iverilog", "apt-get install iverilog"), "verilator": ("c++", "apt-get install g++ make perl")}
    for mark, (program, install) in needed.items():
        if shutil.which(program) is None:
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=f"{program} is not installed; '{install}' provides it"))


@pytest.fixture(scope="session")
def vowels():
    """JapaneseVowels from sktime."""
    from sparsegate.data import datasets

    if importlib.util.find_spec("sktime") is None and importlib.util.find_spec("aeon") is None:
        pytest.skip("JapaneseVowels needs the package sktime")
    return datasets.load("vowels")


@pytest.fixture(scope="session")
def trained(vowels):
    """A float network of 16 units, trained for a few epochs: enough to be far from random."""
    from sparsegate import training

    return training.train_float(vowels, hidden=16, epochs=8, seed=1)
