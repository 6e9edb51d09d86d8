"""The benchmark of whole workloads, row by row: the record and its pages are written as it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsegate import artefact, estimate
from sparsegate.errors import MissingData, SparseGateError
from sparsegate_app.bench import performance, performance_table, roofline, workloads
from sparsegate_app.bench.performance import Effort
from sparsegate_app.bench.workloads import Workload


@dataclass(frozen=True)
class Places:
    """Folders of the ``data`` and of networks and bitstreams (``work``); the record ``out``, and the page ``roofline``, if any.

    ``points``: the synthesized points whose estimates the pages show, if the file exists.
    """

    data: Path
    work: Path
    out: Path
    points: Path
    roofline: Path | None


@dataclass
class Measured:
    """The ``rows`` that were measured, the ``record`` with them (None: nothing was), and why others were not."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def wrong(self, out: Path) -> str:
        """What is wrong in a sentence, empty where nothing is."""
        said = []
        if missing := [*self.failed, *(self.skipped if not self.rows else ())]:
            said.append(f"could not be measured: {', '.join(missing)}")
        if differing := [row["name"] for row in self.rows if row["rtl_mismatches"]]:
            said.append(f"RTL differs from the models: {', '.join(differing)}; {out} says in how many values")
        return "; ".join(said)


def run(chosen: Sequence[Workload], places: Places, effort: Effort, say: Callable[[str], None]) -> Measured:
    """Measure workloads; rows of the record that are not measured stay. What has no data is skipped; one that fails stops none."""
    before = performance.read(places.out)
    earlier = {row["name"]: row for row in (before or {}).get("workloads", [])}
    _points(places)  # refused before an hour's work, not after it
    found = Measured()
    for workload in chosen:
        try:
            row = performance.measure(workload, places.data, places.work, effort, earlier.get(workload.name), say)
        except MissingData as error:
            found.skipped[workload.name] = str(error)
            continue
        except SparseGateError as error:
            found.failed[workload.name] = str(error)
            continue
        found.rows.append(row)
        # the record and its page are written after every row: the next one may take an hour
        found.record = performance.merged(performance.read(places.out), found.rows, list(workloads.WORKLOADS))
        _write(places, found.record, _points(places))
    if places.roofline is not None and found.record is not None:
        say("how cycles grow with the shape")
        found.record["laws"] = roofline.laws()
        artefact.write_json(places.out, found.record)
        artefact.write_text(places.roofline, roofline.page(found.record, _points(places)))
    return found


def _points(places: Places) -> list[dict[str, Any]]:
    return estimate.read_points(places.points) if places.points.exists() else []


def _write(places: Places, record: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
    artefact.write_json(places.out, record)
    artefact.write_text(places.out.with_suffix(".md"), performance_table.page(record, points))
