"""The exact cycle model: when every step starts and ends, from which columns moved.

The engine does two things at once: it *dispatches* the columns of a phase, and it *reads out* the phase before. All cycles are
counted from the first one after reset; for phase i in order of execution:

- T, its dispatch starts: the cycle after H of phase i - 1. A step's first phase also waits for its frame, listed ``encode``
  cycles after its last value was taken, and after a reset for the accumulators to be cleared, an address a cycle. That T is the
  step's ``start``.
- Of its matrices at most one is *late*: the one that multiplies what phase i - 1 gives. Its columns are known at
  K = F of phase i - 1 plus one; where none is late, or nothing was sent yet in its sequence, K = T.
- W, beats may be issued: the cycle after the last read-out address of phase i - 1 if both use one bank of accumulators.
- A group whose early columns take a beats and whose late ones take b issues the early ones from ``max(T + dispatch, W + 1)`` on and
  the late ones from ``max(K + dispatch, W + 1)`` on, but after the early ones. A column takes slots * N beats, an
  unchanged one none.
- E, its dispatch ends: the cycle after the last beat of the group that is last, ``hand`` cycles later where the engine is
  deep, and not before ``max(T, K) + nothing``.
- H, it is handed over to the read-out: ``max(E, F of phase i - 1 plus one)``. The input's buffer is free in the next
  cycle if this was the last phase that takes it.
- Read-out of ``positions`` cycles begins at R = H + 1 + ``drain``, if this is a pass's last phase not before the output frame of
  the step before has left the output buffer, its beats + 2 cycles after its F: ``config.outputs`` values a beat.
- F, its last result: R + ``positions`` - 1 + ``result_latency``. F of a step's last phase is the step's ``end``.

So while nothing else is slower, a step of a single phase follows another after its beats, its read-out, and ``drain`` + 2 +
``hand`` cycles; the cells of one step are hidden behind the input's columns of the next. Where phases alternate between banks,
read-out is hidden too.

With state ports a sequence begins when the one before is over. One that starts from a given state first takes its frame of
words, then dispatches the columns that this state sends, phase by phase; one whose state is asked for gives it after
its last step. A Program that does not stream runs its passes in turn over a sequence in a buffer: what reaches the
encoder, and when, is then the buffer's doing (``timing.BUFFER_FEED``, ``timing.BUFFER_RETURN``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate.array import timing
from sparsegate.array.layout import Layout
from sparsegate.array.place import INPUT, MatrixLayout, PhaseLayout
from sparsegate.golden import PassTrace, Stream, Trace
from sparsegate.shown import Shown, counted


@dataclass(frozen=True, repr=False)
class Cycles(Shown):
    """Predicted clock cycles of a batch, source and sink always ready.

    ``start`` and ``end`` (N, S), arranged like ``Trace.ran``: the cycles in which a step takes its frame and delivers its last
    result, counted from the first cycle after reset; -1 where no step runs. A step may start before the one before has ended.
    ``matvec`` (N, S): cycles that a step's dispatches take where they wait for nothing, ``beats`` (N, S) those of them in which the
    longest group issues, ``mean_beats`` (N, S) the mean over groups: what would be left without imbalance.
    ``group_beats`` (G,): beats that each column group issues in all, those of states' columns included.
    ``useful_macs``: entries of real blocks in issued columns. ``columns_seen`` and ``columns_sent``: columns a dense engine
    would process, and those processed.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    matvec: NDArray[np.int64]
    beats: NDArray[np.int64]
    mean_beats: NDArray[np.float64]
    group_beats: NDArray[np.int64]
    useful_macs: int
    columns_seen: int
    columns_sent: int
    pes: int

    @property
    def sentence(self) -> str:
        return f"{self.total} cycles for {counted(self.steps, 'step')}, occupancy {self.occupancy_total:.1%}"

    @property
    def busy(self) -> NDArray[np.int64]:
        """(N, S) cycles from each step's start to its end: its latency, of which a part may overlap with other steps."""
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
        """Useful MACs / (PEs * cycles of the dispatches)."""
        return self.useful_macs / max(1, self.pes * int(self.matvec.sum()))

    @property
    def imbalance(self) -> float:
        """Beats of the longest group over the mean of all: 1 if columns are spread evenly over the groups at every step."""
        mean = float(self.mean_beats.sum())
        return float(self.beats.sum()) / mean if mean else 1.0

    @property
    def occupancy_total(self) -> float:
        """Useful MACs / (PEs * all cycles)."""
        return self.useful_macs / max(1, self.pes * self.total)


