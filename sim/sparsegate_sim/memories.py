"""Contents of memories in files beside the Verilog.

A thousand cells on 96 PEs are 300,000 assignments, which Verilator and the C++ compiler take ten minutes for; as files that a
simulation reads when it starts, they cost nothing. And as weights are then no part of what is compiled, Programs of one shape on
one array share a compiled simulation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CONTENTS = re.compile(
    r"^(?P<declared> *reg (?:\[\d+:0\] )?(?P<name>\S+) \[\d+:0\];\n)"
    r" *initial begin\n(?P<words>(?: *(?P=name)\[\d+\] = \d+'[hb][0-9a-f]+;\n)+) *end\n",
    re.MULTILINE,
)
"""A memory as Yosys writes it: its declaration, then an assignment for every word."""
WORD = re.compile(r"\[(\d+)\] = \d+'([hb])([0-9a-f]+);")
LARGE = 16
"""Words from which on a memory's contents are worth a file."""


def outside(verilog: str) -> tuple[str, dict[str, str]]:
    """The same design with the contents of its larger memories in files that it reads with ``$readmemh`` or ``$readmemb``.

    The files, by name with their text, must lie in the folder that the simulation runs in.
    """
    files: dict[str, str] = {}

    def moved(match: re.Match[str]) -> str:
        words = WORD.findall(match["words"])
        if len(words) < LARGE:
            return match[0]
        base, name = words[0][1], f"memory_{len(files)}"
        files[name] = "".join(f"@{int(address):x} {digits}\n" for address, _, digits in words)
        return f'{match["declared"]}  initial $readmem{base}("{name}", {match["name"]});\n'

    return CONTENTS.sub(moved, verilog), files


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write contents to the folder that a simulation runs in."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")
