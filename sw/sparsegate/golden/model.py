"""The golden model: the integers that every other level must give, vectorised over a batch of sequences.

Pre-activations are computed as b + W x^ directly, by definition; the engine gets there by deltas. Matrix products run through
floating-point BLAS, which is exact while every partial sum stays below 2**24 (float32) or 2**53 (float64); the Program's
proven accumulator bound chooses between them. The cells run on 32-bit integers where the largest possible value of every
intermediate fits, on 64-bit integers otherwise. Inside, arrays are (T, size, N), so that a gate is one contiguous piece.

A Program runs pass by pass (``sparsegate.network.passes``). What a pass gives to another one is the plain values; the
other pass encodes them by deltas anew, from zero, in its own direction of time, with the Θ of the vector from which they
come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import Fixed, IntegerArithmetic, Step
from sparsegate.errors import SparseGateError
from sparsegate.network import lengths_of
from sparsegate.network.passes import Pass, flipped, single
from sparsegate.numerics.fixed import round_shift
from sparsegate.program import MAX_THRESHOLD, Phase, Program, QuantizedLayer, RawState

FLOAT32_EXACT = 1 << 24
INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True)
class Stream:
    """A vector as one pass sends it, in the order of the pass's steps; zero (or False) past a sequence's end.

    ``values`` raw (N, T, size); ``sent``: which columns moved by more than Θ, (N, T, size); ``held``: x^ at the sequence's
    last step, (N, size); ``primed``: columns that an initial state sends before the first step, (N, size).
    """

    values: NDArray[np.int64]
    sent: NDArray[np.bool_]
    held: NDArray[np.int64]
    primed: NDArray[np.bool_]


@dataclass(frozen=True)
class PassTrace:
    """One pass: ``streams`` are its input and what each of its phases gives; ``lengths`` the steps of each sequence in it.

    ``loaded``: the run started from a given state instead of zero.
    """

    of: Pass
    phases: tuple[Phase, ...]
    streams: tuple[Stream, ...]
    lengths: NDArray[np.int64]
    loaded: bool


@dataclass(frozen=True)
class Trace:
    """Everything a run produced. Arrays are zero (or False) past a sequence's end.

    ``layers``: raw outputs of each layer in order of time (N, T, outputs); a layer that runs on the last step has values there
    only. ``state``: raw state of every recurrent layer after its last step, to be handed to another run: layer -> name ->
    (N, size). ``saturations``: layer name -> site -> how many values saturated; empty unless asked for.
    """

    program: Program
    lengths: NDArray[np.int64]
    layers: tuple[NDArray[np.int64], ...]
    passes: tuple[PassTrace, ...]
    state: dict[str, dict[str, NDArray[np.int64]]]
    saturations: Mapping[str, Mapping[str, int]]

    @cached_property
    def outputs(self) -> NDArray[np.int64]:
        """(N, T, outputs) raw."""
        vectors = self.program.output_vectors
        if len(vectors) == 1:
            return self.layers[vectors[0] - 1]
        return np.concatenate([self.layers[vector - 1] for vector in vectors], axis=2)

    @property
    def last(self) -> NDArray[np.int64]:
        """(N, outputs) raw, at each sequence's last step."""
        return self.outputs[np.arange(len(self.lengths)), self.lengths - 1]

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Those of all passes, one after the other."""
        return tuple(stream for run in self.passes for stream in run.streams)

    @property
    def ran(self) -> NDArray[np.bool_]:
        """(N, S): which steps run, S being the sum over passes of their longest sequences, pass after pass."""
        return np.concatenate(
            [np.arange(run.lengths.max())[None, :] < run.lengths[:, None] for run in self.passes], axis=1
        )


def run(
    program: Program,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    thresholds: Sequence[int] | None = None,
    saturations: bool = False,
    observe: Callable[[str, int, str, Fixed], None] | None = None,
    state: RawState | None = None,
) -> Trace:
    """Run a Program on raw integers.

    Parameters
    ----------
    raw : (N, T, I) integers in the Program's input format.
    lengths : (N,) steps of each sequence; all T where omitted.
    thresholds : Θ of each of ``program.vectors``; the Program's own where omitted.
    saturations : count saturations per site (slower).
    observe : called as ``observe(layer, t, site, narrowed)`` for every narrowing; rows of ended sequences are meaningless, and
        t counts the steps of a reversed layer in its own order.
    state : raw state to start from, as :attr:`Trace.state` has it; the Program's ``initial`` where omitted. An initial h
    is sent like
        any other: where it exceeds Θ, x^ starts from it.
    """
    try:
        raw = np.asarray(raw)
    except ValueError:
        raise SparseGateError(
            f"raw inputs are ragged, expected (N, T, {program.inputs}): pad them and give lengths"
        ) from None
    if not np.issubdtype(raw.dtype, np.integer):
        raise SparseGateError(f"the golden model takes integers, not {raw.dtype}; use Program.quantize first")
    lengths = lengths_of(raw.shape, lengths, program.inputs)
    thresholds = program.thresholds if thresholds is None else thresholds
    if not isinstance(thresholds, Sequence) or not all(isinstance(t, int | np.integer) for t in thresholds):
        raise SparseGateError(f"thresholds are {thresholds!r}, expected a sequence of integers")
    thresholds = tuple(int(t) for t in thresholds)
    if len(thresholds) != len(program.vectors) or min(thresholds) < 0 or max(thresholds) > MAX_THRESHOLD:
        raise SparseGateError(
            f"{len(program.vectors)} thresholds in 0..{MAX_THRESHOLD} expected, for {program.vector_names};"
            f" found {', '.join(map(str, thresholds))}"
        )
    form = program.input_format
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]  # (N, T)
    x = np.where(valid[:, :, None], raw, 0)
    if x.min() < form.min or x.max() > form.max:
        raise SparseGateError(f"raw inputs lie in {x.min()}..{x.max()}, but {form} holds {form.min}..{form.max}")
    loaded = (state is not None or bool(program.initial)) and any(layer.carried for layer in program.layers)
    start = program.states(state, len(x))

    of_layer = dict(zip((layer.name for layer in program.layers), _split(program, thresholds[1:]), strict=True))
    of_vector = [thresholds[0], *(of_layer[layer.name][-1] for layer in program.layers)]
    values: list[NDArray] = [x]  # of every vector that layers take, in order of time
    traces, final = [], {}
    counts: dict[str, dict[str, int]] = {}
    for this in program.passes:
        parts = [values[vector] for vector in this.sources]
        steps = lengths
        if this.when != "step":
            parts = [
                single(part, lengths, vector > 0 and program.layers[vector - 1].reverse, this.when)
                for vector, part in zip(this.sources, parts, strict=True)
            ]
            steps = np.ones_like(lengths)
        source = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if this.reverse:
            source = flipped(source, steps)
        held = np.concatenate(
            [np.full(part.shape[2], of_vector[v]) for v, part in zip(this.sources, parts, strict=True)]
        )
        active = np.arange(source.shape[1])[None, :] < steps[:, None]
        seen, moved = _held(np.ascontiguousarray(source.transpose(1, 2, 0), np.int32), held)  # (T, I, N)
        streams = [Stream(source, _sent(moved, active), _at_end(seen, steps), np.zeros(source[:, 0].shape, bool))]
        for number in this.layers:
            layer = program.layers[number]
            # in the middle of a pass, and only there, a layer may run at the end of a longer sequence
            ends = layer.when != "step" and this.when == "step"
            runner = _Runner(layer, of_layer[layer.name], active, steps, ends, saturations, observe)
            given, seen = runner.run(seen, start.get(layer.name, {}))
            streams += given
            if layer.cell.recurrent:
                final[layer.name] = runner.state
            counts[layer.name] = runner.counts
            out = given[-1].values
            if this.when != "step":
                out = np.zeros((*x.shape[:2], layer.outputs), np.int64)
                out[np.arange(len(x)), lengths - 1] = given[-1].values[:, 0]
            values.append(flipped(out, steps) if this.reverse else out)
        phases = tuple(phase for number in this.layers for phase in program.layers[number].phases)
        traces.append(PassTrace(this, phases, tuple(streams), steps, loaded))
    return Trace(program, lengths, tuple(values[1:]), tuple(traces), final, counts if saturations else {})


def _split(program: Program, thresholds: Sequence[int]) -> list[list[int]]:
    """Thresholds of the phases' vectors, by layer."""
    left = list(thresholds)
    return [[left.pop(0) for _ in layer.phases] for layer in program.layers]


