from __future__ import annotations

import random

import numpy as np
import pytest

from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape
from sparsegate_hw.output import OutputBuffer
from tests.hw.blocks import simulate, small_program


@pytest.mark.parametrize(
    ("shapes", "rows", "lanes"),
    [
        ((Shape("lstm", 10, NM(1, 4), NM(1, 4)),), 8, 2),
        ((Shape("lstm", 10, NM(1, 4), NM(1, 4)),), 16, 2),
        ((Shape("lstm", 4, NM(1, 4), NM(1, 4)), Shape("linear", 13)), 8, 1),
        ((Shape("lstm", 4, NM(1, 4), NM(1, 4)), Shape("linear", 1)), 4, 1),
    ],
)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_frames_leave_in_unit_order(shapes: tuple[Shape, ...], rows: int, lanes: int, stall: float) -> None:
    layout = Layout(small_program(*shapes), HardwareConfig(rows, 1, lanes))
    dut = OutputBuffer(layout)
    phase = layout.phases[-1]
    rng = random.Random(rows)
    frames = [
        np.array([[rng.randint(-100, 100) for _ in range(phase.positions)] for _ in range(lanes)]) for _ in range(3)
    ]
    got: list[tuple[int, int]] = []
    waits: list[int] = []

    async def sink(ctx):
        while True:
            ready = int(rng.random() >= stall)
            ctx.set(dut.o.ready, ready)
            _, _, valid, value, last = await ctx.tick().sample(dut.o.valid, dut.o.payload.data, dut.o.payload.last)
            if valid and ready:
                got.append((value, last))

    async def testbench(ctx):
        for number, values in enumerate(frames):
            for position in range(phase.positions):
                ctx.set(dut.write.valid, 1)
                ctx.set(dut.write.position, position)
                for lane in range(lanes):
                    ctx.set(dut.h[lane], int(values[lane, position]))
                await ctx.tick()
            ctx.set(dut.write.valid, 0)
            ctx.set(dut.start, 1)
            ctx.set(dut.last, int(number == 2))
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 0
            while ctx.get(dut.busy):
                await ctx.tick()
                cycles += 1
            waits.append(cycles)
        await ctx.tick().repeat(20)

    simulate(dut, sink, testbench)
    expected = [(value, 0) for values in frames for value in dut.model(values)]
    expected[-1] = (expected[-1][0], 1)
    assert got == expected
    if not stall:
        assert waits == [layout.program.outputs] * 3
