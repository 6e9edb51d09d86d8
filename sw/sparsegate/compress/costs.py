"""What every choice of patterns costs, counted from layouts and not estimated.

Entries are those that a Program stores, cycles those of a step alone (``sparsegate.array.step``), weight memories as a
:class:`~sparsegate.array.Layout` fills them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparsegate import quantize
from sparsegate.array import INPUT, HardwareConfig, Layout, MatrixLayout
from sparsegate.array.memories import block_rams_of
from sparsegate.array.step import dispatch_cycles, is_late, read_out_cycles
from sparsegate.cells import PROJECTION
from sparsegate.cells.matrices import KEYS, MATRIX_OF, Key
from sparsegate.compress.budget import Kind
from sparsegate.compress.sensitivity import Scan
from sparsegate.network import Layer, Network
from sparsegate.pattern import MAX_BLOCK, NM, common_block
from sparsegate.program import Matrix, Phase, Program
from sparsegate.quantize import QuantizeConfig

UNIT = 1e-9
"""Losses and errors are added as integers of this unit, so that equal sums are equal."""


def stored_entries(program: Program) -> int:
    """Entries of all matrices of a Program, those that only fill a place included."""
    matrices = [matrix for layer in program.layers for matrix in (layer.matrix_x, layer.matrix_h, layer.matrix_p)]
    return sum(matrix.weight.size for matrix in matrices if matrix is not None)


@dataclass(frozen=True)
class Choice:
    """Patterns of one layer's matrices, what they lose and err (in :data:`UNIT`), and the blocks that they ask for."""

    patterns: Mapping[Key, NM]
    loss: int
    error: int
    block: int
    block_p: int

    def blocks(self, phase: Phase) -> int:
        """Block length of a phase of the layer."""
        return self.block_p if phase.spec is PROJECTION else self.block


def choices_of(layer: Layer, scan: Scan) -> Iterator[Choice]:
    """Every combination of the patterns that a layer's matrices may take."""
    matrices: list[list[tuple[Key, NM, int, int]]] = []
    for key in KEYS:
        if getattr(layer, f"w_{key}") is None:
            continue
        own: NM = getattr(layer, f"pattern_{key}")
        matrices.append([(key, own, 0, 0)])
        for candidate, made in scan.find(layer.name, key).items():
            if isinstance(candidate, NM) and candidate != own:
                loss = max(0, round((scan.score - made.score) / UNIT))
                matrices[-1].append((key, candidate, loss, round((made.error or 0.0) / UNIT)))
    for chosen in product(*matrices):
        patterns = {key: nm for key, nm, _, _ in chosen}
        block = common_block(*(nm for key, nm in patterns.items() if key != "p"))
        block_p = common_block(*(nm for key, nm in patterns.items() if key == "p"))
        if max(block, block_p) <= MAX_BLOCK:
            yield Choice(patterns, sum(one[2] for one in chosen), sum(one[3] for one in chosen), block, block_p)


@dataclass(frozen=True, eq=False)
class _Shape:
    """A phase cut into blocks of one length: beats of a column for each entry, positions, blocks, and its matrices."""

    phase: Phase
    slots: int
    positions: int
    matrices: tuple[MatrixLayout, ...]


@dataclass(frozen=True, eq=False)
class _Columns:
    """A vector's columns, by group: how many there are, and places in the weight memories for them."""

    count: NDArray[np.int64]
    places: NDArray[np.int64]


