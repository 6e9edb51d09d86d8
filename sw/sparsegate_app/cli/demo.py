"""``sparsegate demo``: the whole way, on real speech."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sparsegate_app import console
from sparsegate_app.cli import compile_, golden, simulate, synth
from sparsegate_app.cli.options import Compiled, Groups, Json, Rows, Seed, default_rows, epochs_of, one_thread, percent
from sparsegate_app.cli.simulate import Simulator

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset
    from sparsegate.network import Network
    from sparsegate.program import Program

STEPS = 6
ICARUS_SEQUENCES = 4
"""Sequences of the second opinion; Icarus is a thousand times slower than Verilated code."""


class Effort(NamedTuple):
    """Epochs of each training."""

    train: int
    prune: int
    quantize: int


def demo(
    seed: Seed = 0,
    pattern: Annotated[
        str, typer.Option("--pattern", metavar="N:M", help="Sparsity: N weights in every M units of a column.")
    ] = "1:8",
    hidden: Annotated[int, typer.Option("--hidden", min=1, help="Units of the LSTM.")] = 64,
    rows: Rows = None,
    groups: Groups = None,
    simulator: Annotated[Simulator, typer.Option("--simulator", help="What runs the RTL.")] = Simulator.verilator,
    sequences: Annotated[int, typer.Option("--sequences", "-n", min=1, help="Test utterances to simulate.")] = 32,
    board: Annotated[str, typer.Option("--board", help="Board to make a bitstream for.")] = synth.DEFAULT_BOARD,
    skip_rtl: Annotated[bool, typer.Option("--skip-rtl", help="Stop after the golden model.")] = False,
    skip_synth: Annotated[bool, typer.Option("--skip-synth", help="Make no bitstream.")] = False,
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="A,B,C", help="Epochs of training, pruning and quantization.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of everything that is made.")] = Path("build/demo"),
    as_json: Json = False,
) -> None:
    """Do everything once: a speaker recogniser from training to a bitstream, checked at every step.

    Writes report.json and report.html to the output folder.

    Example: [bold]sparsegate demo --board ulx3s-85f --seed 0[/]
    """
    one_thread()
    from sparsegate.data import datasets
    from sparsegate_app import report

    effort = _effort(epochs)
    _heading(1, "train a float LSTM on spoken vowels (9 speakers, 12 cepstra a frame)")
    with console.task("load JapaneseVowels"):
        dataset = datasets.load("vowels")
    network = _train(dataset, hidden, seed, effort, out)
    _heading(2, f"prune to {pattern} along the columns, quantize to 8 bits")
    program = _shrink(network, dataset, pattern, seed, effort, out)
    _heading(3, "compile, check the golden model, predict cycles")
    compiled = _compile(program, dataset, rows, groups, out)
    if not skip_rtl:
        _heading(4, "simulate the engine and compare every hidden state and output")
        _simulate(compiled, dataset, simulator, sequences)
    if not (skip_rtl or skip_synth):
        _heading(5, f"synthesize, place, route and pack a bitstream for {board}")
        _synthesize(compiled, board, seed, out)
    _heading(6, "report")
    assert compiled.folder is not None
    with console.task("draw the report"):
        made = report.write(compiled.folder, out, dataset)
    console.emit(made, as_json, "summary", report.summary(made))
    console.note(f"report: {out / report.PAGE} and {out / report.REPORT}")
    if made["synth"] and not made["synth"]["met"]:
        reached, wanted = made["synth"]["fmax_mhz"], made["synth"]["frequency_mhz"]
        console.error(
            f"timing is not met: {reached:.1f} MHz reached, {wanted:g} MHz expected; try another --seed or fewer --rows"
        )
        raise typer.Exit(1)


def _effort(epochs: str | None) -> Effort:
    from sparsegate.errors import SparseGateError
    from sparsegate.training import train

    if epochs is None:
        return Effort(train.FLOAT.epochs, train.PRUNE.epochs, train.QUANTIZE.epochs)
    try:
        first, second, third = (int(part) for part in epochs.split(","))
    except ValueError:
        raise SparseGateError(f"--epochs is three numbers such as 60,120,8, not {epochs!r}") from None
    return Effort(first, second, third)


def _heading(number: int, text: str) -> None:
    console.stderr().print(f"[{number}/{STEPS}] {text}", style="bold", markup=False)


def _train(dataset: Dataset, hidden: int, seed: int, effort: Effort, out: Path) -> Network:
    from sparsegate.training import train

    with console.task("train") as task:
        network = train.train_float(dataset, hidden=hidden, seed=seed, progress=epochs_of(task), epochs=effort.train)
        reached = train.accuracy(network, dataset.x_test, dataset.length_test, dataset.y_test)
    network = replace(network, meta={"data": dataset.name, "seed": seed, "accuracy": {"float": reached}})
    network.save(out / "network.safetensors")
    console.note(f"accuracy, float: {percent(reached)} of {len(dataset.y_test)} test utterances")
    return network


def _shrink(network: Network, dataset: Dataset, pattern: str, seed: int, effort: Effort, out: Path) -> Program:
    from sparsegate.training import train

    with console.task("prune and fine-tune") as task:
        pruned = train.prune_and_finetune(
            network, dataset, pattern, seed=seed, progress=epochs_of(task), epochs=effort.prune
        )
        reached = train.accuracy(pruned, dataset.x_test, dataset.length_test, dataset.y_test)
    accuracy: dict[str, Any] = {**network.meta["accuracy"], "pruned": reached}
    pruned = replace(pruned, meta={**network.meta, "accuracy": accuracy})
    pruned.save(out / "pruned.safetensors")
    console.note(f"accuracy, pruned: {percent(reached)}")
    with console.task("quantize and fine-tune") as task:
        program = train.quantize_and_finetune(
            pruned, dataset, seed=seed, progress=epochs_of(task), epochs=effort.quantize
        )
    program = replace(program, meta=dict(pruned.meta))
    program.save(out / "program.safetensors")
    return program


def _compile(program: Program, dataset: Dataset, rows: int | None, groups: int | None, out: Path) -> Compiled:
    from sparsegate.array import HardwareConfig

    config = HardwareConfig(
        rows=default_rows(program) if rows is None else rows, groups=1 if groups is None else groups
    )
    with console.task("compile"):
        compiled, result = compile_.build(Compiled(program, config, None), out)
        result["prediction"] = compile_.predict(compiled, dataset)
    compiled.record("compile", result)
    with console.task("golden model"):
        checked, _ = golden.evaluate(compiled, dataset, program.thresholds)
    compiled.record("golden", checked)
    console.note(f"accuracy, golden model: {percent(checked['accuracy'])} of {checked['sequences']} test utterances")
    prediction = result["prediction"]
    console.note(f"predicted: {prediction['cycles_per_step']:.1f} cycles a step on {config.pes} processing elements")
    return compiled


def _simulate(compiled: Compiled, dataset: Dataset, simulator: Simulator, sequences: int) -> None:
    from sparsegate.errors import SparseGateError

    runs: Sequence[tuple[Simulator, int]] = [(simulator, sequences)]
    if simulator is Simulator.verilator:
        if shutil.which("iverilog"):
            runs = [*runs, (Simulator.icarus, min(sequences, ICARUS_SEQUENCES))]
        else:
            console.note(
                "iverilog is not installed ('apt-get install iverilog'); there is no second opinion from Icarus"
            )
    for which, count in runs:
        with console.task(f"{which.value}, {count} utterances"):
            result = simulate.compare(compiled, dataset, count, which.value)
        compiled.record(f"simulate-{which.value}", result)
        console.note(result["summary"])
        if not result["passed"]:
            raise SparseGateError(result["summary"])


def _synthesize(compiled: Compiled, board: str, seed: int, out: Path) -> None:
    with console.task("synthesize") as task:
        result = synth.implement(compiled, out, task, board=board, seed=seed + 1)
    synth.record(compiled, result)
    console.note(f"{result['fmax_mhz']:.1f} MHz on {result['device']}, bitstream {result['bitstream']}")
