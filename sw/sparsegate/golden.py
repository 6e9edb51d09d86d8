"""The golden model: the integers that every other level must give, vectorised over a batch of sequences.

Pre-activations are computed as b + W x^ directly, by definition; the engine gets there by deltas. Matrix products run through
floating-point BLAS, which is exact while every partial sum stays below 2**24 (float32) or 2**53 (float64); the Program's
proven accumulator bound chooses between them. The cells run on 32-bit integers where the largest possible value of every
intermediate fits, on 64-bit integers otherwise. Inside, arrays are (T, size, N), so that a gate is one contiguous piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import Fixed, IntegerArithmetic, Step
from sparsegate.errors import SparseGateError
from sparsegate.fixed import round_shift
from sparsegate.network import lengths_of
from sparsegate.program import MAX_THRESHOLD, Layer, Program

FLOAT32_EXACT = 1 << 24
INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True)
class Trace:
    """Everything a run produced. Arrays are zero (or False) past a sequence's end.

    ``layers``: raw outputs of each layer (N, T, units); a layer that runs on the last step has values there only.
    ``sent``: for each vector (the input, then every layer's output) which columns moved by more than Θ, (N, T, size).
    ``held``: for each vector x^ at the sequence's last step, (N, size).
    ``saturations``: layer name -> site -> how many values saturated; empty unless asked for.
    """

    program: Program
    lengths: NDArray[np.int64]
    layers: tuple[NDArray[np.int64], ...]
    sent: tuple[NDArray[np.bool_], ...]
    held: tuple[NDArray[np.int64], ...]
    saturations: Mapping[str, Mapping[str, int]]

    @property
    def outputs(self) -> NDArray[np.int64]:
        """(N, T, outputs) raw."""
        return self.layers[-1]

    @property
    def last(self) -> NDArray[np.int64]:
        """(N, outputs) raw, at each sequence's last step."""
        return self.outputs[np.arange(len(self.lengths)), self.lengths - 1]


def run(
    program: Program,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    thresholds: Sequence[int] | None = None,
    saturations: bool = False,
    observe: Callable[[str, int, str, Fixed], None] | None = None,
) -> Trace:
    """Run a Program on raw integers.

    Parameters
    ----------
    raw : (N, T, I) integers in the Program's input format.
    lengths : (N,) steps of each sequence; all T where omitted.
    thresholds : Θ of each vector (input, then every layer's output); the Program's own where omitted.
    saturations : count saturations per site (slower).
    observe : called as ``observe(layer, t, site, narrowed)`` for every narrowing; rows of ended sequences are meaningless.
    """
    raw = np.asarray(raw)
    if not np.issubdtype(raw.dtype, np.integer):
        raise SparseGateError(f"the golden model takes integers, not {raw.dtype}; use Program.quantize first")
    lengths = lengths_of(raw.shape, lengths, program.inputs)
    thresholds = program.thresholds if thresholds is None else tuple(int(t) for t in thresholds)
    if len(thresholds) != len(program.layers) + 1 or min(thresholds) < 0 or max(thresholds) > MAX_THRESHOLD:
        raise SparseGateError(
            f"{len(program.layers) + 1} thresholds in 0..{MAX_THRESHOLD} expected, found {', '.join(map(str, thresholds))}"
        )
    form = program.input_format
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]  # (N, T)
    x = np.where(valid[:, :, None], raw, 0)
    if x.min() < form.min or x.max() > form.max:
        raise SparseGateError(f"raw inputs lie in {x.min()}..{x.max()}, but {form} holds {form.min}..{form.max}")

    seen = _held(np.ascontiguousarray(x.transpose(1, 2, 0), np.int32), thresholds[0])  # (T, I, N)
    outputs, sent, held = [], [_moved(seen, valid)], [_at_end(seen, lengths)]
    counts: dict[str, dict[str, int]] = {}
    for layer, threshold in zip(program.layers, thresholds[1:], strict=True):
        runner = _Runner(layer, threshold, valid, lengths, saturations, observe)
        h, seen = runner.run(seen)
        ran = valid if layer.when == "step" else np.zeros_like(valid)
        h *= valid.T[:, None, :]
        outputs.append(h.transpose(2, 0, 1))
        sent.append(_moved(seen, ran))
        held.append(_at_end(seen, lengths))
        counts[layer.name] = runner.counts
    return Trace(program, lengths, tuple(outputs), tuple(sent), tuple(held), counts if saturations else {})


