"""The synthesized netlist of a tiny engine, simulated on the cells' models, against the golden model."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator

from sparsegate import estimate, golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.engine.pe import depth_bits
from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.synthesis import netlist

pytestmark = [
    pytest.mark.synth,
    pytest.mark.icarus,
    pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
]

BENCH = """\
`timescale 1ns / 1ps
module bench;
    reg clk = 0, rst = 1, valid = 0, ready = 0, loaded = 0;
    reg [{x_bits}:0] stimulus [0:{count}-1];
    reg [{x_bits}:0] payload = 0;
    wire x_ready, y_valid;
    wire [{y_bits}:0] y;
    integer sent = 0, got = 0, seed = {seed}, idle = 0;
    engine dut (
        .clk(clk), .rst(rst), .x__payload(payload), .x__valid(valid), .x__ready(x_ready),
        .y__payload(y), .y__valid(y_valid), .y__ready(ready){thresholds}{weights}
    );
    always #5 clk = ~clk;
    initial begin
        $readmemh("stimulus.hex", stimulus);
        repeat (4) @(posedge clk);
        #1 rst = 0;
        repeat ({words}) @(posedge clk);
        loaded = 1;
    end
    always @(posedge clk) if (!rst && loaded) begin
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


LOAD = """
    reg [{pe_bits}+{address_bits}+{bits}-1:0] memories [0:{count}-1];
    reg [{pe_bits}+{address_bits}+{bits}-1:0] word = 0;
    reg write = 0;
    integer written = 0;
    initial $readmemh("weights.hex", memories);
    always @(posedge clk) if (!rst) begin
        #1 write = written < {count};
        if (write) word = memories[written];
        written = written + 1;
    end
endmodule
"""
"""More of the bench: writes the words of the weight memories, one a cycle."""


def loading(folder, layout):
    """Ports through which a netlist takes its weights, and what of the bench writes them."""
    words = layout.pack(*layout.weights()).reshape(layout.config.pes, layout.weight_depth)
    pe_bits, address_bits, bits = depth_bits(len(words)), depth_bits(layout.weight_depth), layout.entry_width
    lines = [f"{(pe << address_bits | address) << bits | int(word):x}" for (pe, address), word in np.ndenumerate(words)]
    (folder / "weights.hex").write_text("\n".join(lines))
    ports = (
        f",\n        .weights__valid(write), .weights__data(word[0 +: {bits}]), .weights__address(word[{bits} +: {address_bits}]), "
        f".weights__pe(word[{bits} + {address_bits} +: {pe_bits}])"
    )
    return ports, LOAD.format(pe_bits=pe_bits, address_bits=address_bits, bits=bits, count=len(lines)), len(lines) + 4


def icarus(folder, written):
    """Compile and run ``bench.v`` with a netlist; the lines that it prints."""
    sources = [path.name for path in written.sources]
    subprocess.run(
        ["iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", "bench.v", *sources], cwd=folder, check=True
    )
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    return [line for line in run.stdout.splitlines() if "$finish" not in line]


def compare(tmp_path, program, config, fabric, raw, lengths, thresholds, expected):
    """Outputs of a Program's synthesized netlist under random stalls, and the golden model's."""
    written = netlist.write(Engine(program, config), tmp_path, "engine", fabric=fabric)
    bits = program.input_format.width
    items, wanted = [], []
    for n, length in enumerate(lengths):
        for t in range(length):
            for column in range(program.inputs):
                last = t == length - 1 and column == program.inputs - 1
                items.append((int(raw[n, t, column]) & ((1 << bits) - 1)) | last << bits)
            for unit in range(program.outputs if t == length - 1 or program.layers[-1].when != "last" else 0):
                wanted.append(f"{expected.outputs[n, t, unit]} {int(t == length - 1 and unit == program.outputs - 1)}")
    (tmp_path / "stimulus.hex").write_text("\n".join(f"{item:x}" for item in items))
    ports, load, words = loading(tmp_path, Layout(program, config)) if config.loaded else ("", "endmodule", 0)
    bench = BENCH.format(
        weights=ports,
        words=words,
        x_bits=bits,
        y_bits=program.output_format.width,
        count=len(items),
        wanted=len(wanted),
        seed=7,
        thresholds="".join(f",\n        .threshold__{n}(16'd{value})" for n, value in enumerate(thresholds)),
    )
    (tmp_path / "bench.v").write_text(bench.removesuffix("endmodule\n") + load)
    assert icarus(tmp_path, written) == wanted
    return written.report.read_text()


NETLISTS = {
    "ecp5": (Fabric("ecp5", 156), ("DP16KD", "MULT18X18D", "TRELLIS_DPR16X4"), {}),
    "ecp5-blocks": (Fabric("ecp5", 156), ("DP16KD", "MULT18X18D"), {"block_banks": 2, "groups": 2, "deep": True}),
    "ice40": (Fabric("ice40", 8), ("SB_RAM40_4K", "SB_MAC16"), {}),
    "ice40-logic": (Fabric("ice40", 0), ("SB_RAM40_4K",), {}),
    "ice40-spram": (Fabric("ice40", 8, 4), ("SB_RAM40_4K", "SB_MAC16", "SB_SPRAM256KA"), {"loaded": True}),
    "ice40-logic-one-spram": (Fabric("ice40", 0, 1), ("SB_RAM40_4K", "SB_SPRAM256KA"), {"loaded": True}),
    "ecp5-loaded": (Fabric("ecp5", 156), ("MULT18X18D",), {"loaded": True}),
    "gowin": (Fabric("gowin", 48), ("MULT18X18", "RAM16SDP4", "pROM"), {}),
    "gowin-logic": (Fabric("gowin", 0), ("RAM16SDP4", "ALU"), {}),
    "gowin-loaded": (Fabric("gowin", 48), ("MULT18X18", "RAM16SDP4"), {"loaded": True}),
}
QUICK = ("ecp5", "ice40-spram", "gowin")
"""One of each family: an iCE40 with multipliers, block RAM and single-port memories, whose weights are loaded."""


@pytest.mark.parametrize(
    ("fabric", "primitives", "hardware"),
    [pytest.param(*case, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, case in NETLISTS.items()],
)
def test_netlist_equals_golden(tmp_path, fabric, primitives, hardware):
    bits = 7
    shapes = [synthetic.Shape("lstm", 4, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2)]
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    program = quantize(synthetic.network(3, shapes, 0), x, config=QuantizeConfig(activation_bits=bits, operand_bits=16))
    raw = synthetic.stimulus(program.input_format, 4, 6, 3, seed=2)
    lengths = np.array([6, 1, 4, 6])
    thresholds = (2, 1, 0)
    expected = golden.run(program, raw, lengths, thresholds)
    fabric = replace(fabric)  # it counts down
    config = HardwareConfig(rows=4, **hardware)
    counts = compare(tmp_path, program, config, fabric, raw, lengths, thresholds, expected)
    for primitive in primitives:  # none of them was mapped away
        assert primitive in counts
    if config.block_banks:
        cells = re.search(r"(\d+) +DP16KD$", counts, re.MULTILINE)
        assert cells is not None
        assert int(cells[1]) == estimate.sizes(Layout(program, config))["bram"]


class Exerciser(wiring.Component):
    """Memories of every width that a block RAM has, and a multiplier, fed from one random generator. ``o`` shows all results."""

    shapes = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))

    def __init__(self):
        self.width = sum(width for width, _ in self.shapes) + 36
        super().__init__({"o": Out(self.width)})

    def elaborate(self, platform):
        m = Module()
        random_ = Signal(64, init=0x9E3779B97F4A7C15)  # xorshift, Marsaglia 2003
        first, second = Signal(64), Signal(64)
        m.d.comb += [first.eq(random_ ^ (random_ << 13)), second.eq(first ^ (first >> 7))]
        m.d.sync += random_.eq(second ^ (second << 17))
        results = []
        rng = np.random.default_rng(3)
        for width, depth in self.shapes:
            init = [int(value) for value in rng.integers(0, 1 << width, depth)]
            memory = Memory(shape=width, depth=depth, init=init, attrs={"ram_style": "block"})
            m.submodules[f"memory_{width}"] = memory
            read, write = memory.read_port(), memory.write_port()
            # few addresses, so that reads meet writes often, but from both ends of the memory
            m.d.comb += [
                read.addr.eq(Cat(random_[0:4], random_[4].replicate(20))),
                read.en.eq(random_[5:7] != 0),
                write.addr.eq(Cat(random_[7:11], random_[11].replicate(20))),
                write.en.eq(random_[12]),
                write.data.eq(random_[20:56]),
            ]
            results.append(read.data)
        a, b = Signal(signed(18)), Signal(signed(18))
        product = Signal(signed(36))
        m.d.sync += [a.eq(random_[13:31].as_signed()), b.eq(random_[33:51].as_signed()), product.eq(a * b)]
        m.d.comb += self.o.eq(Cat(*results, product))
        return m


@pytest.mark.parametrize(("fabric", "memory"), [(None, "DP16KD"), (Fabric("gowin", 48), "DPX9B")])
def test_cell_models_equal_amaranth(tmp_path, fabric, memory):
    cycles = 1500
    dut = Exerciser()
    expected = []

    async def watch(ctx):
        async for _, _, value in ctx.tick().sample(dut.o):
            expected.append(value)
            if len(expected) == cycles:
                return

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(watch)
    simulator.run()

    written = netlist.write(Exerciser(), tmp_path, "exerciser", fabric=replace(fabric) if fabric else None)
    assert memory in written.report.read_text()
    bench = f"""
        `timescale 1ns / 1ps
        module bench;
            reg clk = 0;
            wire [{dut.width - 1}:0] o;
            integer n = 0;
            exerciser dut (.clk(clk), .rst(1'b0), .o(o));
            always #5 clk = ~clk;
            always @(posedge clk) begin
                $display("%h", o);
                n = n + 1;
                if (n == {cycles}) $finish;
            end
        endmodule
    """
    (tmp_path / "bench.v").write_text(bench)
    lines = icarus(tmp_path, written)
    assert [int(line, 16) for line in lines] == expected
