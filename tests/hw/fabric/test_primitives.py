"""Primitives: their behaviour, and that of every device's own cells, on the same random inputs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.hw.blocks import simulate

from sparsegate.array import BLOCK_SHAPES, rom_blocks
from sparsegate.estimate import scratch_blocks
from sparsegate_hw.fabric.primitives import (
    Fabric,
    LoadedMemory,
    Multiplier,
    ReadOnlyMemory,
    Register,
    ScratchMemory,
    fabric,
)
from sparsegate_hw.synthesis import boards, netlist
from sparsegate_hw.synthesis.verilog import convert

icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")

CYCLES = 400


def multiplier(a: int, b: int) -> tuple[Any, list[str], list[list[int]]]:
    """A multiplier, its inputs, and items with the corners of their ranges."""
    rng = np.random.default_rng(a * 40 + b)
    columns = []
    for width in (a, b):
        corners = [-(1 << (width - 1)), (1 << (width - 1)) - 1, 0, -1]
        drawn = rng.integers(corners[0], corners[1] + 1, CYCLES)
        columns.append(np.where(rng.random(CYCLES) < 0.3, rng.choice(corners, CYCLES), drawn))
    return Multiplier(a, b), ["a", "b"], np.stack(columns, axis=1).tolist()


def memory(width: int, depth: int) -> tuple[Any, list[str], list[list[int]]]:
    rng = np.random.default_rng(width + depth)
    words = [int.from_bytes(rng.bytes(-(-width // 8)), "little") >> (-width % 8) for _ in range(depth)]
    ends = rng.choice([0, depth - 1], CYCLES)
    return (
        ReadOnlyMemory(width, words),
        ["address"],
        np.where(rng.random(CYCLES) < 0.2, ends, rng.integers(0, depth, CYCLES))[:, None].tolist(),
    )


def scratch(width: int, depth: int, block: bool = False, apart: bool = False) -> tuple[Any, list[str], list[list[int]]]:
    """Every word is written first; then reads and writes anywhere, of the same word at once too, but if ``apart``."""
    rng = np.random.default_rng(width + depth)
    count = CYCLES + depth
    address, written = rng.integers(0, depth, (2, count))
    address = np.where(rng.random(count) < 0.3, written, address)
    write = rng.random(count) < 0.5
    written[:depth], write[:depth] = np.arange(depth), True
    if apart:
        address = np.where(address == written, (address + 1) % depth, address)
    data = rng.integers(0, 1 << width, count)
    names = ["address", "write_address", "data", "write"]
    return ScratchMemory(width, depth, block), names, np.stack([address, written, data, write], axis=1).tolist()


def wanted(dut: Any, names: list[str], items: list[list[int]]) -> list[int]:
    """What the behavioural body gives, cycle by cycle."""
    found = []

    async def testbench(ctx: Any) -> None:
        for item in items:
            for name, value in zip(names, item, strict=True):
                ctx.set(getattr(dut, name), value)
            found.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, testbench)
    return found


def simulated(verilog: str, cells: str, dut: Any, names: list[str], items: list[list[int]], folder: Path) -> list[str]:
    """The same of Verilog in Icarus, in hexadecimal digits."""
    widths = [len(getattr(dut, name)) for name in names]
    lines = [
        "".join(f"{value & ((1 << width) - 1):0{width}b}" for value, width in zip(item, widths, strict=True))
        for item in items
    ]
    total = sum(widths)
    starts = np.cumsum([0, *widths[::-1]])[:-1][::-1].tolist()
    ports = "".join(f".{n}(all[{at} +: {w}]), " for n, at, w in zip(names, starts, widths, strict=True))
    (folder / "items").write_text("\n".join(lines))
    (folder / "bench.v").write_text(f"""\
