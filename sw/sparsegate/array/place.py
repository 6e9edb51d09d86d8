"""Places on an array: of a matrix's columns and weights, of a phase's units, of a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsegate.fpga.memory import BLOCK_SHAPES, contents_blocks
from sparsegate.network.passes import Pass
from sparsegate.program import Phase, Term
from sparsegate.shown import Shown, counted


def index_bits(count: int) -> int:
    """Bits of an unsigned number in 0..count-1 (0 for one value)."""
    return (count - 1).bit_length()


MAX_PLANES = 8
"""Entries in a word of a weight memory: a choice among more would be the slowest path of a processing element."""


def weight_shape(entry_width: int, depth: int) -> tuple[int, int]:
    """Words of a weight memory for so many entries, and the entries in a word: the fewest block RAMs, then the fewest entries.

    Entry e is entry ``e // words`` of word ``e % words``; more than one only where ``words`` is a power of two.
    """
    shapes = [(depth, 1)]
    shapes += [(words, -(-depth // words)) for words, _ in BLOCK_SHAPES if words < depth]
    few = [shape for shape in shapes if shape[1] <= MAX_PLANES and shape[0] <= BLOCK_SHAPES[-1][0]]
    return min(few or shapes[-1:], key=lambda shape: (contents_blocks(shape[1] * entry_width, shape[0]), shape[1]))


INPUT = -1
"""Source of a matrix's columns: the input of its pass."""


@dataclass(frozen=True, eq=False, repr=False)
class MatrixLayout(Shown):
    """One matrix on the array: which list of columns drives it and where its weights are.

    ``source`` is the number of the phase whose output it multiplies, or :data:`INPUT`; ``burst`` the cycles one column takes.
    ``bases[group][bank]`` is the weight address of the first column of each bank of the list (an input has one bank, a phase's
    output one per lane). ``bank``, ``group`` and ``place`` (index in the bank) of every column. ``now``: the columns are
    those of this
    step; otherwise of the step before. ``carried``: the source is a state, with which a sequence may start.
    """

    term: Term
    source: int
    burst: int
    bases: tuple[tuple[int, ...], ...]
    bank: NDArray[np.int64]
    group: NDArray[np.int64]
    place: NDArray[np.int64]
    now: bool
    carried: bool

    @property
    def sentence(self) -> str:
        return f"columns {self.term.column}, {counted(self.burst, 'cycle')} each, {self.term.matrix.columns} of them"


@dataclass(frozen=True, eq=False, repr=False)
class Geometry(Shown):
    """How a phase's units spread over the array.

    ``slots`` blocks a PE; ``packed`` unit blocks a cluster and slot; ``unit_blocks`` of a cluster; ``positions`` a lane reads out.
    """

    phase: Phase
    slots: int
    packed: int
    unit_blocks: int
    positions: int

    @property
    def sentence(self) -> str:
        return f"{self.phase.name}, {counted(self.slots, 'slot')} a PE, {counted(self.positions, 'position')} a lane"


@dataclass(frozen=True, eq=False, repr=False)
class PhaseLayout(Geometry):
    """One phase on the array: its pass ``run``, geometry, matrices, and first addresses.

    ``acc_base`` is its first address in the accumulator memories, ``position_base`` in the lanes' memories, ``state_base``
    that of its layer's states there. ``loads`` names the carried values that its units hold.
    """

    run: int
    acc_base: int
    position_base: int
    state_base: int
    matrices: tuple[MatrixLayout, ...]
    loads: tuple[str, ...]

    @property
    def carried(self) -> bool:
        """Whether the output is a state."""
        return "h" in self.loads


@dataclass(frozen=True, eq=False)
class PassLayout:
    """One pass on the array: its ``phases`` by number, and the ``inputs`` it takes a step."""

    of: Pass
    phases: range
    inputs: int
