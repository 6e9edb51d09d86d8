"""Which RAM a memory becomes: block RAMs, distributed RAM or logic, by its size alone.

The one place where layout, estimate and hardware agree on it: the hardware asks synthesis for what these functions say, so their
counts are exact. Shapes that a layout is made of are those of a block RAM of 18 kbit, whatever the device: its Verilog is the same
for all. What a family makes of a memory where it is another is told by its :class:`~sparsegate.fpga.family.Family`.
"""

from __future__ import annotations

from sparsegate.fpga.family import family

BLOCK_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Words and bits of a block RAM of 18 kbit, read through its two ports together or one of them."""
SPRAM_SHAPE = (16384, 16)
"""Words and bits of a single-port memory."""
ROM_BITS = 4096
"""A memory of no more bits for each of the block RAMs that it would take becomes logic or distributed RAM.

Somewhat less than a quarter of a block RAM: so much takes some 200 to 300 LUTs, and an LFE5U-85F has 400 LUTs for each block RAM.
Weights want those.
"""
CONTENTS_BITS = 1024
"""The same where the contents may be replaced: in distributed RAM a bit takes three times what it takes in logic."""
SPARE_BITS = 9216
"""A packet's memory of no more bits is distributed RAM: half a block RAM, as there are two such memories and not many more."""


def rom_blocks(width: int, depth: int, least: int = ROM_BITS) -> int:
    """Block RAMs of 18 kbit for a memory: side by side, and on top of one another only where it is deeper than any."""
    rows, columns = next((shape for shape in BLOCK_SHAPES if shape[0] >= depth), BLOCK_SHAPES[-1])
    blocks = -(-width // columns) * -(-depth // rows)
    return blocks if width * depth > blocks * least else 0


def contents_blocks(width: int, depth: int) -> int:
    """The same of a memory whose contents may be replaced: weights, biases."""
    return rom_blocks(width, depth, CONTENTS_BITS)


def packet_blocks(width: int, depth: int) -> int:
    """The same of a request's values or a reply's bytes."""
    return rom_blocks(width, depth) if width * depth > SPARE_BITS else 0


def blocks(width: int, depth: int, of: str) -> int:
    """Block RAMs of a family for a memory of weights or biases; 0 where it is distributed RAM."""
    chips = family(of)
    if chips.distributed:
        return contents_blocks(width, depth)
    words, bits = chips.block_shape(depth)
    return -(-width // bits) * -(-depth // words)
