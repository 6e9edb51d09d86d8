"""What a stage's result is: a frozen dataclass with the same fields in Python, in JSON and in the file that a stage leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from sparsegate import artefact
from sparsegate.shown import Row, Shown

Rows = list[tuple[str, object]]
"""A table of what and how much."""


class Result(Shown):
    """Base of the results: JSON values in the order of the fields, and a table for people.

    In a field's ``metadata``, ``json`` is its key where that is not its name, None where the field is not written; an ``optional``
    one is not written where it is None.
    """

    @property
    def stage(self) -> str:
        """The name of its file in a compiled folder, without the suffix."""
        raise NotImplementedError

    def seen_from(self, folder: Path) -> Self:
        """The same with paths relative to a folder."""
        return self

    def as_json(self) -> dict[str, Any]:
        """JSON values, as ``--json`` prints them."""
        values = {key: (_plain(getattr(self, field.name)), field) for key, field in _keys(type(self)).items()}
        return {key: value for key, (value, field) in values.items() if not (value is None and _optional(field))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], **more: Any) -> Self:
        """The result of its JSON values and of fields that are not written; a KeyError where one is missing."""
        hints = get_type_hints(cls)
        here = {key: field.name for key, field in _keys(cls).items() if key in values or not _optional(field)}
        return cls(**{name: _typed(hints[name], values[key]) for key, name in here.items()}, **more)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a stage's file; a damaged one is a SparseGateError."""
        values = artefact.read_json(path)
        with artefact.reading(path):
            return cls.from_json(values)

    def rows(self) -> Rows:
        """What the command line prints of it."""
        raise NotImplementedError

    def table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """The rows, without titles."""
        return (), self.rows()


def _keys(kind: Any) -> dict[str, Field[Any]]:
    """A result's fields by their JSON keys."""
    keyed = {field.metadata.get("json", field.name): field for field in fields(kind)}
    return {key: field for key, field in keyed.items() if key is not None}


def _optional(field: Field[Any]) -> bool:
    return bool(field.metadata.get("optional"))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as a field's type has it."""
    if value is None:
        return None
    if isinstance(hint, UnionType):  # something, or None
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{field.name: _typed(hints[field.name], value[field.name]) for field in fields(hint)})
    if hint is Path:
        return Path(value)
    if get_origin(hint) is tuple:
        of, *_ = get_args(hint)
        return tuple(_typed(of, one) for one in value)
    return value


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:.2f} %"
