"""Sparsity patterns: masks that hold exactly, blocks, what is stored and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.pattern import (
    DENSE,
    NM,
    BankBalanced,
    Block,
    ColumnBalanced,
    LoadBalanced,
    Pattern,
    Unstructured,
    blocked,
    both,
    common_block,
    pair,
    parse,
    unblocked,
)

shapes = st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 9))  # gates, units, columns
seeds = st.integers(0, 1000)
shares = st.fractions(0, 1, max_denominator=20).filter(bool)
sizes = st.integers(1, 8)
nm = sizes.flatmap(lambda m: st.builds(NM, st.integers(1, m), st.just(m)))
FAMILIES = {
    "nm": nm,
    "bbs": sizes.flatmap(lambda m: st.builds(BankBalanced, st.integers(1, m), st.just(m))),
    "unstructured": st.builds(Unstructured, shares),
    "ese": st.builds(LoadBalanced, shares, sizes),
    "block": st.builds(Block, shares, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["norm", "max"])),
    "cbtd": st.builds(ColumnBalanced, shares, sizes),
}
patterns = st.one_of(*FAMILIES.values())
EVERY = ["2:16", "unstructured:1/8", "bbs:2:16", "ese:1/8:16", "block:1/8:4x4", "cbtd:1/8:8"]


def draw(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Few values, so that many magnitudes are equal and many are zero."""
    gates, units, columns = shape
    return np.random.default_rng(seed).integers(-3, 4, (gates * units, columns)).astype(float)


def up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def cut(pattern: Pattern, matrix: np.ndarray, gates: int) -> list[tuple[np.ndarray, int]]:
    """The groups of a matrix, written down once more in the plainest way, each with the number that is kept."""
    rows, columns = matrix.shape
    units = rows // gates
    if isinstance(pattern, NM):
        return [
            (matrix[gate * units + start : gate * units + min(start + pattern.m, units), column], pattern.n)
            for gate in range(gates)
            for start in range(0, units, pattern.m)
            for column in range(columns)
        ]
    if isinstance(pattern, BankBalanced):
        return [(row[start : start + pattern.m], pattern.n) for row in matrix for start in range(0, columns, pattern.m)]
    if isinstance(pattern, LoadBalanced):
        groups = [matrix[element :: pattern.elements].ravel() for element in range(pattern.elements)]
    elif isinstance(pattern, ColumnBalanced):
        groups = [column[part :: pattern.subcolumns] for column in matrix.T for part in range(pattern.subcolumns)]
    elif isinstance(pattern, Block):

        def measured(block: np.ndarray) -> float:
            return abs(block).max() if pattern.measure == "max" else np.sqrt((block**2).sum())

        groups = [
            np.array(
                [
                    measured(matrix[gate * units : (gate + 1) * units][i : i + pattern.height, j : j + pattern.width])
                    for gate in range(gates)
                    for i in range(0, units, pattern.height)
                    for j in range(0, columns, pattern.width)
                ]
            )
        ]
    else:
        groups = [matrix.ravel()]
    assert isinstance(pattern, (Unstructured, LoadBalanced, ColumnBalanced, Block))
    return [(group, up(pattern.share * len(group))) for group in groups]


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), shape=shapes, seed=seeds)
def test_every_pattern_keeps_exactly_the_largest_of_each_group(family, data, shape, seed):
    matrix, gates, pattern = draw(shape, seed), shape[0], data.draw(FAMILIES[family])
    keep = pattern.mask(matrix, gates)
    assert keep.shape == matrix.shape
    assert keep.dtype == bool
    # ones where kept: norms of blocks are then positive where a block is kept
    for (values, count), (kept, _) in zip(
        cut(pattern, matrix, gates), cut(pattern, keep.astype(float), gates), strict=True
    ):
        if pattern.dense:
            assert kept.all()
            continue
        # of equal magnitudes the first is kept, and of zeros too
        order = sorted(range(len(values)), key=lambda place, values=values: (-abs(values[place]), place))
        assert np.flatnonzero(kept).tolist() == sorted(order[:count])
    assert pattern.violations(np.where(keep, matrix, 0), gates) == 0


