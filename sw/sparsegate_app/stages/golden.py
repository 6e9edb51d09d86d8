"""Evaluation by the golden model: accuracy, skipped columns, saturations. Needs NumPy only."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.array import HardwareConfig, cycles
from sparsegate.golden import run
from sparsegate.network import lengths_of
from sparsegate_app.stages.compiled import Source, compiled_of
from sparsegate_app.stages.result import Result, Rows, percent


@dataclass(frozen=True)
class Columns:
    """Columns of a run that the array saw, and that it skipped."""

    seen: int
    skipped: int


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """What the golden model made of labelled sequences.

    ``inputs`` are values, of which ``inputs_saturated`` lie outside the calibrated range; ``saturations``: how often each site of
    each layer saturated. ``outputs``: the file that they were written to, if any. ``raw`` (N, T, O) and ``predicted`` (N,) are in
    no file of JSON.
    """

    data: str
    digests: Mapping[str, str]
    sequences: int
    steps: int
    thresholds: tuple[int, ...]
    accuracy: float
    columns: Columns
    inputs: int
    inputs_saturated: int
    saturations: Mapping[str, Mapping[str, int]]
    outputs: str | None = field(default=None, metadata={"optional": True})
    raw: NDArray[np.int64] | None = field(default=None, compare=False, metadata={"json": None})
    predicted: NDArray[np.int64] | None = field(default=None, compare=False, metadata={"json": None})

    @property
    def stage(self) -> str:
        return "golden"

    @property
    def sentence(self) -> str:
        return f"accuracy, golden model: {percent(self.accuracy)} of {self.sequences} sequences"

    def rows(self) -> Rows:
        return [
            ("sequences", self.sequences),
            ("accuracy", percent(self.accuracy)),
            ("columns seen", self.columns.seen),
            ("columns skipped", percent(self.columns.skipped / self.columns.seen)),
            ("inputs outside the calibrated range", f"{self.inputs_saturated} of {self.inputs}"),
            *(
                (f"saturated at {layer}", ", ".join(f"{site} {n}" for site, n in sites.items() if n) or "nothing")
                for layer, sites in self.saturations.items()
            ),
        ]


def evaluate(
    source: Source,
    x: ArrayLike,
    y: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    thresholds: Sequence[int] | None = None,
    config: HardwareConfig | None = None,
    data: str = "arrays",
) -> Evaluation:
    """Run real sequences ``x`` (N, T, I) of ``lengths`` (N,) steps, and compare the last outputs with the classes ``y`` (N,).

    ``thresholds``: Θ of each of ``program.vectors``, the Program's own where omitted. ``data`` names the sequences in the result.
    """
    compiled = compiled_of(source, config)
    program, x = compiled.program, np.asarray(x)
    lengths = lengths_of(x.shape, lengths, program.inputs)
    thresholds = tuple(program.thresholds if thresholds is None else thresholds)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    trace = run(program, program.quantize(x), lengths, thresholds, saturations=True)
    predicted = np.argmax(trace.last, axis=1)
    count = cycles.predict(trace, compiled.layout)
    return Evaluation(
        data=data,
        digests={"program": program.digest},
        sequences=len(lengths),
        steps=int(lengths.sum()),
        thresholds=thresholds,
        accuracy=float(np.mean(predicted == np.asarray(y))),
        columns=Columns(count.columns_seen, count.columns_seen - count.columns_sent),
        inputs=int(valid.sum()) * program.inputs,
        inputs_saturated=program.input_format.saturated(x[valid]),
        saturations={layer: dict(sites) for layer, sites in trace.saturations.items()},
        raw=trace.outputs,
        predicted=predicted,
    )


def written(made: Evaluation, path: Path, lengths: NDArray[Any], y: NDArray[Any]) -> Evaluation:
    """Write outputs (raw integers) and predictions to a compressed .npz file, beside what they are compared with."""
    arrays: dict[str, Any] = {"outputs": made.raw, "length": lengths, "predicted": made.predicted, "y": y}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    artefact.write_bytes(path, buffer.getvalue())
    return replace(made, outputs=str(path))
