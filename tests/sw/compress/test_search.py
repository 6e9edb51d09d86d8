"""Allocation: costs equal those of real layouts and of the cycle model, and no combination beats the one that is found."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sw.shapes import configs, stacks

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.array.memories import block_rams, block_rams_of
from sparsegate.array.step import alone_cycles
from sparsegate.cells import cell, phases_of
from sparsegate.cells.matrices import KEYS
from sparsegate.compress import costs
from sparsegate.compress.budget import Allocation, Budget
from sparsegate.compress.search import allocate, solve
from sparsegate.compress.sensitivity import Measurement, Scan, digest, matrices_of, scan
from sparsegate.errors import SparseGateError
from sparsegate.fpga.memory import rom_blocks
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import DENSE, NM, Pattern, parse
from sparsegate.quantize import QuantizeConfig, quantize

CANDIDATES: tuple[Pattern, ...] = (NM(1, 2), NM(1, 4), NM(2, 8), NM(2, 6), parse("unstructured:1/4"))


def hardware(draw, net) -> HardwareConfig:
    """An array that the network fits on."""
    most = max(len(p.gates) for layer in net.layers for p in phases_of(cell(layer.kind), layer.w_p is not None))
    clusters = draw(st.integers(1, 3))
    lanes = draw(st.sampled_from([None, 1]))
    return HardwareConfig(most * clusters, draw(st.integers(1, 3)), lanes, multiplier=64)


def data(net, count: int = 2, steps: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, steps, net.inputs))


def drawn_scan(net, seed: int, candidates=CANDIDATES, levels: int = 5) -> Scan:
    """A scan with random scores, few of them different, so that ties are met."""
    rng = np.random.default_rng(seed)
    matrices = tuple((layer.name, key) for layer, key in matrices_of(net, heads=True))
    made = tuple(
        Measurement(*at, each, float(rng.integers(-1, levels)) / levels, float(rng.integers(0, 3)))
        for at in matrices
        for each in candidates
    )
    return Scan(digest(net), None, "magnitude", 1.0, tuple(candidates), matrices, made)


# --- costs -----------------------------------------------------------------------------------------------------------


def all_sent(trace):
    """The same run, had every column been sent in every step."""
    return replace(
        trace,
        passes=tuple(
            replace(
                run,
                streams=tuple(
                    replace(stream, sent=np.ones_like(stream.sent), held=np.ones_like(stream.held))
                    for stream in run.streams
                ),
            )
            for run in trace.passes
        ),
    )


@settings(max_examples=40)
@given(st.data())
def test_a_full_step_takes_what_the_cycle_model_says(given_data):
    draw = given_data.draw
    net = network(draw(st.integers(1, 7)), draw(stacks()), 1)
    program = quantize(net, data(net), config=draw(configs))
    layout = Layout(program, hardware(draw, net))
    trace = all_sent(golden.run(program, program.quantize(data(net, 1))))
    busy = cycles.predict(trace, layout, apart=True).busy[0]
    ends = np.cumsum([int(run.lengths[0]) for run in trace.passes]) - 1  # the last step of every pass
    assert alone_cycles(layout) == busy[ends].sum()


@settings(max_examples=60)
@given(st.data())
def test_costs_of_any_choice_are_those_of_its_layout(given_data):
    """Layouts of one block length each tell the costs of every mixture of patterns."""
    draw = given_data.draw
    net = network(draw(st.integers(1, 7)), draw(stacks()), 1)
    # the drawn patterns are put on, not kept: every matrix may choose
    net = net.with_layers([replace(layer, pattern_x=DENSE, pattern_h=DENSE, pattern_p=DENSE) for layer in net.layers])
    made = drawn_scan(net, 0)
    choices = [list(costs.choices_of(layer, made)) for layer in net.layers]
    array = hardware(draw, net)
    counted = costs.Costs(net, choices, array, QuantizeConfig())
    chosen = [draw(st.sampled_from(mine)) for mine in choices]
    patterns = {layer.name: choice.patterns for layer, choice in zip(net.layers, chosen, strict=True)}
    allocation = Allocation(made.network, Budget("us", 1), patterns, 0.0, 0, 0, 0.0, 0, 80.0, array)
    program = quantize(allocation.apply(net), data(net))
    layout = Layout(program, array)
    entries, took, rams = counted.of(chosen)
    assert entries == costs.stored_entries(program)
    assert took == alone_cycles(layout)
    summed = np.zeros(array.groups + 1, int)
    before = 1
    for number, choice in enumerate(chosen):
        summed += counted.layer(number, choice, before)["block_rams"]
        before = counted.out(number, choice)
    assert (summed[:-1].max(), summed[-1]) == (layout.weight_depth, layout.position_depth)
    longest = max(max(choice.block, choice.block_p) for choice in chosen)
    assert (longest - 1).bit_length() == layout.index_width
    own = block_rams(layout)
    of_costs = block_rams_of(counted.layout, layout.index_width, layout.weight_depth, layout.position_depth)
    assert rams == sum(of_costs.values())
    assert of_costs["weights"] == own["weights"]
    assert of_costs["tables"] == own["tables"]


def test_cycles_by_hand():
    """One layer on one cluster: three inputs and eight units, two slots of one entry."""
    from sparsegate.array import timing

    net = network(3, [Shape("lstm", 8, NM(1, 4), NM(1, 4))], 0)
    program = quantize(net, data(net))
    latency = timing.result_latency(program.phases[0].spec, 0, 1, timing.SHALLOW)
    wanted = timing.SHALLOW.dispatch + 11 * 2 + timing.SHALLOW.drain + 8 + latency
    assert alone_cycles(Layout(program, HardwareConfig(4))) == wanted
    assert costs.stored_entries(program) == 11 * 8


@pytest.mark.parametrize(
    ("width", "depth", "blocks"),
    [
        (12, 736, 1),
        (12, 1536, 2),
        (12, 1537, 2),
        (9, 2048, 1),
        (14, 1025, 2),
        (36, 512, 1),
        (13, 11970, 13),
        (36, 1024, 2),
        (9, 40000, 27),
        (16, 128, 0),
        (32, 128, 0),
        (33, 128, 1),
        (64, 64, 0),
        (9, 513, 1),
    ],
)
def test_block_rams_of_a_read_only_memory(width, depth, blocks):
    assert rom_blocks(width, depth) == blocks


def test_block_rams_of_the_demo():
    """LSTM-64 on eight PEs: a block RAM for every weight memory and each of both lanes' five tables, two for their biases."""
    net = network(12, [Shape("lstm", 64, NM(4, 16), NM(4, 16)), Shape("linear", 9, when="last")], 0)
    layout = Layout(quantize(net, data(net)), HardwareConfig(8))
    assert block_rams(layout) == {"weights": 8, "biases": 4, "tables": 10, "states": 0, "columns": 0, "packets": 0}


