"""Boards of amaranth-boards that SparseGate can be built for: an ECP5, a clock, a UART."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from amaranth.build import ResourceError

from sparsegate.errors import SparseGateError, ToolError
from sparsegate_hw.primitives import Fabric

DEFAULT = "ulx3s-85f"

PLATFORMS = {
    "ulx3s-85f": ("ulx3s", "ULX3S_85F_Platform"),
    "ulx3s-45f": ("ulx3s", "ULX3S_45F_Platform"),
    "ulx3s-25f": ("ulx3s", "ULX3S_25F_Platform"),
    "ulx3s-12f": ("ulx3s", "ULX3S_12F_Platform"),
    "ecpix5-85f": ("ecpix5", "ECPIX585Platform"),
    "ecpix5-45f": ("ecpix5", "ECPIX545Platform"),
    "ecp5-5g-evn": ("ecp5_5g_evn", "ECP55GEVNPlatform"),
    "versa-ecp5": ("versa_ecp5", "VersaECP5Platform"),
    "versa-ecp5-5g": ("versa_ecp5_5g", "VersaECP55GPlatform"),
    "colorlight-5a-75b": ("colorlight_5a75b_r7_0", "Colorlight_5A75B_R70Platform"),
    "icepi-zero": ("icepi_zero", "IcepiZero1_3Platform"),
    "icesugar-pro": ("icesugar_pro", "ICESugarProPlatform"),
}
"""Name on the command line -> module and class of amaranth-boards."""

DEVICES = {
    "LFE5U-12F": "--12k",
    "LFE5U-25F": "--25k",
    "LFE5U-45F": "--45k",
    "LFE5U-85F": "--85k",
    "LFE5UM-25F": "--um-25k",
    "LFE5UM-45F": "--um-45k",
    "LFE5UM-85F": "--um-85k",
    "LFE5UM5G-25F": "--um5g-25k",
    "LFE5UM5G-45F": "--um5g-45k",
    "LFE5UM5G-85F": "--um5g-85k",
}
"""Device -> its option of nextpnr-ecp5."""

MULTIPLIERS = {"12F": 28, "25F": 28, "45F": 72, "85F": 156}
"""Size of a device -> its 18 x 18 multipliers (Lattice FPGA-DS-02012)."""

PACKAGES = {"BG256": "CABGA256", "MG285": "CSFBGA285", "BG381": "CABGA381", "BG554": "CABGA554", "BG756": "CABGA756"}
"""Lattice's package code -> nextpnr's name."""


@dataclass(frozen=True)
class Target:
    """An FPGA to build for. ``board`` is None for a bare device, whose pins are chosen by the placer.

    ``speed`` is Lattice's speed grade: 6 is the slowest, 8 the fastest.
    """

    device: str
    package: str
    speed: str
    board: str | None = None

    @property
    def name(self) -> str:
        return self.board or self.device

    def fabric(self) -> Fabric:
        """What primitives may take of the device; one serves one design."""
        return Fabric("ecp5", MULTIPLIERS[self.device.rpartition("-")[2]])

    def platform(self) -> Any:
        """A new amaranth-boards platform with a ``fabric``; one serves one design."""
        assert self.board is not None
        platform = _platform(self.board)
        platform.fabric = self.fabric()
        return platform


def target(board: str | None = None, device: str | None = None) -> Target:
    """A board by its name, or a bare device such as "LFE5U-25F"; the default board where both are None.

    Raises
    ------
    SparseGateError
        If the name is unknown (the message lists the known ones), or both are given.
    """
    if board is not None and device is not None:
        raise SparseGateError(f"a board ({board}) and a device ({device}) were given, expected one of the two")
    if device is not None:
        # the 5G family exists in speed grade 8 only
        form = device.upper()
        if form not in DEVICES:
            raise SparseGateError(f"no device is called {device!r}; known are {', '.join(DEVICES)}")
        return Target(form, "BG381", "8" if "5G" in form else "6")
    board = DEFAULT if board is None else board.lower()
    if board not in PLATFORMS:
        raise SparseGateError(f"no board is called {board!r}; known are {', '.join(PLATFORMS)}")
    platform = _platform(board)
    return Target(platform.device, platform.package, platform.speed, board)


def _platform(board: str) -> Any:
    module, name = PLATFORMS[board]
    try:
        platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)()
    except (ImportError, AttributeError) as error:
        raise ToolError(f"board {board} needs amaranth-boards; 'pip install amaranth-boards' provides it") from error
    if not suitable(platform):
        raise SparseGateError(f"board {board} lacks an ECP5, a clock or a UART in this amaranth-boards")
    return platform


def suitable(platform: Any) -> bool:
    """Whether a platform has all that a :class:`~sparsegate_hw.board.Top` asks for. LEDs are optional."""
    if not str(platform.device).startswith("LFE5U") or platform.default_clk is None:
        return False
    try:
        platform.lookup("uart", 0)
        return platform.lookup(platform.default_clk).clock is not None
    except ResourceError:
        return False
