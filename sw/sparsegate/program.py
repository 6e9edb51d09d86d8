"""The Program: integers and formats only, the contract between quantization, golden model, cycle model and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.activation import table
from sparsegate.cells import Cell, bounds, cell
from sparsegate.errors import SparseGateError
from sparsegate.fixed import QFormat
from sparsegate.pattern import blocked, unblocked

FORMAT = "sparsegate-program"
VERSION = 1
ACTIVATION_BITS = range(4, 17)
WEIGHT_BITS = range(2, 17)
PRE_BITS = range(2, 19)
FRACS = range(-64, 65)
THRESHOLD_BITS = 16
MAX_THRESHOLD = (1 << THRESHOLD_BITS) - 1
"""Largest Θ: the engine's threshold inputs have 16 bits."""
EXACT = 1 << 53
"""Integers up to here are exact in float64, through which the golden model multiplies."""


def accumulator_bound(bias: NDArray[np.int64], terms: Sequence[tuple[NDArray[np.int64], QFormat, int]]) -> int:
    """Largest magnitude of b + Σ W x~ · 2**shift over rows, for any x~ inside its format's range.

    ``terms`` are dense raw matrices (rows, columns) with their columns' format and shift. Python integers: the bound cannot wrap.
    """
    rows = [abs(int(value)) for value in bias.reshape(-1)]
    for matrix, form, shift in terms:
        scale = -form.min << shift
        rows = [row + int(total) * scale for row, total in zip(rows, np.abs(matrix).sum(axis=1), strict=True)]
    return max(rows)


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

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a Program.

    ``formats`` names every Q format: "x" (input columns), "h" (output), "wx", "wh", "acc" (exact accumulator), and those of
    the cell ("pre", "gate", "c", ...). ``bias`` is (gates, units), raw at the accumulator's binary point. ``threshold`` is
    the default Θ, in LSBs of "h", below which a change of an output is not sent on. ``step_bits`` low bits of a "pre" value are
    interpolated by the activation tables.
    """

    name: str
    kind: str
    units: int
    block: int
    when: Literal["step", "last"]
    formats: Mapping[str, QFormat]
    step_bits: int
    matrix_x: Matrix
    matrix_h: Matrix | None
    bias: NDArray[np.int64]
    threshold: int = 0

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
    def blocks(self) -> int:
        """Blocks of the layer: unit blocks * gates."""
        return -(-self.units // self.block) * self.gates

    @cached_property
    def w_x(self) -> NDArray[np.int64]:
        """Dense raw weights (gates * units, inputs)."""
        return self.matrix_x.dense(self.gates, self.units, self.block)

    @cached_property
    def w_h(self) -> NDArray[np.int64] | None:
        """Dense raw weights (gates * units, units), or None."""
        return None if self.matrix_h is None else self.matrix_h.dense(self.gates, self.units, self.block)

    @property
    def shift_x(self) -> int:
        """Left shift of an input delta that brings its products to the accumulator's binary point."""
        return self.formats["acc"].frac - self.formats["x"].frac - self.formats["wx"].frac

    @property
    def shift_h(self) -> int:
        """The same for deltas of the layer's own output."""
        return (
            self.formats["acc"].frac - self.formats["h"].frac - self.formats["wh"].frac if "wh" in self.formats else 0
        )

    @cached_property
    def bound(self) -> int:
        """Largest possible magnitude of any accumulator, at any moment.

        Every partial state is b + W x~ with x~ inside the input box, so the sum over columns of |w| times the box's half-width
        bounds the middle of a step too.
        """
        terms = [(self.w_x, self.formats["x"], self.shift_x)]
        if self.w_h is not None:
            terms.append((self.w_h, self.formats["h"], self.shift_h))
        return accumulator_bound(self.bias, terms)

    @cached_property
    def peak(self) -> int:
        """Largest possible magnitude of any intermediate of the layer's cell."""
        return bounds.peak(self.cell, self.formats, self.bound)

    def validate(self, source: QFormat) -> None:
        """Refuse anything that the golden model and the engine could not run exactly."""
        what, form = self.cell, self.formats
        at = f"layer {self.name!r}"
        needed = {"x", "h", "wx", "acc", *what.formats, *(("wh",) if what.recurrent else ())}
        if set(form) != needed:
            raise SparseGateError(f"{at}: formats {sorted(form)} found, expected {sorted(needed)}")
        if form["x"] != source:
            raise SparseGateError(f"{at}: input format {form['x']} differs from its source's {source}")
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
            ("wx", WEIGHT_BITS),
            ("wh", WEIGHT_BITS),
            ("pre", PRE_BITS),
        ):
            if key in form and form[key].width not in allowed:
                raise SparseGateError(
                    f"{at}: format {key} is {form[key].width} bits wide, expected {allowed[0]} to {allowed[-1]}"
                )
        if what.recurrent and form["h"].width not in ACTIVATION_BITS:
            raise SparseGateError(f"{at}: format h is {form['h'].width} bits wide, expected 4 to 16")
        if self.units < 1 or self.block < 1:
            raise SparseGateError(f"{at}: {self.units} units in blocks of {self.block}, both must be positive")
        if what.recurrent != (self.matrix_h is not None):
            raise SparseGateError(
                f"{at}: a {self.kind} layer {'needs' if what.recurrent else 'has no'} recurrent matrix"
            )
        if self.when not in ("step", "last") or (self.when == "last" and what.recurrent):
            raise SparseGateError(f"{at}: a {self.kind} layer cannot run {self.when!r}")
        for key, matrix, columns in (("wx", self.matrix_x, self.inputs), ("wh", self.matrix_h, self.units)):
            if matrix is not None:
                self._validate_matrix(f"{at}: {key}", matrix, columns, form[key])
        if self.bias.shape != (self.gates, self.units):
            raise SparseGateError(f"{at}: bias has shape {self.bias.shape}, expected {(self.gates, self.units)}")
        if self.shift_x < 0 or self.shift_h < 0:
            raise SparseGateError(
                f"{at}: the accumulator has {form['acc'].frac} fractional bits, fewer than its products"
            )
        if self.bound >= EXACT:
            raise SparseGateError(f"{at}: accumulators may reach {self.bound}, beyond the exact range of 2**53")
        if self.peak >= 1 << 63:
            raise SparseGateError(f"{at}: an intermediate of the cell may reach {self.peak}, beyond 63 bits")
        if self.bound > form["acc"].max:
            raise SparseGateError(
                f"{at}: accumulators may reach {self.bound}, but {form['acc']} ends at {form['acc'].max}"
            )
        if not 0 <= self.threshold <= MAX_THRESHOLD:
            raise SparseGateError(f"{at}: threshold {self.threshold} found, expected 0 to {MAX_THRESHOLD}")
        for function in what.functions:
            table(function, form["pre"], form["gate"], self.step_bits)

    def _validate_matrix(self, at: str, matrix: Matrix, columns: int, form: QFormat) -> None:
        index, weight = matrix.index, matrix.weight
        expected = (self.blocks, columns)
        if (
            index.shape != weight.shape
            or index.ndim != 3
            or index.shape[:2] != expected
            or not 1 <= matrix.entries <= self.block
        ):
            raise SparseGateError(
                f"{at} has entries of shape {index.shape} and {weight.shape}, expected {expected} times 1..{self.block} entries"
            )
        if index.min() < 0 or index.max() >= self.block:
            raise SparseGateError(f"{at} has indices in {index.min()}..{index.max()}, expected 0..{self.block - 1}")
        if matrix.entries > 1 and (np.diff(index, axis=2) <= 0).any():
            raise SparseGateError(f"{at}: an index repeats or descends within a block and column")
        if weight.min() < form.min or weight.max() > form.max:
            raise SparseGateError(f"{at} has weights in {weight.min()}..{weight.max()}, which {form} cannot hold")
        short = self.units - (self.blocks // self.gates - 1) * self.block  # units in the last unit block
        if (weight[-self.gates :][index[-self.gates :] >= short] != 0).any():
            raise SparseGateError(f"{at} has weights for units beyond the layer's {self.units}")


@dataclass(frozen=True, eq=False)
class Program:
    """A validated chain of integer layers and the format of its input."""

    name: str
    input_format: QFormat
    layers: tuple[Layer, ...]
    input_threshold: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON values (accuracy, origin); neither digest covers them, and nothing is computed from them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise SparseGateError("a Program needs at least one layer")
        if not 0 <= self.input_threshold <= MAX_THRESHOLD:
            raise SparseGateError(f"input threshold {self.input_threshold} found, expected 0 to {MAX_THRESHOLD}")
        source, width = self.input_format, self.layers[0].inputs
        for position, layer in enumerate(self.layers):
            layer.validate(source)
            if layer.inputs != width:
                raise SparseGateError(f"layer {layer.name!r} takes {layer.inputs} inputs, its source gives {width}")
            if layer.when == "last" and position != len(self.layers) - 1:
                raise SparseGateError(f"layer {layer.name!r} runs on the last step only, so nothing may follow it")
            if layer.when == "last" and position == 0:
                raise SparseGateError(
                    f"layer {layer.name!r} runs on the last step only, so another layer must come before it"
                )
            source, width = layer.formats["h"], layer.units
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise SparseGateError("two layers of the Program have the same name")

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        return self.layers[-1].units

    @property
    def output_format(self) -> QFormat:
        return self.layers[-1].formats["h"]

    @property
    def thresholds(self) -> tuple[int, ...]:
        """Default Θ of each vector that is sent by deltas: the input, then every layer's output."""
        return (self.input_threshold, *(layer.threshold for layer in self.layers))

    def with_thresholds(self, *thresholds: int) -> Program:
        """The same Program with other default thresholds: one for the input and one for each layer, or one for all."""
        if len(thresholds) == 1:
            thresholds = thresholds * (len(self.layers) + 1)
        if len(thresholds) != len(self.layers) + 1:
            raise SparseGateError(f"{len(thresholds)} thresholds given, expected 1 or {len(self.layers) + 1}")
        layers = tuple(replace(layer, threshold=int(t)) for layer, t in zip(self.layers, thresholds[1:], strict=True))
        return replace(self, layers=layers, input_threshold=int(thresholds[0]))

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
        """Digest of what decides the netlist: everything but weights, indices, biases, thresholds and names."""
        _, header = self._encode()
        shape = {
            "input": header["input"]["format"],
            "inputs": self.inputs,
            "layers": [
                {key: value for key, value in entry.items() if key not in ("name", "threshold")}
                | {"entries_x": layer.matrix_x.entries, "entries_h": layer.matrix_h.entries if layer.matrix_h else 0}
                for entry, layer in zip(header["layers"], self.layers, strict=True)
            ],
        }
        return artefact.digest({}, shape)

    def _encode(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        tensors: dict[str, NDArray] = {}
        layers = []
        for position, layer in enumerate(self.layers):
            for key, matrix in (("x", layer.matrix_x), ("h", layer.matrix_h)):
                if matrix is not None:
                    tensors[f"{position}.index_{key}"] = matrix.index.astype(np.uint16)
                    tensors[f"{position}.weight_{key}"] = matrix.weight.astype(np.int16)
            tensors[f"{position}.bias"] = layer.bias.astype(np.int64)
            layers.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "units": layer.units,
                    "block": layer.block,
                    "when": layer.when,
                    "formats": {key: str(value) for key, value in sorted(layer.formats.items())},
                    "step_bits": layer.step_bits,
                    "threshold": layer.threshold,
                }
            )
        source = {"format": str(self.input_format), "threshold": self.input_threshold}
        return tensors, {"name": self.name, "input": source, "layers": layers}

    def save(self, path: str | Path) -> str:
        """Write safetensors with a JSON header; returns the file's digest."""
        tensors, header = self._encode()
        return artefact.save(path, FORMAT, VERSION, tensors, header | {"meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read what :meth:`save` wrote, checking digest and every bound again."""
        tensors, header = artefact.load(path, FORMAT, VERSION)
        with artefact.reading(path):
            layers = []
            for position, entry in enumerate(header["layers"]):
                matrices = [
                    Matrix(
                        tensors[f"{position}.index_{key}"].astype(np.int64),
                        tensors[f"{position}.weight_{key}"].astype(np.int64),
                    )
                    if f"{position}.index_{key}" in tensors
                    else None
                    for key in ("x", "h")
                ]
                if matrices[0] is None:
                    raise SparseGateError(f"layer {entry['name']!r} has no input matrix")
                layers.append(
                    Layer(
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
                        threshold=int(entry["threshold"]),
                    )
                )
            return cls(
                name=str(header["name"]),
                input_format=QFormat.parse(header["input"]["format"]),
                layers=tuple(layers),
                input_threshold=int(header["input"]["threshold"]),
                meta=header["meta"],
            )
