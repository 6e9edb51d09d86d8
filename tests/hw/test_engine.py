"""What the engine promises beyond values and cycles, which tests/sim holds for every shape."""

from __future__ import annotations

import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from sparsegate import golden
from sparsegate.layout import HardwareConfig
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape, stimulus
from sparsegate_hw.engine import Engine, saturation_sites
from tests.hw.blocks import small_program


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
