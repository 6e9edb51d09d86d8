"""The report as a page of HTML that stands alone, and its pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsegate import golden, pictures
from sparsegate.golden import temporal
from sparsegate.program import Program
from sparsegate_app.report.collect import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsegate.data.datasets import Dataset

SPREAD = 128
"""Most test sequences of the curve over Θ: enough for its shape, and a few seconds."""


def drawings(report: Report, program: Program, dataset: Dataset | None) -> list[tuple[str, Figure]]:
    """Titles and figures of the page; those of a run need data, and show the first test sequences."""
    drawn = [] if (stages := pictures.accuracy_by_stage(report.accuracy)) is None else [("Accuracy by stage", stages)]
    drawn += [(f"Weights that are kept: {name}", figure) for name, figure in pictures.sparsity_maps(program).items()]
    drawn.append(("Weights and their formats", pictures.weight_histograms(program)))
    if dataset is None:
        return drawn
    x, lengths = dataset.x_test[: pictures.SEQUENCES], dataset.length_test[: pictures.SEQUENCES]
    seen, gates = pictures.activations(program, x, lengths), pictures.gates_of(program, x, lengths)
    drawn.append(("Activations and their formats", pictures.activation_histograms(seen, pictures.formats_of(program))))
    if gates:
        drawn.append(("Gates", pictures.gate_histograms(gates)))
    first = golden.run(program, program.quantize(x[:1, : lengths[0]]), lengths[:1])
    drawn.append(("Columns that are sent in the first test sequence", pictures.changed_columns(first)))
    points, count = thresholds(program, dataset)
    return [*drawn, (f"Accuracy and skipped products against Θ, on {count} test sequences", pictures.theta(points))]


def thresholds(program: Program, dataset: Dataset) -> tuple[list[temporal.Point], int]:
    """Accuracy and products skipped with one Θ for all vectors, and on how many test sequences.

    These are spread over the part, as data sets tend to be sorted by class.
    """
    rows = np.unique(np.linspace(0, len(dataset.y_test) - 1, SPREAD).astype(int))
    x, lengths, y = dataset.x_test[rows], dataset.length_test[rows], dataset.y_test[rows]
    points = []
    for threshold in temporal.THRESHOLDS:
        run = golden.run(program.with_thresholds(threshold), program.quantize(x), lengths)
        score = float(np.mean(np.argmax(run.last, axis=1) == y))
        points.append(temporal.Point(threshold, score, temporal.of_trace(run).total))
    return points, len(rows)


def _png(figure: Figure) -> str:
    return base64.b64encode(pictures.encoded(figure)).decode()


STYLE = """body { font: 15px/1.45 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .25em .8em .25em 0;
border-bottom: 1px solid #ddd } th { font-weight: 600 } img { max-width: 100% } code { font-size: 90% }"""


def render(report: Report, program: Program, dataset: Dataset | None) -> str:
    """A page of HTML that needs no other file."""
    layers = report.formats["layers"]
    keys = list(dict.fromkeys(key for form in layers.values() for key in form))
    sections = [
        _section("Summary", _table(("what", "value"), report.rows())),
        *(
            _section(title, f'<img alt="{html.escape(title)}" src="data:image/png;base64,{_png(figure)}">')
            for title, figure in drawings(report, program, dataset)
        ),
        _section(
            "Formats (s8f7: signed, 8 bits, 7 of them fractional)",
            _table(("layer", *keys), [(name, *(form.get(key, "") for key in keys)) for name, form in layers.items()]),
        ),
    ]
    if report.golden is not None:
        counts = [
            (layer, site, count) for layer, sites in report.golden.saturations.items() for site, count in sites.items()
        ]
        sections.append(_section("Values that saturated in the golden model", _table(("layer", "at", "times"), counts)))
    sections += [
        _section("Tools", _table(("tool", "version"), list(report.tools.items()))),
        _section("Digests", _table(("of", "SHA-256"), list(report.digests.items()))),
    ]
    title = html.escape(f"SparseGate: {report.name}")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{body}\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"
