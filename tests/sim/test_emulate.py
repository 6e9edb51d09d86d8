from __future__ import annotations

import pytest

from sparsegate.errors import SparseGateError, ToolError
from sparsegate.layout import HardwareConfig
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape
from sparsegate_hw.engine import Engine
from sparsegate_hw.verilog import convert
from sparsegate_sim import cache, drive, emulate, tools
from sparsegate_sim.drive import Port
from sparsegate_sim.runner import SimulationError
from sparsegate_sim.simulate import TOP, record, simulate
from tests.sim.shapes import FIXED, Case

CASE = FIXED["ragged"]


@pytest.fixture(scope="module")
def engine() -> tuple[str, dict[str, Port]]:
    text = convert(Engine(CASE.program, CASE.config), TOP)
    return text, drive.verilog_ports(text, TOP)


def test_ports_are_those_of_the_component(engine) -> None:
    component = Engine(CASE.program, CASE.config)
    assert drive.ports(component) == engine[1]
    assert list(drive.ports(component)) == list(engine[1])


@pytest.mark.verilator
def test_recordings_are_those_of_the_driver(engine, tmp_path) -> None:
    text, ports = engine
    program = CASE.program
    built = emulate.build(text, TOP, ports)
    assert emulate.build(text, TOP, ports) == built
    for stalls in (None, 0, 12345678901234567890):
        work = drive.plan(program, *CASE.data(program), stalls=stalls)
        quick = emulate.run(built, work, ports, tmp_path)
        slow, _, _ = record(Engine(program, CASE.config), work, simulator="amaranth")
        for name in drive.Recording.ARRAYS:
            assert (getattr(quick, name) == getattr(slow, name)).all(), name
        assert (quick.counters, quick.cycles, quick.accepted) == (slow.counters, slow.cycles, slow.accepted)
        assert (quick.stuck, quick.faults) == (False, [])
    assert [path.name for path in tmp_path.iterdir()] == ["simulation.log"]


@pytest.mark.verilator
def test_a_limit_ends_a_run(engine, tmp_path) -> None:
    text, ports = engine
    work = drive.plan(CASE.program, *CASE.data(CASE.program))
    short = drive.Plan(**{**vars(work), "limit": 100})
    got = emulate.run(emulate.build(text, TOP, ports), short, ports, tmp_path)
    assert (got.cycles, got.stuck) == (100, True)


@pytest.mark.verilator
def test_waveforms(tmp_path) -> None:
    small = Case(2, (Shape("lstm", 4, NM(1, 4), NM(1, 4)),), HardwareConfig(4))
    program = small.program
    raw, _ = small.data(program)
    result = simulate(program, small.config, raw[:1, :1], waves=tmp_path / "waves.vcd")
    assert result.passed, result.summary
    assert "$enddefinitions" in (tmp_path / "waves.vcd").read_text()


@pytest.mark.verilator
def test_a_design_that_does_not_compile_shows_the_log(engine) -> None:
    before = set(cache.root().glob("emulate-*"))
    with pytest.raises(ToolError, match=r"(?s)engine could not be built.*engine.v:2"):
        emulate.build("module engine(clk);\n  inptu clk;\nendmodule\n", TOP, engine[1])
    assert set(cache.root().glob("emulate-*")) == before


@pytest.mark.verilator
def test_an_emulator_that_fails_shows_its_log(engine, tmp_path) -> None:
    script = tmp_path / "emulate"
    script.write_text("#!/bin/sh\necho it went wrong\nexit 2\n")
    script.chmod(0o755)
    work = drive.plan(CASE.program, *CASE.data(CASE.program))
    with pytest.raises(SimulationError, match=r"(?s)ended early.*it went wrong"):
        emulate.run(script, work, engine[1], tmp_path / "run")


def test_more_lanes_than_a_word_has_bits_are_refused(engine) -> None:
    ports = {**engine[1], **{f"trace__h__{lane}": Port(8, True) for lane in range(65)}}
    with pytest.raises(SparseGateError, match="traces up to 64 lanes, the engine has 65"):
        emulate._header(ports)


def test_fst_without_its_libraries_is_a_sentence(engine, monkeypatch, tmp_path) -> None:
    def refuse() -> None:
        raise ToolError(
            "FST waveforms from Verilator need lz4.h; 'apt-get install liblz4-dev' provides it, or write a .vcd file"
        )

    monkeypatch.setattr(tools, "fst_headers", refuse)
    with pytest.raises(ToolError, match="need lz4.h"):
        emulate.build(*engine[:1], TOP, engine[1], waves="fst", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
