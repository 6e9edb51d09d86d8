"""Memories that a bitstream can be given anew: their cells, simulated, against their contents; and their text forms."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.contents import Contents
from sparsegate_hw.synthesis import netlist, patch

SHAPES = [(5, 3), (12, 16), (9, 40), (12, 152), (36, 512), (19, 700), (40, 1100), (6, 2100), (3, 5000), (1, 9000)]


def words_of(width, depth):
    rng = random.Random(f"{width} {depth}")
    return [rng.getrandbits(width) for _ in range(depth)]


class Walk(wiring.Component):
    """Reads every address in turn."""

    def __init__(self, width, words):
        self.words, self.memory = words, Contents(width, words)
        super().__init__({"address": Out(self.memory.address.shape()), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        m.d.sync += self.address.eq(self.address + 1)
        m.d.comb += [self.memory.address.eq(self.address), self.o.eq(self.memory.o)]
        return m


@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_behaviour(width, depth):
    words = words_of(width, depth)
    dut = Walk(width, words)

    async def bench(ctx):
        for at in range(depth):
            await ctx.tick()
            assert ctx.get(dut.o) == Contents.model(words, at)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


BENCH = """\
`timescale 1ns / 1ps
module bench;
    reg clk = 0;
    wire [{width}-1:0] o;
    integer n = 0;
    dut dut (.clk(clk), .rst(1'b0), .o(o));
    always #5 clk = ~clk;
    always @(negedge clk) begin
        $display("%h", o);
        n = n + 1;
        if (n == {depth}) $finish;
    end
endmodule
"""


@pytest.mark.icarus
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
@pytest.mark.parametrize("family", ["ecp5", "ice40", "gowin"])
@pytest.mark.parametrize(("width", "depth"), SHAPES)
def test_cells(tmp_path, width, depth, family):
    """The device's cells on their models give the contents, one cycle after the address."""
    words = words_of(width, depth)
    design = rtlil.convert(Walk(width, words), name="dut", platform=SimpleNamespace(family=family), emit_src=False)
    (tmp_path / "design.il").write_text(design)
    from sparsegate_hw.synthesis.verilog import from_rtlil

    verilog = from_rtlil(design)
    cells = {"ecp5": "DP16KD|TRELLIS_DPR16X4", "ice40": "SB_RAM40_4K", "gowin": "pROM(X9)? |RAM16SDP4"}
    assert re.search(cells[family], verilog)
    (tmp_path / "dut.v").write_text(verilog)
    (tmp_path / "bench.v").write_text(BENCH.format(width=width, depth=depth))
    (tmp_path / "cells.v").write_text(netlist.cell_models(family))
    sources = ["bench.v", "dut.v", "cells.v"]
    options = ["-g2012", "-s", "bench", "-o", "bench.vvp"]
    subprocess.run(["iverilog", *options, *sources], cwd=tmp_path, check=True)
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, capture_output=True, text=True)
    found = [int(line, 16) for line in run.stdout.splitlines() if re.fullmatch(r"[0-9a-f]+", line)]
    assert found == words


def test_design_is_form_and_contents():
    first, second = words_of(30, 200), words_of(30, 200)[::-1]
    texts = [
        rtlil.convert(Walk(30, words), name="top", platform=SimpleNamespace(family="ecp5"), emit_src=False)
        for words in (first, second)
    ]
    (form, contents), (other_form, other) = map(patch.split, texts)
    assert form == other_form
    assert contents != other
    assert list(contents) == ["memory.block_0_0"]
    assert len(contents["memory.block_0_0"]) == 64
    assert contents["memory.block_0_0"]["INITVAL_00"] & 0x3FFFF == first[0] & 0x3FFFF


def test_a_gowins_contents_are_found_in_its_design():
    for width, depth, kind, rows, value in (
        (9, 2048, "pROMX9", 64, lambda words: words[0] | words[1] << 9),
        (4, 2100, "pROM", 64, lambda words: words[0] | words[1] << 4),
        (4, 16, "RAM16SDP4", 4, lambda words: sum((word & 1) << at for at, word in enumerate(words))),
    ):
        words = words_of(width, depth)
        text = rtlil.convert(Walk(width, words), name="top", platform=SimpleNamespace(family="gowin"), emit_src=False)
        form, contents = patch.split(text)
        assert f"cell \\{kind} " in form
        assert "INIT" not in form
        (values,) = contents.values()
        assert len(values) == rows
        first = next(iter(values.values()))
        wanted = value(words)
        assert first & ((1 << wanted.bit_length()) - 1) == wanted


def test_textual_configurations():
    """Each kind of cell in a small configuration: read, replaced, read again; everything else stays."""
    text = (
        ".comment x\n\n.tile R3C4:PLC2\narc: A B\n"
        + "".join(f"word: SLICE{s}.K{k}.INIT {'0' * 16}\n" for s in "AB" for k in (0, 1))
        + "enum: SLICEA.MODE DPRAM\n\n.bram_init 7\n"
        + "\n".join(" ".join(["000"] * 8) for _ in range(256))
        + "\n\n.ram_data 8 15\n"
        + "\n".join(["0" * 64] * 16)
        + "\n\n.sym 1 x\n"
    )
    places = {
        "d": patch.Place("TRELLIS_DPR16X4", (3, 4, 0, 3, 4, 1, 3, 4, 2, 3, 4, 3)),
        "b": patch.Place("DP16KD", (7,)),
        "r": patch.Place("SB_RAM40_4K", (8, 15)),
    }
    rng = random.Random(1)
    halves = sum(((1 << 18) - 1) << 20 * at for at in range(16))
    contents = {
        "d": {"INITVAL": rng.getrandbits(64)},
        "b": {f"INITVAL_{row:02X}": rng.getrandbits(320) & halves for row in range(64)},
        "r": {f"INIT_{row:X}": rng.getrandbits(256) for row in range(16)},
    }
    assert all(value == 0 for values in patch.extract(text, places).values() for value in values.values())
    changed = patch.replace(text, places, contents)
    assert patch.extract(changed, places) == contents
    zeros = {name: dict.fromkeys(values, 0) for name, values in contents.items()}
    assert patch.replace(changed, places, zeros) == text
    with pytest.raises(SparseGateError, match="the design has 3 memories, expected the 1 of the Program"):
        patch.replace(text, places, {"d": contents["d"]})
    with pytest.raises(SparseGateError, match=r"the configuration has no part '.bram_init 7'"):
        patch.extract(text.replace(".bram_init 7", ".bram_init 8"), places)


def test_a_netlist_that_is_a_configuration():
    """A Gowin's: memories are found by name, those of distributed RAM in its look-up tables; everything else stays."""
    rom = {f"INIT_RAM_{row:02X}": "0" * 288 for row in range(64)}
    ram = {f"INIT_{bit}": "0" * 16 for bit in range(4)}
    tables = {
        f"r_LUT{bit}": {"parameters": {"INIT": "0" * 16}, "attributes": {"NEXTPNR_BEL": f"X2Y3/LUT{bit}"}}
        for bit in range(4)
    }
    cells = {
        "b": {
            "parameters": {"BIT_WIDTH": "1001", **rom},
            "attributes": {"NEXTPNR_BEL": "X7Y9/BSRAM", "BSRAM_SUBTYPE": "X9"},
        },
        "r": {"parameters": ram, "attributes": {"NEXTPNR_BEL": "X2Y3/RAM16SDP4", "src": "somewhere"}},
        **tables,
    }
    netlist_ = {"modules": {"top": {"attributes": {}, "cells": cells, "netnames": {"n": {"attributes": {"src": "x"}}}}}}
    rng = random.Random(1)
    contents = {
        "b": {key: rng.getrandbits(288) for key in rom},
        "r": {key: rng.getrandbits(16) for key in ram},
    }
    places = patch.places(netlist_, contents)
    assert places == {"b": patch.Place("pROMX9", (7, 9)), "r": patch.Place("RAM16SDP4", (2, 3))}
    text = patch.plain(netlist_)
    assert patch.is_netlist(text)
    assert "src" not in text
    assert all(value == 0 for values in patch.extract(text, places).values() for value in values.values())
    changed = patch.replace(text, places, contents)
    assert patch.extract(changed, places) == contents
    found = json.loads(changed)["modules"]["top"]["cells"]
    assert found["b"]["parameters"]["BIT_WIDTH"] == "1001"
    assert (
        found["r"]["parameters"]["INIT_2"] == found["r_LUT2"]["parameters"]["INIT"] == f"{contents['r']['INIT_2']:016b}"
    )
    zeros = {name: dict.fromkeys(values, 0) for name, values in contents.items()}
    assert patch.replace(changed, places, zeros) == text
    del netlist_["modules"]["top"]["cells"]["r_LUT3"]
    with pytest.raises(SparseGateError, match="the configuration has no memory cell r"):
        patch.extract(patch.plain(netlist_), places)


def test_the_contents_of_a_routed_netlist():
    first = {f"INIT_{row:X}": "0" * 256 for row in range(16)}
    cells = {"r_RAM": {"type": "ICESTORM_RAM", "parameters": {"READ_MODE": "01", **first}}}
    contents = {f"INIT_{row:X}": random.Random(row).getrandbits(256) for row in range(16)}
    patch.fill(cells, {"r": contents})
    found = cells["r_RAM"]["parameters"]
    assert found.pop("READ_MODE") == "01"
    assert {key: (len(bits), int(bits, 2)) for key, bits in found.items()} == {
        key: (256, value) for key, value in contents.items()
    }
