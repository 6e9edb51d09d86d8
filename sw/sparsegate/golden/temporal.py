"""Temporal sparsity of a Program: which columns a delta engine skips on data, what Θ costs, and the choice of Θ.

A column is skipped where its value moved by no more than Θ since it was last sent (delta networks: Neil et al., ICML 2017). All
runs are the golden model's, so that scores and shares are those of the hardware.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.errors import SparseGateError
from sparsegate.golden import model as golden
from sparsegate.golden.trace import PassTrace, Trace
from sparsegate.program import Matrix, Program

THRESHOLDS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Θ in LSBs that are tried, in rising order."""

Score = Callable[[Program], float]
"""Figure of a Program with its thresholds; higher is better."""


@dataclass(frozen=True)
class Skipped:
    """Columns that a run skips.

    ``vectors``: share of each vector's columns, by the vector's name; those that drive no matrix, such as the last layer's output,
    are left out. ``total``: share of all stored weights whose products are skipped: a column counts with the entries of the
    matrices that it drives. ``seen`` and ``sent``: columns that a dense engine would process, and those processed.
    """

    vectors: dict[str, float]
    total: float
    seen: int
    sent: int


@dataclass(frozen=True)
class Point:
    """One Θ for all vectors, the score of the Program with it, and the share of products that it skips."""

    threshold: int
    score: float
    skipped: float


def skipped(program: Program, x: ArrayLike, lengths: ArrayLike | None = None) -> Skipped:
    """What the Program skips at its thresholds on real inputs x (N, T, I) of the given lengths (N,)."""
    return of_trace(golden.run(program, program.quantize(x), lengths))


def of_trace(trace: Trace) -> Skipped:
    """What a golden run skips."""
    seen: dict[str, int] = defaultdict(int)
    sent: dict[str, int] = defaultdict(int)
    all_products = products = 0
    for run in trace.passes:
        for name, matrix, runs, moved in _driven(trace.program, run):
            count = int(np.count_nonzero(moved))
            seen[name] += runs * moved.shape[-1]
            sent[name] += count
            column = matrix.weight.shape[0] * matrix.entries
            all_products += runs * moved.shape[-1] * column
            products += count * column
    return Skipped(
        {name: 1 - sent[name] / seen[name] for name in seen},
        1 - products / all_products,
        sum(seen.values()),
        sum(sent.values()),
    )


def curve(
    program: Program,
    x: ArrayLike,
    lengths: ArrayLike | None,
    score: Score,
    thresholds: Sequence[int] = THRESHOLDS,
) -> list[Point]:
    """Score against skipped products for one Θ of all vectors; x (N, T, I) real inputs."""
    points = []
    for threshold in thresholds:
        slower = program.with_thresholds(threshold)
        points.append(Point(int(threshold), score(slower), skipped(slower, x, lengths).total))
    return points


def choose(
    program: Program,
    x: ArrayLike,
    lengths: ArrayLike | None,
    score: Score,
    budget: float,
    thresholds: Sequence[int] = THRESHOLDS,
) -> Program:
    """Raise Θ of each vector while the score stays within ``budget`` of the Program's own.

    Greedy: Θ of each vector can go up to its next value that skips more; the one that then skips most products is raised
    first. One that costs too much stays as it is from then on. x (N, T, I) and whatever ``score`` looks at should be validation
    data: the choice fits them.
    """
    if budget < 0:
        raise SparseGateError(f"a budget of score is 0 or more, not {budget}")
    ladder = sorted({int(threshold) for threshold in thresholds})
    least = score(program) - budget
    now = skipped(program, x, lengths)
    open_ = {place for place, vector in enumerate(program.vectors) if vector.name in now.vectors}
    while open_:
        found = {}
        for place in sorted(open_):
            for threshold in ladder:
                if threshold > program.thresholds[place] and place not in found:
                    chosen = list(program.thresholds)
                    chosen[place] = threshold
                    raised = program.with_thresholds(*chosen)
                    after = skipped(raised, x, lengths)
                    if after.total > now.total:
                        found[place] = raised, after
        open_ = set(found)
        for place in sorted(found, key=lambda place: -found[place][1].total):
            raised, after = found[place]
            if score(raised) >= least:
                program, now = raised, after
                break
            open_.discard(place)
    return program


def _driven(program: Program, run: PassTrace) -> Iterator[tuple[str, Matrix, int, NDArray[np.bool_]]]:
    """Of each matrix of a pass and each vector that it multiplies: the vector's name, the matrix, how often the vector comes, and
    which of its columns are processed, (..., columns)."""
    count, steps, _ = run.streams[0].values.shape
    valid = int(run.lengths.sum())
    at = 0  # the layer's first phase, and its source's stream
    for number in run.of.layers:
        layer = program.layers[number]
        outputs = {phase.spec.output: k for k, phase in enumerate(layer.phases, at + 1)}
        for phase in layer.phases:
            for term in phase.terms:
                if term.column == "x":
                    ends = layer.when != "step" and run.of.when == "step"
                    stream = run.streams[at]
                    moved = stream.held != 0 if ends else stream.sent
                    for name, columns in _sources(program, run, at):
                        yield name, term.matrix, count if ends else valid, moved[..., columns]
                    carried = at > 0 and program.layers[number - 1].cell.recurrent and not ends
                elif term.column == "h":  # sent after the step before
                    stream = run.streams[outputs["h"]]
                    earlier = np.arange(steps)[None, :] < run.lengths[:, None] - 1
                    yield layer.name, term.matrix, valid, stream.sent & earlier[:, :, None]
                    carried = True
                else:
                    stream = run.streams[outputs[term.column]]
                    yield f"{layer.name}.{term.column}", term.matrix, valid, stream.sent
                    carried = False
                if run.loaded and carried:  # what a given state sends before the first step
                    name = layer.name if term.column == "h" else program.layers[number - 1].name
                    yield name, term.matrix, count, stream.primed
        at += len(layer.phases)


def _sources(program: Program, run: PassTrace, at: int) -> list[tuple[str, slice]]:
    """Names and columns of the vectors in a stream that a layer takes."""
    if at:
        return [(run.phases[at - 1].name, slice(None))]
    found, start = [], 0
    for vector in run.of.sources:
        name, size = ("input", program.inputs) if vector == 0 else _output(program, vector)
        found.append((name, slice(start, start + size)))
        start += size
    return found


def _output(program: Program, vector: int) -> tuple[str, int]:
    layer = program.layers[vector - 1]
    return layer.name, layer.outputs
