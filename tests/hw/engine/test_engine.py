"""What the engine promises beyond values and cycles, which tests/sim holds for every shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator
from numpy.typing import NDArray
from tests.hw.blocks import simulate, small_program

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.cells import CELLS
from sparsegate.network.synthetic import Shape, stimulus
from sparsegate.pattern import NM
from sparsegate_hw.engine import core
from sparsegate_hw.engine.dispatcher import Dispatcher
from sparsegate_hw.engine.engine import Engine, saturation_sites


def test_a_reset_in_the_middle_of_a_sequence_leaves_nothing_behind() -> None:
    program = small_program()
    raw = stimulus(program.input_format, 2, 4, program.inputs, seed=3)
    expected = golden.run(program, raw).outputs.reshape(-1).tolist()
    engine = Engine(program, HardwareConfig(8))
    reset = Signal()
    simulator = Simulator(ResetInserter(reset)(engine))
    simulator.add_clock(1e-6)
    got: list[int] = []

    async def send(ctx, frames, last):
        for number, frame in enumerate(frames):
            for column, value in enumerate(frame):
                ends = last and number == len(frames) - 1 and column == len(frame) - 1
                ctx.set(engine.x.payload, {"data": int(value), "last": int(ends)})
                ctx.set(engine.x.valid, 1)
                while True:
                    _, _, ready, valid, data = await ctx.tick().sample(
                        engine.x.ready, engine.y.valid, engine.y.payload.data
                    )
                    if valid:
                        got.append(data)
                    if ready:
                        break
        ctx.set(engine.x.valid, 0)

    async def testbench(ctx):
        ctx.set(engine.y.ready, 1)
        await send(ctx, raw[0, ::-1], last=False)
        await ctx.tick().repeat(30)  # while a frame is in work
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        got.clear()
        for sequence in raw:
            await send(ctx, sequence, last=True)
        for _ in range(1000):
            _, _, valid, data = await ctx.tick().sample(engine.y.valid, engine.y.payload.data)
            if valid:
                got.append(data)

    simulator.add_testbench(testbench)
    simulator.run()
    assert got == expected


@dataclass
class Run:
    """What an engine did: cycles in which steps start and end, results of every phase, outputs, final states."""

    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    trace: list[tuple[int, int, list[int]]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)


def play(
    engine: Engine,
    frames: list[tuple[int, int]],
    states: list[int],
    load: int,
    save: int,
    steps: int,
    apart: bool = False,
    beside: Callable | None = None,
) -> Run:
    """Stream values, never stalling, until ``steps`` steps are done and nothing more leaves.

    ``apart``: a frame comes only when the step before has ended. ``beside``: a testbench that runs meanwhile.
    """
    seen = Run()

    async def testbench(ctx: Any) -> None:
        inputs, words, cycle, quiet = list(frames), list(states), 0, 0
        for port, theta in zip(engine.threshold, engine.program.thresholds, strict=True):
            ctx.set(port, theta)
        ctx.set(engine.y.ready, 1)
        if engine.config.states:
            ctx.set(engine.load, load)
            ctx.set(engine.save, save)
            ctx.set(engine.state_out.ready, 1)
        while len(seen.end) < steps or quiet < 300:
            begun = (len(frames) - len(inputs)) // engine.program.inputs
            ctx.set(engine.x.valid, int(bool(inputs) and not (apart and begun > len(seen.end))))
            if inputs:
                ctx.set(engine.x.payload, {"data": inputs[0][0], "last": inputs[0][1]})
            if engine.config.states:
                ctx.set(engine.state_in.valid, int(bool(words)))
                ctx.set(engine.state_in.payload, words[0] if words else 0)
                if words and ctx.get(engine.state_in.ready):
                    words.pop(0)
                if ctx.get(engine.state_out.valid):
                    seen.words.append(ctx.get(engine.state_out.payload))
            quiet += 1
            if ctx.get(engine.step_start):
                seen.start.append(cycle)
                quiet = 0
            if ctx.get(engine.step_done):
                seen.end.append(cycle)
                quiet = 0
            trace = engine.trace
            if ctx.get(trace.valid):
                real = ctx.get(trace.real)
                values = [ctx.get(value) if real >> lane & 1 else None for lane, value in enumerate(trace.h)]
                seen.trace.append((ctx.get(trace.layer), ctx.get(trace.position), values))
            if ctx.get(engine.y.valid):
                seen.outputs.append((ctx.get(engine.y.payload.data), ctx.get(engine.y.payload.last)))
                quiet = 0
            if ctx.get(engine.x.valid) and ctx.get(engine.x.ready):
                inputs.pop(0)
            assert quiet < 4000, "the engine stands still"
            await ctx.tick()
            cycle += 1
        assert not inputs
        assert not words
        counters = engine.counters
        names = ("cycles", "steps", "columns_seen", "columns_sent")
        seen.counters = {name: ctx.get(getattr(counters, name)) for name in names}
        seen.counters["saturations"] = [ctx.get(count) for count in counters.saturations]

    simulate(engine, *([beside] if beside else []), testbench)
    return seen


def frames_of(raw: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Values of the sequences one after another, each with whether it ends its sequence."""
    frames = []
    for n, length in enumerate(lengths):
        rows = raw[n, :length].reshape(-1).tolist()
        frames += [(value, int(at == len(rows) - 1)) for at, value in enumerate(rows)]
    return frames


