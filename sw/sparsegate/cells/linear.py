"""Fully connected layers: the usual classifier head, and hidden ones with an activation."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class Linear(Cell):
    """``y = round(b + W x)``."""

    kind = "linear"
    gates = ("y",)
    recurrent = False
    formats = ()
    sites = ("h",)

    def step(self, a: Arithmetic) -> Step:
        return Step(a.narrow(a.gate("y"), "h", "h"))


class ReluLinear(Cell):
    """``y = round(max(0, b + W x))``."""

    kind = "linear_relu"
    gates = ("y",)
    recurrent = False
    formats = ()
    sites = ("h",)

    def step(self, a: Arithmetic) -> Step:
        return Step(a.narrow(a.relu(a.gate("y")), "h", "h"))


class _TableLinear(Cell):
    """A function of the sum, through its table."""

    gates = ("y",)
    recurrent = False
    formats = ("pre", "gate")
    sites = ("y", "h")

    def step(self, a: Arithmetic) -> Step:
        (function,) = self.functions
        return Step(a.narrow(a.lookup(function, a.narrow(a.gate("y"), "pre", "y", symmetric=True)), "h", "h"))


class SigmoidLinear(_TableLinear):
    """``y = sigmoid(b + W x)``."""

    kind = "linear_sigmoid"
    functions = ("sigmoid",)


class TanhLinear(_TableLinear):
    """``y = tanh(b + W x)``."""

    kind = "linear_tanh"
    functions = ("tanh",)
