"""Memory images: the contents of the engine's memories, packed to words.

Word layouts (least significant field first), the same as the hardware's:

- weights: index in block, weight (two's complement), for each of a word's entries (``Layout.weight_planes``);
- biases: a bit that says the position holds a unit, then one bias a sum, then the cell's parameters (two's complement);
- tables: value at a segment's left end, then (with interpolation) the rise over the segment.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray

from sparsegate.array.layout import Layout
from sparsegate.numerics import tables
from sparsegate.numerics.tables import ActivationTable


@dataclass(frozen=True)
class Image:
    """Contents of one memory: ``words`` of ``width`` bits, unsigned."""

    name: str
    width: int
    words: tuple[int, ...]

    def hex(self) -> str:
        """Text for ``$readmemh``: one word a line."""
        digits = -(-self.width // 4)
        return "".join(f"{word:0{digits}x}\n" for word in self.words)


def table_fields(table: ActivationTable) -> tuple[int, int]:
    """Bits of a table's value and of its rise (0 without interpolation)."""
    base = max(1, int(table.base.max()).bit_length())
    return base, max(1, int(table.slope.max()).bit_length()) if table.step_bits else 0


def table_image(table: ActivationTable) -> Image:
    """Contents of an activation table."""
    base, slope = table_fields(table)
    words = tuple(int(b) | (int(s) << base if slope else 0) for b, s in zip(table.base, table.slope, strict=True))
    return Image(f"{table.function}_{table.source}_{table.target}_{table.step_bits}", base + slope, words)


def bias_words(layout: Layout, bias: NDArray, real: NDArray, constants: NDArray) -> list[int]:
    """One lane's words, from its part of ``Layout.biases`` and ``Layout.constants``."""
    count, width = layout.parameters
    fields = [1] + [layout.bias_bits] * layout.sums + [width] * count
    words = []
    for values in zip(real.tolist(), bias.tolist(), constants.tolist(), strict=True):
        word = at = 0
        # Python integers: a word may be wider than 64 bits
        for value, bits in zip((int(values[0]), *values[1], *values[2]), fields, strict=True):
            word |= (value & ((1 << bits) - 1)) << at
            at += bits
        words.append(word)
    return words


def images(layout: Layout) -> list[Image]:
    """Every initialised memory of the engine: weights of each PE, biases of each lane, the tables in use."""
    out = []
    index, weight = layout.weights()
    words, width = layout.pack(index, weight), layout.weight_planes * layout.entry_width
    for row in range(layout.rows):
        for group in range(layout.groups):
            out.append(Image(f"weights_{row}_{group}", width, tuple(words[row, group].tolist())))
    for lane, contents in enumerate(zip(*layout.biases(), layout.constants(), strict=True)):
        out.append(Image(f"biases_{lane}", layout.bias_word(), tuple(bias_words(layout, *contents))))
    made: dict[str, Image] = {}
    for layer in layout.program.layers:
        for function in layer.cell.functions:
            table = tables.table(function, layer.formats["pre"], layer.formats["gate"], layer.step_bits)
            image = table_image(table)
            made[image.name] = image
    return out + [made[name] for name in sorted(made)]


def memory_bits(layout: Layout) -> dict[str, int]:
    """Bits of the initialised memories by kind: weights, biases, tables (each table once)."""
    bits: dict[str, int] = {"weights": 0, "biases": 0, "tables": 0}
    for image in images(layout):
        kind = image.name.split("_")[0]
        bits[kind if kind in bits else "tables"] += image.width * len(image.words)
    return bits