def state_words(state: Any, layout: Layout, count: int) -> list[int]:
    """States of so many sequences as words of the state ports."""
    found = []
    for n in range(count):
        mine = {name: {key: value[n] for key, value in parts.items()} for name, parts in state.items()}
        found += [word for run in range(len(layout.passes)) for word in layout.pack_state(run, mine)]
    return found


def expected_trace(trace: golden.Trace, layout: Layout) -> list[tuple[int, int, list[int | None]]]:
    """Every result in the order in which the lanes give it: sequence, pass, step, phase, position."""
    found = []
    for n in range(len(trace.lengths)):
        for run, this in zip(trace.passes, layout.passes, strict=True):
            steps = int(run.lengths[n])
            for t in range(steps):
                for k, number in enumerate(this.phases, 1):
                    if layout.phases[number].phase.when != "step" and t < steps - 1:
                        continue
                    values, units = run.streams[k].values[n, t], layout.units(number)
                    for position in range(layout.phases[number].positions):
                        row = [int(values[unit]) if unit >= 0 else None for unit in units[:, position]]
                        found.append((number, position, row))
    return found


N2 = NM(1, 2)
STACKS = {
    **{kind: (Shape(kind, 5, N2, N2 if CELLS[kind].recurrent else NM(1, 1)), Shape("linear", 3)) for kind in CELLS},
    "projected": (Shape("lstm", 6, N2, N2, outputs=3), Shape("linear_relu", 2, when="last")),
    "stacked": (Shape("gru", 4), Shape("lstm", 3, N2, N2), Shape("gru_reset_before", 4, N2, NM(1, 4))),
    "both ways": (Shape("gru", 3, both=True), Shape("lstm_peephole", 3, both=True), Shape("linear", 2, when="final")),
    "backwards": (Shape("rnn_tanh", 4, N2, N2, reverse=True),),
    "both ways, projected": (Shape("cifg", 4, outputs=2, both=True), Shape("gru_reset_before", 3)),
}


@pytest.mark.parametrize(
    ("shapes", "states", "banks", "deep", "blocks"),
    [pytest.param(shapes, True, 3, False, 0, id=name) for name, shapes in STACKS.items()]
    + [
        pytest.param(STACKS[name], False, 3, False, 0, id=f"{name}, no states")
        for name in ("gru", "stacked", "both ways")
    ]
    + [
        pytest.param(STACKS["stacked"], bool(banks % 2), banks, deep, 0, id=f"stacked, banks {banks}, deep {deep}")
        for banks in (1, 2)
        for deep in (False, True)
    ]
    + [pytest.param(STACKS[name], name != "gru", 3, True, 0, id=f"{name}, deep") for name in ("gru", "both ways")]
    + [
        pytest.param(
            STACKS[name], blocks == 1, banks, blocks == 1, blocks, id=f"{name}, {blocks} of {banks} in block RAM"
        )
        for name, banks, blocks in (
            ("gru", 3, 1),
            ("stacked", 3, 1),
            ("stacked", 1, 1),
            ("stacked", 3, 3),
            ("both ways, projected", 3, 3),
        )
    ],
)
def test_engine_equals_golden_and_cycle_model(
    shapes: tuple[Shape, ...], states: bool, banks: int, deep: bool, blocks: int
) -> None:
    """Values of every phase, outputs, states, counters and cycles of each kind and structure."""
    program = small_program(*shapes, inputs=3, seed=len(shapes) + 2 * states)
    states = states and any(layer.carried for layer in program.layers)
    # thresholds of all vectors differ
    program = program.with_thresholds(*[(5 * k) % 4 for k in range(len(program.vectors))])
    config = HardwareConfig(12, 2, 1, cluster=6, states=states, steps=4) if states else HardwareConfig(12, 1, 3, 4)
    engine = Engine(program, replace(config, banks=banks, deep=deep, block_banks=blocks))
    layout = engine.layout
    assert sum(layout.acc_in_blocks) == min(blocks, layout.acc_banks)
    assert layout.acc_banks <= banks
    lengths = np.array([1, 3])
    raw = stimulus(program.input_format, 2, 3, 3, seed=4)
    start = None
    rng = np.random.default_rng(1)
    if states:
        start = {
            layer.name: {"h": rng.uniform(-0.9, 0.9, (2, layer.outputs))} for layer in program.layers if layer.carried
        }
        start = program.quantize_state(start, 2)
    trace = golden.run(program, raw, lengths, state=start, saturations=True)
    predicted = cycles.predict(trace, layout, final=states)

    words = state_words(start, layout, 2) if states else []
    seen = play(engine, frames_of(raw, lengths), words, int(states), int(states), int(trace.ran.sum()))
    assert seen.start == predicted.start[trace.ran].tolist()
    assert seen.end == predicted.end[trace.ran].tolist()
    assert seen.trace == expected_trace(trace, layout)
    outputs = []
    for n, length in enumerate(lengths):
        steps = range(length) if program.layers[-1].when == "step" else [length - 1]
        rows = [value for t in steps for value in trace.outputs[n, t].tolist()]
        outputs += [(value, int(at == len(rows) - 1)) for at, value in enumerate(rows)]
    assert seen.outputs == outputs
    assert seen.words == (state_words(trace.state, layout, 2) if states else [])
    sites = [trace.saturations[layer.name][site] for layer in program.layers for site in layer.sites]
    assert seen.counters == {
        # a cycle with two frames in work counts once
        "cycles": len(set().union(*(range(*pair) for pair in zip(seen.start, seen.end, strict=True)))),
        "steps": int(trace.ran.sum()),
        "columns_seen": predicted.columns_seen,
        "columns_sent": predicted.columns_sent,
        "saturations": sites,
    }