def _at_end(values: NDArray, lengths: NDArray) -> NDArray[np.int64]:
    """(T, size, N) -> (N, size) at each sequence's last step."""
    return values[lengths - 1, :, np.arange(len(lengths))].astype(np.int64)


def _sent(moved: NDArray, active: NDArray) -> NDArray[np.bool_]:
    """(T, size, N) -> (N, T, size), False past a sequence's end."""
    return (moved & active.T[:, None, :]).transpose(2, 0, 1)


def _held(x: NDArray, thresholds: NDArray) -> tuple[NDArray, NDArray]:
    """x^ of a whole vector sequence (T, size, N), the values that were last sent, and which moved; Θ by column (size,)."""
    moved = np.empty(x.shape, bool)
    if not thresholds.any():
        moved[0] = x[0] != 0
        np.not_equal(x[1:], x[:-1], out=moved[1:])
        return x, moved
    hats = np.empty_like(x)
    now = np.zeros_like(x[0])
    for t, value in enumerate(x):
        now = hats[t] = _send(value, now, thresholds[:, None], moved[t])
    return hats, moved


def _send(value: NDArray, hat: NDArray, threshold: int | NDArray, moved: NDArray) -> NDArray:
    """The rule of the delta network: the new x^; ``moved`` is filled in."""
    if isinstance(threshold, int) and threshold == 0:
        np.not_equal(value, hat, out=moved)
        return value
    np.greater(np.abs(value - hat), threshold, out=moved)
    return np.where(moved, value, hat)


class _Runner:
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
            seen = _at_end(seen, self.lengths).T[None]
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
            hats["h"] = _send(start["h"].T.astype(self.integer), hats["h"], self.thresholds[-1], primed)
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
                hats[output] = _send(h, hats[output], self.thresholds[number], moved[number][t])
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
            ends = _at_end(hat, self.lengths)
            streams.append(Stream(plain.transpose(2, 0, 1), _sent(sent, self.active), ends, mine))
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
