"""Size of the array, and what one FPGA takes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsegate.cells import cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device, families, family
from sparsegate.network import Network
from sparsegate.program import Program

MAX_PES = 4096
"""Far beyond any FPGA that an open toolchain knows; larger arrays would only take hours to be refused by placement."""
MAX_MULTIPLIER = 64
MAX_STEPS = 1 << 14
"""Far beyond the block RAMs of any FPGA that an open toolchain knows."""
MAX_OUTPUTS = 64
"""Longer than the blocks of any pattern in use."""


SIZES = (
    "rows",
    "groups",
    "lanes",
    "cluster",
    "multiplier",
    "steps",
    "outputs",
    "banks",
    "block_banks",
    "bias_bits",
    "partial_bits",
)
"""Fields of a configuration that are integers of 1 or more, ``block_banks`` of 0 or more, where they are given."""


@dataclass(frozen=True)
class HardwareConfig:
    """Size of the array.

    ``rows`` x ``groups`` PEs (Pr x Pc); ``cluster`` rows to a cluster (default: the most gates of any layer); ``lanes`` cell
    lanes (default: one per cluster); ``multiplier`` is the widest operand that the target's multiplier takes (18 bits on ECP5,
    16 on iCE40). ``states``: with ports for initial and final states. ``steps``: the longest sequence that a Program with layers in
    both directions of time may be given, as it must be buffered. ``outputs``: values of an output frame that the engine gives a
    cycle, a power of two. ``banks``: the most banks of accumulators; with one, a phase is dispatched only after the read-out of the
    one before, but small memories are not split further. ``block_banks``: of these banks, the deepest first, so many lie in an
    ECP5's block RAM, which saves look-up tables where block RAM is left; a phase whose drain no other covers takes two cycles
    more. ``bias_bits``: of a bias in the
    lanes' memories (default: as many as the Program's need, and up to four more where that costs no block RAM: for weights that
    come later). ``partial_bits``: of a PE's sums, which are those of its own column group (default: ``Layout.partial_width``).
    ``loaded``: weights are no part of a bitstream, but written after reset; an entry is then a word of at most 16 bits, and a PE
    has at most 16,384 of them: one SPRAM of an iCE40 UP5K. ``deep``: more registers (``timing.DEEP``), for arrays that fill a large
    device: a higher clock for some more cycles a step. At most 4096 PEs.
    """

    rows: int = 8
    groups: int = 1
    lanes: int | None = None
    cluster: int | None = None
    multiplier: int = 18
    states: bool = False
    steps: int = 128
    outputs: int = 1
    banks: int = 3
    block_banks: int = 0
    bias_bits: int | None = None
    partial_bits: int | None = None
    loaded: bool = False
    deep: bool = False

    def __post_init__(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise SparseGateError(f"{name} is {value!r}, expected an integer")
            least = 0 if name == "block_banks" else 1
            if value < least:
                raise SparseGateError(f"{name} is {value}, expected {least} or more")
        if self.pes > MAX_PES:
            raise SparseGateError(
                f"{self.rows} rows x {self.groups} groups are {self.pes} processing elements, expected at most {MAX_PES}"
            )
        if self.steps > MAX_STEPS:
            raise SparseGateError(f"steps is {self.steps}, expected at most {MAX_STEPS}")
        if self.multiplier > MAX_MULTIPLIER:
            raise SparseGateError(f"multiplier is {self.multiplier} bits, expected at most {MAX_MULTIPLIER}")
        if self.outputs & (self.outputs - 1) or self.outputs > MAX_OUTPUTS:
            raise SparseGateError(
                f"outputs is {self.outputs}, expected a power of two of at most {MAX_OUTPUTS} values a cycle"
            )

    @property
    def pes(self) -> int:
        """Number of processing elements."""
        return self.rows * self.groups


def default_rows(of: Network | Program) -> int:
    """PE rows where none are asked for: two clusters, 8 rows for an LSTM, 6 for a GRU."""
    if isinstance(of, Program):
        return 2 * max(phase.gates for phase in of.phases)
    specs = [spec for layer in of.layers for spec in phases_of(cell(layer.kind), layer.w_p is not None)]
    return 2 * max(len(spec.gates) for spec in specs)


def suited(config: HardwareConfig, chip: Device, multipliers: str) -> HardwareConfig:
    """The configuration as a device takes it: operands as wide as its multipliers at most.

    Raises
    ------
    SparseGateError
        If it asks for what only other devices have.
    """
    check_family(config, chip)
    if multipliers != "dsp":
        return config
    return replace(config, multiplier=min(config.multiplier, family(chip.family).widest))


def check_family(config: HardwareConfig, chip: Device) -> None:
    """Refuse what a configuration asks of one family of FPGAs, where the device is of another, in a sentence."""
    if config.block_banks and not family(chip.family).block_banks:
        able = " or ".join(each.an for each in families().values() if each.block_banks)
        raise SparseGateError(
            f"block_banks is {config.block_banks}, expected 0: it is for {able}; on other devices the size of accumulators"
            " says where they lie"
        )
