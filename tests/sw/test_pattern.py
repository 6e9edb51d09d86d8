"""N:M patterns: masks, blocks and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.pattern import DENSE, NM, blocked, check, common_block, mask, pair, unblocked, violations

shapes = st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 5))  # gates, units, columns
patterns = st.integers(1, 8).flatmap(lambda m: st.builds(NM, st.integers(1, m), st.just(m)))


def draw(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    gates, units, columns = shape
    return np.random.default_rng(seed).integers(-3, 4, (gates * units, columns)).astype(float)


@given(shapes, st.integers(1, 8), st.integers(0, 1000))
def test_blocked_round_trip(shape, block, seed):
    matrix = draw(shape, seed)
    cut = blocked(matrix, shape[0], block)
    assert cut.shape == (-(-shape[1] // block), shape[0], block, shape[2])
    assert (unblocked(cut, shape[1]) == matrix).all()


def test_blocked_places_units_by_gate():
    matrix = np.arange(6)[:, None]  # 2 gates of 3 units
    assert blocked(matrix, 2, 2)[..., 0].tolist() == [[[0, 1], [3, 4]], [[2, 0], [5, 0]]]


@given(shapes, patterns, st.integers(0, 1000))
def test_mask_keeps_the_largest_of_each_block(shape, pattern, seed):
    gates, units, columns = shape
    matrix = draw(shape, seed)
    keep = mask(matrix, gates, pattern)
    assert violations(np.where(keep, matrix, 0), gates, pattern) == 0
    for gate in range(gates):
        for start in range(0, units, pattern.m):
            rows = slice(gate * units + start, gate * units + min(start + pattern.m, units))
            for column in range(columns):
                values, kept = np.abs(matrix[rows, column]), keep[rows, column]
                if pattern.dense:
                    assert kept.all()
                    continue
                # of equal magnitudes the lower unit is kept
                order = sorted(range(len(values)), key=lambda row, values=values: (-values[row], row))
                assert sorted(np.flatnonzero(kept)) == sorted(order[: pattern.n])


@given(shapes, patterns, st.integers(0, 1000))
def test_violations_counts_block_columns(shape, pattern, seed):
    matrix = draw(shape, seed)
    counts = (blocked(matrix, shape[0], pattern.m) != 0).sum(axis=2)
    assert violations(matrix, shape[0], pattern) == (0 if pattern.dense else (counts > pattern.n).sum())


def test_check_names_the_matrix():
    check(np.eye(4), 1, NM(1, 4), "w")
    with pytest.raises(SparseGateError, match="w is not 1:4: 2 blocks hold more than 1 nonzeros"):
        check(np.ones((4, 2)), 1, NM(1, 4), "w")


def test_rows_must_divide_into_gates():
    with pytest.raises(SparseGateError, match="7 rows do not divide into 4 gates"):
        blocked(np.ones((7, 2)), 4, 2)


@pytest.mark.parametrize("text", ["1:1", "2:16", "8:8", "1:256"])
def test_text_round_trip(text):
    assert str(NM.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2-16", "written like"),
        ("a:b", "written like"),
        ("0:4", "1 <= N <= M"),
        ("5:4", "not 5:4"),
        ("", "written like"),
        ("1:99999999999", "have at most 1024 units"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(SparseGateError, match=message):
        NM.parse(text)


def test_dense():
    assert NM.parse("dense") == DENSE
    assert NM(4, 4).dense
    assert not NM(2, 4).dense


def test_density():
    assert NM.from_density(0.125, 16) == NM(2, 16)
    assert NM(2, 16).density == 0.125
    with pytest.raises(SparseGateError, match=r"a density of 0.1 cannot be expressed as N:16: N would be 1.6"):
        NM.from_density(0.1, 16)
    with pytest.raises(SparseGateError, match="cannot be expressed"):
        NM.from_density(0.01, 16)
    with pytest.raises(SparseGateError, match="cannot be expressed"):
        NM.from_density(1.5, 16)
    for density in (np.nan, np.inf):
        with pytest.raises(SparseGateError, match="cannot be expressed"):
            NM.from_density(density, 16)


def test_stored_in_a_larger_block():
    assert NM(2, 4).stored(16) == 8
    assert NM(1, 16).stored(16) == 1
    assert DENSE.stored(16) == 16
    assert NM(4, 4).stored(6) == 6
    with pytest.raises(SparseGateError, match="4 does not divide 6"):
        NM(2, 4).stored(6)


def test_common_block():
    assert common_block(NM(2, 4), NM(1, 16)) == 16
    assert common_block(NM(2, 6), NM(1, 4)) == 12
    assert common_block(DENSE, NM(1, 8)) == 8
    assert common_block(DENSE, NM(4, 4)) == 1
    assert common_block() == 1


def test_pair():
    assert pair("2:4") == (NM(2, 4), NM(2, 4))
    assert pair(("dense", NM(1, 8))) == (DENSE, NM(1, 8))
    with pytest.raises(SparseGateError, match="not 3 values"):
        pair(("1:2", "1:2", "1:2"))


def test_a_block_larger_than_the_layer_is_one_short_block():
    keep = mask(np.arange(1.0, 17)[:, None], 1, NM(1, 64))
    assert keep.sum() == 1
    assert violations(keep, 1, NM(1, 64)) == 0
    assert violations(np.ones((16, 1)), 1, NM(1, 64)) == 1
