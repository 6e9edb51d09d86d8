"""Where everything of a Program lives on an array of processing elements: pure arithmetic, no hardware description.

The array has ``rows`` x ``groups`` processing elements (PEs). ``cluster`` neighbouring PE rows feed one another's cell lane;
``clusters = rows / cluster``, and ``lanes`` (a divisor of it) cell lanes take turns over them.

Blocks of a layer (block = unit_block * gates + gate) are dealt to PE rows in turn. When a layer has fewer gates than a
cluster has rows, ``packed = cluster // gates`` unit blocks share a cluster, and a lane reads them one after the other. A
lane meets the units of its clusters in a fixed order of *positions*: slot, then index in the block, then cluster, then
packed unit block.

Columns of a layer's output are dealt to column groups by lane and position, ``(position + lane) mod groups``, so that every
lane sends at most one column to one list a cycle and no division is needed in hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.program import Layer, Matrix, Program

MAX_PES = 4096
"""Far beyond any FPGA that an open toolchain knows; larger arrays would only take hours to be refused by placement."""
MAX_MULTIPLIER = 64


@dataclass(frozen=True)
class HardwareConfig:
    """Size of the array.

    ``rows`` x ``groups`` PEs (Pr x Pc); ``cluster`` rows to a cluster (default: the most gates of any layer); ``lanes`` cell
    lanes (default: one per cluster); ``multiplier`` is the widest operand that the target's multiplier takes (18 bits on ECP5,
    16 on iCE40). At most 4096 PEs.
    """

    rows: int = 8
    groups: int = 1
    lanes: int | None = None
    cluster: int | None = None
    multiplier: int = 18

    def __post_init__(self) -> None:
        for name in ("rows", "groups", "lanes", "cluster", "multiplier"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SparseGateError(f"{name} is {value}, expected 1 or more")
        if self.pes > MAX_PES:
            raise SparseGateError(
                f"{self.rows} rows x {self.groups} groups are {self.pes} processing elements, expected at most {MAX_PES}"
            )
        if self.multiplier > MAX_MULTIPLIER:
            raise SparseGateError(f"multiplier is {self.multiplier} bits, expected at most {MAX_MULTIPLIER}")

    @property
    def pes(self) -> int:
        """Number of processing elements."""
        return self.rows * self.groups


def _bits(count: int) -> int:
    """Bits of an unsigned number in 0..count-1 (0 for one value)."""
    return (count - 1).bit_length()


@dataclass(frozen=True, eq=False)
class MatrixLayout:
    """One matrix on the array: which list of columns drives it and where its weights are.

    ``vector`` is the source (0 the network's input, v + 1 the output of layer v), ``shift`` the left shift of its deltas,
    ``burst`` the cycles one column takes. ``bases[group][bank]`` is the weight address of the first column of each bank of
    the list (the input has one bank, a layer's output one per lane).
    """

    matrix: Matrix
    vector: int
    shift: int
    burst: int
    bases: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Geometry:
    """How a layer's units spread over the array.

    ``slots`` blocks a PE; ``packed`` unit blocks a cluster and slot; ``turns`` positions that share an accumulator address
    (clusters a lane serves times ``packed``); ``positions`` a lane reads out.
    """

    layer: Layer
    slots: int
    packed: int
    turns: int
    positions: int


@dataclass(frozen=True, eq=False)
class PhaseLayout(Geometry):
    """One layer on the array: geometry, matrices, and first addresses.

    ``acc_base`` is the layer's first address in the accumulator memories, ``position_base`` in the lanes' memories.
    """

    acc_base: int
    position_base: int
    x: MatrixLayout
    h: MatrixLayout | None

    @property
    def matrices(self) -> tuple[MatrixLayout, ...]:
        return (self.x,) if self.h is None else (self.x, self.h)


class Layout:
    """Placement of a Program on a :class:`HardwareConfig`.

    Raises
    ------
    SparseGateError
        If the cluster does not divide the rows, the lanes do not divide the clusters, a layer has more gates than a cluster
        has rows, or a shifted delta is wider than the multiplier.
    """

    def __init__(self, program: Program, config: HardwareConfig) -> None:
        self.program, self.config = program, config
        self.rows, self.groups = config.rows, config.groups
        most = max(layer.gates for layer in program.layers)
        self.cluster = config.cluster or most
        if self.cluster < most:
            raise SparseGateError(f"a cluster of {self.cluster} rows cannot hold {most} gates")
        if self.rows % self.cluster:
            raise SparseGateError(f"{self.rows} PE rows do not divide into clusters of {self.cluster}")
        self.clusters = self.rows // self.cluster
        self.lanes = config.lanes or self.clusters
        if self.clusters % self.lanes:
            raise SparseGateError(f"{self.lanes} lanes do not divide {self.clusters} clusters evenly")
        self.lane_clusters = self.clusters // self.lanes

        # a vector is a source of columns if a layer multiplies it: the input, hidden layers, recurrent layers
        self.consumed = [True, *(layer.cell.recurrent for layer in program.layers)]
        self.consumed[1:-1] = [True] * (len(program.layers) - 1)
        self._geometry = [self._measure(layer) for layer in program.layers]
        self._columns: dict[int, tuple[NDArray, NDArray, NDArray, NDArray]] = {}
        self._fill = [0] * self.groups  # words of weight memory in use, by group
        self.phases = []
        self.acc_depth = self.position_depth = 0
        for number, geometry in enumerate(self._geometry):
            layer = geometry.layer
            x = self._place(layer.matrix_x, number, layer.shift_x, geometry.slots, layer.formats["x"].width)
            h = None
            if layer.matrix_h is not None:
                h = self._place(layer.matrix_h, number + 1, layer.shift_h, geometry.slots, layer.formats["h"].width)
            self.phases.append(
                PhaseLayout(**vars(geometry), acc_base=self.acc_depth, position_base=self.position_depth, x=x, h=h)
            )
            self.acc_depth += geometry.slots * layer.block
            self.position_depth += geometry.positions
        self.weight_depth = max(self._fill)

    def _measure(self, layer: Layer) -> Geometry:
        packed = self.cluster // layer.gates
        slots = -(-(layer.blocks // layer.gates) // (self.clusters * packed))
        turns = self.lane_clusters * packed
        return Geometry(layer, slots, packed, turns, slots * layer.block * turns)

    # -- columns -----------------------------------------------------------------------------------------------------

    @cached_property
    def delta_width(self) -> int:
        """Bits of a delta in the lists: one more than the widest column value."""
        widths = [self.program.input_format.width]
        widths += [
            layer.formats["h"].width for vector, layer in enumerate(self.program.layers, 1) if self.consumed[vector]
        ]
        return max(widths) + 1

    @cached_property
    def operand_width(self) -> int:
        """Bits of the widest shifted delta: the multiplier's operand."""
        return max(
            (phase.layer.formats[key].width + 1 + matrix.shift)
            for phase in self.phases
            for key, matrix in zip("xh", phase.matrices, strict=False)
        )

    @cached_property
    def weight_width(self) -> int:
        """Bits of the widest weight."""
        return max(
            phase.layer.formats[key].width
            for phase in self.phases
            for key in ("wx", "wh")
            if key in phase.layer.formats
        )

    @cached_property
    def index_width(self) -> int:
        """Bits of an index in a block (0 if every block has one unit)."""
        return max(_bits(phase.layer.block) for phase in self.phases)

    @property
    def entry_width(self) -> int:
        """Bits of a weight memory entry: index and weight."""
        return self.index_width + self.weight_width

    @cached_property
    def acc_width(self) -> int:
        """Bits of the widest accumulator."""
        return max(phase.layer.formats["acc"].width for phase in self.phases)

    def banks(self, vector: int) -> int:
        """Banks of a vector's list in each group: one for the input, one per lane for a layer's output."""
        return 1 if vector == 0 else self.lanes

    def bank_depth(self, vector: int, group: int, bank: int) -> int:
        """Columns of one bank, the largest index in it plus one."""
        _, banks, groups, indices = self.columns(vector)
        mine = indices[(banks == bank) & (groups == group)]
        return int(mine.max()) + 1 if mine.size else 0

    def columns(self, vector: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Column numbers of a vector with their bank, group and index in the bank; arrays of equal length."""
        if vector not in self._columns:
            if vector == 0:
                column = np.arange(self.program.inputs)
                self._columns[vector] = column, np.zeros_like(column), column % self.groups, column // self.groups
            else:
                units = self.units(vector - 1)  # (lanes, positions)
                lane, position = np.nonzero(units >= 0)
                group, index = (position + lane) % self.groups, position // self.groups
                self._columns[vector] = units[lane, position], lane, group, index
        return self._columns[vector]

    def units(self, layer: int) -> NDArray[np.int64]:
        """Unit at each lane and position of a layer, -1 where there is none. (lanes, positions)"""
        shape = self._geometry[layer]
        block, packed = shape.layer.block, shape.packed
        position = np.arange(shape.positions)
        sub, rest = position % packed, position // packed
        turn, rest = rest % self.lane_clusters, rest // self.lane_clusters
        index, slot = rest % block, rest // block
        lane = np.arange(self.lanes)[:, None]
        unit_block = (slot * self.clusters + lane * self.lane_clusters + turn) * packed + sub
        unit = unit_block * block + index
        return np.where(unit < shape.layer.units, unit, -1)

    def unit(self, layer: int, lane: int, position: int) -> int:
        """Unit that ``lane`` gives at ``position`` of a layer's read-out, or -1."""
        return int(self.units(layer)[lane, position])

    # -- weights -----------------------------------------------------------------------------------------------------

    def _place(self, matrix: Matrix, vector: int, shift: int, slots: int, width: int) -> MatrixLayout:
        if width + 1 + shift > self.config.multiplier:
            raise SparseGateError(
                f"a delta of {width} + 1 bits shifted left by {shift} is wider than the multiplier's {self.config.multiplier} bits;"
                " bring the scales of Wx and Wh closer together or use fewer activation bits"
            )
        burst = slots * matrix.entries
        bases = []
        for group in range(self.groups):
            mine = []
            for bank in range(self.banks(vector)):
                mine.append(self._fill[group])
                self._fill[group] += burst * self.bank_depth(vector, group, bank)
            bases.append(tuple(mine))
        return MatrixLayout(matrix, vector, shift, burst, tuple(bases))

    def weights(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Contents of every PE's weight memory: index and weight, each (rows, groups, weight_depth)."""
        index = np.zeros((self.rows, self.groups, self.weight_depth), np.int64)
        weight = np.zeros_like(index)
        for phase in self.phases:
            rows, slots, blocks = self._blocks(phase)
            for matrix in phase.matrices:
                column, bank, group, place = self.columns(matrix.vector)
                base = np.array(matrix.bases)[group, bank] + place * matrix.burst  # (columns,)
                entries = matrix.matrix.entries
                # (blocks, columns, entries)
                address = base[None, :, None] + (slots * entries)[:, None, None] + np.arange(entries)[None, None, :]
                at = (rows[:, None, None], group[None, :, None], address)
                index[at] = matrix.matrix.index[blocks][:, column]
                weight[at] = matrix.matrix.weight[blocks][:, column]
        return index, weight

    def _blocks(self, phase: PhaseLayout) -> tuple[NDArray, NDArray, NDArray]:
        """PE row and slot of every block of a layer, and the block's number; arrays (blocks,)."""
        used = phase.packed * phase.layer.gates  # rows of a cluster that hold blocks of this layer
        block = np.arange(phase.layer.blocks)
        place = block % (self.clusters * used)
        return place // used * self.cluster + place % used, block // (self.clusters * used), block

    def biases(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Contents of the lanes' bias memories: raw biases (lanes, position_depth, cluster) and which positions hold a unit."""
        bias = np.zeros((self.lanes, self.position_depth, self.cluster), np.int64)
        real = np.zeros((self.lanes, self.position_depth), bool)
        for number, phase in enumerate(self.phases):
            units = self.units(number)
            lane, position = np.nonzero(units >= 0)
            at = (lane, phase.position_base + position)
            bias[(*at, slice(0, phase.layer.gates))] = phase.layer.bias[:, units[lane, position]].T
            real[at] = True
        return bias, real

    # -- shares ------------------------------------------------------------------------------------------------------

    def idle_share(self, layer: int) -> float:
        """Share of the array's block places that hold no block of a layer."""
        phase = self.phases[layer]
        return 1.0 - phase.layer.blocks / (phase.slots * self.rows)

    @cached_property
    def group_columns(self) -> list[NDArray[np.int64]]:
        """For each vector the group of every column, (size,)."""
        out = []
        for vector in range(len(self.program.layers) + 1):
            column, _, group, _ = self.columns(vector)
            table = np.zeros(column.max() + 1, np.int64)
            table[column] = group
            out.append(table)
        return out
