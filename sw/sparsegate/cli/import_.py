"""``sparsegate import``: a Network from a torch state_dict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsegate import console
from sparsegate.cli.options import Json

if TYPE_CHECKING:
    from sparsegate.importer import Patterns
    from sparsegate.network import Network

SUSPICIOUS = 0.25
"""Share of zeros that training does not give by chance."""


def import_(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A state_dict, saved by torch.save or as safetensors.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Network file to write.")] = Path(
        "build/network.safetensors"
    ),
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", "-l", help="A layer to take, by its name in the state_dict; repeat in data-flow order."
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            "-p",
            metavar="[LAYER=]N:M[,N:M]",
            help="The N:M pattern that the weights obey: of every LSTM layer, or of the layer named (repeat). A second one is for "
            "the recurrent matrix.",
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Run the final linear layer on a sequence's last step only.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Name of the network. Default: the file's.")] = None,
    as_json: Json = False,
) -> None:
    """Import a trained PyTorch model: LSTM layers and linear layers.

    The file is read without executing anything in it.

    A model that was pruned to an N:M pattern keeps it only with [bold]--pattern[/], which checks it; without,
    its layers are taken as dense.

    A state_dict holds weights, not code: what the model computes between its layers is not seen. Linear
    layers in a row, which make sense only with an activation between them, are refused unless
    [bold]--layer[/] names the layers, and so is a first matrix without bias, which may be an embedding. To
    name layers is to vouch that nothing else stands between them.

    Example: [bold]sparsegate import model.pt --layer lstm --layer fc --out build/network.safetensors[/]
    """
    from sparsegate import importer

    network = importer.from_torch(
        model,
        layers=layer,
        when="last" if last else "step",
        patterns=_patterns(pattern),
        name=name or model.stem,
    )
    network.save(out)
    _hint_at_zeros(network)
    layers = [
        {
            "name": part.name,
            "kind": part.kind,
            "inputs": part.inputs,
            "units": part.units,
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
                f"{part.kind}, {part.inputs} inputs, {part.units} units, "
                f"Wx {part.pattern_x}" + (f", Wh {part.pattern_h}" if part.w_h is not None else ""),
            )
            for part in network.layers
        ],
    )


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
        raise SparseGateError("--pattern is either one N:M for every LSTM layer or LAYER=N:M for each, not both")
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