@given(shapes, patterns, seeds)
def test_violations_count_the_groups_that_hold_too_many(shape, pattern, seed):
    matrix, gates = draw(shape, seed), shape[0]
    broken = sum(np.count_nonzero(values) > count for values, count in cut(pattern, matrix, gates))
    assert pattern.violations(matrix, gates) == (0 if pattern.dense else broken)


@given(shapes, patterns, seeds)
def test_one_weight_more_breaks_a_pattern(shape, pattern, seed):
    gates = shape[0]
    matrix = np.random.default_rng(seed).normal(size=(gates * shape[1], shape[2]))
    keep = pattern.mask(matrix, gates)
    for row, column in zip(*np.nonzero(~keep), strict=True):
        more = keep.copy()
        more[row, column] = True
        assert pattern.violations(np.where(more, matrix, 0), gates) == 1


@given(shapes, patterns, seeds, st.lists(st.fractions(0, 1, max_denominator=12), min_size=2, max_size=2))
def test_a_mask_grows_with_its_release_from_the_pattern_to_everything(shape, pattern, seed, releases):
    matrix, gates = draw(shape, seed), shape[0]
    less, more = (pattern.mask(matrix, gates, release) for release in sorted(releases))
    assert not (less & ~more).any()
    assert pattern.mask(matrix, gates, Fraction(1)).all()
    assert (pattern.mask(matrix, gates, Fraction(0)) == pattern.mask(matrix, gates)).all()


@given(shapes, patterns, seeds, st.fractions(0, 1, max_denominator=12))
def test_release_keeps_that_share_of_the_rest_of_each_group(shape, pattern, seed, release):
    matrix, gates = draw(shape, seed), shape[0]
    keep = pattern.mask(matrix, gates, release).astype(float)
    for values, count in cut(pattern, keep, gates):
        count = len(values) if pattern.dense else min(count, len(values))
        assert np.count_nonzero(values) == count + up(release * (len(values) - count))


@given(shapes, patterns, seeds)
def test_a_pruned_matrix_keeps_its_mask(shape, pattern, seed):
    matrix, gates = draw(shape, seed), shape[0]
    keep = pattern.mask(matrix, gates)
    assert (pattern.mask(np.where(keep, matrix, 0), gates) == keep).all()


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.float16, np.float32, np.float64, bool])
@pytest.mark.parametrize("text", EVERY)
def test_the_type_of_the_weights_does_not_matter(text, kind):
    matrix = np.random.default_rng(3).integers(-128, 128, (128, 32)).astype(kind)
    assert (parse(text).mask(matrix, 4) == parse(text).mask(matrix.astype(float), 4)).all()


@pytest.mark.parametrize("text", EVERY)
def test_patterns_of_one_density_keep_equally_many(text):
    matrix = np.random.default_rng(4).normal(size=(4 * 64, 96)).astype(np.float32)
    pattern = parse(text)
    assert pattern.density == 1 / 8
    assert not pattern.dense
    assert pattern.mask(matrix, 4).sum() == matrix.size // 8


@pytest.mark.parametrize("text", EVERY)
def test_nan_is_refused(text):
    matrix = np.ones((64, 16))
    matrix[3, 5] = np.nan
    with pytest.raises(SparseGateError, match="1 of the weights are NaN, which have no order"):
        parse(text).mask(matrix, 4)


def test_infinite_weights_are_kept():
    matrix = np.ones((8, 1))
    matrix[5] = -np.inf
    assert np.flatnonzero(NM(1, 8).mask(matrix, 1)).tolist() == [5]


def test_blocks_are_compared_by_their_norms():
    """Weights that cancel count, and so does one large weight against several small ones."""
    matrix = np.array([[3.0, -3.0, 2.0, 2.0], [-3.0, 3.0, 2.0, 2.0]])
    assert Block(Fraction(1, 2), 2, 2).mask(matrix, 1).tolist() == [[True, True, False, False]] * 2
    matrix = np.array([[4.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 2.0]])
    assert Block(Fraction(1, 2), 2, 2).mask(matrix, 1).tolist() == [[True, True, False, False]] * 2


