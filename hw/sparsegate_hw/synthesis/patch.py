"""Other contents in the memories of a routed design: a Program of the same shape without place-and-route.

A design is two things: its text in RTLIL without the initial values of the memory cells that it names itself (the *form*),
and those values (the *contents*). Programs of one shape have the same form, so the routed design of one is that of all; see
``sparsegate_hw.fabric.contents``. In nextpnr's configuration the values stand beside the numbers or places of block RAMs, which
the routed netlist tells; ``sparsegate_hw.fabric.configuration`` reads them there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.configuration import Contents, MemoryCell, Place, opened
from sparsegate_hw.fabric.family import Family, families


def split(design: str) -> tuple[str, Contents]:
    """Form and contents of a design in RTLIL, whose modules are named after their places in it, as Amaranth does."""
    memories = _memories()
    form: list[str] = []
    contents: Contents = {}
    path = name = ""
    pattern: re.Pattern[str] | None = None
    for line in design.splitlines():
        words = line.split(None, 2)
        if line.startswith("module "):
            path = words[1].lstrip("\\").partition(".")[2]
        elif len(words) == 3 and words[0] == "cell":
            kind = words[1].lstrip("\\")
            if kind in memories:
                pattern = re.compile(rf"\\({memories[kind].parameters})")
                name = ".".join(filter(None, (path, words[2].lstrip("\\"))))
        elif words == ["end"]:
            pattern = None
        elif pattern is not None and len(words) == 3 and words[0] == "parameter":
            found = pattern.fullmatch(words[1])
            if found:  # a block RAM of accumulators has none
                contents.setdefault(name, {})[found[1]] = _constant(words[2])
                continue
        form.append(line)
    return "\n".join(form) + "\n", contents


def _memories() -> dict[str, MemoryCell]:
    """Memory cells of all families by their names."""
    return {memory.kind: memory for family in families().values() for memory in family.memories}


def _constant(text: str) -> int:
    width, bits = text.split("'")
    if len(bits) != int(width):
        raise SparseGateError(f"a memory's contents are {text[:20]!r}, expected so many bits")
    return int(bits, 2)


def places(family: Family, routed: Mapping[str, Any], contents: Contents) -> dict[str, Place]:
    """Places of the memory cells, from the netlist that nextpnr writes after routing.

    Raises
    ------
    SparseGateError
        If a memory is missing there, or one of its cells.
    """
    cells = routed["modules"]["top"]["cells"]
    return {name: _place(family, cells, name, values) for name, values in contents.items()}


def _place(family: Family, cells: Mapping[str, Any], name: str, values: Mapping[str, int]) -> Place:
    for memory in family.memories:
        if memory.holds(values):
            at = memory.place(cells, name)
            if at is not None:
                return Place(memory.kind, at)
    raise SparseGateError(f"the routed design has no memory cell {name}")


def extract(text: str, of: Mapping[str, Place]) -> Contents:
    """Contents of the memory cells in a configuration, as :func:`split` gives them."""
    configuration, memories = opened(text), _memories()
    return {name: memories[place.kind].decode(configuration, name, place.at) for name, place in of.items()}


def replace(text: str, of: Mapping[str, Place], contents: Contents) -> str:
    """The configuration with other contents, checked by reading them back.

    Raises
    ------
    SparseGateError
        If the cells are not those of the configuration.
    """
    if of.keys() != contents.keys():
        raise SparseGateError(f"the design has {len(of)} memories, expected the {len(contents)} of the Program")
    configuration, memories = opened(text), _memories()
    for name, place in of.items():
        memories[place.kind].encode(configuration, name, place.at, contents[name])
    changed = configuration.text()
    if extract(changed, of) != contents:
        raise SparseGateError("the memories' contents could not be put into the configuration")
    return changed
