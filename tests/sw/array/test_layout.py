"""Placement checked against its definition, block by block and column by column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sw.shapes import stacks

from sparsegate.array import INPUT, MAX_PLANES, HardwareConfig, Layout, weight_shape
from sparsegate.errors import SparseGateError
from sparsegate.fpga.memory import BLOCK_SHAPES, contents_blocks
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize


def program(inputs: int, *shapes: Shape, seed: int = 0) -> Program:
    x = np.random.default_rng(seed).normal(size=(2, 4, inputs))
    return quantize(network(inputs, shapes, seed), x)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shapes = draw(stacks())
    clusters = draw(st.sampled_from([1, 2, 3, 4, 6]))
    lanes = draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if clusters % n == 0]))
    cluster = draw(st.sampled_from([4, 5, 8]))
    config = HardwareConfig(cluster * clusters, draw(st.integers(1, 4)), lanes, cluster)
    return Layout(program(draw(st.integers(1, 12)), *shapes, seed=draw(st.integers(0, 99))), config)


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_every_unit_has_exactly_one_place(layout: Layout) -> None:
    for number, phase in enumerate(layout.phases):
        units = layout.units(number)
        assert units.shape == (layout.lanes, phase.positions)
        assert sorted(units[units >= 0].tolist()) == list(range(phase.phase.units))
        assert 0 <= layout.idle_share(number) < 1
        for lane, position in np.argwhere(units >= 0):
            assert layout.unit(number, lane, position) == units[lane, position]


@settings(max_examples=30, deadline=None)
@given(layouts())
def test_partial_sums_fit_their_width(layout: Layout) -> None:
    """By definition: the sum, over a group's columns, of a weight's magnitude times the largest input's."""
    most = 0
    for phase in layout.phases:
        for group in range(layout.groups):
            totals = np.zeros(len(phase.phase.spec.sums) * phase.phase.units, np.int64)
            for matrix in phase.matrices:
                rows = np.abs(phase.phase._rows(matrix.term)[:, matrix.group == group]).sum(axis=1)
                totals += rows * (1 << (matrix.term.form.width - 1 + matrix.term.shift))
            most = max(most, int(totals.max()))
    width = layout.partial_width
    assert most < 1 << (width - 1)
    assert layout.acc_width - (layout.groups - 1).bit_length() <= width <= layout.acc_width
    assert width == layout.acc_width or layout.groups > 1
    need = 1 + most.bit_length()
    assert Layout(layout.program, replace(layout.config, partial_bits=need)).partial_width == need
    with pytest.raises(SparseGateError, match=f"partial sums need {need} bits"):
        _ = Layout(layout.program, replace(layout.config, partial_bits=max(1, need - 1))).partial_width


def test_bounds_count_what_is_summed_apart_for_itself() -> None:
    """A GRU's candidate gate alone, whose two products go to accumulators of their own: the larger one bounds both."""
    shapes = [Shape("gru", 10, NM(1, 4), NM(1, 4))]
    (phase,) = program(3, *shapes, seed=1).phases
    (gate,) = phase.apart
    terms = []
    for term in phase.terms:
        weight = np.zeros_like(term.matrix.weight)
        weight[gate :: phase.gates] = term.matrix.weight[gate :: phase.gates]
        terms.append(replace(term, matrix=replace(term.matrix, weight=weight)))
    alone = replace(phase, terms=tuple(terms))
    parts = [np.arange(term.matrix.columns) % 2 for term in terms]
    each = [
        [
            int(np.abs(alone.dense(term)[:, part == number]).sum(axis=1).max()) * (-term.form.min << term.shift)
            for term, part in zip(terms, parts, strict=True)
        ]
        for number in (0, 1)
    ]
    assert all(first and second for first, second in each)
    assert alone.bounds_of(parts, 2) == [max(both) for both in each]
    # and again, for other parts
    assert alone.bounds_of([1 - part for part in parts], 2) == [max(both) for both in each[::-1]]


