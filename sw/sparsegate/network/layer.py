"""A layer of float weights, and the patterns that they obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells import cell
from sparsegate.errors import SparseGateError
from sparsegate.network.checks import real
from sparsegate.network.passes import WHEN, When
from sparsegate.pattern import DENSE, NM
from sparsegate.shown import Shown, counted


@dataclass(frozen=True, eq=False, repr=False)
class Layer(Shown):
    """One layer of float weights.

    ``w_x`` is (gates * units, inputs), ``w_h`` (gates * units, outputs) or None, ``bias`` (gates * units), gate-major in the
    cell's gate order. ``bias_h`` (units for each of the cell's ``apart`` gates) is the bias inside of a GRU's reset.
    ``w_p`` (outputs, units) is the projection, if there is one. ``parameters`` are the cell's constants of a unit, (units,) each.
    ``when`` says whether the layer runs at every step, or on a sequence's last or final one (only the last layer, if it is not
    recurrent; see ``sparsegate.network.passes``). ``sources`` names the layers (or "input") whose outputs, concatenated,
    it takes: the layer before where empty. ``reverse``: it runs backwards in time. ``pattern_x``, ``pattern_h`` and
    ``pattern_p`` are the N:M patterns that the matrices obey.
    """

    name: str
    kind: str
    w_x: NDArray[np.float64]
    w_h: NDArray[np.float64] | None
    bias: NDArray[np.float64]
    when: When = "step"
    pattern_x: NM = DENSE
    pattern_h: NM = DENSE
    bias_h: NDArray[np.float64] | None = None
    w_p: NDArray[np.float64] | None = None
    pattern_p: NM = DENSE
    parameters: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    reverse: bool = False

    def __post_init__(self) -> None:
        what = cell(self.kind)
        gates = len(what.gates)
        at = f"layer {self.name!r}"
        object.__setattr__(self, "sources", tuple(self.sources))
        for key in ("w_x", "w_h", "bias", "bias_h", "w_p"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, real(value, f"{at}: {key}"))
        object.__setattr__(
            self, "parameters", {key: real(value, f"{at}: {key}") for key, value in self.parameters.items()}
        )
        if self.w_x.ndim != 2 or self.w_x.shape[0] % gates or 0 in self.w_x.shape:
            raise SparseGateError(f"{at}: w_x has shape {self.w_x.shape}, expected ({gates} gates * units, inputs)")
        if what.recurrent != (self.w_h is not None):
            raise SparseGateError(f"{at}: a {self.kind} layer {'needs' if what.recurrent else 'has no'} w_h")
        if self.w_p is not None and not what.projectable:
            raise SparseGateError(f"{at}: a {self.kind} layer cannot have a projection")
        if bool(what.apart) != (self.bias_h is not None):
            raise SparseGateError(f"{at}: a {self.kind} layer {'needs' if what.apart else 'has no'} bias_h")
        if self.w_p is not None and (
            self.w_p.ndim != 2 or self.w_p.shape[1] != self.units or not 1 <= self.w_p.shape[0] <= self.units
        ):
            raise SparseGateError(
                f"{at}: w_p has shape {self.w_p.shape}, expected (1 to {self.units} outputs, {self.units} units)"
            )
        shapes: dict[str, tuple[NDArray | None, tuple[int, ...]]] = {
            "bias": (self.bias, (gates * self.units,)),
            "w_h": (self.w_h, (gates * self.units, self.outputs)),
            "bias_h": (self.bias_h, (len(what.apart) * self.units,)),
            **{key: (value, (self.units,)) for key, value in self.parameters.items()},
        }
        for key, (value, shape) in shapes.items():
            if value is not None and value.shape != shape:
                raise SparseGateError(f"{at}: {key} has shape {value.shape}, expected {shape} for {self.units} units")
        if set(self.parameters) != set(what.parameters):
            raise SparseGateError(
                f"{at}: parameters {', '.join(self.parameters) or 'none'} found, expected {', '.join(what.parameters) or 'none'}"
            )
        if self.when not in WHEN:
            raise SparseGateError(f"{at}: when is 'step', 'last' or 'final', not {self.when!r}")
        if self.when != "step" and what.recurrent:
            raise SparseGateError(f"{at}: a recurrent layer runs at every step, not only on the last")
        if self.reverse and not what.recurrent:
            raise SparseGateError(f"{at}: a {self.kind} layer has no direction of time, so reverse must be False")
        self.pattern_x.check(self.w_x, gates, f"{at}: w_x")
        if self.w_h is not None:
            self.pattern_h.check(self.w_h, gates, f"{at}: w_h")
        if self.w_p is not None:
            self.pattern_p.check(self.w_p, 1, f"{at}: w_p")

    @property
    def sentence(self) -> str:
        nonzeros = sum(int(np.count_nonzero(w)) for w in (self.w_x, self.w_h, self.w_p) if w is not None)
        return f"{self.name}, {self.kind}, {self.inputs} -> {self.outputs}, {counted(nonzeros, 'nonzero')}"

    @property
    def gates(self) -> int:
        """Number of gates."""
        return len(cell(self.kind).gates)

    @property
    def units(self) -> int:
        """Number of hidden units."""
        return self.w_x.shape[0] // self.gates

    @property
    def outputs(self) -> int:
        """Size of the output: that of the projection, or the units."""
        return self.units if self.w_p is None else self.w_p.shape[0]

    @property
    def inputs(self) -> int:
        return self.w_x.shape[1]

    @property
    def carried(self) -> dict[str, int]:
        """Names and sizes of what a user hands from one sequence to another: h, and the states that are not h itself."""
        what = cell(self.kind)
        if not what.recurrent:
            return {}
        return {"h": self.outputs} | {name: self.units for name in what.states if name != what.wide}
