"""Cells: each is one arithmetic program, and every arithmetic runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sparsegate.cells import CELLS, FloatArithmetic, IntegerArithmetic, bounds, cell, phases_of
from sparsegate.errors import SparseGateError
from sparsegate.numerics.fixed import QFormat

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
    with pytest.raises(SparseGateError, match="unsupported layer kind 'mgu'; SparseGate has lstm, lstm_peephole, cifg"):
        cell("mgu")


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_declares_what_its_phases_do(kind, projected):
    what = cell(kind)
    if projected and not what.projectable:
        return
    rng = np.random.default_rng(0)
    handed = {name: rng.normal(size=3) for name in what.states}
    functions: set[str] = set()
    sites: list[str] = []
    targets: set[str] = set()
    given: list[str] = []
    phases = phases_of(what, projected)
    for phase in phases:
        seen: list[tuple[str, str]] = []
        arithmetic = Recorder(
            {name: rng.normal(size=3) for name in phase.sums},
            dict(handed),
            {name: rng.normal(size=3) for name in what.parameters},
            lambda target, site, value, seen=seen: seen.append((target, site)),
        )
        step = phase.step(arithmetic)
        assert tuple(site for _, site in seen) == phase.sites
        assert set(phase.columns) <= {"x", "h", *given}
        targets |= {target for target, _ in seen}
        functions |= set(arithmetic.functions)
        sites += phase.sites
        given.append(phase.output)
        handed |= step.states
    assert given[-1] == "h"
    assert targets <= {*what.formats, "h"}
    assert functions == set(what.functions)
    assert set(handed) == {*what.states, *what.handed}
    assert tuple(sites) == (*what.sites, "p") if projected else what.sites
    assert len(set(sites)) == len(sites)
    assert what.kind == kind
    assert {gate for phase in phases for gate in phase.gates} - {"p"} == set(what.gates)


@pytest.mark.parametrize("kind", CELLS)
def test_bounds_hold(kind):
    """No intermediate of random integers exceeds the peak that is computed on magnitudes."""
    form = FORMATS | dict.fromkeys(("s", "q"), QFormat(16, 12)) | {"z": FORMATS["gate"], "parameter": QFormat(8, 5)}
    form["q"] = form["h"]
    rng = np.random.default_rng(3)
    what, bound = cell(kind), form["acc"].max

    class Watched(IntegerArithmetic):
        def see(self, value):
            nonlocal largest
            largest = max(largest, int(np.abs(value.raw).max()))
            return value

        def mul(self, a, b):
            return self.see(super().mul(a, b))

        def add(self, a, b):
            return self.see(super().add(a, b))

        def sub(self, a, b):
            return self.see(super().sub(a, b))

    states = {name: rng.integers(form[name].min, form[name].max + 1, 500) for name in what.states}
    for phase in what.phases:
        largest = 0
        gates = {name: rng.integers(-bound, bound + 1, 500) for name in phase.sums}
        constants = {name: rng.integers(-128, 128, 500) for name in what.parameters}
        step = phase.step(Watched(form, 0, gates, states, constants))
        assert largest <= bounds.peak(phase, form, bound)
        states |= {name: value.raw for name, value in step.states.items()}


def test_lstm_in_float():
    i, f, g, o, c = np.random.default_rng(1).normal(size=(5, 8))
    step = cell("lstm").step(FloatArithmetic({"i": i, "f": f, "g": g, "o": o}, {"c": c}, {}))

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    expected = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(step.states["c"], expected, atol=1e-15)
    np.testing.assert_allclose(step.h, sigmoid(o) * np.tanh(expected), atol=1e-15)


def test_lstm_in_integers_by_hand():
    """Every gate at 0: sigmoid 128/256, tanh 0; c' = round(c / 2) and h' = round(tanh(c') / 2)."""
    zero = np.zeros(3, np.int64)
    c = np.array([4097, -4097, 8192])
    arithmetic = IntegerArithmetic(FORMATS, 0, dict.fromkeys("ifgo", zero), {"c": c}, {})
    step = cell("lstm").step(arithmetic)
    assert step.states["c"].raw.tolist() == [2049, -2048, 4096]  # half up: 2048.5 -> 2049, -2048.5 -> -2048
    # tanh gives 118, -118 and 195 of 256; half of these at 7 fractional bits is 29.5, -29.5 and 48.75
    assert step.h.raw.tolist() == [30, -29, 49]


def test_integer_arithmetic_aligns_binary_points():
    arithmetic = IntegerArithmetic(FORMATS, 0, {"i": np.array([3])}, {"c": np.array([5])}, {})
    a, c = arithmetic.gate("i"), arithmetic.state("c")
    assert (a.frac, c.frac) == (10, 12)
    assert (arithmetic.add(a, c).raw.item(), arithmetic.add(a, c).frac) == (12 + 5, 12)
    assert (arithmetic.sub(a, c).raw.item(), arithmetic.sub(c, a).raw.item()) == (7, -7)
    assert (arithmetic.mul(a, c).raw.item(), arithmetic.mul(a, c).frac) == (15, 22)
    assert (arithmetic.one().raw, arithmetic.one().frac) == (256, 8)
