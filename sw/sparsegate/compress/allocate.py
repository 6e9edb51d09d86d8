"""Choose N:M for every matrix so that a network meets a budget and loses the least, by a sensitivity scan.

What an allocation costs is counted, not estimated: entries as a Program stores them, cycles as ``sparsegate.array.cycles`` predicts
them for a step in which every column is sent, weight memories as a :class:`~sparsegate.array.Layout` fills them. What it loses
is the sum of what its matrices lost one by one in the scan; that they do not mind one another is an assumption, which
fine-tuning makes a mild one. Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, quantize
from sparsegate.array import (
    INPUT,
    HardwareConfig,
    Layout,
    MatrixLayout,
    contents_blocks,
    images,
    packet_blocks,
    rom_blocks,
    timing,
    weight_shape,
)
from sparsegate.cells import PROJECTION, cell, phases_of
from sparsegate.compress.sensitivity import KEYS, Key, Scan, digest, pruned
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.numerics import tables
from sparsegate.pattern import MAX_BLOCK, NM, common_block
from sparsegate.program import Matrix, Phase, Program
from sparsegate.protocol import RUN_WORDS
from sparsegate.quantize import QuantizeConfig

FORMAT = "sparsegate-allocation"
VERSION = 1

Kind = Literal["us", "nonzeros", "block_rams"]
NAMES: dict[Kind, str] = {"us": "microseconds a step", "nonzeros": "stored entries", "block_rams": "block RAMs"}

MHZ = 80.0
"""Clock at which microseconds are counted where none is given: that of the bitstreams."""

UNIT = 1e-9
"""Losses and errors are added as integers of this unit, so that equal sums are equal."""

MATRICES: dict[str, Key] = {"x": "x", "h": "h", "q": "h", "m": "p"}
"""Which of a layer's matrices multiplies a vector of its cell."""


