"""Compares what an engine gave with the golden model, and names the first difference in one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsegate.golden import Trace
from sparsegate_sim.drive import Recording

OUTPUT = "output"
"""Where a difference is that the output stream shows, beside the layers' names."""


@dataclass(frozen=True, order=True)
class Difference:
    """One value that is not what it should be. Ordered by when the engine would have computed it.

    ``layer`` is its number; that of the output stream is one more than the last layer's.
    """

    sequence: int
    step: int
    layer: int
    unit: int
    sentence: str = field(compare=False)


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison: how many values were compared, how many differ, and the first difference as a sentence."""

    compared: int
    mismatches: int
    first: str | None


_Runs = list[tuple[int, int]]


class Scoreboard:
    """Expected values of a run.

    Parameters
    ----------
    trace : the golden run.
    units : for each layer the unit at each lane and position, -1 for none, (lanes, positions); ``Layout.units``.
    """

    def __init__(self, trace: Trace, units: Sequence[NDArray[np.int64]]) -> None:
        self.trace, self.units = trace, [np.asarray(table) for table in units]
        self.layers = trace.program.layers
        lengths = trace.lengths
        count, steps = trace.layers[0].shape[:2]
        every = np.argwhere(np.arange(steps)[None, :] < lengths[:, None])  # (steps, 2): sequence, step
        final = np.stack([np.arange(count), lengths - 1], axis=1)
        # for each layer, when it runs
        self.when = [final if layer.when == "last" else every for layer in self.layers]

    @property
    def expected(self) -> int:
        """Values that a complete run gives: every layer's outputs, and the output stream's."""
        inside = sum(len(when) * layer.units for when, layer in zip(self.when, self.layers, strict=True))
        return inside + len(self.when[-1]) * self.layers[-1].units

    def check(self, recording: Recording) -> Verdict:
        """Compare everything an engine gave with everything it should have given."""
        differences: list[Difference] = []
        compared = 0
        for number in range(len(self.layers)):
            seen, found = self._check_layer(number, recording)
            compared += seen
            differences += found
        seen, found = self._check_output(recording)
        compared += seen
        differences += found
        first = min(differences).sentence if differences else None
        extra = list(recording.faults)
        if recording.stuck:
            extra.append(
                f"the engine fell silent: {recording.accepted} input values taken, {len(recording.step_done)} steps done"
                f" and {len(recording.y_data)} output values given when the simulation gave up in cycle {recording.cycles - 1}"
            )
        stray = recording.trace_layer[(recording.trace_layer < 0) | (recording.trace_layer >= len(self.layers))]
        if stray.size:
            extra.append(f"the trace names layer {stray[0]}, but there are {len(self.layers)}")
        if first is None and extra:
            first = extra[0]
        return Verdict(compared, len(differences) + len(extra), first)

    # -- layers ------------------------------------------------------------------------------------------------------

    def _check_layer(self, number: int, recording: Recording) -> tuple[int, list[Difference]]:
        when, expected = self.when[number], self.trace.layers[number]
        units, values, runs, found = self._values(number, recording)
        count, compared = self.layers[number].units, 0
        differences = list(found)
        for index, (begin, end) in enumerate(runs):
            if index >= len(when):
                sequence, step = when[-1]
                differences.append(self._more(number, int(sequence), int(step), end - begin))
                continue
            sequence, step = (int(value) for value in when[index])
            mine, first = np.unique(units[begin:end], return_index=True)
            got = values[begin:end][first]
            if len(mine) < end - begin:
                sentence = f"{end - begin} values came for {len(mine)} units"
                differences.append(self._at(sequence, step, number, int(mine[0]), sentence))
            want = expected[sequence, step, mine]
            compared += len(mine)
            for place in np.flatnonzero(got != want):
                sentence = f"expected {want[place]}, got {got[place]}"
                differences.append(self._at(sequence, step, number, int(mine[place]), sentence))
            if len(mine) < count:
                for unit in np.setdiff1d(np.arange(count), mine):
                    sentence = f"expected {expected[sequence, step, unit]}, got no value"
                    differences.append(self._at(sequence, step, number, int(unit), sentence))
        for sequence, step in when[len(runs) :]:
            for unit in range(count):
                sentence = f"expected {expected[sequence, step, unit]}, got no value"
                differences.append(self._at(int(sequence), int(step), number, unit, sentence))
        return compared, differences

    def _values(self, number: int, recording: Recording) -> tuple[NDArray, NDArray, _Runs, list[Difference]]:
        """Units and values of a layer in the order in which they left the lanes, cut into steps, and wrong claims about them."""
        mine = recording.trace_layer == number
        position = recording.trace_position[mine]
        table = self.units[number]  # (lanes, positions)
        lanes = table.shape[0]
        differences = []

        def note(event: int, unit: int, sentence: str) -> None:
            step_of = min(int(np.count_nonzero(np.diff(position[: event + 1]) <= 0)), len(self.when[number]) - 1)
            sequence, step = (int(value) for value in self.when[number][step_of])
            differences.append(self._at(sequence, step, number, unit, sentence))

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

    def _at(self, sequence: int, step: int, number: int, unit: int, sentence: str) -> Difference:
        name = f"layer {self.layers[number].name!r}"
        return Difference(
            sequence, step, number, unit, f"sequence {sequence}, step {step}, {name}, unit {unit}: {sentence}"
        )

    def _more(self, number: int, sequence: int, step: int, count: int) -> Difference:
        layer = self.layers[number]
        sentence = f"layer {layer.name!r} gave {count} values after the last step, expected none"
        return Difference(sequence, step + 1, number, 0, sentence)

    # -- output stream -----------------------------------------------------------------------------------------------

    def _check_output(self, recording: Recording) -> tuple[int, list[Difference]]:
        when, count, layer = self.when[-1], self.layers[-1].units, len(self.layers)
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
            differences.append(Difference(sequence, step, layer, unit, text))

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
            differences.append(Difference(sequence, step + 1, layer, 0, f"{OUTPUT}: {sentence}"))
        return shared, differences


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
