"""Which columns are sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden
from sparsegate.errors import SparseGateError
from sparsegate.pictures.look import ORANGE, figure_of, percent, raster

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def changed_columns(trace: golden.Trace, sequence: int = 0) -> Figure:
    """Which columns of one sequence are sent at each step of each pass; what is pale is skipped."""
    if not 0 <= sequence < len(trace.lengths):
        raise SparseGateError(f"sequence {sequence} is not there: the trace has {len(trace.lengths)}")
    vectors = list(_sent(trace, sequence))
    figure = figure_of(8, float(np.clip(0.8 + sum(0.3 + sent.shape[1] / 40 for _, sent in vectors), 3.2, 8)))
    heights = [max(sent.shape[1], 16) for _, sent in vectors]
    axes = figure.subplots(
        len(vectors), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": np.sqrt(heights)}
    )[:, 0]
    for axis, (name, sent) in zip(axes, vectors, strict=True):
        raster(axis, sent.T, ORANGE)
        axis.set_title(f"{name}: {percent(sent.mean())} of the columns sent", fontsize=9, loc="left")
        axis.set_ylabel("column", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("step of the sequence")
    return figure


def _sent(trace: golden.Trace, sequence: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Of every pass, in the order of its own steps: name and columns sent, (T, size)."""
    program = trace.program
    names = ["input", *(layer.name for layer in program.layers)]
    for part in trace.passes:
        if part.of.when != "step":  # a single step of a head: nothing to see
            continue
        steps = int(part.lengths[sequence])
        source = " and ".join(names[vector] for vector in part.of.sources)
        yield (f"{source} reversed" if part.of.reverse else source), part.streams[0].sent[sequence, :steps]
        for phase, stream in zip(part.phases, part.streams[1:], strict=True):
            last = phase.number == len(phase.layer.phases) - 1
            # what a layer gives drives itself, or the next layer of the pass
            if not last or phase.layer.cell.recurrent or phase is not part.phases[-1]:
                yield phase.name, stream.sent[sequence, :steps]
