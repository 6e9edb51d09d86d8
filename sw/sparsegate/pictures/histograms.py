"""Which values weights, activations and gates take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import golden
from sparsegate.cells import Fixed
from sparsegate.cells.matrices import TITLES
from sparsegate.compress import gates
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.numerics import tables
from sparsegate.numerics.fixed import QFormat
from sparsegate.pictures.look import BLUE, ORANGE, figure_of, percent, tidy
from sparsegate.pictures.matrices import GATES, matrices_of
from sparsegate.program import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 64
"""Most bars of a histogram."""


VALUES = {
    "x": "x",
    "h": "output h",
    "c": "cell state c",
    "s": "state s",
    "pre": "pre-activations",
    "m": "cell output m",
}


Histogram = tuple[NDArray, NDArray]
"""Edges (B + 1,) and counts (B,)."""


def weight_histograms(model: Network | Program, formats: Mapping[tuple[str, str], QFormat] | None = None) -> Figure:
    """Weights that are not zero, of every matrix, with the range and the LSB of its format.

    ``formats``: of a Network, by layer and "wx", "wh", "wp" (:func:`formats_of` its Program). A Program has its own, and shows the
    weights as it holds them.
    """
    known = formats_of(model) if isinstance(model, Program) else formats or {}
    panels = []
    for layer in model.layers:
        row = []
        for key, matrix in matrices_of(layer):
            form = known.get((layer.name, f"w{key}"))
            values = matrix if isinstance(model, Network) or form is None else form.real(matrix)
            kept = values[values != 0]
            title = f"{layer.name}, {TITLES[key]}: {percent(np.mean(values != 0))} kept"
            row.append((title, _binned(kept, form), form))
        panels.append(row)
    return _histograms(panels, "value of a weight", "weights that are not zero, %", log=False)


def activation_histograms(
    histograms: Mapping[tuple[str, str], Histogram], formats: Mapping[tuple[str, str], QFormat] | None = None
) -> Figure:
    """How often activations took which value, with the range and the LSB of their formats, on a logarithmic axis.

    Both are given by (layer, format name), such as ("lstm", "c"), or ("input", "x"): histograms as ``Calibration.histograms`` holds
    them, of which those of weights are left out, or as :func:`activations` makes them; formats as :func:`formats_of` does.
    """
    drawn = {key: histogram for key, histogram in histograms.items() if key[1] not in ("wx", "wh", "wp", "parameter")}
    drawn = {key: histogram for key, histogram in drawn.items() if np.any(histogram[1])}
    if not drawn:
        raise SparseGateError("there are no activations to draw; calibrate on data first")
    rows: dict[str, list[Any]] = {}
    for (layer, key), histogram in drawn.items():
        form = (formats or {}).get((layer, key))
        rows.setdefault(layer, []).append(
            (f"{layer}{', ' if layer != 'input' else ' '}{VALUES.get(key, key)}", _gathered(*histogram), form)
        )
    return _histograms(list(rows.values()), "value", "values, %", log=True)


def formats_of(program: Program) -> dict[tuple[str, str], QFormat]:
    """Formats of a Program by (layer, format name), and that of ("input", "x")."""
    layers = {(layer.name, key): form for layer in program.layers for key, form in layer.formats.items()}
    return {("input", "x"): program.input_format, **layers}


def activations(program: Program, x: ArrayLike, lengths: ArrayLike | None = None) -> dict[tuple[str, str], Histogram]:
    """Histograms for :func:`activation_histograms`: the real input (N, T, I), and h and the states of a golden run."""
    raw = program.quantize(x)
    steps = np.full(len(raw), raw.shape[1]) if lengths is None else np.asarray(lengths)
    inside = np.arange(raw.shape[1])[None, :] < steps[:, None]
    forms = formats_of(program)
    values: dict[tuple[str, str], list[NDArray]] = {("input", "x"): [np.asarray(x, np.float64)[inside].reshape(-1)]}
    known = {layer.name: layer for layer in program.layers}

    def see(layer: str, t: int, site: str, value: Fixed) -> None:
        if site == "h" or site in known[layer].cell.states:
            values.setdefault((layer, site), []).append(
                forms[layer, site].real(np.asarray(value.raw)[steps > t]).reshape(-1)
            )

    golden.run(program, raw, lengths, observe=see)
    return {key: _binned(np.concatenate(parts), forms[key]) for key, parts in values.items()}


def gates_of(
    model: Network | Program, x: ArrayLike, lengths: ArrayLike | None = None
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Values of the gates between 0 and 1 on data (N, T, I), by layer and gate: those of all units at all steps.

    A Network gives floats (:func:`sparsegate.compress.gates.gate_values`), a Program what its golden model looks up in its
    table, (n,).
    """
    if isinstance(model, Network):
        return gates.gate_values(model, x, lengths)
    raw = model.quantize(x)
    steps = np.full(len(raw), raw.shape[1]) if lengths is None else np.asarray(lengths)
    layers = {layer.name: layer for layer in model.layers}
    found: dict[str, dict[str, list[NDArray]]] = {}

    def see(name: str, t: int, site: str, value: Fixed) -> None:
        layer = layers[name]
        if site in gates.SIGMOID and site in layer.cell.gates:
            form = layer.formats
            table = tables.table("sigmoid", form["pre"], form["gate"], layer.step_bits)
            raw = table.full.take(np.asarray(value.raw)[steps > t] + form["pre"].max)
            found.setdefault(name, {}).setdefault(site, []).append(form["gate"].real(raw).reshape(-1))

    golden.run(model, raw, lengths, observe=see)
    return {layer: {site: np.concatenate(parts) for site, parts in sites.items()} for layer, sites in found.items()}


