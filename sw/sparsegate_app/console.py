"""What a person sees: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HEARTBEAT_S = 20.0
"""Seconds after which a long step says again what it does, where stderr is no terminal."""
PLAIN_INTERVAL_S = 5.0
"""Least seconds between two lines of one step there."""


def stdout() -> Console:
    """A console on the present ``sys.stdout``."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    """A console on the present ``sys.stderr``."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def error(sentence: str) -> None:
    """Print ``error: sentence`` as plain text: a message may hold brackets that are no markup."""
    print(f"error: {sentence}", file=sys.stderr)


def note(sentence: str) -> None:
    """Print a line beside the results."""
    stderr().print(sentence, markup=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A rich table of plain texts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def emit(result: Mapping[str, Any], as_json: bool, title: str, rows: Sequence[tuple[str, object]]) -> None:
    """A stage's result: JSON for a script, or a table of what and how much."""
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        stdout().print(table(title, ("what", "value"), rows))


class TimeLeft:
    """Says how long a run that counts its work will still take, from what has been done since it began (or went on)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._before: float | None = None

    def __call__(self, done: float, total: float, step: float = 0) -> str:
        """``", about 40 s left"``, or nothing as long as nothing is known; ``step`` of the first ``done`` fell in this run."""
        if self._before is None:
            self._before = done - step
        fresh = done - self._before
        if fresh <= 0 or done >= total:
            return ""
        seconds = round((self._clock() - self._start) * (total - done) / fresh)
        if seconds < 100:
            return f", about {seconds} s left"
        minutes = round(seconds / 60)
        return f", about {minutes} min left" if minutes < 100 else f", about {minutes / 60:.1f} h left"


class Task:
    """One long step: say what is happening now, and how far it is."""

    def __init__(self, description: str, say: Any, advance: Any) -> None:
        self.description = description
        self._say, self._advance = say, advance

    def say(self, text: str) -> None:
        """What is happening now, in a few words."""
        self._say(text)

    def at(self, done: float, total: float) -> None:
        """How much of the step is done."""
        self._advance(done, total)


@contextmanager
def task(description: str) -> Iterator[Task]:
    """Show one long step: a moving line with its time on a terminal, plain lines in a log."""
    console = stderr()
    start = time.monotonic()
    if console.is_terminal:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        parts = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), TimeElapsedColumn())
        with Progress(*parts, console=console, transient=True) as progress:
            handle = progress.add_task(description, total=None)

            def say(text: str) -> None:
                progress.update(handle, description=f"{description}: {text}")

            def advance(done: float, total: float) -> None:
                progress.update(handle, completed=done, total=total)

            yield Task(description, say, advance)
    else:
        console.print(f"{description} ...", markup=False)
        with _plain(description, console) as made:
            yield made
    console.print(f"{description}: {time.monotonic() - start:.1f} s", markup=False)


@contextmanager
def _plain(description: str, console: Console) -> Iterator[Task]:
    """Lines for a log: what changes, at most every few seconds, and a sign of life when nothing does."""
    start = time.monotonic()
    latest, ended = [""], threading.Event()

    def say(text: str) -> None:
        latest[0] = text

    def lines() -> None:
        shown, when = "", start
        while not ended.wait(PLAIN_INTERVAL_S):
            now = time.monotonic()
            if latest[0] != shown or now - when >= HEARTBEAT_S:
                shown, when = latest[0], now
                console.print(f"  {now - start:4.0f} s  {shown or 'still running'}", markup=False, soft_wrap=True)

    writer = threading.Thread(target=lines, daemon=True)
    writer.start()
    try:
        yield Task(description, say, lambda done, total: None)
    finally:
        ended.set()
        writer.join()
