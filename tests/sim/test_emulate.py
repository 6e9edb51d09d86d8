from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis.verilog import convert
from sparsegate_sim import cache, drive, emulate, frames, tools
from sparsegate_sim.drive import Port
from sparsegate_sim.runner import SimulationError
from sparsegate_sim.simulate import TOP, record, simulate
from tests.sim.drawn import states
from tests.sim.shapes import FIXED, Case

CASE = FIXED["ragged"]
# a payload of 81 bits: more than a word
BEATS = Case(3, (Shape("lstm", 16, NM(1, 8), NM(1, 8)),), HardwareConfig(8, 2, outputs=8), bits=10)


@pytest.fixture(scope="module")
def engine() -> tuple[str, dict[str, Port]]:
    text = convert(Engine(CASE.program, CASE.config), TOP)
    return text, drive.verilog_ports(text, TOP)


def test_ports_are_those_of_the_component(engine) -> None:
    component = Engine(CASE.program, CASE.config)
    assert drive.ports(component) == engine[1]
    assert list(drive.ports(component)) == list(engine[1])


@pytest.mark.verilator
@pytest.mark.parametrize("name", [pytest.param("ragged", marks=pytest.mark.slow), "both", "beats"])
def test_recordings_are_those_of_the_driver(name: str, tmp_path) -> None:
    case = BEATS if name == "beats" else FIXED[name]
    program, layout = case.program, Layout(case.program, case.config)
    text = convert(Engine(program, case.config), TOP)
    ports = drive.verilog_ports(text, TOP)
    built = emulate.build(text, TOP, ports)
    assert emulate.build(text, TOP, ports) == built
    raw, lengths = case.data(program)
    options, given = {}, None
    if case.config.states:
        given = states(program, len(raw), seed=1)
        options = {"state_in": frames.words(layout, given, len(raw)), "states": sum(frames.sizes(layout)) * len(raw)}
    predicted = cycles.predict(golden.run(program, raw, lengths, state=given), layout)
    for stalls in (None, 0, 12345678901234567890):
        work = drive.plan(program, raw, lengths, stalls=stalls, beat=case.config.outputs, **options)
        quick = emulate.run(built, work, ports, tmp_path)
        slow, _, _ = record(Engine(program, case.config), work, simulator="amaranth")
        assert len(quick.state_data) == work.states
        for name in drive.Recording.ARRAYS:
            assert (getattr(quick, name) == getattr(slow, name)).all(), name
        assert (quick.counters, quick.cycles, quick.accepted) == (slow.counters, slow.cycles, slow.accepted)
        assert (quick.stuck, quick.faults) == (False, [])
        assert quick.beats.shape[1] == case.config.groups
        assert quick.beats.sum(axis=0).tolist() == predicted.group_beats.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["simulation.log"]


@pytest.mark.verilator
def test_faults_are_worded_as_by_the_driver(tmp_path) -> None:
    """A design of a few lines that withdraws and changes what it offers; every fault of every stream, in both loops."""
    text = """module engine(clk, rst, x__payload, x__valid, x__ready, y__payload, y__valid, y__ready, state_in__payload,
  state_in__valid, state_in__ready, state_out__payload, state_out__valid, state_out__ready, step_start, step_done,
  trace__valid, trace__layer, trace__position, trace__real, trace__h__0, too_long);
  input clk;
  input rst;
  input [8:0] x__payload;
  input x__valid;
  output x__ready;
  output [8:0] y__payload;
  output y__valid;
  input y__ready;
  input [4:0] state_in__payload;
  input state_in__valid;
  output state_in__ready;
  output signed [4:0] state_out__payload;
  output state_out__valid;
  input state_out__ready;
  output step_start;
  output step_done;
  output trace__valid;
  output trace__layer;
  output trace__position;
  output trace__real;
  output trace__h__0;
  output too_long;
  reg [7:0] count;
  assign x__ready = count[0];
  assign state_in__ready = count[1];
  assign y__payload = {1'b0, count};
  assign y__valid = count[3] | count[0];
  assign state_out__payload = count[6:2];
  assign state_out__valid = count[4];
  assign step_start = 0;
  assign step_done = 0;
  assign trace__valid = 0;
  assign trace__layer = 0;
  assign trace__position = 0;
  assign trace__real = 0;
  assign trace__h__0 = 0;
  assign too_long = count == 100;
  always @(posedge clk) if (rst) count <= 0; else count <= count + 1;
endmodule
"""
    ports = drive.verilog_ports(text, TOP)
    values = np.arange(-8, 8)
    work = drive.Plan(values, values == 0, (), 1, 1, state_in=values, states=1, stalls=3, limit=400)
    quick = emulate.run(emulate.build(text, TOP, ports), work, ports, tmp_path)

    class Same:
        """The same design in Python."""

        def __init__(self) -> None:
            self.count, self.values = 0, {}

        def write(self, name: str, value: int) -> None:
            self.values[name] = value

        def read(self, name: str) -> int:
            count = self.count % 256
            given = {
                "x__ready": count & 1,
                "state_in__ready": count >> 1 & 1,
                "y__payload": count,
                "y__valid": (count >> 3 | count) & 1,
                "state_out__payload": drive.Port(5, True).value(count >> 2),
                "state_out__valid": count >> 4 & 1,
                "too_long": int(count == 100),
            }
            return given.get(name, 0)

    pins = Same()
    driver = drive.Driver(work, ports, pins)
    driver.reset()
    while not driver.done:
        driver.before()
        driver.after()
        pins.count += 1
    slow = driver.finish()
    assert quick.faults == slow.faults
    assert {
        word
        for fault in slow.faults
        for word in ("output", "state", "withdrawn", "became", "too long")
        if word in fault
    } == {
        "output",
        "state",
        "withdrawn",
        "became",
        "too long",
    }
    for name in drive.Recording.ARRAYS:
        assert (getattr(quick, name) == getattr(slow, name)).all(), name
    assert (quick.cycles, quick.accepted, quick.stuck) == (slow.cycles, slow.accepted, slow.stuck) == (400, 16, True)
    assert slow.state_data.min() < 0


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
