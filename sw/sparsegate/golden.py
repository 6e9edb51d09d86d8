"""The golden model: the integers that every other level must give, vectorised over a batch of sequences.

Pre-activations are computed as b + W x^ directly, by definition; the engine gets there by deltas. Matrix products run through
floating-point BLAS, which is exact while every partial sum stays below 2**24 (float32) or 2**53 (float64); the Program's
proven accumulator bound chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import Fixed, IntegerArithmetic
from sparsegate.errors import SparseGateError
from sparsegate.fixed import round_shift
from sparsegate.network import sequences
from sparsegate.program import Layer, Program

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53


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
    checked, lengths = sequences(raw, lengths, program.inputs)
    thresholds = program.thresholds if thresholds is None else tuple(int(t) for t in thresholds)
    if len(thresholds) != len(program.layers) + 1 or min(thresholds) < 0:
        raise SparseGateError(f"{len(program.layers) + 1} thresholds of at least 0 expected, found {thresholds}")
    form = program.input_format
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]  # (N, T)
    x = np.where(valid[:, :, None], raw, 0).astype(np.int64)
    if x.min() < form.min or x.max() > form.max:
        raise SparseGateError(f"raw inputs lie in {x.min()}..{x.max()}, but {form} holds {form.min}..{form.max}")
    del checked

    seen, moved = _delta(x, valid, thresholds[0])
    outputs, sent, held = [], [moved], [_at_end(seen, lengths)]
    counts: dict[str, dict[str, int]] = {}
    for layer, threshold in zip(program.layers, thresholds[1:], strict=True):
        runner = _Runner(layer, threshold, valid, lengths, saturations, observe)
        h, seen, moved = runner.run(seen)
        outputs.append(h)
        sent.append(moved)
        held.append(_at_end(seen, lengths))
        counts[layer.name] = runner.counts
    return Trace(program, lengths, tuple(outputs), tuple(sent), tuple(held), counts if saturations else {})


def _at_end(values: NDArray, lengths: NDArray) -> NDArray:
    return values[np.arange(len(lengths)), lengths - 1]


def _delta(x: NDArray, valid: NDArray, threshold: int) -> tuple[NDArray, NDArray]:
    """x^ and which columns were sent, for a whole vector sequence (N, T, I)."""
    hat = np.zeros_like(x)
    sent = np.zeros(x.shape, bool)
    now = np.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        moved = (np.abs(x[:, t] - now) > threshold) & valid[:, t, None]
        now = np.where(moved, x[:, t], now)
        hat[:, t], sent[:, t] = now, moved
    return hat, sent


class _Runner:
    """One layer over a batch: x^ of its source in, (h, h^, sent) out, each (N, T, units)."""

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
        if layer.bound >= FLOAT64_EXACT:
            raise SparseGateError(f"layer {layer.name!r}: accumulators may reach {layer.bound}, beyond the exact range of 2**53")
        self.w_x = (layer.w_x.T << layer.shift_x).astype(self.real)
        self.w_h = None if layer.w_h is None else (layer.w_h.T << layer.shift_h).astype(self.real)

    def run(self, seen: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        layer, (count, steps, _) = self.layer, seen.shape
        units = layer.units
        out = np.zeros((count, steps, units), np.int64)
        hats, sent = np.zeros_like(out), np.zeros(out.shape, bool)
        hat = np.zeros((count, units), np.int64)
        states = {name: np.zeros((count, units), np.int64) for name in layer.cell.states}
        bias = layer.bias.reshape(-1)
        if layer.when == "last":
            rows = np.arange(count)
            acc = (seen[rows, self.lengths - 1].astype(self.real) @ self.w_x).astype(np.int64) + bias
            out[rows, self.lengths - 1] = self._step(acc, states, np.ones(count, bool), steps - 1).h.raw
            return out, out, sent
        # all input products at once: (N, T, G * units)
        pre_x = (seen.reshape(count * steps, -1).astype(self.real) @ self.w_x).reshape(count, steps, -1)
        for t in range(steps):
            now = self.valid[:, t]
            acc = pre_x[:, t]
            if self.w_h is not None:
                acc = acc + hat.astype(self.real) @ self.w_h
            step = self._step(acc.astype(np.int64) + bias, states, now, t)
            h = step.h.raw
            moved = (np.abs(h - hat) > self.threshold) & now[:, None]
            hat = np.where(moved, h, hat)
            states = {name: value.raw for name, value in step.states.items()}  # rows past their end are never read again
            out[:, t], hats[:, t], sent[:, t] = np.where(now[:, None], h, 0), hat, moved
        return out, hats, sent

    def _step(self, acc: NDArray, states: Mapping[str, NDArray], now: NDArray, t: int) -> Any:
        layer, units = self.layer, self.layer.units
        gates = {name: acc[:, g * units : (g + 1) * units] for g, name in enumerate(layer.cell.gates)}
        observe = None
        if self.count or self.watch is not None:

            def observe(site: str, before: Fixed, after: Fixed) -> None:
                if self.count:
                    exact = round_shift(before.raw, before.frac - after.frac)
                    self.counts[site] += int(np.count_nonzero((exact != after.raw)[now]))
                if self.watch is not None:
                    self.watch(layer.name, t, site, after)

        return layer.cell.step(IntegerArithmetic(layer.formats, layer.step_bits, gates, states, observe))
