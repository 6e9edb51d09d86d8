"""The cycle model by hand, on steps small enough to count. Its exactness is shown in RTL (tests/sim)."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles, timing
from sparsegate.network.synthetic import Shape, network, stimulus
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import quantize


def program(inputs: int, *shapes: Shape) -> Program:
    x = np.random.default_rng(0).normal(size=(2, 4, inputs))
    return quantize(network(inputs, shapes, 0), x)


def test_one_step_by_hand() -> None:
    small = program(3, Shape("lstm", 8, NM(1, 4), NM(1, 4)))
    layout = Layout(small, HardwareConfig(4))
    raw = np.array([[[5, 0, -7]]])
    predicted = cycles.predict(golden.run(small, raw), layout)
    # two of three columns moved; two unit blocks on one cluster: 2 slots of 1 entry
    matvec = timing.SHALLOW.dispatch + 1 + 2 * 2
    latency = timing.result_latency(small.phases[0].spec, 0, 1, timing.SHALLOW)
    # the frame is listed before the eight accumulators of every PE are cleared
    assert 3 + timing.SHALLOW.encode < layout.acc_depth == 8
    assert predicted.start.tolist() == [[8]]
    assert predicted.matvec.tolist() == [[matvec]]
    assert predicted.busy.tolist() == [[matvec - 1 + timing.SHALLOW.drain + 8 + latency]]
    assert (predicted.columns_seen, predicted.columns_sent) == (3 + 8, 2)
    assert predicted.useful_macs == 2 * 8
    assert predicted.occupancy_matvec == 16 / (4 * matvec)
    assert predicted.occupancy_total == 16 / (4 * predicted.total)


def test_nothing_moved_costs_no_beat() -> None:
    small = program(3, Shape("lstm", 8, NM(1, 4), NM(1, 4)))
    predicted = cycles.predict(golden.run(small, np.zeros((1, 1, 3), int)), Layout(small, HardwareConfig(4)))
    assert predicted.matvec.tolist() == [[timing.SHALLOW.nothing + 1]]
    assert predicted.beats.tolist() == [[0]]
    assert predicted.useful_macs == predicted.columns_sent == 0


def test_the_slowest_group_decides() -> None:
    small = program(4, Shape("lstm", 4, NM(1, 4), NM(1, 4)))
    layout = Layout(small, HardwareConfig(4, 2))
    # columns 0 and 2 belong to group 0, 1 and 3 to group 1
    for raw, longest in (([1, 0, 1, 0], 2), ([1, 1, 0, 0], 1), ([1, 1, 1, 1], 2), ([1, 1, 1, 0], 2)):
        predicted = cycles.predict(golden.run(small, np.array([[raw]])), layout)
        assert predicted.matvec[0, 0] == timing.SHALLOW.dispatch + 1 + longest


def test_two_phases_of_one_layer_follow_one_another() -> None:
    """Reset before the product: r and z, then the candidate, whose second matrix multiplies what the first phase gave."""
    small = program(2, Shape("gru_reset_before", 4))
    layout = Layout(small, HardwareConfig(2))
    raw = np.array([[[90, -110]]])
    trace = golden.run(small, raw)
    predicted = cycles.predict(trace, layout)
    q = int(trace.passes[0].streams[1].sent.sum())
    # four slots of one entry; two gates fill the cluster, one gate leaves room for two unit blocks in a slot
    first = timing.SHALLOW.dispatch + 1 + 4 * 2
    second = timing.SHALLOW.dispatch + 1 + 2 * (2 + q)
    assert predicted.matvec.tolist() == [[first + second]]
    assert q == 0  # of a first step
    # the candidate's x goes with the cells of r and z; its q waits for them, though nothing of it is sent
    read = [
        timing.SHALLOW.drain + 4 + timing.result_latency(phase.spec, 0, 1, timing.SHALLOW) for phase in small.phases
    ]
    assert read[0] > 2 * 2
    assert predicted.busy.tolist() == [
        [timing.SHALLOW.dispatch + 4 * 2 + read[0] + 1 + timing.SHALLOW.nothing + read[1]],
    ]
    assert predicted.columns_sent == 2 + 2 + q
    assert predicted.columns_seen == 2 + 4 + 2 + 4
    assert predicted.useful_macs == 2 * 8 + (2 + q) * 4


def test_a_state_costs_its_words_and_its_columns() -> None:
    small = program(2, Shape("lstm", 4))
    layout = Layout(small, HardwareConfig(4, states=True))
    zeros = np.zeros((1, 1, 2), int)
    plain = cycles.predict(golden.run(small, zeros), layout)
    state = {"lstm0": {"h": np.array([[1, 0, 2, 3]]), "c": np.zeros((1, 4), int)}}
    loaded = cycles.predict(golden.run(small, zeros, state=state), layout)
    # four positions of two words and a push, and the way through the comparison; then three columns of four slots
    take = 1 + 4 * (2 + 1) + timing.SHALLOW.delta + 1
    prime = timing.SHALLOW.dispatch + 1 + 3 * 4
    assert loaded.busy[0, 0] - plain.busy[0, 0] == take + prime + 1
    assert loaded.columns_sent - plain.columns_sent == 3
    # a final state is given after the last result: it delays the next sequence only
    twice = golden.run(small, np.zeros((2, 1, 2), int))
    apart = [np.diff(cycles.predict(twice, layout, final=final).start[:, 0])[0] for final in (False, True)]
    assert apart[1] - apart[0] == 1 + 4 * (2 + 1)


def test_passes_follow_one_another_through_the_buffer() -> None:
    small = program(2, Shape("rnn_relu", 3, both=True))
    layout = Layout(small, HardwareConfig(1))
    trace = golden.run(small, stimulus(small.input_format, 2, 3, 2, 0))
    predicted = cycles.predict(trace, layout)
    assert predicted.start.shape == trace.ran.shape == (2, 3 + 3)
    # within a pass a step is dispatched while the one before is in the lanes, across passes it is not
    assert (predicted.start[:, [1, 2, 4, 5]] < predicted.end[:, [0, 1, 3, 4]]).all()
    assert (predicted.start[:, 3] > predicted.end[:, 2]).all()
    # the last of six values is taken in cycle 5; a frame of two is then listed ``encode`` cycles after its last value
    assert predicted.start[0, 0] == 5 + timing.BUFFER_FEED + 2 + timing.SHALLOW.encode
    # a pass begins when the one before has given its last of three values
    given = predicted.end[0, 2] + timing.OUTPUT + 3 - 1
    assert predicted.start[0, 3] == given + timing.BUFFER_FEED + 2 + timing.SHALLOW.encode


def test_a_long_frame_bounds_the_rate_by_its_input() -> None:
    small = program(40, Shape("lstm", 1))
    layout = Layout(small, HardwareConfig(4))
    predicted = cycles.predict(golden.run(small, np.zeros((1, 6, 40), int)), layout)
    assert np.diff(predicted.start[0]).tolist() == [40] * 5


def test_a_wide_output_bounds_the_rate_of_idle_steps() -> None:
    small = program(1, Shape("lstm", 1), Shape("linear", 150))
    layout = Layout(small, HardwareConfig(64, lanes=16))
    predicted = cycles.predict(golden.run(small, np.zeros((1, 5, 1), int)), layout)
    apart = np.diff(predicted.end[0])
    positions, latency = layout.phases[1].positions, timing.result_latency(small.phases[1].spec, 0, 1, timing.SHALLOW)
    # the frame of 150 values leaves before the next one may be read out
    assert apart[1:].tolist() == [1 + 150 + positions + latency] * 3


def test_a_beat_of_outputs_shortens_idle_steps() -> None:
    small = program(1, Shape("lstm", 1), Shape("linear", 160, NM(1, 8)))
    raw = np.zeros((1, 5, 1), int)
    found = [
        np.diff(cycles.predict(golden.run(small, raw), Layout(small, HardwareConfig(64, outputs=beat))).end[0])[1:]
        for beat in (1, 2, 8)
    ]
    # frames of 160, 80 and 20 beats; at last the phases themselves are slower than the frame
    positions = Layout(small, HardwareConfig(64)).phases[1].positions
    latency = timing.result_latency(small.phases[1].spec, 0, 1, timing.SHALLOW)
    assert found[0].tolist() == [1 + 160 + positions + latency] * 3
    assert found[1].tolist() == [1 + 80 + positions + latency] * 3
    assert (found[2] < found[1]).all()


def test_last_only_head_takes_what_is_held() -> None:
    shapes = (Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("linear", 3, when="last"))
    small = program(3, *shapes)
    layout = Layout(small, HardwareConfig(4))
    raw = stimulus(small.input_format, 1, 4, 3, seed=1)
    trace = golden.run(small, raw, thresholds=(0, 9, 0))
    predicted = cycles.predict(trace, layout)
    x, h, _ = trace.passes[0].streams
    held = int(np.count_nonzero(h.held))
    moved = int(x.sent.sum() + h.sent[:, :-1].sum())
    assert predicted.columns_sent == moved + held
    assert predicted.columns_seen == 4 * (3 + 8) + 8


@pytest.mark.parametrize(
    ("block", "units", "entries", "expected"), [(4, 10, 2, 4 * (2 * 2 + 2)), (4, 9, 2, 4 * (2 * 2 + 1))]
)
def test_useful_macs_never_count_padding_rows(block: int, units: int, entries: int, expected: int) -> None:
    small = program(1, Shape("lstm", units, NM(entries, block), NM(entries, block)))
    predicted = cycles.predict(golden.run(small, np.ones((1, 1, 1), int)), Layout(small, HardwareConfig(4)))
    assert predicted.useful_macs == expected


def dense_run(large: Program, inputs: int, steps: int) -> golden.Trace:
    """A run in which every column moves at every step, so that figures are the array's own."""
    trace = golden.run(large, stimulus(large.input_format, 1, steps, inputs, 0, hold=0.0))
    for stream in trace.passes[0].streams:
        stream.sent[:] = True
    return trace


