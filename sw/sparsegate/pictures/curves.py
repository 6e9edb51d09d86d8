"""What was measured: accuracy against density, bits, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsegate.cells.matrices import KEYS, TITLES
from sparsegate.errors import SparseGateError
from sparsegate.pictures.look import BLUE, COLOURS, GREY, MARKERS, densities, figure_of, legend, line, panels, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsegate.compress.sensitivity import Scan
    from sparsegate.golden.temporal import Point

FAMILIES = {
    "bbs": "bank-balanced (BBS)",
    "ese": "load-balanced (ESE)",
    "block": "block",
    "cbtd": "column-balanced (CBTD)",
    "unstructured": "unstructured",
    "dense": "dense",
}
PERMUTED = "units permuted"
"""What the rows of a benchmark call it."""


def accuracy_by_stage(accuracy: Mapping[str, float | None]) -> Figure | None:
    """Test accuracy of the float, the pruned and the integer network; None where nothing is known."""
    known = [(stage, value) for stage, value in accuracy.items() if value is not None]
    if not known:
        return None
    figure = figure_of(8, 0.8 + 0.45 * len(known))
    axis = figure.subplots()
    bars = axis.barh([stage for stage, _ in known], [100 * value for _, value in known], color=BLUE, height=0.6)
    axis.bar_label(bars, fmt="%.2f %%", padding=4, fontsize=9)
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.invert_yaxis()
    tidy(axis, grid="x")
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("test accuracy, %")
    return figure


def accuracy_by_density(rows: Sequence[Mapping[str, Any]], bits: int = 8) -> Figure:
    """Mean over seeds against density, one line for each family of patterns, one panel for each task; bars span the seeds.

    ``rows``: those of ``docs/benchmarks/accuracy.json``, of which the ones with weights of ``bits`` bits and nothing but pruning
    are drawn: the golden model's figure, and the float baseline. Rows whose units were permuted first are a family of their own.
    """
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        # CBTD is its pattern together with its schedule
        plain = ("annealed",) if _pattern(row).startswith("cbtd") else ("", PERMUTED)
        if row["method"] in plain and row["case"]["bits"] == bits:
            tasks.setdefault(str(row["task"]), []).append(row)
    if not tasks:
        raise SparseGateError(f"no row is of plain pruning with weights of {bits} bits")
    figure, axes = panels(len(tasks), 3.3)
    found = {_family(row) for part in tasks.values() for row in part} - {"dense"}
    families = sorted(found, key=lambda name: (name in FAMILIES.values(), name))
    for axis, (task, part) in zip(axes, tasks.items(), strict=True):
        seen: set[float] = set()
        here = [name for name in families if any(_family(row) == name for row in part)]
        for name in here:
            number = families.index(name)
            patterns: dict[str, list[Mapping[str, Any]]] = {}
            for row in part:
                if _family(row) == name:
                    patterns.setdefault(_pattern(row), []).append(row)
            # beside one another, so that no bar hides behind another
            aside = 1 + 0.03 * (here.index(name) - (len(here) - 1) / 2)
            points = {
                aside * float(np.mean([row["density"] for row in group])): [_figure(row) for row in group]
                for group in patterns.values()
            }
            seen |= {at / aside for at in points}
            if points:
                line(axis, points, number, name, style="--" if name in FAMILIES.values() else "-")
        axis.axhline(
            np.mean([_figure(row, "float") for row in part]),
            color=GREY,
            linewidth=1.2,
            linestyle="--",
            label="float, dense",
        )
        dense = [_figure(row) for row in part if _pattern(row) == "dense"]
        if dense:
            axis.axhline(np.mean(dense), color=GREY, linewidth=1.2, linestyle=":", label=f"dense, {bits} bits")
        if seen:
            densities(axis, seen)
        _panel(axis, task, part[0]["measure"])
    legend(figure, axes)
    seeds = len({row["seed"] for part in tasks.values() for row in part})
    figure.supxlabel(
        f"weights kept, %   (golden model, weights of {bits} bits; mean and span of {_seeds(seeds)})", fontsize=10
    )
    return figure


def accuracy_by_bits(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The golden model's mean over seeds against the bits of a weight: a panel for each task, a line for each pattern.

    ``rows``: those of ``docs/benchmarks/accuracy.json``, of which plain ones are drawn, of patterns measured with several widths.
    """
    tasks: dict[str, dict[str, dict[float, list[float]]]] = {}
    measures: dict[str, str] = {}
    for row in rows:
        if row["method"] == "":
            measures[row["task"]] = row["measure"]
            points = tasks.setdefault(row["task"], {}).setdefault(_pattern(row), {})
            points.setdefault(row["case"]["bits"], []).append(_figure(row))
    several = {
        task: {pattern: points for pattern, points in lines.items() if len(points) > 1} for task, lines in tasks.items()
    }
    several = {task: lines for task, lines in several.items() if lines}
    if not several:
        raise SparseGateError("no pattern was measured with several widths of weights")
    figure, axes = panels(len(several), 3.3)
    patterns = list(dict.fromkeys(pattern for lines in several.values() for pattern in lines))
    for axis, (task, lines) in zip(axes, several.items(), strict=True):
        for pattern, points in lines.items():
            line(axis, points, patterns.index(pattern), pattern)
        axis.set_xticks(sorted({bits for points in lines.values() for bits in points}))
        _panel(axis, task, measures[task])
    legend(figure, axes)
    seeds = len({row["seed"] for row in rows if row["task"] in several})
    figure.supxlabel(f"bits of a weight   (golden model; mean and span of {_seeds(seeds)})", fontsize=10)
    return figure


