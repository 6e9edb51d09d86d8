"""The exact cycle model: when every step starts and ends, from which columns moved.

For one step the engine takes a frame, then runs the phases (layers) in turn. A phase

- dispatches its columns: ``DISPATCH + 1 + max over groups of the sum of bursts`` cycles (1 where no column moved),
- drains for ``DRAIN`` cycles, longer only while the output frame of an earlier step still leaves,
- reads out ``positions`` cycles, and
- waits ``result_latency`` cycles for the last result.

Encoding of the next frame overlaps: there are two input buffers, each free again when the first phase has dispatched it.
After reset the accumulators are cleared, an address a cycle, before the first frame is taken.

A sequence that starts from a given state first takes its frame of words, then dispatches the columns that this state
sends, phase by
phase; one whose state is asked for gives it after its last step. A Program that does not stream runs its passes in turn over a
sequence in a buffer: what reaches the encoder, and when, is then the buffer's doing (``timing.BUFFER_FEED``,
``timing.BUFFER_RETURN``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate import timing
from sparsegate.golden import PassTrace, Stream, Trace
from sparsegate.layout import INPUT, Layout, MatrixLayout, PhaseLayout


@dataclass(frozen=True)
class Cycles:
    """Predicted clock cycles of a batch streamed back to back, source always valid, sink always ready.

    ``start`` and ``end`` (N, S), arranged like ``Trace.ran``: the cycles in which a step takes its frame and delivers its last
    result, counted from the first cycle after reset; -1 where no step runs. ``matvec`` (N, S): cycles of a step's
    matrix-vector phases.
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
        """(N, S) cycles of each step."""
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


@dataclass(frozen=True)
class _PassCycles:
    """Cycles of one pass over a batch: of every phase and step (N, T), 0 where it does not run, and of what comes before and after.

    ``matvec`` the matrix-vector part, ``rest`` what follows DRAIN; ``opening`` (N,) of loading a state and sending it,
    ``closing`` of
    giving one.
    """

    matvec: list[NDArray[np.int64]]
    rest: list[NDArray[np.int64]]
    opening: NDArray[np.int64]
    closing: int
    releases: int
    """Phase, counted from the pass's first, after whose dispatch the input's bank is free again."""
    outputs: int
    inputs: int


class _Counts:
    """Sums over a batch."""

    macs = seen = sent = 0

    def add(self, phase: PhaseLayout, matrix: MatrixLayout, runs: int, issued: int) -> None:
        self.seen += matrix.term.matrix.columns * runs
        self.sent += issued
        self.macs += issued * _macs_per_column(phase, matrix.term.matrix.entries)


def predict(trace: Trace, layout: Layout, final: bool = False) -> Cycles:
    """Cycles of a golden run on an array; ``final``: every sequence's final state is asked for."""
    counts = _Counts()
    passes = [_pass(run, number, layout, final and layout.states, counts) for number, run in enumerate(trace.passes)]
    ran = trace.ran
    start, end, matvec = (
        np.full(ran.shape, -1, np.int64),
        np.full(ran.shape, -1, np.int64),
        np.zeros(ran.shape, np.int64),
    )
    offsets = np.cumsum([0, *(int(run.lengths.max()) for run in trace.passes)])
    for offset, stop, this in zip(offsets, offsets[1:], passes, strict=False):
        matvec[:, offset:stop] = np.sum(this.matvec, axis=0)[:, : stop - offset]
    streams = layout.program.streams
    # first free cycles of the encoder, the sequencer (which clears the accumulators after reset) and the output
    encoded, idle, sent_out = 0, layout.acc_depth, 0
    released = [0, 0]
    frame = 0
    buffered = 0  # when the buffer is ready for the next sequence
    for n in range(len(trace.lengths)):
        if not streams:
            taken = buffered + int(trace.lengths[n]) * layout.program.inputs - 1  # the last value's cycle
        for number, this in enumerate(passes):
            if not streams:
                encoded = (taken if number == 0 else sent_out) + timing.BUFFER_FEED
            steps = int(trace.passes[number].lengths[n])
            for t in range(steps):
                encoded = max(encoded, released[frame % 2]) + this.inputs
                now = max(idle, encoded + timing.ENCODE)
                at = offsets[number] + t
                start[n, at] = now
                if t == 0:
                    now += int(this.opening[n])
                for k, (of_phase, rest) in enumerate(zip(this.matvec, this.rest, strict=True)):
                    dispatch = int(of_phase[n, t])
                    if not dispatch:
                        continue
                    now += dispatch
                    if k == this.releases:
                        released[frame % 2] = now + 1
                    now += timing.DRAIN
                    if k == len(this.rest) - 1:
                        now = max(now, sent_out)
                    now += int(rest[n, t])
                    if k == len(this.rest) - 1:
                        sent_out = now + 1 + this.outputs
                end[n, at] = now
                idle = now + 1
                if t == steps - 1:
                    idle += this.closing
                frame += 1
        if not streams:
            length = 1 if layout.program.layers[-1].when != "step" else int(trace.lengths[n])
            buffered = sent_out + timing.BUFFER_FEED + length * layout.program.outputs - 1 + timing.BUFFER_RETURN
    return Cycles(start, end, matvec, counts.macs, counts.seen, counts.sent, layout.config.pes)


