"""Options that several commands share, and how their files are read."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from sparsegate_app import console
from sparsegate_app.console import TimeLeft

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset
    from sparsegate.program import Program

DEFAULT_BOARD = "ulx3s-85f"

NetworkFile = Annotated[Path, typer.Argument(metavar="NETWORK", help="A Network file, made by train, import or prune.")]
ProgramPath = Annotated[
    Path,
    typer.Argument(metavar="PROGRAM", help="A Program file made by quantize, or a folder made by compile."),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", "-d", metavar="NAME|FILE.npz", help="'vowels', or your own sequences: x (N, T, I), length, y."
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME|FILE.npz", help="'vowels', or your own sequences: x (N, T, I), length, y."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def _seed(value: int) -> int:
    """NumPy's generators take no negative seeds, torch's none of more bits."""
    from sparsegate.errors import SparseGateError

    if not 0 <= value < 1 << 63:
        raise SparseGateError(f"a seed is 0 or more and below 2**63, not {value}")
    return value


Seed = Annotated[
    int,
    typer.Option("--seed", callback=_seed, help="Seed of everything random; the same seed gives the same files."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="Where floats are trained, cpu or cuda. Only the CPU gives the same bits every time."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="File that keeps an interrupted run, from which the same command goes on. Default: beside the file of --out.",
    ),
]
Rows = Annotated[
    int | None,
    typer.Option("--rows", help="PE rows of the array (Pr). Default: the compiled folder's, or two for each gate."),
]
Groups = Annotated[int | None, typer.Option("--groups", help="Column groups of the array (Pc). Default: 1.")]
Lanes = Annotated[int | None, typer.Option("--lanes", help="Cell lanes. Default: one for each cluster of PE rows.")]
Outputs = Annotated[
    int | None,
    typer.Option(
        "--outputs", help="Values of the output frame a cycle: 1 or a power of two that divides the last block."
    ),
]
Banks = Annotated[
    int | None,
    typer.Option(
        "--banks", help="Most banks of accumulators; 1 for devices with few block RAMs. Default: as overlap wants."
    ),
]
BlockBanks = Annotated[
    int | None,
    typer.Option(
        "--block-banks",
        help="So many of these banks in block RAM of an ECP5, where some is left: fewer LUTs, at most two cycles more a phase."
        " Default: 0.",
    ),
]
Multipliers = Annotated[
    str | None,
    typer.Option("--multipliers", help="'dsp' or 'logic'. Default: the device's own, where it has some."),
]
Deep = Annotated[
    bool | None,
    typer.Option(
        "--deep/--shallow",
        help="More pipeline registers: a higher clock for arrays that fill a large device, some more cycles a step.",
    ),
]
LoadWeights = Annotated[
    bool | None,
    typer.Option(
        "--load-weights/--keep-weights",
        help="Weights come from the host after reset (into the SPRAMs of an iCE40 UP5K), not with the bitstream.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Longest sequence that the buffer of a network in both directions of time holds."),
]
States = Annotated[
    bool | None,
    typer.Option("--states/--no-states", help="Ports through which initial states come in and final ones go out."),
]
ARRAY: dict[str, Any] = {
    "rows": Rows,
    "groups": Groups,
    "lanes": Lanes,
    "outputs": Outputs,
    "banks": Banks,
    "block_banks": BlockBanks,
    "loaded": LoadWeights,
    "deep": Deep,
}
"""Options of a command that takes a Program to an array, by the fields of HardwareConfig that they set where they are given."""
PORTS: dict[str, Any] = {"steps": Steps, "states": States}
"""Those that a board's wrapper leaves no choice of."""
Thresholds = Annotated[
    list[int] | None,
    typer.Option(
        "--threshold", help="Θ in LSBs: once for all vectors, or once for each: the input, then all that layers give."
    ),
]


class Simulator(StrEnum):
    """Simulators that run the engine."""

    verilator = "verilator"
    icarus = "icarus"
    amaranth = "amaranth"


Array = Mapping[str, Any]
"""Fields of HardwareConfig by name; None: not given."""


def array_options(options: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, in the place of its parameter ``array``, these options; ``array`` is then what each of them was given."""

    def of(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, own in inspect.signature(command).parameters.items():
            if name == "array":
                parameters += [
                    own.replace(name=option, annotation=kind, default=None) for option, kind in options.items()
                ]
            else:
                parameters.append(own.replace(annotation=hints[name]))

        @functools.wraps(command)
        def expanded(**values: Any) -> None:
            command(array={option: values.pop(option) for option in options}, **values)

        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {each.name: each.annotation for each in parameters}
        return expanded

    return of


def one_thread() -> None:
    """Before torch is imported: small matrices train fastest on one thread, and results then do not depend on the machine's."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def check_out(path: Path) -> None:
    """Refuse a file that could not be written before hours go into it."""
    from sparsegate.errors import SparseGateError

    if path.is_dir():
        raise SparseGateError(f"cannot write {path}: it is a folder")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SparseGateError(f"cannot write {path}: {folder} is {'not writable' if folder.is_dir() else 'no folder'}")


def checkpoint_of(out: Path, given: Path | None) -> Path:
    """Where a training that writes ``out`` keeps its state; refuses what could not be written."""
    from sparsegate.errors import SparseGateError

    kept = given or out.with_suffix(".checkpoint")
    check_out(out)
    check_out(kept)
    if kept.absolute() == out.absolute():
        raise SparseGateError(f"{out} cannot be both the file to write and the checkpoint")
    return kept


@contextmanager
def resuming(task: console.Task, kept: Path) -> Iterator[None]:
    """Say where a training goes on from, and, if it is interrupted, that the same command does."""
    if kept.exists():
        task.say(f"going on from {kept}")
    try:
        yield
    except KeyboardInterrupt:
        if kept.exists():
            console.note(f"{kept} keeps the epochs that are done; the same command goes on from there")
        raise


def open_data(source: str, inputs: int | None = None) -> Dataset:
    """Load a data set and check that it fits."""
    from sparsegate.data import datasets
    from sparsegate.errors import SparseGateError

    dataset = datasets.load(source)
    if inputs is not None and dataset.inputs != inputs:
        raise SparseGateError(
            f"the data set {dataset.name!r} has {dataset.inputs} inputs a step, the model takes {inputs}"
        )
    return dataset


def check_classes(dataset: Dataset, outputs: int) -> None:
    """A classifier needs an output for each class."""
    from sparsegate.errors import SparseGateError

    if dataset.classes > outputs:
        raise SparseGateError(
            f"the data set {dataset.name!r} has {dataset.classes} classes, the model {outputs} outputs"
        )


def chosen_thresholds(program: Program, given: list[int] | None) -> tuple[int, ...]:
    """Thresholds from the command line, or the Program's own."""
    return program.with_thresholds(*given).thresholds if given else program.thresholds


def epochs_of(task: console.Task) -> Callable[[int, int, float], None]:
    """A training's progress on a :class:`~sparsegate_app.console.Task`, with the time left."""
    left = TimeLeft()

    def progress(epoch: int, epochs: int, loss: float) -> None:
        task.at(epoch, epochs)
        task.say(f"epoch {epoch} of {epochs}, loss {loss:.3f}{left(epoch, epochs, 1)}")

    return progress


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"
