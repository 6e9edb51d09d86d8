"""A layer of integers, and its phases: walks over its units, with all that a golden model computes and an engine sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsegate import cells
from sparsegate.cells import Cell, bounds, cell, phases_of
from sparsegate.cells.matrices import MATRIX_OF, WEIGHT_FORMATS
from sparsegate.network.passes import When
from sparsegate.numerics.fixed import QFormat
from sparsegate.program.limits import accumulator_bounds
from sparsegate.program.matrix import Matrix
from sparsegate.shown import Shown, counted


@dataclass(frozen=True, eq=False, repr=False)
class Term(Shown):
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

    @property
    def sentence(self) -> str:
        return f"{self.column}, {self.form} columns times {self.weight} weights, {self.matrix.sentence}"


@dataclass(frozen=True, eq=False, repr=False)
class Phase(Shown):
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
    def sentence(self) -> str:
        columns = ", ".join(term.column for term in self.terms)
        return f"{self.name}, {counted(self.units, 'unit')} in blocks of {self.block}, columns {columns}"

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


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedLayer(Shown):
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
    def sentence(self) -> str:
        nonzeros = sum(
            matrix.nonzeros for matrix in (self.matrix_x, self.matrix_h, self.matrix_p) if matrix is not None
        )
        return f"{self.name}, {self.kind}, {self.inputs} -> {self.outputs}, {counted(nonzeros, 'nonzero')}"

    def patterns(self) -> str:
        """Entries and block length of each matrix, as "2:8" of Wx, Wh and the projection."""
        matrices = ((self.matrix_x, self.block), (self.matrix_h, self.block), (self.matrix_p, self.block_p))
        return ", ".join(f"{matrix.entries}:{block}" for matrix, block in matrices if matrix is not None)

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
                weight = form[WEIGHT_FORMATS[MATRIX_OF[column]]]
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
