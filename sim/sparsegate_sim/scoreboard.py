"""Compares what an engine gave with the golden model, and names the first difference in one sentence."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsegate.array import Layout
from sparsegate.golden import Trace
from sparsegate_sim import frames
from sparsegate_sim.drive import Recording

OUTPUT = "output"
"""Where a difference is that the output stream shows, beside the layers' names."""


@dataclass(frozen=True, order=True)
class Difference:
    """One value that is not what it should be. Ordered by when the engine would have computed it.

    ``order`` is the step's number in its pass, which runs backwards in a reversed layer. ``phase``: the output stream and final
    states come after all phases; ``run``: what leaves when all passes are done comes after the last.
    """

    sequence: int
    run: int
    order: int
    phase: int
    unit: int
    sentence: str = field(compare=False)


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison: how many values were compared, how many differ, and the first difference as a sentence."""

    compared: int
    mismatches: int
    first: str | None


_Runs = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class _Expected:
    """One phase: its ``run`` (pass), and ``when`` it runs, (events, 3): sequence, step in the pass's order, and in that of time.

    ``values`` (N, T, units) in the pass's order.
    """

    name: str
    run: int
    units: NDArray[np.int64]
    values: NDArray[np.int64]
    when: NDArray[np.int64]

    @property
    def size(self) -> int:
        return self.values.shape[2]


class Scoreboard:
    """Expected values of a run: what every phase gives, the output stream, and with ``final`` the states after each sequence.

    Steps are named in order of time, also those of a reversed layer.
    """

    def __init__(self, trace: Trace, layout: Layout, final: bool = False) -> None:
        self.trace, self.layout, self.final = trace, layout, final
        self.phases: list[_Expected] = []
        count = np.arange(len(trace.lengths))
        for run, this in enumerate(trace.passes):
            steps = np.argwhere(np.arange(this.streams[0].values.shape[1])[None, :] < this.lengths[:, None])
            sequence, order = steps.T
            time = this.lengths[sequence] - 1 - order if this.of.reverse else order
            if this.of.when != "step":  # its only step is that of a sequence's end
                time = trace.lengths[sequence] - 1
            every = np.stack([sequence, order, time], axis=1)
            ends = np.stack([count, this.lengths - 1, trace.lengths - 1], axis=1)
            for phase, stream in zip(this.phases, this.streams[1:], strict=True):
                units = layout.units(len(self.phases))
                at_end = phase.when != "step"
                self.phases.append(_Expected(phase.name, run, units, stream.values, ends if at_end else every))
        # the output: a frame a step, or one a sequence
        steps = np.argwhere(np.arange(trace.outputs.shape[1])[None, :] < trace.lengths[:, None])
        single = trace.program.layers[trace.program.output_vectors[0] - 1].when != "step"
        self.frames = np.stack([count, trace.lengths - 1], axis=1) if single else steps  # (frames, 2): sequence, step
        # a Program that streams gives its output as it computes, any other at the end
        self._output_run = 0 if trace.program.streams else len(trace.passes)

    @property
    def expected(self) -> int:
        """Values that a complete run gives: every phase's outputs, the output stream's, and the final states."""
        inside = sum(len(phase.when) * phase.size for phase in self.phases)
        states = sum(value.size for parts in self.trace.state.values() for value in parts.values())
        return inside + len(self.frames) * self.trace.program.outputs + (states if self.final else 0)

    def check(self, recording: Recording) -> Verdict:
        """Compare everything an engine gave with everything it should have given."""
        differences: list[Difference] = []
        compared = 0
        checks = [self._check_phase(number, recording) for number in range(len(self.phases))]
        for seen, found in (*checks, self._check_output(recording), self._check_states(recording)):
            compared += seen
            differences += found
        first = min(differences).sentence if differences else None
        extra = list(recording.faults)
        if recording.stuck:
            extra.append(
                f"the engine fell silent: {recording.accepted} input values taken, {len(recording.step_done)} steps done"
                f" and {len(recording.y_data)} output values given when the simulation gave up in cycle {recording.cycles - 1}"
            )
        stray = recording.trace_phase[(recording.trace_phase < 0) | (recording.trace_phase >= len(self.phases))]
        if stray.size:
            extra.append(f"the trace names phase {stray[0]}, but there are {len(self.phases)}")
        if first is None and extra:
            first = extra[0]
        return Verdict(compared, len(differences) + len(extra), first)

    # -- phases ------------------------------------------------------------------------------------------------------

    def _check_phase(self, number: int, recording: Recording) -> tuple[int, list[Difference]]:
        phase = self.phases[number]
        when, expected = phase.when, phase.values
        units, values, runs, found = self._values(number, recording)
        compared = 0
        differences = list(found)
        for index, (begin, end) in enumerate(runs):
            if index >= len(when):
                differences.append(self._more(number, end - begin))
                continue
            mine, first = np.unique(units[begin:end], return_index=True)
            got = values[begin:end][first]
            if len(mine) < end - begin:
                sentence = f"{end - begin} values came for {len(mine)} units"
                differences.append(self._at(number, index, int(mine[0]), sentence))
            now = expected[when[index, 0], when[index, 1]]
            want = now[mine]
            compared += len(mine)
            for place in np.flatnonzero(got != want):
                sentence = f"expected {want[place]}, got {got[place]}"
                differences.append(self._at(number, index, int(mine[place]), sentence))
            if len(mine) < phase.size:
                for unit in np.setdiff1d(np.arange(phase.size), mine):
                    differences.append(self._at(number, index, int(unit), f"expected {now[unit]}, got no value"))
        for index in range(len(runs), len(when)):
            for unit, want in enumerate(expected[when[index, 0], when[index, 1]]):
                differences.append(self._at(number, index, unit, f"expected {want}, got no value"))
        return compared, differences

    def _values(self, number: int, recording: Recording) -> tuple[NDArray, NDArray, _Runs, list[Difference]]:
        """Units and values of a phase in the order in which they left the lanes, cut into steps, and wrong claims about them."""
        phase = self.phases[number]
        mine = recording.trace_phase == number
        position = recording.trace_position[mine]
        table = phase.units  # (lanes, positions)
        lanes = table.shape[0]
        differences = []

        def note(event: int, unit: int, sentence: str) -> None:
            index = min(int(np.count_nonzero(np.diff(position[: event + 1]) <= 0)), len(phase.when) - 1)
            differences.append(self._at(number, index, unit, sentence))

        beyond = (position < 0) | (position >= table.shape[1])
        for event in np.flatnonzero(beyond)[:1].tolist():
            note(event, 0, f"the trace names position {position[event]}, but a lane has {table.shape[1]}")
        shift = np.arange(lanes, dtype=np.uint64)
        real = (recording.trace_real[mine][:, None] >> shift & np.uint64(1)).astype(bool)  # (events, lanes)
        real &= ~beyond[:, None]
        units = table.T[np.where(beyond, 0, position)]  # (events, lanes)
        wrong = (real != (units >= 0)) & ~beyond[:, None]
        for event, lane in np.argwhere(wrong)[:1].tolist():
            claim = "holds a unit" if real[event, lane] else "holds no unit"
            truth = f"is unit {units[event, lane]}" if units[event, lane] >= 0 else "is none"
            unit = max(0, int(units[event, lane]))
            note(event, unit, f"lane {lane} says that position {position[event]} {claim}, but it {truth}")
        keep = real & (units >= 0)
        return units[keep], recording.trace_h[mine][:, :lanes][keep], _runs(position, keep.sum(axis=1)), differences

    def _at(self, number: int, index: int, unit: int, sentence: str) -> Difference:
        phase = self.phases[number]
        sequence, order, time = (int(value) for value in phase.when[index])
        text = f"sequence {sequence}, step {time}, layer {phase.name!r}, unit {unit}: {sentence}"
        return Difference(sequence, phase.run, order, number, unit, text)

    def _more(self, number: int, count: int) -> Difference:
        phase = self.phases[number]
        sequence, order, _ = (int(value) for value in phase.when[-1])
        sentence = f"layer {phase.name!r} gave {count} values after the last step, expected none"
        return Difference(sequence, phase.run, order + 1, number, 0, sentence)

    # -- streams -----------------------------------------------------------------------------------------------------

    def _check_output(self, recording: Recording) -> tuple[int, list[Difference]]:
        when, count, after = self.frames, self.trace.program.outputs, len(self.phases)
        expected = self.trace.outputs[when[:, 0], when[:, 1]].reshape(-1)
        flags = np.zeros((len(when), count), bool)
        flags[when[:, 1] == self.trace.lengths[when[:, 0]] - 1, -1] = True
        last = flags.reshape(-1)
        got, got_last = recording.y_data, recording.y_last
        shared = min(len(expected), len(got))
        differences = []

        def note(place: int, sentence: str) -> None:
            frame, unit = divmod(place, count)
            sequence, step = (int(value) for value in when[frame])
            text = f"sequence {sequence}, step {step}, {OUTPUT} {unit}: {sentence}"
            differences.append(Difference(sequence, self._output_run, step, after, unit, text))

        for place in np.flatnonzero(got[:shared] != expected[:shared]).tolist():
            note(place, f"expected {expected[place]}, got {got[place]}")
        for place in np.flatnonzero(got_last[:shared] != last[:shared]).tolist():
            if got[place] == expected[place]:  # one difference a value
                note(place, f"expected last = {int(last[place])}, got {int(got_last[place])}")
        for place in range(shared, len(expected)):
            note(place, f"expected {expected[place]}, got no value")
        if len(got) > len(expected):
            sequence, step = (int(value) for value in when[-1])
            sentence = (
                f"{len(got) - len(expected)} values after the last expected one, the first of them {got[len(expected)]}"
            )
            text = f"{OUTPUT}: {sentence}"
            differences.append(Difference(sequence, self._output_run, step + 1, after, 0, text))
        return shared, differences

    def _check_states(self, recording: Recording) -> tuple[int, list[Difference]]:
        """Words of final states, of which those without a unit may be anything."""
        got = recording.state_data
        count = len(self.trace.lengths)
        width = sum(frames.sizes(self.layout)) if self.final else 0
        differences, compared = [], 0
        for sequence in range(count if self.final else 0):
            for run, layer, name, place in frames.places(self.layout):
                order = int(self.trace.passes[run].lengths[sequence])
                wanted = self.trace.state[layer][name][sequence].tolist()
                for unit, (want, word) in enumerate(zip(wanted, (sequence * width + place).tolist(), strict=True)):
                    compared += word < len(got)
                    if word < len(got) and got[word] == want:
                        continue
                    found = f"got {got[word]}" if word < len(got) else "got no value"
                    text = (
                        f"sequence {sequence}, final {name} of layer {layer!r}, unit {unit}: expected {want}, {found}"
                    )
                    differences.append(Difference(sequence, run, order, len(self.phases), unit, text))
        if len(got) > count * width:
            sentence = f"{len(got) - count * width} words of final states after the last expected one"
            differences.append(Difference(count - 1, len(self.trace.passes), 0, len(self.phases), 0, sentence))
        return compared, differences


def _runs(position: NDArray, values: NDArray) -> _Runs:
    """Where each step's values begin and end, from each event's position and count of values.

    Within a step positions only grow, so one that does not grow begins the next step, even where values are missing.
    """
    if not len(position):
        return []
    ends = np.cumsum(values)
    starts = np.flatnonzero(np.diff(position) <= 0) + 1  # first events of all steps but the first
    cuts = [0, *ends[starts - 1].tolist(), int(ends[-1])]
    return list(itertools.pairwise(cuts))