def test_occupancy_of_a_large_layer() -> None:
    """Useful MACs fill more than 99.5 % of the matrix-vector phases: 64 -> 256 at 1:8 on 16 PEs, every column sent."""
    large = program(64, Shape("lstm", 256, NM(1, 8), NM(1, 8)))
    layout = Layout(large, HardwareConfig(16))
    predicted = cycles.predict(dense_run(large, 64, 4), layout)
    assert predicted.columns_sent == 4 * 64 + 3 * 256
    assert predicted.occupancy_matvec > 0.995
    # steady state: beats, read-out, and five cycles between them
    beats = (64 + 256) * 8
    assert np.diff(predicted.end[0]).tolist()[1:] == [beats + 64 + timing.SHALLOW.drain + 2] * 2


def test_the_target_array_loses_five_cycles_and_its_read_out() -> None:
    """An LSTM of 123 -> 1024 at 1:16 on 32 x 3 PEs: the cells are hidden, and useful MACs fill 95 % of all PEs' cycles."""
    large = program(123, Shape("lstm", 1024, NM(1, 16), NM(1, 16)))
    layout = Layout(large, HardwareConfig(32, 3))
    trace = dense_run(large, 123, 4)
    predicted = cycles.predict(trace, layout)
    step = np.diff(predicted.end[0])[-1]
    assert predicted.beats[0, -1] == 3064
    assert step == 3064 + 128 + timing.SHALLOW.drain + 2
    assert predicted.occupancy_matvec > 0.99
    assert (123 + 1024) * 256 / (96 * step) > 0.95
    # 41 columns of x and 341 or 342 of h a group
    assert 1.0 < predicted.imbalance < 1.01


