"""A network of float layers, independent of any framework: what every importer produces and pruning returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.cells import FloatArithmetic, cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network.passes import WHEN, Pass, When, flipped, passes, single, vectors
from sparsegate.pattern import DENSE, NM

FORMAT = "sparsegate-network"
VERSION = 1

LARGEST = 1e9
"""Largest magnitude of an input or a weight; beyond it something is wrong with the numbers, or with their unit."""


State = Mapping[str, Mapping[str, ArrayLike]]
"""States of recurrent layers by layer name and by "h", "c" ...: arrays (N, size), or (size,) for all sequences alike."""


@dataclass(frozen=True, eq=False)
class Layer:
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
                object.__setattr__(self, key, _real(value, f"{at}: {key}"))
        object.__setattr__(
            self, "parameters", {key: _real(value, f"{at}: {key}") for key, value in self.parameters.items()}
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


@dataclass(frozen=True, eq=False)
class Network:
    """Layers, each taking the outputs of the one before or of those that it names.

    ``output`` names the layers whose outputs, concatenated, are the network's: the last layer where empty. ``initial`` is the
    state in which a sequence starts where none is given, by layer; zero where it says nothing.
    """

    layers: tuple[Layer, ...]
    name: str = "network"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON values about where the weights come from; never read by the compiler."""
    output: tuple[str, ...] = ()
    initial: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "output", tuple(self.output))
        if not self.layers:
            raise SparseGateError("a network needs at least one layer")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names) or "input" in names:
            raise SparseGateError(f"layer names must differ, and none be 'input'; found {', '.join(names)}")
        sizes = [self.inputs, *(layer.outputs for layer in self.layers)]
        for layer, taken in zip(self.layers, self.sources, strict=True):
            given = sum(sizes[vector] for vector in taken)
            if given != layer.inputs:
                sources = " and ".join(repr(["the input", *names][vector]) for vector in taken)
                raise SparseGateError(
                    f"layer {layer.name!r} takes {layer.inputs} inputs, but {sources} "
                    f"{'gives' if len(taken) == 1 else 'give'} {given}"
                )
        _ = self.passes  # refuses what cannot run
        initial = {
            name: {key: _real(value, f"initial {key} of layer {name!r}") for key, value in parts.items()}
            for name, parts in states_of(self.layers, self.initial, 1).items()
        }
        object.__setattr__(
            self,
            "initial",
            {name: {key: value[0] for key, value in parts.items()} for name, parts in initial.items()},
        )

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        sizes = [layer.outputs for layer in self.layers]
        return sum(sizes[vector - 1] for vector in self.output_vectors)

    @cached_property
    def _vectors(self) -> list[tuple[int, ...]]:
        return vectors([layer.name for layer in self.layers], [layer.sources for layer in self.layers], self.output)

    @property
    def sources(self) -> list[tuple[int, ...]]:
        """Vectors that each layer takes: 0 the input, k + 1 the output of layer k."""
        return self._vectors[:-1]

    @property
    def output_vectors(self) -> tuple[int, ...]:
        """Vectors that make up the output."""
        return self._vectors[-1]

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The network as a series of streams (``sparsegate.network.passes``)."""
        return passes(self.layers, self.sources, self.output_vectors)

    @property
    def streams(self) -> bool:
        """Whether a single forward pass runs it, so that no sequence need be buffered."""
        return len(self.passes) == 1 and not self.passes[0].reverse and self.output_vectors == (len(self.layers),)

    def with_layers(self, layers: Sequence[Layer]) -> Network:
        """The same network with other layers."""
        return replace(self, layers=tuple(layers))

    def evaluate(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        state: State | None = None,
        observe: Callable[[str, str, str, NDArray], None] | None = None,
    ) -> Evaluation:
        """Run in float64.

        Parameters
        ----------
        x : (N, T, I) inputs.
        lengths : (N,) steps of each sequence, 1..T; all T where omitted.
        state : what the recurrent layers start from: layer name -> "h", "c" -> (N, size); where omitted the network's own
            ``initial``, and zero for what that leaves out. The ``state`` of an earlier evaluation continues it.
        observe : called as ``observe(layer, target, site, value)`` with the values (n,) of the sequences still running, for
            every narrowing of the fixed-point program; for calibration.

        Returns
        -------
        Evaluation
            Outputs of every layer at every step, zero past a sequence's end, and the final state.
        """
        x, lengths = sequences(x, lengths, self.inputs)
        start = states_of(self.layers, self.initial if state is None else state, len(x))
        active = np.arange(x.shape[1])[None, :] < lengths[:, None]  # (N, T)
        values = [np.where(active[:, :, None], x, 0.0)]  # of every vector
        final: dict[str, dict[str, NDArray]] = {}
        for layer, taken in zip(self.layers, self.sources, strict=True):
            parts = [values[vector] for vector in taken]
            if layer.when != "step":
                backwards = [vector > 0 and self.layers[vector - 1].reverse for vector in taken]
                parts = [
                    single(part, lengths, reverse, layer.when) for part, reverse in zip(parts, backwards, strict=True)
                ]
                out = np.zeros((*x.shape[:2], layer.outputs))
                source = np.concatenate(parts, axis=2)
                now, _ = _run_float(layer, source, np.ones((len(x), 1), bool), {}, observe)
                out[np.arange(len(x)), lengths - 1] = now[:, 0]
            else:
                source = np.concatenate(parts, axis=2)
                if layer.reverse:
                    source = flipped(source, lengths)
                out, last = _run_float(layer, source, active, start.get(layer.name, {}), observe)
                if layer.reverse:
                    out = flipped(out, lengths)
                if last:
                    final[layer.name] = last
            values.append(out)
        return Evaluation(tuple(values[1:]), lengths, final, self.output_vectors)

    def save(self, path: str | Path) -> None:
        """Write safetensors with a JSON header; whole or not at all."""
        tensors: dict[str, NDArray] = {}
        layers = []
        for index, layer in enumerate(self.layers):
            for key in ("w_x", "bias", "w_h", "bias_h", "w_p"):
                if getattr(layer, key) is not None:
                    tensors[f"{index}.{key}"] = getattr(layer, key)
            tensors |= {f"{index}.parameter.{key}": value for key, value in layer.parameters.items()}
            tensors |= {f"{index}.initial.{key}": value for key, value in self.initial.get(layer.name, {}).items()}
            layers.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "when": layer.when,
                    "pattern_x": str(layer.pattern_x),
                    "pattern_h": str(layer.pattern_h),
                    "pattern_p": str(layer.pattern_p),
                    "sources": list(layer.sources),
                    "reverse": layer.reverse,
                }
            )
        header = {"name": self.name, "layers": layers, "output": list(self.output), "meta": dict(self.meta)}
        artefact.save(path, FORMAT, VERSION, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read what :meth:`save` wrote."""
        tensors, header = artefact.load(path, FORMAT, VERSION)
        with artefact.reading(path):
            layers, initial = [], {}
            for index, entry in enumerate(header["layers"]):

                def under(prefix: str) -> dict[str, NDArray]:
                    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

                layers.append(
                    Layer(
                        name=str(entry["name"]),
                        kind=str(entry["kind"]),
                        w_x=tensors[f"{index}.w_x"],
                        w_h=tensors.get(f"{index}.w_h"),
                        bias=tensors[f"{index}.bias"],
                        when=entry["when"],
                        pattern_x=NM.parse(entry["pattern_x"]),
                        pattern_h=NM.parse(entry["pattern_h"]),
                        bias_h=tensors.get(f"{index}.bias_h"),
                        w_p=tensors.get(f"{index}.w_p"),
                        pattern_p=NM.parse(entry.get("pattern_p", "dense")),
                        parameters=under(f"{index}.parameter."),
                        sources=tuple(str(name) for name in entry.get("sources", ())),
                        reverse=bool(entry.get("reverse", False)),
                    )
                )
                found = under(f"{index}.initial.")
                if found:
                    initial[layers[-1].name] = found
            output = tuple(str(name) for name in header.get("output", ()))
            return cls(tuple(layers), str(header["name"]), header["meta"], output, initial)


