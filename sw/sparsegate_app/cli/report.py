"""``sparsegate report``: everything that is known about a compiled folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Json, OptionalData, open_data


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder made by compile.")],
    data: OptionalData = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for report.json and report.html. Default: the compiled folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Collect what the stages measured into report.json and a page that stands alone, report.html.

    With [bold]--data[/], the page also shows what a few test sequences make of activations and gates, which columns are sent, and
    what every threshold Θ would skip and cost.

    Example: [bold]sparsegate report build/vowels-0123456789ab --data vowels[/]
    """
    from sparsegate_app import report as reporting

    made = reporting.write(folder, out, None if data is None else open_data(data))
    where = folder if out is None else out
    rows = [*made.rows(), ("report", where / reporting.PAGE)]
    console.emit(made.as_json(), as_json, f"report of {made.name}", rows)
    for name in made.outdated:
        console.note(
            f"left out: {name}.json, which is of another Program or engine, or whose bitstream is gone; run it again"
        )
