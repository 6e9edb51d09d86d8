"""Long short-term memory with coupled input and forget gates, ``f = 1 - i`` (Greff et al. 2017), with or without peepholes."""

from __future__ import annotations

from sparsegate.cells.cell import Arithmetic, Cell, Step


class CIFG(Cell):
    """``c' = (1 - i) c + i g``, one rounding of the exact sum; ``h = round(o tanh(c'))``: three gates instead of four."""

    kind = "cifg"
    gates = ("i", "g", "o")
    recurrent = True
    projectable = True
    bounded = True
    states = ("c",)
    formats = ("pre", "gate", "c")
    sites = ("i", "g", "o", "c", "tanh_c", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        i = a.lookup("sigmoid", a.narrow(a.gate("i"), "pre", "i", symmetric=True))
        g = a.lookup("tanh", a.narrow(a.gate("g"), "pre", "g", symmetric=True))
        o = a.lookup("sigmoid", a.narrow(a.gate("o"), "pre", "o", symmetric=True))
        c = a.narrow(a.add(a.mul(a.sub(a.one(), i), a.state("c")), a.mul(i, g)), "c", "c")
        tanh_c = a.lookup("tanh", a.narrow(c, "pre", "tanh_c", symmetric=True))
        return Step(a.narrow(a.mul(o, tanh_c), "h", "h"), {"c": c})


class PeepholeCIFG(Cell):
    """The same, where the input gate sees ``c`` and the output gate ``c'`` through a weight of the unit."""

    kind = "cifg_peephole"
    gates = ("i", "g", "o")
    recurrent = True
    projectable = True
    bounded = True
    states = ("c",)
    parameters = ("p_i", "p_o")
    formats = ("pre", "gate", "c", "parameter")
    sites = ("i", "g", "c", "o", "tanh_c", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        before = a.state("c")
        i = a.lookup(
            "sigmoid", a.narrow(a.add(a.gate("i"), a.mul(a.parameter("p_i"), before)), "pre", "i", symmetric=True)
        )
        g = a.lookup("tanh", a.narrow(a.gate("g"), "pre", "g", symmetric=True))
        c = a.narrow(a.add(a.mul(a.sub(a.one(), i), before), a.mul(i, g)), "c", "c")
        o = a.lookup("sigmoid", a.narrow(a.add(a.gate("o"), a.mul(a.parameter("p_o"), c)), "pre", "o", symmetric=True))
        tanh_c = a.lookup("tanh", a.narrow(c, "pre", "tanh_c", symmetric=True))
        return Step(a.narrow(a.mul(o, tanh_c), "h", "h"), {"c": c})
