"""What a routed design is kept as, and where a memory's contents are in it.

A configuration is text: of tiles, in parts that each begin with a line with a dot, as nextpnr writes for Lattice's devices, or
the routed netlist itself, as nextpnr's himbaechel has no other. A :class:`MemoryCell` finds the contents of one kind of cell there.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsegate.errors import SparseGateError

Contents = dict[str, dict[str, int]]
"""Initial values: flat name of a cell -> parameter -> value."""


@dataclass(frozen=True)
class Place:
    """Where a memory cell is in a configuration: its ``kind``, and numbers that name the place."""

    kind: str
    at: tuple[int, ...]


class Tiles:
    """A configuration of tiles: parts of a text by their first line."""

    def __init__(self, text: str) -> None:
        self._parts: dict[str, str] = {}
        for part in re.split(r"^(?=\.)", text, flags=re.MULTILINE):
            key = part.partition("\n")[0]
            while key in self._parts:  # comments and the like, of which nothing is asked
                key += "'"
            self._parts[key] = part

    def __getitem__(self, key: str) -> str:
        """A part, its first line included; a SparseGateError if there is none."""
        if key not in self._parts:
            raise SparseGateError(f"the configuration has no part {key!r}")
        return self._parts[key]

    def __setitem__(self, key: str, part: str) -> None:
        """Put another part in the place of one that is there."""
        assert self[key].startswith(key), "a part begins with its first line"
        self._parts[key] = part

    def text(self) -> str:
        return "".join(self._parts.values())


class RoutedNetlist:
    """A configuration that is a netlist; ``cells`` by name."""

    def __init__(self, text: str) -> None:
        self._netlist = json.loads(text)
        self.cells: dict[str, Any] = self._netlist["modules"]["top"]["cells"]

    def text(self) -> str:
        return plain(self._netlist)


def opened(text: str) -> Tiles | RoutedNetlist:
    """A configuration of either form."""
    return RoutedNetlist(text) if is_netlist(text) else Tiles(text)


def is_netlist(text: str) -> bool:
    """Whether a configuration is a netlist: JSON."""
    return text.startswith("{")


def plain(netlist: Mapping[str, Any]) -> str:
    """A routed netlist as a configuration: one text for one content, and nothing of where its parts were written down."""
    top = netlist["modules"]["top"]
    for of in (top["cells"], top["netnames"]):
        for each in of.values():
            each["attributes"].pop("src", None)
    top["attributes"].pop("src", None)
    return json.dumps(netlist, separators=(",", ":"), sort_keys=True)


class MemoryCell(ABC):
    """A kind of memory cell whose contents can be replaced.

    ``kind`` is its name in the design, ``parameters`` the pattern of those with initial values, ``count`` how many it has.
    """

    kind: str
    parameters: str
    count: int

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether these are initial values of such a cell."""
        return len(values) == self.count and all(re.fullmatch(self.parameters, key) for key in values)

    @abstractmethod
    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
        """Numbers that name its place, from the cells of the routed netlist; None if the cell is of another kind."""

    @abstractmethod
    def decode(self, configuration: Any, name: str, at: tuple[int, ...]) -> dict[str, int]:
        """Its initial values in a configuration."""

    @abstractmethod
    def encode(self, configuration: Any, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        """Put initial values into a configuration."""


def bel(cells: Mapping[str, Any], name: str, pattern: str) -> tuple[str, ...]:
    """Groups of a pattern in the name of a cell's place; a SparseGateError if there is no such cell."""
    found = re.fullmatch(pattern, cells.get(name, {}).get("attributes", {}).get("NEXTPNR_BEL", ""))
    if found is None:
        raise SparseGateError(f"the routed design has no memory cell {name}")
    return found.groups()
