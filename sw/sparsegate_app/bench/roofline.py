"""docs/roofline.md: what bounds each workload, the limit, and how far from it the engine is; and how cycles and area grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsegate import estimate
from sparsegate.array import HardwareConfig, Layout
from sparsegate.fpga.devices import DEFAULT, device
from sparsegate.fpga.family import family
from sparsegate.host import BAUD
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_app.bench import area, figures, performance

BOUNDS = {
    "array": "multipliers",
    "read_out": "read-out",
    "cell_lanes": "cell lanes",
    "input": "input stream",
    "output": "output stream",
}
"""Keys of a row's limits, in the order in which the first of equals is named, and their words."""

SHAPES = (
    *((units, NM(1, 16), 8, 1) for units in (64, 128, 256, 512)),
    *((256, pattern, 8, 1) for pattern in (NM(1, 4), NM(1, 8), NM(2, 32))),
    *((512, NM(1, 16), rows, groups) for rows, groups in ((4, 1), (16, 1), (16, 2), (16, 3), (32, 3))),
)
"""Units, pattern, PE rows and groups of the points that the law of cycles is fitted on."""
INPUTS = 64

HEAD = """# Roofline

What bounds a step of each workload of [benchmarks/performance.md](benchmarks/performance.md), what that limit is, and how far from
it the engine is; then throughput, memory, and how cycles and area grow. Made from `benchmarks/performance.json` and
`benchmarks/synthesis.json` by `make bench-performance`; figures of the first tables in cycles a step. The words:

- **multipliers**: nonzeros ÷ PEs, with the places that idle because blocks do not divide by PE rows, and columns not by groups.
- **read-out**: one accumulator of every PE row leaves in a cycle. **cell lanes**: one unit a lane and cycle.
- **input**: one value a cycle. **output**: `outputs` of the array's configuration, 1 unless it says otherwise.
- **bound**: the largest of these; nothing that shares an array of this size can be faster. **distance**: cycles ÷ bound.
- **chip**: nonzeros ÷ all multipliers of the device, were every one of them a PE; a dash where it has none.
- **block RAM**: bits of the nonzeros with their indices ÷ the bits that all memories of the device that hold weights give a cycle,
  were all of them weights' and full: 36 bits of an ECP5's or Gowin's block RAM, 16 of an iCE40's or of its SPRAM.
- **memory**: bits of the nonzeros with their indices, and of the memories that hold them; blocks that the whole design takes.
"""

ESE_GOPS, ESE_PES, ESE_MHZ = 2520, 1024, 200
"""Dense-equivalent throughput of ESE, and what it had for it: ``workloads.ESE``."""
THROUGHPUT = f"""\
## Dense-equivalent throughput

2 × dense MACs ÷ time of a step, against the {ESE_GOPS:,} GOPS of ESE (FPGA'17, {ESE_PES:,} PEs at {ESE_MHZ} MHz, the paper's
abstract). A multiplier is one of the device that the design takes, for cells and tables as well as PEs; MHz are nextpnr's Fmax. A
dash: not placed and routed, or without multipliers. How many columns are unchanged decides:

- *real inputs* is real temporal sparsity: recorded inputs at Θ = 0, in trained networks, or as real inputs to random weights.
- *nine tenths unchanged* is not: columns are drawn from a seed, each moving with probability 1/10.
"""
WHICH = {
    "nothing_skipped": "nothing skipped",
    "real": "real inputs",
    "nine_tenths_unchanged": "nine tenths unchanged, drawn",
}
"""Cases of the throughput."""
OVERLAP = """\
## What filling the read-out wins

A phase's columns that are already known, such as the next layer's h, are dispatched while the phase before is read out, if the
two have banks of accumulators of their own. With one bank every phase waits. Cycles of a step with nothing skipped and their
occupancy, by the cycle model; networks whose step is one phase have nothing to fill.
"""

INTERFACE = f"""\
## Interface

The figures above are of the engine, whose streams take and give a value a cycle. A board's wrapper reaches it through a UART of
{BAUD / 1e6:g} Mbaud, ten bits a byte, and carries out one request at a time: no step overlaps another, and the bytes of a step take
most of the time. **alone**: cycles of a step by itself, nothing skipped, by the cycle model.
"""

CASES = {"nothing_skipped": "Nothing skipped", "nine_tenths_unchanged": "Nine tenths of the columns unchanged"}


def bound(row: Mapping[str, Any], case: str) -> tuple[str, float]:
    """What bounds a case, and the bound in cycles.

    Columns that are skipped take from the multipliers' bound alone, and there by the mean of the column groups.
    """
    limits = dict(row["limits"]["cycles"])
    if case != "nothing_skipped":
        limits["array"] *= 1 - row["cases"][case]["columns_skipped"]
    name = max(BOUNDS, key=lambda key: limits[key])
    return BOUNDS[name], float(limits[name])