def test_blocks_may_be_compared_by_their_largest_magnitudes():
    """One large weight then outweighs a block of more energy."""
    matrix = np.array([[-4.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0]])
    kept = {measure: Block(Fraction(1, 2), 2, 2, measure).mask(matrix, 1)[0].tolist() for measure in ("norm", "max")}
    assert kept == {"norm": [False, False, True, True], "max": [True, True, False, False]}
    with pytest.raises(SparseGateError, match="blocks are compared by norm or max, not 'mean'"):
        Block(Fraction(1, 2), 2, 2, "mean")


def test_blocks_do_not_cross_gates():
    """2 gates of 3 units in blocks of 2: those of 1 unit count as if a zero stood behind."""
    matrix = np.array([1, 1, 4, 3, 3, 1])[:, None]
    assert np.flatnonzero(Block(Fraction(1, 2), 2, 1).mask(matrix, 2)).tolist() == [2, 3, 4]


# text


@given(patterns)
def test_text_round_trip(pattern):
    assert parse(str(pattern)) == pattern
    assert parse(pattern) is pattern
    assert hash(parse(str(pattern))) == hash(pattern)


@pytest.mark.parametrize(
    "text", ["1:1", "2:16", "8:8", "1:256", *EVERY, "unstructured:1", "block:3/7:1x16", "block:1/8:4x4:max"]
)
def test_text_is_the_same_again(text):
    assert str(parse(text)) == text


def test_densities_may_be_decimal():
    assert (
        parse("unstructured:0.125") == parse("unstructured:1/8") == Unstructured(Fraction(1, 8)) == Unstructured(0.125)
    )
    assert Unstructured(0.1).share == Fraction(1, 10)
    assert LoadBalanced("2/16", 4).share == Fraction(1, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2-16", "a pattern is written like '2:16'"),
        ("a:b", "written like"),
        ("", "written like"),
        ("half", "not 'half'"),
        ("0:4", "1 <= N <= M"),
        ("5:4", "not 5:4"),
        ("1:999999999", "have at most 1024 units"),
        ("1:99999999999", "written like"),
        ("bbs:2", "written like"),
        ("bbs:5:4", "bbs:N:M needs 1 <= N <= M <= 1024, not 5:4"),
        ("bbs:1:2000", "not 1:2000"),
        ("unstructured", "written like"),
        ("unstructured:1/0", "a density is written like '1/8' or '0.125', not '1/0'"),
        ("unstructured:1e-3", "written like"),
        ("unstructured:1/8/2", "a density is written like"),
        ("unstructured:.5", "a density is written like"),
        ("unstructured:0", "a density is above 0 and at most 1, not 0"),
        ("unstructured:3/2", "at most 1, not 3/2"),
        ("ese:1/8:0", "the number of processing elements is 1 to 1024, not 0"),
        ("block:1/8:4", "written like"),
        ("block:1/8:4x4:norm", "written like"),
        ("block:1/8:0x4", "the height of a block is 1 to 1024, not 0"),
        ("block:1/8:4x5000", "the width of a block is 1 to 1024, not 5000"),
        ("cbtd:1/8:2000", "the number of sub-columns is 1 to 1024, not 2000"),
        ("cbtd:1/8:\u0664", "written like"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(SparseGateError, match=message):
        parse(text)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, np.nan, np.inf])
def test_densities_are_shares(share):
    with pytest.raises(SparseGateError, match="a density is above 0 and at most 1, not"):
        Unstructured(share)


def test_dense():
    assert NM.parse("dense") == parse("dense") == DENSE
    assert NM(4, 4).dense
    assert not NM(2, 4).dense
    assert Unstructured(Fraction(1)).dense
    assert Unstructured(Fraction(1)).mask(np.zeros((3, 3)), 1).all()


def test_density_of_nm():
    assert NM.from_density(0.125, 16) == NM(2, 16)
    assert NM(2, 16).density == 0.125
    with pytest.raises(SparseGateError, match=r"a density of 0.1 cannot be expressed as N:16: N would be 1.6"):
        NM.from_density(0.1, 16)
    for density in (0.01, 1.5, np.nan, np.inf):
        with pytest.raises(SparseGateError, match="cannot be expressed"):
            NM.from_density(density, 16)


