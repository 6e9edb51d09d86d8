"""Compiles what Verilator writes: two units instead of many files, and a run-time library shared by all designs.

Quicker than Verilator's own makefile, which also names the compilers of the machine that its wheel was made on, and refuses
folders with spaces.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from sparsegate.errors import ToolError
from sparsegate_sim import cache, tools

COMPILE = ("c++", "-std=c++17", "-c", "-I.", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0")
FAST, SLOW = os.environ.get("SPARSEGATE_OPTIMIZE", "-O2"), "-O0"
"""Levels for what runs every cycle, and for what runs once and would take most of the compile time.

``SPARSEGATE_OPTIMIZE=-O0`` builds in half the time what then runs for a few thousand cycles only, as tests do.
"""
PARTS = ("verilated", "verilated_threads")
VPI_PARTS = ("verilated_vpi", "verilated_dpi")


def compiler(found: tools.Tool, waves: str | None) -> list[str]:
    """The compiler's command line, up to what is to be compiled."""
    root = dict(found.environment).get("VERILATOR_ROOT") or found.path.parent.parent / "share" / "verilator"
    include = Path(root) / "include"
    defines = [f"-DVM_TRACE={int(waves is not None)}", "-DVM_TRACE_SAIF=0"]
    defines += [f"-DVM_TRACE_{form.upper()}={int(waves == form)}" for form in ("vcd", "fst")]
    return [*COMPILE, *defines, f"-I{include}", f"-I{include / 'vltstd'}"]


def key(found: tools.Tool, waves: str | None) -> tuple[str, ...]:
    """What decides the outcome of compiling with :func:`compiler`, for a digest."""
    return (found.release, tools.compiler_release(), platform.machine(), sys.platform, waves or "", *COMPILE)


def runtime(found: tools.Tool, waves: str | None, folder: Path | None = None, vpi: bool = False) -> list[Path]:
    """Object files of the run-time library; ``vpi`` adds what cocotb needs."""
    parts = [PARTS] + ([] if waves is None else [(f"verilated_{waves}_c",)]) + ([VPI_PARTS] if vpi else [])
    objects = []
    for names in parts:

        def make(temporary: Path, names: tuple[str, ...] = names) -> None:
            commands = []
            for name in names:
                (temporary / f"unit_{name}.cpp").write_text(f'#include "{name}.cpp"\n', encoding="utf-8")
                commands.append([*compiler(found, waves), FAST, f"unit_{name}.cpp"])
            execute(commands, temporary, found, "Verilator's run-time library")

        built = cache.built(f"runtime-{cache.digest(*key(found, waves), FAST, *names)}", make, folder)
        objects += sorted(built.glob("*.o"))
    return objects


def program(
    folder: Path, main: str, name: str, objects: list[Path], libraries: list[str], found: tools.Tool, waves: str | None
) -> None:
    """Compile Verilator's output in ``folder/objects`` with a main file into ``folder/name``, and remove what is left over."""
    sources = sorted(path.name for path in (folder / "objects").glob("*.cpp"))
    slow = [source for source in sources if source.endswith("__Slow.cpp")]
    for unit, parts in (("fast", [source for source in sources if source not in slow] + [main]), ("slow", slow)):
        text = "".join(f'#include "{part}"\n' for part in parts)
        (folder / f"{unit}.cpp").write_text(text, encoding="utf-8")
    command = [*compiler(found, waves), "-Iobjects"]
    execute([[*command, FAST, "fast.cpp"], [*command, SLOW, "slow.cpp"]], folder, found, name)
    libraries = libraries + (["-llz4", "-lz"] if waves == "fst" else [])
    link = ["c++", "-rdynamic", "fast.o", "slow.o", *map(str, objects), "-pthread", *libraries, "-o", name]
    execute([link], folder, found, name)
    shutil.rmtree(folder / "objects")
    for unit in ("fast", "slow"):
        (folder / f"{unit}.o").unlink()


def execute(commands: list[list[str]], folder: Path, found: tools.Tool, what: str) -> None:
    """Run commands side by side; output goes to build.log, a failure becomes a ToolError."""
    log = folder / "build.log"
    if tools.execute_all(commands, log, folder, tools.environment(found), append=True):
        raise ToolError(f"{what} could not be built:\n{tools.tail(log)}")