@dataclass(frozen=True)
class _PhaseCycles:
    """What a phase takes: ``beats`` (N, T, G) of each of its matrices by group; ``runs`` (N, T) whether it does;
    ``given`` cycles from its first read-out address to its last result, of which ``positions`` are read-out.
    """

    number: int
    runs: NDArray[np.bool_]
    beats: tuple[NDArray[np.int64], ...]
    positions: int
    given: int

    def total(self) -> NDArray[np.int64]:
        """(N, T, G) beats."""
        return np.sum(self.beats, axis=0)


@dataclass(frozen=True)
class _PassCycles:
    """What one pass takes over a batch: its phases, and the cycles of loading a state and sending it (N,), and of giving one."""

    phases: list[_PhaseCycles]
    opening: NDArray[np.int64]
    closing: int
    releases: int
    """Phase after whose dispatch the input's bank is free again."""
    outputs: int
    """Beats of its output frame."""
    inputs: int


class _Counts:
    """Sums over a batch."""

    macs = seen = sent = 0

    def __init__(self, groups: int) -> None:
        self.beats = np.zeros(groups, np.int64)

    def add(self, phase: PhaseLayout, matrix: MatrixLayout, runs: int, issued: int, beats: NDArray[np.int64]) -> None:
        """``beats`` (..., G) of the ``issued`` columns."""
        self.beats += beats.reshape(-1, len(self.beats)).sum(axis=0)
        self.seen += matrix.term.matrix.columns * runs
        self.sent += issued
        self.macs += issued * _macs_per_column(phase, matrix.term.matrix.entries)


