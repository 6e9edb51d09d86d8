"""Histograms of what was seen, and the fractional bits chosen from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat, frac_for
from sparsegate.pattern import NM
from sparsegate.quantize.calibration import BINS, Histogram, Levels, calibrate


def drawn(seed: int, count: int = 3000, scale: float = 1.0) -> np.ndarray:
    """Values with long tails."""
    return scale * np.random.default_rng(seed).standard_t(3, count)


def squared(values: np.ndarray, form: QFormat) -> float:
    return float(np.square(form.real(form.quantize(values)) - values).sum())


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_levels_are_symmetric(limit):
    form = Levels(5, 2, limit)
    assert form.quantize(np.linspace(-9, 9, 1001)).min() == -limit
    assert form.quantize(np.linspace(-9, 9, 1001)).max() == limit
    assert form.plain == QFormat(5, 2)
    assert form.saturated([(limit + 0.6) / 4, limit / 4]) == 1


def test_counts_are_those_of_the_bins():
    values = drawn(0)
    histogram = Histogram(values)
    expected, _ = np.histogram(values, histogram.edges)
    assert (histogram.counts == expected).all()
    assert len(histogram.edges) == BINS + 1
    assert histogram.largest == np.abs(values).max()
    assert histogram.edges[-1] / 2 <= histogram.largest < histogram.edges[-1]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.randoms())
def test_parts_in_any_order_give_the_whole(exponents, random):
    """Ranges from tiny to huge, so that bins are merged one by one and all at once; added, and merged."""
    parts = [drawn(k, 50, 10.0 ** (k - 20)) for k in exponents] + [np.zeros(3), np.empty(0)]
    whole = Histogram(np.concatenate(parts))
    random.shuffle(parts)
    one, other = Histogram(), Histogram()
    for part in parts:
        one.add(part)
        other.merge(Histogram(part))
    assert one == other == whole
    assert whole.counts.sum() == 50 * len(exponents) + 3
    assert whole != Histogram(np.concatenate([*parts, [0.0]]))


def test_percentile_is_that_of_the_values_to_a_bin():
    values = drawn(1, 20_000)
    histogram = Histogram(values)
    width = histogram.edges[1] - histogram.edges[0]
    for share in (50.0, 99.0, 99.9, 100.0):
        exact = np.percentile(np.abs(values), share, method="inverted_cdf")
        assert exact <= histogram.percentile(share) <= exact + width


@given(st.integers(0, 200), st.integers(2, 8), st.integers(-3, 3), st.booleans())
def test_the_error_is_that_of_the_values(seed, width, scale, levels):
    values = drawn(seed, scale=2.0**scale)
    histogram = Histogram(values)
    limit = max(1, (1 << (width - 1)) - 2)
    for frac in range(frac_for(histogram.largest, width) - 1, frac_for(histogram.largest, width) + 5):
        form = Levels(width, frac, limit) if levels else QFormat(width, frac)
        assert histogram.error(form) == pytest.approx(squared(values, form), rel=0.05)


@given(st.integers(0, 200), st.integers(2, 8), st.booleans())
def test_the_smallest_squared_error_is_found(seed, width, levels):
    values = drawn(seed)
    form = Levels(width, 0, (1 << (width - 1)) - 1) if levels else QFormat(width, 0)
    found = Histogram(values).frac(form, "mse", 0.0)

    def error(frac):
        return squared(values, Levels(width, frac, form.max) if levels else QFormat(width, frac))

    assert error(found) <= 1.05 * min(error(frac) for frac in range(-12, 20))


def test_methods_differ_on_outliers():
    """A thousand values in -1..1 and one of 100: only min-max wants to hold it."""
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 100_000), 100.0)
    histogram = Histogram(values)
    fracs = {name: histogram.frac(QFormat(8, 0), name, 99.9) for name in ("min-max", "percentile", "mse")}
    assert fracs["min-max"] == 0
    assert fracs["percentile"] == frac_for(histogram.percentile(99.9), 8) == 6
    assert 0 < fracs["mse"] < 6  # the outlier's error is 100 squared, and counts


def test_nothing_seen_takes_any_format():
    assert Histogram().frac(QFormat(8, 0), "mse", 99.0) == 7
    assert Histogram(np.zeros(5)).frac(QFormat(8, 0), "percentile", 99.0) == 7


def test_every_format_of_a_network_is_seen():
    shapes = [Shape("lstm_peephole", 6, NM(1, 2), NM(1, 2), outputs=4), Shape("gru", 5), Shape("linear", 3)]
    network = synthetic.network(4, shapes, seed=1)
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    found = calibrate(network, x, np.array([5, 2, 1]))
    expected = {
        ("input", "x"),
        *(("lstm_peephole0", key) for key in ["wx", "wh", "wp", "parameter", "pre", "c", "m", "h"]),
    }
    expected |= {*(("gru1", key) for key in ["wx", "wh", "pre", "s", "h"]), ("linear2", "wx"), ("linear2", "h")}
    assert set(found.histograms) == expected
    for key, (edges, counts) in found.histograms.items():
        assert len(edges) == len(counts) + 1, key
    assert found.seen["input", "x"].counts.sum() == 4 * (5 + 2 + 1)
    assert found.seen["lstm_peephole0", "c"].counts.sum() == 6 * 8
    assert found.seen["lstm_peephole0", "wx"].counts.sum() == np.count_nonzero(network.layers[0].w_x)
    assert found.ranges["linear2", "wx"] == np.abs(network.layers[2].w_x).max()
    both = found.of([("gru1", "s"), ("lstm_peephole0", "c"), ("nowhere", "c")])
    assert both.counts.sum() == 5 * 8 + 6 * 8


def test_the_error_counts_what_lies_between_the_values_of_a_bin():
    """Evenly spread values, rounded to any step that saturates none, err by a twelfth of its square."""
    seen = Histogram((np.arange(-BINS // 2, BINS // 2) + 0.5) / (BINS // 2))  # one in the middle of each bin
    for frac in (3, 10, 11, 12):
        assert seen.error(QFormat(20, frac)) == pytest.approx(BINS * 4.0**-frac / 12)
