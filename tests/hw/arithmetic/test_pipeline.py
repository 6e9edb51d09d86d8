"""Every operation of the pipeline's arithmetic, in a cell made for the test, against the golden model's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from tests.hw.blocks import simulate, small_program

from sparsegate.array import timing
from sparsegate.cells import CELLS, Arithmetic, Cell, Step
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate_hw.arithmetic.pipeline import PipelineArithmetic
from sparsegate_hw.engine.cell import CellPipeline


class Everything(Cell):
    """Uses each operation at least once, with operands that are ready in different cycles."""

    kind = "everything"
    gates = ("a", "b")
    apart = ("b",)
    recurrent = True
    states = ("c",)
    parameters = ("p",)
    formats = ("pre", "gate", "c", "parameter")
    sites = ("a", "b", "c", "h")
    functions = ("sigmoid", "tanh")

    def step(self, a: Arithmetic) -> Step:
        left = a.lookup("sigmoid", a.narrow(a.gate("a"), "pre", "a", symmetric=True))
        both = a.add(a.gate("b"), a.mul(left, a.gate("b_h")))
        right = a.narrow(both, "pre", "b", symmetric=True)
        rest = a.sub(a.one(), left)
        through = a.mul(a.relu(a.state("c")), a.parameter("p"))
        c = a.narrow(a.sub(a.add(a.mul(rest, a.state("c")), through), a.mul(left, right)), "c", "c")
        return Step(a.narrow(a.add(a.mul(rest, a.lookup("tanh", right)), c), "h", "h"), {"c": c})


@pytest.mark.parametrize("bits", [4, 8, 13])
@pytest.mark.parametrize("depths", [timing.SHALLOW, timing.DEEP], ids=["shallow", "deep"])
def test_all_operations(bits: int, depths: timing.Depths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "everything", Everything())
    program = small_program(
        Shape("everything", 6, NM(1, 2), NM(1, 2)), config=QuantizeConfig(activation_bits=bits, table_bits=8)
    )
    phase = program.phases[0]
    dut = CellPipeline(phase, depths)
    rng = np.random.default_rng(bits)
    count = 80
    acc = phase.formats["acc"]
    scale = rng.choice([acc.max, acc.max >> 6, 3], size=(count, 1))
    gates = dict(zip(("a", "b", "b_h"), rng.integers(-scale, scale + 1, (count, 3)).T, strict=True))
    state = rng.integers(phase.formats["c"].min, phase.formats["c"].max + 1, count)
    parameter = rng.integers(phase.formats["parameter"].min, phase.formats["parameter"].max + 1, count)
    h, after = dut.model(gates, {"c": state}, {"p": parameter})
    seen = []

    async def testbench(ctx):
        for item in range(count + dut.latency):
            for name, values in gates.items():
                ctx.set(getattr(dut, f"gate_{name}"), int(values[item % count]))
            ctx.set(dut.state_c, int(state[item % count]))
            ctx.set(dut.parameter_p, int(parameter[item % count]))
            seen.append((ctx.get(dut.h), ctx.get(dut.next_c)))
            await ctx.tick()

    simulate(dut, testbench)
    assert [pair[0] for pair in seen[dut.latency :]] == h.tolist()
    stage = dut.state_stages["c"]
    assert [pair[1] for pair in seen[stage : stage + count]] == after["c"].tolist()


def test_a_value_is_never_taken_before_it_is_ready() -> None:
    from amaranth.hdl import Module, Signal, signed

    program = small_program()
    arithmetic = PipelineArithmetic(
        Module(), program.phases[0].formats, 0, timing.SHALLOW, {"i": Signal(signed(20))}, {}, {}
    )
    node = arithmetic.narrow(arithmetic.gate("i"), "pre", "i")
    with pytest.raises(ValueError, match="ready in stage 1, later than 0"):
        arithmetic.at(node, 0)
