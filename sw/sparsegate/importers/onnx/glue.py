"""The ONNX operators that only move values: run with NumPy, on constants as on the labels of values that are not known yet.

Each takes the array, its further inputs (constants, or None where omitted), its attributes and the operator set, and gives
its outputs. Two attributes are ours: ``outputs``, how many the node has, and ``labels``, whether the array holds labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError

LARGEST = 1 << 25
"""Most values of all arrays alive together."""
LARGEST_LABELS = 1 << 23
"""Most labels of one array: 64 MB."""

Rest = Sequence[NDArray | None]
Attributes = Mapping[str, Any]
Move = Callable[[NDArray, Rest, Attributes, int], list[NDArray]]


def bounded(*shape: int, labels: bool = False) -> None:
    """Refuse a result that is too large, before it is made."""
    largest = LARGEST_LABELS if labels else LARGEST
    if any(size < 0 for size in shape) or math.prod(shape) > largest:
        raise SparseGateError(f"its result of shape {shape} is larger than the {largest} values that are followed")


def integers(value: NDArray | None, what: str) -> list[int]:
    """A constant of whole numbers, (n,) or ()."""
    if value is None or value.dtype.kind not in "iu" or value.ndim > 1 or value.size > 64:
        raise SparseGateError(f"{what} is not a short list of constant integers")
    return [int(number) for number in value.ravel()]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise SparseGateError(f"axis is {axis}, expected {-rank}..{rank - 1}")
    return axis % rank


def _listed(key: str, data: Rest, attributes: Attributes, position: int, since: int, opset: int) -> list[int] | None:
    """What was an attribute before the operator set ``since``, and is an input from then on."""
    if opset < since:
        found = attributes.get(key)
        return None if found is None else [int(number) for number in found]
    if key in attributes:
        raise SparseGateError(f"its attribute {key} is an input from operator set {since} on")
    value = data[position] if position < len(data) else None
    return None if value is None else integers(value, key)


def _transpose(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    perm = attributes.get("perm", list(range(data.ndim))[::-1])
    if sorted(perm) != list(range(data.ndim)):
        raise SparseGateError(f"perm is {perm}, expected the axes 0..{data.ndim - 1}")
    return [data.transpose(perm)]


def _squeeze(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    axes = _listed("axes", rest, attributes, 0, 13, opset)
    if axes is None:
        axes = [axis for axis, size in enumerate(data.shape) if size == 1]
    return [data.squeeze(tuple(axis_of(axis, data.ndim) for axis in axes))]


def _unsqueeze(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    axes = _listed("axes", rest, attributes, 0, 13, opset)
    if axes is None:
        raise SparseGateError("axes are missing")
    return [np.expand_dims(data, tuple(axis_of(axis, data.ndim + len(axes)) for axis in axes))]


def _reshape(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    shape = integers(rest[0], "shape")
    if not attributes.get("allowzero", 0):
        shape = [data.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return [data.reshape(shape)]


def _flatten(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    axis = attributes.get("axis", 1)
    axis = axis if axis == data.ndim else axis_of(axis, data.ndim)
    return [data.reshape(math.prod(data.shape[:axis]), -1)]


def _slice(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    names = ("starts", "ends", "axes", "steps") if opset >= 10 else ("starts", "ends", "axes")
    starts, ends, axes, *others = (
        _listed(name, rest, attributes, position, 10, opset) for position, name in enumerate(names)
    )
    if starts is None or ends is None:
        raise SparseGateError("starts or ends are missing")
    axes = list(range(len(starts))) if axes is None else [axis_of(axis, data.ndim) for axis in axes]
    steps = others[0] if others and others[0] is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or len(set(axes)) != len(axes):
        raise SparseGateError(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not belong together")
    cut: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and data.shape[axis] == 1 and attributes["labels"]:
            refuse_blind(axis)
        cut[axis] = slice(start, end, step)
    return [data[tuple(cut)]]


def refuse_blind(axis: int) -> None:
    """A single value reversed looks like itself; what the model does to more than one would be lost."""
    raise SparseGateError(
        f"it reverses axis {axis}, of which the model has a single value; export it with an axis of any size, or of 2 and more"
    )


def _gather(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    (indices,) = rest
    if indices is None or indices.dtype.kind not in "iu":
        raise SparseGateError("indices are not constant integers")
    axis = axis_of(attributes.get("axis", 0), data.ndim)
    bounded(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :], labels=attributes["labels"])
    return [np.take(data, indices, axis=axis)]


def _split(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    axis = axis_of(attributes.get("axis", 0), data.ndim)
    sizes = _listed("split", rest, attributes, 0, 13, opset)
    if sizes is None:
        count = attributes.get("num_outputs", attributes["outputs"])
        if not 1 <= count <= data.shape[axis]:
            raise SparseGateError(f"axis {axis} of size {data.shape[axis]} cannot be split in {count}")
        part = -(-data.shape[axis] // count)
        sizes = [part] * (count - 1)
        sizes.append(data.shape[axis] - sum(sizes))
    if sum(sizes) != data.shape[axis] or min(sizes, default=-1) < 0:
        raise SparseGateError(f"split is {sizes}, but axis {axis} has size {data.shape[axis]}")
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def _expand(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    shape = np.broadcast_shapes(data.shape, tuple(integers(rest[0], "shape")))
    bounded(*shape, labels=attributes["labels"])
    return [np.broadcast_to(data, shape)]


def _tile(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    repeats = integers(rest[0], "repeats")
    if len(repeats) != data.ndim:
        raise SparseGateError(f"repeats has {len(repeats)} numbers, expected {data.ndim}")
    bounded(*(size * times for size, times in zip(data.shape, repeats, strict=True)), labels=attributes["labels"])
    return [np.tile(data, repeats)]


def _identity(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    return [data]


def _dropout(data: NDArray, rest: Rest, attributes: Attributes, opset: int) -> list[NDArray]:
    if len(rest) > 1 and rest[1] is not None and np.any(rest[1]):
        raise SparseGateError("training_mode is True, expected False")
    return [data]


MOVES: dict[str, tuple[Move, dict[str, str]]] = {
    "Transpose": (_transpose, {"perm": "INTS"}),
    "Squeeze": (_squeeze, {"axes": "INTS"}),
    "Unsqueeze": (_unsqueeze, {"axes": "INTS"}),
    "Reshape": (_reshape, {"allowzero": "INT"}),
    "Flatten": (_flatten, {"axis": "INT"}),
    "Slice": (_slice, {"starts": "INTS", "ends": "INTS", "axes": "INTS"}),
    "Gather": (_gather, {"axis": "INT"}),
    "Split": (_split, {"axis": "INT", "split": "INTS", "num_outputs": "INT"}),
    "Expand": (_expand, {}),
    "Tile": (_tile, {}),
    "Identity": (_identity, {}),
    "Dropout": (_dropout, {"ratio": "FLOAT", "seed": "INT"}),
}
"""Operator -> how it moves values, and the attributes that it may have."""


def concatenated(parts: Sequence[NDArray], axis: int, labels: bool) -> NDArray:
    """Concat."""
    bounded(sum(part.size for part in parts), labels=labels)
    if len({part.dtype for part in parts}) > 1:
        raise SparseGateError("its inputs are of different types")
    return np.concatenate(parts, axis=axis_of(axis, parts[0].ndim))


def _divide(a: NDArray, b: NDArray) -> NDArray:
    if a.dtype.kind == "f":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)  # integers are cut towards zero


ARITHMETIC: dict[str, Callable[..., NDArray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Equal": np.equal,
    "Where": np.where,
}
"""What shapes and constants are computed with."""


def computed(operator: str, parts: Sequence[NDArray]) -> NDArray:
    """An operator of :data:`ARITHMETIC` on constants."""
    bounded(*np.broadcast_shapes(*(part.shape for part in parts)))
    values = parts[1:] if operator == "Where" else parts
    if len({part.dtype for part in values}) > 1:
        raise SparseGateError("its inputs are of different types")
    with np.errstate(all="ignore"):  # NaN and infinity are refused where they would be used
        return np.asarray(ARITHMETIC[operator](*parts))


@dataclass(frozen=True)
class Kind:
    """A type to which Cast converts."""

    dtype: str
    real: bool


CASTS = {
    1: Kind("f4", True),
    6: Kind("i4", False),
    7: Kind("i8", False),
    9: Kind("?", False),
    10: Kind("f2", True),
    11: Kind("f8", True),
}
"""TensorProto.DataType -> type."""


def cast(data: NDArray, to: int) -> NDArray:
    """Cast of a constant."""
    if to not in CASTS:
        raise SparseGateError(f"to is ONNX type {to}, which is not supported")
    if data.dtype.kind == "f" and not CASTS[to].real and not np.all(np.abs(data) < 1 << 31):
        raise SparseGateError("it casts numbers beyond 32 bits to integers")
    with np.errstate(over="ignore"):
        return data.astype(CASTS[to].dtype)
