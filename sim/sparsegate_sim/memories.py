"""Contents of memories in files beside the Verilog: a simulator reads a million words far faster than a million assignments."""

from __future__ import annotations

import re
from pathlib import Path

from sparsegate_sim import cache

CONTENTS = re.compile(
    r"^(?P<declared> *reg (?:\[\d+:0\] )?(?P<name>\S+) \[\d+:0\];\n)"
    r" *initial begin\n(?P<words>(?: *(?P=name)\[\d+\] = \d+'[hb][0-9a-f]+;\n)+) *end\n",
    re.MULTILINE,
)
"""A memory as Yosys writes it: its declaration, then an assignment for every word."""
WORD = re.compile(r"\[(\d+)\] = \d+'([hb])([0-9a-f]+);")
LARGE = 256
"""Words from which on a memory's contents are worth a file. A thousand cells on 96 PEs are 300,000 assignments, which Verilator and
the C++ compiler take ten minutes for; without them half a minute is left."""


def outside(verilog: str, folder: Path | None = None) -> str:
    """The same design, with the contents of its large memories in files that it reads with ``$readmemh`` or ``$readmemb``.

    The files' names are absolute and addressed by content; they lie in ``folder``, or beside the compiled simulations.
    """

    def moved(match: re.Match[str]) -> str:
        words = WORD.findall(match["words"])
        if len(words) < LARGE:
            return match[0]
        base = words[0][1]
        text = "".join(f"@{int(address):x} {digits}\n" for address, _, digits in words)

        def make(temporary: Path) -> None:
            (temporary / "contents").write_text(text, encoding="ascii")

        path = cache.built(f"memory-{cache.digest(text)}", make, folder) / "contents"
        return f'{match["declared"]}  initial $readmem{base}("{path.resolve()}", {match["name"]});\n'

    return CONTENTS.sub(moved, verilog)
