"""What is read of netlists and reports."""

from __future__ import annotations

import pytest
from tests.hw.toolchain import report

from sparsegate.errors import ToolError
from sparsegate_hw.fabric.family import families, family
from sparsegate_hw.synthesis.report import cell_counts, critical_path, fmax


def test_the_slowest_path_between_registers():
    """Places by the names of their nets; what nextpnr adds counts to the place before."""
    assert critical_path(report(90.0), family("ecp5")) == ["0.50 ns a", "10.00 ns b"]
    assert critical_path(report(90.0) | {"critical_paths": []}, family("ecp5")) == []


@pytest.mark.parametrize(
    ("of", "cell"),
    [("ecp5", "net_CCU2C_S0"), ("ecp5", "net_LUT4_Z_1"), ("ice40", "net_SB_DFFSR_Q"), ("gowin", "net_MUX2_LUT5_O")],
)
def test_a_cell_is_named_after_its_net(of, cell):
    hop = {"from": {"cell": cell}, "to": {"cell": cell}, "delay": 1.0}
    path = {"from": "posedge clk", "to": "posedge clk", "path": [hop]}
    assert critical_path({"critical_paths": [path]}, families()[of]) == ["1.00 ns net"]


def test_the_engines_clock_is_the_one_of_its_frequency():
    clocks = {"pin": {"achieved": 200.0, "constraint": 25.0}, "sync": {"achieved": 70.0, "constraint": 80.0}}
    assert fmax({"fmax": clocks}, 80_000_000) == 70.0
    assert fmax({"fmax": clocks}, 25_000_000) == 200.0
    assert fmax({"fmax": clocks}, 50_000_000) == 70.0
    with pytest.raises(ToolError, match="nextpnr reported no clock, expected the engine's"):
        fmax({"fmax": {}}, 80_000_000)


def test_cells_are_counted_by_type():
    cells = {"a": {"type": "LUT4"}, "b": {"type": "DP16KD"}, "c": {"type": "LUT4"}}
    assert cell_counts({"modules": {"top": {"cells": cells}}}) == {"LUT4": 2, "DP16KD": 1}
