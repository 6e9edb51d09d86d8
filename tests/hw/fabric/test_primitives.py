"""Primitives: their behaviour, and that of every device's own cells, on the same random inputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.hw.cells import CYCLES, icarus, memory, multiplier, same, scratch, simulated, wanted

from sparsegate.fpga.family import family
from sparsegate.fpga.memory import BLOCK_SHAPES, rom_blocks
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.primitives import LoadedMemory, Multiplier, Register
from sparsegate_hw.synthesis import boards, netlist
from sparsegate_hw.synthesis.verilog import convert


@pytest.mark.parametrize(("a", "b"), [(8, 10), (1, 5), (18, 18), (2, 20), (17, 9)])
def test_multiplier_is_its_model(a: int, b: int) -> None:
    dut, names, items = multiplier(a, b)
    found = wanted(dut, names, items)
    assert found[dut.latency :] == [dut.model(*item) for item in items[: -dut.latency]]


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (10, 8), (16, 16), (2, 9), (3, 12)])
def test_multiplier_in_logic(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("ice40", 0), "", tmp_path)
    assert " * " not in (tmp_path / "block.v").read_text()


def test_multipliers_are_counted() -> None:
    """Who comes first gets them; what is wider takes several or none."""

    class Several(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"i": In(signed(20)), "o": Out(20 + 3 * 8 + 4 * 8)})

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            units = [Multiplier(width, 8) for width in (20, 8, 8, 8)]
            for number, unit in enumerate(units):
                m.submodules[f"unit_{number}"] = unit
                m.d.comb += [unit.a.eq(self.i), unit.b.eq(self.i)]
            m.d.comb += self.o.eq(Cat(unit.o for unit in units))
            return m

    for count, cells in ((0, 0), (1, 1), (2, 0), (4, 2), (9, 3)):
        verilog = convert(Several(), "block", Fabric("ecp5", count))
        assert verilog.count("MULT18X18D ") == cells
        assert (" * " in verilog) == (count >= 2)


@pytest.mark.parametrize("block", [False, True])
def test_a_scratch_memory_is_what_was_written(block: bool) -> None:
    """In plain Amaranth also where a word is read and written at once."""
    dut, names, items = scratch(7, 40, block)
    found, words = [0] * dut.latency, [0] * 40
    for address, written, data, write in items:
        found.append(words[address])
        if write:
            words[written] = data
    assert wanted(dut, names, items) == found[: -dut.latency]


@icarus
@pytest.mark.parametrize(("width", "depth"), [(7, 40), (18, 16), (20, 512), (36, 100)])
def test_a_block_of_scratch_memory_gives_what_the_plain_one_does(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: scratch(width, depth, True, apart=True), Fabric("ecp5", 0), "DP16KD", tmp_path)
    assert (tmp_path / "block.v").read_text().count("DP16KD ") == family("ecp5").scratch_blocks(width, depth, True) == 1
    assert family("ecp5").scratch_blocks(width, depth, False) == 0
    for of in (family("gowin"), family("ice40")):
        same(lambda: scratch(width, depth, True), Fabric(of.name, 0), "", tmp_path)
        assert of.scratch_blocks(width, depth, True) == of.scratch_blocks(width, depth, False)


def test_a_memory_is_its_words() -> None:
    for width, depth in ((5, 1), (12, 40), (70, 100)):
        dut, names, items = memory(width, depth)
        words = dut._words
        assert wanted(dut, names, items)[2:] == [words[address] for (address,) in items[:-2]]


def loaded(width: int, depth: int) -> tuple[LoadedMemory, list[str], list[list[int]]]:
    """A memory that is loaded, and items: some words are written, both ends among them, then read and written anew at random."""
    rng = np.random.default_rng(width * depth)
    known = np.unique([0, depth - 1, *rng.integers(0, depth, 60)])
    fresh = rng.integers(0, 1 << width, len(known))
    first = np.stack([known, np.ones_like(known), fresh], axis=1).tolist()
    drawn = [rng.choice(known, CYCLES), rng.random(CYCLES) < 0.2, rng.integers(0, 1 << width, CYCLES)]
    items = first + np.stack(drawn, axis=1).astype(int).tolist()
    return LoadedMemory(width, [(1 << width) - 1] * depth), ["address", "write", "data"], items


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(
    ("width", "depth", "of", "cell"),
    [
        (16, 16384, Fabric("ice40", 0, 1), "SB_SPRAM256KA"),
        (11, 9000, Fabric("ice40", 0, 2), "SB_SPRAM256KA"),
        (3, 1, Fabric("ice40", 0, 1), "SB_SPRAM256KA"),
        (12, 300, Fabric("ice40", 0), ""),
        (12, 700, Fabric("ecp5", 0), ""),
        (12, 700, Fabric("gowin", 0), ""),
    ],
)
def test_a_loaded_memory_gives_what_was_written(width: int, depth: int, of: Fabric, cell: str, tmp_path: Path) -> None:
    dut, names, items = loaded(width, depth)
    held, wanted_words = {}, []
    for address, write, word in items:
        wanted_words.append(held.get(address))
        held |= {address: word} if write else {}
    verilog = convert(dut, "block", of)
    assert (cell or "reg [") in verilog
    assert ("SB_SPRAM256KA" in verilog) == bool(cell)
    got = simulated(verilog, netlist.cell_models("ice40"), dut, names, items, tmp_path)
    behaved = wanted(loaded(width, depth)[0], names, items)
    # what is read in the cycle of a write is anything
    compared = [at for at, (_, write, _) in enumerate(items[: -dut.latency]) if not write]
    assert len(compared) > CYCLES // 2
    for at in compared:
        assert int(got[at + dut.latency], 16) == behaved[at + dut.latency] == wanted_words[at], at


def test_a_simulated_loaded_memory_holds_its_words_from_the_start() -> None:
    words = [5, 9, 14, 3]
    dut = LoadedMemory(4, words)
    assert wanted(dut, ["address"], [[at % 4] for at in range(10)])[2:] == [words[at % 4] for at in range(8)]


def test_single_port_memories_are_counted() -> None:
    class Several(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"address": In(4), "write": In(1), "o": Out(12)})

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            units = [LoadedMemory(4, [0] * 16) for _ in range(3)]
            for number, unit in enumerate(units):
                m.submodules[f"unit_{number}"] = unit
                m.d.comb += [unit.address.eq(self.address), unit.write.eq(self.write), unit.data.eq(self.address)]
            m.d.comb += self.o.eq(Cat(unit.o for unit in units))
            return m

    for count, cells in ((0, 0), (2, 2), (4, 3)):
        assert convert(Several(), "block", Fabric("ice40", 0, count)).count("SB_SPRAM256KA ") == cells
    assert boards.target("icebreaker").fabric() == Fabric("ice40", 8, 4)
    assert boards.target("ice40-hx8k").fabric().sprams == 0


def test_small_memories_are_logic_and_deep_ones_stand_on_top_of_one_another() -> None:
    assert rom_blocks(8, 512) == 0
    assert rom_blocks(9, 512) == 1
    for width, depth in ((8, 512), (1, 20000), (9, 513)):
        text = convert(memory(width, depth)[0], "block", Fabric("ecp5", 0))
        assert text.count("DP16KD #(") == rom_blocks(width, depth), (width, depth)


@pytest.mark.parametrize(("of", "cells"), [("ecp5", "TRELLIS_FF"), ("gowin", "DFFR?")])
def test_a_register_is_a_cell_that_nothing_merges(of: str, cells: str, tmp_path: Path) -> None:
    class Two(wiring.Component):
        def __init__(self, plain: bool) -> None:
            self.plain = plain
            super().__init__({"i": In(3), "o": Out(6)})

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            for n in range(2):
                if self.plain:
                    out = Signal(3, name=f"out_{n}")
                    m.d.sync += out.eq(self.i)
                else:
                    m.submodules[f"unit_{n}"] = unit = Register(3)
                    m.d.comb += unit.i.eq(self.i)
                    out = unit.o
                m.d.comb += self.o[3 * n : 3 * n + 3].eq(out)
            return m

    counts = []
    for plain in (True, False):
        report = netlist.write(Two(plain), tmp_path / str(plain), "two", fabric=Fabric(of, 0)).report.read_text()
        counts.append(int(next(line for line in report.splitlines() if re.search(rf" {cells}$", line)).split()[0]))
    assert counts == [3, 6]


def test_block_shapes_are_of_one_size() -> None:
    assert all(depth * (width if width < 9 else width // 9 * 8) == 16384 for depth, width in BLOCK_SHAPES)
