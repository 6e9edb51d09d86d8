"""The golden model: the integers that every other level must give, vectorised over a batch of sequences.

Pre-activations are computed as b + W x^ directly, by definition; the engine gets there by deltas. Matrix products run through
floating-point BLAS, which is exact while every partial sum stays below 2**24 (float32) or 2**53 (float64); the Program's
proven accumulator bound chooses between them. The cells run on 32-bit integers where the largest possible value of every
intermediate fits, on 64-bit integers otherwise. Inside, arrays are (T, size, N), so that a gate is one contiguous piece.

A Program runs pass by pass (``sparsegate.network.passes``). What a pass gives to another one is the plain values; the
other pass encodes them by deltas anew, from zero, in its own direction of time, with the Θ of the vector from which they
come.

It shares no arithmetic with RTL and fake-quantization, on purpose: they check one another. What they share is the sequence of
operations, which a cell writes once (``sparsegate.cells``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.cells import Fixed
from sparsegate.errors import SparseGateError
from sparsegate.golden.layer import LayerRun, at_end, held_values, sent_columns
from sparsegate.golden.trace import PassTrace, Stream, Trace
from sparsegate.network import lengths_of
from sparsegate.network.passes import flipped, single
from sparsegate.program import MAX_THRESHOLD, Program, RawState


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
        seen, moved = held_values(np.ascontiguousarray(source.transpose(1, 2, 0), np.int32), held)  # (T, I, N)
        streams = [Stream(source, sent_columns(moved, active), at_end(seen, steps), np.zeros(source[:, 0].shape, bool))]
        for number in this.layers:
            layer = program.layers[number]
            # in the middle of a pass, and only there, a layer may run at the end of a longer sequence
            ends = layer.when != "step" and this.when == "step"
            runner = LayerRun(layer, of_layer[layer.name], active, steps, ends, saturations, observe)
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
