"""``sparsegate golden``: evaluate the bit-exact model on a data set, without any hardware tool."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Data,
    Json,
    ProgramPath,
    Thresholds,
    check_classes,
    chosen_thresholds,
    open_data,
)

if TYPE_CHECKING:
    from sparsegate.golden.explain import SiteError


def golden(
    program: ProgramPath,
    data: Data = "vowels",
    threshold: Thresholds = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="NETWORK", help="Compare with this float Network, narrowing by narrowing."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write outputs (raw integers) and predictions to this .npz file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the golden model on the test sequences: accuracy, skipped columns, saturations.

    With [bold]--trace[/], the error of every narrowing against the float network: where does it enter?

    Example: [bold]sparsegate golden build/program.safetensors --data vowels --trace build/pruned.safetensors[/]
    """
    from sparsegate_app.stages import golden as stage
    from sparsegate_app.stages.compiled import open_program

    compiled = open_program(program)
    dataset = open_data(data, compiled.program.inputs)
    check_classes(dataset, compiled.program.outputs)
    thresholds = chosen_thresholds(compiled.program, threshold)
    x, y, lengths = dataset.x_test, dataset.y_test, dataset.length_test
    with console.task("golden model"):
        result = stage.evaluate(compiled, x, y, lengths, thresholds=thresholds, data=dataset.name)
    if out is not None:
        result = stage.written(result, out, lengths, y)
    shown: dict[str, Any] = result.as_json()
    sites: list[SiteError] = []
    if trace is not None:
        from sparsegate.golden import explain
        from sparsegate.network import Network

        with console.task("compare with the float network"):
            sites = explain.explain(Network.load(trace), compiled.program, x, lengths, thresholds)
        shown["trace"] = [asdict(site) for site in sites]
    console.emit(shown, as_json, "golden model", result.rows())
    if sites and not as_json:
        _print_errors(sites)
    if threshold is None:
        compiled.record(result)


def _print_errors(sites: list[SiteError]) -> None:
    """A table of every narrowing's error."""
    columns = ("layer", "site", "LSB", "mean error", "in LSBs", "largest error", "largest value", "saturated")
    cells = [
        (
            site.layer,
            site.site,
            f"{site.lsb:.3g}",
            f"{site.mean:.3g}",
            f"{site.mean / site.lsb:.2f}",
            f"{site.max:.3g}",
            f"{site.largest:.3g}",
            site.saturations,
        )
        for site in sites
    ]
    console.stdout().print(console.table("error against the float network", columns, cells))
