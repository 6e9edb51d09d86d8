from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import Layout
from sparsegate_sim import frames
from sparsegate_sim.drive import Recording
from sparsegate_sim.scoreboard import Scoreboard
from tests.sim.shapes import FIXED, perfect


def run(name: str = "ragged", count: int = 3) -> tuple[Scoreboard, Recording]:
    case = FIXED[name]
    program = case.program
    trace = golden.run(program, *case.data(program, count))
    layout, final = Layout(program, case.config), case.config.states
    return Scoreboard(trace, layout, final), perfect(trace, layout, final)


def events(recording: Recording, keep: np.ndarray) -> None:
    """Keep or reorder events of the trace."""
    for name in ("trace_cycle", "trace_phase", "trace_position", "trace_real", "trace_h"):
        setattr(recording, name, getattr(recording, name)[keep])


@pytest.mark.parametrize("name", FIXED)
def test_a_flawless_engine_passes(name: str) -> None:
    board, recording = run(name)
    verdict = board.check(recording)
    assert (verdict.mismatches, verdict.first) == (0, None)
    assert verdict.compared == board.expected > 0


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("seed", range(4))
def test_one_lsb_anywhere_is_found_and_named(name: str, seed: int) -> None:
    board, recording = run(name)
    rng = np.random.default_rng(seed)
    while True:
        event, lane = rng.integers(len(recording.trace_h)), rng.integers(recording.trace_h.shape[1])
        number, position = recording.trace_phase[event], recording.trace_position[event]
        unit = board.phases[number].units[lane, position]
        if unit >= 0:
            break
    right = recording.trace_h[event, lane]
    recording.trace_h[event, lane] ^= 1
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert f"layer {board.phases[number].name!r}, unit {unit}: expected {right}, got {right ^ 1}" in verdict.first
    assert verdict.compared == board.expected


def test_the_first_difference_is_the_one_computed_first() -> None:
    board, recording = run()
    recording.trace_h[:, 0] += 1
    verdict = board.check(recording)
    assert verdict.mismatches > 10
    assert verdict.first.startswith("sequence 0, step 0, layer 'lstm0', unit 0:")


def test_units_that_were_swapped_are_two_differences() -> None:
    board, recording = run()
    recording.trace_h[3] = recording.trace_h[3, ::-1].copy()
    verdict = board.check(recording)
    assert verdict.mismatches == 2
    assert "expected" in verdict.first


@pytest.mark.parametrize("event", [0, 1, 20, -1])
def test_a_missing_event_is_named_at_its_own_step_and_shifts_nothing(event: int) -> None:
    board, recording = run()
    event = np.flatnonzero(recording.trace_real)[event]
    number, position = recording.trace_phase[event], recording.trace_position[event]
    units = board.phases[number].units[:, position]
    events(recording, np.arange(len(recording.trace_h)) != event)
    verdict = board.check(recording)
    assert verdict.mismatches == np.count_nonzero(units >= 0)
    assert "got no value" in verdict.first
    assert f"unit {min(unit for unit in units if unit >= 0)}:" in verdict.first


def test_a_repeated_event_is_noticed() -> None:
    board, recording = run()
    order = np.arange(len(recording.trace_h))
    events(recording, np.insert(order, 4, 4))
    assert board.check(recording).mismatches > 0


def test_a_repeated_last_step_is_noticed() -> None:
    board, recording = run()
    order = np.arange(len(recording.trace_h))
    last = np.flatnonzero(recording.trace_phase == 1)[-1]
    events(recording, np.append(order, last))
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert "after the last step, expected none" in verdict.first


def test_a_lane_that_claims_a_unit_it_has_not_is_noticed() -> None:
    board, recording = run()
    event, lane = next(
        (event, lane)
        for event in range(len(recording.trace_h))
        for lane in range(recording.trace_h.shape[1])
        if board.phases[recording.trace_phase[event]].units[lane, recording.trace_position[event]] < 0
    )
    recording.trace_real[event] |= np.uint64(1 << lane)
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert (
        f"lane {lane} says that position {recording.trace_position[event]} holds a unit, but it is none"
        in verdict.first
    )


def test_a_lane_that_hides_a_unit_is_noticed() -> None:
    board, recording = run()
    recording.trace_real[0] &= ~np.uint64(1)
    verdict = board.check(recording)
    assert verdict.mismatches == 2
    assert any(part in verdict.first for part in ("holds no unit, but it is unit 0", "unit 0: expected"))


def test_positions_and_phases_that_do_not_exist_are_noticed() -> None:
    board, recording = run()
    late = np.flatnonzero(recording.trace_phase == 0)[-1]
    recording.trace_position[late] = 999
    first = board.check(recording).first
    assert "position 999" in first
    # named at its own step, which is the last
    assert first.startswith(f"sequence 2, step {board.trace.lengths[2] - 1}, layer 'lstm0'")
    board, recording = run()
    recording.trace_phase[2] = 7
    assert board.check(recording).mismatches > 0


