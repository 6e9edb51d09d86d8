"""What importers find in a model: layers in the framework's terms, and tensors that are not read yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError

LARGEST_MODEL = 1 << 28
"""Most weights that are read of a model; a file that says more is damaged, or means harm. As float64 they take 2 GB."""


def printable(text: str | bytes) -> str:
    """Text out of a file for a name or a message: line breaks, escape codes and the like are spelt out."""
    if isinstance(text, bytes):  # protobuf's, where it is no UTF-8
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@dataclass(frozen=True)
class Part:
    """A layer found in a model: its name there, what it is in the framework's terms, why it cannot be imported, and its sizes.

    ``used``: whether an import would take it; None where that is told by its name and problem alone.
    """

    name: str
    what: str
    problem: str | None = None
    shape: str = ""
    used: bool | None = None

    def __post_init__(self) -> None:
        for key in ("name", "what", "problem", "shape"):
            text = getattr(self, key)
            if text is not None:
                object.__setattr__(self, key, printable(text))


@dataclass(frozen=True)
class Array:
    """A tensor of a model: its shape, and how to read it as float64.

    ``read(place)`` raises a SparseGateError that begins with ``place`` where the values are not real numbers.
    """

    shape: tuple[int, ...]
    read: Callable[[str], NDArray[np.float64]] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of values; of unlimited precision, as a damaged file may say anything."""
        return math.prod(self.shape)


def real(value: NDArray, place: str) -> NDArray[np.float64]:
    """Floating-point numbers as float64, a copy."""
    if value.dtype.kind != "f":
        raise SparseGateError(f"{place} is of type {value.dtype}, expected floating point")
    return np.array(value, np.float64)


def check_size(count: int) -> None:
    """Refuse more weights than anybody has, before they are read."""
    if count > LARGEST_MODEL:
        raise SparseGateError(f"the layers to import hold {count} weights, more than the {LARGEST_MODEL} that are read")
