"""Cells: each is one arithmetic program, and every arithmetic runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate.cells import CELLS, FloatArithmetic, IntegerArithmetic, cell
from sparsegate.errors import SparseGateError
from sparsegate.fixed import QFormat

FORMATS = {
    "acc": QFormat(20, 10),
    "pre": QFormat(12, 8),
    "gate": QFormat(10, 8),
    "c": QFormat(16, 12),
    "h": QFormat(8, 7),
}


class Recorder(FloatArithmetic):
    """Float arithmetic that writes down which tables are read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.functions: list[str] = []

    def lookup(self, function, value):
        self.functions.append(function)
        return super().lookup(function, value)


def test_unknown_cell():
    with pytest.raises(SparseGateError, match="unsupported layer kind 'gru'; SparseGate has lstm, linear"):
        cell("gru")


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_declares_what_its_step_does(kind):
    what = cell(kind)
    rng = np.random.default_rng(0)
    seen: list[tuple[str, str]] = []
    arithmetic = Recorder(
        {name: rng.normal(size=3) for name in what.gates},
        {name: rng.normal(size=3) for name in what.states},
        lambda target, site, value: seen.append((target, site)),
    )
    step = what.step(arithmetic)
    assert tuple(site for _, site in seen) == what.sites
    assert {target for target, _ in seen} <= {*what.formats, "h"}
    assert set(arithmetic.functions) == set(what.functions)
    assert tuple(step.states) == what.states
    assert what.kind == kind


def test_lstm_in_float():
    i, f, g, o, c = np.random.default_rng(1).normal(size=(5, 8))
    step = cell("lstm").step(FloatArithmetic({"i": i, "f": f, "g": g, "o": o}, {"c": c}))

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    expected = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(step.states["c"], expected, atol=1e-15)
    np.testing.assert_allclose(step.h, sigmoid(o) * np.tanh(expected), atol=1e-15)


def test_lstm_in_integers_by_hand():
    """Every gate at 0: sigmoid 128/256, tanh 0; c' = round(c / 2) and h' = round(tanh(c') / 2)."""
    zero = np.zeros(3, np.int64)
    c = np.array([4097, -4097, 8192])
    arithmetic = IntegerArithmetic(FORMATS, 0, dict.fromkeys("ifgo", zero), {"c": c})
    step = cell("lstm").step(arithmetic)
    assert step.states["c"].raw.tolist() == [2049, -2048, 4096]  # half up: 2048.5 -> 2049, -2048.5 -> -2048
    # tanh gives 118, -118 and 195 of 256; half of these at 7 fractional bits is 29.5, -29.5 and 48.75
    assert step.h.raw.tolist() == [30, -29, 49]


def test_integer_arithmetic_aligns_binary_points():
    arithmetic = IntegerArithmetic(FORMATS, 0, {"i": np.array([3])}, {"c": np.array([5])})
    a, c = arithmetic.gate("i"), arithmetic.state("c")
    assert (a.frac, c.frac) == (10, 12)
    assert (arithmetic.add(a, c).raw.item(), arithmetic.add(a, c).frac) == (12 + 5, 12)
    assert (arithmetic.sub(a, c).raw.item(), arithmetic.sub(c, a).raw.item()) == (7, -7)
    assert (arithmetic.mul(a, c).raw.item(), arithmetic.mul(a, c).frac) == (15, 22)
    assert (arithmetic.one().raw, arithmetic.one().frac) == (256, 8)
