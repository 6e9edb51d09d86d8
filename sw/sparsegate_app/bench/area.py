"""Area by the laws of :mod:`sparsegate.estimate`, as parts of the committed pages.

What is estimated stands beside what synthesis measured; how area grows; and what a device lacks for larger arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparsegate import artefact, estimate
from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError
from sparsegate.fpga.devices import device
from sparsegate.fpga.family import families

WORDS = {"luts": "LUTs", "ffs": "flip-flops", "bram": "block RAMs", "dsp": "multipliers"}
MADE_BY = "sparsegate bench "
"""Before a workload's name, in the command of its point."""

SIZES = {
    "products": "bits of all PEs' products",
    "logic": "bits of the partial products of as many of them as there are multipliers made of logic, where the device has no more",
    "pes": "PEs",
    "accumulators": "cells of 16 words and 4 bits in all PEs' accumulators",
    "adders": "bits of the adders before them, one for each PE and bank",
    "forwarded": "bits of the sums forwarded to these adders, where an accumulator may be hit again soon",
    "lane_bits": "bits of all values in the cell lanes' pipelines",
    "lists": "such cells in the column lists of all lanes and groups",
    "memories": "such cells of weights and biases, where they are too small for block RAM",
    "groups": "column groups",
    "deep": "bits of the registers that a deep engine has more",
}
"""What the laws are linear in, in words."""

ESTIMATES = """\
## Estimate before synthesis

What `sparsegate estimate` says of a design / what synthesis measured (the error). Block RAMs and multipliers are counted. LUTs and
flip-flops follow laws that are fitted to these very points ([synthesis.json](synthesis.json)), so that their error says how well a
few sizes explain them. **left out**: the error of a law fitted to the other points, which is what to expect of a new design.
*Packed*: other arrays, synthesized and packed but not placed (`sparsegate bench area`), larger ones than the device among them.
"""
INTRODUCTION = """\
Least squares of the relative errors at the synthesized designs, with UART and packet layer, each family by itself; LUTs of an iCE40
are its logic cells. The sizes in which the laws are linear:
"""
GROWTH = """\
Accumulators grow with units × column groups, adders with PEs, lists with units and with lanes × groups. Density changes what is
in block RAM; of these sizes it moves the sums forwarded and a deep engine's registers. A law has no more coefficients than two less
than there are different layouts, and where it is fitted without one of the points it misses that by more: see
[benchmarks/performance.md](benchmarks/performance.md). A Gowin has too few points for a law.
"""
BEYOND = """\
## Larger than the device

Arrays that were not placed. Cycles are by the cycle model, multipliers and block RAMs counted from the layout, LUTs and flip-flops
*estimated* by the laws, each beside what the device has. Multipliers that it lacks are made of LUTs, which the law counts. What an
array took where it was synthesized and packed (`sparsegate bench area`) stands in brackets.
"""


def estimates(points: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """The table of every point's estimate; those of workloads first, in their ``order``."""
    rows = [(_workload(one), one, row) for one, row in zip(points, estimate.errors(points), strict=True)]
    lines = [ESTIMATES, *_header(("design", *WORDS.values(), "left out: LUTs, flip-flops"))]

    def place(row: tuple[str, Mapping[str, Any], Mapping[str, Any]]) -> tuple[Any, ...]:
        name, one, _ = row
        return one["fmax_mhz"] is None, order.index(name) if name in order else len(order), name, one["name"]

    for _, one, row in sorted(rows, key=place):
        cells = [_beside(row["estimate"][figure], int(one[figure])) for figure in WORDS if figure != "dsp"]
        cells.append(_multipliers(row["estimate"]["dsp"], int(one["dsp"]), device(str(one["device"])).dsp))
        left_out = ", ".join(_percent(row["left_out"][figure]) for figure in estimate.SIZES)
        lines.append(f"| `{_design(one)}`, {one['device']} | {' | '.join(cells)} | {left_out} |")
    return "\n".join(lines) + "\n"


def _design(point: Mapping[str, Any]) -> str:
    """A point by its workload, or by the command that made it; one that was not placed by its array."""
    if point["fmax_mhz"] is None:
        return str(point["name"]).split(f" on {point['device']}")[0].replace(" x ", " × ") + _blocks(point)
    return str(point["command"]).removeprefix(MADE_BY)


def _array(hardware: Mapping[str, Any]) -> str:
    return artefact.canonical(asdict(HardwareConfig(**hardware)))


def _blocks(point: Mapping[str, Any]) -> str:
    return ", in block RAM" if point["hardware"]["block_banks"] else ""


def _workload(point: Mapping[str, Any]) -> str:
    return str(point["command"]).removeprefix(f"{MADE_BY}area ").removeprefix(MADE_BY)


def _header(columns: Sequence[str]) -> tuple[str, str]:
    return f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)