def _pass(run: PassTrace, number: int, layout: Layout, final: bool, counts: _Counts) -> _PassCycles:
    this = layout.passes[number]
    count, steps, _ = run.streams[0].values.shape
    valid = np.arange(steps)[None, :] < run.lengths[:, None]
    ending = np.arange(steps)[None, :] == run.lengths[:, None] - 1
    matvecs, rests = [], []
    opening, closing = np.zeros(count, np.int64), 0
    releases = 0
    for k, at in enumerate(this.phases):
        phase = layout.phases[at]
        ends = not layout.every_step(at)
        runs = ending if ends else valid
        bursts = np.zeros((count, steps, layout.groups), np.int64)
        primes = np.zeros((count, layout.groups), np.int64)
        for matrix in phase.matrices:
            stream = run.streams[0 if matrix.source == INPUT else matrix.source - this.phases.start + 1]
            moved = _moved(stream, matrix, ends, run.lengths) & runs[:, :, None]
            in_group = np.eye(layout.groups)[matrix.group]
            bursts += (moved.astype(np.float64) @ in_group).astype(np.int64) * matrix.burst
            counts.add(phase, matrix, int(runs.sum()), int(moved.sum()))
            if matrix.source == INPUT:
                releases = k
            if run.loaded and matrix.carried:
                primes += (stream.primed.astype(np.float64) @ in_group).astype(np.int64) * matrix.burst
                counts.add(phase, matrix, count, int(stream.primed.sum()))
        matvecs.append(np.where(runs, _dispatch(bursts.max(axis=2)), 0))
        latency = timing.result_latency(phase.phase.spec, phase.phase.step_bits, layout.groups)
        rests.append(np.where(runs, phase.positions + latency, 0))
        words = layout.lanes * len(phase.loads)
        if run.loaded:
            # the state's words, then its columns and a cycle in which the dispatchers' pointers go back
            opening += timing.load_cycles(phase.positions, words) + _dispatch(primes.max(axis=1)) + 1
        if final:
            closing += timing.dump_cycles(phase.positions, words)
    last = layout.phases[this.phases[-1]].phase
    return _PassCycles(matvecs, rests, opening, closing, releases, last.units, this.inputs)


def _dispatch(longest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cycles of a dispatch whose longest group takes so many beats."""
    return np.where(longest > 0, timing.DISPATCH + 1 + longest, 1)


def _moved(stream: Stream, matrix: MatrixLayout, ends: bool, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which columns a phase issues at each step, (N, T, size)."""
    if ends:
        # a layer that runs only at the end starts from zero and takes every held value that is not zero
        moved = np.zeros(stream.sent.shape, bool)
        moved[np.arange(len(lengths)), lengths - 1] = stream.held != 0
        return moved
    if not matrix.now:  # sent after the step before
        moved = np.zeros_like(stream.sent)
        moved[:, 1:] = stream.sent[:, :-1]
        return moved
    return stream.sent


def _macs_per_column(phase: PhaseLayout, entries: int) -> int:
    """Useful MACs of one column: N for each block, but never more than the block's real rows."""
    of = phase.phase
    unit_blocks = of.blocks // of.gates
    short = of.units - (unit_blocks - 1) * of.block
    return of.gates * ((unit_blocks - 1) * min(entries, of.block) + min(entries, short))
