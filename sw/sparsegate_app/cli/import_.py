"""``sparsegate import``: a Network from the files of other frameworks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Json

if TYPE_CHECKING:
    from sparsegate.importers import Patterns
    from sparsegate.network import Network

SUSPICIOUS = 0.25
"""Share of zeros that training does not give by chance."""


class When(StrEnum):
    step = "step"
    last = "last"
    final = "final"


def import_(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A state_dict (torch.save or safetensors), an ONNX model, or one of Keras."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Network file to write.")] = Path(
        "build/network.safetensors"
    ),
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME[:WORD]",
            help="A layer to take, by its name in the model; repeat in data-flow order. A word adds what the file does not say:"
            " fc:relu, rnn:tanh, words:embedding.",
        ),
    ] = None,
    when: Annotated[
        When | None,
        typer.Option(
            "--when",
            help="Run a linear head at every step, on a sequence's last one, or on the final value of each direction. Default: as"
            " the model says, else step.",
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            "-p",
            metavar="[LAYER=]N:M[,N:M]",
            help="The N:M pattern that the weights obey: of every recurrent layer, or of the layer named (repeat). A second one is "
            "for the recurrent matrix.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the network. Default: the file's.")] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Show the layers found and which would be imported; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a trained model: LSTM, GRU and RNN layers, in both directions, and linear layers.

    The file is read without executing anything in it. [bold]--list[/] shows what it holds.

    A model that was pruned to an N:M pattern keeps it only with [bold]--pattern[/], which checks it; without,
    its layers are taken as dense.

    What a model's code does between its layers is not seen. A linear layer before another one, several
    recurrent modules, modules used twice, and a first matrix without bias, which may be an embedding, are
    refused unless [bold]--layer[/] names the layers. To name layers is to vouch that nothing else stands between them.

    Example: [bold]sparsegate import model.pt --layer lstm --layer fc --out build/network.safetensors[/]
    """
    from sparsegate import importers

    if only_list:
        _list(model, layer, as_json)
        return
    network = importers.load(
        model,
        layers=layer,
        when=None if when is None else when.value,
        patterns=_patterns(pattern),
        name=name,
    )
    network.save(out)
    _hint_at_zeros(network)
    layers = [
        {
            "name": part.name,
            "kind": part.kind,
            "inputs": part.inputs,
            "units": part.units,
            "outputs": part.outputs,
            "reverse": part.reverse,
            "when": part.when,
            "pattern_x": str(part.pattern_x),
            "pattern_h": str(part.pattern_h),
        }
        for part in network.layers
    ]
    console.emit(
        {"network": str(out), "layers": layers},
        as_json,
        "import",
        [("network", out)]
        + [
            (
                part.name,
                f"{part.kind}, {part.inputs} inputs, {part.units} units"
                + (f", {part.outputs} outputs" if part.outputs != part.units else "")
                + (", backwards" if part.reverse else "")
                + (f", on the {part.when} step" if part.when != "step" else "")
                + f", Wx {part.pattern_x}"
                + (f", Wh {part.pattern_h}" if part.w_h is not None else ""),
            )
            for part in network.layers
        ],
    )


def _list(model: Path, layers: list[str] | None, as_json: bool) -> None:
    """What a model holds, and what of it would be imported."""
    from sparsegate import importers
    from sparsegate.errors import SparseGateError

    parts = importers.describe(model, layers)
    names = {part.name for part in parts}
    wanted = (
        names
        if layers is None
        else {asked if asked in names else asked.rpartition(":")[0] or asked for asked in layers}
    )
    for unknown in sorted(wanted - names):
        raise SparseGateError(f"the model has no layer {unknown!r}; it has {', '.join(sorted(names))}")
    found = [
        {
            "name": part.name,
            "what": part.what,
            "shape": part.shape,
            "used": part.name in wanted and part.problem is None if part.used is None else part.used,
            "problem": part.problem,
        }
        for part in parts
    ]
    if as_json:
        console.emit({"layers": found}, True, "", [])
        return
    rows = [
        (entry["name"], entry["what"], entry["shape"], "yes" if entry["used"] else f"no{_because(entry['problem'])}")
        for entry in found
    ]
    console.stdout().print(console.table(f"{model}", ("layer", "what", "size", "imported"), rows))


def _because(problem: object) -> str:
    return "" if problem is None else f": {problem}"


def _patterns(given: list[str] | None) -> Patterns | None:
    """``N:M[,N:M]`` once, or ``LAYER=N:M[,N:M]`` any number of times."""
    from sparsegate.errors import SparseGateError

    named: dict[str, str | tuple[str, ...]] = {}
    for text in given or []:
        name, _, value = text.rpartition("=")
        if name in named:
            raise SparseGateError(f"--pattern is given twice for {name!r}" if name else "--pattern N:M is given twice")
        parts = tuple(value.split(","))
        named[name] = parts if len(parts) > 1 else value
    if "" in named and len(named) > 1:
        raise SparseGateError("--pattern is either one N:M for every recurrent layer or LAYER=N:M for each, not both")
    return named.get("") or named or None  # type: ignore[return-value]


def _hint_at_zeros(network: Network) -> None:
    """Say it where a layer that is taken as dense looks pruned."""
    for layer in network.layers:
        for key, matrix, pattern in (("Wx", layer.w_x, layer.pattern_x), ("Wh", layer.w_h, layer.pattern_h)):
            zeros = 0.0 if matrix is None else float((matrix == 0).mean())
            if pattern.dense and zeros >= SUSPICIOUS:
                console.note(
                    f"{100 * zeros:.0f} % of {key} of layer {layer.name!r} are zero, and it is taken as dense; --pattern keeps N:M"
                )
