"""Long short-term memory without peepholes (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class LSTM(Cell):
    """``c' = f c + i g``, one rounding of the exact sum; ``h = round(o tanh(c'))``. Gate order i, f, g, o as in PyTorch."""

    kind = "lstm"
    gates = ("i", "f", "g", "o")
    recurrent = True
    projectable = True
    bounded = True
    states = ("c",)
    formats = ("pre", "gate", "c")
    sites = ("i", "f", "g", "o", "c", "tanh_c", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        i = a.lookup("sigmoid", a.narrow(a.gate("i"), "pre", "i", symmetric=True))
        f = a.lookup("sigmoid", a.narrow(a.gate("f"), "pre", "f", symmetric=True))
        g = a.lookup("tanh", a.narrow(a.gate("g"), "pre", "g", symmetric=True))
        o = a.lookup("sigmoid", a.narrow(a.gate("o"), "pre", "o", symmetric=True))
        c = a.narrow(a.add(a.mul(f, a.state("c")), a.mul(i, g)), "c", "c")
        tanh_c = a.lookup("tanh", a.narrow(c, "pre", "tanh_c", symmetric=True))
        return Step(a.narrow(a.mul(o, tanh_c), "h", "h"), {"c": c})