def test_pair_is_of_the_hardware_and_both_of_any():
    assert pair("2:4") == (NM(2, 4), NM(2, 4))
    assert pair(("dense", NM(1, 8))) == (DENSE, NM(1, 8))
    assert both(("dense", "bbs:1:4")) == (DENSE, BankBalanced(1, 4))
    assert both(NM(1, 4)) == (NM(1, 4), NM(1, 4))
    with pytest.raises(SparseGateError, match="not 3 values"):
        pair(("1:2", "1:2", "1:2"))
    with pytest.raises(SparseGateError, match="not 3 values"):
        both(("1:2", "1:2", "1:2"))
    with pytest.raises(SparseGateError, match="an N:M pattern is written like '2:16' or 'dense', not 'bbs:1:4'"):
        pair("bbs:1:4")
    with pytest.raises(SparseGateError, match="a matrix of the hardware is N:M or dense, not bbs:1:4"):
        pair(BankBalanced(1, 4))


# matrices that break a pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:4", "w is not 1:4: 2 blocks hold more than 1 nonzeros in a column"),
        ("bbs:1:2", "w is not bbs:1:2: 4 banks hold more than 1 nonzeros"),
        ("unstructured:1/8", "w is not unstructured:1/8: more than 1/8 of its weights are nonzero"),
        ("ese:1/8:2", "w is not ese:1/8:2: the rows of 2 processing elements hold more than 1/8 nonzeros"),
        ("block:1/8:2x1", "w is not block:1/8:2x1: more than 1/8 of its blocks hold nonzeros"),
        ("cbtd:1/8:2", "w is not cbtd:1/8:2: 4 sub-columns hold more than 1/8 nonzeros"),
    ],
)
def test_check_names_the_matrix(text, message):
    parse(text).check(np.zeros((4, 2)), 1, "w")
    with pytest.raises(SparseGateError, match=f"^{message}$"):
        parse(text).check(np.ones((4, 2)), 1, "w")


@pytest.mark.parametrize("text", EVERY)
def test_shapes_that_are_none_are_refused(text):
    pattern = parse(text)
    for ask in (pattern.mask, pattern.violations):
        with pytest.raises(SparseGateError, match="7 rows do not divide into 4 gates"):
            ask(np.ones((7, 2)), 4)
        with pytest.raises(SparseGateError, match=r"a pattern is of a matrix, not of an array of shape \(7,\)"):
            ask(np.ones(7), 1)
    with pytest.raises(SparseGateError, match=r"released by a share in 0..1, not 3/2"):
        pattern.mask(np.ones((8, 2)), 4, Fraction(3, 2))


# storage


def test_storage_of_nm():
    """7 units in blocks of 4: the second block of each gate has 3 units, and takes as much."""
    stored = NM(2, 4).storage(np.zeros((14, 3)), 2, 8)
    assert (stored.entries, stored.weights, stored.indices, stored.pointers) == (24, 24 * 8, 24 * 2, 0)
    assert stored.bits == 24 * 10
    assert NM(1, 16).storage(np.zeros((64, 3)), 4, 8).bits == 4 * 3 * (8 + 4)
    assert NM(1, 12).storage(np.zeros((48, 3)), 4, 8).indices == 4 * 3 * 4


@pytest.mark.parametrize("text", ["dense", "4:4", "unstructured:1", "bbs:2:2", "ese:1:2", "block:1:2x2", "cbtd:1:2"])
def test_dense_storage_has_no_indices(text):
    stored = parse(text).storage(np.ones((8, 3)), 4, 8)
    assert (stored.entries, stored.bits, stored.indices) == (24, 24 * 8, 0)


def test_storage_of_banks_and_subcolumns():
    matrix = np.zeros((8, 20))
    banks = BankBalanced(2, 16).storage(matrix, 4, 8)  # a bank of 16 and one of 4 a row
    assert (banks.entries, banks.indices, banks.pointers) == (8 * 2 * 2, 8 * 2 * 2 * 4, 0)
    columns = ColumnBalanced(Fraction(1, 4), 3).storage(matrix, 4, 8)  # sub-columns of 3, 3 and 2 rows keep 1
    assert (columns.entries, columns.indices, columns.pointers) == (20 * 3, 20 * 3 * 2, 0)