def _at_end(values: NDArray, lengths: NDArray) -> NDArray[np.int64]:
    """(T, size, N) -> (N, size) at each sequence's last step."""
    return values[lengths - 1, :, np.arange(len(lengths))].astype(np.int64)


def _moved(hats: NDArray, valid: NDArray) -> NDArray[np.bool_]:
    """Which columns were sent: those whose x^ changed, starting from 0. (T, size, N) -> (N, T, size)"""
    moved = hats != 0
    np.not_equal(hats[1:], hats[:-1], out=moved[1:])
    moved &= valid.T[:, None, :]
    return moved.transpose(2, 0, 1)


def _held(x: NDArray, threshold: int) -> NDArray:
    """x^ of a whole vector sequence (T, size, N): the values that were last sent."""
    if threshold == 0:
        return x
    hats = np.empty_like(x)
    now = np.zeros_like(x[0])
    for t, value in enumerate(x):
        now = hats[t] = np.where(np.abs(value - now) > threshold, value, now)
    return hats


class _Runner:
    """One layer over a batch: x^ of its source (T, I, N) in, h and h^ (T, units, N) out, meaningless past a sequence's end."""

    def __init__(
        self,
        layer: Layer,
        threshold: int,
        valid: NDArray,
        lengths: NDArray,
        saturations: bool,
        observe: Callable[[str, int, str, Fixed], None] | None,
    ) -> None:
        self.layer, self.threshold, self.valid, self.lengths = layer, threshold, valid, lengths
        self.counts = dict.fromkeys(layer.cell.sites, 0)
        self.count, self.watch = saturations, observe
        self.real = np.float32 if layer.bound < FLOAT32_EXACT else np.float64
        self.integer = np.int32 if layer.peak <= INT32_MAX else np.int64
        columns = [layer.w_x << layer.shift_x, layer.bias.reshape(-1, 1)]
        if layer.w_h is not None:
            columns.insert(1, layer.w_h << layer.shift_h)
        self.weights = np.concatenate(columns, axis=1).astype(self.real)  # (G * units, I [+ units] + 1)

    def run(self, seen: NDArray) -> tuple[NDArray, NDArray]:
        layer, (steps, inputs, count) = self.layer, seen.shape
        out = np.zeros((steps, layer.units, count), np.int64)
        # what the weights multiply: x^, h^, and 1 for the bias
        columns = np.zeros((self.weights.shape[1], count), self.real)
        columns[-1] = 1
        states = {name: np.zeros((layer.units, count), self.integer) for name in layer.cell.states}
        if layer.when == "last":
            columns[:-1] = _at_end(seen, self.lengths).T
            h = self._step(self.weights @ columns, states, steps - 1).h.raw
            out[self.lengths - 1, :, np.arange(count)] = h.T
            return out, out
        hats = out if self.threshold == 0 else np.zeros_like(out)
        hat = np.zeros((layer.units, count), self.integer)
        acc = np.empty((len(self.weights), count), self.real)
        for t in range(steps):
            columns[:inputs] = seen[t]
            if layer.w_h is not None:
                columns[inputs:-1] = hat
            step = self._step(np.matmul(self.weights, columns, out=acc), states, t)
            h = out[t] = step.h.raw
            states = {name: value.raw for name, value in step.states.items()}
            hat = h if self.threshold == 0 else np.where(np.abs(h - hat) > self.threshold, h, hat)
            hats[t] = hat
        return out, hats

    def _step(self, acc: NDArray, states: Mapping[str, NDArray], t: int) -> Step:
        layer, units = self.layer, self.layer.units
        exact = acc.astype(self.integer)
        gates = {name: exact[g * units : (g + 1) * units] for g, name in enumerate(layer.cell.gates)}
        observe = None
        if self.count or self.watch is not None:
            running = self.valid[:, t] if layer.when == "step" else np.ones(len(self.lengths), bool)

            def observe(site: str, before: Fixed, after: Fixed) -> None:
                if self.count:
                    rounded = round_shift(before.raw, before.frac - after.frac)
                    self.counts[site] += int(np.count_nonzero((rounded != after.raw)[:, running]))
                if self.watch is not None:
                    self.watch(layer.name, t, site, Fixed(after.raw.T, after.frac))

        return layer.cell.step(IntegerArithmetic(layer.formats, layer.step_bits, gates, states, observe))
