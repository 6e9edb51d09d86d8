"""The page of docs/benchmarks that shows performance.json: one table, every case, and what others report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsegate_app.bench import area, performance

COLUMNS = (
    "workload",
    "device",
    "PEs",
    "nonzeros",
    "cycles a step",
    "skipped",
    "occupancy, matvec / all",
    "Fmax, MHz",
    "µs a step",
    "LUTs",
    "FFs",
    "BRAM",
    "DSP",
    "GOPS, sparse / dense-equivalent",
    "RTL differs",
)
SHORT = {
    "workload": 0,
    "cycles": 4,
    "occupancy": 6,
    "MHz": 7,
    "µs": 8,
    "GOPS": 13,
    "differ": 14,
}
"""Columns that 80 characters have room for; of two figures in one the last: occupancy of all cycles, dense-equivalent GOPS."""
CASES = {
    "nothing_skipped": "nothing skipped",
    "real": "real inputs",
    "nine_tenths_unchanged": "nine tenths unchanged",
}
"""Names of the cases in words."""
LONGEST = {"yosys": "Yosys", "nextpnr": "nextpnr"}
"""Parts of a synthesis that take long."""
CELLS = ("LUT4", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4", "MULT18X18D", "DP16KD")
"""Cells of an ECP5 that others count."""
OTHERS = ("workload", "ours, a step with nothing skipped", "beside", "what it reports", "where that stands")
CASE_COLUMNS = (
    "workload",
    "case",
    "cycles a step",
    "latency",
    "alone",
    "skipped",
    "occupancy, matvec / all",
    "longest group / mean",
    "µs a step",
    "µs, frame to result",
    "GOPS, sparse / dense-equivalent",
    "dense-equivalent GOPS a PE",
    "operations a PE and cycle",
)

HEAD = """# Performance

Made by `make bench-performance` (`sparsegate bench --json docs/benchmarks/performance.json`), which writes `performance.json`
and this page. The cycle part alone takes minutes: `sparsegate bench --no-pnr --json FILE` gives the same cycles (of *real inputs*
with the networks that `bench accuracy` fine-tuned, which are not in the repository: without them those are pruned at once. `vowels`
is trained by the bench, and on another processor its sums may round differently; random networks get their formats from real
inputs where the data are there).

- **cycles a step**: from the end of a step to the end of the next, by the cycle model. **RTL differs**: of a short run of the same
  Program in Verilated RTL, values, step times and counters that are not what golden and cycle model say.
- **occupancy**: useful MACs / (PEs × cycles), of the matrix-vector phases and of all cycles.
- **latency**, **frame to result**: from taking a frame to its last result; frames stream in and steps overlap, so that it is longer
  than a step. **alone**: cycles of a step that overlaps no other, as where a board's wrapper carries out one request at a time.
- **µs a step**: these cycles ÷ nextpnr's Fmax after routing; nothing is measured on a board. A dash: not placed and routed. With
  **≤** and **≥**: nextpnr's model of the device lacks delays, so that the clock is an upper bound.
- **GOPS, sparse**: 2 × nonzeros ÷ time of a step; **dense-equivalent**: 2 × dense MACs ÷ the same time.
- Cases. *nothing skipped*, the first table's: every column of every matrix is sent at every step; depends on shapes alone. *real
  inputs*: those named below, at Θ = 0. *nine tenths unchanged*: each column moves with probability 1/10, drawn from a seed.
- What others report stands beside, with where it stands; it was not run by us unless it says so.
"""


def page(record: Mapping[str, Any], points: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page of a record, with the estimates of synthesized points."""
    rows = record["workloads"]
    parts = [HEAD, _table(COLUMNS, [cells(row) for row in rows])]
    parts += ["## Beside what others report\n", _table(OTHERS, [line for row in rows for line in others(row)])]
    parts.append("## Every case\n")
    parts.append(_table(CASE_COLUMNS, [line for row in rows for line in case_cells(row)]))
    if points:
        parts.append(area.estimates(points, [row["name"] for row in rows]))
    parts.append("## What was run\n")
    for row in rows:
        lines = [
            f"### {row['name']}\n",
            f"{row['about']}, on {row['device']}, {row['hardware']['rows']} × {row['hardware']['groups']} PEs and"
            f" {row['hardware']['lanes']} cell lane{'s' * (row['hardware']['lanes'] > 1)}.\n",
            f"- Network: {row['network']}.",
            f"- Inputs: {row['inputs']}.",
            f"- Clock: {row['us_how']}.",
        ]
        if row.get("report"):
            late = performance.missed(row)
            lines.append(f"- Placements: {_placements(row['report'])}{f'; {late}' if late else ''}.")
            lines.append(f"- Longest path: {'; '.join(row['report']['critical_path'])}.")
        if row.get("engine_cells"):
            lines.append(f"- The engine alone, without UART and packet layer, in Yosys' cells: {_engine(row)}.")
        lines.append(f"- RTL: {_compared(row['rtl'])}." if row["rtl"] else "- RTL: not run.")
        if row.get("rtl_quieted"):
            quiet = row["rtl_quieted"]
            lines.append(
                f"- RTL with about a tenth of the columns moving ({_share(quiet['columns_skipped'])} skipped):"
                f" {quiet['cycles_predicted']:,} cycles predicted, {quiet['cycles_counted']:,} counted"
                f"{_imbalance(quiet) if row['hardware']['groups'] > 1 else ''}. {_compared(quiet)}."
            )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _imbalance(quiet: Mapping[str, Any]) -> str:
    """What column groups wait for one another; an earlier record has no beats counted."""
    text = f"; the longest column groups have {quiet['group_imbalance']:.3f} of the mean group's beats"
    if quiet.get("longest_beats_counted") is None:
        return f"{text}, predicted"
    return f"{text}, {quiet['longest_beats']:,} predicted and {quiet['longest_beats_counted']:,} counted"


