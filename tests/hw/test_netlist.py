"""The synthesized netlist of a tiny engine, simulated on the cells' models, against the golden model."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from sparsegate import golden, synthetic
from sparsegate.layout import HardwareConfig
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_hw import netlist
from sparsegate_hw.engine import Engine

needs_icarus = [
    pytest.mark.synth,
    pytest.mark.icarus,
    pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
]

BENCH = """\
`timescale 1ns / 1ps
module bench;
    reg clk = 0, rst = 1, valid = 0, ready = 0;
    reg [{x_bits}:0] stimulus [0:{count}-1];
    reg [{x_bits}:0] payload = 0;
    wire x_ready, y_valid;
    wire [{y_bits}:0] y;
    integer sent = 0, got = 0, seed = {seed}, idle = 0;
    engine dut (
        .clk(clk), .rst(rst), .x__payload(payload), .x__valid(valid), .x__ready(x_ready),
        .y__payload(y), .y__valid(y_valid), .y__ready(ready){thresholds}
    );
    always #5 clk = ~clk;
    initial begin
        $readmemh("stimulus.hex", stimulus);
        repeat (4) @(posedge clk);
        #1 rst = 0;
    end
    always @(posedge clk) if (!rst) begin
        idle = idle + 1;
        if (valid && x_ready) begin sent = sent + 1; valid = 0; idle = 0; end
        if (y_valid && ready) begin $display("%0d %b", $signed(y[{y_bits}-1:0]), y[{y_bits}]); got = got + 1; idle = 0; end
        if (y_valid === 1'bx || x_ready === 1'bx) begin $display("X"); $finish; end
        if (got == {wanted} || idle > 100000) $finish;
        #1;
        if (!valid && sent < {count} && ($random(seed) & 3) != 0) begin payload = stimulus[sent]; valid = 1; end
        ready = ($random(seed) & 3) != 0;
    end
endmodule
"""


@pytest.mark.parametrize("bits", [8, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_icarus)])
def test_netlist_equals_golden(tmp_path, bits, mark):
    shapes = [synthetic.Shape("lstm", 4, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2)]
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    program = quantize(synthetic.network(3, shapes, 0), x, config=QuantizeConfig(activation_bits=bits))
    raw = synthetic.stimulus(program.input_format, 4, 6, 3, seed=2)
    lengths = np.array([6, 1, 4, 6])
    thresholds = (2, 1, 0)
    expected = golden.run(program, raw, lengths, thresholds)
    written = netlist.write(Engine(program, HardwareConfig(rows=4)), tmp_path, "engine")
    counts = written.report.read_text()
    for primitive in ("DP16KD", "MULT18X18D", "TRELLIS_DPR16X4"):  # none of them was mapped away
        assert primitive in counts

    items, wanted = [], []
    for n, length in enumerate(lengths):
        for t in range(length):
            for column in range(3):
                last = t == length - 1 and column == 2
                items.append((int(raw[n, t, column]) & ((1 << bits) - 1)) | last << bits)
            for unit in range(2):
                wanted.append(f"{expected.outputs[n, t, unit]} {int(t == length - 1 and unit == 1)}")
    (tmp_path / "stimulus.hex").write_text("\n".join(f"{item:x}" for item in items))
    bench = BENCH.format(
        x_bits=bits,
        y_bits=program.output_format.width,
        count=len(items),
        wanted=len(wanted),
        seed=7,
        thresholds="".join(f",\n        .threshold__{n}(16'd{value})" for n, value in enumerate(thresholds)),
    )
    (tmp_path / "bench.v").write_text(bench)
    sources = [str(path) for path in written.sources]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", "bench.v", *sources], cwd=tmp_path, check=True)
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [line for line in run.stdout.splitlines() if "$finish" not in line] == wanted
