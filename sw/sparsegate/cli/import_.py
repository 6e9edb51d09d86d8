"""``sparsegate import``: a Network from a torch state_dict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate import console
from sparsegate.cli.options import Json


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
    last: Annotated[
        bool, typer.Option("--last", help="Run the final linear layer on a sequence's last step only.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Name of the network. Default: the file's.")] = None,
    as_json: Json = False,
) -> None:
    """Import a trained PyTorch model: LSTM layers and linear layers.

    The file is read without executing anything in it.

    Example: [bold]sparsegate import model.pt --layer lstm --layer fc --out build/network.safetensors[/]
    """
    from sparsegate import importer

    network = importer.from_torch(model, layers=layer, when="last" if last else "step", name=name or model.stem)
    network.save(out)
    layers = [
        {"name": part.name, "kind": part.kind, "inputs": part.inputs, "units": part.units} for part in network.layers
    ]
    console.emit(
        {"network": str(out), "layers": layers},
        as_json,
        "import",
        [("network", out)]
        + [(part.name, f"{part.kind}, {part.inputs} inputs, {part.units} units") for part in network.layers],
    )
