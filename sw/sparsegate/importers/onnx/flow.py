"""Follow every single value through an ONNX graph: a symbolic run on labels.

The graph is run node by node on a batch of N sequences of T steps. Constants are computed. A value that depends on the input is a
*label* instead: an integer that says which feature of which vector (the input, or the output of a layer) it is, of which sequence,
at which step. Transpose, Reshape, Slice, Gather, Concat and their like move labels as they would move numbers. So where the labels
reach a recurrent or a matrix node, it is plain to see what that node takes: which layers, concatenated; forwards or backwards in
time; every step, or the last. Nothing is guessed, and what fits no pattern is refused.

A label is ``base of the vector + (sequence * slots + slot) * size + feature``. Slots are the steps 0..T-1, then T: the value at a
sequence's last step where sequences have lengths; T + 1: a single value made of several steps; then T + 2 + t: the value that
stands at step t once each sequence is reversed within its own length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.onnx import file as onnx_file
from sparsegate.importers.onnx import glue as onnx_glue

if TYPE_CHECKING:
    from onnx import ValueInfoProto

from sparsegate.importers.onnx.labels import (
    DEFAULT_BATCH,
    DEFAULT_STEPS,
    FLOATS,
    INTS,
    Found,
    Labels,
    Spec,
    Taken,
    Unknown,
    Value,
    Vector,
    first_width,
    input_name,
    node_names,
    size_of,
)


class Flow:
    """One run over the graph. ``time_axis`` is the axis of time of the input, 0 or 1; ``run`` 0 or 1 chooses the free sizes."""

    def __init__(self, model: onnx_file.Model, time_axis: int, run: int, layers: Sequence[str] | None) -> None:
        self.model, self.layers = model, layers
        self.names = node_names(model.graph.node)
        self.vectors: list[Vector] = []
        self._bases: list[int] = []
        self.lengths: str | None = None
        self._lengths_known = False
        self.batch, self.steps = DEFAULT_BATCH[run], DEFAULT_STEPS[run]
        self.found: list[Found] = []
        self.followed = 0
        self._bound: tuple[str, Value] | None = None
        self._left: dict[str, Labels | Unknown] = {}
        self._given_count = 0
        self.free = False
        self.batch_first = True
        self.values: dict[str, Value] = {"": Unknown("an input is missing")}
        self.input = input_name(model, self.names, layers)
        self._start(time_axis)
        self._run()

    # what labels mean

    def _vector(
        self, role: Literal["input", "layer", "state", "given"], name: str, size: int, spec: Spec | None
    ) -> int:
        base = 0
        if self.vectors:
            base = self._bases[-1] + self.batch * self.slots * self.vectors[-1].size
        self.vectors.append(Vector(role, name, base, size, spec))
        self._bases.append(base)
        return len(self.vectors) - 1

    @property
    def slots(self) -> int:
        return 2 * self.steps + 2

    @property
    def last(self) -> int:
        """Slot of a sequence's last step."""
        return self.steps if self.lengths is not None else self.steps - 1

    @property
    def several(self) -> int:
        """Slot of a value that is made of several steps."""
        return self.steps + 1

    def _label(self, vector: int, sequence: NDArray, slot: NDArray) -> Labels:
        """Labels of all features (..., size) for arrays of sequences and slots (...)."""
        size = self.vectors[vector].size
        if sequence.size * size > onnx_glue.LARGEST_LABELS:
            raise SparseGateError(
                f"a tensor of {sequence.size} steps and {size} values is larger than what is followed; export the model with axes "
                "of any size, or with fewer and shorter sequences"
            )
        rows = self._bases[vector] + (sequence * self.slots + slot) * size
        return Labels(rows[..., None] + np.arange(size))

    def _parts(self, ids: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Vector, sequence, slot and feature of each label."""
        vector = np.searchsorted(np.array(self._bases), ids, side="right") - 1
        sizes = np.array([entry.size for entry in self.vectors])[vector]
        row, feature = np.divmod(ids - np.array(self._bases)[vector], sizes)
        sequence, slot = np.divmod(row, self.slots)
        return vector, sequence, slot, feature

    def taken(self, ids: NDArray) -> Taken:
        """Understand labels (..., features): whole vectors, one after the other, the same in each row."""
        width = ids.shape[-1] if ids.ndim else 0
        if not ids.size:
            raise SparseGateError("it takes nothing")
        vector, sequence, slot, feature = self._parts(ids.reshape(-1, width))
        if np.any(vector != vector[0]) or np.any(feature != feature[0]) or np.any(sequence != sequence[:, :1]):
            raise SparseGateError("the features that it takes are mixed with other axes")
        sources, slots, at = [], [], 0
        while at < width:
            source = int(vector[0, at])
            end = at + self.vectors[source].size
            whole = np.array_equal(feature[0, at:end], np.arange(end - at)) and np.all(vector[0, at:end] == source)
            if end > width or not whole or np.any(slot[:, at:end] != slot[:, at : at + 1]):
                raise SparseGateError(
                    f"it takes only some features of {self.vectors[source].name!r}, or in another order"
                )
            if self.vectors[source].role in ("state", "given"):
                raise SparseGateError(f"it takes {self.vectors[source].name!r}, which is no sequence")
            sources.append(source)
            slots.append(slot[:, at])
            at = end
        return Taken(tuple(sources), sequence[:, 0], np.stack(slots, axis=1))

    # the run

    def _start(self, time_axis: int) -> None:
        """Initializers become constants, inputs labels."""
        inputs = {entry.name: entry for entry in self.model.graph.input if entry.name not in self.model.weights}
        names: dict[str, int] = {}
        for name, weight in self.model.weights.items():
            self.values[name] = Unknown(str(weight)) if isinstance(weight, SparseGateError) else weight
        if self.input is not None:
            try:
                self.values[self.input] = self._data(inputs[self.input], time_axis, names)
            except SparseGateError as error:
                self.values[self.input] = Unknown(str(error))
        for name, entry in inputs.items():
            if name not in self.values:
                try:
                    self.values[name] = self._given(entry, names)
                except SparseGateError as error:
                    self.values[name] = Unknown(str(error))

    def _data(self, entry: ValueInfoProto, time_axis: int, names: dict[str, int]) -> Labels:
        """The network's input: (N, T, features) or (T, N, features), or without one of N and T, which is then 1."""
        at = f"input {entry.name!r}"
        kind = entry.type.tensor_type
        if kind.elem_type not in FLOATS:
            raise SparseGateError(f"{at} is of ONNX type {kind.elem_type}, expected floating point")
        sizes: list[int | str | None] = (
            [size_of(size) for size in kind.shape.dim] if kind.HasField("shape") else [None] * 3
        )
        if len(sizes) not in (2, 3):
            raise SparseGateError(f"{at} has {len(sizes)} axes, expected 3: sequences, steps and features")
        features = sizes[-1] if isinstance(sizes[-1], int) else first_width(self.model)
        if features is None:
            raise SparseGateError(f"{at} does not say how many features it has")
        free = (
            {time_axis: self.steps, 1 - time_axis: self.batch}
            if len(sizes) == 3
            else {0: (self.steps, self.batch)[time_axis]}
        )
        shape = []
        for axis, default in free.items():
            size = sizes[axis]
            if isinstance(size, str):
                names[size] = default
            self.free |= not isinstance(size, int)
            shape.append(size if isinstance(size, int) else default)
        if len(sizes) == 2:
            shape.insert(1 - time_axis, 1)
        steps, batch = shape
        if features < 1 or not 0 < steps * batch * features <= onnx_glue.LARGEST_LABELS:
            raise SparseGateError(
                f"{at} of {batch} sequences of {steps} steps and {features} features is larger than what is followed; export the "
                "model with axes of any size, or with fewer and shorter sequences"
            )
        self.steps, self.batch = steps, batch
        self.batch_first = len(sizes) == 3 and time_axis == 1
        vector = self._vector("input", entry.name, features, None)
        step, sequence = self._grid(time_axis == 1)
        rows = step.shape if len(sizes) == 3 else -1
        return self._label(vector, sequence.reshape(rows), step.reshape(rows))

    def _grid(self, batch_first: bool) -> tuple[NDArray, NDArray]:
        """Step and sequence of each place: (N, T), or (T, N)."""
        step, sequence = np.meshgrid(np.arange(self.steps), np.arange(self.batch), indexing="ij")
        return (step.T, sequence.T) if batch_first else (step, sequence)

    def _given(self, entry: ValueInfoProto, names: dict[str, int]) -> Labels:
        """Another input: an initial state, or the lengths. An axis of any size is that of the sequences."""
        kind = entry.type.tensor_type
        sizes = [size_of(size) for size in kind.shape.dim]
        if kind.elem_type not in FLOATS + INTS or not kind.HasField("shape"):
            raise SparseGateError(f"input {entry.name!r} is of ONNX type {kind.elem_type} or without a shape")
        self.free |= not all(isinstance(size, int) for size in sizes)
        shape = [size if isinstance(size, int) else names.get(size or "", self.batch) for size in sizes]
        onnx_glue.bounded(*shape)
        value = self._handed(entry.name, shape)
        if isinstance(value, Unknown):
            raise SparseGateError(value.reason)
        return value

    def _handed(self, name: str, shape: Sequence[int]) -> Labels | Unknown:
        """Labels of something other than the sequences, that the caller hands in."""
        count = math.prod(shape)
        self._given_count += count
        if not count or self._given_count > onnx_glue.LARGEST_LABELS:
            return Unknown(f"{name!r} of shape {tuple(shape)} is larger than what is followed, or empty")
        vector = self._vector("given", name, count, None)
        return Labels(self._bases[vector] + np.arange(count).reshape(shape))

    def _run(self) -> None:
        """Follow every node; ``sparsegate.importers.onnx.nodes`` knows them."""
        raise NotImplementedError
