"""``sparsegate bench``: measurements that take longer than a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsegate import console
from sparsegate.cli.options import Data, Json, open_data, percent

app = typer.Typer(
    no_args_is_help=True, help="Measure: accuracy over several seeds, speed of the models and simulators."
)

Out = Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")]


@app.command()
def accuracy(
    data: Data = "vowels",
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", "-p", metavar="N:M", help="Repeat for several. Default: 2:8, 4:16, 1:8, 2:16, 1:16, 2:32."
        ),
    ] = None,
    bits: Annotated[
        list[int] | None,
        typer.Option("--bits", help="Bits of weights and activations; repeat for several. Default: 8."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0 to SEEDS - 1, of which the mean is taken.")] = 3,
    hidden: Annotated[int, typer.Option("--hidden", min=1, help="Units of the LSTM.")] = 64,
    out: Out = Path("build/bench/accuracy.json"),
    as_json: Json = False,
) -> None:
    """Accuracy of float, pruned and golden model on the whole test set, mean over several seeds.

    Example: [bold]sparsegate bench accuracy --pattern 4:16 --seeds 3[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sparsegate import artefact
    from sparsegate.bench import accuracy as bench
    from sparsegate.pattern import NM
    from sparsegate.quantize import QuantizeConfig

    patterns = [NM.parse(text) for text in pattern or bench.PATTERNS]
    dataset = open_data(data)
    configs = [QuantizeConfig(activation_bits=width, weight_bits=width) for width in bits or (8,)]
    rows = []
    with console.task("train, prune and quantize") as task:
        for row in bench.measure(dataset, patterns, configs, range(seeds), hidden):
            rows.append(row)
            task.at(len(rows), seeds * len(patterns) * len(configs))
            task.say(f"{row['pattern']}, seed {row['seed']}: golden {percent(row['accuracy_golden'])}")
    means = bench.means(rows)
    result = {"rows": rows, "means": means}
    artefact.write_json(out, result)
    columns = ("pattern", "kept, Wx and Wh", "bits", "float", "pruned", "golden", "loss, points")
    cells = [
        (
            row["pattern"],
            f"{percent(row['density_x'])}, {percent(row['density_h'])}",
            row["bits"],
            *(percent(row[f"accuracy_{stage}"]) for stage in ("float", "pruned", "golden")),
            f"{row['loss']:.2f}",
        )
        for row in means
    ]
    _show(result, as_json, f"{dataset.name}, test accuracy, mean over {seeds} seeds", columns, cells, out)


@app.command()
def golden(out: Out = Path("build/bench/golden.json"), as_json: Json = False) -> None:
    """Steps a second of the golden model against float torch.nn.LSTM on the same batch, in the same run.

    Example: [bold]sparsegate bench golden --json[/]
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sparsegate import artefact
    from sparsegate.bench import golden as bench

    rows = []
    with console.task("golden model and torch") as task:
        for case in bench.CASES:
            task.say(f"LSTM {case[0]} to {case[1]}")
            rows.append(bench.measure(*case))
    result = {"definition": bench.DEFINITION, "rows": rows}
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
    from sparsegate_sim import bench

    with console.task("the same engine on every simulator"):
        speeds = bench.measure(bench.available())
    rows = [asdict(speed) | {"cycles_per_second": round(speed.cycles_per_second)} for speed in speeds]
    result = {"definition": bench.DEFINITION, "rows": rows}
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


def _show(result: dict[str, Any], as_json: bool, title: str, columns: tuple, cells: list[tuple], out: Path) -> None:
    if as_json:
        console.emit(result, True, title, [])
    else:
        console.stdout().print(console.table(title, columns, cells))
        console.note(f"written to {out}")
