from __future__ import annotations

import random

import pytest

from sparsegate_hw.delta import DeltaCompare, InputEncoder
from tests.hw.blocks import simulate, small_layout


def test_compare_is_its_model_for_every_pair() -> None:
    width = 4
    dut = DeltaCompare(width)

    async def testbench(ctx):
        for threshold in (0, 1, 3, 14, 15, 16, 65535):
            for value in range(-8, 8):
                for reference in range(-8, 8):
                    ctx.set(dut.threshold, threshold)
                    ctx.set(dut.value, value)
                    ctx.set(dut.reference, reference)
                    await ctx.tick()
                    moved, delta, update = dut.model(value, reference, threshold)
                    assert (ctx.get(dut.moved), ctx.get(dut.update)) == (moved, update)
                    assert ctx.get(dut.delta) == delta

    simulate(dut, testbench)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("inputs", [1, 2, 5])
@pytest.mark.parametrize("threshold", [0, 9])
def test_encoder_lists_what_moved(inputs: int, groups: int, threshold: int) -> None:
    layout = small_layout(8, groups, inputs=inputs)
    dut = InputEncoder(layout)
    rng = random.Random(inputs * 10 + groups)
    frames = [([rng.randint(-20, 20) for _ in range(inputs)], rng.random() < 0.3) for _ in range(40)]
    pushed: list[tuple[int, int, int]] = []
    got: list[tuple[list, bool]] = []

    async def source(ctx):
        ctx.set(dut.threshold, threshold)
        for values, last in frames:
            for column, value in enumerate(values):
                while rng.random() < 0.3:
                    await ctx.tick()
                # "last" on an earlier value of the frame means nothing
                ctx.set(
                    dut.i.payload, {"data": value, "last": int(last) if column == inputs - 1 else rng.randint(0, 1)}
                )
                ctx.set(dut.i.valid, 1)
                await ctx.tick().until(dut.i.ready)
                ctx.set(dut.i.valid, 0)

    async def pushes(ctx):
        while True:
            _, _, valid, bank, group, place, delta = await ctx.tick().sample(
                dut.push.valid, dut.push.bank, dut.push.group, dut.push.place, dut.push.delta
            )
            if valid:
                pushed.append((bank, place * groups + group, delta))

    async def take(ctx):
        for _ in frames:
            await ctx.tick().until(dut.ready)
            while rng.random() < 0.7:
                await ctx.tick()
            bank = ctx.get(dut.bank)
            got.append(([(c, d) for b, c, d in pushed if b == bank], bool(ctx.get(dut.last))))
            pushed[:] = [entry for entry in pushed if entry[0] != bank]
            ctx.set(dut.release, 1)
            assert ctx.get(dut.open.valid)
            assert ctx.get(dut.open.bank) == bank
            await ctx.tick()
            ctx.set(dut.release, 0)

    simulate(dut, source, pushes, take)

    expected, reference = [], [0] * inputs
    for values, last in frames:
        moves = []
        for column, value in enumerate(values):
            moved, delta, reference[column] = DeltaCompare.model(value, reference[column], threshold)
            if moved:
                moves.append((column, delta))
        expected.append((moves, last))
        if last:
            reference = [0] * inputs
    assert got == expected
