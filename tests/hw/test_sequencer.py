from __future__ import annotations

import pytest

from sparsegate import timing
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.synthetic import Shape
from sparsegate_hw.sequencer import Sequencer
from tests.hw.blocks import simulate, small_program


@pytest.mark.parametrize("when", ["step", "last"])
@pytest.mark.parametrize(("rows", "lanes"), [(4, 1), (8, 1), (8, 2)])
def test_phases_addresses_and_cycles_of_every_step(when: str, rows: int, lanes: int) -> None:
    shapes = (Shape("lstm", 10, NM(1, 4), NM(1, 4)), Shape("linear", 9, when=when))
    layout = Layout(small_program(*shapes), HardwareConfig(rows, 1, lanes))
    dut = Sequencer(layout)
    lasts = [0, 1, 1, 0]
    busy = 5  # cycles that a dispatch takes here
    seen: list[dict] = []
    cleared: list[tuple[int, int]] = []

    async def dispatchers(ctx):
        since = 0
        while True:
            _, _, run = await ctx.tick().sample(dut.run)
            since = since + 1 if run else 0
            ctx.set(dut.idle, int(since == busy - 1))

    async def testbench(ctx):
        ctx.set(dut.frame_ready, 1)
        for last in lasts:
            ctx.set(dut.frame_last, last)
            step = {"reads": [], "cycles": 0, "last": last}
            first = None
            while True:
                names = ("phase", "first", "step_done", "output", "turn", "sub", "position")
                values = dict(zip(names, (ctx.get(getattr(dut, name)) for name in names), strict=True))
                if ctx.get(dut.step_start):
                    step["cycles"] = 0
                first = values["first"]
                if ctx.get(dut.read.valid) and ctx.get(dut.clearing):
                    cleared.append((ctx.get(dut.read.address), ctx.get(dut.read.clear)))
                elif ctx.get(dut.read.valid):
                    step["reads"].append(
                        (
                            values["phase"],
                            ctx.get(dut.read.address),
                            values["turn"],
                            values["sub"],
                            values["position"],
                            ctx.get(dut.read.clear),
                        )
                    )
                if values["step_done"]:
                    step |= {"first": first, "output": values["output"]}
                    await ctx.tick()
                    break
                await ctx.tick()
                step["cycles"] += 1
            seen.append(step)

    simulate(dut, dispatchers, testbench)
    assert cleared == [(address, 1) for address in range(layout.acc_depth)]
    before = 1
    for step in seen:
        runs = [n for n, phase in enumerate(layout.phases) if phase.layer.when == "step" or step["last"]]
        assert step["first"] == before
        before = step["last"]
        assert step["output"] == (len(layout.phases) - 1 in runs)
        expected, cycles = [], 0
        for number in runs:
            phase = layout.phases[number]
            cycles += busy + timing.DRAIN + phase.positions
            cycles += timing.result_latency(phase.layer.cell, phase.layer.step_bits, 1)
            for position in range(phase.positions):
                rest, sub = divmod(position, phase.packed)
                address, turn = divmod(rest, layout.lane_clusters)
                ends = position % phase.turns == phase.turns - 1
                expected.append(
                    (
                        number,
                        phase.acc_base + address,
                        turn,
                        sub,
                        phase.position_base + position,
                        int(step["last"] and ends),
                    )
                )
        assert step["reads"] == expected
        assert step["cycles"] == cycles
