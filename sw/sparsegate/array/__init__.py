"""Where everything of a Program lives on an array of processing elements: pure arithmetic, no hardware description."""

from __future__ import annotations

from sparsegate.array.layout import (
    BLOCK_SHAPES,
    ICE40_SHAPES,
    INPUT,
    MAX_MULTIPLIER,
    MAX_PLANES,
    SPRAM_SHAPE,
    HardwareConfig,
    Layout,
    MatrixLayout,
    PhaseLayout,
    contents_blocks,
    packet_blocks,
    rom_blocks,
    weight_shape,
)

__all__ = [
    "BLOCK_SHAPES",
    "ICE40_SHAPES",
    "INPUT",
    "MAX_MULTIPLIER",
    "MAX_PLANES",
    "SPRAM_SHAPE",
    "HardwareConfig",
    "Layout",
    "MatrixLayout",
    "PhaseLayout",
    "contents_blocks",
    "packet_blocks",
    "rom_blocks",
    "weight_shape",
]
