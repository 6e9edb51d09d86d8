"""Long short-term memory with peepholes: the gates see the cell state (Gers & Schmidhuber 2000)."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class PeepholeLSTM(Cell):
    """An LSTM whose input and forget gates see ``c`` and whose output gate sees ``c'``, each through a weight of the unit.

    The product joins the gate's exact sum before its one rounding.
    """

    kind = "lstm_peephole"
    gates = ("i", "f", "g", "o")
    recurrent = True
    projectable = True
    bounded = True
    states = ("c",)
    parameters = ("p_i", "p_f", "p_o")
    formats = ("pre", "gate", "c", "parameter")
    sites = ("i", "f", "g", "c", "o", "tanh_c", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        before = a.state("c")
        i = a.lookup(
            "sigmoid", a.narrow(a.add(a.gate("i"), a.mul(a.parameter("p_i"), before)), "pre", "i", symmetric=True)
        )
        f = a.lookup(
            "sigmoid", a.narrow(a.add(a.gate("f"), a.mul(a.parameter("p_f"), before)), "pre", "f", symmetric=True)
        )
        g = a.lookup("tanh", a.narrow(a.gate("g"), "pre", "g", symmetric=True))
        c = a.narrow(a.add(a.mul(f, before), a.mul(i, g)), "c", "c")
        o = a.lookup("sigmoid", a.narrow(a.add(a.gate("o"), a.mul(a.parameter("p_o"), c)), "pre", "o", symmetric=True))
        tanh_c = a.lookup("tanh", a.narrow(c, "pre", "tanh_c", symmetric=True))
        return Step(a.narrow(a.mul(o, tanh_c), "h", "h"), {"c": c})