def test_phases_of_different_banks_hide_read_out_and_cells() -> None:
    shapes = [Shape("lstm", 256, NM(1, 16), NM(1, 16))] * 3
    large = program(256, *shapes)
    layout = Layout(large, HardwareConfig(32, 3))
    assert (layout.acc_banks, layout.acc_bank_depth) == (3, 32)
    predicted = cycles.predict(dense_run(large, 256, 4), layout)
    assert np.diff(predicted.end[0])[-1] == predicted.beats[0, -1] + 3 * (timing.SHALLOW.dispatch + 1)
    assert predicted.imbalance < 1.02
    # with fewer banks a dispatch waits for the read-out before it more often
    depths, steps = [], []
    for banks in (3, 2, 1):
        fewer = Layout(large, HardwareConfig(32, 3, banks=banks))
        assert fewer.acc_banks == banks
        depths.append(fewer.acc_depth)
        steps.append(np.diff(cycles.predict(dense_run(large, 256, 4), fewer).end[0])[-1])
    assert depths == [96, 64 * 2, 96]
    assert steps[0] < steps[1] < steps[2]


def test_frames_apart_show_the_latency_of_a_step() -> None:
    small = program(3, Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("linear", 4))
    layout = Layout(small, HardwareConfig(4))
    trace = dense_run(small, 3, 3)
    streamed, apart = (cycles.predict(trace, layout, apart=apart) for apart in (False, True))
    assert (apart.start[0, 1:] > apart.end[0, :-1]).all()
    assert (streamed.start[0, 1:] < streamed.end[0, :-1]).all()
    assert streamed.total < apart.total
    assert (streamed.busy >= apart.busy).all()
