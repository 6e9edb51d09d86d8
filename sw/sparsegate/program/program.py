"""The Program: integers and formats only, the contract between quantization, golden model, cycle model and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact, cells
from sparsegate.cells import Cell, bounds, cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network import State, states_of
from sparsegate.network.passes import WHEN, Pass, When, passes
from sparsegate.numerics.fixed import QFormat, narrow
from sparsegate.pattern import MAX_BLOCK, blocked, unblocked

FORMAT = "sparsegate-program"
VERSION = 2
ACTIVATION_BITS = range(4, 17)
WEIGHT_BITS = range(2, 17)
PRE_BITS = range(2, 19)
VALUE_BITS = range(2, 33)
"""Of gates, states and outputs."""
FRACS = range(-64, 65)
THRESHOLD_BITS = 16
MAX_THRESHOLD = (1 << THRESHOLD_BITS) - 1
"""Largest Θ: the engine's threshold inputs have 16 bits."""
EXACT = 1 << 53
"""Integers up to here are exact in float64, through which the golden model multiplies."""


RawState = Mapping[str, Mapping[str, NDArray[np.int64]]]
"""Raw states by layer and name ("h", "c", "s"), each (N, size)."""


def accumulator_bounds(bias: NDArray[np.int64], terms: Sequence[tuple[NDArray[np.int64], QFormat, int]]) -> list[int]:
    """Largest magnitude of b + Σ W x~ · 2**shift of every row, for any x~ inside its format's range.

    ``terms`` are dense raw matrices (rows, columns) with their columns' format and shift. Python integers: the bound cannot wrap.
    """
    rows = [abs(int(value)) for value in bias.reshape(-1)]
    for matrix, form, shift in terms:
        scale = -form.min << shift
        rows = [row + int(total) * scale for row, total in zip(rows, np.abs(matrix).sum(axis=1), strict=True)]
    return rows


