"""Cycles of the longest step, in which every column is sent, in the two senses that figures have.

*Alone* it overlaps no other step, as on a board, whose wrapper carries out one request at a time: a sum over phases, quick enough
for a search, which an allocation's microseconds are counted with. *Streamed* the next step starts while it is in the lanes, as
frames that are back to back do: counted by the cycle model, which an estimate's time of a step is made of. Of a Program that
streams, the first is never less than the second; one in several passes is averaged over a short sequence, its buffer included.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden
from sparsegate.array import cycles, timing
from sparsegate.array.layout import Layout
from sparsegate.array.place import MatrixLayout
from sparsegate.program import Phase, Program

STEPS = 4
"""Of the sequence on which streamed cycles are counted."""


def alone_cycles(layout: Layout) -> int:
    """Cycles of a step in which every column is sent and every phase runs, from its frame to its last result.

    What ``cycles.predict`` gives for such a step after a sequence's first if no other step is in work; of a Program in several
    passes their sum. That is where phases that follow one another have banks of their own: with ``HardwareConfig.banks`` 1 a
    phase also waits for the read-out of the one before, which is not counted here.
    """
    total = 0
    for run in layout.passes:
        before = 0
        for number in run.phases:
            phase = layout.phases[number]
            early, late = np.zeros((2, layout.groups), np.int64)
            for matrix in phase.matrices:
                beats = np.bincount(matrix.group, minlength=layout.groups) * matrix.burst
                early, late = (early, late + beats) if is_late(matrix, number, run.phases) else (early + beats, late)
            total += dispatch_cycles(layout, before, early, late)
            before = read_out_cycles(layout, phase.phase, phase.positions)
        total += before
    return total


def is_late(matrix: MatrixLayout, number: int, phases: range) -> bool:
    """Whether a matrix multiplies what the phase just before gives, of the same step."""
    return number > phases.start and matrix.source == number - 1


def dispatch_cycles(layout: Layout, before: int, early: NDArray[np.int64], late: NDArray[np.int64]) -> int:
    """Cycles from the end of one dispatch to that of the next, whose groups take so many beats; meanwhile the read-out of the phase
    before takes ``before`` (0: there is none, and the step begins).
    """
    longest = int((np.maximum(early, before) + late).max())
    return layout.depths.dispatch + longest + layout.depths.hand + (1 if before else 0)


def read_out_cycles(layout: Layout, phase: Phase, positions: int) -> int:
    """Cycles from the end of a phase's dispatch to its last result."""
    latency = timing.result_latency(phase.spec, phase.step_bits, layout.groups, layout.depths)
    return layout.depths.drain + positions + latency


def streamed_cycles(layout: Layout) -> int:
    """Cycles from the end of a step to the end of the next, in a sequence in which every column is sent, by the cycle model."""
    counted = cycles.predict(_all_sent(layout.program), layout)
    if not layout.program.streams:
        return -(-counted.total // STEPS)
    return int(counted.end[0, 2] - counted.end[0, 1])


@lru_cache(maxsize=1)
def _all_sent(program: Program) -> golden.Trace:
    """A sequence of :data:`STEPS` in which every column is sent; which they are is the Program's, whatever the array."""
    trace = golden.run(program, np.zeros((1, STEPS, program.inputs), np.int64))
    passes = tuple(
        replace(
            run,
            streams=tuple(
                replace(stream, sent=np.ones_like(stream.sent), held=np.ones_like(stream.held))
                for stream in run.streams
            ),
        )
        for run in trace.passes
    )
    return replace(trace, passes=passes)
