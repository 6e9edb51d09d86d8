"""Where everything of a Program lives on an array of processing elements: pure arithmetic, no hardware description.

The array has ``rows`` x ``groups`` processing elements (PEs). ``cluster`` neighbouring PE rows feed one another's cell lane;
``clusters = rows / cluster``, and ``lanes`` (a divisor of it) cell lanes take turns over them.

Blocks of a phase (block = unit_block * gates + gate) are dealt to clusters in turn, by unit block: unit block u goes to
cluster ``u mod clusters``. When a phase has fewer gates than a cluster has rows, ``packed = cluster // gates`` unit blocks of a
cluster share a slot. A lane meets the units of its clusters in a fixed order of *positions*: unit block of the cluster, then
index in the block, then cluster. So the place of a unit does not depend on the number of gates, and phases of one layer find its
states where the others left them.

Columns of a phase's output are dealt to column groups by lane and position, ``(position + lane) mod groups``, so that every
lane sends at most one column to one list a cycle and no division is needed in hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.array import timing
from sparsegate.array.config import HardwareConfig
from sparsegate.array.place import INPUT, Geometry, MatrixLayout, PassLayout, PhaseLayout, index_bits, weight_shape
from sparsegate.errors import SparseGateError
from sparsegate.fpga.memory import BLOCK_SHAPES, SPRAM_SHAPE, contents_blocks
from sparsegate.network.passes import Pass
from sparsegate.program import Phase, Program, Term
from sparsegate.shown import Row, Shown, counted


class Layout(Shown):
    """Placement of a Program on a :class:`HardwareConfig`.

    Raises
    ------
    SparseGateError
        If the cluster does not divide the rows, the lanes do not divide the clusters, a phase has more gates than a cluster
        has rows, a shifted delta is wider than the multiplier, the Program has an initial state and the array no state ports,
        weights that are to be loaded do not fit their memories, or the output frame does not divide into beats of ``outputs``
        values that one lane has beside each other.
    """

    def __init__(self, program: Program, config: HardwareConfig) -> None:
        self.program, self.config = program, config
        if program.initial and not config.states:
            raise SparseGateError(
                "the Program starts from a state of its own, which takes an array with state ports (states=True)"
            )
        self.rows, self.groups = config.rows, config.groups
        most = max(phase.gates for phase in program.phases)
        self.cluster = config.cluster or most
        if self.cluster < most:
            raise SparseGateError(f"a cluster of {self.cluster} rows cannot hold {most} gates")
        if self.rows % self.cluster:
            raise SparseGateError(
                f"{self.rows} PE rows do not divide into clusters of {self.cluster}, expected a multiple, "
                f"such as {self.cluster} or {2 * self.cluster}"
            )
        self.clusters = self.rows // self.cluster
        self.depths = timing.depths(config.deep, config.block_banks)
        self.lanes = config.lanes or self.clusters
        if self.clusters % self.lanes:
            raise SparseGateError(f"{self.lanes} lanes do not divide {self.clusters} clusters evenly")
        self.lane_clusters = self.clusters // self.lanes
        self._check_outputs()
        self._geometry = [self._measure(phase) for phase in program.phases]
        self._fill = [0] * self.groups  # words of weight memory in use, by group
        self.phases: list[PhaseLayout] = []
        self.passes: list[PassLayout] = []
        self.position_depth = 0
        self.acc_bank_depths, self._acc_bases = self._banks()
        self.acc_banks, self.acc_bank_depth = len(self.acc_bank_depths), max(self.acc_bank_depths)
        self.acc_depth = self.acc_banks * self.acc_bank_depth
        for run, this in enumerate(program.passes):
            self._lay(run, this)
        self.weight_depth = max(self._fill)
        self._check_loaded()
        sources = {matrix.source for phase in self.phases for matrix in phase.matrices}
        self.consumed = [number in sources for number in range(len(self.phases))]
        """Whether some matrix of its pass multiplies a phase's output."""

    def _check_outputs(self) -> None:
        """Refuse beats of several output values where these are not at consecutive positions of one lane."""
        beat = self.config.outputs
        if beat == 1:
            return
        if not self.program.streams:
            raise SparseGateError(
                f"outputs is {beat}, expected 1: the Program looks both ways in time, and its buffer gives a value at a time"
            )
        if self.lane_clusters > 1:
            raise SparseGateError(
                f"outputs is {beat}, expected 1 where lanes take turns: {self.lanes} lanes serve {self.clusters} clusters"
            )
        last = self.program.phases[-1]
        for what, count in (("blocks", last.block), ("frames", last.units)):
            if count % beat:
                raise SparseGateError(
                    f"outputs is {beat}, expected a divisor of the {count} values in the last layer's {what}"
                )

    def _check_loaded(self) -> None:
        """Refuse weights that do not fit the memories that they are to be loaded into."""
        words, bits = SPRAM_SHAPE
        if self.config.loaded and self.entry_width > bits:
            raise SparseGateError(
                f"weights that are loaded have words of {bits} bits, found entries of {self.entry_width}: "
                f"{self.index_width} of index and {self.weight_width} of weight"
            )
        if self.config.loaded and self.weight_depth > words:
            raise SparseGateError(
                f"weights that are loaded have at most {words} entries a processing element, found {self.weight_depth}; "
                "use more rows or groups"
            )

    @property
    def sentence(self) -> str:
        return (
            f"{self.program.name!r} on {self.rows} x {self.groups} PEs, {counted(self.lanes, 'lane')}, "
            f"{self.weight_depth} entries of {self.entry_width} bits a PE, "
            f"{self.acc_depth} accumulators of {self.partial_width} bits"
        )

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """A row a phase: blocks a PE, positions a lane, bank of accumulators, and cycles of each column."""
        rows = [
            (
                phase.phase.name,
                phase.phase.units,
                phase.slots,
                phase.positions,
                self.acc_bank(number),
                ", ".join(f"{matrix.term.column} {matrix.burst}" for matrix in phase.matrices),
                f"{self.idle_share(number):.1%}",
            )
            for number, phase in enumerate(self.phases)
        ]
        return ("phase", "units", "slots", "positions", "bank", "cycles a column", "idle"), rows

    @property
    def output_beats(self) -> int:
        """Beats of an output frame, of ``config.outputs`` values each."""
        return self.program.outputs // self.config.outputs

    def _measure(self, phase: Phase) -> Geometry:
        packed = self.cluster // phase.gates
        unit_blocks = -(-(phase.blocks // phase.gates) // self.clusters)
        positions = unit_blocks * phase.block * self.lane_clusters
        return Geometry(phase, -(-unit_blocks // packed), packed, unit_blocks, positions)

    def _banks(self) -> tuple[tuple[int, ...], list[int]]:
        """Accumulators in each bank, and every phase's first address.

        A phase is dispatched while the one before is read out, so phases that follow one another lie in banks of their own: two
        in turn, and a third for the last of an odd number, which the first one follows; fewer where the configuration has
        fewer. A bank is the high bits of an address; where there are several, each has a power of two of accumulators, and an
        address beyond them means one of them again. Passes never run at the same time, so they share the banks.
        """
        found: list[tuple[int, int]] = []  # bank and place in it
        depths: list[int] = []
        for this in self.program.passes:
            first = len(found)
            count = sum(len(self.program.layers[number].phases) for number in this.layers)
            fill = [0] * min(count, 2 + count % 2, self.config.banks)
            for at in range(count):
                shape = self._geometry[first + at]
                bank = 2 if count > 1 and count % 2 and at == count - 1 else at % 2
                bank = min(bank, len(fill) - 1)
                found.append((bank, fill[bank]))
                fill[bank] += shape.slots * shape.phase.block
            depths = [max(pair) for pair in zip_longest(depths, fill, fillvalue=1)]
        if len(depths) > 1:
            depths = [1 << max(1, index_bits(depth)) for depth in depths]  # at least a bit of address inside a bank
        return tuple(depths), [bank * max(depths) + place for bank, place in found]

    def acc_bank(self, phase: int) -> int:
        """Bank of a phase's accumulators."""
        return self.phases[phase].acc_base // self.acc_bank_depth

    def _lay(self, run: int, this: Pass) -> None:
        """Place the phases of a pass."""
        program = self.program
        first = len(self.phases)
        inputs = program.layers[this.layers.start].inputs
        before = INPUT  # what the layer's x is
        for layer in (program.layers[number] for number in this.layers):
            start = len(self.phases)
            number = {phase.spec.output: start + k for k, phase in enumerate(layer.phases)}
            sources = {**number, "x": before}
            state_base = self.position_depth
            for k, phase in enumerate(layer.phases):
                geometry = self._geometry[start + k]
                carried = ("h",) if phase.spec.output == "h" and layer.cell.recurrent else ()
                self.phases.append(
                    PhaseLayout(
                        **vars(geometry),
                        run=run,
                        acc_base=self._acc_bases[start + k],
                        position_base=self.position_depth,
                        state_base=state_base,
                        matrices=tuple(
                            self._place(term, sources[term.column], geometry.slots, start + k, this, inputs)
                            for term in phase.terms
                        ),
                        loads=(*carried, *(layer.cell.states if k == 0 else ())),
                    )
                )
                self.position_depth += geometry.positions
            before = len(self.phases) - 1
        self.passes.append(PassLayout(this, range(first, len(self.phases)), inputs))

    def every_step(self, phase: int) -> bool:
        """Whether a phase runs at every step of its pass, and not only at the end of a longer sequence."""
        return self._every_step(phase, self.passes[self.phases[phase].run].of)

    def _every_step(self, phase: int, this: Pass) -> bool:
        return self.program.phases[phase].when == "step" or this.when != "step"

    @property
    def states(self) -> bool:
        """Whether there are state ports: asked for, and of use."""
        return self.config.states and any(layer.carried for layer in self.program.layers)

    # -- columns -----------------------------------------------------------------------------------------------------

    @cached_property
    def delta_width(self) -> int:
        """Bits of a delta in the lists: one more than the widest column value."""
        return max(term.form.width for phase in self.program.phases for term in phase.terms) + 1

    @cached_property
    def operand_width(self) -> int:
        """Bits of the widest shifted delta: the multiplier's operand."""
        return max(term.form.width + 1 + term.shift for phase in self.program.phases for term in phase.terms)

    @cached_property
    def weight_width(self) -> int:
        """Bits of the widest weight."""
        return max(term.weight.width for phase in self.program.phases for term in phase.terms)

    @cached_property
    def index_width(self) -> int:
        """Bits of an index in a block (0 if every block has one unit)."""
        return max(index_bits(phase.block) for phase in self.program.phases)

    @property
    def entry_width(self) -> int:
        """Bits of a weight memory entry: index and weight."""
        return self.index_width + self.weight_width

    @cached_property
    def weight_words(self) -> int:
        """Words of a weight memory, a power of two where a word holds more than one entry; one each where they are loaded."""
        return self.weight_depth if self.config.loaded else weight_shape(self.entry_width, self.weight_depth)[0]

    @property
    def weight_planes(self) -> int:
        """Entries in a word: entry e is number ``e // weight_words`` of word ``e % weight_words``."""
        return -(-self.weight_depth // self.weight_words)

    @cached_property
    def loop_distance(self) -> int:
        """Fewest cycles between two entries for one accumulator: from a column's last entry of a slot to the next column's first.

        Entries of a block and column are for different units.
        """
        return min(
            (phase.slots - 1) * min(matrix.term.matrix.entries for matrix in phase.matrices) + 1
            for phase in self.phases
        )

    @cached_property
    def acc_width(self) -> int:
        """Bits of the widest accumulator: a sum over all column groups."""
        return max(phase.formats["acc"].width for phase in self.program.phases)

    @cached_property
    def partial_width(self) -> int:
        """Bits of the accumulators of a PE, which sum the columns of one group: never more than ``acc_width``.

        Where G groups share the columns evenly, log2(G) fewer are enough, and what room there is in ``acc_width`` stays.
        """
        most = max(
            max(phase.phase.bounds_of([matrix.group for matrix in phase.matrices], self.groups))
            for phase in self.phases
        )
        need = 1 + most.bit_length()
        if self.config.partial_bits is not None:
            if need > self.config.partial_bits:
                raise SparseGateError(f"partial sums need {need} bits, the hardware's have {self.config.partial_bits}")
            return self.config.partial_bits
        return max(need, self.acc_width - index_bits(self.groups))

    @cached_property
    def acc_in_blocks(self) -> tuple[bool, ...]:
        """Which banks of accumulators lie in block RAM, of an ECP5.

        Raises
        ------
        SparseGateError
            If one of them has more words or wider ones than a block RAM.
        """
        depths, (most, widest) = self.acc_bank_depths, BLOCK_SHAPES[0]
        deepest = sorted(range(self.acc_banks), key=lambda bank: -depths[bank])[: self.config.block_banks]
        for bank in deepest:
            if depths[bank] > most or self.partial_width > widest:
                raise SparseGateError(
                    f"a bank of accumulators has {depths[bank]} words of {self.partial_width} bits, a block RAM {most} of {widest};"
                    " expected block_banks 0"
                )
        return tuple(bank in deepest for bank in range(self.acc_banks))

    @cached_property
    def bias_bits(self) -> int:
        """Bits of a bias in the lanes' memories; the accumulators may be wider."""
        biases = [phase.bias for phase in self.program.phases]
        need = max(1 + max(int(values.max()), ~int(values.min())).bit_length() for values in biases)
        if self.config.bias_bits is not None:
            if need > self.config.bias_bits:
                raise SparseGateError(f"biases need {need} bits, the hardware's have {self.config.bias_bits}")
            return self.config.bias_bits
        most = max(need, self.acc_width)
        fewest = contents_blocks(self.bias_word(need), self.position_depth)
        choices = (min(bits, most) for bits in (-(-(need + 1) // 4) * 4, need + 1, need))
        return next(bits for bits in choices if contents_blocks(self.bias_word(bits), self.position_depth) == fewest)

    def bias_word(self, bits: int | None = None) -> int:
        """Bits of a bias memory's word: whether a unit is there, its biases (of ``bits``), its cell's parameters."""
        count, width = self.parameters
        return 1 + self.sums * (self.bias_bits if bits is None else bits) + count * width

    @cached_property
    def apart_rows(self) -> tuple[int, ...]:
        """Rows of a cluster that keep a second accumulator, for gates whose recurrent product is summed apart."""
        rows = {
            sub * geometry.phase.gates + gate
            for geometry in self._geometry
            for gate in geometry.phase.apart
            for sub in range(geometry.packed)
        }
        return tuple(sorted(rows))

    @cached_property
    def sums(self) -> int:
        """Accumulators of a unit: the most of any phase."""
        return max(len(phase.spec.sums) for phase in self.program.phases)

    @cached_property
    def parameters(self) -> tuple[int, int]:
        """Constants of a unit beside its biases: the most of any layer, and the bits of one (0, 1 where no layer has any)."""
        layers = [layer for layer in self.program.layers if layer.parameters]
        widths = [layer.formats["parameter"].width for layer in layers]
        return max((len(layer.parameters) for layer in layers), default=0), max(widths, default=1)

    def input_depth(self, group: int) -> int:
        """Columns of the widest pass input in a group."""
        return max(-(-(run.inputs - group) // self.groups) for run in self.passes)

    def bank_depth(self, phase: int, group: int, lane: int) -> int:
        """Columns of one bank of a phase's output, the largest index in it plus one (0 where nothing takes it)."""
        return int(self._bank_depths[phase][lane, group])

    @cached_property
    def _bank_depths(self) -> list[NDArray[np.int64]]:
        """:meth:`bank_depth` of every phase, (lanes, groups): hundreds of them are asked for when configurations are searched."""
        found = []
        for phase in range(len(self.phases)):
            depths = np.zeros((self.lanes, self.groups), np.int64)
            if self.consumed[phase]:
                _, banks, groups, places = self._columns(phase)
                np.maximum.at(depths, (banks, groups), places + 1)
            found.append(depths)
        return found

    def _columns(self, phase: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Columns of a phase's output with their bank (lane), group and place in the bank; arrays of equal length."""
        units = self.units(phase)  # (lanes, positions)
        lane, position = np.nonzero(units >= 0)
        return units[lane, position], lane, (position + lane) % self.groups, position // self.groups

    def units(self, phase: int) -> NDArray[np.int64]:
        """Unit at each lane and position of a phase, -1 where there is none. (lanes, positions)"""
        shape = self._geometry[phase]
        block = shape.phase.block
        position = np.arange(shape.positions)
        turn, rest = position % self.lane_clusters, position // self.lane_clusters
        index, of_cluster = rest % block, rest // block
        lane = np.arange(self.lanes)[:, None]
        unit = (of_cluster * self.clusters + lane * self.lane_clusters + turn) * block + index
        return np.where(unit < shape.phase.units, unit, -1)

    def unit(self, phase: int, lane: int, position: int) -> int:
        """Unit that ``lane`` gives at ``position`` of a phase's read-out, or -1."""
        return int(self.units(phase)[lane, position])

    # -- weights -----------------------------------------------------------------------------------------------------

    def _place(self, term: Term, source: int, slots: int, phase: int, this: Pass, inputs: int) -> MatrixLayout:
        width, shift = term.form.width, term.shift
        if width + 1 + shift > self.config.multiplier:
            raise SparseGateError(
                f"a delta of {width} + 1 bits shifted left by {shift} is wider than the multiplier's {self.config.multiplier} bits;"
                " bring the scales of Wx and Wh closer together or use fewer activation bits"
            )
        if source == INPUT:
            column = np.arange(inputs)
            bank, group, place = np.zeros_like(column), column % self.groups, column // self.groups
        else:
            columns = self._columns(source)
            order = np.argsort(columns[0])
            bank, group, place = (values[order] for values in columns[1:])
        burst = slots * term.matrix.entries
        bases = []
        for g in range(self.groups):
            mine = []
            for b in range(1 if source == INPUT else self.lanes):
                mine.append(self._fill[g])
                here = place[(bank == b) & (group == g)]
                self._fill[g] += burst * (int(here.max()) + 1 if here.size else 0)
            bases.append(tuple(mine))
        return MatrixLayout(
            term=term,
            source=source,
            burst=burst,
            bases=tuple(bases),
            bank=bank,
            group=group,
            place=place,
            now=source < phase,
            # a phase that runs at a sequence's end takes what is held then, and nothing before
            carried=source != INPUT and self._carried(source) and self._every_step(phase, this),
        )

    def _carried(self, phase: int) -> bool:
        """Whether a phase's output is a state."""
        of = self.program.phases[phase]
        return of.spec.output == "h" and of.layer.cell.recurrent

    def weights(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Contents of every PE's weight memory: index and weight, each (rows, groups, weight_depth)."""
        index = np.zeros((self.rows, self.groups, self.weight_depth), np.int64)
        weight = np.zeros_like(index)
        for phase in self.phases:
            rows, slots = self._blocks(phase)
            for matrix in phase.matrices:
                base = np.array(matrix.bases)[matrix.group, matrix.bank] + matrix.place * matrix.burst  # (columns,)
                stored = matrix.term.matrix
                # (blocks, columns, entries)
                address = base[None, :, None] + (slots * stored.entries)[:, None, None] + np.arange(stored.entries)
                at = (rows[:, None, None], matrix.group[None, :, None], address)
                index[at] = stored.index
                weight[at] = stored.weight
        return index, weight

    def pack(self, index: NDArray[np.int64], weight: NDArray[np.int64]) -> NDArray[Any]:
        """Words of weight memories that hold these entries, (..., depth) to (..., weight_words); Python's integers where wide.

        Least significant first: entry by entry, its index and then its weight in two's complement.
        """
        width, words, planes = self.entry_width, self.weight_words, self.weight_planes
        entries = index | (weight & ((1 << self.weight_width) - 1)) << self.index_width
        fill = [(0, 0)] * (entries.ndim - 1) + [(0, words * planes - entries.shape[-1])]
        entries = np.pad(entries, fill).reshape(*entries.shape[:-1], planes, words)
        if planes * width > 63:
            entries = entries.astype(object)
        packed = entries[..., 0, :]
        for plane in range(1, planes):
            packed = packed | entries[..., plane, :] << plane * width
        return packed

    def _blocks(self, phase: PhaseLayout) -> tuple[NDArray, NDArray]:
        """PE row and slot of every block of a phase; arrays (blocks,)."""
        gates = phase.phase.gates
        unit_block, gate = np.divmod(np.arange(phase.phase.blocks), gates)
        of_cluster, cluster = np.divmod(unit_block, self.clusters)
        slot, sub = np.divmod(of_cluster, phase.packed)
        return cluster * self.cluster + sub * gates + gate, slot

    def biases(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Contents of the lanes' bias memories: raw biases (lanes, position_depth, sums) and which positions hold a unit."""
        bias = np.zeros((self.lanes, self.position_depth, self.sums), np.int64)
        real = np.zeros((self.lanes, self.position_depth), bool)
        for number, phase in enumerate(self.phases):
            units = self.units(number)
            lane, position = np.nonzero(units >= 0)
            at = (lane, phase.position_base + position)
            bias[(*at, slice(0, len(phase.phase.spec.sums)))] = phase.phase.bias[:, units[lane, position]].T
            real[at] = True
        return bias, real

    def constants(self) -> NDArray[np.int64]:
        """The cells' parameters where the biases are: raw (lanes, position_depth, parameters)."""
        values = np.zeros((self.lanes, self.position_depth, self.parameters[0]), np.int64)
        for number, phase in enumerate(self.phases):
            units = self.units(number)
            lane, position = np.nonzero(units >= 0)
            for at, name in enumerate(phase.phase.layer.cell.parameters if phase.phase.number == 0 else ()):
                given = phase.phase.layer.parameters[name]
                values[lane, phase.position_base + position, at] = given[units[lane, position]]
        return values

    # -- states ------------------------------------------------------------------------------------------------------

    @cached_property
    def state_width(self) -> int:
        """Bits of the widest carried value (1 where there is none)."""
        return max((phase.phase.layer.formats[key].width for phase in self.phases for key in phase.loads), default=1)

    def pack_state(self, run: int, state: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> list[int]:
        """The state frame of a pass: of one sequence's raw states, layer -> name -> (size,).

        Phase by phase, position by position, lane by lane: the phase's ``loads``, in order. Places without a unit are zero.
        """
        words: list[int] = []
        for number in self.passes[run].phases:
            phase = self.phases[number]
            if phase.loads:
                units = self.units(number).T
                mine = [np.append(state[phase.phase.layer.name][key], 0)[units] for key in phase.loads]
                words += np.stack(mine, axis=-1).reshape(-1).tolist()
        return words

    def unpack_state(self, run: int, words: Sequence[int]) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Inverse of :meth:`pack_state`."""
        state: dict[str, dict[str, NDArray[np.int64]]] = {}
        at = 0
        for number in self.passes[run].phases:
            phase = self.phases[number]
            if phase.loads:
                units = self.units(number).T
                count = units.size * len(phase.loads)
                mine = np.asarray(words[at : at + count], np.int64).reshape(*units.shape, len(phase.loads))
                at += count
                for key, values in zip(phase.loads, np.moveaxis(mine, -1, 0), strict=True):
                    size = np.zeros(phase.phase.units, np.int64)
                    size[units[units >= 0]] = values[units >= 0]
                    state.setdefault(phase.phase.layer.name, {})[key] = size
        return state

    # -- shares ------------------------------------------------------------------------------------------------------

    def idle_share(self, phase: int) -> float:
        """Share of the array's block places that hold no block of a phase."""
        shape = self.phases[phase]
        return 1.0 - shape.phase.blocks / (shape.slots * self.rows)