MEASURES = {
    "accuracy": ("test accuracy, %", 100.0),
    "accuracy_35": ("test accuracy, 35 classes, %", 100.0),
    "identification": ("identified, %", 100.0),
    "rmse": ("root mean squared error", 1.0),
    "bits_per_character": ("bits per character", 1.0),
}
"""How a task's deciding figure is labelled, and what it is multiplied by."""


def _pattern(row: Mapping[str, Any]) -> str:
    return str(row["case"]["pattern"])


def _family(row: Mapping[str, Any]) -> str:
    return family(_pattern(row)) + (f", {PERMUTED}" if row["method"] == PERMUTED else "")


def _figure(row: Mapping[str, Any], stage: str = "golden") -> float:
    """The deciding figure of a stage, in the unit of its label."""
    return MEASURES.get(row["measure"], ("", 1.0))[1] * float(row[stage][row["measure"]])


def _panel(axis: Any, task: str, measure: str) -> None:
    axis.set_title(task, fontsize=10, loc="left")
    axis.set_ylabel(MEASURES.get(measure, (measure, 1.0))[0], fontsize=9)
    tidy(axis)


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "1 seed"


def sensitivity(scan: Scan, label: str = "score") -> Figure:
    """The network's score against the density of one matrix at a time, the others as they are.

    One panel for each layer, one line for each of its matrices. Where a density was tried with several patterns all are dots, and
    the line joins their means.
    """
    layers: dict[str, dict[str, dict[float, list[float]]]] = {}
    for made in scan.measurements:
        points = layers.setdefault(made.layer, {}).setdefault(made.key, {})
        points.setdefault(made.pattern.density, []).append(made.score)
    if not layers:
        raise SparseGateError("the scan has measured nothing yet")
    figure, axes = panels(len(layers), 3.0)
    for axis, (layer, lines) in zip(axes, layers.items(), strict=True):
        for matrix, points in lines.items():
            number = KEYS.index(matrix)
            line(axis, points, number, TITLES[matrix], span=False)
            for density, scores in points.items():
                if len(scores) > 1:
                    axis.plot([density] * len(scores), scores, MARKERS[number], color=COLOURS[number], markersize=3)
        axis.axhline(scan.score, color=GREY, linewidth=1.2, linestyle="--", label="nothing pruned")
        densities(axis, {density for points in lines.values() for density in points})
        axis.set_title(layer, fontsize=10, loc="left")
        tidy(axis)
    low = min(axis.get_ylim()[0] for axis in axes)
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
    legend(figure, axes)
    figure.supxlabel("weights kept in this matrix alone, %", fontsize=10)
    figure.supylabel(label, fontsize=10)
    return figure


def theta(
    curves: Sequence[Point] | Mapping[str, Sequence[Point]], label: str = "accuracy, %", scale: float = 100.0
) -> Figure:
    """Score, times ``scale``, and share of products skipped against Θ, as :func:`sparsegate.golden.temporal.curve` measures them.

    One curve, or several by name.
    """
    named = curves if isinstance(curves, Mapping) else {"": curves}
    if not named or not all(named.values()):
        raise SparseGateError("there is no threshold to draw")
    figure = figure_of(8, 4.4 if len(named) == 1 else 4.8)
    above, below = figure.subplots(2, 1, sharex=True)
    for number, (name, points) in enumerate(named.items()):
        points = sorted(points, key=lambda point: point.threshold)
        at = [point.threshold for point in points]
        look = {"marker": MARKERS[number], "color": COLOURS[number], "linewidth": 1.8, "markersize": 5}
        above.plot(at, [scale * point.score for point in points], label=name, **look)
        below.plot(at, [100 * point.skipped for point in points], **look)
    above.set_ylabel(label)
    below.set_ylabel("products skipped, %")
    below.set_ylim(0, 100)
    below.set_xlabel("threshold Θ, LSBs")
    below.xaxis.get_major_locator().set_params(integer=True)
    tidy(above)
    tidy(below)
    figure.align_ylabels([above, below])
    if len(named) > 1:
        legend(figure, [above])
    return figure


def family(pattern: str) -> str:
    """What patterns that differ in density alone are called together: "2:16" and "2:32" are "2:M columns"."""
    head, _, _ = pattern.partition(":")
    return FAMILIES.get(head) or (f"{head}:M columns" if head.isdigit() else pattern)