def laws(shapes: Sequence[tuple[int, NM, int, int]] = SHAPES) -> list[dict[str, Any]]:
    """Cycles of an LSTM with nothing skipped, and what they should depend on, over sizes, densities and arrays."""
    points = []
    for units, pattern, rows, groups in shapes:
        network = synthetic.network(INPUTS, [Shape("lstm", units, pattern, pattern)], seed=1)
        x = np.random.default_rng(1).normal(size=(1, 4, INPUTS))
        layout = Layout(quantize(network, x), HardwareConfig(rows, groups))
        found = figures.limits(layout)["cycles"]
        points.append(
            {
                "units": units,
                "pattern": str(pattern),
                "rows": rows,
                "groups": groups,
                "nonzeros": figures.nonzeros(layout.program.phases[0]),
                "array": found["array"],
                "read_out": found["read_out"],
                "cycles": figures.full(layout.program, layout)["cycles_per_step"],
                "weight_bits": figures.limits(layout)["weight_bits"],
                "sizes": estimate.sizes(layout),
            }
        )
    return points


def fit(points: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, float]:
    """Least squares of cycles = a array + b read_out + c: the three, and the largest error as a share of the cycles."""
    terms = np.array([[point["array"], point["read_out"], 1.0] for point in points])
    cycles = np.array([point["cycles"] for point in points])
    a, b, c = (float(value) for value in np.linalg.lstsq(terms, cycles, rcond=None)[0])
    worst = float(np.max(np.abs(terms @ (a, b, c) - cycles) / cycles))
    return a, b, c, worst