def gate_histograms(
    before: Mapping[str, Mapping[str, ArrayLike]],
    after: Mapping[str, Mapping[str, ArrayLike]] | None = None,
    names: tuple[str, str] = ("before", "after"),
) -> Figure:
    """How open the gates of each layer are, before and after a training; ``before`` alone is drawn as it is.

    Values are given by layer and gate ("i", "f"), any shape, in 0..1. Each panel says which share lies within 0.1 of 0 or 1: Li et
    al. (ICML 2018) show such histograms of an LSTM's input and forget gates.
    """
    wanted = list(dict.fromkeys(gate for sites in before.values() for gate in sites))
    if not wanted:
        raise SparseGateError("there are no gates between 0 and 1 to draw")
    figure = figure_of(8, 0.9 + 2.1 * len(before))
    axes = figure.subplots(len(before), len(wanted), squeeze=False, sharex=True)
    edges = np.linspace(0, 1, 41)
    for line, (layer, sites) in zip(axes, before.items(), strict=True):
        for axis, gate in zip(line, wanted, strict=True):
            if gate not in sites:
                axis.set_visible(False)
                continue
            runs = [(names[0], sites[gate], "#9AA5B1" if after else BLUE)]
            if after:
                if gate not in after.get(layer, {}):
                    raise SparseGateError(f"gate {gate!r} of layer {layer!r} is known before, but not after")
                runs.append((names[1], after[layer][gate], BLUE))
            shares = []
            for number, (name, values, colour) in enumerate(runs):
                values = np.asarray(values, np.float64).reshape(-1)
                counts, _ = np.histogram(values, edges)
                axis.stairs(
                    100 * counts / max(1, values.size),
                    edges,
                    fill=number == 0,
                    color=colour,
                    linewidth=1.6,
                    label=name,
                )
                shares.append(percent(gates.binary_share(values)))
            title = f"{layer}, {GATES.get(gate, gate)}"
            axis.set_title(f"{title}\nnear 0 or 1: {' → '.join(shares)}", fontsize=9, loc="left")
            tidy(axis)
            axis.set_xlim(0, 1)
    if after:
        axes[0, 0].legend(fontsize=8, frameon=False)
    figure.supxlabel("value of the gate (near: within 0.1)", fontsize=10)
    figure.supylabel("values, %", fontsize=10)
    return figure


