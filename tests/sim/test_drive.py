from __future__ import annotations

import numpy as np
import pytest

from sparsegate.errors import SparseGateError
from sparsegate_sim.drive import (
    DRAIN_CYCLES,
    LOAD,
    SAVE,
    Driver,
    Plan,
    Port,
    Random,
    Recording,
    Stalls,
    plan,
    verilog_ports,
)
from tests.sim.shapes import FIXED, Adder, played


def adder_plan(stalls: int | None = None, patience: int = 500) -> Plan:
    x = np.array([1, 2, -3, -4, 100, 27])
    last = np.array([0, 0, 0, 1, 0, 1], bool)
    return Plan(x, last, (5,), steps=3, outputs=3, stalls=stalls, patience=patience)


def state_plan(stalls: int | None = None) -> Plan:
    return Plan(**{**vars(adder_plan(stalls)), "state_in": np.array([10, -20]), "states": 2})


def test_splitmix_gives_its_published_values() -> None:
    random = Random(1234567)
    assert [random.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_stalls_are_seeded_and_none_without_a_seed() -> None:
    none, one, again, other = Stalls(None), Stalls(1), Stalls(1), Stalls(2)
    assert {none.next() for _ in range(1000)} == {(True, True)}
    first = [one.next() for _ in range(1000)]
    assert first == [again.next() for _ in range(1000)]
    assert first != [other.next() for _ in range(1000)]
    assert {offer for offer, _ in first} == {True, False}
    assert {ready for _, ready in first} == {True, False}


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_everything_goes_in_and_comes_out(seed: int | None) -> None:
    engine = Adder()
    got = played(Driver(adder_plan(seed), engine.ports, engine), engine)
    assert got.y_data.tolist() == [3, -7, 127]
    assert got.y_last.tolist() == [False, True, True]
    assert got.trace_h.tolist() == [[3], [-7], [127]]
    assert (got.accepted, got.stuck, got.faults, got.counters) == (6, False, [], {"steps": 3})
    assert len(got.step_start) == len(got.step_done) == 3
    assert engine.values["threshold__0"] == 5
    if seed is None:
        assert got.step_start.tolist() == [1, 4, 7]
        assert got.step_done.tolist() == [2, 5, 8]
        assert got.cycles == 9 + DRAIN_CYCLES


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_states_go_in_and_come_out(seed: int | None) -> None:
    engine = Adder(states=True)
    got = played(Driver(state_plan(seed), engine.ports, engine), engine)
    assert got.y_data.tolist() == [13, 3, 107]
    assert got.state_data.tolist() == [3, 107]
    assert (got.accepted, got.stuck, got.faults) == (6, False, [])
    assert (np.diff(got.state_cycle) > 0).all()


def test_states_are_not_asked_for_without_need() -> None:
    engine = Adder(states=True)
    got = played(Driver(adder_plan(), engine.ports, engine), engine)
    assert got.y_data.tolist() == [3, -7, 127]
    assert got.state_data.tolist() == []
    assert (engine.values[LOAD], engine.values[SAVE]) == (0, 0)


def test_final_states_that_never_come_are_noticed() -> None:
    engine = Adder(lambda cycle, name, value: 0 if name == "state_out__valid" else value, states=True)
    assert played(Driver(state_plan(), engine.ports, engine), engine).stuck


def test_a_sequence_that_is_too_long_is_a_fault_said_once() -> None:
    engine = Adder(lambda cycle, name, value: int(cycle > 2) if name == "too_long" else value, states=True)
    got = played(Driver(state_plan(), engine.ports, engine), engine)
    assert got.faults == ["cycle 3: the engine says that a sequence is too long for its buffer"]


def test_an_engine_that_stops_is_noticed() -> None:
    engine = Adder(stops=4)
    got = played(Driver(adder_plan(patience=20), engine.ports, engine), engine)
    assert got.stuck
    assert got.accepted < 6


def test_a_limit_ends_a_run() -> None:
    engine = Adder()
    work = Plan(**{**vars(adder_plan()), "limit": 5})
    got = played(Driver(work, engine.ports, engine), engine)
    assert got.stuck
    assert got.cycles == 5


@pytest.mark.parametrize("seed", range(8))
def test_an_item_that_changes_before_it_is_taken_is_a_fault(seed: int) -> None:
    engine = Adder(lambda cycle, name, value: value ^ (cycle & 1) if name == "y__payload" else value)
    got = played(Driver(adder_plan(seed), engine.ports, engine), engine)
    held = any(later - sooner > 1 for sooner, later in zip(got.step_done, got.y_cycle + 1, strict=True))
    assert bool(got.faults) == held
    assert all("before it was taken" in fault for fault in got.faults)


@pytest.mark.parametrize(("port", "what"), [("y__valid", "output item"), ("state_out__valid", "state item")])
def test_an_item_that_is_withdrawn_is_a_fault(port: str, what: str) -> None:
    faults = []
    for seed in range(8):
        engine = Adder(lambda cycle, name, value: value & cycle & 1 if name == port else value, states=True)
        driver = Driver(Plan(**{**vars(state_plan(seed)), "limit": 400}), engine.ports, engine)
        faults += played(driver, engine).faults
    assert faults
    assert all("was withdrawn" in fault and what in fault for fault in faults)


def test_plans_and_recordings_survive_files(tmp_path) -> None:
    work = state_plan(stalls=3)
    work.save(tmp_path / "plan.npz")
    again = Plan.load(tmp_path / "plan.npz")
    arrays = ("x", "x_last", "state_in")
    for name in arrays:
        assert (getattr(again, name) == getattr(work, name)).all(), name
    assert {**vars(again), **dict.fromkeys(arrays)} == {**vars(work), **dict.fromkeys(arrays)}
    engine = Adder(states=True)
    got = played(Driver(work, engine.ports, engine), engine)
    got.save(tmp_path / "recording.npz")
    back = Recording.load(tmp_path / "recording.npz")
    for name in Recording.ARRAYS:
        assert (getattr(back, name) == getattr(got, name)).all()
    assert (back.counters, back.cycles, back.faults) == (got.counters, got.cycles, got.faults)


def test_a_plan_streams_sequences_back_to_back() -> None:
    program = FIXED["ragged"].program
    raw, _ = FIXED["ragged"].data(program, 3)
    work = plan(program, raw, np.array([2, 1, 4]), stalls=9)
    assert work.x.tolist() == np.concatenate([raw[0, :2], raw[1, :1], raw[2]]).reshape(-1).tolist()
    assert np.flatnonzero(work.x_last).tolist() == [9, 14, 34]
    assert (work.steps, work.outputs, work.thresholds, work.stalls) == (7, 21, (0, 0, 0), 9)


def test_a_plan_of_several_passes_counts_their_steps_and_frames() -> None:
    program = FIXED["both"].program
    raw, _ = FIXED["both"].data(program, 3)
    work = plan(program, raw, np.array([2, 1, 4]))
    assert work.x_last.sum() == 3
    # two directions over all steps and a head on one; one frame of four values a sequence
    assert (work.steps, work.outputs, len(work.thresholds)) == (7 + 7 + 3, 12, 4)


def test_a_plan_refuses_what_the_golden_model_refuses() -> None:
    program = FIXED["ragged"].program
    raw, lengths = FIXED["ragged"].data(program)
    with pytest.raises(SparseGateError, match="takes integers, not float64"):
        plan(program, raw * 0.5, lengths)
    with pytest.raises(SparseGateError, match=r"raw inputs lie in -?\d+\.\.5000"):
        plan(program, np.where(np.arange(raw.size).reshape(raw.shape) == 0, 5000, raw), lengths)
    with pytest.raises(SparseGateError, match="3 thresholds in 0..65535 expected"):
        plan(program, raw, lengths, thresholds=(1, 2))


def test_ports_of_verilog_text() -> None:
    text = """module other(a);
  input [7:0] a;
endmodule

module top(clk, x__payload, trace__h__10, trace__h__9, none);
  input clk;
  wire clk;
  input [8:0] x__payload;
  output signed [3:0] trace__h__10;
  output signed [3:0] trace__h__9;
  output [-1:0] none;
  input \\release ;
  function [3:0] _12_;
    input [3:0] a;
  endfunction
endmodule
"""
    assert verilog_ports(text, "top") == {
        "none": Port(0),
        "release": Port(1),  # a keyword, so Yosys escapes it
        "trace__h__9": Port(4, True),
        "trace__h__10": Port(4, True),
        "x__payload": Port(9),
    }
    assert list(verilog_ports(text, "top"))[2:4] == ["trace__h__9", "trace__h__10"]
    with pytest.raises(SparseGateError, match="no module 'engine'"):
        verilog_ports(text, "engine")
