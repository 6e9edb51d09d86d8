from __future__ import annotations

import importlib.util
from contextlib import nullcontext

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from tests.hw.blocks import small_program

from sparsegate.array import HardwareConfig
from sparsegate.errors import ToolError
from sparsegate.network.synthetic import Shape
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis import verilog
from sparsegate_hw.synthesis.verilog import quick_conversion


class Chooser(wiring.Component):
    """What could come out wrong: a combinational If, a Switch, a memory with contents, an array of outputs, an initial value."""

    def __init__(self) -> None:
        super().__init__({"release": In(1), "s": In(2), "o": Out(8), "values": Out(4).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=3, init=[0x2A, 0x2B, 0x2C])
        read = memory.read_port()
        count = Signal(8, init=7)
        m.d.comb += read.addr.eq(self.s)
        m.d.sync += count.eq(count + 1)
        with m.If(self.release):
            m.d.comb += self.o.eq(read.data)
        with m.Else():
            m.d.comb += self.o.eq(count)
        with m.Switch(self.s):
            with m.Case(0):
                m.d.comb += self.values[0].eq(3)
            with m.Case(1, 2):
                m.d.comb += self.values[1].eq(4)
        return m


def test_plain_and_the_same_every_time() -> None:
    text = verilog.convert(Chooser(), "chooser")
    assert text == verilog.convert(Chooser(), "chooser")
    assert text.startswith("module chooser(")
    for name in ("values__0", "values__1", "release"):
        assert name in text
    # contents and initial values are kept
    for value in ("8'h2a", "8'h2b", "8'h2c", "count = 8'h07"):
        assert value in text
    # nothing that waits for an input to change before it has a value
    assert "always @*" not in text
    assert "always @(posedge clk)" in text
    # nothing about the machine or the tool
    assert "/" not in text.replace("// synopsys parallel_case", "")
    assert "Yosys" not in text


def test_a_combinational_block_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(verilog, "PASSES", ("read_rtlil design.il", "write_verilog -noattr design.v"))
    with pytest.raises(ToolError, match="combinational always block"):
        verilog.convert(Chooser())


def test_a_yosys_that_fails_says_why(monkeypatch) -> None:
    monkeypatch.setattr(verilog, "PASSES", ("read_rtlil design.il", "no_such_pass"))
    with pytest.raises(ToolError, match="could not convert the design to Verilog: .*no_such_pass"):
        verilog.convert(Chooser())


def test_a_missing_yosys_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"Yosys is not installed; 'pip install .sparsegate\[hardware\].'"):
        verilog.convert(Chooser())


def test_memories_as_constants_are_what_amaranth_writes() -> None:
    plain = rtlil.convert(Engine(small_program(), HardwareConfig(8)), name="engine", emit_src=False)
    with quick_conversion():
        quick = rtlil.convert(Engine(small_program(), HardwareConfig(8)), name="engine", emit_src=False)
    assert plain.count("$meminit_v2") > 10
    assert quick == plain
    assert rtlil.convert(Engine(small_program(), HardwareConfig(8)), name="engine", emit_src=False) == plain


def test_no_object_is_made_of_a_bit_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amaranth's own way makes one of every bit: a minute for a million weights."""
    from amaranth.hdl import _nir

    calls = {"plain": 0, "quick": 0}
    from_const = _nir.Net.from_const
    program = small_program(Shape("rnn_tanh", 20))
    for way, context in (("plain", nullcontext()), ("quick", quick_conversion())):

        def count(value: int, way: str = way) -> object:
            calls[way] += 1
            return from_const(value)

        monkeypatch.setattr(_nir.Net, "from_const", count)
        engine = Engine(program, HardwareConfig(2))
        with context:
            rtlil.convert(engine, name="engine", emit_src=False)
    assert calls["plain"] - calls["quick"] >= 2 * engine.layout.weight_depth * engine.layout.entry_width
