"""Other contents in the memories of a routed design: a Program of the same shape without place-and-route.

A design is two things: its text in RTLIL without the initial values of the memory cells that it names itself (the *form*),
and those values (the *contents*). Programs of one shape have the same form, so the routed design of one is that of all; see
``sparsegate_hw.fabric.contents``. In nextpnr's textual configuration the values stand beside the numbers or places of
block RAMs, which the routed netlist tells:

- ECP5: DP16KD in ``.bram_init <WID>``, 2048 bytes of 9 bits; TRELLIS_DPR16X4 in ``word: SLICE<s>.K<k>.INIT`` of four
  look-up tables.
- iCE40: SB_RAM40_4K in ``.ram_data <x> <y>``, 16 rows of 256 bits.

A Gowin's configuration is that netlist: pROM and pROMX9 have their contents as parameters; those of a RAM16SDP4 are parameters
of the four look-up tables that the placer made of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsegate.errors import SparseGateError

Contents = dict[str, dict[str, int]]
"""Initial values: flat name of a cell -> parameter -> value."""

MEMORIES = {
    "DP16KD": r"INITVAL_[0-9A-F]{2}",
    "TRELLIS_DPR16X4": "INITVAL",
    "SB_RAM40_4K": "INIT_[0-9A-F]",
    "pROM": r"INIT_RAM_[0-9A-F]{2}",
    "pROMX9": r"INIT_RAM_[0-9A-F]{2}",
    "RAM16SDP4": "INIT_[0-3]",
}
"""Memory cells and their parameters of initial values."""


def split(design: str) -> tuple[str, Contents]:
    """Form and contents of a design in RTLIL, whose modules are named after their places in it, as Amaranth does."""
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
            if kind in MEMORIES:
                pattern = re.compile(rf"\\({MEMORIES[kind]})")
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


def _constant(text: str) -> int:
    width, bits = text.split("'")
    if len(bits) != int(width):
        raise SparseGateError(f"a memory's contents are {text[:20]!r}, expected so many bits")
    return int(bits, 2)


@dataclass(frozen=True)
class Place:
    """Where a memory cell is in the textual configuration: its ``kind``, and numbers that name the place.

    DP16KD: (WID,). TRELLIS_DPR16X4: row, column and number in the tile of each of its four look-up tables.
    SB_RAM40_4K: (x, y). pROM, pROMX9: (x, y), and RAM16SDP4 too; they are found by their names, as the configuration has them.
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

    def bel(name: str, pattern: str) -> tuple[str, ...]:
        found = re.fullmatch(pattern, cells.get(name, {}).get("attributes", {}).get("NEXTPNR_BEL", ""))
        if found is None:
            raise SparseGateError(f"the routed design has no memory cell {name}")
        return found.groups()

    found = {}
    for name, values in contents.items():
        if "INITVAL_00" in values:
            bel(name, r"(.*)")
            number = cells[name]["attributes"]["WID"]
            found[name] = Place("DP16KD", (int(number, 2) if isinstance(number, str) else number,))
        elif "INITVAL" in values:
            at: list[int] = []
            for bit in range(4):
                x, y, part, half = bel(f"{name}$DPRAM_COMB{bit}", r"X(\d+)/Y(\d+)/SLICE([A-D])\.K([01])")
                at += [int(y), int(x), 2 * "ABCD".index(part) + int(half)]
            found[name] = Place("TRELLIS_DPR16X4", tuple(at))
        elif "INIT_RAM_00" in values:
            x, y = bel(name, r"X(\d+)Y(\d+)/BSRAM")
            found[name] = Place(
                "pROMX9" if cells[name]["attributes"]["BSRAM_SUBTYPE"] == "X9" else "pROM", (int(x), int(y))
            )
        elif values.keys() == {f"INIT_{bit}" for bit in range(4)}:
            x, y = bel(name, r"X(\d+)Y(\d+)/RAM16SDP4")
            found[name] = Place("RAM16SDP4", (int(x), int(y)))
        else:
            x, y = bel(f"{name}_RAM", r"X(\d+)/Y(\d+)/ram")
            found[name] = Place("SB_RAM40_4K", (int(x), int(y)))
    return found


def fill(cells: Mapping[str, Any], contents: Contents) -> None:
    """Put contents into the memory cells of the netlist that nextpnr writes after routing an iCE40."""
    for name, values in contents.items():
        cells[f"{name}_RAM"]["parameters"] |= {key: f"{value:0256b}" for key, value in values.items()}


# -- textual configurations ---------------------------------------------------------------------------------------------


