"""Boards of amaranth-boards that SparseGate can be built for: an FPGA of a known family, a clock, a UART."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

from amaranth.build import ResourceError

from sparsegate.array import Layout
from sparsegate.array.resources import exact
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.extras import install
from sparsegate.fpga import devices
from sparsegate.fpga.devices import kind_of_multipliers
from sparsegate.fpga.family import Device
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.family import families

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
    "icebreaker": ("icebreaker", "ICEBreakerPlatform"),
    "icesugar": ("icesugar", "ICESugarPlatform"),
    "ice40-hx8k": ("ice40_hx8k_b_evn", "ICE40HX8KBEVNPlatform"),
    "tang-primer-20k": ("tang_primer_20k", "TangPrimer20kDockPlatform"),
}
"""Name on the command line -> module and class of amaranth-boards."""


@dataclass(frozen=True)
class Target:
    """An FPGA to build for. ``board`` is None for a bare device, whose pins are chosen by the placer
    where it can.

    ``speed`` is the maker's speed grade: of an ECP5, 6 is the slowest, 8 the fastest. ``multipliers``: "dsp", the device's own, or
    "logic".
    """

    device: str
    package: str
    speed: str
    board: str | None = None
    multipliers: str = "dsp"

    @property
    def name(self) -> str:
        return self.board or self.device

    @property
    def chip(self) -> Device:
        """What the FPGA has."""
        return devices.device(self.device)

    @property
    def family(self) -> str:
        """Name of its family of FPGAs."""
        return self.chip.family

    def fabric(self, layout: Layout | None = None) -> Fabric:
        """What primitives may take of the device; one serves one design, whose ``layout`` tells what it has to spare."""
        chip = self.chip
        if self.multipliers != "dsp":
            return Fabric(chip.family, 0, chip.sprams)
        needed = chip.dsp if layout is None else int(exact(layout, chip, "dsp")["dsp"])
        return Fabric(chip.family, chip.dsp, chip.sprams, spare=max(0, chip.dsp - needed))

    def platform(self, layout: Layout | None = None) -> Any:
        """A new amaranth-boards platform with a ``fabric``; one serves one design."""
        assert self.board is not None
        platform = _platform(self.board)
        platform.fabric = self.fabric(layout)
        return platform


def target(board: str | None = None, device: str | None = None, multipliers: str | None = None) -> Target:
    """A board by its name, or a bare device such as "LFE5U-25F"; the default board where both are None.

    ``multipliers``: "dsp" or "logic"; the default is what the device has.

    Raises
    ------
    SparseGateError
        If the name is unknown (the message lists the known ones), both are given, or the device has no multipliers to use.
    """
    if board is not None and device is not None:
        raise SparseGateError(f"a board ({board}) and a device ({device}) were given, expected one of the two")
    if device is not None:
        chip = devices.device(device)
        found = Target(chip.name, chip.package, chip.speed)
    else:
        board = DEFAULT if board is None else board.lower()
        if board not in PLATFORMS:
            raise SparseGateError(f"no board is called {board!r}; known are {', '.join(PLATFORMS)}")
        platform = _platform(board)
        found = Target(str(_device(platform)), platform.package, getattr(platform, "speed", ""), board)
    return replace(found, multipliers=kind_of_multipliers(found.chip, multipliers))


def _platform(board: str) -> Any:
    module, name = PLATFORMS[board]
    try:
        platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)()
    except (ImportError, AttributeError) as error:
        raise ToolError(f"board {board} needs amaranth-boards; '{install('amaranth_boards')}' provides it") from error
    if not suitable(platform):
        raise SparseGateError(f"board {board} lacks a known FPGA, a clock or a UART in this amaranth-boards")
    return platform


def _device(platform: Any) -> str | None:
    """Name of a platform's FPGA; None if it is not a known one."""
    return next(filter(None, (family.part(platform) for family in families().values())), None)


def suitable(platform: Any) -> bool:
    """Whether a platform has all that a :class:`~sparsegate_hw.board.board.Top` asks for. LEDs are optional."""
    if _device(platform) is None or platform.default_clk is None:
        return False
    try:
        platform.lookup("uart", 0)
        return platform.lookup(platform.default_clk).clock is not None
    except ResourceError:
        return False
