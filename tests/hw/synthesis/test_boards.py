"""The table of boards against what amaranth-boards really has."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import amaranth_boards
import pytest
from amaranth.vendor import GowinPlatform, LatticeECP5Platform, LatticeICE40Platform

from sparsegate.errors import SparseGateError
from sparsegate.fpga import devices
from sparsegate_hw.fabric.ecp5 import PACKAGES
from sparsegate_hw.fabric.family import family
from sparsegate_hw.synthesis import boards


def platforms():
    """Every platform class of amaranth-boards."""
    for info in pkgutil.iter_modules(amaranth_boards.__path__):
        if info.name in ("test", "extensions", "resources"):
            continue
        module = importlib.import_module(f"amaranth_boards.{info.name}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and kind.__module__ == module.__name__ and not name.startswith("_"):
                yield info.name, name, kind


def test_every_suitable_board_is_in_the_table():
    suitable = set()
    for module, name, kind in platforms():
        if issubclass(kind, GowinPlatform) and not family("gowin").part(kind):
            continue  # Amaranth knows no larger ones, and says so as soon as one is made
        if issubclass(kind, LatticeECP5Platform | LatticeICE40Platform | GowinPlatform) and boards.suitable(kind()):
            suitable.add((module, name))
    # other carriers of the module on the board that is there, with the same clock and UART
    suitable -= {("tang_primer_20k", "TangPrimer20kPlatform"), ("tang_primer_20k", "TangPrimer20kLitePlatform")}
    # its platform fixes a build option that synthesis must set itself, and its clock is too slow for a PLL
    suitable.remove(("supercon19badge", "Supercon19BadgePlatform"))
    assert set(boards.PLATFORMS.values()) == suitable


@pytest.mark.parametrize("board", boards.PLATFORMS)
def test_targets(board):
    found = boards.target(board.upper())
    assert found.name == board
    assert found.device in devices.DEVICES
    assert found.platform().fabric == found.fabric()
    assert found.family == {"iCE4": "ice40", "GW2A": "gowin", "LFE5": "ecp5"}[found.device[:4]]
    if found.family == "ecp5":
        assert found.package in PACKAGES
        assert found.speed == ("8" if "5G" in found.device else found.platform().speed)


def test_default_and_devices():
    assert boards.target() == boards.target("ulx3s-85f")
    assert boards.target().device == "LFE5U-85F"
    assert boards.target().speed == "6"
    bare = boards.target(device="lfe5u-25f")
    assert (bare.device, bare.board, bare.name, bare.speed) == ("LFE5U-25F", None, "LFE5U-25F", "6")
    assert boards.target(device="LFE5UM5G-45F").speed == "8"
    assert boards.target(device="ice40up5k").device == "iCE40UP5K"
    gowin = boards.target("tang-primer-20k")
    assert replace(gowin, board=None) == boards.target(device="gw2a-18")
    assert (gowin.device, gowin.package, gowin.speed) == ("GW2A-18", "PG256", "C8/I7")


def test_multipliers():
    assert boards.target("icebreaker").multipliers == "dsp"
    assert boards.target("icebreaker", multipliers="logic").multipliers == "logic"
    assert boards.target("ice40-hx8k").multipliers == "logic"
    with pytest.raises(SparseGateError, match="iCE40HX8K has no multipliers; use --multipliers logic"):
        boards.target("ice40-hx8k", multipliers="dsp")
    with pytest.raises(SparseGateError, match="multipliers are made of 'glue', expected 'dsp' or 'logic'"):
        boards.target(multipliers="glue")


def test_unknown_names():
    with pytest.raises(SparseGateError, match=r"no board is called 'arty'; known are ulx3s-85f, .*ice40-hx8k"):
        boards.target("arty")
    with pytest.raises(SparseGateError, match=r"no device is called 'XC7A35T'; known are LFE5U-12F, "):
        boards.target(device="XC7A35T")
    with pytest.raises(SparseGateError, match="a board .* and a device .* were given, expected one of the two"):
        boards.target("ulx3s-85f", "LFE5U-25F")