def _beside(estimated: int | None, measured: int) -> str:
    if estimated is None:
        return f"no law / {measured:,}"
    if not measured:
        return f"{estimated:,} / 0"
    return f"{estimated:,} / {measured:,} ({_percent(estimated / measured - 1)})"


def _multipliers(asked: int, measured: int, there: int) -> str:
    """Multipliers of the device; those that it lacks are made of logic."""
    more = f", {asked - there} more of logic" if asked > there else ""
    return _beside(min(asked, there), measured) + more


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f} %"


def laws(points: Sequence[Mapping[str, Any]]) -> str:
    """How LUTs and flip-flops grow, and the fit at the synthesized points, of every family that has laws."""
    known = estimate.load_laws()
    used = [name for name in SIZES if any(name in law for laws in known.values() for law in laws.values())]
    lines = ["## How area grows\n", INTRODUCTION, *(f"- **{name}**: {SIZES[name]}." for name in used), "", GROWTH]
    for family, of in known.items():
        mine = [one for one in points if device(str(one["device"])).family == family]
        lines.append(f"\n{families()[family].label}, at {len(mine)} synthesized designs:\n")
        for figure, law in of.items():
            terms = (f"{value:,g}" if name == "one" else f"{value:,g} × {name}" for name, value in law.items())
            lines.append(f"    {WORDS[figure]} = {' + '.join(terms)}")
        own = [name for name in used if any(name in law for law in of.values())]
        lines += ["", *_header(("design", *own, *(f"{WORDS[figure]}: measured, law, error" for figure in of)))]
        fits_of = zip(mine, estimate.errors(mine), strict=True)
        for one, row in sorted(fits_of, key=lambda both: (both[0]["fmax_mhz"] is None, both[0]["luts"])):
            sizes = (f"{one['sizes'][name]:,g}" for name in own)
            fits = (f"{one[figure]:,}, {row['estimate'][figure]:,}, {_percent(row[figure])}" for figure in of)
            lines.append(f"| {' | '.join((_design(one), *sizes, *fits))} |")
    return "\n".join(lines) + "\n"


def by_the_laws(sizes: Mapping[str, float], family: str) -> dict[str, int]:
    """LUTs and flip-flops of a design of these sizes, of a family that has laws."""
    laws = estimate.load_laws()[family]
    if lacking := {name for law in laws.values() for name in law} - set(sizes):
        raise SparseGateError(
            f"the record has an array without the size {min(lacking)!r}; measure it again with --no-pnr"
        )
    return {figure: round(sum(sizes[name] * value for name, value in law.items())) for figure, law in laws.items()}


def beyond(rows: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]] = ()) -> str:
    """Arrays of workloads that were not placed, and what a device lacks for them; empty where no row has any."""
    packed = {(_workload(one), _array(one["hardware"])): one for one in points if one["fmax_mhz"] is None}
    lines = [
        BEYOND,
        *_header(("workload", "PEs", "lanes", "cycles", *(WORDS[key] for key in ("dsp", "bram", "luts", "ffs")))),
    ]
    verdicts = []
    for row in rows:
        chip, shares, fitting = device(row["device"]), [], 0
        for other in row.get("stretch", ()):
            hardware, made = other["hardware"], other["sizes"]
            found = {"dsp": int(made["dsp"]), "bram": int(made["bram"])} | by_the_laws(made, chip.family)
            measured = packed.get((row["name"], _array(hardware)))
            area = (
                f"{value:,} of {getattr(chip, figure):,}" + (f" ({measured[figure]:,})" if measured else "")
                for figure, value in found.items()
            )
            pes = f"{hardware['rows']} × {hardware['groups']}"
            cells = (
                f"{row['name']}, {chip.name}",
                pes,
                str(hardware["lanes"]),
                f"{other['cycles_per_step']:,.1f}",
                *area,
            )
            lines.append(f"| {' | '.join(cells)} |")
            shares.append(found["luts"] / chip.luts)
            fitting += all((measured or found)[figure] <= getattr(chip, figure) for figure in ("bram", "luts", "ffs"))
        if shares:
            low, high = estimate.load_routed()[chip.family]["errors"]["luts"]
            verdicts.append(
                f"By that {fitting or 'none'} of {len(shares)} would fit: by the law `{row['name']}` would take"
                f" {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the LUTs of an {chip.name}. The\nlaw misses designs that"
                f" are left out of it by {_percent(low)} to {_percent(high)}."
            )
    return "\n".join([*lines, "", *verdicts]) + "\n" if verdicts else ""