def test_storage_of_blocks():
    stored = Block(Fraction(1, 4), 2, 4).storage(
        np.zeros((12, 10)), 4, 8
    )  # 4 gates of 2 blocks, 3 a row: 24, of which 6
    assert (stored.entries, stored.indices) == (6 * 8, 6 * 5)


def test_relative_indices_need_zeros_between():
    """An index of b bits bridges 2**b - 1 zeros; a stored zero is the next place."""
    matrix = np.zeros((1, 200))
    for before, fillers in [(0, 0), (31, 0), (32, 1), (63, 1), (64, 2)]:
        matrix[:] = 0
        matrix[0, before] = 1
        stored = Unstructured(Fraction(1, 8)).storage(matrix, 1, 8)
        assert (stored.entries, stored.weights, stored.indices) == (1 + fillers, (1 + fillers) * 8, (1 + fillers) * 5)
        matrix[0, before + 33] = 1  # 32 zeros between the two
        assert Unstructured(Fraction(1, 8)).storage(matrix, 1, 8).entries == 3 + fillers
    assert Unstructured(Fraction(1, 8)).storage(np.zeros((4, 4)), 1, 8).entries == 0


def test_relative_indices_of_ese_begin_anew_in_every_column_of_an_element():
    matrix = np.zeros((40, 2))
    matrix[0, 0] = 1  # element 0, its row 0
    matrix[38, 0] = 1  # element 0, its row 19: 18 zeros between, one of them stored
    matrix[31, 1] = 1  # element 1, its row 15
    matrix[32, 1] = 1  # element 0, its row 16: 16 zeros before, one stored
    stored = LoadBalanced(Fraction(1, 8), 2).storage(matrix, 1, 12)
    assert stored.entries == 4 + 2
    assert (stored.weights, stored.indices, stored.pointers) == (6 * 12, 6 * 4, 2 * 3 * 16)
    assert stored.bits == 6 * 16 + 96


@given(shapes, shares, sizes, seeds)
def test_relative_indices_one_by_one(shape, share, elements, seed):
    """Entries as an encoder writes them, one after the other."""
    pattern = LoadBalanced(share, elements)
    matrix = np.where(pattern.mask(draw(shape, seed), shape[0]), 1.0, 0.0)
    entries = 0
    for element in range(elements):
        for column in matrix[element::elements].T:
            last = -1
            for place in np.flatnonzero(column):
                while place - last > 16:  # a stored zero, 15 zeros behind the last entry
                    last += 16
                    entries += 1
                last = place
                entries += 1
    if not pattern.dense:
        assert pattern.storage(matrix, shape[0], 8).entries == entries


def test_a_matrix_that_breaks_its_pattern_is_not_stored():
    with pytest.raises(SparseGateError, match="the matrix to store is not bbs:1:2"):
        BankBalanced(1, 2).storage(np.ones((2, 2)), 1, 8)


# blocks of the hardware


@given(shapes, st.integers(1, 8), seeds)
def test_blocked_round_trip(shape, block, seed):
    matrix = draw(shape, seed)
    parts = blocked(matrix, shape[0], block)
    assert parts.shape == (-(-shape[1] // block), shape[0], block, shape[2])
    assert (unblocked(parts, shape[1]) == matrix).all()


def test_blocked_places_units_by_gate():
    matrix = np.arange(6)[:, None]  # 2 gates of 3 units
    assert blocked(matrix, 2, 2)[..., 0].tolist() == [[[0, 1], [3, 4]], [[2, 0], [5, 0]]]


def test_rows_must_divide_into_gates():
    with pytest.raises(SparseGateError, match="7 rows do not divide into 4 gates"):
        blocked(np.ones((7, 2)), 4, 2)


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


def test_a_block_larger_than_the_layer_is_one_short_block():
    keep = NM(1, 64).mask(np.arange(1.0, 17)[:, None], 1)
    assert keep.sum() == 1
    assert NM(1, 64).violations(keep, 1) == 0
    assert NM(1, 64).violations(np.ones((16, 1)), 1) == 1
