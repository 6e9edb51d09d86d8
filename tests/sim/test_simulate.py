from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.data import datasets
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.program import Matrix, Program
from sparsegate.quantize import quantize
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis.verilog import convert
from sparsegate_sim import drive
from sparsegate_sim.scoreboard import Scoreboard
from sparsegate_sim.simulate import TOP, judge, record, simulate
from tests.sim.shapes import FIXED, perfect


def both(name: str, **options) -> tuple:
    case = FIXED[name]
    program = case.program
    return simulate(program, case.config, *case.data(program), **options), case, program


QUICK = ("one-slot", "mixed", "both")
"""Shapes that `make test` compiles: one lane for two clusters, states and a projection, a sequence buffer."""


@pytest.mark.verilator
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FIXED]
)
def test_fixed_shapes_in_the_emulator(name: str) -> None:
    result, case, program = both(name)
    assert result.passed, result.summary
    assert result.cycle_mismatches == 0
    assert result.values_compared > 0
    assert "all equal" in result.summary
    layout = Layout(program, case.config)
    predicted = cycles.predict(golden.run(program, *case.data(program)), layout, case.config.states)
    assert result.cycles_counted == predicted.total
    assert result.counters["columns_sent"] == predicted.columns_sent
    # the same engine again: with stalls, with thresholds, with both
    thresholds = tuple(2 + n for n in range(len(program.vectors)))
    for options in ({"stalls": 1}, {"thresholds": thresholds}, {"stalls": 2, "thresholds": thresholds}):
        again, _, _ = both(name, **options)
        assert again.passed, again.summary
        assert (again.cycle_mismatches is None) == ("stalls" in options)
        assert again.build_seconds < result.build_seconds + 5


@pytest.mark.verilator
@pytest.mark.icarus
@pytest.mark.parametrize("name", ["ragged", pytest.param("both", marks=pytest.mark.slow)])
def test_every_simulator_and_the_emulator_agree_to_the_cycle_with_stalls(name: str) -> None:
    options = {"stalls": 7, "thresholds": (3, 1, 0, 2)[: len(FIXED[name].program.vectors)]}
    runs = [both(name, simulator="verilator", fast=fast, **options)[0] for fast in (True, False)] + [
        both(name, simulator=simulator, **options)[0] for simulator in ("icarus", "amaranth")
    ]
    for run in runs:
        assert run.passed, run.summary
        assert (run.step_start == runs[0].step_start).all()
        assert (run.step_end == runs[0].step_end).all()
        assert (run.counters, run.cycles) == (runs[0].counters, runs[0].cycles)


@pytest.mark.parametrize(
    "simulator",
    [
        pytest.param("verilator", marks=pytest.mark.verilator),
        pytest.param("icarus", marks=pytest.mark.icarus),
        "amaranth",
    ],
)
def test_weights_that_are_loaded_are_there_in_every_simulator(simulator: str) -> None:
    case = FIXED["ragged"]
    config, program = replace(case.config, loaded=True), case.program
    result = simulate(program, config, *case.data(program), simulator=simulator)
    assert result.passed, result.summary
    assert result.cycle_mismatches == 0
    plain = cycles.predict(golden.run(program, *case.data(program)), Layout(program, case.config))
    assert result.cycles_counted == plain.total


@pytest.mark.verilator
def test_cocotb_on_verilator_counts_the_predicted_cycles() -> None:
    result, _, _ = both("ragged", fast=False)
    assert result.passed, result.summary
    assert result.cycle_mismatches == 0


@pytest.mark.verilator
def test_emitted_verilog_is_enough() -> None:
    case = FIXED["ragged"]
    program = case.program
    result, _, _ = both("ragged", verilog=convert(Engine(program, case.config), TOP))
    assert result.passed, result.summary


# -- real speech ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech() -> tuple[Program, np.ndarray, np.ndarray]:
    """A network for JapaneseVowels with random weights: bit-exactness does not need a trained one, only real inputs."""
    vowels = datasets.load("vowels")
    shapes = [synthetic.Shape("lstm", 64, NM(2, 8), NM(2, 8)), synthetic.Shape("linear", 9, when="last")]
    floats = synthetic.network(vowels.inputs, shapes, seed=3, gain=2.0)
    program = quantize(floats, vowels.x_train[:50], vowels.length_train[:50])
    return program, program.quantize(vowels.x_test), vowels.length_test