def _placements(report: Mapping[str, Any]) -> str:
    """Every seed that was tried, and how long it took where that is known."""
    tried = ", ".join(
        f"seed {seed} {'has none' if reached is None else f'{reached:g} MHz'}" for seed, reached in report["tried"]
    )
    known = report["stages"]
    seconds = ", ".join(f"{word} {known[key]:,.0f} s" for key, word in LONGEST.items() if key in known)
    return f"{tried}{f'; {seconds}' if seconds else ''}"


def _engine(row: Mapping[str, Any]) -> str:
    """Cells of the engine alone."""
    return ", ".join(f"{count:,} {kind}" for kind, count in row["engine_cells"].items() if kind in CELLS)


def _compared(found: Mapping[str, Any]) -> str:
    return (
        f"{found['values_compared']:,} values of {found['steps']} steps compared on {found['simulator']}: {found['mismatches']}"
        f" values, {found['cycle_mismatches']} step times and {found['counter_mismatches']} counters differ"
    )


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One workload's headline as texts."""
    most, least = ("≤ ", "≥ ") if performance.bounded(row) else ("", "")
    return (
        row["name"],
        row["device"],
        str(row["pes"]),
        f"{row['nnz']:,}",
        f"{row['cycles_per_step']:,.1f}",
        _share(row["columns_skipped"]),
        f"{_share(row['occupancy_matvec'])} / {_share(row['occupancy_total'])}",
        most + _number(row["fmax_mhz"], ".1f"),
        least + _number(row["us_per_step"], ".2f"),
        *(_number(row[key], ",") for key in ("luts", "ffs", "bram", "dsp")),
        f"{most}{_number(row['gops_sparse'], ',.2f')} / {_number(row['gops_dense_equivalent'], ',.1f')}",
        _number(row["rtl_mismatches"], ""),
    )


def short(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One workload's headline for a terminal."""
    found = [cells(row)[at] for at in SHORT.values()]
    return tuple(("≤ " if " / " in text and text[0] == "≤" else "") + text.rpartition(" / ")[2] for text in found)


def others(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What others report beside a workload, and the CPU where it ran the same layer, as texts."""
    most, least = ("≤ ", "≥ ") if performance.bounded(row) else ("", "")
    ours = (
        f"{row['cycles_per_step']:,.1f} cycles, {least}{_number(row['us_per_step'], '.2f')} µs,"
        f" {most}{_number(row['gops_dense_equivalent'], ',.1f')} GOPS dense-equivalent"
    )
    if row.get("engine_cells"):
        ours += f"; the engine alone {_engine(row)}"
    found = [(each["system"], each["figures"], each["source"]) for each in row["published"]]
    if row["alternative"]:
        times = ", ".join(f"{value:g} µs ({key})" for key, value in row["alternative"]["us_per_step"].items())
        name = row["alternative"].get("processor")  # an earlier record does not name it
        found.append((f"the CPU{f': {name}' if name else ''}", f"{times}: {row['alternative']['what']}", "run by us"))
    return [(row["name"], ours, *each) for each in found]


def case_cells(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every case of a workload as texts."""
    lines: list[tuple[str, ...]] = []
    most, least = ("≤ ", "≥ ") if performance.bounded(row) else ("", "")
    for key, case in row["cases"].items():
        dense = case["gops_dense_equivalent"]
        lines.append(
            (
                row["name"],
                CASES[key],
                f"{case['cycles_per_step']:,.1f}",
                f"{case['latency']:,.1f}",
                _number(case.get("alone"), ",.1f"),
                _share(case["columns_skipped"]),
                f"{_share(case['occupancy_matvec'])} / {_share(case['occupancy_total'])}",
                f"{case['group_imbalance']:.3f}",
                least + _number(case["us_per_step"], ".2f"),
                least + _number(None if row["fmax_mhz"] is None else case["latency"] / row["fmax_mhz"], ".2f"),
                f"{most}{_number(case['gops_sparse'], ',.2f')} / {_number(dense, ',.1f')}",
                most + _number(None if dense is None else dense / row["pes"], ".2f"),
                f"{2 * row['dense_macs'] / (case['cycles_per_step'] * row['pes']):.1f}",
            )
        )
    return lines


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None, form: str) -> str:
    """A figure; a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"
