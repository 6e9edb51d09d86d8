"""A run on a board: sequences through the engine that it has, compared with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sparsegate import host
from sparsegate.network import lengths_of
from sparsegate.program import Program
from sparsegate_app.stages.result import Result, Rows


@dataclass(frozen=True, repr=False)
class BoardRun(Result):
    """What a board on a ``port`` gave: ``correct`` classes, and how many values differ from the golden model.

    ``cycles_per_step`` are those of a step alone, as the board counted them (None: it has no clock, and ``clock_hz`` is 0).
    ``counters`` are the engine's. ``retries``: requests that were sent again.
    """

    port: str
    sequences: int
    steps: int
    correct: int
    values_compared: int
    mismatches: int | None
    first_mismatch: str | None
    cycles_per_step: float | None
    clock_hz: int
    counters: Mapping[str, int]
    retries: int
    seconds: float

    @property
    def sentence(self) -> str:
        return f"{self.mismatches} values differ from the golden model" + (
            f"; first: {self.first_mismatch}" if self.mismatches else ""
        )

    def rows(self) -> Rows:
        rows: Rows = [
            ("steps", f"{self.steps} in {self.sequences} sequences"),
            ("right answers", f"{self.correct} of {self.sequences}"),
            ("values that differ from the golden model", f"{self.mismatches} of {self.values_compared}"),
            ("requests sent again", self.retries),
        ]
        if self.cycles_per_step is not None:  # the golden model has no clock
            how = f"{self.cycles_per_step:.1f} at {self.clock_hz / 1e6:g} MHz"
            rows.append(("cycles of a step alone, as the board counted them", how))
        return rows


def run(
    program: Program,
    port: str,
    x: ArrayLike,
    y: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    thresholds: Sequence[int] | None = None,
    progress: Callable[[str], None] | None = None,
) -> BoardRun:
    """Stream real sequences ``x`` (N, T, I) of ``lengths`` (N,) steps and classes ``y`` (N,) through a board that runs the Program.

    ``port``: a serial port, a pyserial URL, or "simulated". ``thresholds``: Θ of each of ``program.vectors``.
    """
    x = np.asarray(x)
    lengths = lengths_of(x.shape, lengths, program.inputs)
    found = host.run(port, program, program.quantize(x), lengths, thresholds=thresholds, progress=progress)
    last = found.outputs[range(len(lengths)), lengths - 1]
    return BoardRun(
        port=port,
        sequences=len(lengths),
        steps=found.steps,
        correct=int((last.argmax(axis=1) == np.asarray(y)).sum()),
        values_compared=found.values_compared,
        mismatches=found.mismatches,
        first_mismatch=found.first_mismatch,
        cycles_per_step=found.cycles_per_step,
        clock_hz=found.identity.clock_hz,
        counters=dict(found.counters),
        retries=found.retries,
        seconds=round(found.seconds, 3),
    )
