from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, count

import numpy as np
import pytest
from tests.hw.blocks import simulate, small_program

from sparsegate import golden
from sparsegate.array import timing
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.network.synthetic import Shape, stimulus
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_hw.engine.buffer import Frames, SequenceBuffer, regions
from sparsegate_hw.synthesis.verilog import convert

BOTH = Shape("lstm", 4, both=True)
NETWORKS = {
    "both": (BOTH,),
    "both, one unit": (Shape("rnn_tanh", 1, both=True),),
    "stacked": (BOTH, Shape("gru", 3, both=True), Shape("linear", 2)),
    "stacked, no head": (Shape("gru", 3, both=True), BOTH, Shape("lstm", 5, both=True)),
    "last": (BOTH, Shape("linear", 3, when="last")),
    "final": (BOTH, Shape("linear", 3, when="final")),
    "head at the end of a pass": (BOTH, Shape("linear", 5), Shape("linear", 3, when="last")),
    "projection": (Shape("lstm", 6, outputs=2, both=True), Shape("lstm", 4, outputs=3, both=True)),
    "reverse": (Shape("lstm", 4, reverse=True),),
    "reverse, last": (Shape("lstm", 4, reverse=True), Shape("linear", 2, when="last")),
    "reverse, final": (Shape("lstm", 4, reverse=True), Shape("linear", 2, when="final")),
    "reverse, then forward": (Shape("lstm", 4, reverse=True), Shape("lstm", 3), Shape("lstm", 2, reverse=True)),
    "forward": (Shape("lstm", 4), Shape("linear", 2)),
}
STEPS = 5

Core = Callable[[int, Frames], Frames]


def lists(values: np.ndarray) -> Frames:
    return [[int(value) for value in frame] for frame in values]


def core_of(program: Program, sequence: np.ndarray, fed: list[Frames]) -> tuple[Core, Frames, list[Frames]]:
    """A pass from the golden model, which notes what it was fed; the golden model's outputs; what the passes should be fed."""
    trace = golden.run(program, sequence[None])
    expected = [lists(run.streams[0].values[0, : run.lengths[0]]) for run in trace.passes]

    def core(number: int, frames: Frames) -> Frames:
        fed.append(frames)
        this = program.passes[number]
        layer = program.layers[this.layers[-1]]
        values = trace.layers[this.layers[-1]][0]
        if layer.when != "step":
            return lists(values[-1:])
        return lists(values[::-1] if this.reverse else values)

    outputs = trace.outputs[0]
    return core, lists(outputs if program.layers[-1].when == "step" else outputs[-1:]), expected


def run(dut: SequenceBuffer, sequences: list[np.ndarray], stall: float, seed: int = 1) -> dict[str, list]:
    """Run sequences against the golden model as the core; cycles and values of all that moved, by stream."""
    program, rng = dut.program, random.Random(seed)
    moved: dict[str, list[tuple[int, int, int]]] = {"i": [], "o": [], "feed": [], "collect": []}
    flags: list[int] = []

    async def watch(ctx):
        names = [(name, getattr(dut, name)) for name in moved]
        wires = [wire for _, port in names for wire in (port.valid & port.ready, port.payload.data, port.payload.last)]
        for cycle in count():
            _, _, *found = await ctx.tick().sample(*wires)
            for (name, _), at in zip(names, range(0, len(found), 3), strict=True):
                if found[at]:
                    moved[name].append((cycle, found[at + 1], found[at + 2]))

    async def send(ctx, port, frames, noisy):
        for number, frame in enumerate(frames):
            for column, value in enumerate(frame):
                while rng.random() < stall:
                    await ctx.tick()
                done = column == len(frame) - 1
                # "last" on an earlier value of an input frame means nothing
                last = int(number == len(frames) - 1) if done else noisy and rng.randint(0, 1)
                ctx.set(port.payload, {"data": value, "last": last})
                ctx.set(port.valid, 1)
                await ctx.tick().until(port.ready)
                ctx.set(port.valid, 0)

    async def take(ctx, port) -> list[int]:
        values = []
        while True:
            while rng.random() < stall:
                await ctx.tick()
            if rng.random() < stall:
                # "valid" must not wait for "ready"
                await ctx.tick().until(port.valid)
            ctx.set(port.ready, 1)
            payload = await ctx.tick().sample(port.payload.data, port.payload.last).until(port.valid)
            ctx.set(port.ready, 0)
            values.append(payload[0])
            if payload[1]:
                return values

    async def source(ctx):
        for sequence in sequences:
            await send(ctx, dut.i, lists(sequence), 1)

    async def engine(ctx):
        for sequence in sequences:
            fed: list[Frames] = []
            core, _, expected = core_of(program, sequence[: dut.steps], fed)
            for number, frames in enumerate(expected):
                assert await take(ctx, dut.feed) == list(chain(*frames)), f"pass {number}"
                await send(ctx, dut.collect, core(number, frames), 0)

    async def sink(ctx):
        for number, sequence in enumerate(sequences):
            core, outputs, expected = core_of(program, sequence[: dut.steps], fed := [])
            flags.append(int(flags[-1:] == [1] or len(sequence) > dut.steps))
            assert dut.model(program, dut.steps, lists(sequence), core) == (outputs, len(sequence) > dut.steps)
            assert fed == expected
            assert await take(ctx, dut.o) == list(chain(*outputs)), f"sequence {number}"
            assert ctx.get(dut.too_long) == flags[-1]
        await ctx.tick().repeat(20)

    simulate(dut, watch, source, engine, sink)
    return moved


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_passes_are_the_golden_models(name: str, stall: float) -> None:
    program = small_program(*NETWORKS[name], inputs=3)
    dut = SequenceBuffer(program, STEPS)
    sequences = [
        stimulus(program.input_format, 1, length, 3, length)[0] for length in (STEPS, 1, 3, 2, STEPS + 1, STEPS, 8, 1)
    ]
    moved = run(dut, sequences, stall)
    outputs = sum(program.outputs * (1 if program.layers[-1].when != "step" else min(len(s), STEPS)) for s in sequences)
    assert len(moved["o"]) == outputs
    assert sum(last for _, _, last in moved["o"]) == len(sequences)
    assert sum(last for _, _, last in moved["feed"]) == len(sequences) * len(program.passes)


