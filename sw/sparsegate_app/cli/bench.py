"""``sparsegate bench``: measurements that take longer than a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparsegate_app import console
from sparsegate_app.cli.options import Device, Json, one_thread

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
    one_thread()
    from sparsegate.errors import SparseGateError
    from sparsegate_app.bench import performance as bench
    from sparsegate_app.bench import performance_table, real, workloads
    from sparsegate_app.bench.run import Places, run

    chosen = workloads.chosen(names or [])
    places = Places(real.data_folder(data_dir), work, out, points or out.with_name("synthesis.json"), roofline)
    effort = bench.Effort(frames, seeds, points, rtl=not skip_rtl, place=not no_pnr)
    with console.task("performance") as task:
        found = run(chosen, places, effort, task.say)
    for name, reason in found.skipped.items():
        console.note(f"{name}: skipped, {reason}")
    for name, reason in found.failed.items():
        console.note(f"{name}: failed, {reason}")
    for row in found.rows:
        if late := bench.missed(row):
            console.note(f"{row['name']}: {late}")
    if found.record is not None:
        title = (
            "a step with nothing skipped: occupancy of all cycles, dense-equivalent GOPS, values in which RTL differs;"
            f" {out.with_suffix('.md')} has every case, area, and what others report"
        )
        lines = [performance_table.short(row) for row in found.rows]
        _show(found.record, False, title, tuple(performance_table.SHORT), lines, out)
    if wrong := found.wrong(out):
        raise SparseGateError(wrong)


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
    one_thread()
    from dataclasses import replace

    from sparsegate import estimate
    from sparsegate.errors import MissingData, SparseGateError
    from sparsegate_app.bench import real, tools, workloads

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
                measured = tools.pack(program, config, workload, task.say)
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
    one_thread()
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
    one_thread()
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
    one_thread()
    from sparsegate import artefact
    from sparsegate_app.bench import real
    from sparsegate_app.bench import scale as bench

    with console.task("speed of the tools") as task:
        result = bench.measure(real.data_folder(data_dir), work, task.say)
    artefact.write_json(out, result)
    _show(
        result,
        as_json,
        "LSTM 123 to 1024 at 1:16 on 32 x 3 PEs",
        ("what", "measured", "goal"),
        bench.table(result),
        out,
    )


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
    one_thread()
    from sparsegate import artefact
    from sparsegate_app.bench import real as bench

    with console.task("real models") as task:
        models = bench.measure(bench.data_folder(data_dir), not skip_rtl, task.say)
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


def _show(result: dict[str, Any], as_json: bool, title: str, columns: tuple, cells: Sequence[tuple], out: Path) -> None:
    if as_json:
        console.emit(result, True, title, [])
    else:
        console.stdout().print(console.table(title, columns, cells))
        console.note(f"written to {out}")
