"""A network of float layers, independent of any framework: what every importer produces and pruning returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact, pattern
from sparsegate.cells import FloatArithmetic, cell
from sparsegate.errors import SparseGateError
from sparsegate.pattern import DENSE, NM

FORMAT = "sparsegate-network"
VERSION = 1

When = Literal["step", "last"]

LARGEST = 1e9
"""Largest magnitude of an input or a weight; beyond it something is wrong with the numbers, or with their unit."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of float weights.

    ``w_x`` is (gates * units, inputs), ``w_h`` (gates * units, units) or None, ``bias`` (gates * units), gate-major in the
    cell's gate order. ``when`` says whether the layer runs at every step or only on a sequence's last step (the latter only
    for a final, non-recurrent layer). ``pattern_x`` and ``pattern_h`` are the N:M patterns that the matrices obey.
    """

    name: str
    kind: str
    w_x: NDArray[np.float64]
    w_h: NDArray[np.float64] | None
    bias: NDArray[np.float64]
    when: When = "step"
    pattern_x: NM = DENSE
    pattern_h: NM = DENSE

    def __post_init__(self) -> None:
        what = cell(self.kind)
        gates = len(what.gates)
        for key in ("w_x", "w_h", "bias"):
            value = getattr(self, key)
            if value is None:
                continue
            value = np.ascontiguousarray(value, np.float64)
            object.__setattr__(self, key, value)
            if not np.all(np.isfinite(value)):
                bad = int(np.count_nonzero(~np.isfinite(value)))
                raise SparseGateError(f"layer {self.name!r}: {key} holds {bad} NaN or infinite values")
            _check_magnitude(value, f"layer {self.name!r}: {key}")
        if self.w_x.ndim != 2 or self.w_x.shape[0] % gates or 0 in self.w_x.shape:
            raise SparseGateError(
                f"layer {self.name!r}: w_x has shape {self.w_x.shape}, expected ({gates} gates * units, inputs)"
            )
        if self.bias.shape != (gates * self.units,):
            raise SparseGateError(
                f"layer {self.name!r}: bias has shape {self.bias.shape}, expected ({gates * self.units},) for {self.units} units"
            )
        if what.recurrent != (self.w_h is not None):
            raise SparseGateError(
                f"layer {self.name!r}: a {self.kind} layer {'needs' if what.recurrent else 'has no'} w_h"
            )
        if self.w_h is not None and self.w_h.shape != (gates * self.units, self.units):
            raise SparseGateError(
                f"layer {self.name!r}: w_h has shape {self.w_h.shape}, expected {(gates * self.units, self.units)}"
            )
        if self.when not in ("step", "last"):
            raise SparseGateError(f"layer {self.name!r}: when is 'step' or 'last', not {self.when!r}")
        if self.when == "last" and what.recurrent:
            raise SparseGateError(f"layer {self.name!r}: a recurrent layer runs at every step, not only on the last")
        pattern.check(self.w_x, gates, self.pattern_x, f"layer {self.name!r}: w_x")
        if self.w_h is not None:
            pattern.check(self.w_h, gates, self.pattern_h, f"layer {self.name!r}: w_h")

    @property
    def gates(self) -> int:
        """Number of gates."""
        return len(cell(self.kind).gates)

    @property
    def units(self) -> int:
        """Number of outputs."""
        return self.w_x.shape[0] // self.gates

    @property
    def inputs(self) -> int:
        return self.w_x.shape[1]


@dataclass(frozen=True, eq=False)
class Network:
    """A chain of layers; each takes the outputs of the one before."""

    layers: tuple[Layer, ...]
    name: str = "network"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON values about where the weights come from; never read by the compiler."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise SparseGateError("a network needs at least one layer")
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if before.units != after.inputs:
                raise SparseGateError(
                    f"layer {after.name!r} takes {after.inputs} inputs, but {before.name!r} before it gives {before.units}"
                )
            if before.when == "last":
                raise SparseGateError(f"layer {before.name!r} runs on the last step only, so nothing may follow it")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise SparseGateError(f"layer names must differ, found {', '.join(names)}")

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        return self.layers[-1].units

    def with_layers(self, layers: Sequence[Layer]) -> Network:
        """The same network with other layers."""
        return replace(self, layers=tuple(layers))

    def evaluate(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        observe: Callable[[str, str, str, NDArray], None] | None = None,
    ) -> Evaluation:
        """Run in float64.

        Parameters
        ----------
        x : (N, T, I) inputs.
        lengths : (N,) steps of each sequence, 1..T; all T where omitted.
        observe : called as ``observe(layer, target, site, value)`` with the values (n,) of the sequences still running, for
            every narrowing of the fixed-point program; for calibration.

        Returns
        -------
        Evaluation
            Outputs of every layer at every step; steps past a sequence's end are 0.
        """
        x, lengths = sequences(x, lengths, self.inputs)
        active = np.arange(x.shape[1])[None, :] < lengths[:, None]  # (N, T)
        outputs = []
        source = np.where(active[:, :, None], x, 0.0)
        for layer in self.layers:
            source = _run_float(layer, source, active, observe)
            outputs.append(source)
        if self.layers[-1].when == "last":
            source = np.where((np.arange(x.shape[1])[None, :] == lengths[:, None] - 1)[:, :, None], source, 0.0)
            outputs[-1] = source
        return Evaluation(tuple(outputs), lengths)

    def save(self, path: str | Path) -> None:
        """Write safetensors with a JSON header; whole or not at all."""
        tensors: dict[str, NDArray] = {}
        layers = []
        for index, layer in enumerate(self.layers):
            tensors[f"{index}.w_x"] = layer.w_x
            tensors[f"{index}.bias"] = layer.bias
            if layer.w_h is not None:
                tensors[f"{index}.w_h"] = layer.w_h
            layers.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "when": layer.when,
                    "pattern_x": str(layer.pattern_x),
                    "pattern_h": str(layer.pattern_h),
                }
            )
        artefact.save(path, FORMAT, VERSION, tensors, {"name": self.name, "layers": layers, "meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read what :meth:`save` wrote."""
        tensors, header = artefact.load(path, FORMAT, VERSION)
        with artefact.reading(path):
            layers = [
                Layer(
                    name=str(entry["name"]),
                    kind=str(entry["kind"]),
                    w_x=tensors[f"{index}.w_x"],
                    w_h=tensors.get(f"{index}.w_h"),
                    bias=tensors[f"{index}.bias"],
                    when=entry["when"],
                    pattern_x=NM.parse(entry["pattern_x"]),
                    pattern_h=NM.parse(entry["pattern_h"]),
                )
                for index, entry in enumerate(header["layers"])
            ]
            return cls(tuple(layers), str(header["name"]), header["meta"])


