"""``sparsegate bench``: measurements that take longer than a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate import console
from sparsegate.cli.options import Data, Json, open_data, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sparsegate.layout import HardwareConfig
    from sparsegate.program import Program

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


@app.command("cells")
def cells_(out: Out = Path("build/bench/cells.json"), as_json: Json = False) -> None:
    """Fixed-point error against the float network, for every cell at 6, 8, 10, 12 and 16 bits.

    Example: [bold]sparsegate bench cells --out build/bench/cells.json[/]
    """
    from sparsegate import artefact
    from sparsegate.bench import cells as bench

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
    from sparsegate.bench import real as bench

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
status = subprocess.call([sys.executable, "-m", "sparsegate.cli", *sys.argv[1:]], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
largest = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "megabytes": round(largest)}))
sys.exit(status)
"""
"""Runs a command from a small process: from a large one its memory would count as the command's, on Linux."""


def _compile_cost(checkpoint: Path, layers: Sequence[str], program: Program) -> dict[str, Any]:
    """Seconds and peak memory of the commands that import a checkpoint and compile a Program, each a process of its own."""
    import json
    import subprocess
    import sys
    import tempfile

    from sparsegate.errors import SparseGateError

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
    # the modules of this very process, wherever the commands run
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in sys.path if part)}
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        program.save(Path(scratch) / "program.safetensors")
        for stage, words in stages.items():
            run = subprocess.run(
                [sys.executable, "-c", METER, *words],
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                lines = run.stderr.strip().splitlines()
                raise SparseGateError(f"'sparsegate {stage}' failed: {lines[-1] if lines else 'no message'}")
            cost[stage] = json.loads(run.stdout)
    return cost


def _show(result: dict[str, Any], as_json: bool, title: str, columns: tuple, cells: Sequence[tuple], out: Path) -> None:
    if as_json:
        console.emit(result, True, title, [])
    else:
        console.stdout().print(console.table(title, columns, cells))
        console.note(f"written to {out}")