@settings(max_examples=30, deadline=None)
@given(layouts())
def test_a_place_depends_on_units_and_block_alone(layout: Layout) -> None:
    """So phases of one layer, with different gates, find each other's states; and so do layers of equal size."""
    seen: dict[tuple[int, int], np.ndarray] = {}
    for number, phase in enumerate(layout.phases):
        units = layout.units(number)
        key = (phase.phase.units, phase.phase.block)
        assert (seen.setdefault(key, units) == units).all()
        # unit block u is in cluster u mod clusters; a lane meets its unit blocks, then the index in them, then its clusters
        for lane, position in np.argwhere(units >= 0):
            unit_block, index = divmod(int(units[lane, position]), phase.phase.block)
            of_cluster, cluster = divmod(unit_block, layout.clusters)
            assert cluster // layout.lane_clusters == lane
            assert (
                position
                == (of_cluster * phase.phase.block + index) * layout.lane_clusters + cluster % layout.lane_clusters
            )


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_weight_memories_hold_the_matrices(layout: Layout) -> None:
    """Walk the memories as the hardware does, and rebuild every matrix from what a read-out would find."""
    index, weight = layout.weights()
    assert index.min() >= 0
    assert index.max() < max(1 << layout.index_width, 1)
    used = np.zeros((layout.groups, layout.weight_depth), int)
    for number, phase in enumerate(layout.phases):
        of = phase.phase
        units = layout.units(number)
        for matrix in phase.matrices:
            entries, columns = matrix.term.matrix.entries, matrix.term.matrix.columns
            dense = np.zeros((of.gates, of.units, columns), np.int64)
            for column in range(columns):
                group = matrix.group[column]
                base = matrix.bases[group][matrix.bank[column]] + matrix.place[column] * matrix.burst
                used[group, base : base + matrix.burst] += 1
                # accumulators after this column alone, with a delta of 1
                acc = np.zeros((layout.rows, phase.slots * of.block), np.int64)
                for beat in range(matrix.burst):
                    at = beat // entries * of.block + index[:, group, base + beat]
                    acc[np.arange(layout.rows), at] += weight[:, group, base + beat]
                for lane, position in np.argwhere(units >= 0):
                    rest, turn = divmod(int(position), layout.lane_clusters)
                    of_cluster, in_block = divmod(rest, of.block)
                    slot, sub = divmod(of_cluster, phase.packed)
                    first = (lane * layout.lane_clusters + turn) * layout.cluster + sub * of.gates
                    dense[:, units[lane, position], column] = acc[first : first + of.gates, slot * of.block + in_block]
            assert (dense.reshape(-1, columns) == of.dense(matrix.term)).all()
    assert used.max() <= 1, "two columns share a weight memory word"


@settings(max_examples=40, deadline=None)
@given(layouts(), st.sampled_from([None, 2, 4, 8]))
def test_a_word_holds_the_entries_of_its_planes(layout: Layout, words: int | None) -> None:
    if words is not None and words < layout.weight_depth:
        vars(layout)["weight_words"] = words
    index, weight = layout.weights()
    packed = layout.pack(index, weight)
    assert packed.shape == (layout.rows, layout.groups, layout.weight_words)
    width = layout.entry_width
    for entry in range(layout.weight_depth):
        plane, word = divmod(entry, layout.weight_words)
        found = (packed[..., word] >> plane * width) & ((1 << width) - 1)
        assert (found & ((1 << layout.index_width) - 1) == index[..., entry]).all()
        signed = (found >> layout.index_width) - ((found >> (width - 1)) << layout.weight_width)
        assert (signed == weight[..., entry]).all()
    assert max(packed.reshape(-1).tolist()) < 1 << layout.weight_planes * width