@dataclass(frozen=True)
class Evaluation:
    """Outputs of every layer: arrays (N, T, units), zero past a sequence's end."""

    layers: tuple[NDArray, ...]
    lengths: NDArray[np.int64]

    @property
    def outputs(self) -> NDArray:
        """(N, T, outputs) of the last layer."""
        return self.layers[-1]

    @property
    def last(self) -> NDArray:
        """(N, outputs) at each sequence's last step."""
        return self.outputs[np.arange(len(self.lengths)), self.lengths - 1]


def sequences(x: ArrayLike, lengths: ArrayLike | None, inputs: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check a batch of sequences: x (N, T, I) finite reals within :data:`LARGEST`, lengths (N,) in 1..T."""
    try:
        x = np.asarray(x)
    except ValueError:
        raise SparseGateError(f"x is ragged, expected (N, T, {inputs}): pad the sequences and give lengths") from None
    if x.dtype.kind not in "buif":
        raise SparseGateError(f"x holds values of type {x.dtype}, expected real numbers")
    x = x.astype(np.float64, copy=False)
    lengths = lengths_of(x.shape, lengths, inputs)
    real = x[np.arange(x.shape[1])[None, :] < lengths[:, None]]
    if not np.all(np.isfinite(real)):
        raise SparseGateError(f"x holds {int(np.count_nonzero(~np.isfinite(real)))} NaN or infinite values")
    _check_magnitude(real, "x")
    return x, lengths


def _check_magnitude(values: NDArray, name: str) -> None:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST:
        raise SparseGateError(f"{name} reaches a magnitude of {largest:g}, expected at most {LARGEST:g}")


def lengths_of(shape: tuple[int, ...], lengths: ArrayLike | None, inputs: int) -> NDArray[np.int64]:
    """Check the shape of a batch of sequences, (N, T, I), and their lengths, (N,) in 1..T."""
    if len(shape) != 3 or shape[2] != inputs or 0 in shape:
        raise SparseGateError(f"x has shape {shape}, expected (N, T, {inputs})")
    count, steps, _ = shape
    lengths = np.full(count, steps) if lengths is None else np.asarray(lengths)
    if lengths.shape != (count,) or not np.issubdtype(lengths.dtype, np.integer):
        raise SparseGateError(
            f"lengths has shape {lengths.shape} and type {lengths.dtype}, expected ({count},) integers"
        )
    if lengths.min() < 1 or lengths.max() > steps:
        raise SparseGateError(f"lengths lie in {lengths.min()}..{lengths.max()}, expected 1..{steps}")
    return lengths.astype(np.int64)


def _run_float(layer: Layer, source: NDArray, active: NDArray, observe: Any) -> NDArray:
    """One layer over whole sequences: source (N, T, I) -> (N, T, units)."""
    what = cell(layer.kind)
    count, steps, _ = source.shape
    units = layer.units
    pre_x = source @ layer.w_x.T + layer.bias  # (N, T, G * units)
    h = np.zeros((count, units))
    states = {name: np.zeros((count, units)) for name in what.states}
    out = np.zeros((count, steps, units))
    for t in range(steps):
        now = active[:, t]
        pre = pre_x[:, t] if layer.w_h is None else pre_x[:, t] + h @ layer.w_h.T
        gates = {name: pre[:, g * units : (g + 1) * units] for g, name in enumerate(what.gates)}
        see = None
        if observe is not None:

            def see(target: str, site: str, value: NDArray, now: NDArray = now) -> None:
                observe(layer.name, target, site, value[now])

        step = what.step(FloatArithmetic(gates, states, see))
        keep = now[:, None]
        h = np.where(keep, step.h, h)
        states = {name: np.where(keep, value, states[name]) for name, value in step.states.items()}
        out[:, t] = np.where(keep, h, 0.0)
    return out
