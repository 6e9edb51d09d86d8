"""Memory contents in files: the same design, value for value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate.array import HardwareConfig
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import QuantizeConfig, build, prepare
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis.verilog import convert
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
    assert memories.outside(SMALL) == (SMALL, {})
    monkeypatch.setattr(memories, "LARGE", 2)
    moved, files = memories.outside(SMALL)
    assert moved.count("$readmemh") == moved.count("$readmemb") == 1
    assert "weights[0] =" not in moved
    assert "plain = 4'h4;" in moved
    assert files == {"memory_0": "@0 0f\n@1 ff\n@2 00\n", "memory_1": "@0 1\n@1 0\n"}
    assert memories.outside(moved) == (moved, {})
    memories.write(files, tmp_path)
    assert (tmp_path / "memory_0").read_text() == files["memory_0"]


def program(seed: int):
    """One shape with fixed formats, other weights with every seed."""
    network = synthetic.network(4, [Shape("lstm", 6), Shape("linear", 3)], seed=1)
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    start, formats = prepare(network, x, None, QuantizeConfig())
    rng = np.random.default_rng(seed)
    layers = [replace(layer, w_x=rng.permuted(layer.w_x)) for layer in start.layers]
    return build(start.with_layers(layers), formats, QuantizeConfig()), x


def test_programs_of_one_shape_are_one_design_with_other_files():
    config = HardwareConfig(rows=4)
    texts = [convert(Engine(program(seed)[0], config), TOP) for seed in (1, 2)]
    (first, files), (second, others) = (memories.outside(text) for text in texts)
    assert texts[0] != texts[1]
    assert first == second
    assert files.keys() == others.keys()
    assert files != others


@pytest.mark.slow
@pytest.mark.parametrize(
    "simulator",
    [pytest.param("verilator", marks=pytest.mark.verilator), pytest.param("icarus", marks=pytest.mark.icarus)],
)
def test_an_engine_reads_the_files(simulator, monkeypatch):
    config = HardwareConfig(rows=4)
    for seed in (1, 2):  # the second on the first one's build
        made, x = program(seed)
        result = simulate(made, config, made.quantize(x), simulator=simulator)
        assert result.passed, result.summary
    # and the files are what it reads: other contents, other values
    write = memories.write
    monkeypatch.setattr(
        memories, "write", lambda files, folder: write({name: _ones(text) for name, text in files.items()}, folder)
    )
    assert not simulate(made, config, made.quantize(x), simulator=simulator).passed


def _ones(text: str) -> str:
    return "".join(f"{line.split()[0]} 1\n" for line in text.splitlines())
