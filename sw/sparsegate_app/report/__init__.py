"""The report of a compiled folder: what every stage measured, as JSON, as one table, and as a page that stands alone.

Reads what the stages left (``golden.json``, ``simulate-*.json``, ``synth.json``) of this Program and this Verilog; runs nothing
but the golden model, for the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsegate import artefact
from sparsegate.program import Program
from sparsegate_app.report.collect import Report, collect, formats, sparsity
from sparsegate_app.report.page import render
from sparsegate_app.stages.compiled import PROGRAM_FILE

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset

REPORT = "report.json"
PAGE = "report.html"


def write(folder: str | Path, out: str | Path | None = None, dataset: Dataset | None = None) -> Report:
    """Write ``report.json`` and ``report.html`` to ``out`` (``folder`` where omitted); returns the report."""
    out = Path(folder) if out is None else Path(out)
    report = collect(folder, out)
    text = render(report, Program.load(Path(folder) / PROGRAM_FILE), dataset)
    artefact.write_text(out / PAGE, text)
    artefact.write_json(out / REPORT, report.as_json())
    return report


__all__ = ["PAGE", "REPORT", "Report", "collect", "formats", "render", "sparsity", "write"]
