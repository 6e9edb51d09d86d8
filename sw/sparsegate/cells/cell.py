"""What a cell is: gates, states and one arithmetic program, written once and run by every level.

A cell's :meth:`Cell.step` is written against :class:`Arithmetic`. Handing it different arithmetics gives the float
evaluator, the golden model, the torch fake-quantization (``sparsegate.training.fake_quant``) and the RTL pipeline
(``sparsegate_hw.engine.lane``), so the sequence of roundings cannot differ between them; what each operation *does* is
implemented and tested separately at each level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from sparsegate.numerics import tables
from sparsegate.numerics.fixed import QFormat, narrow


class Arithmetic(Protocol):
    """The operations a cell may use. Values are opaque to the cell; all but ``narrow`` and ``lookup`` are exact.

    Format names ("pre", "gate", "c", "h", ...) are resolved by the arithmetic from the layer's formats.
    """

    def gate(self, name: str) -> Any:
        """Exact pre-activation ``b + Wx x + Wh h`` of one gate, in format "acc"."""

    def state(self, name: str) -> Any:
        """The state before this step, in the format of the same name."""

    def parameter(self, name: str) -> Any:
        """A constant of the unit (a peephole weight), in format "parameter"."""

    def mul(self, a: Any, b: Any) -> Any:
        """Exact product."""

    def add(self, a: Any, b: Any) -> Any:
        """Exact sum, binary points aligned."""

    def sub(self, a: Any, b: Any) -> Any:
        """Exact difference, binary points aligned."""

    def one(self) -> Any:
        """The constant 1, in format "gate"."""

    def relu(self, value: Any) -> Any:
        """The value, or 0 where it is negative; exact."""

    def narrow(self, value: Any, target: str, site: str, symmetric: bool = False) -> Any:
        """One rounding, then saturation to the format ``target``; saturations are counted under ``site``."""

    def lookup(self, function: str, value: Any) -> Any:
        """Table ``function`` of a value in "pre" (symmetrically saturated), giving "gate"."""


@dataclass(frozen=True)
class Step:
    """What a step of a cell gives: the output ``h`` and the new states."""

    h: Any
    states: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseSpec:
    """One walk of the array over a layer's units: sparse products into accumulators, then arithmetic on each unit.

    ``output`` names the vector it produces: "h", or one that only a later phase of the layer sees. ``gates`` are the rows of
    its matrices, ``columns`` the vectors that they multiply: "x" (the layer's input), "h" (its output, one step earlier), or an
    inner vector of this step. ``apart`` names gates whose product with the last of ``columns`` has an accumulator and a bias
    of its own, which :meth:`step` sees as gate ``<name>_h``. ``acc`` is the name of the accumulators' format.
    """

    output: str
    gates: tuple[str, ...]
    columns: tuple[str, ...]
    sites: tuple[str, ...]
    step: Callable[[Arithmetic], Step]
    apart: tuple[str, ...] = ()
    acc: str = "acc"

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of all accumulators of a unit: the gates, then those kept apart."""
        return (*self.gates, *(f"{gate}_h" for gate in self.apart))


class Cell(ABC):
    """One kind of recurrent or feed-forward layer, seen from a single unit.

    Most cells are one phase, told by the attributes and :meth:`step`; a cell that needs more overrides :attr:`phases`.
    """

    kind: ClassVar[str]
    """Name in files and messages."""
    gates: ClassVar[tuple[str, ...]]
    """Gate names, in the order of the rows of the weight matrices."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Gates whose recurrent product is summed apart, with a bias of its own (``bias_h`` of a layer)."""
    recurrent: ClassVar[bool]
    """Whether there is a matrix Wh over the layer's own output."""
    projectable: ClassVar[bool] = False
    """Whether a projection may follow, whose output is then what Wh multiplies."""
    bounded: ClassVar[bool] = False
    """Whether the output lies within -1..1 by construction."""
    states: ClassVar[tuple[str, ...]] = ()
    """States kept beside h from step to step; each has a format of its own name."""
    wide: ClassVar[str | None] = None
    """The state that is h itself with more bits, if there is one."""
    handed: ClassVar[tuple[str, ...]] = ()
    """Values, like states, that one phase hands to a later one of the same step; each has a format of its own name, or "gate"."""
    parameters: ClassVar[tuple[str, ...]] = ()
    """Constants of a unit beside its weights and biases, in format "parameter"."""
    formats: ClassVar[tuple[str, ...]]
    """Names of the formats that the arithmetic uses, beside x, h, acc, wx and wh."""
    sites: ClassVar[tuple[str, ...]]
    """Names of the narrowing sites in the order in which the phases reach them."""
    functions: ClassVar[tuple[str, ...]] = ()
    """Activation tables that the arithmetic uses."""

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """The phases of a step, in order; the last one gives h."""
        columns = ("x", "h") if self.recurrent else ("x",)
        return (PhaseSpec("h", self.gates, columns, self.sites, self.step, self.apart),)

    @abstractmethod
    def step(self, a: Arithmetic) -> Step:
        """One time step of one unit, where it takes a single phase."""


def _project(a: Arithmetic) -> Step:
    return Step(a.narrow(a.gate("p"), "h", "p"))


PROJECTION = PhaseSpec("h", ("p",), ("m",), ("p",), _project, acc="acc_p")
"""What follows a cell whose layer has a projection (Sak et al. 2014, eq. 7): h = round(Wp m), where m is the cell's output."""


def phases_of(what: Cell, projected: bool) -> tuple[PhaseSpec, ...]:
    """The phases of a layer: those of its cell, and the projection."""
    if not projected:
        return what.phases
    *before, last = what.phases
    return (*before, replace(last, output="m"), PROJECTION)


class FloatArithmetic:
    """Real numbers: narrowing does nothing. ``observe(target, site, value)`` sees each value that would be narrowed."""

    def __init__(
        self,
        gates: Mapping[str, Any],
        states: Mapping[str, Any],
        parameters: Mapping[str, Any],
        observe: Callable[[str, str, Any], None] | None = None,
    ) -> None:
        self._gates, self._states, self._parameters, self._observe = gates, states, parameters, observe

    def gate(self, name: str) -> Any:
        return self._gates[name]

    def state(self, name: str) -> Any:
        return self._states[name]

    def parameter(self, name: str) -> Any:
        return self._parameters[name]

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def one(self) -> float:
        return 1.0

    def relu(self, value: Any) -> Any:
        return np.maximum(value, 0.0)

    def narrow(self, value: Any, target: str, site: str, symmetric: bool = False) -> Any:
        if self._observe is not None:
            self._observe(target, site, value)
        return value

    def lookup(self, function: str, value: Any) -> Any:
        return tables.exact(function, value)


@dataclass(frozen=True)
class Fixed:
    """Integers and the position of their binary point."""

    raw: Any
    frac: int


class IntegerArithmetic:
    """The golden model's arithmetic on integer arrays. ``observe(site, before, after)`` sees each narrowing.

    The arrays' type must hold every intermediate; the caller proves that it does.
    """

    def __init__(
        self,
        formats: Mapping[str, QFormat],
        step_bits: int,
        gates: Mapping[str, Any],
        states: Mapping[str, Any],
        parameters: Mapping[str, Any],
        observe: Callable[[str, Fixed, Fixed], None] | None = None,
    ) -> None:
        self._formats, self._step_bits = formats, step_bits
        self._gates, self._states, self._parameters, self._observe = gates, states, parameters, observe

    def gate(self, name: str) -> Fixed:
        return Fixed(self._gates[name], self._formats["acc"].frac)

    def state(self, name: str) -> Fixed:
        return Fixed(self._states[name], self._formats[name].frac)

    def parameter(self, name: str) -> Fixed:
        return Fixed(self._parameters[name], self._formats["parameter"].frac)

    def mul(self, a: Fixed, b: Fixed) -> Fixed:
        return Fixed(a.raw * b.raw, a.frac + b.frac)

    def add(self, a: Fixed, b: Fixed) -> Fixed:
        frac = max(a.frac, b.frac)
        return Fixed((a.raw << (frac - a.frac)) + (b.raw << (frac - b.frac)), frac)

    def sub(self, a: Fixed, b: Fixed) -> Fixed:
        frac = max(a.frac, b.frac)
        return Fixed((a.raw << (frac - a.frac)) - (b.raw << (frac - b.frac)), frac)

    def one(self) -> Fixed:
        frac = self._formats["gate"].frac
        return Fixed(1 << frac, frac)

    def relu(self, value: Fixed) -> Fixed:
        return Fixed(np.maximum(value.raw, 0), value.frac)

    def narrow(self, value: Fixed, target: str, site: str, symmetric: bool = False) -> Fixed:
        form = self._formats[target]
        narrowed = Fixed(narrow(value.raw, value.frac, form, symmetric), form.frac)
        if self._observe is not None:
            self._observe(site, value, narrowed)
        return narrowed

    def lookup(self, function: str, value: Fixed) -> Fixed:
        source, target = self._formats["pre"], self._formats["gate"]
        table = tables.table(function, source, target, self._step_bits)
        raw = np.asarray(value.raw)
        return Fixed(table.full_of(raw.dtype).take(raw + source.max), target.frac)