@dataclass(frozen=True)
class Evaluation:
    """Outputs of every layer: arrays (N, T, size), zero past a sequence's end; ``state`` after each sequence's last step.

    ``output_vectors`` are the layers' numbers, from 1, that make up the network's output.
    """

    layers: tuple[NDArray, ...]
    lengths: NDArray[np.int64]
    state: dict[str, dict[str, NDArray]]
    output_vectors: tuple[int, ...]

    @cached_property
    def outputs(self) -> NDArray:
        """(N, T, outputs) of the network."""
        return np.concatenate([self.layers[vector - 1] for vector in self.output_vectors], axis=2)

    @property
    def last(self) -> NDArray:
        """(N, outputs) at each sequence's last step."""
        return self.outputs[np.arange(len(self.lengths)), self.lengths - 1]


class Carrier(Protocol):
    """What :func:`states_of` needs to know of a layer."""

    @property
    def name(self) -> str: ...
    @property
    def carried(self) -> dict[str, int]: ...


def states_of(layers: Sequence[Carrier], state: State, count: int) -> dict[str, dict[str, NDArray]]:
    """Check given states: known layers and names, each (count, size); one of shape (size,) serves all sequences."""
    known = {layer.name: layer.carried for layer in layers}
    if not isinstance(state, Mapping):
        raise SparseGateError(
            f"a state is a {type(state).__name__}, expected layer -> name -> array, such as {{'lstm': {{'h': h, 'c': c}}}}"
        )
    found: dict[str, dict[str, NDArray]] = {}
    for name, parts in state.items():
        if not known.get(name):
            recurrent = ", ".join(key for key, sizes in known.items() if sizes) or "none"
            raise SparseGateError(f"a state is given for {name!r}; the recurrent layers are: {recurrent}")
        if not isinstance(parts, Mapping):
            raise SparseGateError(
                f"the state of layer {name!r} is a {type(parts).__name__}, expected name -> array, with {', '.join(known[name])}"
            )
        for key, value in parts.items():
            if key not in known[name]:
                raise SparseGateError(f"layer {name!r} has no state {key!r}, it has {', '.join(known[name])}")
            at, size = f"state {key!r} of layer {name!r}", known[name][key]
            try:
                value = np.asarray(value)
            except ValueError:
                raise SparseGateError(f"{at} is ragged, expected ({count}, {size}) or ({size},)") from None
            if value.dtype.kind not in "buif":
                raise SparseGateError(f"{at} holds {value.dtype}, expected numbers")
            if not np.all(np.isfinite(value)):
                raise SparseGateError(f"{at} holds {int(np.count_nonzero(~np.isfinite(value)))} NaN or infinite values")
            if value.shape not in ((size,), (count, size)):
                raise SparseGateError(f"{at} has shape {value.shape}, expected ({count}, {size}) or ({size},)")
            found.setdefault(name, {})[key] = np.broadcast_to(value, (count, size))
    return found


