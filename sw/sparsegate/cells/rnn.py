"""Elman's recurrent network (Elman 1990) with tanh or ReLU."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class TanhRNN(Cell):
    """``h = tanh(W x + U h + b)``."""

    kind = "rnn_tanh"
    gates = ("a",)
    recurrent = True
    bounded = True
    formats = ("pre", "gate")
    sites = ("a", "h")
    functions = ("tanh",)

    def step(self, a: Arithmetic) -> Step:
        return Step(a.narrow(a.lookup("tanh", a.narrow(a.gate("a"), "pre", "a", symmetric=True)), "h", "h"))


class ReluRNN(Cell):
    """``h = max(0, W x + U h + b)``; the range of h is a matter of calibration."""

    kind = "rnn_relu"
    gates = ("a",)
    recurrent = True
    formats = ()
    sites = ("h",)

    def step(self, a: Arithmetic) -> Step:
        return Step(a.narrow(a.relu(a.gate("a")), "h", "h"))
