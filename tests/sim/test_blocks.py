"""Blocks of the hardware under cocotb: random stalls and bubbles, against their own integer models."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sparsegate.numerics import tables
from sparsegate.numerics.fixed import QFormat
from sparsegate_hw.arithmetic.activation import ActivationLookup
from sparsegate_hw.engine.cell import CellPipeline
from sparsegate_hw.engine.encoder import DeltaCompare, InputEncoder
from sparsegate_hw.engine.pe import ProcessingElement
from sparsegate_sim import blocks
from tests.hw.blocks import small_layout, small_program
from tests.sim.test_runner import SIMULATORS

PIPELINE = "sparsegate_sim.benches.pipeline"


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_input_encoder(simulator, tmp_path) -> None:
    groups, threshold, inputs = 3, 9, 5
    layout = small_layout(8, groups, inputs=inputs)
    rng = random.Random(4)
    frames = [[[rng.randint(-20, 20) for _ in range(inputs)], rng.random() < 0.3] for _ in range(60)]
    lists, reference = [], [0] * inputs
    for values, last in frames:
        moves = []
        for column, value in enumerate(values):
            moved, delta, reference[column] = DeltaCompare.model(value, reference[column], threshold)
            if moved:
                moves.append([column, delta])
        lists.append(moves)
        reference = [0] * inputs if last else reference
    width = layout.program.input_format.width
    parameters = {"frames": frames, "lists": lists, "groups": groups, "width": width, "threshold": threshold, "seed": 5}
    got = blocks.run(
        InputEncoder(layout), "sparsegate_sim.benches.encoder", parameters, simulator=simulator, folder=tmp_path
    )
    assert got == {"frames": 60}


@pytest.mark.icarus
@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
@pytest.mark.parametrize("step_bits", [0, 3])
def test_activation_table_for_every_input(function: str, step_bits: int, tmp_path) -> None:
    table = tables.table(function, QFormat(10, 6), QFormat(10, 8), step_bits)
    dut = ActivationLookup(table)
    values = np.random.default_rng(1).permutation(np.arange(-table.source.max, table.source.max + 1))
    expected = dut.model(values)
    items = [
        blocks.Item({"i": int(value)}, {"o": (dut.latency, int(want))})
        for value, want in zip(values, expected, strict=True)
    ]
    got = blocks.run(dut, PIPELINE, blocks.pipeline(items, seed=2), folder=tmp_path)
    assert got["compared"] == len(values)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_cell_of_a_lane(simulator, tmp_path) -> None:
    phase = small_program().phases[0]
    dut = CellPipeline(phase)
    rng = np.random.default_rng(3)
    acc, form = phase.formats["acc"], phase.formats
    items = []
    for _ in range(300):
        # all magnitudes: most of an accumulator's range saturates, the interesting part lies near zero
        gates = {
            name: int(rng.integers(acc.min, acc.max + 1) >> rng.integers(0, acc.width)) for name in phase.spec.sums
        }
        states = {name: int(rng.integers(form[name].min, form[name].max + 1)) for name in phase.layer.cell.states}
        h, after = dut.model(
            {name: np.int64(value) for name, value in gates.items()},
            {name: np.int64(value) for name, value in states.items()},
        )
        outputs = {"h": (dut.latency, int(h))}
        outputs |= {f"next_{name}": (dut.state_stages[name], int(value)) for name, value in after.items()}
        inputs = {f"gate_{name}": value for name, value in gates.items()}
        inputs |= {f"state_{name}": value for name, value in states.items()}
        items.append(blocks.Item(inputs, outputs))
    got = blocks.run(dut, PIPELINE, blocks.pipeline(items, seed=6), simulator=simulator, folder=tmp_path)
    assert got["compared"] == 600


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_processing_element(simulator, deep, tmp_path) -> None:
    layout = small_layout(hardware={"deep": deep})
    depths = layout.depths
    # any accumulator in any cycle, and several entries in a word
    vars(layout).update(loop_distance=1, weight_words=8)
    rng = random.Random(7)
    depth, block = layout.weight_depth, 1 << layout.index_width
    index = [rng.randrange(block) for _ in range(depth)]
    weight = [rng.randint(-128, 127) for _ in range(depth)]
    model = dict.fromkeys(range(layout.acc_depth), 0)
    bursts = []
    for _ in range(4):
        beats = []
        for _ in range(60):
            # few addresses, so that one accumulator is hit in consecutive cycles
            address, slot, delta = rng.randrange(4) * (depth // 4), rng.choice((0, 1)), rng.randint(-200, 200)
            beats.append([address, slot, delta])
            model = ProcessingElement.model(model, slot, index[address], weight[address], delta)
        clear = rng.random() < 0.5
        bursts.append(
            {"beats": beats, "clear": clear, "expected": [model[address] for address in range(layout.acc_depth)]}
        )
        if clear:
            model = dict.fromkeys(model, 0)
    parameters = {"bursts": bursts, "mac": depths.mac, "readout": depths.readout - depths.broadcast - 1, "seed": 8}
    dut = ProcessingElement(layout, index, weight)
    got = blocks.run(dut, "sparsegate_sim.benches.pe", parameters, simulator=simulator, folder=tmp_path)
    assert got == {"compared": 4 * layout.acc_depth}
