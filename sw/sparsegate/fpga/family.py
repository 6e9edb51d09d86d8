"""Families of FPGAs: what is told of each, and where each is found.

A family is two files of one name: a module of this package, whose ``FAMILY`` says what its devices have, and one of
``sparsegate_hw.fabric``, whose ``FAMILY`` makes its cells and calls its tools. Whatever lies in the folder is a family, so that
another one adds its two files and edits none; ``docs/how-to/adding-a-family.md`` says how.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import sparsegate.fpga


@dataclass(frozen=True)
class Device:
    """An FPGA.

    ``luts`` 4-input look-up tables, ``ffs`` flip-flops, ``bram`` block RAMs of the family's size, ``dsp`` multipliers of its
    width, ``sprams`` single-port memories of 16,384 words of 16 bits. ``option`` is what its nextpnr calls it, ``package`` that
    of a bare device, ``speed`` its speed grade, ``clock_hz`` the clock that designs are built for where none is asked for.
    Devices of one ``fabric`` and speed grade have the same delays.
    """

    name: str
    family: str
    fabric: str
    option: str
    package: str
    speed: str
    luts: int
    ffs: int
    bram: int
    dsp: int
    clock_hz: int
    sprams: int = 0


@dataclass(frozen=True)
class Family:
    """What the devices of a family have. A field is a line."""

    name: str
    """That of its two modules, and of ``Device.family``."""
    label: str
    """As people write it."""
    tools: str
    """What places, routes and packs its designs, as people know it."""
    packages: tuple[str, ...]
    """Packages on PyPI that have its tools: that of nextpnr first, that of the packer last."""
    devices: tuple[Device, ...]
    """Its devices, in the order in which they are listed."""
    widest: int
    """Bits of a multiplier's operands."""
    block_shapes: tuple[tuple[int, int], ...]
    """Words and bits of a block RAM that is only read, the widest first."""
    scratch_blocks: Callable[[int, int, bool], int]
    """Block RAMs of a memory of so many bits and words that is read and written every cycle, as accumulators are; 0 where it is
    distributed RAM. The last argument says whether ``HardwareConfig.block_banks`` asks for block RAM."""
    distributed: bool = True
    """Whether it has distributed RAM, for small memories; without, every memory is block RAM, of a shape that Yosys chooses."""
    block_banks: bool = False
    """Whether ``HardwareConfig.block_banks`` may ask for accumulators in block RAM."""

    @property
    def read_bits(self) -> int:
        """Bits that a block RAM gives a cycle at most, where it is only read."""
        return max(bits for _, bits in self.block_shapes)

    def block_shape(self, depth: int) -> tuple[int, int]:
        """The widest shape of a block RAM with so many words, or the deepest there is."""
        return next((shape for shape in self.block_shapes if shape[0] >= depth), self.block_shapes[-1])

    def fewest_blocks(self, width: int, depth: int) -> int:
        """Block RAMs of a memory whose shape Yosys chooses."""
        return min(-(-width // bits) * -(-depth // words) for words, bits in self.block_shapes)

    @property
    def an(self) -> str:
        """Its label after an article."""
        return f"{'an' if self.label[0] in 'AEIOUaeiou' else 'a'} {self.label}"


@cache
def families() -> Mapping[str, Family]:
    """All families by name, those of most devices first."""
    modules = [
        importlib.import_module(f"{sparsegate.fpga.__name__}.{found.name}")
        for found in pkgutil.iter_modules(sparsegate.fpga.__path__)
    ]
    known = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in sorted(known, key=lambda family: (-len(family.devices), family.name))}


def family(name: str) -> Family:
    """A family by its name."""
    return families()[name]