# --- search ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_no_combination_is_better(given_data):
    """Against every combination of a small network's patterns, for every kind of budget."""
    draw = given_data.draw
    shapes = draw(stacks(depth=2))
    net = network(draw(st.integers(1, 9)), shapes, 1)
    candidates = tuple(draw(st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=2, unique=True)))
    made = drawn_scan(net, draw(st.integers(0, 99)), candidates)
    choices = [list(costs.choices_of(layer, made)) for layer in net.layers]
    if np.prod([len(mine) for mine in choices]) > 600:
        choices = [mine[: 4 if len(choices) > 3 else 8] for mine in choices]
    array = hardware(draw, net)
    counted = costs.Costs(net, choices, array, QuantizeConfig())
    kind = draw(st.sampled_from(["us", "nonzeros", "block_rams"]))
    every = []
    for chosen in itertools.product(*choices):
        total = dict(zip(("nonzeros", "us", "block_rams"), counted.of(chosen), strict=True))[kind]
        every.append((sum(one.loss for one in chosen), sum(one.error for one in chosen), total))
    totals = sorted({total for _, _, total in every})
    limit = draw(st.sampled_from([totals[0] - 1, *totals]))
    found, least = solve(counted, choices, kind, limit)
    assert least == totals[0]
    best = min((label for label in every if label[2] <= limit), default=None)
    if best is None:
        assert found is None
    else:
        total = dict(zip(("nonzeros", "us", "block_rams"), counted.of(found), strict=True))[kind]
        assert (sum(one.loss for one in found), sum(one.error for one in found), total) == best


def test_the_search_is_over_in_time():
    """Five layers, ten matrices, five patterns each."""
    net = network(16, [*[Shape("lstm", 32)] * 5, Shape("linear", 9)], 0)
    rng = np.random.default_rng(0)
    made = drawn_scan(net, 0, ("1:4", "1:8", "2:16", "1:16", "2:32"), levels=100)
    made = replace(
        made,
        patterns=tuple(map(parse, made.patterns)),
        measurements=tuple(
            replace(one, pattern=parse(one.pattern), error=float(rng.random())) for one in made.measurements
        ),
    )
    for budget in (Budget("nonzeros", 6000), Budget("us", 40), Budget("block_rams", 32)):
        found = allocate(net, made, budget, HardwareConfig(8, 2))
        assert {"us": found.us, "nonzeros": found.nonzeros, "block_rams": found.block_rams}[budget.kind] <= budget.limit


@pytest.fixture
def net():
    return network(6, [Shape("lstm", 16, outputs=8), Shape("linear", 3)], 2)


@pytest.fixture
def made(net):
    x = data(net, 4, 5)
    wanted = net.evaluate(x).last
    return scan(net, lambda trial: -float(np.abs(trial.evaluate(x).last - wanted).mean()), ["1:4", "1:8", "2:16"], x)


