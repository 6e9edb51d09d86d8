"""``sparsegate demo``: the whole way, on real speech."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    DEFAULT_BOARD,
    Groups,
    Json,
    Rows,
    Seed,
    Simulator,
    epochs_of,
    one_thread,
    percent,
)

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset
    from sparsegate.network import Network
    from sparsegate.program import Program
    from sparsegate_app.stages.result import Result

ICARUS_SEQUENCES = 4
"""Sequences of the second opinion; Icarus is a thousand times slower than Verilated code."""


HEADINGS = {
    "compile": (3, "compile, check the golden model, predict cycles"),
    "simulate": (4, "simulate the engine and compare every hidden state and output"),
    "synthesize": (5, "synthesize, place, route and pack a bitstream for {}"),
}
"""Stages of the lowering at which a part of the demo begins."""
PARTS = 6


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
    board: Annotated[str, typer.Option("--board", help="Board to make a bitstream for.")] = DEFAULT_BOARD,
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
    from sparsegate_app.stages.lower import Wanted, lower

    effort = _effort(epochs)
    _heading(1, "train a float LSTM on spoken vowels (9 speakers, 12 cepstra a frame)")
    with console.task("load JapaneseVowels"):
        dataset = datasets.load("vowels")
    network = _train(dataset, hidden, seed, effort, out)
    _heading(2, f"prune to {pattern} along the columns, quantize to 8 bits")
    pruned = _prune(network, dataset, pattern, seed, effort, out)
    made = lower(
        pruned,
        dataset,
        Wanted(
            {"rows": rows, "groups": groups},
            () if skip_rtl else _simulators(simulator, sequences),
            None if skip_rtl or skip_synth else board,
            seed + 1,
        ),
        out,
        Told(),
        lambda network, dataset: _quantize(network, dataset, seed, effort, out),
    )
    _heading(6, "report")
    with console.task("draw the report"):
        drawn = report.write(made.compilation.folder, out, dataset)
    console.emit(drawn.as_json(), as_json, "summary", drawn.rows())
    console.note(f"report: {out / report.PAGE} and {out / report.REPORT}")
    if made.synthesis is not None and not made.synthesis.measured.met:
        reached, wanted = made.synthesis.measured.fmax_mhz, made.synthesis.measured.frequency_mhz
        console.error(
            f"timing is not met: {reached:.1f} MHz reached, {wanted:g} MHz expected; try another --seed or fewer --rows"
        )
        raise typer.Exit(1)


class Told:
    """Shows a lowering on the console: a heading for each part, a task for each stage, a line for each result."""

    def __init__(self) -> None:
        self._begun: set[str] = set()

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[Callable[[str], None]]:
        if name in HEADINGS and name not in self._begun:
            self._begun.add(name)
            number, text = HEADINGS[name]
            _heading(number, text.format(detail))
        with console.task(detail if name == "simulate" else name) as task:
            yield task.say

    def found(self, result: Result) -> None:
        console.note(result.sentence)


def _heading(number: int, text: str) -> None:
    console.stderr().print(f"[{number}/{PARTS}] {text}", style="bold", markup=False)


def _effort(epochs: str | None) -> Effort:
    from sparsegate import training
    from sparsegate.errors import SparseGateError

    if epochs is None:
        return Effort(training.FLOAT.epochs, training.PRUNE.epochs, training.QUANTIZE.epochs)
    try:
        first, second, third = (int(part) for part in epochs.split(","))
    except ValueError:
        raise SparseGateError(f"--epochs is three numbers such as 60,120,8, not {epochs!r}") from None
    return Effort(first, second, third)


def _train(dataset: Dataset, hidden: int, seed: int, effort: Effort, out: Path) -> Network:
    from sparsegate import training

    with console.task("train") as task:
        network = training.train_float(dataset, hidden=hidden, seed=seed, progress=epochs_of(task), epochs=effort.train)
        reached = training.accuracy(network, dataset.x_test, dataset.length_test, dataset.y_test)
    network = replace(network, meta={"data": dataset.name, "seed": seed, "accuracy": {"float": reached}})
    network.save(out / "network.safetensors")
    console.note(f"accuracy, float: {percent(reached)} of {len(dataset.y_test)} test utterances")
    return network


def _prune(network: Network, dataset: Dataset, pattern: str, seed: int, effort: Effort, out: Path) -> Network:
    from sparsegate import training

    with console.task("prune and fine-tune") as task:
        pruned = training.prune_and_finetune(
            network, dataset, pattern, seed=seed, progress=epochs_of(task), epochs=effort.prune
        )
        reached = training.accuracy(pruned, dataset.x_test, dataset.length_test, dataset.y_test)
    accuracy: dict[str, Any] = {**network.meta["accuracy"], "pruned": reached}
    pruned = replace(pruned, meta={**network.meta, "accuracy": accuracy})
    pruned.save(out / "pruned.safetensors")
    console.note(f"accuracy, pruned: {percent(reached)}")
    return pruned


def _quantize(pruned: Network, dataset: Dataset, seed: int, effort: Effort, out: Path) -> Program:
    from sparsegate import training

    with console.task("quantize and fine-tune") as task:
        program = training.quantize_and_finetune(
            pruned, dataset, seed=seed, progress=epochs_of(task), epochs=effort.quantize
        )
    program = replace(program, meta=dict(pruned.meta))
    program.save(out / "program.safetensors")
    return program


def _simulators(simulator: Simulator, sequences: int) -> list[tuple[str, int]]:
    """What simulates how many sequences: the one that was asked for, and behind Verilator a second opinion."""
    runs = [(simulator.value, sequences)]
    if simulator is Simulator.verilator:
        if shutil.which("iverilog"):
            runs.append((Simulator.icarus.value, min(sequences, ICARUS_SEQUENCES)))
        else:
            console.note(
                "iverilog is not installed ('apt-get install iverilog'); there is no second opinion from Icarus"
            )
    return runs