@dataclass(frozen=True)
class Budget:
    """A limit, inclusive: ``us`` microseconds a step, ``nonzeros`` stored entries, or ``block_rams`` of an ECP5.

    A step is the longest there is: every column of every layer is sent, layers that run on a sequence's end included.
    """

    kind: Kind
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SparseGateError(f"a budget is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise SparseGateError(f"a budget of {self.limit:g} {NAMES[self.kind]} found, expected a positive number")


@dataclass(frozen=True)
class Allocation:
    """Patterns of every matrix, and what they are predicted to cost and to lose.

    ``patterns``: layer -> key ("x", "h", "p") -> N:M. ``loss``: sum of what the scan lost with each. ``cycles`` and ``us`` are of
    one step with nothing skipped, ``block_rams`` of the whole design (see :func:`block_rams`). ``network`` is the digest of the
    network.
    """

    network: str
    budget: Budget
    patterns: Mapping[str, Mapping[Key, NM]]
    loss: float
    nonzeros: int
    cycles: int
    us: float
    block_rams: int
    mhz: float
    hardware: HardwareConfig

    def check(self, network: Network) -> None:
        """Refuse a network that is not the one that this was made for."""
        if self.network != digest(network):
            raise SparseGateError("the allocation is of another network; make one for this with 'sparsegate allocate'")
        for layer in network.layers:
            own = {key for key in KEYS if getattr(layer, f"w_{key}") is not None}
            found = set(self.patterns.get(layer.name, ()))
            if found != own:
                raise SparseGateError(
                    f"the allocation has patterns for {_names(found)} of layer {layer.name!r}, expected {_names(own)}"
                )

    def apply(self, network: Network) -> Network:
        """The network pruned at once by magnitude to the patterns; fine-tuning is to follow."""
        return pruned(
            network, {(name, key): nm for name, chosen in self.patterns.items() for key, nm in chosen.items()}
        )

    @property
    def pairs(self) -> dict[str, tuple[NM, NM]]:
        """Layer -> patterns of Wx and Wh (of Wx twice without a Wh), as ``train.prune_and_finetune`` takes them."""
        return {name: (chosen["x"], chosen.get("h", chosen["x"])) for name, chosen in self.patterns.items()}

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        patterns = {name: {key: str(nm) for key, nm in chosen.items()} for name, chosen in self.patterns.items()}
        own = {key: getattr(self, key) for key in ("loss", "nonzeros", "cycles", "us", "block_rams", "mhz")}
        return {
            "format": FORMAT,
            "version": VERSION,
            "network": self.network,
            "budget": asdict(self.budget),
            "patterns": patterns,
            **own,
            "hardware": asdict(self.hardware),
        }

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        artefact.write_json(path, self.as_json())

    @classmethod
    def load(cls, path: str | Path) -> Allocation:
        """Read what :meth:`save` wrote."""
        values = artefact.read_record(path, FORMAT, VERSION, "allocation; 'sparsegate allocate' writes one")
        with artefact.reading(path):
            return cls(
                network=str(values["network"]),
                budget=Budget(values["budget"]["kind"], float(values["budget"]["limit"])),
                patterns={
                    str(name): {key: NM.parse(chosen[key]) for key in KEYS if key in chosen}
                    for name, chosen in values["patterns"].items()
                },
                loss=float(values["loss"]),
                nonzeros=int(values["nonzeros"]),
                cycles=int(values["cycles"]),
                us=float(values["us"]),
                block_rams=int(values["block_rams"]),
                mhz=float(values["mhz"]),
                hardware=HardwareConfig(**values["hardware"]),
            )


def allocate(
    network: Network,
    scan: Scan,
    budget: Budget,
    hardware: HardwareConfig | None = None,
    mhz: float = MHZ,
    config: QuantizeConfig | None = None,
) -> Allocation:
    """The patterns that lose the least within a budget.

    Every matrix keeps its pattern or takes one of the scan's N:M candidates; blocks of a layer's Wx and Wh are as long as the least
    common multiple of their M, and the finer one, or a dense one, is stored at that length. Of all combinations this finds one with
    the smallest sum of losses of score (what a pruned matrix wins counts as nothing lost), among these the smallest sum of output
    errors, and then the lowest cost: exactly, by dynamic programming over the layers, as a layer's cost depends on its own
    patterns and on how long the blocks are of the layer before.

    Parameters
    ----------
    scan : a complete scan of this very network.
    hardware, mhz, config : the array, its clock, and the bit widths, for cycles and memories. The widths of accumulators, and with
        them those of the bias memories, are those of a quantization on drawn data; no cycle depends on them.

    Raises
    ------
    SparseGateError
        If the scan is incomplete or of another network, if the array cannot run the network, or if the budget cannot be met.
    """
    scan.check(network)
    if scan.missing:
        raise SparseGateError(
            f"the sensitivity scan is not complete: {scan.missing} of {len(scan.matrices) * len(scan.patterns)} measurements are "
            "missing; run it again to go on"
        )
    if not (math.isfinite(mhz) and mhz > 0):
        raise SparseGateError(f"a clock of {mhz:g} MHz found, expected a positive number")
    hardware = hardware or HardwareConfig(rows=default_rows(network), states=bool(network.initial))
    choices = [list(_choices(layer, scan)) for layer in network.layers]
    costs = _Costs(network, choices, hardware, config or QuantizeConfig())
    # in whole cycles; a limit that is one but for its rounding is that one
    limit = budget.limit * mhz if budget.kind == "us" else budget.limit
    if budget.kind == "us" and math.isfinite(limit):
        limit = math.floor(limit + 1e-6)
    best, least = costs.solve(choices, budget.kind, limit)
    if best is None:
        smallest = f"{math.ceil(1e4 * least / mhz) / 1e4:g}" if budget.kind == "us" else f"{least}"
        raise SparseGateError(
            f"{budget.limit:g} {NAMES[budget.kind]} cannot be met: {smallest} is the least that the scan's patterns reach on "
            "this array"
        )
    nonzeros, cycles, rams = costs.of(best)
    return Allocation(
        network=scan.network,
        budget=budget,
        patterns={layer.name: choice.patterns for layer, choice in zip(network.layers, best, strict=True)},
        loss=sum(choice.loss for choice in best) * UNIT,
        nonzeros=nonzeros,
        cycles=cycles,
        us=cycles / mhz,
        block_rams=rams,
        mhz=mhz,
        hardware=hardware,
    )


def _names(keys: set[Key]) -> str:
    return ", ".join(f"W{key}" for key in KEYS if key in keys) or "no matrix"


def default_rows(network: Network) -> int:
    """PE rows where none are asked for: two clusters."""
    return 2 * max(
        len(phase.gates) for layer in network.layers for phase in phases_of(cell(layer.kind), layer.w_p is not None)
    )


# -- what a layout costs ------------------------------------------------------------------------------------------------


def step_cycles(layout: Layout) -> int:
    """Cycles of a step in which every column is sent and every phase runs, from its frame to its last result.

    What ``cycles.predict`` gives for such a step after a sequence's first if no other step is in work; of a Program in several
    passes their sum.
    """
    total = 0
    for run in layout.passes:
        before = 0
        for number in run.phases:
            phase = layout.phases[number]
            early, late = np.zeros((2, layout.groups), np.int64)
            for matrix in phase.matrices:
                beats = np.bincount(matrix.group, minlength=layout.groups) * matrix.burst
                early, late = (early, late + beats) if _is_late(matrix, number, run.phases) else (early + beats, late)
            total += _dispatch_cycles(layout, before, early, late)
            before = _read_out_cycles(layout, phase.phase, phase.positions)
        total += before
    return total


def _is_late(matrix: MatrixLayout, number: int, phases: range) -> bool:
    """Whether a matrix multiplies what the phase just before gives, of the same step."""
    return number > phases.start and matrix.source == number - 1


def _dispatch_cycles(layout: Layout, before: int, early: NDArray[np.int64], late: NDArray[np.int64]) -> int:
    """Cycles from the end of one dispatch to that of the next, whose groups take so many beats; meanwhile the read-out of the phase
    before takes ``before`` (0: there is none, and the step begins).
    """
    longest = int((np.maximum(early, before) + late).max())
    return layout.depths.dispatch + longest + layout.depths.hand + (1 if before else 0)


def _read_out_cycles(layout: Layout, phase: Phase, positions: int) -> int:
    """Cycles from the end of a phase's dispatch to its last result."""
    latency = timing.result_latency(phase.spec, phase.step_bits, layout.groups, layout.depths)
    return layout.depths.drain + positions + latency


def stored_entries(program: Program) -> int:
    """Entries of all matrices of a Program, those that only fill a place included."""
    matrices = [matrix for layer in program.layers for matrix in (layer.matrix_x, layer.matrix_h, layer.matrix_p)]
    return sum(matrix.weight.size for matrix in matrices if matrix is not None)


def block_rams(layout: Layout) -> dict[str, int]:
    """Block RAMs (DP16KD) that engine and UART take on an ECP5, as Yosys maps their memories.

    They are what the hardware asks for (:func:`sparsegate.array.rom_blocks`), so the count is exact: ``weights``, ``biases`` and
    ``tables``, which are read-only; the lanes' ``states``; the ``columns`` that are listed; ``packets`` of the UART, and the output
    buffer with them. Only the sequence buffer of a Program in both directions of time, where the choice is Yosys', is not counted.
    """
    return _block_rams(layout, layout.index_width, layout.weight_depth, layout.position_depth)


def memories(layout: Layout) -> Iterator[_Memories]:
    """Kind, width, depth and number of the memories of engine and UART but accumulators and identity."""
    yield from _inside(layout, layout.index_width, layout.weight_depth, layout.position_depth)
    yield from _around(layout)


_Memories = tuple[str, int, int, int]


def _block_rams(layout: Layout, index_width: int, weight_depth: int, position_depth: int) -> dict[str, int]:
    """The same of a layout that differs in these numbers only."""
    found = {"weights": 0, "biases": 0, "tables": 0, "states": 0, "packets": 0}
    for kind, width, depth, count in _inside(layout, index_width, weight_depth, position_depth):
        replaceable = kind == "biases" or (kind == "weights" and not layout.config.loaded)
        found[kind] += count * (contents_blocks if replaceable else rom_blocks)(width, depth)
    for kind, count in _outside(layout).items():
        found[kind] = found.get(kind, 0) + count
    return found


def _inside(layout: Layout, index_width: int, weight_depth: int, position_depth: int) -> Iterator[_Memories]:
    """Memories of the PEs and lanes, and the output buffer."""
    entry = index_width + layout.weight_width
    words, planes = (weight_depth, 1) if layout.config.loaded else weight_shape(entry, weight_depth)
    phases = layout.program.phases
    kept = [(*p.layer.cell.states, *p.layer.cell.handed) for p in phases]
    states = max(len(names) for names in kept)
    widths = [p.formats[name].width for p, names in zip(phases, kept, strict=True) for name in names]
    sent = [p.formats["h"].width for p, consumed in zip(phases, layout.consumed, strict=True) if consumed]
    lane = [(max(sent, default=2), position_depth), *[(max(widths, default=0), position_depth)] * states]
    if layout.states:
        lane.append((max(p.formats["h"].width for p in phases), position_depth))
    finals = [layout.phases[run.phases[-1]] for run in layout.passes]
    beat = layout.config.outputs
    buffer = max(p.phase.formats["h"].width for p in finals), max(p.positions for p in finals) // beat
    yield "weights", planes * entry, words, layout.config.pes
    yield "biases", layout.bias_word(), position_depth, layout.lanes
    yield from (("tables", *shape, layout.lanes) for shape in _tables(layout))
    yield from (("states", *shape, layout.lanes) for shape in lane if shape[0])
    yield "packets", *buffer, layout.lanes * beat


@lru_cache(maxsize=8)
def _outside(layout: Layout) -> dict[str, int]:
    """Block RAMs of what neither weights nor positions change: columns as they are listed, and the UART's packets."""
    found = {"columns": 0, "packets": 0}
    for kind, width, depth, count in _around(layout):
        found[kind] += count * (packet_blocks if kind == "packets" else rom_blocks)(width, depth)
    return found


def _around(layout: Layout) -> Iterator[_Memories]:
    """Columns as they are listed, and the UART's packets."""
    program, groups = layout.program, range(layout.groups)
    outputs, given = program.outputs, program.output_format.width
    reply = 8, 5 + outputs * -(-given // 8)
    values = max(program.inputs, len(program.vectors), 2 + RUN_WORDS if layout.config.loaded else 0)
    yield "packets", *reply, 1
    yield "packets", max(16, program.input_format.width), values - 1, 1
    inputs = [max(1, layout.input_depth(group)) for group in groups]
    lists = [
        (inputs[group], 2 * inputs[group], 1) for group in groups
    ]  # longest section, whole depth, how many such lists
    for group in groups:
        depths = [
            max(layout.bank_depth(number, group, at) for at in range(layout.lanes))
            for number in range(len(layout.phases))
        ]
        lists.append((max(1, *depths), max(1, sum(depths)), layout.lanes))
    sources = [program.layers[run.of.layers.start].formats["x"].width for run in layout.passes]
    sent_inputs = max(sources), max(run.inputs for run in layout.passes)
    yield "columns", *sent_inputs, 1
    for places, depth, many in lists:
        yield "columns", max(1, (places - 1).bit_length()) + layout.delta_width, depth, many


class _Lookups(timing.StageArithmetic):
    """Collects the functions that a cell looks up."""

    def __init__(self, step_bits: int) -> None:
        super().__init__(step_bits, timing.SHALLOW)  # functions are the same in any
        self.functions: list[str] = []

    def lookup(self, function: str, value: int) -> int:
        self.functions.append(function)
        return super().lookup(function, value)


def _tables(layout: Layout) -> Iterator[tuple[int, int]]:
    """Width and depth of every table of a lane. Phases of the same arithmetic and formats share a pipeline."""
    pipelines: dict[tuple[Any, ...], Phase] = {}
    for phase in layout.program.phases:
        if phase.spec is not PROJECTION:
            names = ("acc", "h", *phase.layer.cell.formats)
            formats = tuple(phase.formats[name] for name in names)
            pipelines.setdefault((phase.layer.kind, phase.number, phase.step_bits, formats), phase)
    for phase in pipelines.values():
        counted = _Lookups(phase.step_bits)
        phase.spec.step(counted)
        for function in counted.functions:
            table = tables.table(function, phase.formats["pre"], phase.formats["gate"], phase.step_bits)
            yield sum(images.table_fields(table)), table.depth


# -- search -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """Patterns of one layer's matrices, what they lose and err (in :data:`UNIT`), and the blocks that they ask for."""

    patterns: Mapping[Key, NM]
    loss: int
    error: int
    block: int
    block_p: int

    def blocks(self, phase: Phase) -> int:
        """Block length of a phase of the layer."""
        return self.block_p if phase.spec is PROJECTION else self.block


def _choices(layer: Layer, scan: Scan) -> Iterator[_Choice]:
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
            yield _Choice(patterns, sum(one[2] for one in chosen), sum(one[3] for one in chosen), block, block_p)


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


Label = tuple[int, int, tuple[int, ...], tuple[_Choice, ...]]
"""Loss, error, costs so far, and the choices made."""


class _Costs:
    """Costs of choices, from layouts in which all layers have blocks of one length.

    A matrix takes ``slots * entries`` beats a column. Slots and positions follow from the length of its own blocks, the columns'
    groups and places from that of the blocks of the phase that gives them; so one layout for every length tells the costs of every
    mixture.
    """

    def __init__(
        self, network: Network, choices: Sequence[Sequence[_Choice]], hardware: HardwareConfig, config: QuantizeConfig
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

    def layer(self, number: int, choice: _Choice, before: int) -> dict[Kind, tuple[int, ...]]:
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
                each = choice.patterns[MATRICES[matrix.term.column]].stored(block)
                beats = columns.count * shape.slots * each
                early, late = (early, late + beats) if _is_late(matrix, at, phases) else (early + beats, late)
                fill += columns.places * shape.slots * each
                entries += shape.phase.blocks * matrix.term.matrix.columns * each
            cycles += _dispatch_cycles(self.layout, read_out, early, late)
            read_out = self._read_out(at, block)
            positions += shape.positions
        if stop == phases.stop:
            cycles += read_out
        return {"us": (cycles,), "nonzeros": (entries,), "block_rams": (*fill.tolist(), positions)}

    def _read_out(self, phase: int, block: int) -> int:
        shape = self._shapes[block][phase]
        return _read_out_cycles(self.layout, shape.phase, shape.positions)

    def out(self, number: int, choice: _Choice) -> int:
        """Block length of what a layer gives."""
        return choice.blocks(self.layout.program.layers[number].phases[-1])

    def total(self, kind: Kind, costs: tuple[int, ...], longest: int) -> int:
        """What counts against a budget; ``longest`` is the longest block of any layer."""
        if kind != "block_rams":
            return costs[0]
        *fill, positions = costs
        return sum(_block_rams(self.layout, (longest - 1).bit_length(), max(fill), positions).values())

    def of(self, chosen: Sequence[_Choice]) -> tuple[int, int, int]:
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

    def solve(
        self, choices: Sequence[Sequence[_Choice]], kind: Kind, limit: float
    ) -> tuple[tuple[_Choice, ...] | None, int]:
        """The best choice for every layer within the limit (None where there is none), and the least that can be reached.

        Partial choices that agree in what the layers to come see of them (the last block length and, for memories, the longest
        one) compete; one that neither loses nor costs less than another is dropped.
        """
        states: dict[tuple[int, int], list[Label]] = {(1, 1): [(0, 0, (0,) * (self.groups + 1), ())]}
        if kind != "block_rams":
            states = {(1, 1): [(0, 0, (0,), ())]}
        for number, mine in enumerate(choices):
            grown: dict[tuple[int, int], list[Label]] = {}
            for (before, longest), labels in states.items():
                for choice in mine:
                    cost = self.layer(number, choice, before)[kind]
                    most = max(longest, choice.block, choice.block_p) if kind == "block_rams" else 1
                    into = grown.setdefault((self.out(number, choice), most), [])
                    for loss, error, costs, chosen in labels:
                        summed = tuple(a + b for a, b in zip(costs, cost, strict=True))
                        into.append((loss + choice.loss, error + choice.error, summed, (*chosen, choice)))
            states = {state: _undominated(labels) for state, labels in grown.items()}
        best: tuple[int, int, int] | None = None
        found: tuple[_Choice, ...] | None = None
        least = -1
        for (_, longest), labels in states.items():
            for loss, error, costs, chosen in labels:
                total = self.total(kind, costs, longest)
                least = total if least < 0 else min(least, total)
                if total <= limit and (best is None or (loss, error, total) < best):
                    best, found = (loss, error, total), chosen
        return found, least


def _undominated(labels: list[Label]) -> list[Label]:
    """Labels for which no other loses as little and costs no more."""
    labels.sort(key=lambda label: label[:3])
    kept: list[Label] = []
    costs = np.empty((len(labels), len(labels[0][2])), np.int64)
    for label in labels:
        mine = np.array(label[2])
        if not (costs[: len(kept)] <= mine).all(axis=1).any():
            costs[len(kept)] = mine
            kept.append(label)
    return kept


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
