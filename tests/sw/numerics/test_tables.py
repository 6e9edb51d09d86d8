"""Activation tables against the real functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsegate.numerics.fixed import QFormat
from sparsegate.numerics.tables import ActivationTable, exact, table

PRE, GATE = QFormat(12, 8), QFormat(10, 8)


def reference(name: str, raw: int, source: QFormat, target: QFormat, step_bits: int) -> int:
    """One output in plain Python, with the rounding of ties written out."""

    def knot(segment: int) -> int:
        value = (segment << step_bits) / 2**source.frac
        real = math.tanh(value) if name == "tanh" else 1 / (1 + math.exp(-value))
        return math.floor(real * 2**target.frac + 0.5)

    segment, within = abs(raw) >> step_bits, abs(raw) % (1 << step_bits)
    positive = knot(segment)
    if within:
        rise = (knot(segment + 1) - positive) * within
        positive += (rise + (1 << (step_bits - 1))) >> step_bits
    if raw >= 0:
        return positive
    return -positive if name == "tanh" else 2**target.frac - positive


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize(
    ("source", "target", "step_bits"),
    [(PRE, GATE, 0), (PRE, GATE, 3), (QFormat(8, 4), QFormat(6, 4), 0), (QFormat(14, 10), QFormat(16, 14), 5)],
)
def test_every_input(name, source, target, step_bits):
    made = table(name, source, target, step_bits)
    inputs = range(-source.max, source.max + 1)
    assert made.full.tolist() == [reference(name, raw, source, target, step_bits) for raw in inputs]
    assert made.lookup(np.array(inputs)).tolist() == made.full.tolist()


@pytest.mark.parametrize("step_bits", [0, 2])
def test_symmetry_and_range(step_bits):
    sigmoid, tanh = (table(name, PRE, GATE, step_bits).full for name in ("sigmoid", "tanh"))
    assert (sigmoid + sigmoid[::-1] == 256).all()
    assert (tanh + tanh[::-1] == 0).all()
    assert (sigmoid.min(), sigmoid.max()) == (0, 256)
    assert (tanh.min(), tanh.max()) == (-256, 256)
    assert (np.diff(sigmoid) >= 0).all()
    assert (np.diff(tanh) >= 0).all()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_worst_error_is_measured_over_every_input(name):
    plain, coarse = ActivationTable(name, PRE, GATE), ActivationTable(name, PRE, GATE, 6)
    assert plain.worst_error() <= 0.5
    errors = [
        abs(coarse.full[raw + PRE.max] - exact(name, np.float64(raw / 256)) * 256)
        for raw in range(-PRE.max, PRE.max + 1)
    ]
    assert coarse.worst_error() == max(errors)
    assert coarse.worst_error() > 0.5


def test_depth():
    assert ActivationTable("tanh", PRE, GATE).depth == 2048
    assert ActivationTable("tanh", PRE, GATE, 3).depth == 256
    assert len(ActivationTable("tanh", PRE, GATE, 3).base) == len(ActivationTable("tanh", PRE, GATE, 3).slope) == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu", PRE, GATE), "activation function is one of sigmoid, tanh, not 'relu'"),
        (("tanh", PRE, QFormat(8, 7)), "s8f7 cannot hold 1 exactly"),
        (("tanh", PRE, GATE, 11), r"step_bits lies in 0\.\.10 for s12f8, not 11"),
        (("tanh", PRE, GATE, -1), "step_bits lies in"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActivationTable(*arguments)
