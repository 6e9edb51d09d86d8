from __future__ import annotations

import random

import numpy as np
import pytest
from tests.hw.blocks import both_ways, simulate, small_layout

from sparsegate.array import Layout
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.output import OneByOne, OutputBuffer, finals

LSTM = (Shape("lstm", 10, NM(1, 4), NM(1, 4)),)
GRU = Shape("gru", 5, NM(1, 2), NM(1, 2), both=True)


@pytest.mark.parametrize(
    ("shapes", "rows", "lanes", "cluster"),
    [
        (LSTM, 8, 2, None),
        (LSTM, 16, 2, None),
        ((Shape("lstm", 4, NM(1, 4), NM(1, 4)), Shape("linear", 13)), 8, 1, None),
        ((Shape("lstm", 4, NM(1, 4), NM(1, 4)), Shape("linear", 1)), 4, 1, None),
        # several passes, whose last phases differ in units, block and positions
        (both_ways("lstm", 7, Shape("linear", 13)), 8, 1, None),
        ((GRU, Shape("lstm", 9, NM(1, 4), NM(1, 4)), Shape("linear", 2, when="last")), 16, 2, 4),
        ((Shape("lstm", 9, NM(1, 4), NM(1, 4), outputs=5, both=True),), 12, 3, 4),
    ],
)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_frames_leave_in_unit_order(
    shapes: tuple[Shape, ...], rows: int, lanes: int, cluster: int | None, stall: float
) -> None:
    check(small_layout(rows, 1, lanes, shapes, {"cluster": cluster}), stall)


@pytest.mark.parametrize(
    ("units", "block", "clusters", "beat"),
    [(12, 4, 2, 2), (12, 4, 2, 4), (8, 8, 1, 8), (40, 16, 2, 8), (48, 8, 3, 8)],
)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_a_beat_carries_consecutive_units(units: int, block: int, clusters: int, beat: int, stall: float) -> None:
    pattern = NM(1, block)
    check(small_layout(clusters, 1, None, (Shape("linear", units, pattern),), {"outputs": beat}), stall)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_beats_are_given_one_by_one(stall: float) -> None:
    dut = OneByOne(6, 4)
    rng = random.Random(1)
    beats = [([rng.randint(-32, 31) for _ in range(4)], number % 3 == 2) for number in range(12)]
    got: list[tuple[int, int]] = []

    async def sink(ctx):
        while True:
            ready = int(rng.random() >= stall)
            ctx.set(dut.o.ready, ready)
            _, _, valid, value, last = await ctx.tick().sample(dut.o.valid, dut.o.payload.data, dut.o.payload.last)
            if valid and ready:
                got.append((value, last))

    async def testbench(ctx):
        cycles = 0
        for values, last in beats:
            ctx.set(dut.i.payload, {"data": values, "last": int(last)})
            ctx.set(dut.i.valid, 1)
            ready = 0
            while not ready:
                _, _, ready = await ctx.tick().sample(dut.i.ready)
                cycles += 1
            if rng.random() < stall:
                ctx.set(dut.i.valid, 0)
                await ctx.tick().repeat(2)
        ctx.set(dut.i.valid, 0)
        assert stall or cycles == 1 + (4 + 1) * (len(beats) - 1)
        for _ in range(100):
            await ctx.tick()

    simulate(dut, sink, testbench)
    assert got == [(value, int(last and place == 3)) for values, last in beats for place, value in enumerate(values)]


def check(layout: Layout, stall: float) -> None:
    """Frames of every pass, in any order, against the layout's places."""
    rows, lanes, beat = layout.rows, layout.lanes, layout.config.outputs
    dut = OutputBuffer(layout)
    rng = random.Random(rows)
    order = [run for run in range(len(layout.passes)) for _ in range(3)]
    rng.shuffle(order)
    phases = [layout.phases[finals(layout)[run]] for run in order]
    # a pass's values have its own format
    spans = [phase.phase.formats["h"] for phase in phases]
    frames = [
        np.array([[rng.randint(form.min, form.max) for _ in range(phase.positions)] for _ in range(lanes)])
        for phase, form in zip(phases, spans, strict=True)
    ]
    got: list[tuple[int, int]] = []
    waits: list[int] = []

    async def sink(ctx):
        while True:
            ready = int(rng.random() >= stall)
            ctx.set(dut.o.ready, ready)
            _, _, valid, data, last = await ctx.tick().sample(dut.o.valid, dut.o.payload.data, dut.o.payload.last)
            if valid and ready:
                values = [data] if beat == 1 else list(data)
                got.extend((value, last if place == beat - 1 else 0) for place, value in enumerate(values))

    async def testbench(ctx):
        for number, (run, phase, values) in enumerate(zip(order, phases, frames, strict=True)):
            for position in range(phase.positions):
                ctx.set(dut.write.valid, 1)
                ctx.set(dut.write.position, position)
                for lane in range(lanes):
                    ctx.set(dut.h[lane], int(values[lane, position]))
                await ctx.tick()
            ctx.set(dut.write.valid, 0)
            ctx.set(dut.start, 1)
            ctx.set(dut.run, run)
            ctx.set(dut.last, int(number == len(order) - 1))
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.run, rng.randrange(len(layout.passes)))  # it counts with ``start`` only
            cycles = 0
            while ctx.get(dut.busy):
                await ctx.tick()
                cycles += 1
            waits.append(cycles)
        await ctx.tick().repeat(20)

    simulate(dut, sink, testbench)
    # unit u of a phase is where the layout puts it
    expected = []
    for run, values in zip(order, frames, strict=True):
        units = layout.units(finals(layout)[run])
        frame = {int(unit): int(value) for unit, value in zip(units.reshape(-1), values.reshape(-1), strict=True)}
        expected += [(frame[unit], 0) for unit in range(layout.phases[finals(layout)[run]].phase.units)]
        assert dut.model(values, run) == [value for value, _ in expected[-len(dut.model(values, run)) :]]
    expected[-1] = (expected[-1][0], 1)
    assert got == expected
    if not stall:
        assert waits == [phase.phase.units // beat for phase in phases]