ARRAY = HardwareConfig(rows=8)


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0, 2])
def test_utterances_under_verilator(speech, threshold: int) -> None:
    program, raw, lengths = speech
    result = simulate(program, ARRAY, raw[:40], lengths[:40], thresholds=(threshold, threshold, 0))
    assert result.passed, result.summary
    assert result.sequences == 40
    assert result.cycle_mismatches == 0
    assert result.values_compared == 64 * lengths[:40].sum() + 2 * 9 * 40
    stalled = simulate(program, ARRAY, raw[:40], lengths[:40], thresholds=(threshold, threshold, 0), stalls=5)
    assert stalled.passed, stalled.summary
    assert stalled.cycles > result.cycles


@pytest.mark.icarus
@pytest.mark.slow
def test_utterances_under_icarus(speech) -> None:
    program, raw, lengths = speech
    shortest = np.argsort(lengths, kind="stable")[:4]
    result = simulate(program, ARRAY, raw[shortest], lengths[shortest], simulator="icarus")
    assert result.passed, result.summary
    assert result.sequences == 4


# -- breaking it -----------------------------------------------------------------------------------------------------------


def broken_weight(program: Program) -> Program:
    """The same Program with the lowest bit of one weight flipped."""
    layer = program.layers[0]
    weight = layer.matrix_x.weight.copy()
    weight[0, 0, 0] ^= 1
    layers = (replace(layer, matrix_x=Matrix(layer.matrix_x.index, weight)), *program.layers[1:])
    return replace(program, layers=layers)


def test_one_bit_of_one_weight_is_found() -> None:
    case = FIXED["ragged"]
    program = case.program
    raw, lengths = case.data(program, 4)
    trace = golden.run(program, raw, lengths)
    work = drive.plan(program, raw, lengths)
    layout = Layout(program, case.config)
    board = Scoreboard(trace, layout)
    for engine, right in ((program, True), (broken_weight(program), False)):
        recording, _, _ = record(Engine(engine, case.config), work, simulator="amaranth")
        result = judge(board, recording, cycles.predict(trace, layout), "amaranth")
        assert result.passed == right, result.summary
    assert result.mismatches > 0
    assert "expected" in result.first_mismatch
    # all of unit 0's values depend on that weight, and nothing is computed before it
    assert result.first_mismatch.startswith("sequence 0, step ")


def test_wrong_cycles_and_counters_are_named() -> None:
    case = FIXED["ragged"]
    program = case.program
    raw, lengths = case.data(program)
    trace = golden.run(program, raw, lengths, saturations=True)
    layout = Layout(program, case.config)
    predicted = cycles.predict(trace, layout)
    recording = perfect(trace, layout)
    recording.step_start = predicted.start[predicted.start >= 0]
    recording.step_done = predicted.end[predicted.end >= 0]
    recording.counters = {"steps": recording.step_done.size, "columns_sent": predicted.columns_sent}
    board = Scoreboard(trace, layout)
    assert judge(board, recording, predicted, "made up").passed

    recording.step_done[2] += 1
    late = judge(board, recording, predicted, "made up")
    assert (late.passed, late.mismatches, late.cycle_mismatches) == (False, 0, 1)
    assert late.first_cycle_mismatch.startswith("sequence 0, step 2: expected cycles")
    assert late.first_cycle_mismatch in late.summary
    assert judge(board, recording, predicted, "made up", stalls=1).passed

    recording.step_done[2] -= 1
    recording.step_start = np.append(recording.step_start, 999_999)
    surplus = judge(board, recording, predicted, "made up")
    assert (surplus.passed, surplus.first_cycle_mismatch) == (False, "1 start or done pulses after the last step")

    recording.step_start = recording.step_start[:-2]
    missing = judge(board, recording, predicted, "made up")
    assert missing.cycle_mismatches == 1
    assert "counted -1 to" in missing.first_cycle_mismatch

    recording = perfect(trace, layout)
    recording.counters = {"columns_sent": predicted.columns_sent + 1, "saturations__0": 5}
    counted = judge(board, recording, predicted, "made up", stalls=1)
    assert counted.counter_mismatches[0] == (
        f"counter columns_sent: expected {predicted.columns_sent}, got {predicted.columns_sent + 1}"
    )
    assert len(counted.counter_mismatches) == 2
    assert "counter columns_sent" in counted.summary