def extract(text: str, of: Mapping[str, Place]) -> Contents:
    """Contents of the memory cells in nextpnr's textual configuration, as :func:`split` gives them."""
    if is_netlist(text):
        cells = json.loads(text)["modules"]["top"]["cells"]
        return {name: {key: int(bits, 2) for key, bits in _initial(cells, name, place)} for name, place in of.items()}
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
    if is_netlist(text):
        netlist = json.loads(text)
        for name, place in of.items():
            _set_initial(netlist["modules"]["top"]["cells"], name, place, contents[name])
        changed = plain(netlist)
    else:
        blocks = _blocks(text)
        for name, place in of.items():
            _ENCODE[place.kind](blocks, place, contents[name])
        changed = "".join(blocks.values())
    if extract(changed, of) != contents:
        raise SparseGateError("the memories' contents could not be put into the configuration")
    return changed


# -- netlists that are configurations ------------------------------------------------------------------------------------


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


def _initial(cells: Mapping[str, Any], name: str, place: Place) -> list[tuple[str, str]]:
    """Parameters of initial values of a memory cell of a Gowin, and their bits."""
    if name not in cells or (place.kind == "RAM16SDP4" and f"{name}_LUT3" not in cells):
        raise SparseGateError(f"the configuration has no memory cell {name}")
    if place.kind == "RAM16SDP4":  # the packer reads the tables, not the cell
        return [(f"INIT_{bit}", cells[f"{name}_LUT{bit}"]["parameters"]["INIT"]) for bit in range(4)]
    parameters = cells[name]["parameters"]
    return [(f"INIT_RAM_{row:02X}", parameters[f"INIT_RAM_{row:02X}"]) for row in range(64)]


def _set_initial(cells: Mapping[str, Any], name: str, place: Place, values: Mapping[str, int]) -> None:
    for key, bits in _initial(cells, name, place):
        text = f"{values[key]:0{len(bits)}b}"
        cells[name]["parameters"][key] = text
        if place.kind == "RAM16SDP4":
            cells[f"{name}_LUT{key[-1]}"]["parameters"]["INIT"] = text


# -- textual configurations of tiles -------------------------------------------------------------------------------------


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
    data = [
        values[f"INITVAL_{row:02X}"] >> 20 * at + 9 * part & 511
        for row in range(64)
        for at in range(16)
        for part in (0, 1)
    ]
    lines = [" ".join(f"{byte:03x}" for byte in data[at : at + 8]) for at in range(0, 2048, 8)]
    blocks[key] = "\n".join([key, *lines]) + "\n\n"


def _decode_ram40(blocks: Mapping[str, str], place: Place) -> dict[str, int]:
    rows = blocks[_part(blocks, f".ram_data {place.at[0]} {place.at[1]}")].split()[3:19]
    return {f"INIT_{at:X}": int(row, 16) for at, row in enumerate(rows)}


def _encode_ram40(blocks: dict[str, str], place: Place, values: Mapping[str, int]) -> None:
    key = _part(blocks, f".ram_data {place.at[0]} {place.at[1]}")
    blocks[key] = "\n".join([key, *(f"{values[f'INIT_{at:X}']:064x}" for at in range(16))]) + "\n\n"


LUT_ORDER = (0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15)
"""Address of a distributed RAM's bit -> bit of its look-up table, by number of the latter."""
LUT_DEFAULT = "1" * 16
"""What a look-up table holds that a configuration does not mention."""


def _tables(place: Place) -> list[tuple[str, str]]:
    """Part of the configuration and name of the word of each look-up table."""
    triples = zip(*[iter(place.at)] * 3, strict=True)
    return [
        (f".tile R{row}C{column}:PLC2", f"word: SLICE{'ABCD'[k >> 1]}.K{k & 1}.INIT ") for row, column, k in triples
    ]


def _decode_dpr16x4(blocks: Mapping[str, str], place: Place) -> dict[str, int]:
    value = 0
    for bit, (key, word) in enumerate(_tables(place)):
        text = blocks[_part(blocks, key)].partition(word)[2][:16] or LUT_DEFAULT
        for at, address in enumerate(LUT_ORDER):
            value |= int(text[15 - at]) << 4 * address + bit
    return {"INITVAL": value}


def _encode_dpr16x4(blocks: dict[str, str], place: Place, values: Mapping[str, int]) -> None:
    for bit, (key, word) in enumerate(_tables(place)):
        text = "".join(str(values["INITVAL"] >> 4 * address + bit & 1) for address in reversed(LUT_ORDER))
        before, found, after = blocks[_part(blocks, key)].partition(word)
        if not found:
            raise SparseGateError(f"the configuration has no {word.strip()!r} in {key!r}")
        blocks[key] = before + word + text + after[16:]


_DECODE = {"DP16KD": _decode_dp16kd, "TRELLIS_DPR16X4": _decode_dpr16x4, "SB_RAM40_4K": _decode_ram40}
_ENCODE = {"DP16KD": _encode_dp16kd, "TRELLIS_DPR16X4": _encode_dpr16x4, "SB_RAM40_4K": _encode_ram40}