class Costs:
    """Costs of choices, from layouts in which all layers have blocks of one length.

    A matrix takes ``slots * entries`` beats a column. Slots and positions follow from the length of its own blocks, the columns'
    groups and places from that of the blocks of the phase that gives them; so one layout for every length tells the costs of every
    mixture.
    """

    def __init__(
        self, network: Network, choices: Sequence[Sequence[Choice]], hardware: HardwareConfig, config: QuantizeConfig
    ) -> None:
        x = np.random.default_rng(0).normal(size=(4, 8, network.inputs))
        program = quantize.quantize(network, x, config=config)
        self.layout = Layout(program, hardware)
        self.groups = hardware.groups
        self._shapes: dict[int, list[_Shape]] = {}  # block length -> phases
        self._columns: dict[tuple[int, int, int], _Columns] = {}  # block length, source, pass -> columns
        for block in sorted({length for mine in choices for one in mine for length in (one.block, one.block_p)}):
            layout = Layout(_blocks_of(program, block), hardware)
            self._shapes[block] = [
                _Shape(phase.phase, phase.slots, phase.positions, phase.matrices) for phase in layout.phases
            ]
            for phase in layout.phases:
                for matrix in phase.matrices:
                    self._columns[block, matrix.source, phase.run] = self._spread(matrix)
        self._runs = [phase.run for phase in self.layout.phases]
        self._first = np.cumsum([0, *(len(layer.phases) for layer in program.layers)]).tolist()

    def _spread(self, matrix: MatrixLayout) -> _Columns:
        places = np.zeros(self.groups, np.int64)
        for group in range(self.groups):
            for bank in np.unique(matrix.bank):
                here = matrix.place[(matrix.bank == bank) & (matrix.group == group)]
                places[group] += int(here.max()) + 1 if here.size else 0
        return _Columns(np.bincount(matrix.group, minlength=self.groups), places)

    def layer(self, number: int, choice: Choice, before: int) -> dict[Kind, tuple[int, ...]]:
        """Costs of one layer, where the layer before gives its output in blocks of ``before``.

        By kind: cycles, with the last phase's read-out where its pass ends; entries; words of weight memory in each group, and
        positions.
        """
        first, stop = self._first[number : number + 2]
        cycles = entries = positions = 0
        phases = self.layout.passes[self._runs[first]].phases
        read_out = self._read_out(first - 1, before) if first > phases.start else 0
        fill = np.zeros(self.groups, np.int64)
        for at in range(first, stop):
            block = choice.blocks(self.layout.phases[at].phase)
            shape = self._shapes[block][at]
            early, late = np.zeros((2, self.groups), np.int64)
            for matrix in shape.matrices:
                source = matrix.source
                length = before if source < first else choice.blocks(self.layout.phases[source].phase)
                columns = self._columns[length if source != INPUT else block, source, self._runs[at]]
                each = choice.patterns[MATRIX_OF[matrix.term.column]].stored(block)
                beats = columns.count * shape.slots * each
                early, late = (early, late + beats) if is_late(matrix, at, phases) else (early + beats, late)
                fill += columns.places * shape.slots * each
                entries += shape.phase.blocks * matrix.term.matrix.columns * each
            cycles += dispatch_cycles(self.layout, read_out, early, late)
            read_out = self._read_out(at, block)
            positions += shape.positions
        if stop == phases.stop:
            cycles += read_out
        return {"us": (cycles,), "nonzeros": (entries,), "block_rams": (*fill.tolist(), positions)}

    def _read_out(self, phase: int, block: int) -> int:
        shape = self._shapes[block][phase]
        return read_out_cycles(self.layout, shape.phase, shape.positions)

    def out(self, number: int, choice: Choice) -> int:
        """Block length of what a layer gives."""
        return choice.blocks(self.layout.program.layers[number].phases[-1])

    def total(self, kind: Kind, costs: tuple[int, ...], longest: int) -> int:
        """What counts against a budget; ``longest`` is the longest block of any layer."""
        if kind != "block_rams":
            return costs[0]
        *fill, positions = costs
        return sum(block_rams_of(self.layout, (longest - 1).bit_length(), max(fill), positions).values())

    def of(self, chosen: Sequence[Choice]) -> tuple[int, int, int]:
        """Stored entries, cycles and block RAMs of a choice for every layer."""
        sums: dict[Kind, NDArray[np.int64]] = {}
        before = 1
        for number, choice in enumerate(chosen):
            for kind, cost in self.layer(number, choice, before).items():
                sums[kind] = sums.get(kind, np.zeros(len(cost), np.int64)) + cost
            before = self.out(number, choice)
        longest = max(max(choice.block, choice.block_p) for choice in chosen)
        entries, cycles, rams = (
            self.total(kind, tuple(sums[kind].tolist()), longest) for kind in ("nonzeros", "us", "block_rams")
        )
        return entries, cycles, rams


def _blocks_of(program: Program, block: int) -> Program:
    """A Program of the same sizes with one entry in blocks of one length everywhere; its weights mean nothing."""

    def matrix(old: Matrix | None, blocks: int) -> Matrix | None:
        if old is None:
            return None
        zeros = np.zeros((blocks, old.columns, 1), np.int64)
        return Matrix(zeros, zeros)

    layers = []
    for layer in program.layers:
        blocks = -(-layer.units // block) * layer.gates
        matrix_x = matrix(layer.matrix_x, blocks)
        assert matrix_x is not None
        layers.append(
            replace(
                layer,
                block=block,
                block_p=block,
                matrix_x=matrix_x,
                matrix_h=matrix(layer.matrix_h, blocks),
                matrix_p=matrix(layer.matrix_p, -(-layer.outputs // block)),
            )
        )
    return replace(program, layers=tuple(layers))
