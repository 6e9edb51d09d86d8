"""The Makefile helps, and says in a sentence what a machine lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERBS = (
    "help",
    "setup",
    "demo",
    "test",
    "test-rest",
    "test-all",
    "lint",
    "sim",
    "bitstream",
    "bench",
    "bench-accuracy",
    "bench-performance",
    "bench-real",
    "docs",
    "clean",
)


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    command = [shutil.which("make"), "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def bare(tmp_path):
    """A clone without an environment, as far as the Makefile is concerned."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)  # it may be a link to the machine's own program
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_help_is_the_default_and_lists_every_verb(bare):
    run = make(bare)
    assert run.returncode == 0, run.stderr
    listed = [line.split()[0] for line in run.stdout.splitlines() if line.startswith("  ")]
    assert set(VERBS) <= set(listed)


def test_python_that_is_too_old(bare):
    old = script(bare / "python3.10", '[ "$1" = --version ] && echo Python 3.10.12; exit 1')
    run = make(bare, "setup", PYTHON=str(old))
    assert run.returncode != 0
    assert "SparseGate needs Python 3.11 or newer, found: Python 3.10.12." in run.stderr
    assert not (bare / ".venv").exists()


def test_python_without_venv(bare):
    half = script(bare / "python3.11", 'case "$2" in *ensurepip*) exit 1;; esac')
    run = make(bare, "setup", PYTHON=str(half))
    assert run.returncode != 0
    assert "sudo apt-get install python3-venv" in run.stderr
    assert not (bare / ".venv").exists()


def ready(bare: Path) -> Path:
    """A folder whose environment is there already, and a PATH with nothing but what the Makefile itself runs."""
    (bare / ".venv" / "bin").mkdir(parents=True)
    script(bare / ".venv" / "bin" / "python", "exit 0")
    (bare / ".venv" / ".installed").touch()
    programs = bare / "programs"
    programs.mkdir()
    for name in ("bash", "touch", "env"):
        (programs / name).symlink_to(shutil.which(name))
    user(programs, 1000)
    return programs


def user(programs: Path, number: int) -> None:
    """Who the Makefile believes to run it."""
    script(programs / "id", f"echo {number}")


def test_missing_packages_are_named(bare):
    programs = ready(bare)
    run = make(bare, "system", PATH=str(programs))
    assert run.returncode != 0
    assert (
        "Not installed: iverilog fpga-icestorm g++ perl. To install: sudo apt-get install iverilog fpga-icestorm g++ perl"
        in run.stderr
    )
    assert "Verilator cannot build a simulation without g++ and perl." in run.stderr


def test_icarus_is_not_required(bare):
    programs = ready(bare)
    for name in ("c++", "perl"):
        script(programs / name, "exit 0")
    run = make(bare, "system", PATH=str(programs))
    assert run.returncode == 0, run.stderr
    assert "To install: sudo apt-get install iverilog fpga-icestorm" in run.stderr
    assert "what needs Icarus Verilog or icebox_vlog is skipped" in run.stderr


def test_packages_are_installed_where_we_may(bare):
    programs = ready(bare)
    user(programs, 0)
    script(programs / "apt-get", f'echo "$@" >> {bare}/asked')
    run = make(bare, "system", PATH=str(programs))
    assert run.returncode == 0, run.stderr
    assert (bare / "asked").read_text().splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends iverilog fpga-icestorm g++ perl",
    ]


def asked(bare: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``make`` in a folder with some rooms, where Python prints what it is asked for."""
    programs = ready(bare)
    for name in ("find", "paste", "sed", "sort"):
        (programs / name).symlink_to(shutil.which(name))
    for name in ("c++", "iverilog", "icebox_vlog", "perl"):
        script(programs / name, "exit 0")
    script(bare / ".venv" / "bin" / "python", 'echo "$@"')
    for room in ("hw/engine", "sw", "hw/__pycache__"):
        (bare / "tests" / room).mkdir(parents=True)
    return make(bare, *words, PATH=str(programs), JOBS="2")


def test_a_room_is_tested_by_its_name(bare):
    run = asked(bare, "test", "ROOM=hw/engine")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["-m pytest -n 2 --dist worksteal -m not slow tests/hw/engine"]


def test_a_room_that_is_not_there_is_a_sentence(bare):
    run = asked(bare, "test", "ROOM=hw/motor")
    assert run.returncode != 0
    assert run.stderr.splitlines()[0] == "There is no room tests/hw/motor, expected one of: hw hw/engine sw"
    assert run.stdout == ""


def test_no_test_runs_twice_and_none_is_left_out(bare):
    """The suite's two halves: what is marked slow, and all else."""
    run = asked(bare, "test-all")
    assert run.returncode == 0, run.stderr
    quick, rest = run.stdout.splitlines()
    assert quick == "-m pytest -n 2 --dist worksteal -m not slow tests"
    assert rest == "-m pytest -n 2 --dist worksteal -m slow"