def _real(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """Finite real numbers of sane magnitude."""
    value = np.ascontiguousarray(value, np.float64)
    if not np.all(np.isfinite(value)):
        raise SparseGateError(f"{name} holds {int(np.count_nonzero(~np.isfinite(value)))} NaN or infinite values")
    _check_magnitude(value, name)
    return value


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
    try:
        lengths = np.full(count, steps) if lengths is None else np.asarray(lengths)
    except ValueError:
        raise SparseGateError(f"lengths are ragged, expected ({count},) integers") from None
    if lengths.shape != (count,) or not np.issubdtype(lengths.dtype, np.integer):
        raise SparseGateError(
            f"lengths has shape {lengths.shape} and type {lengths.dtype}, expected ({count},) integers"
        )
    if lengths.min() < 1 or lengths.max() > steps:
        raise SparseGateError(f"lengths lie in {lengths.min()}..{lengths.max()}, expected 1..{steps}")
    return lengths.astype(np.int64)


def _run_float(
    layer: Layer, source: NDArray, active: NDArray, start: Mapping[str, NDArray], observe: Any
) -> tuple[NDArray, dict[str, NDArray]]:
    """One layer over whole sequences: source (N, T, I) -> outputs (N, T, size) and, of a recurrent layer, the final state."""
    what = cell(layer.kind)
    count, steps, _ = source.shape
    units = layer.units
    pre_x = source @ layer.w_x.T + layer.bias  # (N, T, G * units)
    h = np.asarray(start.get("h", np.zeros((count, layer.outputs))), np.float64)
    states = {name: np.asarray(start.get(name, np.zeros((count, units))), np.float64) for name in what.states}
    if what.wide is not None:
        states[what.wide] = h
    rows = {name: slice(g * units, (g + 1) * units) for g, name in enumerate(what.gates)}
    apart = {name: slice(g * units, (g + 1) * units) for g, name in enumerate(what.apart)}
    out = np.zeros((count, steps, layer.outputs))
    for t in range(steps):
        now = active[:, t]
        keep = now[:, None]
        vectors, handed = {"h": h}, dict(states)
        for phase in phases_of(what, layer.w_p is not None):
            see = None
            if observe is not None:

                def see(target: str, site: str, value: NDArray, output: str = phase.output, now: NDArray = now) -> None:
                    observe(layer.name, output if target == "h" else target, site, value[now])

            gates: dict[str, NDArray] = {}
            if phase.columns == ("m",):
                gates["p"] = vectors["m"] @ layer.w_p.T  # type: ignore[union-attr]
            for name in phase.gates if not gates else ():
                gates[name] = pre_x[:, t, rows[name]]
                if layer.w_h is not None:
                    product = vectors[phase.columns[1]] @ layer.w_h[rows[name]].T
                    if name in phase.apart:
                        gates[f"{name}_h"] = product + layer.bias_h[apart[name]]  # type: ignore[index]
                    else:
                        gates[name] = gates[name] + product
            step = phase.step(FloatArithmetic(gates, handed, layer.parameters, see))
            vectors[phase.output] = step.h
            handed |= step.states
        h = np.where(keep, vectors["h"], h)
        states = {name: np.where(keep, handed[name], states[name]) for name in what.states}
        out[:, t] = np.where(keep, h, 0.0)
    return out, {name: h if name == "h" else states[name] for name in layer.carried}
