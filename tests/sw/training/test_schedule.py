"""Schedules of pruning: when masks change, how far they are released, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.pattern import NM
from sparsegate.training.schedule import Annealed, Cubic, OneShot

ramps = st.sampled_from([Cubic, Annealed]).flatmap(
    lambda kind: st.builds(
        lambda begin, span, every: kind(begin, begin + span, every),
        st.integers(0, 20),
        st.integers(0, 30),
        st.integers(1, 7),
    )
)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 20), st.integers(0, 30))
def test_cubic_follows_zhu_and_gupta(n, m, begin, span):
    """Equation 1 with s_i = 0, rounded towards more weights, so that a block of M goes from M down to exactly N."""
    n, m = sorted((n, m))
    schedule = Cubic(begin, begin + span)
    matrix = np.arange(float(m))[:, None]
    kept = [int(NM(n, m).mask(matrix, 1, schedule.release(step)).sum()) for step in range(begin + span + 3)]
    if n == m:
        return
    assert kept == sorted(kept, reverse=True)
    assert kept[begin + span :] == [n] * 3
    assert all(value == m for value in kept[:begin])
    final = 1 - n / m
    for step in range(begin, begin + span):
        sparsity = final + (0 - final) * (1 - (step - begin) / span) ** 3
        assert m * (1 - sparsity) - 1e-9 <= kept[step] < m * (1 - sparsity) + 1


def test_cubic_is_exact():
    assert Cubic(2, 5).release(3) == Fraction(8, 27)
    assert {Cubic(2, 5).probability(step) for step in range(8)} == {1.0}


def test_annealed_drops_ever_more_surely():
    schedule = Annealed(begin=2, end=6)
    assert [schedule.probability(step) for step in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert {schedule.release(step) for step in range(9)} == {Fraction(0)}


def test_one_shot():
    schedule = OneShot(at=3)
    assert [schedule.due(step) for step in range(5)] == [False, False, False, True, False]
    assert [schedule.release(step) for step in range(5)] == [1, 1, 1, 0, 0]
    assert schedule.end == 3
    assert schedule.probability(0) == 1.0
    assert OneShot().end == 0
    schedule = OneShot(1, until=3)
    assert [schedule.due(step) for step in range(5)] == [False, True, True, True, False]
    assert schedule.end == 3


@given(ramps)
def test_ramps_update_in_their_stride_and_at_their_end(schedule):
    due = [step for step in range(schedule.end + 10) if schedule.due(step)]
    assert due == sorted({*range(schedule.begin, schedule.end + 1, schedule.every), schedule.end})
    assert schedule.release(schedule.end) == 0
    assert schedule.probability(schedule.end) == 1
    if schedule.begin:
        assert schedule.release(schedule.begin - 1) == 1 or schedule.probability(schedule.begin - 1) == 0


@pytest.mark.parametrize("kind", [Cubic, Annealed])
def test_refusals(kind):
    with pytest.raises(SparseGateError, match="needs 0 <= begin <= end, not 5 and 2"):
        kind(5, 2)
    with pytest.raises(SparseGateError, match="needs 0 <= begin <= end, not -1 and 2"):
        kind(-1, 2)
    with pytest.raises(SparseGateError, match="updates every 1 or more steps, not every 0"):
        kind(0, 2, every=0)
    with pytest.raises(SparseGateError, match="prunes at step 0 or later, not at -1"):
        OneShot(-1)
    with pytest.raises(SparseGateError, match="chosen at step 4 cannot be frozen at 3"):
        OneShot(4, until=3)
    with pytest.raises(SparseGateError, match="end of a schedule is a whole number of steps, not 2.5"):
        kind(0, 2.5)
    with pytest.raises(SparseGateError, match="every of a schedule is a whole number of steps, not '2'"):
        kind(0, 4, every="2")
    with pytest.raises(SparseGateError, match="until of a schedule is a whole number of steps, not 3.0"):
        OneShot(1, until=3.0)
    assert str(kind(np.int64(1), np.int32(4))) == str(kind(1, 4))  # as a checkpoint knows it
