"""From a Program to a bitstream: Amaranth, Yosys, nextpnr and a packer; see ``docs/reference/synthesis.md``."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_hw.board.board import BAUD
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis import patch, routed, tools
from sparsegate_hw.synthesis.boards import target
from sparsegate_hw.synthesis.folders import making
from sparsegate_hw.synthesis.plan import Build, Design, Seeds, digest, sha256
from sparsegate_hw.synthesis.report import cell_counts
from sparsegate_hw.synthesis.result import PROGRAM, RESULT, SynthResult, complete
from sparsegate_hw.synthesis.routed import Routed, Unplaced
from sparsegate_hw.synthesis.tools import Progress
from sparsegate_hw.synthesis.verilog import quick_conversion

ATTEMPTS = 3


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
    layout: Layout | None = None,
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
    layout : of the Program on the configuration, where it has been made already.

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
    design = Design.of(build, program, layout)
    tries = Seeds(range(seed, seed + max(1, attempts if seeds is None else seeds)), seeds is None)
    final = Path(folder) / _folder(program, build, design, tries)
    if (final / RESULT).exists():
        try:
            found = SynthResult.load(final)
        except SparseGateError as error:
            say(f"building again: {error}")
        else:
            say(f"found an earlier result in {final}")
            return found
    with making(final, keep=lambda staging: complete(final)) as staging:
        _build(staging, Path(folder) / "routed", build, design, tries, say)
        program.save(staging / PROGRAM)
    return SynthResult.load(final).fresh()


def _folder(program: Program, build: Build, design: Design, seeds: Seeds) -> str:
    """Name of the folder of a result: Program, target, and a digest of all that decides the bitstream."""
    key = build.key(design.form, design.constraints) | {
        "contents": digest(design.contents),
        "seeds": [seeds.numbers.start, len(seeds.numbers), seeds.until_met],
        "packer": build.packer(),
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{program.name}-{build.target.name}").strip(".-")
    return f"{name}-{digest(key)[:12]}"


def _build(work: Path, cache: Path, build: Build, design: Design, seeds: Seeds, say: Progress) -> None:
    """Leave bitstream and result in ``work``; routed designs are kept in ``cache``."""
    started = time.monotonic()
    for name, text in build.files(design.text, design.constraints).items():
        (work / name).write_text(text, encoding="utf-8")
    best = _best(work, cache, build, design, seeds, say)
    text = patch.replace(best.run.text, best.run.places, design.contents)
    begun = time.monotonic()
    routed.pack(build, text, work, say)
    packing = round(time.monotonic() - begun, 1)
    result = _result(work, build, design, best, packing, round(time.monotonic() - started, 1))
    # intermediate files are large and quickly made again
    (work / "top.json").unlink(missing_ok=True)
    (work / f"top.{build.family.routed}").unlink()
    for file in (routed.RUN, routed.REPORT):
        shutil.copyfile(best.run.folder / file, work / file)
    if (best.run.folder / routed.NETLIST).exists():  # not of a design that an earlier version routed
        shutil.copyfile(best.run.folder / routed.NETLIST, work / routed.NETLIST)
    # the configuration of this bitstream: the kept design may have been routed for another Program
    (work / routed.ROUTED).write_bytes(routed.compressed(text))
    artefact.write_json(work / RESULT, result.as_json())


@dataclass(frozen=True)
class _Best:
    """The fastest of the routed designs, its seed, and the MHz of every seed that was tried."""

    run: Routed
    seed: int
    tried: tuple[tuple[int, float | None], ...]


def _best(work: Path, cache: Path, build: Build, design: Design, seeds: Seeds, say: Progress) -> _Best:
    """Place and route with one seed after another; Unplaced if none finds a placement."""
    key = build.key(design.form, design.constraints)
    best: tuple[Routed, int] | None = None
    tried: list[tuple[int, float | None]] = []
    unplaced: Unplaced | None = None
    seconds: dict[str, float] = {}
    for number in seeds.numbers:
        folder = cache / digest(key | {"seed": number})[:24]
        try:
            if found := Routed.kept(folder):
                say(f"nextpnr: found an earlier run with seed {number}")
            run = found or routed.route(folder, work, build, design.contents, number, seconds, say)
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
        elif seeds.until_met:
            break
    if best is None:
        assert unplaced is not None
        raise unplaced
    return _Best(*best, tuple(tried))


def _result(work: Path, build: Build, design: Design, best: _Best, packing: float, seconds: float) -> SynthResult:
    """What was measured; ``packing`` and ``seconds`` are those of the packer and of the whole run."""
    family, chosen, run = build.family, build.target, best.run
    where = f"speed grade {chosen.speed}, " if chosen.speed else ""
    return SynthResult(
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
        seconds=seconds,
        stages={**run.seconds, family.packer.name: packing},
        seed=best.seed,
        tried=best.tried,
        form=sha256(design.form),
        how=f"{family.nextpnr.name.replace('_', '-')} after routing, engine clock, {chosen.device} {where}seed {best.seed},"
        f" {run.router}"
        + (f"; an upper bound: {family.untimed} have no delays in its model" if family.untimed else ""),
        critical_path=run.critical_path,
        router=run.router,
        untimed=family.untimed,
        sprams=run.figures.get("sprams", 0),
    )


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
        tools.run_yosys(folder, build.script(), say)
        return dict(sorted(cell_counts(artefact.read_json(folder / "top.json")).items()))


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
        for name, text in build.files(*build.elaborate(program)).items():
            (folder / name).write_text(text, encoding="utf-8")
        tools.run_yosys(folder, build.script(), progress)
        tools.nextpnr(family).run([*build.nextpnr(), "--pack-only"], folder, "nextpnr.log", progress)
        used = artefact.read_json(folder / "attempt.json")["utilization"]
        cells: Mapping[str, int] = cell_counts(artefact.read_json(folder / "top.json")) if family.cells else {}
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