class _Timeline:
    """The engine's own state between phases: the laws above, one phase at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.free = layout.acc_depth  # T of the next phase at the earliest; the read-out first clears the accumulators
        self.over = 0  # F of the phase before, plus one
        self.sent_out = 0  # from when on a pass's last phase may be read out
        self._unread = 0  # cycle after the phase before's last read-out address
        self._before = -1

    def dispatch(self, phase: _PhaseCycles, n: int, t: int, start: int) -> int:
        """Dispatch a phase from ``start`` on; returns H."""
        layout = self._layout
        of = layout.phases[phase.number]
        early, late = np.zeros((2, layout.groups), np.int64)
        known = start
        for matrix, beats in zip(of.matrices, phase.beats, strict=True):
            # the columns of the step before are none in a sequence's first
            if matrix.source == self._before and (matrix.now or t > 0) and self.over > start:
                late, known = beats[n, t], self.over
            else:
                early = early + beats[n, t]
        same = self._before >= 0 and layout.acc_bank(self._before) == layout.acc_bank(phase.number)
        unread = self._unread if same else 0
        depths = layout.depths
        ends = np.where(early > 0, max(start + depths.dispatch, unread + 1) + early, 0)
        ends = np.where(late > 0, np.maximum(ends, max(known + depths.dispatch, unread + 1)) + late, ends)
        handed = max(int(ends.max()) + depths.hand, max(start, known) + depths.nothing, self.over)
        self.free = handed + 1
        return handed

    def read(self, phase: _PhaseCycles, handed: int, last: bool) -> int:
        """Read out what was handed over; ``last`` of its pass. Returns F."""
        first = handed + 1 + self._layout.depths.drain
        if last:
            first = max(first, self.sent_out)
        self._unread = first + phase.positions
        self.over = first + phase.given
        self._before = phase.number
        return self.over - 1


def predict(trace: Trace, layout: Layout, final: bool = False, apart: bool = False) -> Cycles:
    """Cycles of a golden run on an array; ``final``: every sequence's final state is asked for.

    Frames are streamed back to back, or with ``apart`` a frame's first value comes only when the step before has ended, so that
    ``busy`` is the cycles of a step alone, which overlaps no other (Programs that stream only).
    """
    counts = _Counts(layout.groups)
    passes = [_pass(run, number, layout, final and layout.states, counts) for number, run in enumerate(trace.passes)]
    ran = trace.ran
    start, end = np.full(ran.shape, -1, np.int64), np.full(ran.shape, -1, np.int64)
    matvec, beats = np.zeros(ran.shape, np.int64), np.zeros(ran.shape, np.int64)
    mean = np.zeros(ran.shape)
    offsets = np.cumsum([0, *(int(run.lengths.max()) for run in trace.passes)])
    for offset, stop, this in zip(offsets, offsets[1:], passes, strict=False):
        for phase in this.phases:
            total, runs = phase.total()[:, : stop - offset], phase.runs[:, : stop - offset]
            here = np.s_[:, offset:stop]
            matvec[here] += np.where(runs, _dispatch(layout, total.max(axis=2)), 0)
            beats[here] += total.max(axis=2)
            mean[here] += total.mean(axis=2)
    streams = layout.program.streams
    engine = _Timeline(layout)
    encoded = 0  # first free cycle of the encoder
    released = [0, 0]
    frame = 0
    over = 0  # of the sequence, with state ports
    buffered = 0  # when the buffer is ready for the next sequence
    taken = 0  # when the buffer took the last value of a sequence or pass
    for n in range(len(trace.lengths)):
        if not streams:
            taken = buffered + int(trace.lengths[n]) * layout.program.inputs - 1
        for number, this in enumerate(passes):
            if not streams:
                encoded = taken + timing.BUFFER_FEED
            steps = int(trace.passes[number].lengths[n])
            for t in range(steps):
                encoded = max(encoded, released[frame % 2], engine.over if apart else 0) + this.inputs
                now = max(engine.free, encoded + layout.depths.encode)
                if layout.states and t == 0:
                    now = max(now, over)
                at = offsets[number] + t
                start[n, at] = now
                if t == 0:
                    now += int(this.opening[n])
                for phase in this.phases:
                    if not phase.runs[n, t]:
                        continue
                    handed = engine.dispatch(phase, n, t, now)
                    now = handed + 1
                    if phase.number == this.releases:
                        released[frame % 2] = now
                    last = phase is this.phases[-1]
                    end[n, at] = engine.read(phase, handed, last)
                    if last:
                        engine.sent_out = int(end[n, at]) + this.outputs + 2
                        taken = int(end[n, at]) + timing.OUTPUT + this.outputs - 1
                frame += 1
            over = engine.over + this.closing
        if not streams:
            length = 1 if layout.program.layers[-1].when != "step" else int(trace.lengths[n])
            buffered = taken + timing.BUFFER_FEED + length * layout.program.outputs - 1 + timing.BUFFER_RETURN
    return Cycles(
        start, end, matvec, beats, mean, counts.beats, counts.macs, counts.seen, counts.sent, layout.config.pes
    )


def _pass(run: PassTrace, number: int, layout: Layout, final: bool, counts: _Counts) -> _PassCycles:
    this = layout.passes[number]
    count, steps, _ = run.streams[0].values.shape
    valid = np.arange(steps)[None, :] < run.lengths[:, None]
    ending = np.arange(steps)[None, :] == run.lengths[:, None] - 1
    phases = []
    opening, closing = np.zeros(count, np.int64), 0
    releases = 0
    for at in this.phases:
        phase = layout.phases[at]
        ends = not layout.every_step(at)
        runs = ending if ends else valid
        beats = []
        primes = np.zeros((count, layout.groups), np.int64)
        for matrix in phase.matrices:
            stream = run.streams[0 if matrix.source == INPUT else matrix.source - this.phases.start + 1]
            moved = _moved(stream, matrix, ends, run.lengths) & runs[:, :, None]
            in_group = np.eye(layout.groups)[matrix.group]
            beats.append((moved.astype(np.float64) @ in_group).astype(np.int64) * matrix.burst)
            counts.add(phase, matrix, int(runs.sum()), int(moved.sum()), beats[-1])
            if matrix.source == INPUT:
                releases = at
            if run.loaded and matrix.carried:
                primed = (stream.primed.astype(np.float64) @ in_group).astype(np.int64) * matrix.burst
                primes += primed
                counts.add(phase, matrix, count, int(stream.primed.sum()), primed)
        latency = timing.result_latency(phase.phase.spec, phase.phase.step_bits, layout.groups, layout.depths)
        phases.append(_PhaseCycles(at, runs, tuple(beats), phase.positions, phase.positions + latency))
        words = layout.lanes * len(phase.loads)
        if run.loaded:
            # the state's words, then its columns
            opening += timing.load_cycles(phase.positions, words, layout.depths) + _dispatch(layout, primes.max(axis=1))
        if final:
            closing += timing.dump_cycles(phase.positions, words)
    # a dispatch of its own starts in the cycle after the last one of the state's columns
    opening += int(run.loaded)
    last = layout.phases[this.phases[-1]].phase
    return _PassCycles(phases, opening, closing, releases, last.units // layout.config.outputs, this.inputs)


def _dispatch(layout: Layout, longest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cycles of a dispatch whose longest group takes so many beats, where it waits for nothing, with the one that hands it over."""
    depths = layout.depths
    return np.where(longest > 0, depths.dispatch + longest + depths.hand, depths.nothing) + 1


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
