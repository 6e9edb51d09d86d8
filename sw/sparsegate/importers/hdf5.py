"""HDF5 files, read carefully: nothing outside of the file, no filters but the plain ones, no size that the file cannot hold.

h5py is imported when a file is opened.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.part import Array, real

DEEPEST, MOST = 16, 20_000
"""Levels of groups and number of entries beyond which no Keras file goes."""
LONGEST = 1 << 26
"""Bytes of an attribute; a configuration of thousands of layers takes a few million."""
PLAIN_FILTERS = (1, 2, 3)
"""deflate, shuffle and checksum; others may load code."""
DEFLATED = 1100
"""Most bytes that deflate packs into one."""


@dataclass(frozen=True)
class Group:
    """A group: its attributes, which are read when asked for, and what lies in it by name."""

    name: str
    attributes: Any = field(repr=False)
    children: Mapping[str, Group | Array] = field(repr=False)

    def find(self, path: str) -> Group | Array | None:
        """What lies under a path of names, or None."""
        found: Group | Array | None = self
        for name in filter(None, path.split("/")):
            found = found.children.get(name) if isinstance(found, Group) else None
        return found

    def group(self, path: str) -> Group | None:
        found = self.find(path)
        return found if isinstance(found, Group) else None

    def attribute(self, name: str) -> Any:
        """An attribute's value, its bytes decoded; None where there is none."""
        with failures():
            if name not in self.attributes:
                return None
            stored = self.attributes.get_id(name)
            if math.prod(stored.shape) * stored.get_type().get_size() > LONGEST:
                raise SparseGateError(f"attribute {name} of {self.name} is larger than {LONGEST} bytes")
            value = self.attributes[name]
            return value.decode() if isinstance(value, bytes) else value

    def names(self, attribute: str) -> list[str]:
        """A list of strings, which Keras cuts into attributes with a running number where it is long."""
        whole = self.attribute(attribute)
        parts = [] if whole is None else [whole]
        while whole is None and (part := self.attribute(f"{attribute}{len(parts)}")) is not None:
            parts.append(part)
        values = [value for part in parts for value in np.atleast_1d(part)]
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


@contextmanager
def failures() -> Iterator[None]:
    """Turn what h5py raises on damaged files, and decoding of their contents, into one sentence."""
    try:
        yield
    except SparseGateError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SparseGateError(f"it is damaged ({type(error).__name__}: {reason})") from error
    except (MemoryError, OverflowError, RecursionError, AssertionError, SystemError, EOFError) as error:
        raise SparseGateError(f"it is damaged ({type(error).__name__})") from error


def tree(source: Path | bytes) -> Group:
    """Everything in an HDF5 file, datasets unread. Links are refused, wherever they lead."""
    try:
        import h5py
    except ImportError:
        raise SparseGateError("files of Keras need the package h5py: pip install 'sparsegate[keras]'") from None
    with failures():
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        file = h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r", locking=False)
        return _group(file, "/", size, 0, [0])


def _group(group: Any, name: str, size: int, depth: int, count: list[int]) -> Group:
    import h5py

    if depth > DEEPEST:
        raise SparseGateError(f"its groups are nested more than {DEEPEST} deep")
    children: dict[str, Group | Array] = {}
    for key in group:
        count[0] += 1
        if count[0] > MOST:
            raise SparseGateError(f"it has more than {MOST} entries")
        link = group.get(key, getlink=True)
        if type(link) is not h5py.HardLink:
            target = f"{getattr(link, 'filename', '')} {getattr(link, 'path', '')}".strip()
            raise SparseGateError(f"{name}{key} is a link to {target!r}, expected the data itself")
        child = group[key]
        if isinstance(child, h5py.Dataset):
            shape = tuple(int(n) for n in child.shape or ())
            children[key] = Array(shape, partial(_numbers, child, f"{name}{key}", size))
        elif isinstance(child, h5py.Group):
            children[key] = _group(child, f"{name}{key}/", size, depth + 1, count)
    return Group(name, group.attrs, children)


def _numbers(dataset: Any, name: str, size: int, place: str) -> NDArray[np.float64]:
    with failures():
        if dataset.is_virtual or dataset.external:
            raise SparseGateError(f"{place}: {name} takes its data from other files, expected the data itself")
        if dataset.dtype.kind != "f":
            raise SparseGateError(f"{place} is of type {dataset.dtype}, expected floating point")
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
        if not set(filters) <= set(PLAIN_FILTERS):
            raise SparseGateError(f"{place}: {name} is packed by filter {filters}, expected deflate, shuffle or none")
        most = size * (DEFLATED if filters else 1)
        count = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
        if count * dataset.dtype.itemsize > most or not dataset.id.get_storage_size():
            raise SparseGateError(f"{place}: {name} has shape {dataset.shape}, but the file holds fewer values")
        return real(dataset[()], place)
