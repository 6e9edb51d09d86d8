"""The look of all pictures, and their files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact
from sparsegate.errors import SparseGateError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, "#000000", "#8B5A2B")
MARKERS = "osD^vPX*"
GREY, PALE = "#595959", "#EEF1F4"

DPI = 110
SUFFIXES = (".png", ".svg")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as ``.png`` or ``.svg``, whole or not at all."""
    path = Path(path)
    artefact.write_bytes(path, encoded(figure, path.suffix))


def encoded(figure: Figure, suffix: str = ".png") -> bytes:
    """A figure's file contents, without date or version: equal figures give equal bytes."""
    import matplotlib

    if suffix not in SUFFIXES:
        raise SparseGateError(
            f"pictures are written as {' or '.join(SUFFIXES)}, not {repr(suffix) if suffix else 'without a suffix'}"
        )
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "sparsegate"}):
        if suffix == ".svg":
            figure.savefig(buffer, format="svg", dpi=2 * DPI, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def figure_of(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """Panels in two columns, or one where there is one."""
    columns = min(count, 2)
    lines = -(-count // columns)
    figure = figure_of(8, 0.9 + height * lines if count > 1 else 4.4)
    axes = list(figure.subplots(lines, columns, squeeze=False).reshape(-1))
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def legend(figure: Figure, axes: Sequence[Any]) -> None:
    """One legend for all panels, above them."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    # what is compared first, then the plain lines to compare with
    entries = dict(sorted(entries.items(), key=lambda entry: not hasattr(entry[1], "has_yerr")))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper center",
        ncols=len(entries) if len(entries) <= 4 else 3,
        fontsize=9,
        frameon=False,
    )


def tidy(axis: Any, grid: str = "y") -> None:
    """No frame where there is no axis, a light grid behind the data, labels that can be read."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color="#DDDDDD", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)


def percent(share: float) -> str:
    """Three digits: 6.25 %, 12.5 %, 100 %."""
    return f"{100 * share:.3g} %"


def raster(axis: Any, marked: NDArray[np.bool_], colour: str) -> None:
    """A matrix of two colours: cell by cell, or as local density where there are more cells than pixels to show them."""
    from matplotlib.colors import ListedColormap

    fits = marked.shape[0] <= 320 and marked.shape[1] <= 400
    axis.imshow(
        marked.astype(np.uint8),
        aspect="auto",
        interpolation="nearest" if fits else "antialiased",
        interpolation_stage="rgba",
        cmap=ListedColormap([PALE, colour]),
        vmin=0,
        vmax=1,
    )


def line(
    axis: Any, points: Mapping[float, Sequence[float]], number: int, name: str, span: bool = True, style: str = "-"
) -> None:
    """Means as a line with markers, from the lowest to the highest value as bars."""
    at = sorted(points)
    means = np.array([np.mean(points[x]) for x in at])
    spread = np.array([[mean - min(points[x]), max(points[x]) - mean] for x, mean in zip(at, means, strict=True)]).T
    colour = COLOURS[number % len(COLOURS)]
    axis.errorbar(
        at,
        means,
        yerr=np.maximum(spread, 0) if span else None,
        marker=MARKERS[number % len(MARKERS)],
        color=colour,
        linestyle=style,
        linewidth=1.8 if style == "-" else 1.2,
        elinewidth=1,
        capsize=2.5,
        markersize=5,
        label=name,
    )


def densities(axis: Any, seen: set[float]) -> None:
    """Ticks at halves of halves, in per cent, on a logarithmic axis around what was measured."""
    first, last = np.floor(np.log2(min(seen)) + 0.1), np.ceil(np.log2(max(seen)) - 0.1)
    ticks = [2.0**power for power in np.arange(first, last + 1)]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{100 * tick:.4g}" for tick in ticks])
    axis.minorticks_off()
    margin = 2 if len(ticks) == 1 else 1.2
    axis.set_xlim(min(*seen, ticks[0]) / margin, max(*seen, ticks[-1]) * margin)