def test_what_cannot_be_is_refused_before_anything_is_built(tmp_path) -> None:
    for options, message in (
        ({"simulator": "questa"}, "unknown simulator 'questa'; expected one of verilator, icarus, amaranth"),
        ({"simulator": "icarus", "fast": True}, "fast emulation is Verilator's; icarus runs the bench"),
        ({"simulator": "amaranth", "waves": tmp_path / "a.fst"}, "Amaranth's simulator writes .vcd waveforms only"),
        ({"waves": tmp_path / "a.txt"}, "waveforms are written to .vcd or .fst files"),
    ):
        with pytest.raises(SparseGateError, match=message):
            both("ragged", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_cycle_of_one_of_several_passes_is_named_by_pass_and_step() -> None:
    case = FIXED["both"]
    program = case.program
    trace, layout = golden.run(program, *case.data(program)), Layout(program, case.config)
    predicted = cycles.predict(trace, layout, final=True)
    recording = perfect(trace, layout, final=True)
    recording.step_start = predicted.start[predicted.start >= 0]
    recording.step_done = predicted.end[predicted.end >= 0]
    board = Scoreboard(trace, layout, final=True)
    good = judge(board, recording, predicted, "made up")
    assert good.passed, good.summary
    for layer, parts in trace.state.items():
        for name, value in parts.items():
            assert (good.state[layer][name] == value).all()
    assert trace.lengths.tolist() == [4, 3]
    for at, words in ((1, "sequence 0, pass 0, its step 1"), (8, "sequence 0, pass 2, its step 0")):
        recording.step_done[at] += 1
        late = judge(board, recording, predicted, "made up")
        assert (late.cycle_mismatches, late.first_cycle_mismatch.split(":")[0]) == (1, words)
        recording.step_done[at] -= 1
    recording.state_data = recording.state_data[:-1]
    short = judge(board, recording, predicted, "made up")
    assert (short.passed, short.state) == (False, None)


def test_states_and_sequences_that_an_engine_cannot_take_are_refused_before_it_is_built() -> None:
    case = FIXED["mixed"]
    program = case.program
    raw, lengths = case.data(program)
    plain = replace(case.config, states=False)
    bare = replace(program, initial={})
    for chosen, options, message in (
        (program, {}, "starts from a state of its own, which takes an array with state ports"),
        (bare, {"state": {}}, "a state to start from takes an array with state ports"),
        (bare, {"final": True}, "the state after each sequence takes an array with state ports"),
    ):
        with pytest.raises(SparseGateError, match=message):
            simulate(chosen, plain, raw, lengths, **options)
    with pytest.raises(
        SparseGateError, match="a state is given for 'linear2'; the recurrent layers are: lstm0, gru_reset"
    ):
        simulate(bare, case.config, raw, lengths, state={"linear2": {"h": np.zeros(3, int)}})
    case = FIXED["both"]
    program = case.program
    long = synthetic.stimulus(program.input_format, 1, 5, case.inputs, seed=1)
    with pytest.raises(SparseGateError, match="a sequence has 5 steps, but the engine's buffer holds 4; set steps=5"):
        simulate(program, case.config, long)


def test_amaranth_writes_waveforms(tmp_path) -> None:
    case = FIXED["ragged"]
    program = case.program
    raw, _ = case.data(program)
    result = simulate(program, case.config, raw[:1, :1], simulator="amaranth", waves=tmp_path / "waves.vcd")
    assert result.passed, result.summary
    assert "$enddefinitions" in (tmp_path / "waves.vcd").read_text()


@pytest.mark.icarus
def test_a_run_folder_that_cannot_be_written_is_a_sentence(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SparseGateError, match="cannot write .*file"):
        both("ragged", simulator="icarus", folder=tmp_path / "file")


def test_a_program_without_states_needs_no_state_frames():
    """State ports on a network that has none: nothing is taken or given, and the cycles are those without."""
    shapes = [synthetic.Shape("linear", 4), synthetic.Shape("linear_relu", 2)]
    floats = synthetic.network(3, shapes, seed=1)
    program = quantize(floats, np.random.default_rng(1).normal(size=(2, 4, 3)))
    raw = synthetic.stimulus(program.input_format, 2, 4, 3, seed=1)
    for state in (None, {}):
        result = simulate(program, HardwareConfig(2, states=True), raw, simulator="amaranth", state=state, final=True)
        assert result.passed, result.summary
        assert result.cycle_mismatches == 0
