"""``sparsegate estimate``: area and cycles before synthesis."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import ARRAY, Array, Json, Multipliers, array_options

if TYPE_CHECKING:
    from sparsegate.estimate import Estimate
    from sparsegate.fpga.devices import Device


@array_options(ARRAY)
def estimate(
    *,
    program: Annotated[
        Path | None, typer.Argument(metavar="PROGRAM", help="A Program file, or a folder made by compile.")
    ] = None,
    array: Array,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device to estimate for. Default: LFE5U-85F."),
    ] = None,
    multipliers: Multipliers = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            metavar="DEVICE",
            help="Search the fastest array that fits this device: rows, groups, lanes, banks, how many of them in block RAM,"
            " and depth, where not given.",
        ),
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

    Multipliers and block RAMs are counted from the layout, cycles are the cycle model's for a step in which
    nothing is skipped. LUTs and flip-flops follow laws of the device's family, fitted on synthesized points, the
    whole board design included; [bold]sparsegate synth --points FILE[/] adds a point. A Gowin has too few points for a
    law: its LUTs and flip-flops are not estimated. The clock is the mean of what points of a like size, of the same
    speed grade and pipeline depth, reached; where there is none, it is not known.

    --fit takes a few seconds. It ranks by time of a step, or by cycles where an array without a clock might be the
    fastest.

    Example: [bold]sparsegate estimate build/program.safetensors --fit LFE5U-85F[/]
    """
    from sparsegate import estimate as rules
    from sparsegate.errors import SparseGateError
    from sparsegate.fpga.devices import device as chip_of
    from sparsegate_app.stages.compiled import open_program

    if fit is not None and device is not None:
        raise SparseGateError(f"--fit {fit} and --device {device} were given, expected one of the two")
    result: dict[str, Any] = {}
    table: list[tuple[str, object]] = []
    if refit is not None:
        measured = rules.read_points(refit)
        rules.write_laws(measured)
        points = points or refit
    if points is not None:
        result["errors"] = rules.errors(rules.read_points(points))
        for row in result["errors"]:
            table.append((row["name"], _errors(row)))
    if program is not None:
        compiled = open_program(program, array)
        with console.task("estimate"):
            if fit is not None:
                fixed = [name for name in rules.SEARCHED if array[name] is not None]
                found = rules.fit(compiled.program, fit, compiled.config, fixed, multipliers)
                best = found[0]
                result["fit"] = [asdict(one) for one in found[:5]]
                result["ranked_by"] = "time" if rules.timed(found) else "cycles"
            else:
                best = rules.estimate(compiled.program, compiled.config, device or "LFE5U-85F", multipliers)
        result |= asdict(best) | {"fits": best.fits(chip_of(best.device))}
        table += _rows(best)
        if fit is not None:
            unknown = "cycles, as an array whose clock is unknown might be the fastest"
            table.append(("ranked by", "time of a step" if result["ranked_by"] == "time" else unknown))
    if not result:
        raise SparseGateError("nothing to estimate: give a PROGRAM, --points or --refit")
    console.emit(result, as_json, "estimate", table)


def _rows(one: Estimate) -> list[tuple[str, object]]:
    """An estimate as a table."""
    from sparsegate.estimate import laws
    from sparsegate.fpga.devices import device
    from sparsegate.fpga.family import family

    chip = device(one.device)
    known = laws.load_routed().get(chip.family, {})
    lack = f"no law: {known.get('layouts', 0)} synthesized {chip.family} layout(s), {laws.FEWEST} are needed"

    def law(value: int | None, all_of: int, figure: str) -> str:
        if value is None:
            return lack
        low, high = known.get("errors", {}).get(figure) or (None, None)
        off = "" if low is None else f"; designs left out of the law were {low:+.0%} to {high:+.0%} off"
        return f"{value} of {all_of} ({value / all_of:.1%}){off}"

    clock = "unknown, as the LUTs are: no synthesized array can be called of a like size"
    if one.luts is not None:
        clock = "unknown: no synthesized array of this speed grade and depth is of a like size"
    if one.clock is not None:
        near = one.clock
        clock = f"{near.mhz:.1f} MHz, of {near.points} synthesized of a like size ({near.low:.1f} to {near.high:.1f})"
    depth, banks = "deep" if one.deep else "shallow", f"{one.banks} bank{'s' * (one.banks > 1)} of accumulators"
    if one.block_banks and family(chip.family).block_banks:
        banks += f" ({min(one.block_banks, one.banks)} in block RAM)"
    multipliers = f"{min(one.dsp, chip.dsp)} of {chip.dsp}"
    if one.dsp > chip.dsp:
        multipliers += f", {one.dsp - chip.dsp} more of logic"
    memories = [("single-port RAMs", f"{one.sprams} of {chip.sprams}")] if one.sprams else []
    return [
        ("device", one.device),
        ("array", f"{one.rows} rows x {one.groups} groups, {one.lanes} lanes, {banks}, {depth}"),
        ("fits", _verdict(one, chip)),
        ("multipliers", multipliers),
        ("block RAMs", f"{one.bram} of {chip.bram}"),
        *memories,
        ("LUTs", law(one.luts, chip.luts, "luts")),
        ("flip-flops", law(one.ffs, chip.ffs, "ffs")),
        ("cycles a step", one.cycles),
        ("clock", clock),
        ("time of a step", "unknown" if one.us is None else f"{one.us:.2f} us"),
    ]


def _verdict(one: Estimate, chip: Device) -> str:
    """Whether a device has room for an estimate, in words."""
    from dataclasses import replace

    from sparsegate.estimate import laws

    more = one.dsp - chip.dsp
    if one.bram > chip.bram:
        return f"no: {one.bram} block RAMs, the device has {chip.bram}"
    if not replace(one, dsp=0).fits(chip):
        return f"no, by the laws: more than {laws.share(chip.family):.1%} of the LUTs or flip-flops"
    if more > 0:
        room = "" if one.luts is None else ", for which it has room by the laws"
        return f"not without {more} multiplier{'s' * (more > 1)} of logic{room}"
    return "multipliers and block RAMs do; LUTs are not known" if one.luts is None else "yes, by the laws"


def _errors(row: dict[str, Any]) -> str:
    parts = [
        f"{name} {'no law' if row[key] is None else f'{row[key]:+.1%}'}" + _left_out(row["left_out"][key])
        for key, name in (("luts", "LUTs"), ("ffs", "flip-flops"))
    ]
    return f"multipliers {row['dsp']:+d}, block RAMs {row['bram']:+d}, {', '.join(parts)}"


def _left_out(value: float | None) -> str:
    return "" if value is None else f" ({value:+.1%} left out)"
