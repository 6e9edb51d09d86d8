from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate.errors import SparseGateError, ToolError
from sparsegate_hw.synthesis.verilog import convert
from sparsegate_sim import blocks, cache, runner

SIMULATORS = [
    pytest.param("icarus", marks=pytest.mark.icarus),
    pytest.param("verilator", marks=pytest.mark.verilator),
]


class Double(wiring.Component):
    """``o`` is twice ``i``, two cycles later."""

    def __init__(self) -> None:
        super().__init__({"i": In(4), "o": Out(5)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stage = Signal(4)
        m.d.sync += [stage.eq(self.i), self.o.eq(stage << 1)]
        return m


def doubles(factor: int = 2, later: int = 2) -> dict:
    items = [blocks.Item({"i": value % 16}, {"o": (later, value % 16 * factor)}) for value in range(40)]
    return blocks.pipeline(items, seed=1)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_bench_runs_and_reports(simulator, tmp_path) -> None:
    got = blocks.run(Double(), "sparsegate_sim.benches.pipeline", doubles(), simulator=simulator, folder=tmp_path)
    assert got["compared"] == 40
    assert got["cycles"] > 42  # there were bubbles
    assert [path.name for path in tmp_path.iterdir()] == ["simulation.log"]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("wrong", [{"factor": 3}, {"later": 3}, {"later": 1}])
def test_a_bench_that_fails_says_why(simulator, wrong, tmp_path) -> None:
    with pytest.raises(
        runner.SimulationError, match=r"benches\.pipeline\.pipeline failed: item \d+, port o: expected \d+, got \d+"
    ):
        blocks.run(Double(), "sparsegate_sim.benches.pipeline", doubles(**wrong), simulator=simulator, folder=tmp_path)


@pytest.mark.icarus
@pytest.mark.parametrize("form", ["vcd", "fst"])
def test_waveforms_on_request(form, tmp_path) -> None:
    waves = tmp_path / "deep" / f"waves.{form}"
    blocks.run(Double(), "sparsegate_sim.benches.pipeline", doubles(), waves=waves, folder=tmp_path)
    content = waves.read_bytes()
    assert (b"$enddefinitions" in content) == (form == "vcd")
    assert len(content) > 500


def test_waveforms_of_an_unknown_kind_are_refused() -> None:
    assert runner.waves_format(None) is None
    with pytest.raises(SparseGateError, match=r"written to .vcd or .fst files, not to waves.png"):
        runner.waves_format(Path("waves.png"))


def test_unknown_simulators_are_refused() -> None:
    with pytest.raises(SparseGateError, match="unknown simulator 'vcs'; expected one of icarus, verilator"):
        runner.build("", "top", "vcs")  # type: ignore[arg-type]


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_design_that_does_not_compile_shows_the_log(simulator) -> None:
    before = set(cache.root().glob(f"{simulator}-*"))
    with pytest.raises(ToolError, match=rf"(?s){simulator} could not build top:.*top.v:2"):
        runner.build("module top(clk);\n  inptu clk;\nendmodule\n", "top", simulator)
    assert set(cache.root().glob(f"{simulator}-*")) == before


@pytest.mark.icarus
def test_a_bench_that_cannot_be_imported_is_an_early_end(tmp_path) -> None:
    with pytest.raises(runner.SimulationError, match="no_such_bench"):
        blocks.run(Double(), "sparsegate_sim.no_such_bench", doubles(), folder=tmp_path)


@pytest.mark.icarus
def test_builds_are_addressed_by_content(tmp_path) -> None:
    text = convert(Double(), "block")
    first = runner.build(text, "block", "icarus", folder=tmp_path)
    assert runner.build(text, "block", "icarus", folder=tmp_path) == first
    other = runner.build(text.replace("endmodule", "endmodule // changed"), "block", "icarus", folder=tmp_path)
    waves = runner.build(text, "block", "icarus", "vcd", folder=tmp_path)
    assert len({first, other, waves}) == 3
    assert (first / "sim.vvp").exists()


def test_verilog_of_a_block_has_no_combinational_always_and_is_reproducible() -> None:
    text = convert(Double(), "block")
    assert text == convert(Double(), "block")
    assert "always @*" not in text
    assert text.startswith("module ")
