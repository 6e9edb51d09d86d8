"""The golden model of one layer over a batch of sequences, and the rule by which columns are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells import Fixed, IntegerArithmetic, Step
from sparsegate.golden.trace import Stream
from sparsegate.numerics.fixed import round_shift
from sparsegate.program import Phase, QuantizedLayer

FLOAT32_EXACT = 1 << 24
INT32_MAX = (1 << 31) - 1


def at_end(values: NDArray, lengths: NDArray) -> NDArray[np.int64]:
    """(T, size, N) -> (N, size) at each sequence's last step."""
    return values[lengths - 1, :, np.arange(len(lengths))].astype(np.int64)


def sent_columns(moved: NDArray, active: NDArray) -> NDArray[np.bool_]:
    """(T, size, N) -> (N, T, size), False past a sequence's end."""
    return (moved & active.T[:, None, :]).transpose(2, 0, 1)


def held_values(x: NDArray, thresholds: NDArray) -> tuple[NDArray, NDArray]:
    """x^ of a whole vector sequence (T, size, N), the values that were last sent, and which moved; Θ by column (size,)."""
    moved = np.empty(x.shape, bool)
    if not thresholds.any():
        moved[0] = x[0] != 0
        np.not_equal(x[1:], x[:-1], out=moved[1:])
        return x, moved
    hats = np.empty_like(x)
    now = np.zeros_like(x[0])
    for t, value in enumerate(x):
        now = hats[t] = send(value, now, thresholds[:, None], moved[t])
    return hats, moved


def send(value: NDArray, hat: NDArray, threshold: int | NDArray, moved: NDArray) -> NDArray:
    """The rule of the delta network: the new x^; ``moved`` is filled in."""
    if isinstance(threshold, int) and threshold == 0:
        np.not_equal(value, hat, out=moved)
        return value
    np.greater(np.abs(value - hat), threshold, out=moved)
    return np.where(moved, value, hat)


class LayerRun:
    """One layer over a batch: x^ of its source (T, I, N) in; a Stream for each phase and x^ of its output (T, size, N) out."""

    def __init__(
        self,
        layer: QuantizedLayer,
        thresholds: Sequence[int],
        active: NDArray,
        lengths: NDArray,
        ends: bool,
        saturations: bool,
        observe: Callable[[str, int, str, Fixed], None] | None,
    ) -> None:
        self.layer, self.thresholds, self.active, self.lengths, self.ends = layer, thresholds, active, lengths, ends
        self.counts = dict.fromkeys(layer.sites, 0)
        self.count, self.watch = saturations, observe
        self.integer = np.int32 if layer.peak <= INT32_MAX else np.int64
        self.reals = [np.float32 if phase.bound < FLOAT32_EXACT else np.float64 for phase in layer.phases]
        self.weights = [
            np.concatenate([phase.weights, phase.bias.reshape(-1, 1)], axis=1).astype(real)
            for phase, real in zip(layer.phases, self.reals, strict=True)
        ]  # (sums * units, columns + 1)
        self.parameters = {name: value.astype(self.integer).reshape(-1, 1) for name, value in layer.parameters.items()}
        self.state: dict[str, NDArray[np.int64]] = {}

    def run(self, seen: NDArray, start: Mapping[str, NDArray]) -> tuple[list[Stream], NDArray]:
        layer, count = self.layer, seen.shape[2]
        if self.ends and len(seen) == self.active.shape[1]:  # else the layer before has run at the end only, too
            seen = at_end(seen, self.lengths).T[None]
        steps = len(seen)
        # x^ of each vector now, and the columns of each phase: its terms' vectors, and 1 for the bias
        hats = {phase.spec.output: np.zeros((phase.units, count), self.integer) for phase in layer.phases}
        columns = [
            np.ones((weights.shape[1], count), real) for weights, real in zip(self.weights, self.reals, strict=True)
        ]
        sums = [np.empty((len(weights), count), real) for weights, real in zip(self.weights, self.reals, strict=True)]
        states = {name: start[name].T.astype(self.integer) for name in layer.cell.states}
        values = [np.zeros((steps, phase.units, count), np.int64) for phase in layer.phases]
        held = [
            mine if threshold == 0 else np.zeros_like(mine)
            for mine, threshold in zip(values, self.thresholds, strict=True)
        ]
        moved = [np.empty(mine.shape, bool) for mine in values]
        primed = np.zeros((layer.outputs, count), bool)
        if layer.cell.recurrent:
            hats["h"] = send(start["h"].T.astype(self.integer), hats["h"], self.thresholds[-1], primed)
        kept = {name: np.zeros((count, size), np.int64) for name, size in layer.carried.items()}
        for t in range(steps):
            handed = dict(states)
            for number, phase in enumerate(layer.phases):
                at = 0
                for term in phase.terms:
                    size = term.matrix.columns
                    columns[number][at : at + size] = seen[t] if term.column == "x" else hats[term.column]
                    at += size
                acc = np.matmul(self.weights[number], columns[number], out=sums[number])
                step = self._step(phase, acc, handed, t)
                h = values[number][t] = step.h.raw
                handed |= {name: value.raw for name, value in step.states.items()}
                output = phase.spec.output
                hats[output] = send(h, hats[output], self.thresholds[number], moved[number][t])
                if held[number] is not values[number]:
                    held[number][t] = hats[output]
            states = {name: handed[name] for name in layer.cell.states}
            ending = self.lengths == t + 1
            if kept and ending.any():
                for name, mine in kept.items():
                    mine[ending] = (values[-1][t] if name == "h" else states[name])[:, ending].T
        self.state = kept
        return self._streams(values, held, moved, primed)

    def _streams(
        self, values: list[NDArray], held: list[NDArray], moved: list[NDArray], primed: NDArray
    ) -> tuple[list[Stream], NDArray]:
        streams = []
        rows = np.arange(len(self.lengths))
        for number, (value, hat, sent) in enumerate(zip(values, held, moved, strict=True)):
            mine = primed.T if number == len(values) - 1 else np.zeros(value.shape[:0:-1], bool)
            if self.ends:
                full = np.zeros((len(rows), self.active.shape[1], value.shape[1]), np.int64)
                full[rows, self.lengths - 1] = value[0].T
                streams.append(Stream(full, np.zeros(full.shape, bool), hat[0].T.astype(np.int64), mine))
                continue
            plain = value * self.active.T[:, None, :]
            ends = at_end(hat, self.lengths)
            streams.append(Stream(plain.transpose(2, 0, 1), sent_columns(sent, self.active), ends, mine))
        return streams, held[-1]

    def _step(self, phase: Phase, acc: NDArray, states: Mapping[str, NDArray], t: int) -> Step:
        units = phase.units
        exact = acc.astype(self.integer)
        gates = {name: exact[g * units : (g + 1) * units] for g, name in enumerate(phase.spec.sums)}
        observe = None
        if self.count or self.watch is not None:
            running = np.ones(len(self.lengths), bool) if self.ends else self.active[:, t]

            def observe(site: str, before: Fixed, after: Fixed) -> None:
                if self.count:
                    rounded = round_shift(before.raw, before.frac - after.frac)
                    self.counts[site] += int(np.count_nonzero((rounded != after.raw)[:, running]))
                if self.watch is not None:
                    self.watch(phase.layer.name, t, site, Fixed(after.raw.T, after.frac))

        arithmetic = IntegerArithmetic(phase.formats, phase.step_bits, gates, states, self.parameters, observe)
        return phase.spec.step(arithmetic)
