from __future__ import annotations

import numpy as np
import pytest

from sparsegate import timing
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate.synthetic import Shape
from sparsegate_hw.lane import CellPipeline, pipelines
from tests.hw.blocks import simulate, small_program

CONFIGS = [
    QuantizeConfig(),
    QuantizeConfig(activation_bits=4, weight_bits=3),
    QuantizeConfig(activation_bits=16, weight_bits=16),
    QuantizeConfig(activation_bits=8, pre_bits=14, table_bits=6, state_bits=12),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layer", [0, 1])
def test_cell_pipeline_is_its_model_item_by_item(layer: int, config: QuantizeConfig) -> None:
    program = small_program(config=config)
    dut = CellPipeline(program.layers[layer])
    rng = np.random.default_rng(3)
    count = 60
    acc = program.layers[layer].formats["acc"]
    # a third of the items far outside the tables' range, a third inside, a third tiny
    scale = rng.choice([acc.max, acc.max >> 5, 8], size=(count, 1))
    gates = rng.integers(-scale, scale + 1, (count, len(dut.cell.gates)))
    states = {
        name: rng.integers(form.min, form.max + 1, count)
        for name, form in program.layers[layer].formats.items()
        if name in dut.cell.states
    }
    h, after = dut.model({name: gates[:, g] for g, name in enumerate(dut.cell.gates)}, states)
    seen: list[list[int]] = []

    async def testbench(ctx):
        for item in range(count + dut.latency):
            for g, name in enumerate(dut.cell.gates):
                ctx.set(getattr(dut, f"gate_{name}"), int(gates[item % count, g]))
            for name, values in states.items():
                ctx.set(getattr(dut, f"state_{name}"), int(values[item % count]))
            seen.append([ctx.get(dut.h), *(ctx.get(getattr(dut, f"next_{name}")) for name in dut.cell.states)])
            await ctx.tick()

    simulate(dut, testbench)
    assert [row[0] for row in seen[dut.latency :]] == h.tolist()
    for column, name in enumerate(dut.cell.states, 1):
        stage = dut.state_stages[name]
        assert [row[column] for row in seen[stage : stage + count]] == after[name].tolist()


def test_layers_of_one_kind_and_format_share_a_pipeline() -> None:
    shapes = (Shape("lstm", 8, NM(1, 4), NM(1, 4)), Shape("lstm", 6, NM(1, 4), NM(1, 4)), Shape("linear", 3))
    layout = Layout(small_program(*shapes), HardwareConfig(8))
    assert [(p.layer.kind, p.phases) for p in pipelines(layout)] == [("lstm", (0, 1)), ("linear", (2,))]


def test_latency_is_what_the_cycle_model_adds_up() -> None:
    program = small_program()
    lstm = program.layers[0]
    # narrow, lookup, multiply, add, narrow, narrow, lookup, multiply, narrow
    expected = 4 * timing.NARROW + 2 * timing.LOOKUP + 2 * timing.MUL + timing.ADD
    assert CellPipeline(lstm).latency == expected
    around = timing.READOUT + 2 + timing.SELECT + timing.BIAS + timing.DELTA
    assert timing.result_latency(lstm.cell, 0, 3) == around + expected
