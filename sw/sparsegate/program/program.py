"""The Program: integers and formats only, the contract between quantization, golden model, cycle model and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.cells.matrices import WEIGHT_FORMATS
from sparsegate.errors import SparseGateError
from sparsegate.network import State
from sparsegate.network.passes import Pass, passes
from sparsegate.numerics.fixed import QFormat
from sparsegate.program import file, states
from sparsegate.program.layer import Phase, QuantizedLayer
from sparsegate.program.states import RawState
from sparsegate.program.validate import check_program
from sparsegate.shown import Row, Shown, counted


@dataclass(frozen=True)
class Vector:
    """A vector that is sent by deltas: the Program's input, or what a phase gives."""

    name: str
    size: int
    form: QFormat
    threshold: int


@dataclass(frozen=True, eq=False, repr=False)
class Program(Shown):
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
        check_program(self.layers, self.input_format, self.input_threshold, self.sources, self.output_vectors)
        _ = self.passes  # refuses what cannot run
        checked = self.states(self.initial, 1)
        object.__setattr__(
            self,
            "initial",
            {name: {key: checked[name][key][0] for key in parts} for name, parts in self.initial.items() if parts},
        )

    @property
    def sentence(self) -> str:
        return f"{self.name!r}, {counted(len(self.layers), 'layer')}, {self.inputs} -> {self.outputs}, input {self.input_format}"

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """A row a layer: sizes, entries of a block, nonzeros, and the formats of weights, hidden values and accumulators."""
        titles = (
            "layer",
            "kind",
            "inputs",
            "outputs",
            "entries",
            "nonzeros",
            "weights",
            "outputs in",
            "accumulators",
            "Θ",
        )
        rows = [
            (
                f"{layer.name}{' (reverse)' if layer.reverse else ''}",
                layer.kind,
                layer.inputs,
                layer.outputs,
                layer.patterns(),
                sum(m.nonzeros for m in (layer.matrix_x, layer.matrix_h, layer.matrix_p) if m is not None),
                ", ".join(str(layer.formats[key]) for key in WEIGHT_FORMATS.values() if key in layer.formats),
                layer.formats["h"],
                layer.formats["acc"],
                ", ".join(map(str, layer.thresholds)),
            )
            for layer in self.layers
        ]
        return titles, rows

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

    def states(self, state: RawState | None, count: int) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Raw states of all recurrent layers and names, each (count, size); zero where nothing is given (None: ``initial``)."""
        return states.complete(self.layers, self.initial if state is None else state, count)

    def quantize_state(self, state: State, count: int = 1) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Real states ("h", "c"), as :meth:`Network.evaluate` takes and gives them, to raw ones (count, size)."""
        return states.quantized(self.layers, state, count)

    def real_state(self, state: RawState) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Raw states to real ones: "h" with all the bits there are, and "c"."""
        return states.real(self.layers, state)

    def quantize(self, x: ArrayLike) -> NDArray[np.int64]:
        """Real inputs (..., I) to raw inputs; values outside the calibrated range saturate."""
        return self.input_format.quantize(x)

    @cached_property
    def digest(self) -> str:
        """Content digest (hex): formats, sizes, weights, thresholds."""
        tensors, header = self._encoded()
        return artefact.digest(tensors, header)

    @cached_property
    def shape_digest(self) -> str:
        """Digest of what decides the netlist: everything but weights, indices, biases, parameters, thresholds, states and names."""
        _, header = self._encoded()
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

    def _encoded(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        return file.encode(self.name, self.input_format, self.input_threshold, self.layers, self.output, self.initial)

    def save(self, path: str | Path) -> str:
        """Write safetensors with a JSON header; returns the file's digest."""
        tensors, header = self._encoded()
        return artefact.save(path, file.FORMAT, file.VERSION, tensors, header | {"meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read what :meth:`save` wrote, checking digest and every bound again."""
        tensors, header = artefact.load(path, file.FORMAT, file.VERSION)
        with artefact.reading(path):
            return cls(**file.decode(tensors, header))
