"""A network of float layers, independent of any framework: what every importer produces and pruning returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.errors import SparseGateError
from sparsegate.network.checks import State, real, states_of
from sparsegate.network.evaluate import Evaluation, Observe, evaluate
from sparsegate.network.layer import Layer
from sparsegate.network.passes import Pass, passes, vectors
from sparsegate.pattern import NM
from sparsegate.shown import Row, Shown, counted

FORMAT = "sparsegate-network"
VERSION = 1


@dataclass(frozen=True, eq=False, repr=False)
class Network(Shown):
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
            name: {key: real(value, f"initial {key} of layer {name!r}") for key, value in parts.items()}
            for name, parts in states_of(self.layers, self.initial, 1).items()
        }
        object.__setattr__(
            self,
            "initial",
            {name: {key: value[0] for key, value in parts.items()} for name, parts in initial.items()},
        )

    @property
    def sentence(self) -> str:
        return f"{self.name!r}, {counted(len(self.layers), 'layer')}, {self.inputs} -> {self.outputs}"

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """A row a layer: sizes, the patterns that its matrices obey, weights and those that are not zero, when it runs."""
        rows = []
        for layer in self.layers:
            matrices = [
                (w, pattern)
                for w, pattern in (
                    (layer.w_x, layer.pattern_x),
                    (layer.w_h, layer.pattern_h),
                    (layer.w_p, layer.pattern_p),
                )
                if w is not None
            ]
            size, nonzeros = (sum(int(f(w)) for w, _ in matrices) for f in (np.size, np.count_nonzero))
            name = f"{layer.name}{' (reverse)' if layer.reverse else ''}"
            patterns = ", ".join(str(pattern) for _, pattern in matrices)
            rows.append((name, layer.kind, layer.inputs, layer.outputs, patterns, size, nonzeros, layer.when))
        return ("layer", "kind", "inputs", "outputs", "patterns", "weights", "nonzeros", "runs at"), rows

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
        observe: Observe | None = None,
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
        start = self.initial if state is None else state
        return evaluate(self.layers, self.sources, self.output_vectors, x, lengths, start, observe)

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
