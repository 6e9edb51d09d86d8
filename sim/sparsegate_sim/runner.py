"""Builds a design for Icarus or Verilator and runs a cocotb bench on it, through cocotb's own runner."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from sparsegate.errors import SparseGateError, ToolError
from sparsegate_sim import cache, memories, tools, verilated

Simulator = Literal["icarus", "verilator"]
Waves = Literal["vcd", "fst"]

LOG = "simulation.log"
TIMESCALE = ("1ns", "1ps")
"""Icarus would otherwise count in whole seconds."""
TOP_VISIBLE = """\
`verilator_config
public_flat_rw -module "{top}" -var "*"
"""
"""cocotb makes every signal of a design visible to VPI, which costs most of Verilator's optimisation; a bench drives ports."""


class SimulationError(SparseGateError):
    """A bench failed or a simulator ended early."""


def tool(simulator: str) -> tools.Tool:
    """The simulator called so, checked for its presence and version."""
    if simulator not in get_args(Simulator):
        raise SparseGateError(f"unknown simulator {simulator!r}; expected one of {', '.join(get_args(Simulator))}")
    return tools.icarus() if simulator == "icarus" else tools.verilator()


def waves_format(path: Path | None) -> Waves | None:
    """The waveform format that a file's name asks for."""
    if path is None:
        return None
    suffix = path.suffix.removeprefix(".")
    if suffix not in get_args(Waves):
        raise SparseGateError(f"waveforms are written to .vcd or .fst files, not to {path}")
    return suffix  # type: ignore[return-value]


def build(verilog: str, top: str, simulator: Simulator, waves: Waves | None = None, folder: Path | None = None) -> Path:
    """Compile a design for cocotb; returns the folder of the build, which is reused for equal contents.

    Raises
    ------
    ToolError
        If a tool is missing or too old, or refuses the design.
    """
    found, library = tool(simulator), tools.cocotb()
    if simulator == "verilator":
        tools.compiler()
        if waves == "fst":
            tools.fst_headers()
    options = _options(simulator, waves)
    parts = (
        verilog,
        top,
        simulator,
        found.release,
        library.release,
        *options,
        waves or "",
        sys.prefix,
        *(verilated.key(found, waves) if simulator == "verilator" else ()),
    )
    return cache.built(
        f"{simulator}-{cache.digest(*parts)}",
        lambda temporary: _compile(temporary, verilog, top, simulator, found, options, waves, folder),
        folder,
    )


def _options(simulator: str, waves: Waves | None) -> list[str]:
    if simulator == "icarus":
        return []
    # random values for whatever the design does not initialise, instead of flattering zeros
    options = ["-O3", "-Wno-fatal", "-Wno-WIDTH", "-Wno-UNOPTFLAT", "--x-assign", "unique", "--x-initial", "unique"]
    return options + (["--trace-fst"] if waves == "fst" else [])


def _compile(
    folder: Path,
    verilog: str,
    top: str,
    simulator: str,
    found: tools.Tool,
    options: list[str],
    waves: Waves | None,
    cached: Path | None,
) -> None:
    """Compile a design in ``folder``; ``cached`` holds what designs share."""
    source = folder / f"{top}.v"
    source.write_text(verilog, encoding="utf-8")
    sources = [source]
    if simulator == "verilator":
        visible = folder / "visible.vlt"
        visible.write_text(TOP_VISIBLE.format(top=top), encoding="utf-8")
        sources = [visible, source]
        objects = verilated.runtime(found, waves, cached, vpi=True)
    log = folder / "build.log"
    runner = _runner(simulator, found, log)
    try:
        runner.build(
            sources=sources,
            hdl_toplevel=top,
            build_dir=folder / "objects" if simulator == "verilator" else folder,
            build_args=options,
            timescale=TIMESCALE,
            waves=waves is not None,
            always=True,
        )
    except RuntimeError as error:
        raise ToolError(f"{simulator} could not build {top}:\n{tools.tail(log)}") from error
    if simulator == "verilator":
        from cocotb_tools import config

        libraries = [f"-Wl,-rpath,{config.libs_dir}", f"-L{config.libs_dir}", "-lcocotbvpi_verilator"]
        main = config.share_dir / "lib" / "verilator" / "verilator.cpp"
        verilated.program(folder, str(main), top, objects, libraries, found, waves)


def run(
    built: Path,
    top: str,
    simulator: Simulator,
    bench: str,
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    waves: Path | None = None,
    seed: int = 1,
    contents: Mapping[str, str] | None = None,
) -> None:
    """Run the tests of a bench (an importable module) on a build.

    ``folder`` takes the log and cocotb's result file; ``environment`` reaches the bench; ``waves`` names a .vcd or .fst file to
    write, and needs a build with the same format; ``contents`` are memories' files (``memories.outside``).

    Raises
    ------
    SimulationError
        If a test failed, or none ran.
    """
    found = tool(simulator)
    tools.cocotb()
    folder = Path(folder).resolve()
    with cache.scratch(folder, LOG) as scratch:
        memories.write(contents or {}, scratch)
        log, results = scratch / LOG, scratch / "results.xml"
        runner = _runner(simulator, found, log, scratch / f"waves.{waves_format(waves)}")
        with contextlib.suppress(SystemExit, RuntimeError):  # the result file says what happened
            runner.test(
                test_module=bench,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                build_dir=built,
                test_dir=scratch,
                results_xml=str(results),
                extra_env=dict(environment or {}),
                waves=waves is not None,
                seed=seed,
            )
        _judge(results, log, bench)
        if waves is not None:
            keep(scratch / f"waves.{waves_format(waves)}", Path(waves))


def _judge(results: Path, log: Path, bench: str) -> None:
    """Raise unless every test of the result file passed."""
    try:
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        raise SimulationError(f"the simulation of {bench} ended early:\n{tools.tail(log)}") from None
    if not cases:
        raise SimulationError(f"the bench {bench} holds no test")
    for case in cases:
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                reason = (
                    found.get("error_msg") or found.get("message") or (found.text or "").strip() or "no reason given"
                )
                raise SimulationError(f"{bench}.{case.get('name')} failed: {reason}")


def keep(written: Path, wanted: Path) -> None:
    """Move a finished file to where it was asked for."""
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, wanted)
    except OSError as error:
        raise SparseGateError(f"cannot write {wanted}: {error.strerror or error}") from error


def _runner(simulator: str, found: tools.Tool, log: Path, dump: Path | None = None) -> Any:
    """cocotb's runner for a simulator: output goes to ``log``, waveforms to ``dump``, and its processes end with this one."""
    # cocotb is imported when it is known to be there
    from cocotb_tools import runner as library

    base = library.Icarus if simulator == "icarus" else library.Verilator

    class Runner(base):  # type: ignore[misc, valid-type]
        def _set_env_common(self) -> None:
            super()._set_env_common()
            self.env["PATH"] = os.pathsep.join([str(found.path.parent), self.env["PATH"]])
            self.env.update(found.environment)

        def _simulator_in_path_build_only(self) -> None:
            self.executable = str(found.path)

        def _build_command(self) -> list[list[str]]:
            # visible.vlt names the signals that a bench needs, and verilated.program compiles
            return [
                [part for part in command if part != "--public-flat-rw"]
                for command in super()._build_command()
                if command[0] != "make"
            ]

        def _test_command(self) -> list[list[str]]:
            (command,) = super()._test_command()
            if dump is None or not self.waves:
                return [command]
            if simulator == "icarus":
                form = dump.suffix.replace(".", "-")
                return [[*(form if part == "-fst" else part for part in command), f"+dumpfile_path={dump}"]]
            return [[*command, "--trace-file", str(dump)]]

        def _execute_cmds(self, cmds: Sequence[Sequence[str]], cwd: Any, stdout: Any = None) -> None:
            for number, command in enumerate(cmds):
                status = tools.execute(command, log, Path(cwd), self.env, append=number > 0)
                if status:
                    raise RuntimeError(f"{command[0]} ended with status {status}")

    made = Runner()
    made.log.disabled = True
    return made
