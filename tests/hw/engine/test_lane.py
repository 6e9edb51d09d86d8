from __future__ import annotations

import random

import numpy as np
import pytest
from tests.hw.blocks import simulate, small_layout, small_program

from sparsegate.array import HardwareConfig, Layout, timing
from sparsegate.cells import CELLS, IntegerArithmetic, phases_of
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate_hw.engine.cell import CellPipeline
from sparsegate_hw.engine.lane import pipelines
from sparsegate_hw.engine.lane_control import LaneControl

CONFIGS = [
    QuantizeConfig(),
    QuantizeConfig(activation_bits=4, weight_bits=3),
    QuantizeConfig(activation_bits=16, weight_bits=16),
    QuantizeConfig(activation_bits=8, pre_bits=14, table_bits=6, state_bits=12),
]
PHASES = [
    (kind, projected, number)
    for kind, cell in CELLS.items()
    for projected in ([False, True] if cell.projectable else [False])
    for number in range(len(phases_of(cell, projected)))
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("depths", [timing.SHALLOW, timing.DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize(("kind", "projected", "number"), PHASES)
def test_cell_pipeline_is_its_model_item_by_item(
    kind: str, projected: bool, number: int, config: QuantizeConfig, depths: timing.Depths
) -> None:
    recurrent = NM(2, 4) if CELLS[kind].recurrent else NM(1, 1)
    program = small_program(Shape(kind, 6, NM(1, 4), recurrent, outputs=3 if projected else 0), config=config)
    phase = program.phases[number]
    dut = CellPipeline(phase, depths)
    rng = np.random.default_rng(3)
    count = 60
    # a third of the items far outside the tables' range, a third inside, a third tiny
    acc = phase.formats["acc"]
    scale = rng.choice([acc.max, acc.max >> 5, 8], size=count)
    gates = {name: rng.integers(-scale, scale + 1) for name in phase.spec.sums}

    def draw(name: str, form: str) -> np.ndarray:
        return rng.integers(phase.formats[form].min, phase.formats[form].max + 1, count)

    states = {name: draw(name, name) for name in dut.states}
    parameters = {name: draw(name, "parameter") for name in dut.parameters}
    clipped: dict[str, list[bool]] = {}
    h, after = dut.model(gates, states, parameters)

    def observe(site, before, narrowed):
        shift = before.frac - narrowed.frac
        exact = (before.raw + (1 << (shift - 1))) >> shift if shift > 0 else before.raw << -shift
        clipped[site] = (exact != narrowed.raw).tolist()

    phase.spec.step(IntegerArithmetic(phase.formats, phase.step_bits, gates, states, parameters, observe))
    inputs = {f"gate_{name}": values for name, values in gates.items()}
    inputs |= {f"state_{name}": values for name, values in states.items()}
    inputs |= {f"parameter_{name}": values for name, values in parameters.items()}
    outputs = {"h": (dut.latency, h.tolist())}
    outputs |= {f"next_{name}": (dut.state_stages[name], values.tolist()) for name, values in after.items()}
    outputs |= {f"saturated_{site}": (dut.site_stages[site], flags) for site, flags in clipped.items()}
    seen: dict[str, list[int]] = {name: [] for name in outputs}

    async def testbench(ctx):
        for item in range(count + dut.latency):
            for name, values in inputs.items():
                ctx.set(getattr(dut, name), int(values[item % count]))
            for name, values in seen.items():
                values.append(ctx.get(getattr(dut, name)))
            await ctx.tick()

    simulate(dut, testbench)
    assert set(after) == set(dut.state_stages)
    assert set(clipped) == set(phase.spec.sites)
    for name, (stage, values) in outputs.items():
        assert seen[name][stage : stage + count] == values, name


def test_phases_of_one_kind_and_format_share_a_pipeline() -> None:
    shapes = (Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("lstm", 6, NM(1, 4), NM(1, 4)), Shape("linear", 3))
    found = pipelines(small_layout(8, shapes=shapes))
    assert [(p.phase.layer.kind, p.phases) for p in found] == [("lstm", (0, 1)), ("linear", (2,))]


def test_both_phases_and_both_projections_have_pipelines_of_their_own() -> None:
    shapes = (Shape("gru_reset_before", 6), Shape("lstm", 8, NM(1, 4), NM(1, 4), outputs=4))
    found = pipelines(small_layout(8, shapes=shapes))
    names = ["gru_reset_before_0", "gru_reset_before_1", "lstm_2", "projection_3"]
    assert [(p.name, p.phases) for p in found] == [(name, (number,)) for number, name in enumerate(names)]


@pytest.mark.parametrize("depths", [timing.SHALLOW, timing.DEEP])
def test_latency_is_what_the_cycle_model_adds_up(depths: timing.Depths) -> None:
    program = small_program()
    lstm = program.phases[0]
    # narrow, lookup, multiply, add, narrow, narrow, lookup, multiply, narrow
    expected = 4 * depths.narrow + 2 * timing.LOOKUP + 2 * timing.MUL + timing.ADD
    assert CellPipeline(lstm, depths).latency == expected
    around = depths.readout + 2 + timing.SELECT + timing.BIAS + depths.delta + depths.known
    assert timing.result_latency(lstm.spec, 0, 3, depths) == around + expected


@pytest.mark.parametrize(("groups", "deep"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize(
    "shapes",
    [
        (Shape("lstm", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)),
        # the second phase finds its layer's states where the first left them
        (Shape("gru_reset_before", 9, NM(1, 2), NM(1, 2)), Shape("gru_reset_before", 5, NM(1, 2), NM(1, 2))),
        (Shape("lstm", 10, NM(1, 4), NM(1, 4), outputs=3), Shape("gru", 4)),
    ],
)
def test_control_gives_every_stage_its_address(shapes: tuple[Shape, ...], groups: int, deep: bool) -> None:
    """Read positions with gaps, phase after phase; every bus signal is the item's, at its documented delay."""
    layout = Layout(small_program(*shapes), HardwareConfig(8, groups, 1, cluster=4, deep=deep))
    dut = LaneControl(layout)
    rng = random.Random(groups)
    ahead = layout.depths.readout - 1 + timing.group_sum(groups)
    by_phase = {number: pipeline for pipeline in pipelines(layout) for number in pipeline.phases}
    written = [stage for stage in range(len(dut.bus.valid)) if hasattr(dut.bus, f"written_{stage}")]
    cells = [CellPipeline(pipeline.phase, pipeline.depths) for pipeline in pipelines(layout)]
    assert written == sorted({stage for cell in cells for stage in cell.state_stages.values()})

    async def testbench(ctx):
        for number, phase in enumerate(layout.phases):
            latency = by_phase[number].latency
            items = []
            for position in range(phase.positions):
                items += [None] * rng.choice([0, 0, 1, 2]) + [position]
            turns = [(rng.randrange(layout.lane_clusters), rng.randrange(phase.packed)) for _ in items]
            end = ahead + timing.SELECT + timing.BIAS + latency + layout.depths.delta
            history, places = [], []
            ctx.set(dut.phase, number)
            ctx.set(dut.begin, 1)
            await ctx.tick().repeat(2)
            ctx.set(dut.begin, 0)
            for cycle in range(len(items) + end + 1):
                item = items[cycle] if cycle < len(items) else None
                ctx.set(dut.valid, int(item is not None))
                if cycle < len(items):
                    ctx.set(dut.turn, turns[cycle][0])
                    ctx.set(dut.sub, turns[cycle][1])
                bus = dut.bus
                history.append(
                    {
                        "select": (ctx.get(bus.turn), ctx.get(bus.sub)),
                        "bias": ctx.get(bus.bias),
                        "state": ctx.get(bus.state),
                        "valid": [ctx.get(value) for value in bus.valid],
                        "written": {stage: ctx.get(getattr(bus, f"written_{stage}")) for stage in written},
                        "sent": ctx.get(bus.sent_address),
                        "update": (ctx.get(bus.update_valid), ctx.get(bus.update_address)),
                        "result": (ctx.get(bus.result_valid), ctx.get(bus.result_address)),
                        "column": (ctx.get(dut.place), ctx.get(dut.group)),
                    }
                )
                await ctx.tick()
            for cycle, item in enumerate(items):
                cell = cycle + ahead + timing.SELECT + timing.BIAS
                done = cell + latency + layout.depths.delta
                if item is None:
                    assert history[cell]["valid"][0] == 0
                    assert history[done]["result"][0] == 0
                    continue
                address = phase.position_base + item
                assert history[cycle + ahead - 1]["select"] == turns[cycle]
                assert history[cell - timing.BIAS - timing.MEMORY - layout.depths.bias]["bias"] == address
                assert history[cycle + ahead + timing.SELECT - 1]["state"] == phase.state_base + item
                for stage in range(latency + 1):
                    row = history[cell + stage]
                    assert row["valid"][stage] == 1
                    if stage in written:
                        assert row["written"][stage] == phase.state_base + item
                # an item leaves at its own pipeline's end
                for stage in range(latency + 1, len(dut.bus.valid)):
                    assert history[min(cell + stage, len(history) - 1)]["valid"][stage] == 0
                assert history[done - layout.depths.delta - 1]["sent"] == address
                assert history[done - 1]["update"] == (1, address)
                assert history[done]["result"] == (1, address)
                places.append(history[done]["column"])
            # lane l's column at a position is the group's (position + l) mod groups: counted here for lane 0
            assert places == [divmod(position, groups) for position in range(phase.positions)]

    simulate(dut, testbench)