def test_a_budget_is_met_and_used(net, made):
    loose = allocate(net, made, Budget("nonzeros", 10**6))
    assert loose.loss == 0
    assert all(nm == DENSE for chosen in loose.patterns.values() for nm in chosen.values())
    losses = []
    for limit in (1200, 800, 600, 400):
        found = allocate(net, made, Budget("nonzeros", limit))
        assert found.nonzeros <= limit
        program = quantize(found.apply(net), data(net))
        layout = Layout(program, found.hardware)
        assert (found.nonzeros, found.cycles) == (costs.stored_entries(program), alone_cycles(layout))
        assert found.us == found.cycles / 80
        parts = [
            made.find(name, key)[nm] for name, of in found.patterns.items() for key, nm in of.items() if not nm.dense
        ]
        assert found.loss == pytest.approx(sum(max(0.0, made.score - part.score) for part in parts), abs=1e-8)
        losses.append(found.loss)
    assert losses == sorted(losses)


def test_an_impossible_budget_names_the_least(net, made):
    for kind, name in (("us", "microseconds a step"), ("nonzeros", "stored entries"), ("block_rams", "block RAMs")):
        with pytest.raises(SparseGateError, match=f"^0.1 {name} cannot be met: [0-9.]+ is the least") as error:
            allocate(net, made, Budget(kind, 0.1), mhz=48)
        least = float(str(error.value).split("met: ")[1].split()[0])
        reached = allocate(net, made, Budget(kind, least), mhz=48)
        assert reached.as_json()[kind] == pytest.approx(least, abs=1e-4)
        with pytest.raises(SparseGateError, match="cannot be met"):
            allocate(net, made, Budget(kind, least * 0.999), mhz=48)


def test_what_pruning_wins_by_chance_is_not_counted(net, made):
    lucky = replace(made, measurements=tuple(replace(one, score=made.score + 1) for one in made.measurements))
    found = allocate(net, lucky, Budget("nonzeros", 10**6))
    assert found.loss == 0
    # among equal losses the smallest output error: nothing is pruned
    assert all(nm.dense for chosen in found.patterns.values() for nm in chosen.values())


def test_a_pruned_network_may_keep_its_patterns(net, made):
    before = allocate(net, made, Budget("nonzeros", 600)).apply(net)
    x = data(net)
    again = scan(before, lambda trial: -float(trial is not before), ["1:16"], x)
    found = allocate(before, again, Budget("nonzeros", 600))
    for layer in before.layers:
        assert found.patterns[layer.name] == {
            key: getattr(layer, f"pattern_{key}") for key in KEYS if getattr(layer, f"w_{key}") is not None
        }


def test_refusals(net, made):
    with pytest.raises(SparseGateError, match="the sensitivity scan is of another network"):
        allocate(network(6, [Shape("lstm", 16)], 0), made, Budget("nonzeros", 600))
    with pytest.raises(SparseGateError, match="not complete: 2 of 9 measurements are missing"):
        allocate(net, replace(made, measurements=made.measurements[2:]), Budget("nonzeros", 600))
    with pytest.raises(SparseGateError, match="a budget is one of us, nonzeros, block_rams, not 'bits'"):
        Budget("bits", 3)  # type: ignore[arg-type]
    with pytest.raises(SparseGateError, match="a budget of -1 stored entries"):
        Budget("nonzeros", -1)
    with pytest.raises(SparseGateError, match="a clock of 0 MHz"):
        allocate(net, made, Budget("us", 5), mhz=0)
    with pytest.raises(SparseGateError, match="5 PE rows do not divide into clusters of 4"):
        allocate(net, made, Budget("us", 5), HardwareConfig(5))


def test_json_round_trip(net, made, tmp_path):
    found = allocate(net, made, Budget("nonzeros", 600), HardwareConfig(8, 2), mhz=100)
    found.save(tmp_path / "allocation.json")
    assert Allocation.load(tmp_path / "allocation.json") == found
    found.check(net)
    with pytest.raises(SparseGateError, match="the allocation is of another network"):
        found.check(found.apply(net))
    assert not found.patterns["lstm0"]["x"].dense or not found.patterns["lstm0"]["h"].dense
    assert found.pairs == {
        "lstm0": (found.patterns["lstm0"]["x"], found.patterns["lstm0"]["h"]),
        "linear1": (DENSE, DENSE),
    }
    for change, sentence in (
        ({"format": "other"}, "is no allocation"),
        ({"version": 9}, "has version 9"),
        ({"budget": {"kind": "us"}}, "damaged"),
        ({"patterns": {"lstm0": {"x": "8"}}}, "a pattern is written like|an N:M pattern is written"),
        ({"hardware": {"rows": 0}}, "rows is 0"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(found.as_json() | change))
        with pytest.raises(SparseGateError, match=sentence):
            Allocation.load(tmp_path / "other.json")


def test_an_allocation_names_every_matrix_and_no_other():
    net = network(4, [Shape("lstm", 8), Shape("linear", 3)], 1)
    made = allocate(net, drawn_scan(net, 1), Budget("us", 1e300), mhz=1e300)
    made.check(net)
    for patterns, found in (({"h": NM(1, 4)}, "Wh"), ({}, "no matrix"), (dict.fromkeys(KEYS, DENSE), "Wx, Wh, Wp")):
        with pytest.raises(SparseGateError, match=f"patterns for {found} of layer 'lstm0', expected Wx, Wh"):
            replace(made, patterns={**made.patterns, "lstm0": patterns}).check(net)
