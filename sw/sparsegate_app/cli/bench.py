"""``sparsegate bench``: measurements that take longer than a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sparsegate_app import console
from sparsegate_app.cli.options import Device, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sparsegate.array import HardwareConfig
    from sparsegate.program import Program
    from sparsegate_app.bench.workloads import Workload

WORKLOADS = "performance"


class Named(TyperGroup):
    """``bench [NAME...]`` is ``bench performance [NAME...]``: words that name no other measurement are workloads."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [WORKLOADS, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Named,
    help="""Measure: whole workloads (the default), accuracy over seeds, speed of the models and simulators.

    [bold]sparsegate bench NAME...[/] is short for [bold]sparsegate bench performance NAME...[/]""",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")]


@app.command(WORKLOADS)
def performance(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="vowels, vowels-hx8k, sprams, keywords, keywords-gw2a, encoder, ese, spartus, peer. Default: all.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--json", "-o", metavar="FILE", help="JSON file to write, and beside it a page.")
    ] = Path("build/bench/performance.json"),
    no_pnr: Annotated[
        bool, typer.Option("--no-pnr", help="No place and route: clock and area as FILE has them, or none.")
    ] = False,
    skip_rtl: Annotated[bool, typer.Option("--skip-rtl", help="Simulate nothing.")] = False,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Steps of every workload that run in RTL.")] = 6,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Placements that are tried, of which the fastest counts. Default: each workload's own number, 1 to 3.",
        ),
    ] = None,
    roofline: Annotated[
        Path | None, typer.Option("--roofline", help="Page to write that says what bounds each workload.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            "--points",
            metavar="FILE",
            help="File of synthesized points to which what is placed and routed is added, and whose estimates the pages show."
            " Default: synthesis.json beside the JSON file, where there is one, for the pages alone.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of the data. Default: SPARSEGATE_DATA, or ../shared/data."),
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Folder that keeps networks and bitstreams.")] = Path(
        "build/bench/performance"
    ),
) -> None:
    """Cycles, occupancy, clock, area, time of a step and throughput of whole workloads, beside what others report.

    Place and route of all of them takes hours; --no-pnr takes minutes. FILE keeps the rows of workloads that are not
    measured, and of the others what is left out and has not changed: clock, area, and what RTL said. A workload whose data
    are missing is skipped, with the reason; one that fails otherwise ends the command with status 1 after the others. The
    word [bold]performance[/] may be left out.

    Example: [bold]sparsegate bench performance spartus --no-pnr --json performance.json[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from dataclasses import replace

    from sparsegate import artefact, estimate
    from sparsegate.errors import MissingData, SparseGateError
    from sparsegate_app.bench import cpu, performance_table, real, workloads
    from sparsegate_app.bench import performance as bench
    from sparsegate_app.bench import roofline as page

    chosen = workloads.chosen(names or [])
    folder, before = real.data_folder(data_dir), bench.read(out)
    earlier = {row["name"]: row for row in (before or {}).get("workloads", [])}
    beside = points or out.with_name("synthesis.json")
    if beside.exists():
        estimate.read_points(beside)  # refused before an hour's work, not after it
    rows, skipped, failed = [], {}, {}
    with console.task("performance") as task:

        def place(program: Program, workload: Workload) -> dict[str, Any]:
            result = _place(program, workload, work, seeds or workload.seeds, task.say)
            if points is not None:
                named = replace(program, name=workload.name)
                estimate.add_point(
                    points, estimate.point(named, workload.config, result, f"sparsegate bench {workload.name}")
                )
            return result

        def count(program: Program, workload: Workload) -> dict[str, int]:
            from sparsegate_hw.synthesis.synth import engine_cells

            return engine_cells(program, workload.config, workload.device, task.say)

        def form(program: Program, workload: Workload) -> str:
            from sparsegate_hw.synthesis.plan import form_digest

            return form_digest(program, workload.config, device=workload.device, frequency_hz=_hertz(workload))

        for workload in chosen:
            try:
                row = bench.measure(
                    workload,
                    folder,
                    work,
                    task.say,
                    frames,
                    None if skip_rtl else _simulate,
                    None if no_pnr else place,
                    cpu.measure,
                    earlier.get(workload.name),
                    count,
                    {} if skip_rtl else _simulator(),
                    form,
                )
            except MissingData as error:
                skipped[workload.name] = str(error)
                continue
            except SparseGateError as error:
                failed[workload.name] = str(error)
                continue
            rows.append(row)
            # the record and its page are written after every row: the next one may take an hour
            result = bench.merged(bench.read(out), rows, list(workloads.WORKLOADS))
            measured = estimate.read_points(beside) if beside.exists() else []
            artefact.write_json(out, result)
            artefact.write_text(out.with_suffix(".md"), performance_table.page(result, measured))
        if roofline is not None and rows:
            task.say("how cycles grow with the shape")
            result["laws"] = page.laws()
            artefact.write_json(out, result)
            artefact.write_text(roofline, page.page(result, measured))
    for name, reason in skipped.items():
        console.note(f"{name}: skipped, {reason}")
    for name, reason in failed.items():
        console.note(f"{name}: failed, {reason}")
    for row in rows:
        if late := bench.missed(row):
            console.note(f"{row['name']}: {late}")
    if rows:
        title = (
            "a step with nothing skipped: occupancy of all cycles, dense-equivalent GOPS, values in which RTL differs;"
            f" {out.with_suffix('.md')} has every case, area, and what others report"
        )
        lines = [performance_table.short(row) for row in rows]
        _show(result, False, title, tuple(performance_table.SHORT), lines, out)
    wrong = []
    if missing := [*failed, *(skipped if not rows else ())]:
        wrong.append(f"could not be measured: {', '.join(missing)}")
    if differing := [row["name"] for row in rows if row["rtl_mismatches"]]:
        wrong.append(f"RTL differs from the models: {', '.join(differing)}; {out} says in how many values")
    if wrong:
        raise SparseGateError("; ".join(wrong))


def _place(program: Program, workload: Workload, work: Path, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What synthesis measured of a Program on a workload's device, from an earlier run where there is one."""
    from sparsegate_hw.synthesis.synth import synthesize

    result = synthesize(
        program,
        workload.config,
        device=workload.device,
        folder=work,
        frequency_hz=_hertz(workload),
        attempts=1,
        seeds=seeds,
        progress=say,
    )
    return result.as_json()


