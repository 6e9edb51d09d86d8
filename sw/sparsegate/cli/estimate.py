"""``sparsegate estimate``: area and cycles before synthesis."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsegate import console
from sparsegate.cli.options import Banks, Deep, Groups, Json, Lanes, LoadWeights, Outputs, Rows, open_program


def estimate(
    program: Annotated[
        Path | None, typer.Argument(metavar="PROGRAM", help="A Program file, or a folder made by compile.")
    ] = None,
    rows: Rows = None,
    groups: Groups = None,
    lanes: Lanes = None,
    outputs: Outputs = None,
    banks: Banks = None,
    load_weights: LoadWeights = None,
    deep: Deep = None,
    device: Annotated[
        str, typer.Option("--device", help="Device whose block RAMs and multipliers are counted.")
    ] = "LFE5U-85F",
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="DEVICE", help="Search the fastest array that fits this device.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--points", metavar="FILE", help="Compare with synthesized points: the error at each of them."),
    ] = None,
    refit: Annotated[
        Path | None,
        typer.Option("--refit", metavar="FILE", help="Fit the laws anew to synthesized points, and write them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Multipliers, block RAMs, LUTs, flip-flops and cycles of a Program on an array, in under a second.

    Multipliers and block RAMs are counted from the layout, cycles are the cycle model's for a step in which nothing is
    skipped. LUTs and flip-flops follow laws fitted on synthesized points, the whole board design included;
    [bold]sparsegate synth --points FILE[/] adds a point.

    Example: [bold]sparsegate estimate build/program.safetensors --fit LFE5U-85F[/]
    """
    from sparsegate import estimate as rules
    from sparsegate.errors import SparseGateError

    result: dict[str, Any] = {}
    table: list[tuple[str, object]] = []
    if refit is not None:
        measured = rules.read_points(refit)
        rules.write_laws(rules.refit(measured))
        points = points or refit
    if points is not None:
        result["errors"] = rules.errors(rules.read_points(points))
        for row in result["errors"]:
            table.append((row["name"], _errors(row)))
    if program is not None:
        compiled = open_program(
            program, rows, groups, lanes, outputs=outputs, banks=banks, loaded=load_weights, deep=deep
        )
        with console.task("estimate"):
            if fit is not None:
                found = rules.fit(compiled.program, fit, compiled.config)
                best = found[0]
                result["fit"] = [asdict(one) for one in found[:5]]
            else:
                best = rules.estimate(compiled.program, compiled.config, device)
        result |= asdict(best)
        table += [
            ("device", best.device),
            ("array", f"{best.rows} rows x {best.groups} groups, {best.lanes} lanes"),
            ("multipliers", best.dsp),
            ("block RAMs", best.bram),
            ("LUTs", "no law for this family" if best.luts is None else best.luts),
            ("flip-flops", "no law for this family" if best.ffs is None else best.ffs),
            ("cycles a step", best.cycles),
        ]
    if not result:
        raise SparseGateError("nothing to estimate: give a PROGRAM, --points or --refit")
    console.emit(result, as_json, "estimate", table)


def _errors(row: dict[str, Any]) -> str:
    laws = ", ".join(
        f"{name} {'no law' if row[key] is None else f'{row[key]:+.1%}'}"
        for key, name in (("luts", "LUTs"), ("ffs", "flip-flops"))
    )
    return f"multipliers {row['dsp']:+d}, block RAMs {row['bram']:+d}, {laws}"