def page(record: Mapping[str, Any], points: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page of a record of 'sparsegate bench' with its ``laws``, and of synthesized points."""
    rows = record["workloads"]
    parts = [HEAD]
    for case, title in CASES.items():
        columns = ("workload", *BOUNDS.values(), "chip", "block RAM", "bound", "cycles", "distance")
        lines = [f"## {title}\n", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in rows:
            name, limit = bound(row, case)
            limits = dict(row["limits"]["cycles"])
            share = 1.0 if case == "nothing_skipped" else 1 - row["cases"][case]["columns_skipped"]
            limits["array"] *= share
            cycles, chip = row["cases"][case]["cycles_per_step"], device(row["device"])
            cells = [
                row["name"],
                *(f"{limits[key]:,.0f}" for key in BOUNDS),
                f"{share * row['nnz'] / chip.dsp:,.0f}" if chip.dsp else "-",
                f"{share * row['nnz'] * row['limits']['entry_bits'] / _weight_bits(row):,.0f}",
                name,
                f"{cycles:,.1f}",
                f"{cycles / limit:.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    parts += [_throughput(rows), _overlap(rows), _memory(rows), _interface(rows)]
    if record.get("laws"):
        parts.append(_laws(record["laws"]))
    if points:
        parts.append(area.laws(points))
    parts.append(area.beyond(rows, points))
    return "\n".join(part for part in parts if part)


def _weight_bits(row: Mapping[str, Any]) -> int:
    """Bits that the memories of a row's device in which its weights lie give a cycle."""
    chip = device(row["device"])
    # a single-port memory gives as many as a block RAM of its device
    return family(chip.family).read_bits * (chip.sprams if row["hardware"]["loaded"] and chip.sprams else chip.bram)


def _throughput(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ("workload", "device", "case", "GOPS", "GOPS a multiplier", "GOPS a MHz", f"of {ESE_GOPS:,} GOPS")
    lines = [THROUGHPUT, f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        most = "≤ " if performance.bounded(row) else ""
        for key, words in WHICH.items():
            case = row["cases"][key]
            gops, a_mhz = case["gops_dense_equivalent"], 2e-3 * row["dense_macs"] / case["cycles_per_step"]
            cells = (
                "-" if gops is None else f"{most}{gops:,.1f}",
                "-" if gops is None or not row["dsp"] else f"{most}{gops / row['dsp']:.2f}",
                f"{a_mhz:.3f}",
                "-" if gops is None else f"{most}{100 * gops / ESE_GOPS:.1f} %",
            )
            lines.append(f"| {row['name']} | {row['device']} | {words} | {' | '.join(cells)} |")
    each = f"{ESE_GOPS / ESE_PES:.2f} | {ESE_GOPS / ESE_MHZ:.3f}"
    lines += [f"| ESE | XCKU060 | as published | {ESE_GOPS:,.1f} | {each} | 100.0 % |", ""]
    for key, words in (
        ("real", "On real inputs"),
        ("nine_tenths_unchanged", "With drawn columns, nine tenths of them unchanged,"),
    ):
        reached = [
            (row["cases"][key]["gops_dense_equivalent"], row["name"], row["network"])
            for row in rows
            if row["fmax_mhz"] and not performance.bounded(row)
        ]
        for among, which in (
            (reached, "reaches the most"),
            (_trained(reached), "reaches the most of the trained networks"),
        ):
            if among and (among is reached or max(among) != max(reached)):
                gops, name, _ = max(among)
                lines.append(f"{words} `{name}` {which}: {100 * gops / ESE_GOPS:.1f} % of ESE's figure.")
    return "\n".join(lines) + "\n"


def _trained(reached: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Those whose network is not random."""
    return [each for each in reached if not each[-1].startswith("random")]


def _overlap(rows: Sequence[Mapping[str, Any]]) -> str:
    """What more banks than one win; empty where no row has such a step."""
    columns = ("workload", "banks", "cycles", "occupancy, all", "saved")
    lines = [OVERLAP, f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    found = [(row["name"], one, row["overlap"][0]) for row in rows for one in row.get("overlap", ())]
    for name, one, alone in found:
        cells = (
            f"{one['banks']}{', as built' * one['built']}",
            f"{one['cycles_per_step']:,.1f}",
            f"{100 * one['occupancy_total']:.1f} %",
            "-" if one is alone else f"{100 * (1 - one['cycles_per_step'] / alone['cycles_per_step']):.1f} %",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if found else ""


def _memory(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        "workload",
        "device",
        "nonzeros and indices",
        "weight memories",
        "filled",
        "where they are",
        "block RAMs",
    )
    lines = ["## Memory\n", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        chip, limits = device(row["device"]), row["limits"]
        held, made = limits["weight_bits"], limits["weight_memory_bits"]
        where = f"{chip.sprams} SPRAMs" if row["hardware"]["loaded"] and chip.sprams else "block RAM"
        taken = "-" if row["bram"] is None else f"{row['bram']} of {chip.bram} ({100 * row['bram'] / chip.bram:.1f} %)"
        lines.append(
            f"| {row['name']} | {row['device']} | {held:,} | {made:,} | {100 * held / made:.1f} % | {where} | {taken} |"
        )
    return "\n".join(lines) + "\n"


def _interface(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ("workload", "bytes a step, both ways", "µs on the wire", "alone, cycles", "alone, µs")
    lines = [INTERFACE, f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        if "uart_bytes" not in row["limits"]:  # an earlier version measured it
            continue
        sent, alone, clock = row["limits"]["uart_bytes"], row["cases"]["nothing_skipped"]["alone"], row["fmax_mhz"]
        time = "-" if clock is None else f"{'≥ ' * performance.bounded(row)}{alone / clock:,.2f}"
        lines.append(f"| {row['name']} | {sent:,} | {1e7 * sent / BAUD:,.0f} | {alone:,.1f} | {time} |")
    return "\n".join(lines) + "\n"


def _laws(points: Sequence[Mapping[str, Any]]) -> str:
    a, b, c, worst = fit(points)
    lines = [
        "## How cycles, memory and area grow\n",
        f"One LSTM layer of {INPUTS} inputs with nothing skipped. Least squares over the points below:\n",
        f"    cycles = {a:.3f} × array + {b:.3f} × read-out {'+' if c >= 0 else '-'} {abs(c):.1f}    "
        f"(largest error {100 * worst:.1f} %)\n",
        "with array = slots × N × (columns of the longest group), slots = ⌈4 × units / (M × PE rows)⌉, which is nonzeros ÷ PEs",
        "where everything divides, and read-out = 4 × units ÷ PE rows, with a lane for each cluster. Points are the cycle model's,",
        "which RTL is held against. Bits of nonzeros are nonzeros × (weight bits + log2 M), whatever the array. Block RAMs are",
        "counted: they follow these bits on a small array and PEs on a large one, each with a memory of its own, full or not.\n",
        "LUTs and flip-flops are *estimated*, by the laws of area below; none of these was synthesized.\n",
        "| units | pattern | PEs | nonzeros | bits | block RAMs | array | read-out | cycles | by the law | LUTs | flip-flops |",
        "|" + "---|" * 12,
    ]
    for point in points:
        law, made = (
            a * point["array"] + b * point["read_out"] + c,
            area.by_the_laws(point["sizes"], device(DEFAULT).family),
        )
        lines.append(
            f"| {point['units']} | {point['pattern']} | {point['rows']} × {point['groups']} | {point['nonzeros']:,} |"
            f" {point['weight_bits']:,} | {point['sizes']['bram']:.0f} | {point['array']:,} | {point['read_out']:,} |"
            f" {point['cycles']:,.1f} | {law:,.1f} |"
            f" {made['luts']:,} | {made['ffs']:,} |"
        )
    return "\n".join(lines) + "\n"
