"""The exact cycle model: when every step starts and ends, from which columns moved.

For one step the engine takes a frame, then runs the phases (layers) in turn. A phase

- dispatches its columns: ``DISPATCH + 1 + max over groups of the sum of bursts`` cycles (1 where no column moved),
- drains for ``DRAIN`` cycles, longer only while the output frame of an earlier step still leaves,
- reads out ``positions`` cycles, and
- waits ``result_latency`` cycles for the last result.

Encoding of the next frame overlaps: there are two input buffers, each free again when the first phase has dispatched it.
After reset the accumulators are cleared, an address a cycle, before the first frame is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate import timing
from sparsegate.golden import Trace
from sparsegate.layout import Layout, PhaseLayout


@dataclass(frozen=True)
class Cycles:
    """Predicted clock cycles of a batch streamed back to back, source always valid, sink always ready.

    ``start`` and ``end`` (N, T): the cycles in which a step takes its frame and delivers its last result, counted from the
    first cycle after reset; -1 past a sequence's end. ``matvec`` (N, T): cycles of a step's matrix-vector phases.
    ``useful_macs``: entries of real blocks in issued columns. ``columns_seen`` and ``columns_sent``: columns a dense engine
    would process, and those processed.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    matvec: NDArray[np.int64]
    useful_macs: int
    columns_seen: int
    columns_sent: int
    pes: int

    @property
    def busy(self) -> NDArray[np.int64]:
        """(N, T) cycles of each step."""
        return self.end - self.start

    @property
    def steps(self) -> int:
        return int(np.count_nonzero(self.end >= 0))

    @property
    def total(self) -> int:
        """Cycles from the first step's start to the last step's end."""
        return int(self.end.max() - self.start[0, 0])

    @property
    def occupancy_matvec(self) -> float:
        """Useful MACs / (PEs * cycles of the matrix-vector phases)."""
        return self.useful_macs / max(1, self.pes * int(self.matvec.sum()))

    @property
    def occupancy_total(self) -> float:
        """Useful MACs / (PEs * all cycles)."""
        return self.useful_macs / max(1, self.pes * self.total)


def predict(trace: Trace, layout: Layout) -> Cycles:
    """Cycles of a golden run on an array."""
    count, steps, _ = trace.layers[0].shape
    lengths = trace.lengths
    valid = np.arange(steps)[None, :] < lengths[:, None]
    final = np.arange(steps)[None, :] == lengths[:, None] - 1
    durations, matvecs = [], []  # of each phase, (N, T): matrix-vector cycles; 0 where the phase does not run
    macs = seen = sent = 0
    for number, phase in enumerate(layout.phases):
        runs = final if phase.layer.when == "last" else valid
        bursts = np.zeros((count, steps, layout.groups), np.int64)
        for matrix in phase.matrices:
            moved = _moved(trace, number, matrix.vector, phase) & runs[:, :, None]
            groups = layout.group_columns[matrix.vector]
            in_group = moved.astype(np.float64) @ np.eye(layout.groups)[groups]
            bursts += in_group.astype(np.int64) * matrix.burst
            issued = int(moved.sum())
            macs += issued * _macs_per_column(phase, matrix.matrix.entries)
            sent += issued
            seen += matrix.matrix.columns * int(runs.sum())
        longest = bursts.max(axis=2)
        matvec = np.where(longest > 0, timing.DISPATCH + 1 + longest, 1)
        matvecs.append(np.where(runs, matvec, 0))
        after = phase.positions + timing.result_latency(phase.layer.cell, phase.layer.step_bits, layout.groups)
        durations.append(np.where(runs, after, 0))

    start = np.full((count, steps), -1, np.int64)
    end = np.full((count, steps), -1, np.int64)
    inputs, outputs = trace.program.inputs, trace.program.outputs
    # first free cycles of the encoder, the sequencer (which clears the accumulators after reset) and the output
    encoded, idle, sent_out = 0, layout.acc_depth, 0
    released = [0, 0]
    frame = 0
    last = len(layout.phases) - 1
    for n in range(count):
        for t in range(lengths[n]):
            encoded = max(encoded, released[frame % 2]) + inputs
            now = max(idle, encoded + timing.ENCODE)
            start[n, t] = now
            for number in range(last + 1):
                dispatch = int(matvecs[number][n, t])
                if not dispatch:
                    continue
                now += dispatch
                if number == 0:
                    released[frame % 2] = now + 1
                now += timing.DRAIN
                if number == last:
                    now = max(now, sent_out)
                now += int(durations[number][n, t])
                if number == last:
                    sent_out = now + 1 + outputs
            end[n, t] = now
            idle = now + 1
            frame += 1
    return Cycles(start, end, np.sum(matvecs, axis=0), macs, seen, sent, layout.config.pes)


def _moved(trace: Trace, number: int, vector: int, phase: PhaseLayout) -> NDArray[np.bool_]:
    """Which columns of a vector a phase issues at each step, (N, T, size)."""
    if phase.layer.when == "last":
        # a layer that runs only at the end starts from zero and takes every held value that is not zero
        moved = np.zeros(trace.sent[vector].shape, bool)
        rows = np.arange(len(trace.lengths))
        moved[rows, trace.lengths - 1] = trace.held[vector] != 0
        return moved
    if vector == number + 1:  # its own output, sent after the step before
        moved = np.zeros_like(trace.sent[vector])
        moved[:, 1:] = trace.sent[vector][:, :-1]
        return moved
    return trace.sent[vector]


def _macs_per_column(phase: PhaseLayout, entries: int) -> int:
    """Useful MACs of one column: N for each block, but never more than the block's real rows."""
    layer = phase.layer
    unit_blocks = layer.blocks // layer.gates
    short = layer.units - (unit_blocks - 1) * layer.block
    return layer.gates * ((unit_blocks - 1) * min(entries, layer.block) + min(entries, short))