def test_an_output_value_a_last_flag_and_missing_or_extra_outputs() -> None:
    board, recording = run()
    recording.y_data[4] += 1
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert verdict.first.startswith("sequence 0, step 1, output 1: expected")

    board, recording = run()
    recording.y_last[2] ^= True
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert verdict.first == "sequence 0, step 0, output 2: expected last = 0, got 1"

    board, recording = run()
    recording.y_data, recording.y_last = recording.y_data[:-1], recording.y_last[:-1]
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert "got no value" in verdict.first
    assert verdict.compared == board.expected - 1

    board, recording = run()
    recording.y_data, recording.y_last = np.append(recording.y_data, 5), np.append(recording.y_last, False)
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert "1 values after the last expected one" in verdict.first


def test_silence_and_protocol_faults_count_as_mismatches() -> None:
    board, recording = run()
    recording.faults = ["cycle 3: output item 0x1 was withdrawn before it was taken"]
    verdict = board.check(recording)
    assert (verdict.mismatches, verdict.first) == (1, recording.faults[0])
    board, recording = run()
    recording.stuck = True
    assert "fell silent" in board.check(recording).first


def test_an_engine_that_gave_nothing() -> None:
    board, recording = run()
    events(recording, np.zeros(0, int))
    recording.y_data, recording.y_last = recording.y_data[:0], recording.y_last[:0]
    verdict = board.check(recording)
    assert (verdict.compared, verdict.mismatches) == (0, board.expected)
    assert verdict.first.startswith("sequence 0, step 0, layer 'lstm0', unit 0: expected")


def test_inner_vectors_have_names_of_their_own() -> None:
    board, recording = run("mixed")
    assert [phase.name for phase in board.phases] == [
        "lstm0.m",
        "lstm0",
        "gru_reset_before1.q",
        "gru_reset_before1",
        "linear2",
    ]
    recording.trace_h[np.flatnonzero(recording.trace_phase == 2)[0], 0] += 1
    assert board.check(recording).first.startswith("sequence 0, step 0, layer 'gru_reset_before1.q', unit 0: expected")


def test_steps_of_a_reversed_layer_are_named_in_order_of_time() -> None:
    board, recording = run("both")
    length = board.trace.lengths[0]
    assert length > 1
    recording.trace_h[np.flatnonzero(recording.trace_phase == 1)[0], 0] += 1  # what it computes first
    assert board.check(recording).first.startswith(f"sequence 0, step {length - 1}, layer 'gru0_reverse', unit 0:")
    # passes of a sequence follow one another
    recording.trace_h[np.flatnonzero(recording.trace_phase == 0)[-1], 0] += 1
    verdict = board.check(recording)
    assert verdict.mismatches == 2
    assert "layer 'gru0_reverse'" in verdict.first
    recording.trace_h[np.flatnonzero(recording.trace_phase == 0)[0], 0] += 1
    assert board.check(recording).first.startswith("sequence 0, step 0, layer 'gru0', unit 0:")


@pytest.mark.parametrize("name", ["mixed", "both"])
def test_a_final_state_is_compared_word_for_word(name: str) -> None:
    board, recording = run(name)
    count = len(board.trace.lengths)
    real = {
        int(word): (layer, key, unit)
        for _, layer, key, place in frames.places(board.layout)
        for unit, word in enumerate(place)
    }
    width = len(recording.state_data) // count
    assert 0 < len(real) <= width
    for word in (*list(real)[:4], *list(real)[-4:]):
        broken = recording.state_data.copy()
        broken[width + word] ^= 1
        again = Recording(**{**vars(recording), "state_data": broken})
        verdict = board.check(again)
        layer, key, unit = real[word]
        assert verdict.mismatches == 1
        value = recording.state_data[width + word]
        assert (
            verdict.first
            == f"sequence 1, final {key} of layer {layer!r}, unit {unit}: expected {value}, got {value ^ 1}"
        )
    # places without a unit may hold anything
    for word in set(range(width)) - set(real):
        recording.state_data[word] += 1
    assert board.check(recording).mismatches == 0
    recording.state_data = recording.state_data[:-width]
    verdict = board.check(recording)
    assert verdict.mismatches == len(real)
    assert "got no value" in verdict.first
    recording.state_data = np.zeros((count + 1) * width, np.int64)
    assert "words of final states after the last expected one" in str(max(board._check_states(recording)[1]))


def test_words_of_states_there_and_back() -> None:
    for name in ("mixed", "both", "ragged"):
        program = FIXED[name].program
        layout = Layout(program, FIXED[name].config)
        trace = golden.run(program, *FIXED[name].data(program, 3))
        words = frames.words(layout, trace.state, 3)
        back = frames.states(layout, words, 3)
        assert back.keys() == trace.state.keys()
        for layer, parts in trace.state.items():
            assert back[layer].keys() == parts.keys()
            for key, value in parts.items():
                assert (back[layer][key] == value).all()
