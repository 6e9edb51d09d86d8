"""Cells, PLL and routed netlist of an iCE40."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.hw.cells import icarus, multiplier, same

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.family import family
from sparsegate_hw.fabric.ice40 import pll_for


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (16, 16), (3, 16)])
def test_multiplier_of_an_ice40(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("ice40", 1), "SB_MAC16", tmp_path)


@pytest.mark.parametrize("source", [12, 16, 25, 50, 100])
@pytest.mark.parametrize("target", [20, 36, 48, 66, 100])
def test_pll_settings_obey_the_guide(source, target):
    pll = pll_for(source * 1_000_000, target * 1_000_000)
    assert 0.7 * target * 1e6 <= pll.output_hz <= target * 1e6
    detector = source * 1e6 / (pll.divide_input + 1)
    assert 10e6 <= detector <= 133e6
    assert 533e6 <= detector * (pll.divide_feedback + 1) <= 1066e6
    assert 1 <= pll.divide_output <= 6
    assert 1 <= pll.filter_range <= 6


def test_a_pll_setting_that_there_is_none_of():
    with pytest.raises(
        SparseGateError, match="no PLL setting gives 12 MHz from 12 MHz; an iCE40's gives 16 to 275 MHz"
    ):
        pll_for(12_000_000, 12_000_000)


def test_what_is_counted():
    found = family("ice40").measured(
        {"ICESTORM_LC": {"used": 9, "available": 99}}, {"SB_DFFSR": 2, "SB_DFF": 3, "SB_LUT4": 9}
    )
    assert found == {"luts": 9, "ffs": 5, "bram": 0, "dsp": 0, "sprams": 0}


def test_the_contents_of_a_routed_netlist():
    first = {f"INIT_{row:X}": "0" * 256 for row in range(16)}
    cells = {"r_RAM": {"type": "ICESTORM_RAM", "port_directions": {}, "parameters": {"READ_MODE": "01", **first}}}
    contents = {f"INIT_{row:X}": random.Random(row).getrandbits(256) for row in range(16)}
    family("ice40").plain_netlist({"cells": cells, "ports": {}}, {"r": contents})
    found = cells["r_RAM"]["parameters"]
    assert found.pop("READ_MODE") == "01"
    assert {key: (len(bits), int(bits, 2)) for key, bits in found.items()} == {
        key: (256, value) for key, value in contents.items()
    }
