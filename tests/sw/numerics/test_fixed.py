"""The one rounding and the one saturation, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsegate.numerics.fixed import QFormat, bits_for, frac_for, narrow, round_shift, saturate

formats = st.builds(QFormat, st.integers(2, 24), st.integers(-8, 30))
raws = st.integers(-(1 << 40), 1 << 40)


@given(raws, st.integers(-10, 30))
def test_round_shift_is_half_up(raw, shift):
    scaled = Fraction(raw) * Fraction(2) ** -shift
    assert round_shift(raw, shift) == floor(scaled + Fraction(1, 2))


@pytest.mark.parametrize(
    ("raw", "shift", "expected"), [(5, 1, 3), (-5, 1, -2), (-6, 2, -1), (6, 2, 2), (-7, 2, -2), (3, -2, 12)]
)
def test_round_shift_by_example(raw, shift, expected):
    """Ties go up, towards plus infinity, for negative numbers too."""
    assert round_shift(raw, shift) == expected


@given(st.lists(raws, min_size=1, max_size=20), st.integers(-4, 20), formats, st.booleans())
def test_narrow_of_arrays_is_narrow_of_integers(values, frac, target, symmetric):
    assume(frac - target.frac >= -20)  # further left leaves 64 bits
    array = narrow(np.array(values, np.int64), frac, target, symmetric)
    assert array.tolist() == [narrow(value, frac, target, symmetric) for value in values]
    low = -target.max if symmetric else target.min
    assert all(low <= value <= target.max for value in array)


def test_saturate_symmetric_leaves_out_the_most_negative():
    form = QFormat(4, 0)
    assert [saturate(v, form) for v in (-9, -8, -7, 7, 8)] == [-8, -8, -7, 7, 7]
    assert [saturate(v, form, symmetric=True) for v in (-9, -8, -7, 7, 8)] == [-7, -7, -7, 7, 7]


@given(st.floats(-1e6, 1e6), formats)
def test_quantize_is_half_up_then_saturated(value, form):
    exact = floor(Fraction(value) * Fraction(2) ** form.frac + Fraction(1, 2))
    assert int(form.quantize(value)) == min(max(exact, form.min), form.max)
    assert form.saturated(value) == int(not form.min <= exact <= form.max)


@given(formats, st.data())
def test_real_is_the_inverse_of_quantize(form, data):
    raw = data.draw(st.integers(form.min, form.max))
    assert int(form.quantize(form.real(raw))) == raw
    assert form.real(raw) == raw * form.lsb


@given(formats)
def test_text_round_trip(form):
    assert QFormat.parse(str(form)) == form


@pytest.mark.parametrize("text", ["8f7x", "s8", "", "sf", "s1f0", "s99f0"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="a Q format is"):
        QFormat.parse(text)


@pytest.mark.parametrize("width", [1, 0, 65, -3])
def test_width_is_checked(width):
    with pytest.raises(ValueError, match=f"2 to 64 bits wide, not {width}"):
        QFormat(width, 0)


@given(st.integers(1, 1 << 50))
def test_bits_for_is_the_narrowest(bound):
    width = bits_for(bound)
    assert QFormat(width, 0).max >= bound
    assert width == 2 or QFormat(width - 1, 0).max < bound


@given(st.floats(1e-6, 1e6), st.integers(2, 24))
def test_frac_for_is_the_finest_without_saturation(largest, width):
    frac = frac_for(largest, width)
    assert QFormat(width, frac).saturated(largest) == 0
    assert QFormat(width, frac + 1).saturated(largest) == 1


def test_frac_for_zero():
    assert frac_for(0.0, 8) == 7
