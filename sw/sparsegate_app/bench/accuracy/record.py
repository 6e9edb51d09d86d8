"""The record: rows of tasks and seeds, where they are kept, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsegate_app.bench.accuracy.cases import PLANS
from sparsegate_app.bench.tasks import ERRORS, lost


def folder_of(work: Path, name: str, seed: int) -> Path:
    """Where rows and networks of a task and seed are kept."""
    return work / f"{Path(name).stem}-{seed}"


def forget(names: Sequence[str], seeds: Sequence[int], work: Path) -> None:
    """Remove what the work folder has of these tasks and seeds, and of the seeds whose baselines teach them."""
    for name in names:
        teachers = PLANS[name].teachers if name in PLANS else 1
        for folder in {folder_of(work, name, seed + more) for seed in seeds for more in range(teachers)}:
            for path in (path for kind in ("json", "safetensors", "checkpoint") for path in folder.glob(f"*.{kind}")):
                path.unlink()


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """A record in which the rows measured now replace those of their task and seed, and the others stay.

    A seed is measured over the whole plan: what the plan no longer has is dropped from the task's other seeds too.
    """
    before: Mapping[str, Any] = {"tasks": {}, "rows": []} if old is None else old
    tasks = {**before.get("tasks", {}), **new["tasks"]}
    order = sorted(tasks, key=lambda name: list(PLANS).index(name) if name in PLANS else len(PLANS))
    rows: list[Mapping[str, Any]] = []
    for name in order:
        earlier, measured = ([row for row in part["rows"] if row["task"] == name] for part in (before, new))
        if not measured:
            rows += earlier
            continue
        seeds, plan = {row["seed"] for row in measured}, [row["case"] for row in measured]
        kept = [row for row in earlier if row["seed"] not in seeds and row["case"] in plan]
        rows += sorted(kept + measured, key=lambda row: (row["seed"], plan.index(row["case"])))
    return {"tasks": {name: tasks[name] for name in order}, "rows": rows, "means": means(rows)}


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread (largest minus smallest) over seeds of every case."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], str(sorted(row["case"].items()))), []).append(row)
    made = []
    for group in groups.values():
        first = group[0]
        main = first["measure"]
        mean: dict[str, Any] = {key: first[key] for key in ("task", "case", "method", "measure")}
        mean["seeds"] = len(group)
        mean["devices"] = sorted({row.get("device", "cpu") for row in group})
        for key in (
            "density",
            "compression_weights",
            "compression_model",
            "loss",
            "skipped",
            "theta",
            "skipped_at_theta",
        ):
            mean[key] = _mean([row[key] for row in group])
        for key in ("float", "pruned", "golden", "golden_at_theta"):
            mean[key] = {name: _mean([row[key][name] for row in group]) for name in first[key]}
            mean[f"{key}_spread"] = round(max(values := [row[key][main] for row in group]) - min(values), 6)
        if "skipped_as_trained" in first:
            mean["skipped_as_trained"] = _mean([row["skipped_as_trained"] for row in group])
        by_theta = [lost(row["golden_at_theta"][main], row["golden"][main], main not in ERRORS) for row in group]
        mean["loss_by_theta"] = _mean(by_theta)
        mean["loss_spread"] = round(max(values := [row["loss"] for row in group]) - min(values), 3)
        if "gates_near_0_or_1" in first:
            names = first["gates_near_0_or_1"]
            mean["gates_near_0_or_1"] = {
                name: _mean([row["gates_near_0_or_1"][name] for row in group]) for name in names
            }
        made.append(mean)
    return made


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if len(known) == len(values) else None
