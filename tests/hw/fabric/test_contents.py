"""Memories that a bitstream can be given anew: their cells, simulated, against their contents."""

from __future__ import annotations

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator
from tests.hw.cells import Walk, words_of

from sparsegate_hw.fabric.contents import Contents
from sparsegate_hw.synthesis import netlist

SHAPES = [(5, 3), (12, 16), (9, 40), (12, 152), (36, 512), (19, 700), (40, 1100), (6, 2100), (3, 5000), (1, 9000)]


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
