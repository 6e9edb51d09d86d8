"""Cells and PLL of a Gowin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.hw.cells import SHAPES, icarus, memory, multiplier, same, scratch, simulated, wanted

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import family as facts
from sparsegate.fpga.memory import rom_blocks
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.family import family
from sparsegate_hw.fabric.gowin import Pll, pll_for
from sparsegate_hw.synthesis import netlist


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (18, 18), (5, 17)])
def test_multiplier_of_a_gowin(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("gowin", 1), "MULT18X18", tmp_path)


@icarus
@pytest.mark.parametrize(
    ("width", "depth", "count"), [(19, 40, 1), (25, 101, 1), (36, 512, 1), (36, 600, 0), (37, 20, 0)]
)
def test_wide_scratch_memories_of_a_gowin_are_block_ram(width: int, depth: int, count: int, tmp_path: Path) -> None:
    """After synthesis: Yosys chooses the cell."""
    dut, names, items = scratch(width, depth)
    expected = wanted(dut, names, items)
    made = netlist.write(scratch(width, depth)[0], tmp_path, "block", fabric=Fabric("gowin", 48))
    verilog = made.design.read_text()
    assert facts("gowin").scratch_blocks(width, depth, False) == verilog.count("SDPX9B ") == count
    assert "DPX9B " not in verilog.replace("SDPX9B ", "")
    got = simulated(verilog, made.cells.read_text(), dut, names, items, tmp_path)
    assert [int(value, 16) for value in got[depth:]] == expected[depth:]
    assert len(set(expected)) >= 20


@icarus
def test_a_scratch_memory_of_a_gowin_is_distributed(tmp_path: Path) -> None:
    same(lambda: scratch(7, 40), Fabric("gowin", 0), "", tmp_path)
    assert (
        netlist.write(scratch(7, 40)[0], tmp_path, "scratch", fabric=Fabric("gowin", 0))
        .report.read_text()
        .count("RAM16SDP4")
    )


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_memory_of_a_gowin(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: memory(width, depth), Fabric("gowin", 0), "pROMX9" if depth <= 2048 else "pROM", tmp_path)
    assert len(re.findall("pROM(X9)? #", (tmp_path / "block.v").read_text())) == rom_blocks(width, depth)


@pytest.mark.parametrize("source", [12, 25, 27, 50, 100])
@pytest.mark.parametrize("target", [27, 54, 60, 80, 100, 133, 200])
def test_pll_settings_of_a_gowin_obey_its_data_sheet(source, target):
    pll = pll_for(source * 1_000_000, target * 1_000_000)
    assert 0.9 * target * 1e6 <= pll.output_hz <= target * 1e6
    assert pll.output_hz == source * 1e6 / pll.divide_input * pll.divide_feedback
    assert 500e6 <= pll.vco_hz <= 1250e6
    assert 3e6 <= source * 1e6 / pll.divide_input <= 500e6
    assert 1 <= pll.divide_input <= 64
    assert 1 <= pll.divide_feedback <= 64
    assert pll.divide_output in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)


def test_pll_settings():
    assert pll_for(27_000_000, 54_000_000) == Pll(27_000_000, 1, 2, 16)
    with pytest.raises(SparseGateError, match="no PLL setting gives 3 MHz from 27 MHz; a Gowin's gives 3.90625 to 625"):
        pll_for(27_000_000, 3_000_000)


def test_what_is_counted():
    """A carry bit takes a LUT's place, as do the bits of a distributed RAM and two more; half a multiplier is one."""
    used = {"LUT4": 100, "ALU": 20, "RAM16SDP4": 3, "DFF": 50, "BSRAM": 7, "MULT18X18": 4, "MULT9X9": 3, "MULT36X36": 1}
    found = family("gowin").measured({name: {"used": count, "available": 999} for name, count in used.items()}, {})
    assert found == {"luts": 126, "ffs": 50, "bram": 7, "dsp": 10, "sprams": 0}
