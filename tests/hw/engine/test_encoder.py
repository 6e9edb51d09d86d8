from __future__ import annotations

import random

import pytest
from tests.hw.blocks import both_ways, simulate, small_layout

from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.encoder import DeltaCompare, InputEncoder


@pytest.mark.parametrize("latency", [1, 2])
def test_compare_is_its_model_for_every_pair(latency: int) -> None:
    width = 4
    dut = DeltaCompare(width, latency)

    async def testbench(ctx):
        for threshold in (0, 1, 3, 14, 15, 16, 65535):
            for value in range(-8, 8):
                for reference in range(-8, 8):
                    ctx.set(dut.threshold, threshold)
                    ctx.set(dut.value, value)
                    ctx.set(dut.reference, reference)
                    await ctx.tick().repeat(latency)
                    moved, delta, update = dut.model(value, reference, threshold)
                    assert (ctx.get(dut.moved), ctx.get(dut.update)) == (moved, update)
                    assert ctx.get(dut.some) == (update != 0)
                    assert ctx.get(dut.delta) == delta

    simulate(dut, testbench)


async def stream(ctx, dut, frames, rng):
    """Send frames of (values, last) with random pauses."""
    for values, last in frames:
        for column, value in enumerate(values):
            while rng.random() < 0.3:
                await ctx.tick()
            # "last" on an earlier value of the frame means nothing
            ends = int(last) if column == len(values) - 1 else rng.randint(0, 1)
            ctx.set(dut.i.payload, {"data": value, "last": ends})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)


PATIENCE = 500
"""Cycles in which the encoder must complete a frame, stalls of its source included."""


def encode(layout, dut, frames, thresholds, rng) -> list[tuple[list[tuple[int, int]], bool]]:
    """What the encoder lists of every frame: (column, delta) in order, and whether it is a sequence's last."""
    pushed: list[tuple[int, int, int]] = []
    got: list[tuple[list, bool]] = []

    async def source(ctx):
        for port, threshold in zip(dut.threshold, thresholds, strict=True):
            ctx.set(port, threshold)
        await stream(ctx, dut, frames, rng)

    async def pushes(ctx):
        while True:
            _, _, valid, bank, group, place, delta = await ctx.tick().sample(
                dut.push.valid, dut.push.bank, dut.push.group, dut.push.place, dut.push.delta
            )
            if valid:
                pushed.append((bank, place * layout.groups + group, delta))

    async def take(ctx):
        for _ in frames:
            for _ in range(PATIENCE):
                _, _, ready = await ctx.tick().sample(dut.ready)
                if ready:
                    break
            else:
                raise AssertionError(
                    f"no frame was ready for {PATIENCE} cycles, {len(got)} of {len(frames)} were taken"
                )
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
    return got


def expect(frames, thresholds) -> list[tuple[list[tuple[int, int]], bool]]:
    """The delta rule, by definition; ``thresholds`` of every frame's columns."""
    expected, fresh = [], True
    for (values, last), limits in zip(frames, thresholds, strict=True):
        if fresh:
            reference = [0] * len(values)
        moves = []
        for column, (value, limit) in enumerate(zip(values, limits, strict=True)):
            moved, delta, reference[column] = DeltaCompare.model(value, reference[column], limit)
            if moved:
                moves.append((column, delta))
        expected.append((moves, last))
        fresh = last
    return expected


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("threshold", [0, 9])
@pytest.mark.parametrize("deep", [False, True])
def test_encoder_lists_what_moved(inputs: int, groups: int, threshold: int, deep: bool) -> None:
    layout = small_layout(8, groups, inputs=inputs, hardware={"deep": deep})
    dut = InputEncoder(layout)
    rng = random.Random(inputs * 10 + groups)
    frames = [([rng.randint(-20, 20) for _ in range(inputs)], rng.random() < 0.3) for _ in range(40)]
    # the other vectors' thresholds are none of its business
    thresholds = [threshold, *(500 for _ in layout.program.vectors[1:])]
    got = encode(layout, dut, frames, thresholds, rng)
    assert got == expect(frames, [[threshold] * inputs for _ in frames])


LARGE = {
    "one input, then wider passes": (1, both_ways("lstm", 3)),
    "a pass of one value among larger ones": (
        4,
        (Shape("rnn_tanh", 1, NM(1, 1), NM(1, 1), reverse=True), Shape("lstm", 3, NM(1, 1), NM(1, 1))),
    ),
    "two passes over two sources each": (3, (Shape("gru", 3, both=True), *both_ways("lstm_peephole", 4))),
    "projected sources": (2, (Shape("lstm", 5, outputs=2, both=True), Shape("linear", 2, when="final"))),
}


@pytest.mark.parametrize(("inputs", "shapes"), LARGE.values(), ids=list(LARGE))
@pytest.mark.parametrize("groups", [1, 2])
def test_encoder_gives_every_source_its_own_threshold_pass_after_pass(
    inputs: int, shapes: tuple[Shape, ...], groups: int
) -> None:
    layout = small_layout(8, groups, shapes=shapes, inputs=inputs, hardware={"cluster": 4})
    program = layout.program
    dut = InputEncoder(layout)
    rng = random.Random(groups)
    thresholds = [3 * number for number in range(len(program.vectors))]
    rng.shuffle(thresholds)
    names = {vector.name: limit for vector, limit in zip(program.vectors, thresholds, strict=True)}
    low, high = program.layers[0].formats["x"].min // 6, program.layers[0].formats["x"].max // 6
    frames, limits = [], []
    for _ in range(4):  # sequences
        for run in layout.passes:
            of_columns = []
            for source in run.of.sources:
                layer = program.layers[source - 1]
                size, limit = (inputs, thresholds[0]) if source == 0 else (layer.outputs, names[layer.name])
                of_columns += [limit] * size
            steps = rng.randint(1, 4) if run.of.when == "step" else 1
            for step in range(steps):
                frames.append(([rng.randint(low, high) for _ in of_columns], step == steps - 1))
                limits.append(of_columns)
    assert len(layout.passes) > 1
    got = encode(layout, dut, frames, thresholds, rng)
    assert got == expect(frames, limits)
