"""Tasks and seeds in processes of their own, which report how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sparsegate import artefact
from sparsegate_app.bench.accuracy.bench import Bench
from sparsegate_app.bench.accuracy.cases import plan_of
from sparsegate_app.bench.accuracy.record import folder_of, means
from sparsegate_app.bench.tasks import missing
from sparsegate_app.console import Task as Shown
from sparsegate_app.console import TimeLeft

POLL = 2.0
"""Seconds between two looks at how far the processes are."""

Unit = tuple[str, int]
"""A task and a seed."""


class Progress:
    """What the processes report, as one line: rows, time left, and what each of them does."""

    def __init__(self, units: Sequence[Unit], work: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.fresh = sum(len(plan_of(name).cases) for name, _ in units), 0, 0
        self.waiting = {unit: _likely(unit, work) for unit in units}
        """Units that have not begun, and how many rows they will find: those take no time."""
        self.now: dict[Unit, str] = {}
        self.left = TimeLeft(clock)
        self.left(0, self.total)

    def hear(self, unit: Unit, what: str, value: Any = None) -> None:
        """A unit has ``kept`` so many rows, measured a ``row``, ``say``s what it does, or is at its ``end``."""
        if what == "kept":
            self.waiting.pop(unit)
            self.done += value
        elif what == "row":
            self.done, self.fresh = self.done + 1, self.fresh + 1
        elif what == "say":
            self.now[unit] = value
        else:
            self.now.pop(unit, None)

    def __str__(self) -> str:
        ahead = self.total - self.done - sum(self.waiting.values())
        rows = f"{self.done} of {self.total} rows{self.left(self.fresh, self.fresh + ahead)}"
        return "; ".join([rows, *(f"{Path(name).stem} {seed}: {text}" for (name, seed), text in self.now.items())])


def _likely(unit: Unit, work: Path) -> int:
    """Rows of the plan as it is, though perhaps of another network: to know that, the data would have to be opened."""
    plan, count = plan_of(unit[0]), 0
    for case in plan.cases:
        path = folder_of(work, *unit) / f"{case.slug}.json"
        count += path.exists() and artefact.read_json(path).get("key", "").endswith(f" {plan.measuring(case)}")
    return count


_reports: Any = None
"""Where a process tells how far it is."""


def _report_to(reports: Any) -> None:
    global _reports
    _reports = reports


def _seed_rows(name: str, seed: int, folder: Path, work: Path, device: str) -> tuple[str, list[dict[str, Any]]]:
    """What a task is and how it is trained, and all rows of a seed, in a process of its own."""

    def tell(what: str, value: Any = None) -> None:
        _reports.put(((name, seed), what, value))

    tell("say", "data")
    bench = Bench(name, seed, folder, work, device=device, say=lambda text: tell("say", text))
    found = {case: bench.kept(case) for case in bench.plan.cases}
    tell("kept", sum(row is not None for row in found.values()))
    for case, row in found.items():
        if row is None:
            found[case] = bench.row(case)
            tell("row")
    tell("end")
    about = f"{bench.task.data}. {bench.plan.words(bench.task)}"
    return about, [row for row in found.values() if row is not None]


def measure(
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    work: Path,
    jobs: int = 1,
    shown: Shown | None = None,
    device: str = "cpu",
) -> tuple[dict[str, Any], dict[str, str]]:
    """The record of the given tasks and seeds, and the reasons why tasks were skipped.

    Floats are trained on ``device``, integers always on the CPU. Tasks and seeds run in ``jobs`` processes; ``shown`` is told how
    many rows are there, how long the others will take at the pace so far, and what each process does.
    """
    skipped = {name: reason for name in names if (reason := missing(name, folder)) is not None}
    work.mkdir(parents=True, exist_ok=True)
    units = [(name, seed) for seed in seeds for name in names if name not in skipped]
    context, progress = get_context("spawn"), Progress(units, work)
    reports = context.SimpleQueue()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_report_to, initargs=(reports,)) as pool:
        running = [pool.submit(_seed_rows, name, seed, folder, work, device) for name, seed in units]
        try:
            while not all(one.done() for one in running):
                wait(running, POLL, FIRST_EXCEPTION)
                for one in running:
                    if one.done():
                        one.result()
                while not reports.empty():
                    progress.hear(*reports.get())
                if shown is not None:
                    shown.at(progress.done, progress.total)
                    shown.say(str(progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(getattr(pool, "_processes", {}).values()):
                process.terminate()
            raise
    found = [(name, seed, *one.result()) for (name, seed), one in zip(units, running, strict=True)]
    found.sort(key=lambda unit: (names.index(unit[0]), unit[1]))
    rows = [row for *_, part in found for row in part]
    about = {row["task"]: data for _, _, data, part in found for row in part[:1]}
    return {"tasks": about, "rows": rows, "means": means(rows)}, skipped
