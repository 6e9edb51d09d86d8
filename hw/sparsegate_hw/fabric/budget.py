"""What the primitives of one design may take of an FPGA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsegate_hw.fabric import family as families
from sparsegate_hw.fabric.family import Family


@dataclass
class Fabric:
    """What the primitives of one design may take of an FPGA; the ``platform`` of its elaboration, or that one's ``fabric``.

    ``family`` is its name. ``multipliers`` and ``sprams`` are as many as the device has, or fewer: who comes later gets logic, or
    block RAM. ``spare`` of the multipliers are for small multiplications, which are made of logic otherwise. All count down while
    a design is elaborated, so a design needs a new one.
    """

    family: str
    multipliers: int
    sprams: int = 0
    spare: int = 0

    @property
    def cells(self) -> Family:
        """What primitives are made of."""
        return families.family(self.family)

    def take(self, multipliers: int, small: bool = False) -> bool:
        """Whether so many are left, which are then taken."""
        enough = self.multipliers >= multipliers and (self.spare >= multipliers or not small)
        if enough:
            self.multipliers -= multipliers
            self.spare -= multipliers * small
        return enough

    def take_spram(self) -> bool:
        """Whether a single-port memory is left, which is then taken."""
        self.sprams -= 1
        return self.sprams >= 0


def fabric(platform: Any) -> Fabric | None:
    """The fabric of an elaboration's platform, if it has one."""
    return platform if isinstance(platform, Fabric) else getattr(platform, "fabric", None)


def family(platform: Any) -> Family | None:
    """The family of the FPGA that is elaborated for; None for a simulation."""
    name = getattr(getattr(platform, "fabric", platform), "family", None)
    return None if name is None else families.family(name)
