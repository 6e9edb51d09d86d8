from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden
from sparsegate_sim.drive import Recording
from sparsegate_sim.scoreboard import Scoreboard
from tests.sim.shapes import FIXED, layout_units, perfect


def run(name: str = "ragged", count: int = 3) -> tuple[Scoreboard, Recording]:
    case = FIXED[name]
    program = case.program
    trace = golden.run(program, *case.data(program, count))
    units = layout_units(program, case.config)
    return Scoreboard(trace, units), perfect(trace, units)


def events(recording: Recording, keep: np.ndarray) -> None:
    """Keep or reorder events of the trace."""
    for name in ("trace_cycle", "trace_layer", "trace_position", "trace_real", "trace_h"):
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
        number, position = recording.trace_layer[event], recording.trace_position[event]
        unit = board.units[number][lane, position]
        if unit >= 0:
            break
    right = recording.trace_h[event, lane]
    recording.trace_h[event, lane] ^= 1
    verdict = board.check(recording)
    assert verdict.mismatches == 1
    assert f"layer {board.layers[number].name!r}, unit {unit}: expected {right}, got {right ^ 1}" in verdict.first
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
    number, position = recording.trace_layer[event], recording.trace_position[event]
    units = board.units[number][:, position]
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
    last = np.flatnonzero(recording.trace_layer == 1)[-1]
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
        if board.units[recording.trace_layer[event]][lane, recording.trace_position[event]] < 0
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


def test_positions_and_layers_that_do_not_exist_are_noticed() -> None:
    board, recording = run()
    late = np.flatnonzero(recording.trace_layer == 0)[-1]
    recording.trace_position[late] = 999
    first = board.check(recording).first
    assert "position 999" in first
    # named at its own step, which is the last
    assert first.startswith(f"sequence 2, step {board.trace.lengths[2] - 1}, layer 'lstm0'")
    board, recording = run()
    recording.trace_layer[2] = 7
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