@pytest.mark.parametrize(
    "shapes",
    [
        (Shape("lstm", 6, N2, N2),),
        (Shape("gru_reset_before", 4, N2, N2), Shape("linear", 3)),
        (Shape("lstm", 5, outputs=3), Shape("gru", 3), Shape("linear", 2, when="last")),
    ],
)
def test_a_step_ends_without_the_next_frame(shapes: tuple[Shape, ...]) -> None:
    """Frames that come one by one: every step and output is there before the next frame, in the predicted cycles."""
    program = small_program(*shapes, inputs=2)
    engine = Engine(program, HardwareConfig(8, 2, 1, cluster=4))
    lengths = np.array([3, 1, 2])
    raw = stimulus(program.input_format, 3, 3, 2, seed=1)
    trace = golden.run(program, raw, lengths)
    predicted = cycles.predict(trace, engine.layout, apart=True)
    seen = play(engine, frames_of(raw, lengths), [], 0, 0, int(lengths.sum()), apart=True)
    assert seen.trace == expected_trace(trace, engine.layout)
    assert seen.start == predicted.start[trace.ran].tolist()
    assert seen.end == predicted.end[trace.ran].tolist()
    # in work one after the other, so every cycle counts
    assert seen.counters["cycles"] == int((predicted.end - predicted.start)[trace.ran].sum())
    assert (np.array(seen.start[1:]) > seen.end[:-1]).all()


@pytest.mark.parametrize(("name", "states"), [("lstm", True), ("stacked", True), ("both ways, projected", False)])
def test_every_group_issues_the_predicted_beats(monkeypatch: pytest.MonkeyPatch, name: str, states: bool) -> None:
    """Counted at the dispatchers, of which each serves the columns of its own group that moved."""
    dispatchers: list[Dispatcher] = []

    class Counted(Dispatcher):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            dispatchers.append(self)

    monkeypatch.setattr(core, "Dispatcher", Counted)
    program = small_program(*STACKS[name], inputs=7, seed=2).with_thresholds(3)
    engine = Engine(program, HardwareConfig(12, 3, 1, cluster=6, states=states, steps=4))
    lengths = np.array([4, 2])
    raw = stimulus(program.input_format, 2, 4, 7, seed=6)
    start = None
    if states:
        rng = np.random.default_rng(1)
        start = program.quantize_state(
            {one.name: {"h": rng.uniform(-0.9, 0.9, (2, one.outputs))} for one in program.layers if one.carried}, 2
        )
    trace = golden.run(program, raw, lengths, state=start)
    predicted = cycles.predict(trace, engine.layout)
    found: list[list[int]] = []

    async def count(ctx: Any) -> None:
        found.extend([0] for _ in dispatchers)
        async for _, _, *valid in ctx.tick().sample(*(one.beat.valid for one in dispatchers)):
            for total, one in zip(found, valid, strict=True):
                total[0] += one

    words = state_words(start, engine.layout, 2) if start is not None else []
    play(engine, frames_of(raw, lengths), words, int(states), 0, int(trace.ran.sum()), beside=count)
    assert [total for (total,) in found] == predicted.group_beats.tolist()
    assert len(set(predicted.group_beats.tolist())) > 1  # so that groups mixed up would be noticed


def test_counters_are_named_in_the_order_of_their_ports() -> None:
    program = small_program(Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("linear", 3))
    sites = saturation_sites(program)
    assert sites == [("lstm0", site) for site in ("i", "f", "g", "o", "c", "tanh_c", "h")] + [("linear1", "h")]
    assert len(Engine(program, HardwareConfig(8)).counters.saturations) == len(sites)


def test_a_program_that_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="6 PE rows do not divide into clusters of 4"):
        Engine(small_program(), HardwareConfig(6))


def test_default_thresholds_come_from_the_program_not_from_the_netlist() -> None:
    """Θ is an input: two Programs that differ in it alone have one shape."""
    program = small_program()
    assert program.with_thresholds(3).shape_digest == program.shape_digest
