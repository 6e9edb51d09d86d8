"""``sparsegate pictures``: what can be drawn of a Network, a Program, a benchmark or a scan, as PNG or SVG."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Json, open_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from sparsegate.network import Network
    from sparsegate.program import Program


KEPT = Path("build/bench/accuracy")
"""Where the benchmark keeps its features."""


def pictures(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A Network or Program file, a folder made by compile, or the JSON of an accuracy benchmark or a sensitivity scan.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="NAME|FILE.npz",
            help="'vowels', another task of 'sparsegate bench accuracy', or your own sequences: x (N, T, I), length, y.",
        ),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option("--after", metavar="FILE", help="A second model, whose gates are drawn over those of the first."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the pictures to.")] = Path("build/pictures"),
    form: Annotated[Literal["png", "svg"], typer.Option("--format", help="Format of the pictures.")] = "png",
    as_json: Json = False,
) -> None:
    """Draw matrices, weights and their formats; with data also gates, activations and the columns that are sent.

    Of a benchmark (docs/benchmarks/accuracy.json) accuracy against density and against bits; of a scan, score against density.
    With --after, which needs data, the gates of both models alone: what a training does to them.

    Example: [bold]sparsegate pictures build/program.safetensors --data vowels --out build/pictures[/]
    """
    from sparsegate import artefact
    from sparsegate.pictures import encoded

    with console.task("pictures"):
        if after is not None:
            drawn = _of_gates(source, after, data)
        else:
            drawn = _of_rows(source) if source.suffix == ".json" else _of_model(_open(source), data)
        paths = {name: out / f"{name}.{form}" for name in drawn}
        # all are drawn before one is written, so that pictures of one run stay together
        contents = {name: encoded(figure, f".{form}") for name, figure in drawn.items()}
        for name, content in contents.items():
            artefact.write_bytes(paths[name], content)
    console.emit(
        {"pictures": {name: str(path) for name, path in paths.items()}}, as_json, "pictures", list(paths.items())
    )


def _of_model(model: Network | Program, data: str | None) -> dict[str, Figure]:
    from sparsegate.pictures import of_model

    if data is None:
        return of_model(model)
    return of_model(model, *_sequences(data, model.inputs))


def _of_gates(before: Path, after: Path, data: str | None) -> dict[str, Figure]:
    from sparsegate import pictures as draw
    from sparsegate.errors import SparseGateError

    if data is None:
        raise SparseGateError("gates are drawn of data; name them with --data")
    first, second = _open(before), _open(after)
    x, lengths = (part[: draw.SEQUENCES] for part in _sequences(data, first.inputs))
    gates = [draw.gates_of(model, x, lengths) for model in (first, second)]
    names = (before.stem, after.stem) if before.stem != after.stem else ("before", "after")
    return {"gates": draw.gate_histograms(gates[0], gates[1], names)}


def _sequences(source: str, inputs: int) -> tuple[NDArray, NDArray]:
    """Test sequences (N, T, I) and their steps."""
    from sparsegate.errors import SparseGateError
    from sparsegate_app.bench import tasks
    from sparsegate_app.bench.real import data_folder

    if source not in tasks.TASKS or source == "vowels":
        dataset = open_data(source, inputs)
        return dataset.x_test, dataset.length_test
    folder = data_folder(None)
    if (reason := tasks.missing(source, folder)) is not None:
        raise SparseGateError(reason)
    test = tasks.open_task(source, folder, KEPT).test
    if test.x.shape[2] != inputs:
        raise SparseGateError(f"the task {source!r} has {test.x.shape[2]} inputs a step, the model takes {inputs}")
    return test.x, test.lengths


def _open(path: Path) -> Network | Program:
    """A Network, a Program, or the Program of a compiled folder."""
    from sparsegate.errors import SparseGateError
    from sparsegate.network import FORMAT, Network
    from sparsegate.program import Program
    from sparsegate_app.stages.compiled import PROGRAM_FILE

    try:
        return Program.load(path / PROGRAM_FILE if path.is_dir() else path)
    except SparseGateError as error:
        if f"holds a {FORMAT}" not in str(error):
            raise
    return Network.load(path)


def _of_rows(path: Path) -> dict[str, Figure]:
    from sparsegate import artefact
    from sparsegate import pictures as draw
    from sparsegate.compress import sensitivity
    from sparsegate.errors import SparseGateError

    found = artefact.read_json(path)
    if isinstance(found, dict) and found.get("format") == sensitivity.FORMAT:
        return {"sensitivity": draw.sensitivity(sensitivity.Scan.load(path))}
    try:
        rows = found["rows"]
        drawn = {"density": draw.accuracy_by_density(rows)}
        with suppress(SparseGateError):  # measured with a single width
            drawn["bits"] = draw.accuracy_by_bits(rows)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SparseGateError(
            f"{path} is neither a sensitivity scan nor rows of an accuracy benchmark ({type(error).__name__} {error})"
        ) from error
    return drawn
