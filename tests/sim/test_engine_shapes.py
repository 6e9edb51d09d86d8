"""Every cell and structure, in fixed and drawn shapes: RTL, golden model and cycle model give the same integers and cycles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.cells import CELLS
from sparsegate.errors import SparseGateError
from sparsegate.network.synthetic import Shape, stimulus
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig
from sparsegate_sim.simulate import simulate
from tests.sim.drawn import Case, cost, draw, run

RECURRENT = [kind for kind, what in CELLS.items() if what.recurrent]
FEEDFORWARD = [kind for kind, what in CELLS.items() if not what.recurrent]
HEAD = Shape("linear", 3)


def array(gates: int, clusters: int = 2, **options) -> HardwareConfig:
    """Clusters that just hold so many gates."""
    return HardwareConfig(gates * clusters, **{"multiplier": 40, **options})


def stalled(case: Case) -> None:
    """With stalls, Θ and, where there are ports for it, states to start from; in Amaranth's simulator, which needs no Verilog: for
    so few cycles nothing is quicker.
    """
    run(replace(case, thresholds=(1, 3, 0, 2), stalls=11, given=case.hardware.states), "amaranth")


def both(case: Case) -> None:
    """Plain, with every cycle counted; then stalled."""
    run(case)
    stalled(case)


# -- every cell ----------------------------------------------------------------------------------------------------------


@pytest.mark.icarus
@pytest.mark.parametrize("kind", RECURRENT)
def test_every_recurrent_cell(kind: str) -> None:
    gates = len(CELLS[kind].gates)
    both(Case(5, (Shape(kind, 7, NM(2, 4), NM(1, 2)), HEAD), array(gates, states=True)))


@pytest.mark.parametrize("kind", RECURRENT)
def test_every_recurrent_cell_from_given_states_on_two_groups(kind: str) -> None:
    """A cluster with rows to spare, two clusters to a lane, states given without stalls: loading is counted to the cycle."""
    config = HardwareConfig(rows=10, cluster=5, groups=2, lanes=1, multiplier=40, states=True)
    case = Case(3, (Shape(kind, 9, NM(1, 4), NM(3, 4)),), config, thresholds=(0, 2), given=True, lengths=(2, 1))
    run(case, "amaranth")


@pytest.mark.icarus
@pytest.mark.parametrize("kind", FEEDFORWARD)
def test_every_linear_layer_hidden_and_as_a_head(kind: str) -> None:
    shapes = [Shape(kind, 6, NM(1, 3)), Shape("rnn_tanh", 4), Shape(kind, 5, NM(1, 2))]
    both(Case(4, tuple(shapes), array(1, 3)))
    shapes[-1] = replace(shapes[-1], when="last")
    run(Case(4, tuple(shapes), array(1, 2, groups=2), stalls=4), "amaranth")


# -- structures ----------------------------------------------------------------------------------------------------------


def stack(*kinds: str) -> tuple[Shape, ...]:
    return tuple(Shape(kind, 8 - number, NM(2, 4), NM(1, 4)) for number, kind in enumerate(kinds))


BIDIRECTIONAL = Shape("lstm", 6, NM(1, 2), NM(2, 4), both=True)
PROJECTED = Shape("lstm", 9, NM(2, 4), NM(1, 2), outputs=4, pattern_p=NM(1, 3))

STRUCTURES = {
    "three of a kind": Case(5, (*stack("lstm", "lstm", "lstm"), HEAD), array(4)),
    "three gated recurrent units": Case(3, stack("gru", "gru", "gru"), array(3, states=True, groups=2)),
    "cells that share lanes": Case(
        4, (*stack("lstm", "gru", "linear_relu"), HEAD), array(4, 4, lanes=2, states=True), initial=True
    ),
    "two phases amid others": Case(
        4, (*stack("gru_reset_before", "cifg_peephole", "rnn_relu"), Shape("linear_tanh", 3, when="last")), array(3)
    ),
    "projection": Case(5, (PROJECTED, HEAD), array(4, 2, groups=2, states=True)),
    "projections on top of each other": Case(3, (PROJECTED, replace(PROJECTED, kind="cifg")), array(4, states=True)),
    "reverse": Case(4, (Shape("gru", 7, NM(1, 2), NM(1, 4), reverse=True),), array(3, states=True, steps=3)),
    "reverse with a head": Case(4, (Shape("lstm", 5, reverse=True), HEAD), array(4, steps=3)),
    "bidirectional": Case(3, (BIDIRECTIONAL,), array(4, states=True, steps=3)),
    "bidirectional, a head at every step": Case(3, (BIDIRECTIONAL, HEAD), array(4, steps=9)),
    "bidirectional, a head on the last step": Case(
        3, (BIDIRECTIONAL, replace(HEAD, when="last")), array(4, groups=2, steps=4)
    ),
    "bidirectional, a head on the final values": Case(
        3, (replace(BIDIRECTIONAL, kind="gru"), replace(HEAD, when="final")), array(3, states=True, steps=3)
    ),
    "stacked bidirectional": Case(
        3,
        (BIDIRECTIONAL, Shape("gru_reset_before", 4, both=True), replace(HEAD, when="final")),
        array(4, states=True, steps=3),
        initial=True,
    ),
    "bidirectional with projections": Case(
        2, (replace(PROJECTED, both=True), Shape("lstm_peephole", 4)), array(4, states=True, steps=3), lengths=(2, 3)
    ),
}


STALLED = ("cells that share lanes", "projection", "bidirectional, a head on the final values")
"""Those that `make test` stalls: two gates counts with states, a projection, and a sequence buffer."""


@pytest.mark.icarus
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure(name: str) -> None:
    """With every cycle counted."""
    run(STRUCTURES[name])


@pytest.mark.parametrize(
    "name", [name if name in STALLED else pytest.param(name, marks=pytest.mark.slow) for name in STRUCTURES]
)
def test_every_structure_with_stalls(name: str) -> None:
    stalled(STRUCTURES[name])


# -- shapes and numbers --------------------------------------------------------------------------------------------------

SHAPES = {
    "units no multiple of the block": Case(3, (Shape("lstm", 13, NM(1, 8), NM(2, 8)), Shape("linear", 5)), array(4)),
    "one slot, two groups": Case(7, (Shape("lstm", 8, NM(1, 4), NM(1, 4)),), array(4, groups=2), stalls=5),
    "two densities, three groups": Case(
        9,
        (Shape("lstm", 20, NM(3, 4), NM(1, 16)), Shape("linear", 3, when="last")),
        array(4, 4, groups=3, lanes=2),
        thresholds=(2, 1, 0),
    ),
    "dense and narrow": Case(
        5, (Shape("lstm", 6),), array(4, 1), QuantizeConfig(activation_bits=4, weight_bits=2), thresholds=(0, 1)
    ),
    "16 bits": Case(
        4,
        (Shape("lstm", 9, NM(1, 4), NM(1, 4)),),
        array(4, 1, groups=3),
        QuantizeConfig(activation_bits=16, weight_bits=16, table_bits=6),
    ),
    "clusters of more rows than gates": Case(
        6,
        (Shape("lstm", 12, NM(2, 8), NM(1, 8)), Shape("lstm", 10, NM(1, 4), DENSE), Shape("linear", 4)),
        HardwareConfig(18, 2, 1, 9),
        thresholds=(1, 2, 0, 0),
    ),
    "96 units at 1:16": Case(
        40, (Shape("lstm", 96, NM(1, 16), NM(1, 16)), Shape("linear", 20)), array(4, 4), lengths=(2, 1)
    ),
    "one of everything": Case(1, (Shape("gru", 1),), array(3, 1, states=True), lengths=(1, 2)),
}


@pytest.mark.icarus
@pytest.mark.parametrize("name", SHAPES)
def test_fixed_shapes(name: str) -> None:
    run(SHAPES[name])


@pytest.mark.parametrize("name", ["units no multiple of the block", "one of everything"])
def test_fixed_shapes_on_amaranth(name: str) -> None:
    run(SHAPES[name], "amaranth")


# values a beat: blocks as long as a beat and longer, a lane with one beat and with many, payloads of up to 81 bits
BEATS = {
    "two of a layer": Case(4, (Shape("lstm", 12, NM(1, 4), NM(1, 4)),), array(4, 3, outputs=2), stalls=1),
    "four of a block of four": Case(
        3, (Shape("gru", 8, NM(1, 4), NM(2, 4)),), array(3, outputs=4, states=True), stalls=2
    ),
    "four, two groups, a short last block": Case(
        5, (Shape("lstm", 20, NM(1, 8), NM(1, 8)),), array(4, 2, groups=2, outputs=4), stalls=3
    ),
    "eight of a projection": Case(
        6, (replace(PROJECTED, units=16, outputs=16, pattern_p=NM(1, 8)),), array(4, 2, outputs=8), stalls=4
    ),
    "eight of a head on the last step": Case(
        4,
        (Shape("lstm", 6, NM(1, 2), NM(1, 2)), Shape("linear", 24, NM(1, 8), when="last")),
        array(4, outputs=8),
        stalls=5,
    ),
    "eight of ten bits": Case(
        3,
        (Shape("lstm", 32, NM(1, 16), NM(1, 16)),),
        array(4, outputs=8),
        QuantizeConfig(activation_bits=10),
        lengths=(6, 1),
        stalls=6,
    ),
    "a beat a frame": Case(
        2, (Shape("rnn_tanh", 8, NM(1, 8), NM(1, 8)),), array(1, 1, outputs=8), lengths=(9,), stalls=7
    ),
}


@pytest.mark.icarus
@pytest.mark.parametrize("name", BEATS)
def test_several_output_values_a_beat(name: str) -> None:
    """To the cycle, and with back-pressure on the beats."""
    case = BEATS[name]
    program = case.program()
    run(replace(case, stalls=None), program=program)
    run(case, "amaranth", program)


@pytest.mark.icarus
def test_a_frame_in_beats_no_longer_bounds_a_quiet_step() -> None:
    """Where nothing moves, a step takes as long as its output frame does, so a beat of eight values shows in the cycles."""
    slow = Case(2, (Shape("lstm", 64, NM(1, 8), NM(1, 8)),), array(4, 4), thresholds=(1 << 15,), lengths=(10,))
    fast = replace(slow, hardware=replace(slow.hardware, outputs=8))
    program = slow.program()
    before, after = (int(np.diff(run(case, program=program).step_end[0, 4:]).max()) for case in (slow, fast))
    assert before - after >= 20, (before, after)


def drawn(seed: int, simulator: str) -> None:
    case = draw(seed, units=16)
    program = case.program()
    assert cost(case, program) < 6_000
    run(case, simulator, program)


def test_saturations_are_counted_for_units_only() -> None:
    """A place without a unit computes sigmoid(0) = 1/2, which its output format may not hold."""
    run(draw(1007), "amaranth")


@pytest.mark.icarus
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_drawn_cases_on_icarus(seed: int) -> None:
    drawn(seed, "icarus")


@pytest.mark.parametrize("seed", [100, 101, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(102, 124))])
def test_drawn_cases_on_amaranth(seed: int) -> None:
    drawn(seed, "amaranth")


# -- sequences and states ------------------------------------------------------------------------------------------------


@pytest.mark.icarus
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_relu"])
def test_many_sequences_of_a_step_and_one_of_many_steps(kind: str) -> None:
    """Nothing of a sequence is left for the next one, and nothing wears out."""
    case = Case(2, (Shape(kind, 4, NM(1, 2), NM(1, 2)),), array(len(CELLS[kind].gates), 1), lengths=(1,) * 40)
    run(case)
    run(replace(case, lengths=(120, 1, 30), thresholds=(1, 2), seed=case.seed))


@pytest.mark.icarus
def test_a_sequence_cut_in_two_equals_the_whole() -> None:
    """The final state that an engine gave, handed to the next run of the same engine: x^ starts anew, so Θ is 0."""
    case = STRUCTURES["cells that share lanes"]
    program = case.program()
    raw = stimulus(program.input_format, 2, 7, case.inputs, seed=3)
    whole = golden.run(program, raw, thresholds=(0,) * len(program.vectors))
    options = {"simulator": "icarus", "thresholds": (0,) * len(program.vectors)}
    first = simulate(program, case.hardware, raw[:, :4], **options)
    second = simulate(program, case.hardware, raw[:, 4:], state=first.state, stalls=2, **options)
    for result in (first, second):
        assert result.passed, result.summary
    for layer, parts in whole.state.items():
        for name, value in parts.items():
            assert (second.state[layer][name] == value).all(), (layer, name)


@pytest.mark.icarus
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_an_encoder_hands_its_state_to_a_decoder(kind: str) -> None:
    """Two Programs of formats of their own: the state goes from one engine to the other in real numbers."""
    gates = len(CELLS[kind].gates)
    encoder = Case(6, (Shape(kind, 8, NM(1, 4), NM(1, 4)),), array(gates, states=True), seed=1)
    decoder = Case(4, (Shape(kind, 8, NM(2, 4), NM(1, 2)), HEAD), array(gates, 1, states=True, groups=2), seed=2)
    one, two = encoder.program(), decoder.program()
    (name,), first = (layer.name for layer in one.layers), run(encoder, program=one)
    assert first.state is not None
    (other, _) = (layer.name for layer in two.layers)
    state = two.quantize_state({other: one.real_state(first.state)[name]}, len(encoder.lengths))
    raw, lengths = decoder.raw(two)
    second = simulate(two, decoder.hardware, raw, lengths, state=state, simulator="icarus")
    assert second.passed, second.summary
    fresh = golden.run(two, raw, lengths)
    assert (fresh.outputs != golden.run(two, raw, lengths, state=state).outputs).any()


def test_a_partial_sum_reaches_its_bound_exactly() -> None:
    """The least weight on the least input, column after column of one group, while another takes the total back."""
    case = Case(6, (Shape("linear", 4),), HardwareConfig(rows=2, groups=3))
    made = case.program()
    layer = made.layers[0]
    least = layer.formats["wx"].min
    by_group = np.array([least, -least - 1, least])[np.arange(6) % 3]
    matrix = replace(layer.matrix_x, weight=np.broadcast_to(by_group[None, :, None], layer.matrix_x.weight.shape))
    wide = replace(layer.formats["acc"], width=24)
    program = replace(
        made, layers=(replace(layer, matrix_x=matrix, bias=layer.bias * 0, formats=layer.formats | {"acc": wide}),)
    )
    # two columns of 2**12: one more than 14 bits with a sign hold
    need = 15
    with pytest.raises(SparseGateError, match=f"partial sums need {need} bits, the hardware's have {need - 1}"):
        _ = Layout(program, replace(case.hardware, partial_bits=need - 1)).partial_width
    tight = replace(case.hardware, partial_bits=need)
    raw = np.full((1, 3, 6), program.input_format.min)
    raw[0, 1] = program.input_format.max
    assert simulate(program, tight, raw, simulator="amaranth").passed


def test_threshold_zero_is_the_plain_network_whatever_the_route() -> None:
    """Θ = 0 through deltas, against b + W x with no delta anywhere: golden's x^ is x itself."""
    case = SHAPES["units no multiple of the block"]
    program = case.program()
    raw = stimulus(program.input_format, 2, 5, 3, seed=1)
    trace = golden.run(program, raw, thresholds=(0, 0, 0))
    assert (trace.streams[0].held == raw[:, -1]).all()
    assert (trace.streams[1].held == trace.layers[0][:, -1]).all()
    assert simulate(program, case.hardware, raw, simulator="amaranth", thresholds=(0, 0, 0)).passed
    assert np.count_nonzero(trace.streams[1].sent) < trace.streams[1].sent.size
