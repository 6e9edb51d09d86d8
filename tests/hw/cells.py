"""Primitives in plain Amaranth, and made of a family's cells, on the same random inputs."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from sparsegate_hw.fabric.budget import Fabric
from sparsegate_hw.fabric.contents import Contents
from sparsegate_hw.fabric.primitives import Multiplier, ReadOnlyMemory, ScratchMemory
from sparsegate_hw.synthesis import netlist
from sparsegate_hw.synthesis.verilog import convert
from tests.hw.blocks import simulate

icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")

CYCLES = 400

SHAPES = [
    (37, 500),
    (36, 1024),
    (20, 1500),
    (11, 3000),
    (3, 8192),
    (1, 16384),
    (97, 200),
]


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
