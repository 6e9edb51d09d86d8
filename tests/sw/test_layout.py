"""Placement checked against its definition, block by block and column by column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.synthetic import Shape, network


def program(inputs: int, *shapes: Shape, seed: int = 0) -> Program:
    x = np.random.default_rng(seed).normal(size=(2, 4, inputs))
    return quantize(network(inputs, shapes, seed), x)


PATTERNS = [NM(1, 1), NM(1, 4), NM(2, 4), NM(1, 8), NM(3, 8)]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shapes = [
        Shape("lstm", draw(st.integers(1, 40)), draw(st.sampled_from(PATTERNS)), draw(st.sampled_from(PATTERNS)))
        for _ in range(draw(st.integers(1, 2)))
    ]
    if draw(st.booleans()):
        shapes.append(Shape("linear", draw(st.integers(1, 20)), when=draw(st.sampled_from(["step", "last"]))))
    clusters = draw(st.sampled_from([1, 2, 3, 4, 6]))
    lanes = draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if clusters % n == 0]))
    config = HardwareConfig(4 * clusters, draw(st.integers(1, 4)), lanes)
    return Layout(program(draw(st.integers(1, 20)), *shapes, seed=draw(st.integers(0, 99))), config)


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_every_unit_has_exactly_one_place(layout: Layout) -> None:
    for number, phase in enumerate(layout.phases):
        units = layout.units(number)
        assert units.shape == (layout.lanes, phase.positions)
        assert sorted(units[units >= 0].tolist()) == list(range(phase.layer.units))
        assert 0 <= layout.idle_share(number) < 1


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_weight_memories_hold_the_matrices(layout: Layout) -> None:
    """Walk the memories as the hardware does, and rebuild every matrix from what a read-out would find."""
    index, weight = layout.weights()
    assert index.min() >= 0
    assert index.max() < max(1 << layout.index_width, 1)
    used = np.zeros((layout.groups, layout.weight_depth), int)
    for number, phase in enumerate(layout.phases):
        layer = phase.layer
        for matrix in phase.matrices:
            dense = np.zeros((layer.gates, layer.units, matrix.matrix.columns), np.int64)
            for column, bank, group, place in zip(*layout.columns(matrix.vector), strict=True):
                base = matrix.bases[group][bank] + place * matrix.burst
                used[group, base : base + matrix.burst] += 1
                # accumulators after this column alone, with a delta of 1
                acc = np.zeros((layout.rows, phase.slots * layer.block), np.int64)
                for beat in range(matrix.burst):
                    slot = beat // matrix.matrix.entries * layer.block
                    for row in range(layout.rows):
                        acc[row, slot + index[row, group, base + beat]] += weight[row, group, base + beat]
                units = layout.units(number)
                for lane in range(layout.lanes):
                    for position in range(phase.positions):
                        unit = units[lane, position]
                        if unit < 0:
                            continue
                        sub = position % phase.packed
                        turn = position // phase.packed % layout.lane_clusters
                        first = (lane * layout.lane_clusters + turn) * layout.cluster + sub * layer.gates
                        dense[:, unit, column] = acc[first : first + layer.gates, position // phase.turns]
            expected = layer.w_x if matrix is phase.x else layer.w_h
            assert (dense.reshape(-1, matrix.matrix.columns) == expected).all()
    assert used.max() <= 1, "two columns share a weight memory word"


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_columns_are_dealt_evenly_and_biases_are_where_units_are(layout: Layout) -> None:
    for vector in range(len(layout.phases) + 1):
        column, bank, group, place = layout.columns(vector)
        size = layout.program.inputs if vector == 0 else layout.phases[vector - 1].layer.units
        assert sorted(column.tolist()) == list(range(size))
        assert len({*zip(bank.tolist(), group.tolist(), place.tolist(), strict=True)}) == size
        assert (layout.group_columns[vector][column] == group).all()
    bias, real = layout.biases()
    assert real.sum() == sum(phase.layer.units for phase in layout.phases)
    for number, phase in enumerate(layout.phases):
        for unit in range(phase.layer.units):
            lane, position = np.argwhere(layout.units(number) == unit)[0]
            assert layout.unit(number, lane, position) == unit
            at = bias[lane, phase.position_base + position]
            assert (at[: phase.layer.gates] == phase.layer.bias[:, unit]).all()


def test_block_b_is_in_row_b_mod_rows_and_slot_b_div_rows() -> None:
    layout = Layout(program(3, Shape("lstm", 40, NM(1, 4), NM(1, 4))), HardwareConfig(16))
    rows, slots, blocks = layout._blocks(layout.phases[0])
    assert (rows == blocks % 16).all()
    assert (slots == blocks // 16).all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (dict(rows=6), "6 PE rows do not divide into clusters of 4"),
        (dict(rows=8, cluster=2), "a cluster of 2 rows cannot hold 4 gates"),
        (dict(rows=8, lanes=3), "3 lanes do not divide 2 clusters evenly"),
        (dict(rows=8, multiplier=9), "is wider than the multiplier's 9 bits"),
        (dict(rows=0), "rows is 0, expected 1 or more"),
        (dict(groups=-1), "groups is -1, expected 1 or more"),
    ],
)
def test_refuses_what_does_not_fit(config: dict[str, int], sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        Layout(program(3, Shape("lstm", 8)), HardwareConfig(**config))


def test_quantization_keeps_shifted_deltas_within_the_multiplier() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3)) * 1e-3
    floats = network(3, [Shape("lstm", 4)], 0)
    wide = quantize(floats, x, config=QuantizeConfig(activation_bits=16, weight_bits=16))
    assert Layout(wide, HardwareConfig(4)).operand_width <= 18
    careless = quantize(floats, x, config=QuantizeConfig(activation_bits=16, weight_bits=16, operand_bits=40))
    assert max(careless.layers[0].shift_x, careless.layers[0].shift_h) > 1
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
