"""Other contents in the memories of a routed design: a Program of the same shape without place-and-route.

A design is two things: its text in RTLIL without the initial values of the memory cells that it names itself (the *form*), and those
values (the *contents*). Programs of one shape have the same form, so the routed design of one is that of all; see
``sparsegate_hw.contents``. In nextpnr's textual configuration the values stand beside the numbers or places of block RAMs, which
the routed netlist tells:

- ECP5: DP16KD in ``.bram_init <WID>``, 2048 bytes of 9 bits; TRELLIS_DPR16X4 in ``word: SLICE<s>.K<k>.INIT`` of four look-up tables.
- iCE40: SB_RAM40_4K in ``.ram_data <x> <y>``, 16 rows of 256 bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsegate.errors import SparseGateError

Contents = dict[str, dict[str, int]]
"""Initial values: flat name of a cell -> parameter -> value."""

MEMORIES = {"DP16KD": r"INITVAL_[0-9A-F]{2}", "TRELLIS_DPR16X4": "INITVAL", "SB_RAM40_4K": "INIT_[0-9A-F]"}
"""Memory cells and their parameters of initial values."""


def split(design: str) -> tuple[str, Contents]:
    """Form and contents of a design in RTLIL, whose modules are named after their places in it, as Amaranth does."""
    form: list[str] = []
    contents: Contents = {}
    path = ""
    values: dict[str, int] | None = None
    pattern: re.Pattern[str] | None = None
    for line in design.splitlines():
        words = line.split(None, 2)
        if line.startswith("module "):
            path = words[1].lstrip("\\").partition(".")[2]
        elif len(words) == 3 and words[0] == "cell":
            kind = words[1].lstrip("\\")
            if kind in MEMORIES:
                pattern = re.compile(rf"\\({MEMORIES[kind]})")
                values = contents.setdefault(".".join(filter(None, (path, words[2].lstrip("\\")))), {})
        elif words == ["end"]:
            values = pattern = None
        elif values is not None and pattern is not None and len(words) == 3 and words[0] == "parameter":
            found = pattern.fullmatch(words[1])
            if found:
                values[found[1]] = _constant(words[2])
                continue
        form.append(line)
    return "\n".join(form) + "\n", contents


def _constant(text: str) -> int:
    width, bits = text.split("'")
    if len(bits) != int(width):
        raise SparseGateError(f"a memory's contents are {text[:20]!r}, expected so many bits")
    return int(bits, 2)


@dataclass(frozen=True)
class Place:
    """Where a memory cell is in the textual configuration: its ``kind``, and numbers that name the place.

    DP16KD: (WID,). TRELLIS_DPR16X4: of each of its four look-up tables row, column and letter's number times 2 plus which of the two
    in a slice. SB_RAM40_4K: (x, y).
    """

    kind: str
    at: tuple[int, ...]


def places(routed: Mapping[str, Any], contents: Contents) -> dict[str, Place]:
    """Places of the memory cells, from the netlist that nextpnr writes after routing.

    Raises
    ------
    SparseGateError
        If a memory is missing there, or one of its cells.
    """
    cells = routed["modules"]["top"]["cells"]
    found = {}
    for name, values in contents.items():
        cell = cells.get(name)
        if cell is not None and cell["type"] == "DP16KD":
            found[name] = Place("DP16KD", (_number(cell["attributes"].get("WID", 0)),))
        elif cell is not None and cell["type"] == "ICESTORM_RAM":
            x, y = re.fullmatch(r"X(\d+)/Y(\d+)/ram", cell["attributes"]["NEXTPNR_BEL"]).groups()  # type: ignore[union-attr]
            found[name] = Place("SB_RAM40_4K", (int(x), int(y)))
        elif list(values) == ["INITVAL"]:
            at: list[int] = []
            for bit in range(4):
                part = cells.get(f"{name}$DPRAM_COMB{bit}")
                if part is None:
                    raise SparseGateError(f"the routed design has no look-up table {bit} of the memory {name}")
                bel = re.fullmatch(r"X(\d+)/Y(\d+)/SLICE([A-D])\.COMB([01])", part["attributes"]["NEXTPNR_BEL"])
                if bel is None:
                    raise SparseGateError(f"memory {name} lies at {part['attributes']['NEXTPNR_BEL']}, expected a slice")
                at += [int(bel[2]), int(bel[1]), 2 * "ABCD".index(bel[3]) + int(bel[4])]
            found[name] = Place("TRELLIS_DPR16X4", tuple(at))
        else:
            raise SparseGateError(f"the routed design has no memory {name}")
    return found


def _number(value: Any) -> int:
    return int(value, 2) if isinstance(value, str) else int(value)


# -- textual configurations ---------------------------------------------------------------------------------------------


def extract(text: str, of: Mapping[str, Place]) -> Contents:
    """Contents of the memory cells in nextpnr's textual configuration, as :func:`split` gives them."""
    blocks = _blocks(text)
    return {name: _DECODE[place.kind](blocks, place) for name, place in of.items()}