def _histograms(panels: Sequence[Sequence[Any]], x: str, y: str, log: bool) -> Figure:
    """A grid of histograms, as wide as the layer with the most, and at most three in a line."""
    flat = [panel for row in panels for panel in row]
    columns = min(3, len(flat), 3 if len(flat) == 3 else max(len(row) for row in panels))
    lines = [flat[at : at + columns] for at in range(0, len(flat), columns)]
    figure = figure_of(8, 0.7 + 2.1 * len(lines))
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, row in zip(axes, lines, strict=True):
        for axis in line[len(row) :]:
            axis.set_visible(False)
        for axis, (title, (edges, counts), form) in zip(line, row, strict=False):
            share = 100 * counts / max(1, counts.sum())
            axis.stairs(share, edges, fill=True, color=BLUE, baseline=0 if not log else 1e-9)
            axis.set_title(title, fontsize=9, loc="left")
            if log:
                smallest = share[share > 0].min() if share.any() else 0.1
                axis.set_yscale("log")
                axis.set_ylim(smallest / 2, max(2 * share.max(), 10 * smallest))
            tidy(axis)
            axis.xaxis.get_major_locator().set_params(nbins=9 - 2 * columns, steps=[1, 2, 5, 10])
            if form is not None:
                _range(axis, form, edges, columns)
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return figure


def _range(axis: Any, form: QFormat, edges: NDArray, columns: int) -> None:
    """The range of a format as two lines, what lies outside shaded, and its values as a comb where they can be told apart."""
    low, high = form.min * form.lsb, form.max * form.lsb
    left, right = min(low, float(edges[0])), max(high, float(edges[-1]))
    pad = 0.04 * (right - left)
    axis.set_xlim(left - pad, right + pad)
    axis.axvspan(left - pad, low - form.lsb / 2, color="#D9D9D9", alpha=0.6, linewidth=0)
    axis.axvspan(high + form.lsb / 2, right + pad, color="#D9D9D9", alpha=0.6, linewidth=0)
    for edge in (low, high):
        axis.axvline(edge, color=ORANGE, linewidth=1.2)
    if form.max - form.min <= 96 / columns:
        values = form.lsb * np.arange(form.min, form.max + 1)
        axis.vlines(values, 0, 0.05, color=ORANGE, linewidth=1, transform=axis.get_xaxis_transform())
    axis.set_title(axis.get_title(loc="left"), fontsize=9, loc="left", pad=17)  # the format stands below
    axis.text(0, 1.02, f"{form}, LSB {_power(form)}", fontsize=8, color=ORANGE, transform=axis.transAxes)


def _power(form: QFormat) -> str:
    """An LSB, as a fraction where that is short."""
    if form.frac <= 0:
        return str(2**-form.frac)
    return f"1/{2**form.frac}" if form.frac <= 14 else f"2^-{form.frac}"


def _gathered(edges: NDArray, counts: NDArray) -> Histogram:
    """The part of a histogram that is not empty, in at most :data:`BINS` bars."""
    found = np.flatnonzero(counts)
    first, last = int(found[0]), int(found[-1]) + 1
    group = 1
    while -(-last // group) - first // group > BINS:
        group *= 2
    first -= first % group
    last = min(len(counts), -(-last // group) * group)
    starts = np.arange(first, last, group)
    return np.append(edges[starts], edges[last]), np.add.reduceat(counts, starts)[: len(starts)]


def _binned(values: NDArray, form: QFormat | None) -> Histogram:
    """At most :data:`BINS` bars; with a format, each bar holds whole values of it."""
    if values.size == 0:
        values = np.zeros(1)
    low, high = float(values.min()), float(values.max())
    if form is None:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, high + 0.5])
    else:
        first, last = np.floor(low / form.lsb + 0.5), np.floor(high / form.lsb + 0.5)
        width = 1
        while (form.max - form.min + 1) / width > BINS:
            width *= 2
        bars = np.arange(np.floor(first / width), np.floor(last / width) + 2)
        edges = (bars * width - 0.5) * form.lsb
    counts, edges = np.histogram(values, edges)
    return edges, counts
