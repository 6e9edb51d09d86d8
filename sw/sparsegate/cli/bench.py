"""``sparsegate bench``: measurements."""

from __future__ import annotations

import typer

from sparsegate.cli.options import Json

app = typer.Typer(
    no_args_is_help=True, help="Measure: speed of the models and simulators, accuracy over several seeds."
)


@app.command()
def speed(as_json: Json = False) -> None:
    """Golden model against torch on the same batch; Verilated RTL against Amaranth's simulator.

    Example: [bold]sparsegate bench speed --json[/]
    """
    raise NotImplementedError


@app.command()
def accuracy(as_json: Json = False) -> None:
    """Accuracy after pruning and quantization, mean over three seeds.

    Example: [bold]sparsegate bench accuracy --json[/]
    """
    raise NotImplementedError