@dataclass(frozen=True, eq=False)
class Matrix:
    """A sparse integer matrix: in every block and column exactly N entries of (index in block, weight).

    ``index`` and ``weight`` are (blocks, columns, N) with block = unit_block * gates + gate. Indices of a (block, column) are
    distinct and ascending; padding entries have weight 0.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.int64]

    @property
    def blocks(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    @property
    def entries(self) -> int:
        """N: entries of a block in a column, and the cycles they take."""
        return self.weight.shape[2]

    @classmethod
    def pack(cls, dense: NDArray[np.int64], gates: int, block: int, entries: int, name: str = "matrix") -> Matrix:
        """Pack a dense (gates * units, columns) integer matrix; too many nonzeros in a block are refused."""
        if not 1 <= entries <= block:
            raise SparseGateError(f"{name}: {entries} entries do not fit a block of {block}")
        cut = blocked(dense, gates, block)  # (unit blocks, gates, block, columns)
        unit_blocks, _, _, columns = cut.shape
        cut = cut.reshape(unit_blocks * gates, block, columns).transpose(0, 2, 1)  # (blocks, columns, block)
        count = (cut != 0).sum(axis=2)
        if count.max() > entries:
            raise SparseGateError(
                f"{name}: a column holds {count.max()} nonzeros in a block of {block}, expected at most {entries}"
            )
        # nonzeros first, then unused indices, each in ascending order
        order = np.argsort(cut == 0, axis=2, kind="stable")[:, :, :entries]
        index = np.sort(order, axis=2)
        return cls(index.astype(np.int64), np.take_along_axis(cut, index, axis=2).astype(np.int64))

    def dense(self, gates: int, units: int, block: int) -> NDArray[np.int64]:
        """Back to (gates * units, columns)."""
        full = np.zeros((self.blocks, self.columns, block), np.int64)
        np.put_along_axis(full, self.index, self.weight, axis=2)
        cut = full.transpose(0, 2, 1).reshape(self.blocks // gates, gates, block, self.columns)
        return unblocked(cut, units)

    def select(self, gates: int, chosen: Sequence[int]) -> Matrix:
        """The blocks of some of the gates, in the order given."""

        def pick(values: NDArray) -> NDArray:
            return values.reshape(-1, gates, *values.shape[1:])[:, list(chosen)].reshape(-1, *values.shape[1:])

        return self if list(chosen) == list(range(gates)) else Matrix(pick(self.index), pick(self.weight))

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))


@dataclass(frozen=True, eq=False)
class Term:
    """One sparse matrix of a phase and the vector that it multiplies.

    ``column`` is the vector's name in the cell ("x", "h", "m", "q"), ``form`` its format, ``weight`` that of the matrix;
    ``shift`` is the
    left shift of a delta that brings its products to the accumulator's binary point.
    """

    column: str
    matrix: Matrix
    form: QFormat
    weight: QFormat
    shift: int


@dataclass(frozen=True, eq=False)
class Phase:
    """A layer's walk over its units, with all that it needs: what the golden model computes and the engine sequences.

    ``formats`` are the layer's with "acc" and "h" being those of this phase: its accumulators, and the vector that it gives.
    ``bias`` is (sums, units) in the order of ``spec.sums``.
    """

    layer: QuantizedLayer
    number: int
    spec: cells.PhaseSpec
    units: int
    block: int
    formats: Mapping[str, QFormat]
    terms: tuple[Term, ...]
    bias: NDArray[np.int64]
    threshold: int

    @property
    def name(self) -> str:
        """Name of the vector that the phase gives."""
        return self.layer.name if self.spec.output == "h" else f"{self.layer.name}.{self.spec.output}"

    @property
    def gates(self) -> int:
        return len(self.spec.gates)

    @property
    def blocks(self) -> int:
        """Blocks of the phase: unit blocks * gates."""
        return -(-self.units // self.block) * self.gates

    @property
    def step_bits(self) -> int:
        return self.layer.step_bits

    @property
    def when(self) -> When:
        return self.layer.when

    @property
    def apart(self) -> tuple[int, ...]:
        """Gates (by number) whose product with the last term is summed apart."""
        return tuple(self.spec.gates.index(name) for name in self.spec.apart)

    def dense(self, term: Term) -> NDArray[np.int64]:
        """Dense raw weights of a term, (gates * units, columns)."""
        return term.matrix.dense(self.gates, self.units, self.block)

    def _rows(self, term: Term) -> NDArray[np.int64]:
        """Dense raw weights of a term as rows of sums, (sums * units, columns): what is summed apart stands in rows of its own."""
        dense = self.dense(term).reshape(self.gates, self.units, -1)
        full = np.zeros((len(self.spec.sums), self.units, dense.shape[2]), np.int64)
        full[: self.gates] = dense
        if term is self.terms[-1]:
            for at, gate in enumerate(self.apart, self.gates):
                full[at], full[gate] = dense[gate], 0
        return full.reshape(-1, dense.shape[2])

    @cached_property
    def weights(self) -> NDArray[np.int64]:
        """All terms side by side at the accumulators' binary point, (sums * units, columns of all terms).

        Rows of gates come first; those of the last term's products that are summed apart follow.
        """
        return np.concatenate([self._rows(term) << term.shift for term in self.terms], axis=1)

    @cached_property
    def bound(self) -> int:
        """Largest possible magnitude of any accumulator, at any moment.

        Every partial state is b + W x~ with x~ inside the input box, so the sum over columns of |w| times the box's half-width
        bounds the middle of a step too.
        """
        # unshifted, as a shifted weight may wrap
        return max(accumulator_bounds(self.bias, [(self._rows(term), term.form, term.shift) for term in self.terms]))

    @cached_property
    def _entries(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], ...]:
        """Of each term, row of sums, column and magnitude of its weights that are not zero, each (nonzeros,)."""
        found = []
        for term in self.terms:
            block, column, _ = at = np.nonzero(term.matrix.weight)
            unit_block, gate = np.divmod(block, self.gates)
            if term is self.terms[-1]:
                for number, apart in enumerate(self.apart, self.gates):
                    gate = np.where(gate == apart, number, gate)
            unit = unit_block * self.block + term.matrix.index[at]
            found.append((gate * self.units + unit, column, np.abs(term.matrix.weight[at])))
        return tuple(found)

    def bounds_of(self, parts: Sequence[NDArray[np.int64]], count: int) -> list[int]:
        """Largest possible magnitude of what each of ``count`` parts of the columns adds to any accumulator, at any moment.

        ``parts`` has for each term the part of every column. Python integers: the bounds cannot wrap.
        """
        key = count, *(part.tobytes() for part in parts)
        if key not in self._bounds:
            total = np.zeros(self.bias.size * count, object)
            for term, part, (row, column, magnitude) in zip(self.terms, parts, self._entries, strict=True):
                # through float64, exact as weights are short
                sums = np.bincount(row * count + part[column], magnitude, total.size).astype(np.int64)
                total += sums.astype(object) * (-term.form.min << term.shift)
            self._bounds[key] = total.reshape(-1, count).max(axis=0).tolist()
        return self._bounds[key]

    @cached_property
    def _bounds(self) -> dict[tuple[object, ...], list[int]]:
        """Those that were asked for: arrays that differ in banks or pipeline depth share their columns' parts."""
        return {}

    @cached_property
    def peak(self) -> int:
        """Largest possible magnitude of any intermediate of the phase's arithmetic."""
        return bounds.peak(self.spec, self.formats, self.bound)