def test_sources_from_anywhere() -> None:
    """A layer over the input, an earlier layer and a reversed one; an output of two layers."""
    rng = np.random.default_rng(3)

    def layer(name: str, units: int, inputs: int, *sources: str, reverse: bool = False) -> Layer:
        parts = [rng.normal(0, 1, size) for size in ((units, inputs), (units, units), units)]
        return Layer(name, "rnn_tanh", *parts, sources=sources, reverse=reverse)

    layers = (
        layer("a", 2, 3, "input"),
        layer("b", 4, 5, "input", "a", reverse=True),
        layer("c", 3, 9, "b", "input", "a"),
        layer("d", 1, 7, "c", "b", reverse=True),
    )
    program = quantize(Network(layers, output=("d", "b", "d")), rng.normal(size=(3, 4, 3)))
    assert [this.sources for this in program.passes] == [(0,), (0, 1), (2, 0, 1), (3, 2)]
    run(SequenceBuffer(program, STEPS), [stimulus(program.input_format, 1, n, 3, n)[0] for n in (4, 1, STEPS)], 0.3)


@pytest.mark.parametrize("inputs", [1, 4])
@pytest.mark.parametrize("steps", [1, 2])
def test_small_buffers(inputs: int, steps: int) -> None:
    program = small_program(Shape("rnn_tanh", 1, both=True), Shape("rnn_tanh", 2, both=True), inputs=inputs)
    rng = random.Random(steps)
    lengths = [rng.randint(1, steps + 1) for _ in range(8)]
    sequences = [stimulus(program.input_format, 1, n, inputs, seed)[0] for seed, n in enumerate(lengths)]
    run(SequenceBuffer(program, steps), sequences, 0.3)


@pytest.mark.parametrize("name", NETWORKS)
def test_latency_and_throughput(name: str) -> None:
    program = small_program(*NETWORKS[name], inputs=3)
    moved = run(SequenceBuffer(program, STEPS), [stimulus(program.input_format, 1, 4, 3, 1)[0]] * 2, 0.0)
    # cycles of each stretch up to a "last"
    bursts: dict[str, list[list[int]]] = {}
    for stream in ("feed", "collect", "o"):
        bursts[stream] = [[]]
        for cycle, _, last in moved[stream]:
            bursts[stream][-1].append(cycle)
            bursts[stream] += [[]] if last else []
    taken = [cycle for cycle, _, _ in moved["i"]]
    again = bursts["o"][0][-1] + timing.BUFFER_RETURN
    assert taken == [*range(12), *range(again, again + 12)]
    feeds, collects = iter(bursts["feed"]), iter(bursts["collect"])
    for sequence, out in enumerate(bursts["o"][:2]):
        end = taken[sequence * 12 + 11]
        for _ in program.passes:
            feed, collect = next(feeds), next(collects)
            assert feed[0] == end + timing.BUFFER_FEED
            assert feed[-1] == feed[0] + len(feed) - 1
            assert collect[-1] == collect[0] + len(collect) - 1
            end = collect[-1]
        assert out[0] == end + SequenceBuffer.latency
        assert out[-1] == out[0] + len(out) - 1


def test_regions_of_vectors_that_live_together_do_not_overlap() -> None:
    program = small_program(*NETWORKS["stacked, no head"], inputs=3)
    found = regions(program, STEPS)
    assert sorted(found) == list(range(7))
    # the input, and the first layer's outputs
    assert [(region.base, region.end) for region in list(found.values())[:3]] == [(0, 15), (15, 30), (30, 45)]
    # the last layer takes the second's, and its place is that of all before
    for turns in ((0, 1, 2), (1, 2, 3), (1, 2, 3, 4), (3, 4, 5, 6)):
        used = sorted(chain(*(range(found[vector].base, found[vector].end) for vector in turns)))
        assert len(used) == len(set(used)), turns
    assert max(region.end for region in found.values()) < sum(region.end - region.base for region in found.values())


def test_each_width_has_its_memory() -> None:
    program = small_program(*NETWORKS["final"], inputs=3)
    assert SequenceBuffer(program, 100).depths == {8: 1100, 16: 3}


def test_a_buffer_of_nothing_is_refused() -> None:
    with pytest.raises(SparseGateError, match="sequence buffer of 0 steps asked for, expected at least 1"):
        SequenceBuffer(small_program(BOTH), 0)


def test_it_is_verilog() -> None:
    text = convert(SequenceBuffer(small_program(*NETWORKS["stacked"], inputs=3), STEPS), "sequence_buffer")
    for port in ("i__payload", "o__payload", "feed__payload", "collect__payload", "too_long"):
        assert port in text
