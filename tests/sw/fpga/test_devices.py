"""Devices by their names."""

from __future__ import annotations

import pytest

from sparsegate.errors import SparseGateError
from sparsegate.fpga.devices import DEFAULT, DEVICES, device


def test_devices_are_found_in_any_case():
    assert device("lfe5u-85f") is DEVICES["LFE5U-85F"] is device(DEFAULT)
    assert device("GW2A-18").luts == 20736
    with pytest.raises(
        SparseGateError, match="no device is called 'XC7A35T'; known are LFE5U-12F, .*iCE40UP5K, .*GW2A-18"
    ):
        device("XC7A35T")


def test_every_device_has_what_an_engine_needs():
    for name, chip in DEVICES.items():
        assert chip.name == name
        assert chip.luts >= chip.ffs > 1000
        assert chip.bram > 0
        assert chip.clock_hz > 10e6


def test_sizes_of_one_family_have_the_same_delays_where_they_are_cut_from_one_die():
    assert {chip.fabric for chip in DEVICES.values() if chip.name.startswith("LFE5U")} == {"ecp5"}
    assert device("iCE40UP5K").fabric != device("iCE40HX8K").fabric