def replace(text: str, of: Mapping[str, Place], contents: Contents) -> str:
    """The configuration with other contents, checked by reading them back.

    Raises
    ------
    SparseGateError
        If the cells are not those of the configuration.
    """
    if of.keys() != contents.keys():
        raise SparseGateError(f"the design has {len(of)} memories, expected the {len(contents)} of the Program")
    blocks = _blocks(text)
    for name, place in of.items():
        _ENCODE[place.kind](blocks, place, contents[name])
    changed = "".join(blocks.values())
    if extract(changed, of) != contents:
        raise SparseGateError("the memories' contents could not be put into the configuration")
    return changed


def _blocks(text: str) -> dict[str, str]:
    """Parts of a configuration by their first line, which begins with a dot; together they are the text."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\.)", text, flags=re.MULTILINE):
        key = part.partition("\n")[0]
        while key in found:  # comments and the like, of which nothing is asked
            key += "'"
        found[key] = part
    return found


def _part(blocks: Mapping[str, str], key: str) -> str:
    if key not in blocks:
        raise SparseGateError(f"the configuration has no part {key!r}")
    return key


def _decode_dp16kd(blocks: Mapping[str, str], place: Place) -> dict[str, int]:
    body = blocks[_part(blocks, f".bram_init {place.at[0]}")].split()[2:]
    found = {}
    for row in range(64):
        halves = [int(body[32 * row + 2 * at], 16) | int(body[32 * row + 2 * at + 1], 16) << 9 for at in range(16)]
        found[f"INITVAL_{row:02X}"] = sum(half << 20 * at for at, half in enumerate(halves))
    return found


def _encode_dp16kd(blocks: dict[str, str], place: Place, values: Mapping[str, int]) -> None:
    key = _part(blocks, f".bram_init {place.at[0]}")
    data = [values[f"INITVAL_{row:02X}"] >> 20 * at + 9 * part & 511 for row in range(64) for at in range(16) for part in (0, 1)]
    lines = [" ".join(f"{byte:03x}" for byte in data[at : at + 8]) for at in range(0, 2048, 8)]
    blocks[key] = "\n".join([key, *lines]) + "\n\n"


def _decode_ram40(blocks: Mapping[str, str], place: Place) -> dict[str, int]:
    rows = blocks[_part(blocks, f".ram_data {place.at[0]} {place.at[1]}")].split()[3:19]
    return {f"INIT_{at:X}": int(row, 16) for at, row in enumerate(rows)}


def _encode_ram40(blocks: dict[str, str], place: Place, values: Mapping[str, int]) -> None:
    key = _part(blocks, f".ram_data {place.at[0]} {place.at[1]}")
    blocks[key] = "\n".join([key, *(f"{values[f'INIT_{at:X}']:064x}" for at in range(16))]) + "\n\n"
