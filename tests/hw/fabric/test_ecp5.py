"""Cells and PLL of an ECP5."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.hw.cells import SHAPES, icarus, memory, multiplier, same, scratch

from sparsegate.errors import SparseGateError
from sparsegate.fpga.memory import rom_blocks
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.configuration import Tiles
from sparsegate_hw.fabric.ecp5 import DistributedRam, pll_for


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (18, 18), (5, 17)])
def test_multiplier_of_an_ecp5(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("ecp5", 1), "MULT18X18D", tmp_path)


@icarus
@pytest.mark.parametrize("depth", [16, 17, 40, 64, 96, 128, 144, 256])
def test_a_scratch_memory_of_an_ecp5_gives_what_the_plain_one_does(depth: int, tmp_path: Path) -> None:
    of_cells = {16: "", 17: "LUT4", 40: "PFUMX", 64: "PFUMX"}.get(depth, "L6MUX21")
    same(lambda: scratch(7, depth), Fabric("ecp5", 0), of_cells, tmp_path)


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_memory_of_an_ecp5(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: memory(width, depth), Fabric("ecp5", 0), "DP16KD", tmp_path)
    assert (tmp_path / "block.v").read_text().count("DP16KD ") == rom_blocks(width, depth)


@pytest.mark.parametrize("source", [12, 25, 30, 48, 50, 100])
@pytest.mark.parametrize("target", [25, 50, 66, 75, 80, 100, 133])
def test_pll_settings_obey_the_data_sheet(source, target):
    pll = pll_for(source * 1_000_000, target * 1_000_000)
    assert 0.97 * target * 1e6 <= pll.output_hz <= target * 1e6
    assert 400e6 <= pll.vco_hz <= 800e6
    assert 10e6 <= source * 1e6 / pll.divide_input <= 400e6
    feedback = source * 1e6 / pll.divide_input * pll.divide_feedback
    assert 3.125e6 <= feedback <= 400e6
    for divider in (pll.divide_input, pll.divide_feedback, pll.divide_vco, pll.divide_output):
        assert 1 <= divider <= 128


def test_pll_settings():
    pll = pll_for(25_000_000, 80_000_000)
    assert pll.output_hz == 80e6
    with pytest.raises(SparseGateError, match="10 to 400 MHz .* but 8 to 80 MHz"):
        pll_for(8_000_000, 80_000_000)
    with pytest.raises(SparseGateError, match="but 25 to 500 MHz"):
        pll_for(25_000_000, 500_000_000)


@pytest.mark.parametrize(("word", "bit"), [(0, 0), (8, 1), (2, 2), (1, 8), (15, 15)])
def test_where_a_word_of_distributed_ram_is_in_a_look_up_table(word, bit):
    """Four tables, each with a bit of every word; the first digit of a table is its bit 15."""
    words = [f"word: SLICEA.K{half}.INIT {'0' * 16}" for half in (0, 1)]
    words += [f"word: SLICEB.K{half}.INIT {'0' * 16}" for half in (0, 1)]
    tiles = Tiles(".tile R3C4:PLC2\n" + "\n".join(words) + "\n")
    DistributedRam().encode(tiles, "d", (3, 4, 0, 3, 4, 1, 3, 4, 2, 3, 4, 3), {"INITVAL": 4 << 4 * word})
    digits = [line.split()[-1] for line in tiles.text().splitlines()[1:]]
    assert digits == ["0" * 16, "0" * 16, f"{1 << bit:016b}", "0" * 16]