@pytest.mark.parametrize(
    ("width", "depth", "words", "planes", "blocks"),
    [
        (12, 3064, 1024, 3, 2),  # LSTM of 1024 units at 1:16 on 32 x 3
        (11, 192, 192, 1, 1),
        (11, 90, 90, 1, 0),
        (12, 1025, 512, 3, 1),
        (9, 2048, 2048, 1, 1),
        (18, 1024, 1024, 1, 1),
        (12, 4096, 4096, 1, 3),
        (13, 11970, 2048, 6, 9),
        (9, 40000, 8192, 5, 23),
        (9, 400000, 16384, 25, 225),
    ],
)
def test_weights_take_the_fewest_block_rams(width: int, depth: int, words: int, planes: int, blocks: int) -> None:
    assert weight_shape(width, depth) == (words, planes)
    assert contents_blocks(planes * width, words) == blocks
    for words, _ in BLOCK_SHAPES:
        if -(-depth // words) <= MAX_PLANES and contents_blocks(-(-depth // words) * width, words):
            assert blocks <= contents_blocks(-(-depth // words) * width, words)


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_no_accumulator_is_hit_sooner_than_the_loop_distance(layout: Layout) -> None:
    """Every column after every other of its phase, as a dispatcher may issue them."""
    index, _ = layout.weights()
    rng = np.random.default_rng(0)
    for phase in layout.phases:
        rows = np.unique(layout._blocks(phase)[0])
        columns = [(m, int(c)) for m in phase.matrices for c in rng.permutation(m.term.matrix.columns)[:6]]
        for group in range(layout.groups):
            mine = [(m, c) for m, c in columns if m.group[c] == group]
            slot, entry = [], []
            for number in rng.permutation(len(mine)):
                m, c = mine[number]
                first = m.bases[group][m.bank[c]] + m.place[c] * m.burst
                entry += range(first, first + m.burst)
                slot += np.repeat(np.arange(phase.slots), m.term.matrix.entries).tolist()
            at = (
                np.array(slot)[None, :] * phase.phase.block + index[rows, group][:, entry] if slot else np.zeros((1, 0))
            )
            for distance in range(1, layout.loop_distance):
                same = at[:, distance:] == at[:, :-distance]
                # a row without a block in a slot adds only zeros there, to an accumulator of no unit
                blocks, slots = layout._blocks(phase)
                real = np.isin(rows[:, None] * phase.slots + np.array(slot, int)[None, :], blocks * phase.slots + slots)
                assert not (same & real[:, distance:]).any()


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_columns_are_dealt_evenly(layout: Layout) -> None:
    for number, phase in enumerate(layout.phases):
        for matrix in phase.matrices:
            size = matrix.term.matrix.columns
            places = [*zip(matrix.bank.tolist(), matrix.group.tolist(), matrix.place.tolist(), strict=True)]
            assert len(places) == len(set(places)) == size
            if matrix.source == INPUT:
                assert places == [(0, column % layout.groups, column // layout.groups) for column in range(size)]
                assert max(place for _, group, place in places if group == 0) < layout.input_depth(0)
                continue
            assert layout.consumed[matrix.source]
            assert matrix.now == (matrix.source < number)
            units = layout.units(matrix.source)
            for column, (bank, group, place) in enumerate(places):
                (position,) = np.flatnonzero(units[bank] == column)
                assert (group, place) == ((position + bank) % layout.groups, position // layout.groups)
                assert place < layout.bank_depth(matrix.source, group, bank)
    sources = {matrix.source for phase in layout.phases for matrix in phase.matrices}
    for number in range(len(layout.phases)):
        if number not in sources:
            assert layout.bank_depth(number, 0, 0) == 0


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_biases_and_parameters_are_where_units_are(layout: Layout) -> None:
    bias, real = layout.biases()
    constants = layout.constants()
    assert constants.shape == (layout.lanes, layout.position_depth, layout.parameters[0])
    assert real.sum() == sum(phase.phase.units for phase in layout.phases)
    taken: set[int] = set()
    for number, phase in enumerate(layout.phases):
        mine = set(range(phase.position_base, phase.position_base + phase.positions))
        assert not mine & taken
        taken |= mine
        of = phase.phase
        for lane, position in np.argwhere(layout.units(number) >= 0):
            unit, at = layout.unit(number, lane, position), (lane, phase.position_base + position)
            assert bias[at][: len(of.spec.sums)].tolist() == of.bias[:, unit].tolist()
            if of.number == 0:
                names = of.layer.cell.parameters
                assert constants[at][: len(names)].tolist() == [of.layer.parameters[name][unit] for name in names]
    assert taken == set(range(layout.position_depth))


@settings(max_examples=40, deadline=None)
@given(layouts(), st.integers(0, 99))
def test_packing_a_state_and_unpacking_it_are_inverse(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state: dict[str, dict[str, np.ndarray]] = {}
    for layer in layout.program.layers:
        for key, size in layer.carried.items():
            form = layer.formats[key]
            state.setdefault(layer.name, {})[key] = rng.integers(form.min, form.max + 1, size)
            assert form.width <= layout.state_width
    found: dict[str, dict[str, np.ndarray]] = {}
    for run in range(len(layout.passes)):
        words = layout.pack_state(run, state)
        holders = [layout.phases[number] for number in layout.passes[run].phases]
        assert len(words) == sum(phase.positions * layout.lanes * len(phase.loads) for phase in holders)
        for name, parts in layout.unpack_state(run, words).items():
            found.setdefault(name, {}).update(parts)
    assert {name: sorted(parts) for name, parts in found.items()} == {n: sorted(p) for n, p in state.items()}
    for name, parts in state.items():
        for key, values in parts.items():
            assert found[name][key].tolist() == values.tolist()


def test_a_state_frame_goes_position_by_position_lane_by_lane() -> None:
    layout = Layout(
        program(2, Shape("lstm", 5)), HardwareConfig(8, lanes=2)
    )  # blocks of one unit: unit u in lane u mod 2
    state = {"lstm0": {"h": np.arange(1, 6), "c": np.arange(11, 16)}}
    assert layout.pack_state(0, state) == [1, 11, 2, 12, 3, 13, 4, 14, 5, 15, 0, 0]


@pytest.mark.parametrize(
    ("shape", "loads"),
    [
        (Shape("lstm", 4), [("h", "c")]),
        (Shape("lstm", 4, outputs=2), [("c",), ("h",)]),
        (Shape("gru", 4), [("h", "s")]),
        (Shape("gru_reset_before", 4), [("s",), ("h",)]),
        (Shape("rnn_relu", 4), [("h",)]),
        (Shape("linear", 4), [()]),
    ],
)
def test_which_phase_holds_which_state(shape: Shape, loads: list[tuple[str, ...]]) -> None:
    layout = Layout(program(3, shape), HardwareConfig(8, cluster=4))
    assert [phase.loads for phase in layout.phases] == loads


def test_block_b_is_in_row_b_mod_rows_and_slot_b_div_rows() -> None:
    """Where the gates fill the cluster."""
    layout = Layout(program(3, Shape("lstm", 40, NM(1, 4), NM(1, 4))), HardwareConfig(16))
    rows, slots = layout._blocks(layout.phases[0])
    blocks = np.arange(layout.phases[0].phase.blocks)
    assert (rows == blocks % 16).all()
    assert (slots == blocks // 16).all()


def test_unit_blocks_share_a_slot_where_gates_do_not_fill_the_cluster() -> None:
    layout = Layout(program(3, Shape("rnn_tanh", 40, NM(1, 4), NM(1, 4))), HardwareConfig(8, cluster=4))
    phase = layout.phases[0]
    # ten unit blocks on two clusters: five each, four of them in a slot
    assert (phase.packed, phase.unit_blocks, phase.slots, phase.positions) == (4, 5, 2, 20)
    rows, slots = layout._blocks(phase)
    assert rows.tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 0, 4]
    assert slots.tolist() == [0] * 8 + [1, 1]


def test_sums_apart_need_a_second_accumulator_in_their_own_rows_only() -> None:
    both = program(3, Shape("gru", 6), Shape("lstm", 6))
    assert Layout(both, HardwareConfig(8)).apart_rows == (2,)
    assert Layout(both, HardwareConfig(8, cluster=8)).apart_rows == (2, 5)
    assert Layout(both, HardwareConfig(8)).sums == 4
    assert Layout(program(3, Shape("gru_reset_before", 6), Shape("lstm", 6)), HardwareConfig(8)).apart_rows == ()


def test_passes_share_accumulators_but_not_states() -> None:
    layout = Layout(program(3, Shape("lstm", 6, both=True), Shape("linear", 2)), HardwareConfig(4))
    forward, backward, head = layout.phases
    assert [run.phases for run in layout.passes] == [range(1), range(1, 2), range(2, 3)]
    assert [run.inputs for run in layout.passes] == [3, 3, 12]
    assert forward.acc_base == backward.acc_base == head.acc_base == 0
    assert forward.position_base < backward.position_base < head.position_base
    assert layout.acc_depth == 6
    # phases of one pass do not share them
    stacked = Layout(program(3, Shape("lstm", 6), Shape("linear", 2)), HardwareConfig(4))
    assert [phase.acc_base for phase in stacked.phases] == [0, 8]


def test_the_deepest_banks_lie_in_block_ram() -> None:
    stack = program(3, Shape("lstm", 6), Shape("lstm", 20), Shape("lstm", 6))
    layout = Layout(stack, HardwareConfig(4))
    assert sorted(layout.acc_bank_depths, reverse=True) != list(layout.acc_bank_depths)
    assert layout.acc_in_blocks == (False,) * layout.acc_banks
    for count in range(layout.acc_banks + 2):
        chosen = Layout(stack, HardwareConfig(4, block_banks=count)).acc_in_blocks
        held = [depth for depth, block in zip(layout.acc_bank_depths, chosen, strict=True) if block]
        assert sorted(held) == sorted(layout.acc_bank_depths)[max(0, layout.acc_banks - count) :]


def test_accumulators_that_no_block_ram_holds_stay_out_of_them() -> None:
    large = program(3, Shape("lstm", 520), Shape("linear", 2))
    layout = Layout(large, HardwareConfig(4, banks=1, block_banks=1))
    with pytest.raises(
        SparseGateError, match=r"has 521 words of \d+ bits, a block RAM 512 of 36; expected block_banks 0"
    ):
        _ = layout.acc_in_blocks
    assert Layout(large, HardwareConfig(8, banks=1, block_banks=1)).acc_in_blocks == (True,)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (dict(rows=6), "6 PE rows do not divide into clusters of 4"),
        (dict(rows=8, cluster=2), "a cluster of 2 rows cannot hold 4 gates"),
        (dict(rows=8, lanes=3), "3 lanes do not divide 2 clusters evenly"),
        (dict(rows=8, multiplier=9), "is wider than the multiplier's 9 bits"),
        (dict(rows=0), "rows is 0, expected 1 or more"),
        (dict(block_banks=-1), "block_banks is -1, expected 0 or more"),
        (dict(groups=-1), "groups is -1, expected 1 or more"),
        (dict(outputs=0), "outputs is 0, expected 1 or more"),
        (dict(outputs=3), "outputs is 3, expected a power of two of at most 64 values a cycle"),
        (dict(outputs=128), "outputs is 128, expected a power of two of at most 64"),
        (dict(outputs=2), "outputs is 2, expected a divisor of the 1 values in the last layer's blocks"),
    ],
)
def test_refuses_what_does_not_fit(config: dict[str, int], sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        Layout(program(3, Shape("lstm", 8)), HardwareConfig(**config))


@pytest.mark.parametrize(
    ("shape", "config", "sentence"),
    [
        (Shape("lstm", 8, NM(1, 4), NM(1, 4)), dict(outputs=8), "a divisor of the 4 values in the last layer's blocks"),
        (
            Shape("lstm", 10, NM(1, 4), NM(1, 4)),
            dict(outputs=4),
            "a divisor of the 10 values in the last layer's frames",
        ),
        (
            Shape("lstm", 16, NM(1, 4), NM(1, 4)),
            dict(lanes=1, outputs=4),
            "outputs is 4, expected 1 where lanes take turns: 1 lanes serve 2 clusters",
        ),
        (Shape("lstm", 8, NM(1, 4), NM(1, 4), both=True), dict(outputs=2), "expected 1: the Program looks both ways"),
    ],
)
def test_beats_of_outputs_lie_in_one_block(shape: Shape, config: dict[str, int], sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        Layout(program(3, shape), HardwareConfig(8, **config))


def test_quantization_keeps_shifted_deltas_within_the_multiplier() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3)) * 1e-3
    floats = network(3, [Shape("lstm", 4)], 0)
    wide = quantize(floats, x, config=QuantizeConfig(activation_bits=16, weight_bits=16))
    assert Layout(wide, HardwareConfig(4)).operand_width <= 18
    careless = quantize(floats, x, config=QuantizeConfig(activation_bits=16, weight_bits=16, operand_bits=40))
    assert max(term.shift for term in careless.phases[0].terms) > 1
    with pytest.raises(SparseGateError, match=r"wider than the multiplier's 18 bits"):
        Layout(careless, HardwareConfig(4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 100000}, "100000 rows x 1 groups are 100000 processing elements, expected at most 4096"),
        ({"rows": 64, "groups": 65}, "64 rows x 65 groups are 4160 processing elements"),
        ({"groups": 0}, "groups is 0, expected 1 or more"),
        ({"multiplier": 65}, "multiplier is 65 bits, expected at most 64"),
    ],
)
def test_arrays_beyond_reason_are_refused(fields, message):
    with pytest.raises(SparseGateError, match=message):
        HardwareConfig(**fields)
    assert HardwareConfig(rows=64, groups=64).pes == 4096


def test_weights_that_are_loaded_take_a_word_an_entry() -> None:
    shapes = (Shape("lstm", 128, NM(1, 8), NM(1, 8)), Shape("linear", 4))
    plain, loaded = (Layout(program(12, *shapes), HardwareConfig(4, loaded=loaded)) for loaded in (False, True))
    assert (loaded.weight_words, loaded.weight_planes) == (loaded.weight_depth, 1)
    assert plain.weight_planes > 1
    assert loaded.pack(*loaded.weights()).shape == (4, 1, loaded.weight_depth)
    wide = quantize(
        network(5, [Shape("lstm", 12, NM(1, 3))], 0), np.ones((1, 2, 5)), config=QuantizeConfig(weight_bits=15)
    )
    with pytest.raises(SparseGateError, match=r"words of 16 bits, found entries of 17: 2 of index and 15 of weight"):
        Layout(wide, HardwareConfig(4, multiplier=64, loaded=True))
    with pytest.raises(SparseGateError, match=r"at most 16384 entries a processing element, found 18\d\d\d; use more"):
        Layout(program(8, Shape("lstm", 132)), HardwareConfig(4, loaded=True))
