"""What a run of the golden model produced: every vector, what was sent of it, and the states at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsegate.network.passes import Pass
from sparsegate.program import Phase, Program
from sparsegate.shown import Row, Shown, counted


@dataclass(frozen=True, repr=False)
class Stream(Shown):
    """A vector as one pass sends it, in the order of the pass's steps; zero (or False) past a sequence's end.

    ``values`` raw (N, T, size); ``sent``: which columns moved by more than Θ, (N, T, size); ``held``: x^ at the sequence's
    last step, (N, size); ``primed``: columns that an initial state sends before the first step, (N, size).
    """

    values: NDArray[np.int64]
    sent: NDArray[np.bool_]
    held: NDArray[np.int64]
    primed: NDArray[np.bool_]

    @property
    def sentence(self) -> str:
        count, steps, size = self.values.shape
        return f"{count} x {steps} steps of {size} columns, {int(self.sent.sum())} sent"


@dataclass(frozen=True, repr=False)
class PassTrace(Shown):
    """One pass: ``streams`` are its input and what each of its phases gives; ``lengths`` the steps of each sequence in it.

    ``loaded``: the run started from a given state instead of zero.
    """

    of: Pass
    phases: tuple[Phase, ...]
    streams: tuple[Stream, ...]
    lengths: NDArray[np.int64]
    loaded: bool

    @property
    def sentence(self) -> str:
        names = ", ".join(phase.name for phase in self.phases)
        return f"{names}{' backwards' if self.of.reverse else ''}, {int(self.lengths.sum())} steps"


@dataclass(frozen=True, repr=False)
class Trace(Shown):
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

    @property
    def sentence(self) -> str:
        return f"{self.program.name!r}, {counted(len(self.lengths), 'sequence')}, {counted(int(self.lengths.sum()), 'step')}"

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """A row for each vector of each pass: columns that were there, columns sent, and, where counted, saturations."""
        rows: list[Row] = []
        for run in self.passes:
            names = ["input", *(phase.name for phase in run.phases)]
            for name, stream in zip(names, run.streams, strict=True):
                seen, sent = int(run.lengths.sum()) * stream.values.shape[2], int(stream.sent.sum())
                counts = self.saturations.get(name, {})
                saturated = ", ".join(f"{site} {number}" for site, number in counts.items() if number)
                rows.append((name, seen, sent, f"{1 - sent / seen:.1%}", saturated or "-"))
        return ("vector", "columns", "sent", "skipped", "saturated"), rows

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
