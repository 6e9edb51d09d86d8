"""Memory contents in files: the same design, value for value."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate import synthetic
from sparsegate.layout import HardwareConfig
from sparsegate.quantize import quantize
from sparsegate.synthetic import Shape
from sparsegate_sim import memories
from sparsegate_sim.simulate import TOP, simulate

SMALL = """\
module top;
  reg [7:0] weights [2:0];
  initial begin
    weights[0] = 8'h0f;
    weights[1] = 8'hff;
    weights[2] = 8'h00;
  end
  reg flags [1:0];
  initial begin
    flags[0] = 1'b1;
    flags[1] = 1'b0;
  end
  reg [3:0] plain = 4'h3;
  initial begin
    plain = 4'h4;
  end
endmodule
"""


def test_large_memories_leave_the_text(tmp_path, monkeypatch):
    assert memories.outside(SMALL, tmp_path) == SMALL
    monkeypatch.setattr(memories, "LARGE", 2)
    moved = memories.outside(SMALL, tmp_path)
    assert moved.count("$readmemh") == moved.count("$readmemb") == 1
    assert "weights[0] =" not in moved
    assert "plain = 4'h4;" in moved
    contents = sorted(path.read_text() for path in tmp_path.glob("memory-*/contents"))
    assert contents == ["@0 0f\n@1 ff\n@2 00\n", "@0 1\n@1 0\n"]
    assert memories.outside(SMALL, tmp_path) == moved


@pytest.mark.slow
@pytest.mark.verilator
def test_an_engine_computes_the_same(tmp_path, monkeypatch):
    from sparsegate_hw.engine import Engine
    from sparsegate_hw.verilog import convert

    monkeypatch.setattr(memories, "LARGE", 16)
    network = synthetic.network(4, [Shape("lstm", 6), Shape("linear", 3)], seed=1)
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    program, config = quantize(network, x), HardwareConfig(rows=4)
    plain = convert(Engine(program, config), TOP)
    moved = memories.outside(plain, tmp_path)
    assert moved.count("$readmem") >= 4
    result = simulate(program, config, program.quantize(x), verilog=moved, folder=tmp_path)
    assert result.passed, result.summary
    # and the files are what it reads: other contents, other values
    for path in tmp_path.glob("memory-*/contents"):
        path.write_text("".join(f"{line.split()[0]} 1\n" for line in path.read_text().splitlines()))
    assert not simulate(program, config, program.quantize(x), verilog=moved, folder=tmp_path).passed
