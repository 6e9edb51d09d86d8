"""The Python surface: every name of ``import sparsegate`` resolves when it is asked for, and nothing heavy is loaded before."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import sparsegate
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("sw", "hw", "sim"))}
HEAVY = "{'numpy', 'torch', 'amaranth', 'cocotb', 'matplotlib', 'safetensors', 'sparsegate_app', 'typer'}"


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_nothing_is_loaded_before_a_name_is_asked_for():
    assert python(f"import sys, sparsegate; dir(sparsegate); print(*{HEAVY} & {{*sys.modules}})") == ""


def test_names_resolve_and_are_listed():
    assert set(sparsegate._NAMES) <= {*dir(sparsegate)} & {*sparsegate.__all__}
    for name, where in sparsegate._NAMES.items():
        found = getattr(sparsegate, name)
        assert isinstance(found, types.ModuleType) == (":" not in where), name
        assert callable(found) or isinstance(found, types.ModuleType)
    with pytest.raises(
        AttributeError, match="module 'sparsegate' has no attribute 'lstm'; it has HardwareConfig, Layout"
    ):
        _ = sparsegate.lstm
    assert not hasattr(sparsegate, "lstm")


def test_type_checkers_see_the_same_names():
    stub = ast.parse(Path(sparsegate.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {}
    for line in stub.body:
        for one in line.names if isinstance(line, ast.ImportFrom) else ():
            mark = "." if line.module == "sparsegate" else ":"
            seen[one.asname or one.name] = f"{line.module}{mark}{one.name}"
    assert seen == sparsegate._NAMES
    (listed,) = [line.value for line in stub.body if isinstance(line, ast.Assign)]
    assert sorted(ast.literal_eval(listed)) == sorted(sparsegate.__all__)


def test_paths_that_users_know():
    code = "from sparsegate import golden, prune; from sparsegate.quantize import QuantizeConfig, quantize; import sparsegate; "
    code += (
        "print(golden.run.__name__, prune.attach.__name__, quantize.__name__, sparsegate.quantize.quantize is quantize)"
    )
    assert python(code) == "run attach quantize True"


def test_from_a_network_to_a_simulation(tmp_path):
    """What a Python user writes: each stage takes what the one before gave."""
    rng = np.random.default_rng(1)
    x, lengths = rng.normal(size=(3, 5, 4)), np.array([5, 2, 4])
    network = synthetic.network(4, [Shape("lstm", 6), Shape("linear", 3)], seed=1)
    program = sparsegate.quantize.quantize(network, x, lengths)
    score = sparsegate.evaluate(program, x, [0, 1, 2], lengths)
    assert repr(score) == f"<Evaluation: accuracy, golden model: {100 * score.accuracy:.2f} % of 3 sequences>"
    built = sparsegate.compile(program, sparsegate.HardwareConfig(rows=4), out=tmp_path)
    assert (built.folder / "engine.v").exists()
    found = sparsegate.simulate(built, x[:1], lengths[:1], simulator="amaranth")
    assert found.passed
    assert found.cycles.predicted == found.cycles.counted
    assert found.digests["verilog"] is not None
    assert "values that differ" in found.summary()
    # from files, as on the command line, and on another array
    again = sparsegate.simulate(str(built.folder), x[:1], lengths[:1], simulator="amaranth")
    assert again.cycles == found.cycles
    wider = sparsegate.simulate(
        built, x[:1], lengths[:1], simulator="amaranth", config=sparsegate.HardwareConfig(rows=8)
    )
    assert wider.digests["verilog"] is None
    assert wider.cycles.counted < found.cycles.counted
