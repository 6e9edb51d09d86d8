from __future__ import annotations

import random
from typing import Any

import pytest
from tests.hw.blocks import both_ways, simulate, small_layout

from sparsegate.array import timing
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine.lane import state_count
from sparsegate_hw.engine.state import StatePort

SHAPES = {
    "lstm": (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 2)),
    "gru": (Shape("gru", 7, NM(1, 2), NM(1, 2)),),
    "two phases, one value each": (Shape("gru_reset_before", 5, NM(1, 2), NM(1, 2)),),
    "projection": (Shape("lstm", 9, NM(1, 4), NM(1, 4), outputs=3),),
    "h alone": (Shape("rnn_tanh", 6, NM(1, 2), NM(1, 2)),),
    "mixed": (Shape("lstm", 5, NM(1, 2), NM(1, 2)), Shape("rnn_relu", 6), Shape("gru", 3)),
    "both ways": both_ways(),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize(("rows", "lanes"), [(12, 3), (24, 2), (12, 1)])
@pytest.mark.parametrize(("stall", "deep"), [(0.0, False), (0.6, False), (0.6, True)])
def test_takes_and_gives_every_word_in_order(
    shapes: tuple[Shape, ...], rows: int, lanes: int, stall: float, deep: bool
) -> None:
    layout = small_layout(rows, 1, lanes, shapes, {"cluster": 4, "states": True, "deep": deep})
    dut = StatePort(layout)
    rng = random.Random(rows + lanes)
    count = 1 + state_count(layout)
    low, high = -(1 << (layout.state_width - 1)), (1 << (layout.state_width - 1)) - 1
    holders = [number for number, phase in enumerate(layout.phases) if phase.loads]
    memory: dict[tuple[int, int], int] = {}  # (position, lane * count + word) as the lanes keep it

    def places(number: int) -> list[int]:
        """Which of a lane's words (h, then the states) a phase holds."""
        phase = layout.phases[number]
        return ([0] if phase.carried else []) + list(range(1, 1 + len(phase.loads) - int(phase.carried)))

    async def lanes_memory(ctx: Any) -> None:
        while True:
            _, _, position = await ctx.tick().sample(dut.position)
            for at in range(layout.lanes * count):
                ctx.set(dut.kept[at], memory.get((position, at), 0))

    async def move(ctx: Any, number: int, load: bool, words: list[int]) -> tuple[list[int], list, int]:
        """Run a phase: words given, positions pushed, cycles."""
        left, given, pushed, cycles = list(words), [], [], 0
        ctx.set(dut.phase, number)
        ctx.set(dut.load if load else dut.dump, 1)
        await ctx.tick()
        ctx.set(dut.load, 0)
        ctx.set(dut.dump, 0)
        while True:
            cycles += 1
            valid, ready = int(bool(left) and rng.random() >= stall), int(rng.random() >= stall)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.i.payload, left[0] if valid else 0)
            ctx.set(dut.o.ready, ready)
            if ctx.get(dut.i.ready) and valid:
                left.pop(0)
            if ctx.get(dut.o.valid) and ready:
                given.append(ctx.get(dut.o.payload))
            if ctx.get(dut.push):
                pushed.append((ctx.get(dut.position), [ctx.get(word) for word in dut.words]))
            done = ctx.get(dut.done)
            await ctx.tick()
            if done:
                assert not left
                return given, pushed, cycles

    async def testbench(ctx: Any) -> None:
        for number in holders:
            phase = layout.phases[number]
            words = [rng.randint(low, high) for _ in range(phase.positions * lanes * len(phase.loads))]
            given, pushed, cycles = await move(ctx, number, True, words)
            assert given == []
            expected, left = [], list(words)
            for position in range(phase.positions):
                row = [0] * (lanes * count)
                for lane in range(lanes):
                    for place in places(number):
                        row[lane * count + place] = left.pop(0)
                expected.append((phase.position_base + position, row))
            assert pushed == expected
            if not stall:
                assert cycles == timing.load_cycles(phase.positions, lanes * len(phase.loads), layout.depths) - 1
        for number in holders:
            phase = layout.phases[number]
            expected_words = []
            for position in range(phase.position_base, phase.position_base + phase.positions):
                for at in range(lanes * count):
                    memory[position, at] = rng.randint(low, high)
                expected_words += [
                    memory[position, lane * count + place] for lane in range(lanes) for place in places(number)
                ]
            given, pushed, cycles = await move(ctx, number, False, [])
            assert pushed == []
            assert given == expected_words
            if not stall:
                assert cycles == timing.dump_cycles(phase.positions, lanes * len(phase.loads)) - 1

    simulate(dut, lanes_memory, testbench)
