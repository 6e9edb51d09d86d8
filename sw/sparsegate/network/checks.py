"""What is checked of arrays that come from outside: sequences, their lengths, states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.errors import SparseGateError

LARGEST = 1e9
"""Largest magnitude of an input or a weight; beyond it something is wrong with the numbers, or with their unit."""

State = Mapping[str, Mapping[str, ArrayLike]]
"""States of recurrent layers by layer name and by "h", "c" ...: arrays (N, size), or (size,) for all sequences alike."""


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


def real(value: ArrayLike, name: str) -> NDArray[np.float64]:
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