`timescale 1ns / 1ps
module bench;
    reg clk = 0;
    reg [{total - 1}:0] items [0:{len(items) - 1}];
    reg [{total - 1}:0] all;
    wire [{len(dut.o) - 1}:0] o;
    integer n;
    block dut (.clk(clk), .rst(1'b0), {ports}.o(o));
    initial begin
        $readmemb("items", items);
        for (n = 0; n < {len(items)}; n = n + 1) begin
            all = items[n];
            #5 $display("%h", o);
            clk = 1;
            #5 clk = 0;
        end
    end
endmodule
""")
    (folder / "block.v").write_text(verilog)
    (folder / "cells.v").write_text(cells)
    sources = ["bench.v", "block.v", "cells.v"]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", *sources], cwd=folder, check=True)
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.split()


def same(build: Any, of: Fabric, cell: str, folder: Path) -> None:
    """Build a primitive twice: plain, and of a fabric's cells; the same output in every cycle from its latency on."""
    dut, names, items = build()
    expected = wanted(dut, names, items)
    mapped, _, _ = build()
    verilog = convert(mapped, "block", of)
    assert not cell or f"{cell} " in verilog
    got = simulated(verilog, netlist.cell_models(of.family), dut, names, items, folder)
    after = dut.latency
    mask = (1 << len(dut.o)) - 1
    assert [int(value, 16) for value in got[after:]] == [value & mask for value in expected[after:]]
    assert len(set(expected)) >= min(20, 1 << len(dut.o))


@pytest.mark.parametrize(("a", "b"), [(8, 10), (1, 5), (18, 18), (2, 20), (17, 9)])
def test_multiplier_is_its_model(a: int, b: int) -> None:
    dut, names, items = multiplier(a, b)
    found = wanted(dut, names, items)
    assert found[dut.latency :] == [dut.model(*item) for item in items[: -dut.latency]]


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (18, 18), (5, 17)])
def test_multiplier_of_an_ecp5(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("ecp5", 1), "MULT18X18D", tmp_path)


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (16, 16), (3, 16)])
def test_multiplier_of_an_ice40(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("ice40", 1), "SB_MAC16", tmp_path)


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("a", "b"), [(8, 10), (18, 18), (5, 17)])
def test_multiplier_of_a_gowin(a: int, b: int, tmp_path: Path) -> None:
    same(lambda: multiplier(a, b), Fabric("gowin", 1), "MULT18X18", tmp_path)


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


def test_small_multiplications_take_what_is_spared_for_them() -> None:
    fabric = Fabric("ecp5", 4, spare=1)
    assert [fabric.take(1, small=True) for _ in range(2)] == [True, False]
    assert [fabric.take(1) for _ in range(4)] == [True, True, True, False]
    assert not Fabric("ecp5", 4).take(1, small=True)


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
@pytest.mark.parametrize("depth", [16, 17, 40, 64, 96, 128, 144, 256])
def test_a_scratch_memory_of_an_ecp5_gives_what_the_plain_one_does(depth: int, tmp_path: Path) -> None:
    of_cells = {16: "", 17: "LUT4", 40: "PFUMX", 64: "PFUMX"}.get(depth, "L6MUX21")
    same(lambda: scratch(7, depth), Fabric("ecp5", 0), of_cells, tmp_path)


@icarus
@pytest.mark.parametrize(("width", "depth"), [(7, 40), (18, 16), (20, 512), (36, 100)])
def test_a_block_of_scratch_memory_gives_what_the_plain_one_does(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: scratch(width, depth, True, apart=True), Fabric("ecp5", 0), "DP16KD", tmp_path)
    assert (tmp_path / "block.v").read_text().count("DP16KD ") == scratch_blocks(width, depth, "ecp5", True) == 1
    assert scratch_blocks(width, depth, "ecp5") == 0
    for family in ("gowin", "ice40"):
        same(lambda: scratch(width, depth, True), Fabric(family, 0), "", tmp_path)
        assert scratch_blocks(width, depth, family, True) == scratch_blocks(width, depth, family)


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
    assert scratch_blocks(width, depth, "gowin") == verilog.count("SDPX9B ") == count
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


SHAPES = [
    (37, 500),
    (36, 1024),
    (20, 1500),
    (11, 3000),
    (3, 8192),
    (1, 16384),
    (97, 200),
]


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_memory_of_an_ecp5(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: memory(width, depth), Fabric("ecp5", 0), "DP16KD", tmp_path)
    assert (tmp_path / "block.v").read_text().count("DP16KD ") == rom_blocks(width, depth)


@icarus
@pytest.mark.icarus
@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_memory_of_a_gowin(width: int, depth: int, tmp_path: Path) -> None:
    same(lambda: memory(width, depth), Fabric("gowin", 0), "pROMX9" if depth <= 2048 else "pROM", tmp_path)
    assert len(re.findall("pROM(X9)? #", (tmp_path / "block.v").read_text())) == rom_blocks(width, depth)


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


def test_a_fabric_is_a_platform_or_a_platforms() -> None:
    ecp5 = boards.target("ulx3s-85f").fabric()
    assert fabric(ecp5) is ecp5
    assert fabric(None) is None
    platform = boards.target("ulx3s-45f").platform()
    assert fabric(platform) == Fabric("ecp5", 72)


def test_block_shapes_are_of_one_size() -> None:
    assert all(depth * (width if width < 9 else width // 9 * 8) == 16384 for depth, width in BLOCK_SHAPES)