def _hertz(workload: Workload) -> int | None:
    """The clock that is asked for; None: the device's."""
    return workload.mhz and workload.mhz * 1_000_000


def _simulator() -> dict[str, str]:
    """Version of what simulates the RTL."""
    from sparsegate_sim.tools import verilator

    return {"verilator": verilator().release}


@app.command()
def area(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="vowels, vowels-hx8k, keywords, keywords-gw2a, encoder, ese, spartus. Default: all.",
        ),
    ] = None,
    points: Annotated[
        Path,
        typer.Option("--points", metavar="FILE", help="File of synthesized points to which they are added."),
    ] = Path("build/bench/synthesis.json"),
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of the data. Default: SPARSEGATE_DATA, or ../shared/data."),
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Folder that keeps networks.")] = Path("build/bench/performance"),
    as_json: Json = False,
) -> None:
    """LUTs, flip-flops, block RAMs and multipliers of workloads on other arrays, packed and not placed: minutes each.

    More points for the laws of [bold]estimate[/] than there are hours to route; they have no clock.

    Example: [bold]sparsegate bench area keywords --points points.json[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from dataclasses import replace

    from sparsegate import estimate
    from sparsegate.errors import MissingData, SparseGateError
    from sparsegate_app.bench import real, workloads
    from sparsegate_hw.synthesis.synth import pack

    folder = real.data_folder(data_dir)
    chosen = [each for each in workloads.chosen(names or []) if each.packed]
    if not chosen:
        having = ", ".join(each.name for each in workloads.WORKLOADS.values() if each.packed)
        raise SparseGateError(f"no other arrays are measured of {', '.join(names or [])}, only of {having}")
    rows: list[dict[str, Any]] = []
    with console.task("area") as task:
        for workload in chosen:
            try:
                program = replace(workload.make(folder, work).program, name=workload.name)
            except MissingData as error:
                console.note(f"{workload.name}: skipped, {error}")
                continue
            for config in workload.packed:
                task.say(f"{workload.name}: {config.rows} x {config.groups} PEs")
                measured = pack(
                    program, config, device=workload.device, frequency_hz=_hertz(workload), progress=task.say
                )
                rows.append(estimate.point(program, config, measured, f"sparsegate bench area {workload.name}"))
                estimate.add_point(points, rows[-1])
    if not rows:
        raise SparseGateError(f"could not be measured: {', '.join(each.name for each in chosen)}")
    figures = ("luts", "ffs", "bram", "dsp")
    cells = [(row["name"], *(f"{row[figure]:,}" for figure in figures)) for row in rows]
    columns = ("design", "LUTs", "flip-flops", "block RAMs", "multipliers")
    _show({"points": rows}, as_json, "packed, not placed", columns, cells, points)


@app.command()
def accuracy(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="vowels, digits-64, digits-128, keywords, speakers, engines, characters, or your own .npz file; repeat for"
            " several. Default: all.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0 to SEEDS - 1, of which the mean is taken.")] = 3,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of the data. Default: SPARSEGATE_DATA, or ../shared/data."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes, each with a task and seed of its own.")
    ] = 1,
    work: Annotated[
        Path,
        typer.Option("--work", help="Folder that keeps every row and network, from which an interrupted run goes on."),
    ] = Path("build/bench/accuracy"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the work folder has.")] = False,
    device: Device = "cpu",
    out: Out = Path("build/bench/accuracy.json"),
    as_json: Json = False,
) -> None:
    """What compression costs on real tasks: float, pruned and golden model, over patterns, bits and seeds.

    OUT keeps the rows of tasks and seeds that are not measured. A table is written beside it, with the ending .md.

    Example: [bold]sparsegate bench accuracy --task vowels --seeds 1[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sparsegate import artefact
    from sparsegate.training.trainable import usable
    from sparsegate_app.bench import accuracy as bench
    from sparsegate_app.bench import accuracy_table, real

    names = list(dict.fromkeys(task or bench.PLANS))
    for name in names:
        bench.plan_of(name)  # refuses what is none
    usable(device)
    folder = real.data_folder(data_dir)
    if fresh:
        bench.forget(names, range(seeds), work)
    with console.task("train, prune and quantize") as shown:
        found, skipped = bench.measure(names, range(seeds), folder, work, jobs, shown, device)
    for name, reason in skipped.items():
        console.note(f"{name}: skipped, {reason}")
    result = bench.merged(artefact.read_json(out) if out.exists() else None, found)
    artefact.write_json(out, result)
    artefact.write_text(out.with_suffix(".md"), accuracy_table.page(result))
    title = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    _show(result, as_json, title, accuracy_table.COLUMNS, [accuracy_table.cells(row) for row in found["means"]], out)


@app.command()
def golden(out: Out = Path("build/bench/golden.json"), as_json: Json = False) -> None:
    """Steps a second of the golden model against float torch.nn.LSTM on the same batch, in the same run.

    Example: [bold]sparsegate bench golden --json[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sparsegate import artefact
    from sparsegate_app.bench import golden as bench

    rows = []
    with console.task("golden model and torch") as task:
        for case in bench.CASES:
            task.say(f"LSTM {case[0]} to {case[1]}")
            rows.append(bench.measure(*case))
    result = bench.record(rows)
    artefact.write_json(out, result)
    columns = ("LSTM", "golden, steps/s", "torch, steps/s", "ratio", "inference_mode, steps/s", "ratio")
    cells = [
        (
            f"{row['inputs']} to {row['units']}",
            f"{row['golden']:,}",
            f"{row['torch']:,}",
            f"{row['ratio']:.2f}",
            f"{row['torch_inference']:,}",
            f"{row['ratio_inference']:.2f}",
        )
        for row in rows
    ]
    _show(result, as_json, "sequence steps a second, one thread", columns, cells, out)


@app.command()
def rtl(out: Out = Path("build/bench/rtl.json"), as_json: Json = False) -> None:
    """Clock cycles a second of the engine's RTL: Verilated, in Icarus, in Amaranth's simulator.

    Example: [bold]sparsegate bench rtl[/]
    """
    from dataclasses import asdict

    from sparsegate import artefact
    from sparsegate_app.bench import cpu
    from sparsegate_app.bench import rtl as bench

    with console.task("the same engine on every simulator"):
        speeds = bench.measure(bench.available())
    rows = [asdict(speed) | {"cycles_per_second": round(speed.cycles_per_second)} for speed in speeds]
    result = {"definition": bench.DEFINITION, "processor": cpu.processor(), "rows": rows}
    artefact.write_json(out, result)
    columns = ("simulator", "driven by", "cycles a second", "ratio", "cycles run", "seconds", "to build")
    cells = [
        (
            speed.simulator,
            speed.driver,
            f"{speed.cycles_per_second:,.0f}",
            f"{speed.ratio:,.1f}",
            speed.cycles,
            f"{speed.seconds:.2f}",
            f"{speed.build_seconds:.1f}",
        )
        for speed in speeds
    ]
    _show(result, as_json, "RTL, every value and cycle compared", columns, cells, out)


@app.command()
def scale(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of the data. Default: SPARSEGATE_DATA, or ../shared/data."),
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Folder that keeps the network.")] = Path(
        "build/bench/performance"
    ),
    out: Out = Path("build/bench/scale.json"),
    as_json: Json = False,
) -> None:
    """Speed of the tools at the size of the published engines: golden model, compile and RTL of LSTM 123 to 1024 on 96 PEs.

    Example: [bold]sparsegate bench scale[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import tempfile

    from sparsegate import artefact
    from sparsegate.errors import SparseGateError
    from sparsegate.network import synthetic
    from sparsegate.pattern import NM
    from sparsegate_app.bench import cpu, real, workloads
    from sparsegate_app.bench import golden as speed

    workload = workloads.WORKLOADS["spartus"]
    with console.task("speed of the tools") as task:
        task.say("golden model and torch")
        rate = speed.measure(*speed.CASES[-1], repeats=3, pattern=NM(1, 16), head=0)
        task.say("network")
        program, config = workload.make(real.data_folder(data_dir), work).program, workload.config
        task.say("compile")
        with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
            program.save(Path(scratch) / "program.safetensors")
            array = ["--rows", str(config.rows), "--groups", str(config.groups), "--outputs", str(config.outputs)]
            array += ["--deep"] * config.deep
            cost = _metered(["compile", "program.safetensors", *array], scratch)
        task.say("Verilated RTL")
        found = _simulate(program, config, synthetic.stimulus(program.input_format, 2, 16, program.inputs, seed=1))
    if not found.passed:
        raise SparseGateError(found.summary)
    per_second = found.cycles / found.seconds
    rtl = {"cycles": found.cycles, "seconds": round(found.seconds, 2), "build_seconds": round(found.build_seconds, 1)}
    result = {
        "processor": cpu.processor(),
        "golden": rate,
        "compile": cost | {"rows": config.rows, "groups": config.groups},
        "rtl": rtl | {"cycles_per_second": round(per_second), "values_compared": found.values_compared},
    }
    artefact.write_json(out, result)
    cells = [
        ("golden model, batch of 64", f"{rate['golden']:,} steps/s", "1,000 steps/s or more"),
        ("float torch.nn.LSTM, the same batch", f"{rate['torch']:,} steps/s", ""),
        ("compile, wall and processor time", f"{cost['seconds']} s, {cost['cpu_seconds']} s", "under 60 s"),
        ("compile, memory of the largest process", f"{cost['megabytes']:,} MB", "under 2,000 MB"),
        ("Verilated RTL, one core", f"{per_second:,.0f} cycles/s", "20,000 cycles/s or more"),
        ("Verilated RTL, to build", f"{rtl['build_seconds']} s", ""),
    ]
    _show(result, as_json, "LSTM 123 to 1024 at 1:16 on 32 x 3 PEs", ("what", "measured", "goal"), cells, out)


@app.command("cells")
def cells_(out: Out = Path("build/bench/cells.json"), as_json: Json = False) -> None:
    """Fixed-point error against the float network, for every cell at 6, 8, 10, 12 and 16 bits.

    Example: [bold]sparsegate bench cells --out build/bench/cells.json[/]
    """
    from sparsegate import artefact
    from sparsegate_app.bench import cells as bench

    with console.task("quantize every cell"):
        result = bench.table()
    artefact.write_json(out, result)
    columns = ("cell", *(f"{bits} bits" for bits in result["bits"]))
    rows = [(row["cell"], *(f"{error['rms']:.2g}" for error in row["errors"].values())) for row in result["rows"]]
    _show(result, as_json, "RMS error of the outputs; the file has the largest, too", columns, rows, out)


@app.command()
def real(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of third-party data. Default: SPARSEGATE_DATA, else ../shared/data."),
    ] = None,
    out: Out = Path("build/bench/real_models.json"),
    skip_rtl: Annotated[
        bool, typer.Option("--skip-rtl", help="Leave out what simulates RTL, and the compilation of the larger model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Two networks that others trained, on real speech: accuracy of float and 8-bit integers, RTL, time to compile.

    A 3-layer LSTM of spoken commands and a 3-layer speaker encoder, both on the Free Spoken Digit Dataset. A model whose data or
    packages are missing is skipped, with the reason.

    Example: [bold]sparsegate bench real --data-dir ../shared/data[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sparsegate import artefact
    from sparsegate_app.bench import real as bench

    folder = bench.data_folder(data_dir)
    skipped = bench.missing(folder)
    simulate = None if skip_rtl else _simulate
    models: dict[str, dict[str, Any]] = {key: {"skipped": f"skipped, because {why}"} for key, why in skipped.items()}
    with console.task("real models") as task:
        if "speech_commands" not in skipped:
            models["speech_commands"] = bench.speech_commands(folder, simulate, task.say)
        if "speaker_encoder" not in skipped:
            checkpoint = bench.checkpoint_of_encoder()
            assert checkpoint is not None  # else it would be among the skipped
            models["speaker_encoder"], program = bench.speaker_encoder(folder, checkpoint, simulate, task.say)
            if not skip_rtl:
                task.say("speaker encoder: import and compile")
                models["speaker_encoder"]["compile"] = _compile_cost(checkpoint, bench.LAYERS_OF_ENCODER, program)
    result = {"models": models}
    artefact.write_json(out, result)
    _show(
        result,
        as_json,
        "networks that others trained, on FSDD",
        ("model", "what", "float", "golden, RTL"),
        bench.table(models),
        out,
    )


def _simulate(program: Program, config: HardwareConfig, raw: NDArray[np.int64]) -> Any:
    """Raw sequences through the Verilated engine."""
    from sparsegate_sim.simulate import simulate

    return simulate(program, config, raw)


METER = """\
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, "-m", "sparsegate_app.cli", *sys.argv[1:]])
if status:
    sys.exit(status)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
largest = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "megabytes": round(largest)}))
"""
"""Runs a command from a small process: from a large one its memory would count as the command's, on Linux."""


def _compile_cost(checkpoint: Path, layers: Sequence[str], program: Program) -> dict[str, Any]:
    """Seconds and peak memory of the commands that import a checkpoint and compile a Program, each a process of its own."""
    import tempfile

    rows, groups = 16, 4
    named = [word for name in layers for word in ("--layer", name)]
    stages = {
        "import": ["import", str(checkpoint.resolve()), "--when", "last", *named],
        "compile": ["compile", "program.safetensors", "--rows", str(rows), "--groups", str(groups)],
    }
    cost: dict[str, Any] = {
        "definition": "wall and processor time of the command with all of its processes, and the resident memory of the largest",
        "rows": rows,
        "groups": groups,
    }
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        program.save(Path(scratch) / "program.safetensors")
        for stage, words in stages.items():
            cost[stage] = _metered(words, scratch)
    return cost


def _metered(words: Sequence[str], folder: str) -> dict[str, Any]:
    """Seconds and megabytes of a command that runs in a folder."""
    import json
    import sys

    from sparsegate.errors import SparseGateError
    from sparsegate_sim import tools

    # the modules of this very process, wherever the command runs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in sys.path if part)}
    log = Path(folder) / f"{words[0]}.log"
    status = tools.execute([sys.executable, "-c", METER, *words], log, Path(folder), environment)
    last = tools.tail(log, 1)
    if status:
        raise SparseGateError(f"'sparsegate {words[0]}' failed: {last or 'no message'}")
    return json.loads(last)


def _show(result: dict[str, Any], as_json: bool, title: str, columns: tuple, cells: Sequence[tuple], out: Path) -> None:
    if as_json:
        console.emit(result, True, title, [])
    else:
        console.stdout().print(console.table(title, columns, cells))
        console.note(f"written to {out}")
