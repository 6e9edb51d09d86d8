"""The cell pipelines of a lane, and the widths of what it keeps and gives: one rule for hardware, memories and estimates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparsegate.array import timing
from sparsegate.array.layout import Layout
from sparsegate.program import Phase


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Phases that share one pipeline of a lane: those of one arithmetic and the same formats. ``phase`` is the first of them."""

    name: str
    phase: Phase
    phases: tuple[int, ...]
    depths: timing.Depths

    @cached_property
    def latency(self) -> int:
        """Cycles from a unit's accumulators to its result."""
        return timing.cell_latency(self.phase.spec, self.phase.step_bits, self.depths)


def pipelines(layout: Layout) -> list[Pipeline]:
    """The distinct pipelines of a Program, in order of first use."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for number, phase in enumerate(layout.program.phases):
        kind = phase.layer.kind if phase.spec.acc == "acc" else "projection"
        names = ("acc", "h", *(phase.layer.cell.formats if phase.spec.acc == "acc" else ()))
        step = phase.number if kind != "projection" else 0
        key = (kind, step, phase.step_bits, *(phase.formats[name] for name in names))
        kinds.setdefault(key, []).append(number)
    return [
        Pipeline(f"{key[0]}_{number}", layout.program.phases[phases[0]], tuple(phases), layout.depths)
        for number, (key, phases) in enumerate(kinds.items())
    ]


def stored(phase: Phase) -> tuple[str, ...]:
    """Values of a unit that the lanes keep for a phase's layer: its states, and what one phase hands to another."""
    return (*phase.layer.cell.states, *phase.layer.cell.handed)


def state_width(layout: Layout) -> int:
    """Bits of the word of a lane's memory of states: the widest of all layers, 0 without states."""
    return max((p.formats[s].width for p in layout.program.phases for s in stored(p)), default=0)


def state_count(layout: Layout) -> int:
    """States kept for a unit: the most of any layer."""
    return max(len(stored(phase)) for phase in layout.program.phases)


def result_width(layout: Layout) -> int:
    """Bits of a lane's result: the widest output of any phase."""
    return max(phase.formats["h"].width for phase in layout.program.phases)


def column_width(layout: Layout) -> int:
    """Bits of the widest result that feeds columns."""
    return max((p.phase.formats["h"].width for n, p in enumerate(layout.phases) if layout.consumed[n]), default=2)
