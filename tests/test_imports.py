"""Imports run one way, and heavy libraries stay in their rooms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("sw", "hw", "sim"))}


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after a statement, in a fresh interpreter."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_contracts_of_import_linter():
    lint = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([lint, "--no-cache"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize(
    "modules",
    [
        "sparsegate.golden, sparsegate.array.cycles, sparsegate.array.images, sparsegate.quantize, sparsegate.golden.explain",
        "sparsegate.data.datasets, sparsegate.protocol, sparsegate.host, sparsegate_app.doctor",
    ],
)
def test_the_numbers_need_numpy_only(modules):
    assert not loaded(f"import {modules}") & {"torch", "amaranth", "cocotb", "matplotlib", "sktime"}


def test_hardware_needs_no_torch():
    found = loaded("import sparsegate_hw.synthesis.emit, sparsegate_hw.synthesis.synth, sparsegate_sim.simulate")
    assert "amaranth" in found
    assert not found & {"torch", "matplotlib"}