WEIGHTS = {"x": "wx", "h": "wh", "q": "wh", "m": "wp"}
"""Format of the matrix that multiplies a vector: the recurrent matrix sees h, or a GRU's q = r h."""


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer of a Program.

    ``formats`` names every Q format: "x" (input columns), "h" (output), "wx", "wh", "acc" (exact accumulator), those of the cell
    ("pre", "gate", "c", ...), and with a projection "m" (the cell's output), "wp" and "acc_p". ``bias`` is (gates + gates summed
    apart, units), raw at the accumulator's binary point. ``matrix_p`` is the projection, in blocks of ``block_p`` outputs.
    ``parameters`` are the cell's constants, (units,) each. ``thresholds`` are the default Θ of the vector that each phase gives,
    in its LSBs, below which a change is not sent on (zeros where omitted). ``step_bits`` low bits of a "pre" value are interpolated
    by the activation tables. ``sources`` are the vectors that the layer takes (0 the Program's input, k + 1 the output of
    layer k; the
    layer before where empty), ``reverse`` its direction of time, ``when`` the steps on which it runs
    (``sparsegate.network.passes``).
    """

    name: str
    kind: str
    units: int
    block: int
    when: When
    formats: Mapping[str, QFormat]
    step_bits: int
    matrix_x: Matrix
    matrix_h: Matrix | None
    bias: NDArray[np.int64]
    thresholds: tuple[int, ...] = ()
    matrix_p: Matrix | None = None
    block_p: int = 1
    parameters: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    reverse: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        specs = phases_of(self.cell, self.matrix_p is not None)
        object.__setattr__(self, "thresholds", tuple(self.thresholds) or (0,) * len(specs))

    @property
    def cell(self) -> Cell:
        return cell(self.kind)

    @property
    def gates(self) -> int:
        return len(self.cell.gates)

    @property
    def inputs(self) -> int:
        return self.matrix_x.columns

    @property
    def outputs(self) -> int:
        """Size of the output: that of the projection, or the units."""
        # the recurrent matrix multiplies all of them
        return self.units if self.matrix_p is None or self.matrix_h is None else self.matrix_h.columns

    @property
    def blocks(self) -> int:
        """Blocks of the layer: unit blocks * gates."""
        return -(-self.units // self.block) * self.gates

    @property
    def sites(self) -> tuple[str, ...]:
        """Narrowing sites of all phases."""
        return tuple(site for phase in self.phases for site in phase.spec.sites)

    @property
    def carried(self) -> dict[str, int]:
        """Names and sizes of the raw values that go from one step, or sequence, to the next."""
        if not self.cell.recurrent:
            return {}
        return {"h": self.outputs} | dict.fromkeys(self.cell.states, self.units)

    @cached_property
    def w_x(self) -> NDArray[np.int64]:
        """Dense raw weights (gates * units, inputs)."""
        return self.matrix_x.dense(self.gates, self.units, self.block)

    @cached_property
    def w_h(self) -> NDArray[np.int64] | None:
        """Dense raw weights (gates * units, outputs), or None."""
        return None if self.matrix_h is None else self.matrix_h.dense(self.gates, self.units, self.block)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The layer's phases, in the order in which a step runs them."""
        form = self.formats
        matrices = {"x": self.matrix_x, "h": self.matrix_h, "q": self.matrix_h, "m": self.matrix_p}
        sums = [*self.cell.gates, *(f"{gate}_h" for gate in self.cell.apart)]
        found = []
        for number, spec in enumerate(phases_of(self.cell, self.matrix_p is not None)):
            projection = spec is cells.PROJECTION
            chosen = [self.cell.gates.index(gate) for gate in spec.gates] if not projection else [0]
            terms = []
            for column in spec.columns:
                matrix = matrices[column]
                assert matrix is not None
                weight = form[WEIGHTS[column]]
                terms.append(
                    Term(
                        column,
                        matrix.select(1 if projection else self.gates, chosen),
                        form[column],
                        weight,
                        form[spec.acc].frac - form[column].frac - weight.frac,
                    )
                )
            if projection:
                bias = np.zeros((1, self.outputs), np.int64)
            else:
                bias = self.bias[[sums.index(name) for name in spec.sums]]
            found.append(
                Phase(
                    layer=self,
                    number=number,
                    spec=spec,
                    units=self.outputs if projection else self.units,
                    block=self.block_p if projection else self.block,
                    formats={**form, "acc": form[spec.acc], "h": form[spec.output]},
                    terms=tuple(terms),
                    bias=bias,
                    threshold=self.thresholds[number],
                )
            )
        return tuple(found)

    @property
    def bound(self) -> int:
        """Largest possible magnitude of any accumulator of any phase."""
        return max(phase.bound for phase in self.phases)

    @property
    def peak(self) -> int:
        """Largest possible magnitude of any intermediate of any phase."""
        return max(phase.peak for phase in self.phases)

    def validate(self, source: QFormat) -> None:
        """Refuse anything that the golden model and the engine could not run exactly."""
        what, form = self.cell, self.formats
        at = f"layer {self.name!r}"
        needed = {"x", "h", "wx", "acc", *what.formats}
        needed |= {"wh"} if what.recurrent else set()
        needed |= {"m", "wp", "acc_p"} if self.matrix_p is not None else set()
        if set(form) != needed:
            raise SparseGateError(f"{at}: formats {sorted(form)} found, expected {sorted(needed)}")
        if form["x"] != source:
            raise SparseGateError(f"{at}: input format {form['x']} differs from its source's {source}")
        for key in what.handed:
            if form[key] != form["gate"]:
                raise SparseGateError(f"{at}: format {key} is {form[key]}, expected the gates' {form['gate']}")
        for key, value in form.items():
            if value.frac not in FRACS:
                raise SparseGateError(f"{at}: format {key} has {value.frac} fractional bits, expected -64 to 64")
        if self.inputs < 1:
            raise SparseGateError(f"{at}: it takes no inputs, expected at least 1")
        if not np.issubdtype(self.bias.dtype, np.integer):
            raise SparseGateError(f"{at}: biases of type {self.bias.dtype} found, expected integers")
        if self.step_bits and not what.functions:
            raise SparseGateError(f"{at}: step_bits is {self.step_bits}, expected 0 for a layer without tables")
        for key, allowed in (
            ("x", ACTIVATION_BITS),
            ("m", ACTIVATION_BITS),
            ("q", ACTIVATION_BITS),
            ("wx", WEIGHT_BITS),
            ("wh", WEIGHT_BITS),
            ("wp", WEIGHT_BITS),
            ("parameter", WEIGHT_BITS),
            ("pre", PRE_BITS),
            ("gate", VALUE_BITS),
            ("h", VALUE_BITS),
            *((state, VALUE_BITS) for state in what.states),
        ):
            if key in form and form[key].width not in allowed:
                raise SparseGateError(
                    f"{at}: format {key} is {form[key].width} bits wide, expected {allowed[0]} to {allowed[-1]}"
                )
        if what.recurrent and form["h"].width not in ACTIVATION_BITS:
            raise SparseGateError(f"{at}: format h is {form['h'].width} bits wide, expected 4 to 16")
        if max(self.block, self.block_p) > MAX_BLOCK:
            raise SparseGateError(
                f"{at}: blocks of {max(self.block, self.block_p)} units found, expected at most {MAX_BLOCK}"
            )
        if min(self.units, self.block, self.block_p) < 1:
            raise SparseGateError(f"{at}: {self.units} units in blocks of {self.block}, both must be positive")
        if what.recurrent != (self.matrix_h is not None):
            raise SparseGateError(
                f"{at}: a {self.kind} layer {'needs' if what.recurrent else 'has no'} recurrent matrix"
            )
        if self.matrix_p is not None and not what.projectable:
            raise SparseGateError(f"{at}: a {self.kind} layer cannot have a projection")
        if self.when not in WHEN or (self.when != "step" and what.recurrent):
            raise SparseGateError(f"{at}: a {self.kind} layer cannot run {self.when!r}")
        if self.reverse and not what.recurrent:
            raise SparseGateError(f"{at}: a {self.kind} layer has no direction of time")
        for key, matrix, columns, gates, units, block in (
            ("wx", self.matrix_x, self.inputs, self.gates, self.units, self.block),
            ("wh", self.matrix_h, self.outputs, self.gates, self.units, self.block),
            ("wp", self.matrix_p, self.units, 1, self.outputs, self.block_p),
        ):
            if matrix is not None:
                self._validate_matrix(f"{at}: {key}", matrix, columns, form[key], gates, units, block)
        rows = self.gates + len(what.apart)
        if self.bias.shape != (rows, self.units):
            raise SparseGateError(f"{at}: bias has shape {self.bias.shape}, expected {(rows, self.units)}")
        if set(self.parameters) != set(what.parameters):
            raise SparseGateError(
                f"{at}: parameters {sorted(self.parameters)} found, expected {sorted(what.parameters)}"
            )
        for key, values in self.parameters.items():
            if values.shape != (self.units,) or not np.issubdtype(values.dtype, np.integer):
                raise SparseGateError(f"{at}: {key} has shape {values.shape}, expected ({self.units},) integers")
            if values.min() < form["parameter"].min or values.max() > form["parameter"].max:
                raise SparseGateError(f"{at}: {key} has values that {form['parameter']} cannot hold")
        count = len(phases_of(what, self.matrix_p is not None))
        if len(self.thresholds) != count:
            raise SparseGateError(f"{at}: {len(self.thresholds)} thresholds found, expected {count}")
        for phase in self.phases:
            acc = phase.formats["acc"]
            if min(term.shift for term in phase.terms) < 0:
                raise SparseGateError(f"{at}: the accumulator has {acc.frac} fractional bits, fewer than its products")
            if phase.bound >= EXACT:
                raise SparseGateError(f"{at}: accumulators may reach {phase.bound}, beyond the exact range of 2**53")
            if phase.peak >= 1 << 63:
                raise SparseGateError(f"{at}: an intermediate of the cell may reach {phase.peak}, beyond 63 bits")
            if phase.bound > acc.max:
                raise SparseGateError(f"{at}: accumulators may reach {phase.bound}, but {acc} ends at {acc.max}")
            if not 0 <= phase.threshold <= MAX_THRESHOLD:
                raise SparseGateError(f"{at}: threshold {phase.threshold} found, expected 0 to {MAX_THRESHOLD}")

    @staticmethod
    def _validate_matrix(
        at: str, matrix: Matrix, columns: int, form: QFormat, gates: int, units: int, block: int
    ) -> None:
        index, weight = matrix.index, matrix.weight
        unit_blocks = -(-units // block)
        expected = (unit_blocks * gates, columns)
        if (
            index.shape != weight.shape
            or index.ndim != 3
            or index.shape[:2] != expected
            or not 1 <= matrix.entries <= block
        ):
            raise SparseGateError(
                f"{at} has entries of shape {index.shape} and {weight.shape}, expected {expected} times 1..{block} entries"
            )
        if not (np.issubdtype(index.dtype, np.integer) and np.issubdtype(weight.dtype, np.integer)):
            raise SparseGateError(f"{at} holds {index.dtype} indices and {weight.dtype} weights, expected integers")
        if index.min() < 0 or index.max() >= block:
            raise SparseGateError(f"{at} has indices in {index.min()}..{index.max()}, expected 0..{block - 1}")
        if matrix.entries > 1 and (np.diff(index, axis=2) <= 0).any():
            raise SparseGateError(f"{at}: an index repeats or descends within a block and column")
        if weight.min() < form.min or weight.max() > form.max:
            raise SparseGateError(f"{at} has weights in {weight.min()}..{weight.max()}, which {form} cannot hold")
        short = units - (unit_blocks - 1) * block  # units in the last unit block
        if (weight[-gates:][index[-gates:] >= short] != 0).any():
            raise SparseGateError(f"{at} has weights for units beyond the layer's {units}")


class _Real:
    """A layer as :func:`sparsegate.network.states_of` sees it, with the states that users know: h once, whatever its bits."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.name = layer.name
        self.carried = {key: size for key, size in layer.carried.items() if key != layer.cell.wide}


@dataclass(frozen=True)
class Vector:
    """A vector that is sent by deltas: the Program's input, or what a phase gives."""

    name: str
    size: int
    form: QFormat
    threshold: int


@dataclass(frozen=True, eq=False)
class Program:
    """Validated integer layers, the format of their input, and which layers' outputs are the Program's.

    ``output`` are vector numbers like a layer's ``sources`` (the last layer where empty); ``initial`` is the raw state in
    which a sequence
    starts where none is given, by layer and name, (size,) each.
    """

    name: str
    input_format: QFormat
    layers: tuple[QuantizedLayer, ...]
    input_threshold: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON values (accuracy, origin); neither digest covers them, and nothing is computed from them."""
    output: tuple[int, ...] = ()
    initial: RawState = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "output", tuple(self.output))
        if not self.layers:
            raise SparseGateError("a Program needs at least one layer")
        if not 0 <= self.input_threshold <= MAX_THRESHOLD:
            raise SparseGateError(f"input threshold {self.input_threshold} found, expected 0 to {MAX_THRESHOLD}")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise SparseGateError("two layers of the Program have the same name")
        forms = [
            self.input_format,
            *(layer.formats.get("h", self.input_format) for layer in self.layers),
        ]  # validated below
        sizes = [self.inputs]
        for position, (layer, taken) in enumerate(zip(self.layers, self.sources, strict=True)):
            at = f"layer {layer.name!r}"
            if not all(0 <= vector <= position for vector in taken):
                raise SparseGateError(f"{at} takes vectors {taken}, expected earlier ones, 0 to {position}")
            source = forms[taken[0]]
            if any(forms[vector] != source for vector in taken):
                raise SparseGateError(f"{at} takes vectors of different formats, expected one")
            layer.validate(source)
            width = sum(sizes[vector] for vector in taken)
            if layer.inputs != width:
                raise SparseGateError(f"{at} takes {layer.inputs} inputs, its source gives {width}")
            if layer.when != "step" and taken == (0,):
                raise SparseGateError(f"{at} runs on the {layer.when} step only, so another layer must come before it")
            sizes.append(layer.outputs)
        if not all(0 < vector <= len(self.layers) for vector in self.output_vectors):
            raise SparseGateError(f"the output is made of vectors {self.output}, expected 1 to {len(self.layers)}")
        if len({forms[vector] for vector in self.output_vectors}) != 1:
            raise SparseGateError("the output is made of vectors of different formats, expected one")
        _ = self.passes  # refuses what cannot run
        checked = self.states(self.initial, 1)
        object.__setattr__(
            self,
            "initial",
            {name: {key: checked[name][key][0] for key in parts} for name, parts in self.initial.items() if parts},
        )

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        return sum(self.layers[vector - 1].outputs for vector in self.output_vectors)

    @property
    def output_format(self) -> QFormat:
        return self.layers[self.output_vectors[0] - 1].formats["h"]

    @property
    def sources(self) -> list[tuple[int, ...]]:
        """Vectors that each layer takes: 0 the input, k + 1 the output of layer k."""
        return [layer.sources or (position,) for position, layer in enumerate(self.layers)]

    @property
    def output_vectors(self) -> tuple[int, ...]:
        """Vectors (as in :attr:`sources`) that make up the output."""
        return self.output or (len(self.layers),)

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The Program as a series of streams (``sparsegate.network.passes``)."""
        return passes(self.layers, self.sources, self.output_vectors)

    @property
    def streams(self) -> bool:
        """Whether a single forward pass runs it, so that no sequence need be buffered."""
        return len(self.passes) == 1 and not self.passes[0].reverse and self.output_vectors == (len(self.layers),)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of all layers, in the order in which they run."""
        return tuple(phase for layer in self.layers for phase in layer.phases)

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Everything that is sent by deltas: the input, then what every phase gives."""
        return (
            Vector("input", self.inputs, self.input_format, self.input_threshold),
            *(Vector(phase.name, phase.units, phase.formats["h"], phase.threshold) for phase in self.phases),
        )

    @property
    def vector_names(self) -> str:
        """Names of :attr:`vectors`, for messages."""
        return ", ".join(vector.name for vector in self.vectors)

    @property
    def thresholds(self) -> tuple[int, ...]:
        """Default Θ of each of :attr:`vectors`."""
        return tuple(vector.threshold for vector in self.vectors)

    def with_thresholds(self, *thresholds: int) -> Program:
        """The same Program with other default thresholds: one for each of :attr:`vectors`, or one for all."""
        count = len(self.phases) + 1
        if len(thresholds) == 1:
            thresholds = thresholds * count
        if len(thresholds) != count:
            raise SparseGateError(f"{len(thresholds)} thresholds given, expected 1 or {count}, for {self.vector_names}")
        left = [int(value) for value in thresholds[1:]]
        layers = []
        for layer in self.layers:
            mine, left = left[: len(layer.phases)], left[len(layer.phases) :]
            layers.append(replace(layer, thresholds=tuple(mine)))
        return replace(self, layers=tuple(layers), input_threshold=int(thresholds[0]))

    # -- states ------------------------------------------------------------------------------------------------------

    def states(self, state: RawState | None, count: int) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Raw states of all recurrent layers and names, each (count, size); zero where nothing is given (None: ``initial``)."""
        given = states_of(self.layers, self.initial if state is None else state, count)
        found: dict[str, dict[str, NDArray[np.int64]]] = {}
        for layer in self.layers:
            for key, size in layer.carried.items():
                value = given.get(layer.name, {}).get(key, np.zeros((count, size), np.int64))
                form = layer.formats[key]
                if not np.issubdtype(value.dtype, np.integer):
                    raise SparseGateError(
                        f"state {key!r} of layer {layer.name!r} holds {value.dtype}, expected raw integers;"
                        " use quantize_state first"
                    )
                if value.min() < form.min or value.max() > form.max:
                    raise SparseGateError(
                        f"state {key!r} of layer {layer.name!r} lies in {value.min()}..{value.max()}, which {form} cannot hold"
                    )
                found.setdefault(layer.name, {})[key] = value.astype(np.int64)
            wide = layer.cell.wide
            if wide is not None:
                mine = found[layer.name]
                if (mine["h"] != narrow(mine[wide], layer.formats[wide].frac, layer.formats["h"])).any():
                    raise SparseGateError(
                        f"states 'h' and {wide!r} of layer {layer.name!r} disagree; h must be {wide} narrowed"
                    )
        return found

    def quantize_state(self, state: State, count: int = 1) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Real states ("h", "c"), as :meth:`Network.evaluate` takes and gives them, to raw ones (count, size)."""
        given = states_of([_Real(layer) for layer in self.layers], state, count)
        found: dict[str, dict[str, NDArray[np.int64]]] = {}
        for layer in self.layers:
            wide = layer.cell.wide
            for key, value in given.get(layer.name, {}).items():
                mine = found.setdefault(layer.name, {})
                if key == "h" and wide is not None:
                    mine[wide] = layer.formats[wide].quantize(value)
                    mine["h"] = narrow(mine[wide], layer.formats[wide].frac, layer.formats["h"])
                else:
                    mine[key] = layer.formats[key].quantize(value)
        return self.states(found, count)

    def real_state(self, state: RawState) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Raw states to real ones: "h" with all the bits there are, and "c"."""
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        for layer in self.layers:
            parts = state.get(layer.name, {})
            for key in parts:
                if key != layer.cell.wide:
                    wide = layer.cell.wide
                    source = wide if key == "h" and wide is not None and wide in parts else key
                    found.setdefault(layer.name, {})[key] = layer.formats[source].real(parts[source])
        return found

    def quantize(self, x: ArrayLike) -> NDArray[np.int64]:
        """Real inputs (..., I) to raw inputs; values outside the calibrated range saturate."""
        return self.input_format.quantize(x)

    @cached_property
    def digest(self) -> str:
        """Content digest (hex): formats, sizes, weights, thresholds."""
        tensors, header = self._encode()
        return artefact.digest(tensors, header)

    @cached_property
    def shape_digest(self) -> str:
        """Digest of what decides the netlist: everything but weights, indices, biases, parameters, thresholds, states and names."""
        _, header = self._encode()
        shape = {
            "input": header["input"]["format"],
            "inputs": self.inputs,
            "output": header["output"],
            "layers": [
                {key: value for key, value in entry.items() if key not in ("name", "thresholds")}
                | {
                    f"entries_{key}": 0 if matrix is None else matrix.entries
                    for key, matrix in (("x", layer.matrix_x), ("h", layer.matrix_h), ("p", layer.matrix_p))
                }
                for entry, layer in zip(header["layers"], self.layers, strict=True)
            ],
        }
        return artefact.digest({}, shape)

    def _encode(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        tensors: dict[str, NDArray] = {}
        layers = []
        for position, layer in enumerate(self.layers):
            for key, matrix in (("x", layer.matrix_x), ("h", layer.matrix_h), ("p", layer.matrix_p)):
                if matrix is not None:
                    tensors[f"{position}.index_{key}"] = matrix.index.astype(np.uint16)
                    tensors[f"{position}.weight_{key}"] = matrix.weight.astype(np.int16)
            tensors[f"{position}.bias"] = layer.bias.astype(np.int64)
            for key, values in layer.parameters.items():
                tensors[f"{position}.parameter.{key}"] = values.astype(np.int64)
            for key, values in self.initial.get(layer.name, {}).items():
                tensors[f"{position}.initial.{key}"] = values.astype(np.int64)
            layers.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "units": layer.units,
                    "block": layer.block,
                    "block_p": layer.block_p,
                    "outputs": layer.outputs,
                    "when": layer.when,
                    "formats": {key: str(value) for key, value in sorted(layer.formats.items())},
                    "step_bits": layer.step_bits,
                    "thresholds": list(layer.thresholds),
                    "sources": list(layer.sources),
                    "reverse": layer.reverse,
                }
            )
        source = {"format": str(self.input_format), "threshold": self.input_threshold}
        return tensors, {"name": self.name, "input": source, "layers": layers, "output": list(self.output)}

    def save(self, path: str | Path) -> str:
        """Write safetensors with a JSON header; returns the file's digest."""
        tensors, header = self._encode()
        return artefact.save(path, FORMAT, VERSION, tensors, header | {"meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read what :meth:`save` wrote, checking digest and every bound again."""
        tensors, header = artefact.load(path, FORMAT, VERSION)
        with artefact.reading(path):
            layers, initial = [], {}
            for position, entry in enumerate(header["layers"]):

                def under(prefix: str) -> dict[str, NDArray]:
                    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

                matrices = [
                    Matrix(
                        tensors[f"{position}.index_{key}"].astype(np.int64),
                        tensors[f"{position}.weight_{key}"].astype(np.int64),
                    )
                    if f"{position}.index_{key}" in tensors
                    else None
                    for key in ("x", "h", "p")
                ]
                if matrices[0] is None:
                    raise SparseGateError(f"layer {entry['name']!r} has no input matrix")
                layers.append(
                    QuantizedLayer(
                        name=str(entry["name"]),
                        kind=str(entry["kind"]),
                        units=int(entry["units"]),
                        block=int(entry["block"]),
                        when=entry["when"],
                        formats={key: QFormat.parse(value) for key, value in entry["formats"].items()},
                        step_bits=int(entry["step_bits"]),
                        matrix_x=matrices[0],
                        matrix_h=matrices[1],
                        bias=tensors[f"{position}.bias"].astype(np.int64),
                        thresholds=tuple(int(value) for value in entry["thresholds"]),
                        matrix_p=matrices[2],
                        block_p=int(entry["block_p"]),
                        parameters=under(f"{position}.parameter."),
                        sources=tuple(int(vector) for vector in entry["sources"]),
                        reverse=bool(entry["reverse"]),
                    )
                )
                found = under(f"{position}.initial.")
                if found:
                    initial[layers[-1].name] = found
            return cls(
                name=str(header["name"]),
                input_format=QFormat.parse(header["input"]["format"]),
                layers=tuple(layers),
                input_threshold=int(header["input"]["threshold"]),
                meta=header["meta"],
                output=tuple(int(vector) for vector in header["output"]),
                initial=initial,
            )
