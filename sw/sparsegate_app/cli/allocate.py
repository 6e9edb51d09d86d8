"""``sparsegate allocate``: N:M for every matrix, within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Groups, Json, Lanes, NetworkFile


def allocate(
    network: NetworkFile,
    sensitivity: Annotated[
        Path, typer.Option("--sensitivity", "-s", help="What sensitivity wrote for this network.")
    ] = Path("build/sensitivity.json"),
    budget_us: Annotated[
        float | None, typer.Option("--budget-us", help="Microseconds of a step alone in which nothing is skipped.")
    ] = None,
    budget_nonzeros: Annotated[
        int | None, typer.Option("--budget-nonzeros", help="Weights stored, those that only fill a place included.")
    ] = None,
    budget_brams: Annotated[
        int | None,
        typer.Option("--budget-brams", help="Block RAMs of an ECP5, tables included; it has 56, 108 or 208."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", help="PE rows of the array (Pr). Default: two for each gate.")
    ] = None,
    groups: Groups = None,
    lanes: Lanes = None,
    clock: Annotated[float, typer.Option("--clock", help="Clock in MHz, for microseconds.")] = 80.0,
    weight_bits: Annotated[int, typer.Option("--weight-bits", help="Bits of weights, for block RAMs.")] = 8,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")] = Path("build/allocation.json"),
    as_json: Json = False,
) -> None:
    """Choose N:M for every matrix so that a budget is met and the least is lost, by a sensitivity scan.

    Give one budget. Cycles and entries are exact for the array that is given, block RAMs are counted as Yosys maps memories.
    [bold]sparsegate prune --allocation[/] takes the result.

    Example: [bold]sparsegate allocate build/network.safetensors --budget-us 20 --rows 8 --out build/allocation.json[/]
    """
    from sparsegate.array import HardwareConfig, default_rows
    from sparsegate.compress.budget import Budget, Kind
    from sparsegate.compress.search import allocate as search
    from sparsegate.compress.sensitivity import Scan
    from sparsegate.errors import SparseGateError
    from sparsegate.network import Network
    from sparsegate.quantize import QuantizeConfig

    asked: list[tuple[Kind, float | None]] = [
        ("us", budget_us),
        ("nonzeros", budget_nonzeros),
        ("block_rams", budget_brams),
    ]
    budgets = [Budget(kind, limit) for kind, limit in asked if limit is not None]
    if len(budgets) != 1:
        raise SparseGateError(
            f"{len(budgets) or 'no'} budgets given, expected one of --budget-us, --budget-nonzeros and --budget-brams"
        )
    model = Network.load(network)
    if not sensitivity.exists():
        raise SparseGateError(f"there is no {sensitivity}; 'sparsegate sensitivity' writes one")
    scan = Scan.load(sensitivity)
    hardware = HardwareConfig(
        rows=default_rows(model) if rows is None else rows,
        groups=1 if groups is None else groups,
        lanes=lanes,
        states=bool(model.initial),
    )
    made = search(model, scan, budgets[0], hardware, clock, QuantizeConfig(weight_bits=weight_bits))
    made.save(out)
    result = {"file": str(out), **made.as_json()}
    lines: list[tuple[str, object]] = [
        (f"{name} W{key}", nm) for name, chosen in made.patterns.items() for key, nm in chosen.items()
    ]
    lines += [
        ("score lost, by the scan", f"{made.loss:.4g}"),
        ("stored entries", made.nonzeros),
        ("cycles of a full step", made.cycles),
        (f"microseconds at {made.mhz:g} MHz", f"{made.us:.2f}"),
        ("block RAMs", made.block_rams),
        ("file", out),
    ]
    console.emit(result, as_json, "allocation", lines)
