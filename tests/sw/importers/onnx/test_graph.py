"""ONNX graphs become networks whose float evaluation is what onnxruntime computes."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.sw.importers.onnx import models as onnx_models
from tests.sw.importers.onnx.models import CELLS, DIRECTIONS, OPSET, Cell, Graph, recurrent, run, stack

from sparsegate.errors import SparseGateError
from sparsegate.importers.onnx import describe, from_onnx
from sparsegate.importers.onnx import file as onnx_file
from sparsegate.network import Network

TOLERANCE = 1e-5
"""onnxruntime computes in float32; outputs and states are of order 1."""


def close(found: NDArray, expected: NDArray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE


def names_of(network: Network, node: str) -> list[str]:
    """Layers of a node, in the order of its directions."""
    return [name for name in (node, f"{node}_reverse") if name in [layer.name for layer in network.layers]]


def compare(
    model: onnx.ModelProto, network: Network, feeds: dict[str, NDArray], output: str, batch_first: bool = False
) -> None:
    """Outputs at every step, zero past a sequence's end, and every layer's final states."""
    expected = run(model, feeds)
    x = feeds["x"] if batch_first else feeds["x"].swapaxes(0, 1)
    state: dict[str, dict[str, NDArray]] = {}
    for name, parts in network.meta.get("states", {}).items():
        node, d = name.removesuffix("_reverse"), int(name.endswith("_reverse"))
        d = 0 if names_of(network, node) == [name] else d
        state[name] = {key: feeds[source][:, d] if batch_first else feeds[source][d] for key, source in parts.items()}
    made = network.evaluate(x, feeds.get("lengths"), state or None)
    outputs = made.outputs if batch_first else made.outputs.swapaxes(0, 1)
    close(outputs, expected[output])
    for key, value in expected.items():
        node, _, which = key.rpartition("_")
        if which in ("h", "c"):
            found = np.stack([made.state[name][which] for name in names_of(network, node)])
            close(found.swapaxes(0, 1) if batch_first else found, value)


def drawn(
    rng: np.random.Generator, model: onnx.ModelProto, sizes: dict[str, int], lengths: bool = False
) -> dict[str, NDArray]:
    """Random values for the inputs of a model."""
    feeds: dict[str, NDArray] = {}
    for entry in model.graph.input:
        shape = [sizes.get(d.dim_param, d.dim_value) for d in entry.type.tensor_type.shape.dim]
        if entry.name == "lengths":
            feeds[entry.name] = rng.integers(1, sizes["T"] + 1, shape).astype(np.int32)
        else:
            feeds[entry.name] = rng.normal(0.0, 0.8, shape).astype(np.float32)
    return feeds


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_cell_direction_and_depth_is_onnxruntimes(cell: Cell, direction: str, layers: int) -> None:
    rng = np.random.default_rng([CELLS.index(cell), DIRECTIONS.index(direction), layers])
    for options in (
        {"bias": False},
        {"lengths": True, "initial": "input"},
        {"initial": "constant", "batch": 3, "steps": 6},
        {"lengths": True, "head": False},
    ):
        model = stack(rng, cell, direction, layers, (3, 4), **options)  # type: ignore[arg-type]
        feeds = drawn(rng, model, {"T": 6, "N": 3})
        compare(model, from_onnx(model), feeds, f"joined{layers - 1}")


@given(
    st.sampled_from(CELLS),
    st.sampled_from(DIRECTIONS),
    st.integers(1, 3),
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
    st.tuples(st.integers(1, 7), st.integers(1, 4)),
    st.booleans(),
    st.sampled_from(["none", "constant", "input"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1 << 32),
)
@settings(max_examples=120)
def test_drawn_shapes_are_onnxruntimes(
    cell, direction, layers, sizes, extent, bias, initial, lengths, free, seed
) -> None:
    rng = np.random.default_rng(seed)
    steps, batch = extent
    model = stack(
        rng,
        cell,
        direction,
        layers,
        sizes,
        "T" if free else steps,
        "N" if free and initial != "constant" else batch,
        bias,
        lengths,
        initial,
    )
    feeds = drawn(rng, model, {"T": steps, "N": batch})
    compare(model, from_onnx(model), feeds, f"joined{layers - 1}")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_layout_1_gives_what_its_layout_0_twin_gives(cell: Cell, direction: str) -> None:
    """onnxruntime does not run layout 1."""
    seed = 7
    options = {"layers": 2, "lengths": True, "initial": "input"}
    first = stack(np.random.default_rng(seed), cell, direction, **options)  # type: ignore[arg-type]
    second = stack(np.random.default_rng(seed), cell, direction, layout=1, **options)  # type: ignore[arg-type]
    feeds = drawn(np.random.default_rng(8), first, {"T": 5, "N": 3})
    network = from_onnx(second)
    assert network.meta["batch_first"]
    compare(first, network, feeds, "joined1")


@functools.cache
def cases() -> dict[str, Any]:
    """onnx's own test cases of one recurrent node: importing the modules of these operators makes them."""
    from onnx.backend.test.case import node
    from onnx.backend.test.case.node import gru, lstm, rnn

    assert {gru, lstm, rnn}
    return {
        case.name: case
        for case in node._NodeTestCases
        if any(part.op_type in onnx_models.GATES for part in case.model.graph.node)
    }


CASES = (
    *(
        f"test_gru_{name}"
        for name in ("batchwise", "bidirectional", "defaults", "reverse", "seq_length", "with_initial_bias")
    ),
    *(
        f"test_lstm_{name}"
        for name in ("batchwise", "bidirectional", "defaults", "reverse", "with_initial_bias", "with_peepholes")
    ),
    *(f"test_simple_rnn_{name}" for name in ("batchwise", "bidirectional", "defaults", "reverse", "with_initial_bias")),
    "test_rnn_seq_length",
)
NOT_IN_ONNXRUNTIME = ("test_gru_batchwise", "test_lstm_batchwise", "test_simple_rnn_batchwise")
"""Layout 1: its kernels raise "Batchwise recurrent operations (layout == 1) are not supported"."""


@pytest.mark.slow
def test_no_case_of_onnx_is_left_out() -> None:
    """Of all operators' cases, which take long to make."""
    from onnx.backend.test.case.node import collect_testcases

    assert set(cases()) == set(CASES)
    assert len(CASES) == 18
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other operators' cases: overflow on purpose
        every = collect_testcases(None)
    recurrent_ones = [
        case for case in every if any(part.op_type in onnx_models.GATES for part in case.model.graph.node)
    ]
    assert sorted(case.name for case in recurrent_ones) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_onnxs_own_cases_give_its_values(name: str) -> None:
    case = cases()[name]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    (inputs, outputs), *rest = case.data_sets
    assert not rest
    feeds = dict(zip((entry.name for entry in model.graph.input), inputs, strict=True))
    for key in ("W", "R", "B", "P", "initial_h", "initial_c"):  # weights are inputs there
        if key in feeds:
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(key), key))
            entry = next(entry for entry in model.graph.input if entry.name == key)
            model.graph.input.remove(entry)
    names = None
    if "Y" not in (entry.name for entry in model.graph.output) and any(s in name for s in ("reverse", "bidirectional")):
        with pytest.raises(
            SparseGateError, match="the output is the final value of a reversed layer, which needs a linear"
        ):
            from_onnx(model)
        names = [f"{model.graph.node[0].op_type.lower()}_0"]  # as its states
    network = from_onnx(model, names)
    batch_first = any(a.name == "layout" and a.i for a in model.graph.node[0].attribute)
    x = feeds["X"] if batch_first else feeds["X"].swapaxes(0, 1)
    made = network.evaluate(x, feeds.get("sequence_lens"))
    expected = dict(zip((entry.name for entry in model.graph.output), outputs, strict=True))
    y = np.stack([made.layers[k] for k in range(len(network.layers))])  # (D, N, T, H)
    for key, value in expected.items():
        if key == "Y":
            found = y.transpose(1, 2, 0, 3) if batch_first else y.transpose(2, 0, 1, 3)
        else:
            found = np.stack([made.state[layer.name][key[2:]] for layer in network.layers])
            found = found.swapaxes(0, 1) if batch_first else found
        close(found, value)
    if name in NOT_IN_ONNXRUNTIME:
        with pytest.raises(Exception, match="(?i)batchwise"):
            run(model, feeds)
    else:
        for key, value in run(model, feeds).items():
            close(value, expected[key])


# heads and glue


def bidirectional(rng: np.random.Generator, take: str) -> onnx.ModelProto:
    """A bidirectional GRU, and a head on its last step or on its final states."""
    graph = Graph(rng)
    x = graph.input("x", ["N", "T", 3])
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    y, h = recurrent(graph, Cell("GRU", (("linear_before_reset", 1),)), "gru", x, (3, 4), "bidirectional")
    if take == "last":
        y = graph.node("Transpose", [y], "turned", perm=[0, 2, 1, 3])
        y = graph.node("Reshape", [y, graph.ints("shape", 0, 0, -1)], "joined")
        y = graph.node("Gather", [y, graph.weight("minus_one", np.array(-1))], "last", axis=0)
    else:
        h = graph.node("Transpose", [h], "turned", perm=[1, 0, 2])
        y = graph.node("Reshape", [h, graph.ints("shape", 0, -1)], "last")
    y = graph.node("Gemm", [y, graph.draw("W", 5, 8), graph.draw("B", 5)], "head", transB=1, alpha=0.5, beta=2.0)
    y = graph.node("Tanh", [y], "y")
    graph.output(y)
    return graph.model()


@pytest.mark.parametrize("take", ["last", "final"])
def test_a_head_on_the_last_step_or_on_the_final_states(take: str) -> None:
    model = bidirectional(np.random.default_rng(3), take)
    network = from_onnx(model)
    assert [layer.kind for layer in network.layers] == ["gru", "gru", "linear_tanh"]
    assert network.layers[-1].when == take == network.meta["output"]
    x = np.random.default_rng(4).normal(0.0, 0.8, (3, 6, 3))
    close(network.evaluate(x).last, run(model, {"x": x})["y"])


def test_the_final_value_of_sequences_of_different_lengths() -> None:
    """Y_h is each sequence's own; Y at the last step would lie past the end of the shorter ones, and is refused."""
    rng = np.random.default_rng(5)
    for direction, take in (("forward", "last"), ("bidirectional", "final")):
        graph = Graph(rng)
        x = graph.input("x", ["T", "N", 3])
        lengths = graph.input("lengths", ["N"], TensorProto.INT32)
        y, h, _ = recurrent(graph, Cell(), "lstm", x, (3, 4), direction, lengths=lengths)
        size = 8 if direction == "bidirectional" else 4
        h = graph.node("Transpose", [h], "turned", perm=[1, 0, 2])
        h = graph.node("Flatten", [h], "flat")
        graph.output(graph.node("Gemm", [h, graph.draw("W", size, 2)], "y"))
        model = graph.model()
        network = from_onnx(model)
        assert network.layers[-1].when == take
        feeds = drawn(rng, model, {"T": 6, "N": 4})
        made = network.evaluate(feeds["x"].swapaxes(0, 1), feeds["lengths"])
        close(made.last, run(model, feeds)["y"])

    graph = Graph(rng)
    x, lengths = graph.input("x", ["T", "N", 3]), graph.input("lengths", ["N"], TensorProto.INT32)
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4), lengths=lengths)
    y = graph.node("Squeeze", [y, graph.ints("one", 1)], "squeezed")
    y = graph.node("Gather", [y, graph.weight("minus_one", np.array(-1))], "last", axis=0)
    graph.output(graph.node("Gemm", [y, graph.draw("W", 4, 2)], "y"))
    with pytest.raises(SparseGateError, match="output 'y': it takes steps 3 of 4 of 'y'"):
        from_onnx(graph.model())


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 18, OPSET])
def test_operator_sets_from_7_on(opset: int) -> None:
    rng = np.random.default_rng(opset)
    graph = Graph(rng)
    x = graph.input("x", [2, 6, 3])
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4))
    if opset < 13:
        y = graph.node("Squeeze", [y], "squeezed", axes=[1])
        y = graph.node("Unsqueeze", [y], "four", axes=[0])
        y = graph.node("Squeeze", [y], "three", axes=[0])
    else:
        y = graph.node("Squeeze", [y, graph.ints("one", 1)], "squeezed")
        y = graph.node("Unsqueeze", [y, graph.ints("zero", 0)], "four")
        y = graph.node("Squeeze", [y, graph.ints("nought", 0)], "three")
    if opset < 10:
        y = graph.node("Slice", [y], "last", starts=[-1], ends=[9], axes=[0])
    else:
        y = graph.node("Slice", [y, *(graph.ints(f"s{k}", v) for k, v in enumerate((-1, 9, 0)))], "last")
    y = graph.node("Dropout", [y], "kept")
    y = graph.node("Reshape", [y, graph.ints("shape", 2, -1)], "flat")
    y = graph.node("Cast", [y], "same", to=TensorProto.FLOAT)
    y = graph.node("MatMul", [y, graph.draw("W", 4, 2)], "product")
    y = graph.node("Add", [y, graph.draw("B", 2)], "sum")
    y = graph.node("Sigmoid", [y], "y")
    graph.output(y)
    model = graph.model(opset)
    network = from_onnx(model)
    assert [(layer.name, layer.kind, layer.when) for layer in network.layers] == [
        ("lstm", "lstm", "step"),
        ("product", "linear_sigmoid", "last"),
    ]
    x = rng.normal(size=(2, 6, 3))
    close(network.evaluate(x).last, run(model, {"x": x})["y"])


def reversed_by(graph: Graph, kind: str, x: str, name: str, lengths: str) -> str:
    """Reverse (T, N, ...) in time as exporters do."""
    if kind == "slice":
        ends = [graph.ints(f"{name}_{k}", v) for k, v in enumerate((-1, -(1 << 62), 0, -1))]
        return graph.node("Slice", [x, *ends], name)
    if kind == "lengths":
        return graph.node("ReverseSequence", [x, lengths], name, time_axis=0, batch_axis=1)
    shape = graph.node("Shape", [x], f"{name}_shape")  # tf2onnx: as many steps as there are, for each sequence
    batch = graph.node("Gather", [shape, graph.ints(f"{name}_one", 1)], f"{name}_batch")
    steps = graph.node("Gather", [shape, graph.ints(f"{name}_zero", 0)], f"{name}_steps")
    every = graph.node("Expand", [steps, batch], f"{name}_every")
    return graph.node("ReverseSequence", [x, every], name, time_axis=0, batch_axis=1)


@pytest.mark.parametrize("cell", [Cell(), Cell("GRU", (("linear_before_reset", 1),))], ids=str)
@pytest.mark.parametrize("kind", ["slice", "sequence", "lengths"])
@pytest.mark.parametrize("final", [False, True])
def test_the_form_of_tf2onnx_two_forward_nodes_and_a_reversed_sequence(cell: Cell, kind: str, final: bool) -> None:
    """Keras' Bidirectional twice, as tf2onnx emits it where it does not merge the two directions into one node."""
    rng = np.random.default_rng(11)
    graph = Graph(rng)
    x = graph.input("x", ["N", "T", 3])
    lengths = graph.input("lengths", ["N"], TensorProto.INT32 if kind != "lengths" else TensorProto.INT64)
    if kind != "lengths":
        graph.inputs.pop()
        lengths = short = ""
    else:
        short = graph.node("Cast", [lengths], "short", to=TensorProto.INT32)
    inputs = 3
    for k in range(2):
        x = graph.node("Transpose", [x], f"time_first{k}", perm=[1, 0, 2])
        back = reversed_by(graph, kind, x, f"back{k}", lengths)
        shape = graph.node("Shape", [x], f"shape{k}")
        batch = graph.node(
            "Slice", [shape, graph.ints(f"s{k}", 1), graph.ints(f"e{k}", 2), graph.ints(f"a{k}", 0)], f"batch{k}"
        )
        size = graph.node("Concat", [graph.ints(f"d{k}", 1), batch, graph.ints(f"u{k}", 4)], f"size{k}", axis=0)
        zero = graph.node("Expand", [graph.weight(f"z{k}", np.zeros((1, 1, 1))), size], f"zero{k}")
        states = {"h": zero, "c": zero if cell.operator == "LSTM" else ""}
        ahead = recurrent(graph, cell, f"ahead{k}", x, (inputs, 4), lengths=short, **states)
        behind = recurrent(graph, cell, f"behind{k}", back, (inputs, 4), lengths=short, **states)
        if final and k == 1:
            parts = [graph.node("Squeeze", [h, graph.ints(f"axis_{h}", 0)], f"flat_{h}") for h in (ahead[1], behind[1])]
            y = graph.node("Concat", parts, "features", axis=1)
            break
        one = graph.ints(f"one{k}", 1)
        first = graph.node("Squeeze", [ahead[0], one], f"first{k}")
        second = graph.node("Squeeze", [behind[0], one], f"second{k}")
        second = reversed_by(graph, kind, second, f"again{k}", lengths)
        parts = [graph.node("Transpose", [part], f"t_{part}", perm=[1, 0, 2]) for part in (first, second)]
        x = y = graph.node("Concat", parts, f"concat{k}", axis=2)
        inputs = 8
    y = graph.node("MatMul", [y, graph.draw("W", 8, 3)], "product", name="dense")
    y = graph.node("Add", [y, graph.draw("B", 3)], "sum")
    graph.output(graph.node("Relu", [y], "y"))
    model = graph.model(18)
    network = from_onnx(model)
    assert [(layer.name, layer.reverse) for layer in network.layers] == [
        ("ahead0", False),
        ("behind0", True),
        ("ahead1", False),
        ("behind1", True),
        ("dense", False),
    ]
    assert network.layers[2].sources == ("ahead0", "behind0")
    assert network.layers[-1].kind == "linear_relu"
    feeds = drawn(rng, model, {"T": 6, "N": 3})
    if kind == "lengths":
        feeds["lengths"] = np.array([6, 2, 5], np.int64)
    expected = run(model, feeds)["y"]
    made = network.evaluate(feeds["x"], feeds.get("lengths"))
    if final:
        assert network.layers[-1].when == "final"
        close(made.last, expected)
    else:
        valid = np.arange(6)[None, :] < made.lengths[:, None]
        close(made.outputs[valid], expected[valid])  # the graph adds the bias past the end too


def wandering(rng: np.random.Generator, graph: Graph, name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """A few random operators that move values; the likely ones are those that exporters write."""
    for k in range(int(rng.integers(1, 6))):
        out, rank = f"move{k}_{name}"[:60], len(shape)
        axis = int(rng.integers(rank))
        what = str(
            rng.choice(
                ["turn", "join", "reverse", "pick", "part", "double", "squeeze"],
                p=[0.3, 0.25, 0.1, 0.1, 0.05, 0.1, 0.1],
            )
        )
        if what == "turn":
            swaps = (
                [(0, 2, 1, 3), (1, 0, 2, 3), (2, 0, 1, 3)]
                if rank == 4
                else [(1, 0, *range(2, rank))]
                if rank > 1
                else [(0,)]
            )
            perm = [
                int(p) for p in (swaps[int(rng.integers(len(swaps)))] if rng.random() < 0.8 else rng.permutation(rank))
            ]
            name, shape = graph.node("Transpose", [name], out, perm=perm), tuple(shape[p] for p in perm)
        elif what == "join" and rank > 2:
            axis = rank - 2 if rng.random() < 0.8 else min(axis, rank - 2)
            shape = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
            name = graph.node("Reshape", [name, graph.ints(f"{out}_s", *shape)], out)
        elif what == "reverse" and shape[axis] > 1:
            cut = [graph.ints(f"{out}_{j}", v) for j, v in enumerate((-1, -99, axis, -1))]
            name = graph.node("Slice", [name, *cut], out)
        elif what == "pick" and rank > 1:
            index = int(rng.choice([0, -1]))
            name = graph.node("Gather", [name, graph.weight(f"{out}_i", np.array(index))], out, axis=axis)
            shape = (*shape[:axis], *shape[axis + 1 :])
        elif what == "part" and shape[axis] > 1:
            cut = [graph.ints(f"{out}_{j}", v) for j, v in enumerate((1, 99, axis))]
            name, shape = graph.node("Slice", [name, *cut], out), (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :])
        elif what == "double":
            axis = rank - 1 if rng.random() < 0.8 else axis
            name = graph.node("Concat", [name, name], out, axis=axis)
            shape = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
        elif what == "squeeze" and rank > 1 and 1 in shape:
            axis = shape.index(1)
            name = graph.node("Squeeze", [name, graph.ints(f"{out}_a", axis)], out)
            shape = (*shape[:axis], *shape[axis + 1 :])
    return name, shape


def test_no_wandering_graph_is_understood_wrongly() -> None:
    """Random glue between layers, most of it senseless: refused, or else what onnxruntime computes."""
    steps, batch, outputs, taken, whens = 5, 3, 7, 0, set()
    for seed in range(600):
        rng = np.random.default_rng([29, seed])
        graph = Graph(rng)
        x, shape = graph.input("x", [batch, steps, 2]), (batch, steps, 2)
        if rng.random() < 0.7:
            x, shape = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2]), (steps, batch, 2)
        if rng.random() < 0.2:
            x, shape = wandering(rng, graph, x, shape)
        for k in range(int(rng.integers(1, 3))):
            if len(shape) != 3:
                break
            direction = str(rng.choice(DIRECTIONS))
            y, h, _ = recurrent(graph, Cell(), f"lstm{k}", x, (shape[2], 4), direction)
            count = 1 + (direction == "bidirectional")
            states = rng.random() < 0.2
            x, shape = wandering(
                rng, graph, *((h, (count, shape[1], 4)) if states else (y, (shape[0], count, shape[1], 4)))
            )
        x = graph.node("MatMul", [x, graph.draw("head", shape[-1], outputs)], "y")
        graph.output(x)
        model = graph.model()
        try:
            network = from_onnx(model)
        except SparseGateError:
            continue
        taken += 1
        value = rng.normal(size=(batch, steps, 2))
        expected = np.squeeze(run(model, {"x": value})["y"])
        made = network.evaluate(value if network.meta["batch_first"] else value.swapaxes(0, 1))
        whens.add(network.meta["output"])
        found = made.outputs if network.meta["output"] == "step" else made.last
        orders = [
            turned.reshape(found.shape)
            for order in itertools.permutations(range(expected.ndim))
            if (turned := expected.transpose(order)).size == found.size
        ]  # of batch, time, copies and features: no order of axes hides a reversed one
        close(found, min(orders, key=lambda value: np.abs(found - value).max()))
    assert taken >= 60
    assert whens == {"step", "last", "final"}


@pytest.mark.parametrize("kind", ["slice", "lengths"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_any_direction_on_a_reversed_sequence(direction: str, kind: str) -> None:
    """A reverse node on a reversed sequence runs forwards, and its Y is backwards in time until it is reversed again."""
    rng = np.random.default_rng(15)
    graph = Graph(rng)
    x = graph.input("x", ["T", "N", 3])
    lengths = graph.input("lengths", ["N"], TensorProto.INT64) if kind == "lengths" else ""
    short = graph.node("Cast", [lengths], "short", to=TensorProto.INT32) if lengths else ""
    x = reversed_by(graph, kind, x, "back", lengths)
    y, *_ = recurrent(graph, Cell("GRU", (("linear_before_reset", 1),)), "gru", x, (3, 4), direction, lengths=short)
    y = graph.node("Transpose", [y], "turned", perm=[0, 2, 1, 3])
    y = graph.node("Reshape", [y, graph.ints("shape", 0, 0, -1)], "joined")
    y, *_ = recurrent(graph, Cell("RNN"), "rnn", y, (8 if direction == "bidirectional" else 4, 4), lengths=short)
    y = graph.node("Squeeze", [y, graph.ints("one", 1)], "three")
    graph.output(reversed_by(graph, kind, y, "y", lengths))
    model = graph.model()
    network = from_onnx(model)
    reverse = {"forward": [True], "reverse": [False], "bidirectional": [True, False]}[direction]
    assert [layer.reverse for layer in network.layers] == [*reverse, True]
    feeds = drawn(rng, model, {"T": 6, "N": 3})
    feeds |= {"lengths": np.array([6, 2, 5], np.int64)} if lengths else {}
    made = network.evaluate(feeds["x"].swapaxes(0, 1), feeds.get("lengths"))
    close(made.outputs.swapaxes(0, 1), run(model, feeds)["y"])


def test_reversing_a_single_step_is_refused_as_it_cannot_be_seen() -> None:
    for steps, fine in ((1, False), (2, True)):
        graph = Graph(np.random.default_rng(0))
        x = graph.input("x", [steps, 2, 3])
        x = reversed_by(graph, "slice", x, "back", "")
        y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4))
        y = graph.node("Squeeze", [y, graph.ints("one", 1)], "three")
        graph.output(reversed_by(graph, "slice", y, "y", ""))
        if fine:
            assert from_onnx(graph.model()).layers[0].reverse
        else:
            with pytest.raises(
                SparseGateError, match="node 'back' .Slice.: it reverses axis 0, of which the model has a single"
            ):
                from_onnx(graph.model())


def test_a_hidden_layer_and_a_skip_connection() -> None:
    """A layer may take the input beside another layer, and another one the same values twice."""
    rng = np.random.default_rng(12)
    graph = Graph(rng)
    x = graph.input("x", ["T", "N", 3])
    first = graph.node("MatMul", [x, graph.draw("W0", 3, 5)], "p0", name="embed")
    first = graph.node("Relu", [graph.node("Add", [first, graph.draw("B0", 5)], "s0")], "r0")
    y, *_ = recurrent(graph, Cell("RNN"), "rnn", first, (5, 4))
    y = graph.node("Squeeze", [y, graph.ints("one", 1)], "three")
    z = graph.node("Concat", [x, y, y], "both", axis=-1)
    z, *_ = recurrent(graph, Cell(), "lstm", z, (11, 4))
    graph.output(graph.node("Squeeze", [z, graph.ints("one_", 1)], "y"))
    model = graph.model()
    network = from_onnx(model)
    assert network.layers[-1].sources == ("input", "rnn", "rnn")
    x = rng.normal(size=(6, 2, 3))
    close(network.evaluate(x.swapaxes(0, 1)).outputs.swapaxes(0, 1), run(model, {"x": x})["y"])


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "double")])
def test_other_floating_point_weights_are_exact(dtype: type, name: str) -> None:
    model = stack(np.random.default_rng(13), Cell(), head=True)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].astype(dtype), tensor.name))
    network = from_onnx(model)
    assert (network.layers[1].w_x == weights["head_W"].T.astype(dtype).astype(np.float64)).all()
    typed = helper.make_tensor("head_B", TensorProto.FLOAT16, [5], [0.5, -1.25, 3.0, 0.0, 1e-3])
    brain = helper.make_tensor("head_B", TensorProto.BFLOAT16, [5], [0.5, -1.25, 3.0, 0.0, 1e-3])
    for tensor, last in ((typed, np.float16(1e-3)), (brain, 0.00099945068359375)):
        model.graph.initializer[-1].CopyFrom(tensor)
        assert from_onnx(model).layers[1].bias.tolist() == [0.5, -1.25, 3.0, 0.0, float(last)]


def test_layers_by_name_cut_a_part_out_of_a_graph() -> None:
    """What stands before and behind need not be understood."""
    rng = np.random.default_rng(14)
    graph = Graph(rng)
    x = graph.input("x", ["N", "T", 3])
    x = graph.node("Softplus", [x], "soft")
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4), "bidirectional")
    y = graph.node("Transpose", [y], "turned", perm=[0, 2, 1, 3])
    y = graph.node("Reshape", [y, graph.ints("shape", 0, 0, -1)], "joined")
    y = graph.node("Gather", [y, graph.weight("minus_one", np.array(-1))], "last", axis=0)
    y = graph.node("Gemm", [y, graph.draw("W", 8, 3), graph.draw("B", 3)], "product", name="fc")
    y = graph.node("Relu", [y], "positive")
    z = graph.node("Gemm", [y, graph.draw("V", 3, 2), graph.draw("C", 2)], "logits", name="out")
    graph.output(graph.node("Softmax", [z], "y"))
    model = graph.model()
    rows = {row.name: row for row in describe(model)}
    assert rows["soft"].problem == "node 'soft' (Softplus): the operator Softplus is not supported"
    assert rows["y"].what == "Softmax"
    assert not any(row.used for row in rows.values())
    with pytest.raises(SparseGateError, match="node 'soft' .Softplus.* name the layers to import to leave it out"):
        from_onnx(model)
    assert [row.name for row in describe(model, ["lstm", "fc"]) if row.used] == ["lstm", "fc"]
    network = from_onnx(model, ["lstm", "fc", "out"])
    assert [(layer.name, layer.kind, layer.when) for layer in network.layers] == [
        ("lstm", "lstm", "step"),
        ("lstm_reverse", "lstm", "step"),
        ("fc", "linear_relu", "step"),
        ("out", "linear", "last"),
    ]
    assert [layer.name for layer in from_onnx(model, ["out"]).layers] == ["out"]
    graph.output("logits")
    x = rng.normal(size=(2, 5, 3))
    close(network.evaluate(np.log1p(np.exp(x))).last, run(graph.model(), {"x": x})["logits"])
    assert from_onnx(model, ["lstm", "fc"], when="step").layers[-1].when == "step"
    with pytest.raises(SparseGateError, match="no layer 'lstn'; it has 'lstm', 'fc', 'out'"):
        from_onnx(model, ["lstn"])
    with pytest.raises(SparseGateError, match=r"layers is a list of names, like \['lstm'\]"):
        from_onnx(model, "lstm")
    with pytest.raises(
        SparseGateError, match="layer 'out' .Gemm. cannot be imported: node 'fc' .Gemm. is not among the layers named"
    ):
        from_onnx(model, ["lstm", "out"])


def test_an_encoder_and_a_decoder_of_one_graph_become_two_networks() -> None:
    """What the decoder starts from is left to the caller, who takes it from the encoder."""
    rng = np.random.default_rng(16)
    graph = Graph(rng)
    x, z = graph.input("x", ["T", "N", 3]), graph.input("z", ["S", "N", 2])
    _, h, c = recurrent(graph, Cell(), "encoder", x, (3, 4))
    y, *_ = recurrent(graph, Cell(), "decoder", z, (2, 4), h=h, c=c)
    graph.output(graph.node("Squeeze", [y, graph.ints("one", 1)], "y"))
    model = graph.model()
    encoder, decoder = from_onnx(model, ["encoder"]), from_onnx(model, ["decoder"])
    assert decoder.meta["states"] == {"decoder": {"h": "encoder_h", "c": "encoder_c"}}
    x, z = rng.normal(size=(6, 2, 3)), rng.normal(size=(4, 2, 2))
    state = encoder.evaluate(x.swapaxes(0, 1)).state["encoder"]
    made = decoder.evaluate(z.swapaxes(0, 1), state={"decoder": state})
    close(made.outputs.swapaxes(0, 1), run(model, {"x": x, "z": z})["y"])


def test_describe_lists_the_layers_with_their_sizes() -> None:
    model = stack(np.random.default_rng(0), Cell(), "bidirectional", 2, head=True)
    assert [(row.name, row.what, row.shape, row.problem, row.used) for row in describe(model)] == [
        ("rnn0", "LSTM, bidirectional", "3 → 4", None, True),
        ("rnn1", "LSTM, bidirectional", "8 → 4", None, True),
        ("head", "MatMul", "8 → 5", None, True),
    ]


def test_patterns_are_checked_and_kept() -> None:
    model = stack(np.random.default_rng(0), Cell(), sizes=(3, 4), head=True)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for key in ("rnn0_W", "rnn0_R"):
        value = numpy_helper.to_array(weights[key]).copy()
        value[:, np.arange(16) % 4 != 1] = 0.0
        weights[key].CopyFrom(numpy_helper.from_array(value, key))
    for patterns in ("1:4", {"rnn0": "1:4"}):
        assert str(from_onnx(model, patterns=patterns).layers[0].pattern_x) == "1:4"
    with pytest.raises(SparseGateError, match="'rnn9', which is not among"):
        from_onnx(model, patterns={"rnn9": "1:4"})


# what is refused


def final_values(direction: str) -> onnx.ModelProto:
    """A GRU whose only output is its final value, or those of both directions, concatenated."""
    graph = Graph(np.random.default_rng(0))
    x = graph.input("x", ["T", "N", 3])
    _, h = recurrent(graph, Cell("GRU", (("linear_before_reset", 1),)), "gru", x, (3, 4), direction)
    h = graph.node("Transpose", [h], "turned", perm=[1, 0, 2])
    graph.output(graph.node("Reshape", [h, graph.ints("shape", 0, -1)], "joined"))
    return graph.model()


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_the_final_value_of_a_reversed_layer_needs_a_head(direction: str) -> None:
    """A Network's last value is that of the last step, which is not where a reversed layer ends."""
    model = final_values(direction)
    with pytest.raises(
        SparseGateError, match="layer 'gru': the output is the final value of a reversed layer, which needs"
    ):
        from_onnx(model)
    x = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)
    made = from_onnx(model, ["gru"]).evaluate(x.swapaxes(0, 1))
    close(np.concatenate([state["h"] for state in made.state.values()], axis=1), run(model, {"x": x})["joined"])
    forward = final_values("forward")
    close(from_onnx(forward).evaluate(x.swapaxes(0, 1)).last, run(forward, {"x": x})["joined"])


def test_when_needs_a_head() -> None:
    model = stack(np.random.default_rng(0), Cell(), sizes=(3, 4))
    for when in ("last", "final"):
        with pytest.raises(SparseGateError, match=r"when is for a linear head; the last layer is 'rnn0' \(LSTM\)"):
            from_onnx(model, when=when)
    assert from_onnx(model, when="step").layers[-1].when == "step"


def test_names_of_files_do_not_reach_a_terminal_as_they_are() -> None:
    model = changed({})
    for node in model.graph.node:
        node.name = f"a\n\x1b[2J{node.name}"
    assert from_onnx(model).layers[0].name.startswith(r"a\n\x1b[2J")
    graph = Graph(np.random.default_rng(0))
    y, *_ = recurrent(graph, Cell(), "lstm", graph.input("x", ["T", "N", 3]), (3, 4))
    graph.output(graph.node("Evil\n\x1b[2J", [y], "y"))
    with pytest.raises(SparseGateError, match=r"Evil\\n\\x1b\[2J") as caught:
        from_onnx(graph.model())
    assert str(caught.value).isprintable()
    for part in describe(graph.model()):
        assert part.what.isprintable()
        assert str(part.problem).isprintable()


def test_layers_are_names() -> None:
    with pytest.raises(SparseGateError, match="layers is a list of names, but 3 in it is a int"):
        from_onnx(changed({}), [3])  # type: ignore[list-item]


def test_the_hint_is_for_operators_that_can_be_left_out() -> None:
    with pytest.raises(SparseGateError, match="clip is 3.0, which is not supported$"):
        from_onnx(changed({"clip": 3.0}))
    with pytest.raises(SparseGateError, match="applied to something other than the result of one matrix$"):
        from_onnx(glued(("Relu", ["squeezed"], "y", {})))


def changed(attributes: dict[str, object], operator: str = "LSTM", direction: str = "forward") -> onnx.ModelProto:
    model = stack(np.random.default_rng(0), Cell(operator), direction)
    node = next(node for node in model.graph.node if node.op_type == operator)
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())])
    return model


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (changed({"clip": 3.0}), "node 'rnn0' .LSTM.: clip is 3.0, which is not supported"),
        (
            changed({"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
            r"activations is \['HardSigmoid', 'Tanh', 'Tanh'\], expected \['Sigmoid', 'Tanh', 'Tanh'\]",
        ),
        (changed({"activations": ["Sigmoid", "Tanh", "Tanh"]}, direction="bidirectional"), "activations is"),
        (changed({"activations": ["Sigmoid"]}, "RNN"), r"activations is \['Sigmoid'\], expected 1 of Tanh and Relu"),
        (changed({"activation_alpha": [0.25]}), r"activation_alpha is \[0.25\], which is not supported"),
        (changed({"activation_beta": [0.5]}), r"activation_beta is \[0.5\], which is not supported"),
        (changed({"direction": "sideways"}), "direction is 'sideways', expected forward, reverse, bidirectional"),
        (changed({"hidden_size": 7}), "hidden_size is 7, but R has 4 units"),
        (changed({"input_forget": 2}), "input_forget is 2, expected 0 or 1"),
        (changed({"output_sequence": 1}), "its attribute output_sequence is not supported"),
        (changed({"hidden_size": "four"}), "its attribute hidden_size is of type STRING, expected INT"),
        (changed({"layout": 2}), "layout is 2, expected 0 or 1"),
        (changed({"linear_before_reset": -1}, "GRU"), "linear_before_reset is -1, expected 0 or 1"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_the_engine_has_not_is_refused_by_name_and_value(model: onnx.ModelProto, sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        from_onnx(model)


def test_activations_that_equal_the_defaults_are_taken() -> None:
    given = from_onnx(changed({"activations": ["sigmoid", "Tanh", "TANH"] * 2}, direction="bidirectional"))
    assert [layer.kind for layer in given.layers] == ["lstm", "lstm"]
    mixed = changed({"activations": ["Relu", "Tanh"]}, "RNN", "bidirectional")
    assert [layer.kind for layer in from_onnx(mixed).layers] == ["rnn_relu", "rnn_tanh"]
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    close(from_onnx(mixed).evaluate(x.swapaxes(0, 1)).outputs.swapaxes(0, 1), run(mixed, {"x": x})["joined0"])


def glued(
    *nodes: tuple[str, list[str], str, dict[str, object]], ints: dict[str, list[int]] | None = None
) -> onnx.ModelProto:
    """x -> LSTM -> squeezed (T, N, 4) -> the nodes -> y."""
    graph = Graph(np.random.default_rng(0))
    x = graph.input("x", [5, 2, 3])
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4))
    graph.node("Squeeze", [y, graph.ints("one", 1)], "squeezed")
    graph.draw("W", 4, 2)
    for name, values in (ints or {}).items():
        graph.ints(name, *values)
    for operator, inputs, output, attributes in nodes:
        graph.node(operator, inputs, output, **attributes)
    graph.output("y")
    return graph.model()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            glued(("Add", ["squeezed", "squeezed"], "y", {})),
            "node 'y' .Add.: it is supported only on constants, or right behind a matrix",
        ),
        (glued(("Relu", ["squeezed"], "y", {})), "applied to something other than the result of one matrix"),
        (
            glued(("Slice", ["squeezed", "a", "b"], "y", {}), ints={"a": [1], "b": [9]}),
            "it takes steps 1, 2, 3, 4 of 5 of 'lstm'",
        ),
        (
            glued(("Gather", ["squeezed", "a"], "z", {"axis": 0}), ("MatMul", ["z", "W"], "y", {}), ints={"a": [2]}),
            "output 'y': it takes steps 2 of 5 of 'y', expected all in order, the last, or the final one",
        ),
        (
            glued(
                ("Slice", ["squeezed", "a", "b", "c"], "z", {}),
                ("MatMul", ["z", "V"], "y", {}),
                ints={"a": [0], "b": [2], "c": [2]},
            ),
            "node 'y' .MatMul. takes 'V', which nothing gives",
        ),
        (
            glued(
                ("Transpose", ["squeezed"], "z", {"perm": [0, 2, 1]}),
                ("Reshape", ["z", "a"], "y", {}),
                ints={"a": [5, 2, 4]},
            ),
            "neither a sequence|mixed with other axes",
        ),
        (
            glued(
                ("Slice", ["squeezed", "a", "b", "c", "d"], "y", {}), ints={"a": [-1], "b": [-99], "c": [0], "d": [-1]}
            ),
            "it takes steps 0, 1, 2, 3, 4 of 5 of 'lstm', expected all in order",
        ),
        (glued(("Cast", ["squeezed"], "y", {"to": TensorProto.INT32})), "to is ONNX type 6, which would change values"),
        (
            glued(("Squeeze", ["squeezed"], "y", {"axes": [0]})),
            "its attribute axes is an input from operator set 13 on",
        ),
        (glued(("Transpose", ["squeezed"], "y", {"perm": [0, 1]})), r"perm is \[0, 1\], expected the axes 0..2"),
        (glued(("Expand", ["squeezed", "a"], "y", {}), ints={"a": [1 << 40, 5, 2, 4]}), "larger than the"),
        (
            glued(("LSTM", ["squeezed", "W", "W"], "y", {})),
            r"node 'y' .LSTM.: R has shape \(4, 2\), expected \(1, 4 . units, units\)",
        ),
        (
            glued(("Softmax", ["squeezed"], "y", {}), ("MatMul", ["squeezed", "W"], "z", {})),
            "node 'y' .Softmax.*name the layers",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_node(model: onnx.ModelProto, sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        from_onnx(model)


def test_initial_states_that_a_network_cannot_hold_are_refused() -> None:
    rng = np.random.default_rng(0)
    model = stack(rng, Cell(), batch=2, steps=5, initial="constant")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "h0_0")
    tensor.CopyFrom(numpy_helper.from_array(rng.normal(size=(1, 2, 4)).astype(np.float32), "h0_0"))
    with pytest.raises(
        SparseGateError, match="initial_h differs from sequence to sequence; make it an input of the graph"
    ):
        from_onnx(model)
    graph = Graph(rng)
    x = graph.input("x", ["T", "N", 3])
    y, h, c = recurrent(graph, Cell(), "encoder", x, (3, 4))
    y, *_ = recurrent(graph, Cell(), "decoder", x, (3, 4), h=h, c=c)
    graph.output(y)
    with pytest.raises(
        SparseGateError, match="node 'decoder' .LSTM.: initial_h comes from 'encoder', expected a constant or an input"
    ):
        from_onnx(graph.model())


def test_lengths_that_are_not_the_callers_are_refused() -> None:
    rng = np.random.default_rng(0)
    graph = Graph(rng)
    x, lengths = graph.input("x", ["T", "N", 3]), graph.input("lengths", ["N"], TensorProto.INT32)
    y, *_ = recurrent(graph, Cell(), "first", x, (3, 4), lengths=lengths)
    y = graph.node("Squeeze", [y, graph.ints("one", 1)], "three")
    y, *_ = recurrent(graph, Cell(), "second", y, (4, 4))
    graph.output(y)
    with pytest.raises(
        SparseGateError, match="its lengths .sequence_lens. are None, but those of an earlier node are 'lengths'"
    ):
        from_onnx(graph.model())
    graph = Graph(rng)
    x = graph.input("x", [5, 2, 3])
    y, *_ = recurrent(graph, Cell(), "first", x, (3, 4), lengths=graph.weight("lengths", np.array([5, 3], np.int32)))
    graph.output(y)
    with pytest.raises(SparseGateError, match=r"are the constant \[5, 3\], expected an input of the graph"):
        from_onnx(graph.model())


def test_several_outputs_and_no_recurrent_node_are_refused() -> None:
    graph = Graph(np.random.default_rng(0))
    x = graph.input("x", ["T", "N", 3])
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4))
    y = graph.node("Squeeze", [y, graph.ints("one", 1)], "three")
    graph.output(y)
    graph.output(graph.node("MatMul", [y, graph.draw("W", 4, 2)], "y"))
    with pytest.raises(SparseGateError, match="several outputs, 'three' and 'y', expected one beside the states"):
        from_onnx(graph.model())
    assert [layer.name for layer in from_onnx(graph.model(), ["lstm"]).layers] == ["lstm"]
    graph = Graph(np.random.default_rng(0))
    graph.output(graph.node("MatMul", [graph.input("x", ["T", "N", 3]), graph.draw("W", 3, 2)], "y"))
    with pytest.raises(SparseGateError, match="the graph has no LSTM, GRU or RNN node"):
        from_onnx(graph.model())


def test_a_missing_package_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SparseGateError, match=r"pip install 'sparsegate\[onnx\]'"):
        from_onnx("model.onnx")


def test_a_large_fixed_input_is_refused_before_it_is_followed() -> None:
    model = stack(np.random.default_rng(0), Cell(), steps=1 << 20, batch=64)
    with pytest.raises(SparseGateError, match="larger than what is followed; export the model with axes of any size"):
        from_onnx(model)


def test_files(tmp_path: Path) -> None:
    """Weights beside the model are read; those elsewhere are not (see the fuzz tests)."""
    model = stack(np.random.default_rng(0), Cell("GRU"), "bidirectional", head=True)
    onnx.save(model, tmp_path / "one.onnx")
    onnx.save(model, tmp_path / "two.onnx", save_as_external_data=True, location="two.bin", size_threshold=0)
    first, second = from_onnx(tmp_path / "one.onnx"), from_onnx(str(tmp_path / "two.onnx"))
    assert (tmp_path / "two.bin").stat().st_size > 0
    for a, b in zip(first.layers, second.layers, strict=True):
        assert (a.w_x == b.w_x).all()
        assert (a.bias == b.bias).all()
    with pytest.raises(SparseGateError, match="only the weights of a model read by its path"):
        from_onnx(onnx.load(tmp_path / "two.onnx", load_external_data=False))
    (tmp_path / "two.bin").unlink()
    with pytest.raises(SparseGateError, match="cannot read its external data 'two.bin': No such file"):
        from_onnx(tmp_path / "two.onnx")
    with pytest.raises(SparseGateError, match="No such file"):
        from_onnx(tmp_path / "three.onnx")
    with pytest.raises(SparseGateError, match="it is not a file|Is a directory"):
        from_onnx(tmp_path)
    assert onnx_file.LARGEST_FILE < 1 << 31


# what PyTorch's exporters write

EXPORT = """
import sys, warnings
import numpy as np
import torch
from torch import nn
warnings.simplefilter("ignore")
folder, dynamo = sys.argv[1], sys.argv[2] == "dynamo"

class Model(nn.Module):
    def __init__(self, kind, take, **options):
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear((options.get("proj_size") or 4) * (1 + options.get("bidirectional", False)), 2)
        self.take = take

    def forward(self, x, *state):
        y, h = self.rnn(x, state[0] if len(state) == 1 else state) if state else self.rnn(x)
        if self.take == "last":
            y = y[:, -1]
        if self.take == "final":
            h = h[0] if isinstance(h, tuple) else h
            y = torch.cat([h[-2], h[-1]], 1) if self.rnn.bidirectional else h[-1]
        return (self.head(y), h) if self.take == "state" else self.head(y)

models = {
    "lstm": Model(nn.LSTM, "step"),
    "lstm_last": Model(nn.LSTM, "last", bias=False),
    "lstm_state": Model(nn.LSTM, "state"),
    "lstm2_final": Model(nn.LSTM, "final", num_layers=2, bidirectional=True),
    "gru2": Model(nn.GRU, "step", num_layers=2, dropout=0.5),
    "gru_both": Model(nn.GRU, "step", bidirectional=True, num_layers=2),
    "rnn": Model(nn.RNN, "final"),
    "rnn_relu": Model(nn.RNN, "last", nonlinearity="relu", bidirectional=True),
    "lstm_projected": Model(nn.LSTM, "step", proj_size=2),
}
arrays = {}
for seed, (name, model) in enumerate(models.items()):
    torch.manual_seed(seed)
    for value in model.parameters():
        nn.init.normal_(value, std=0.4)
    model.eval()
    x = torch.randn(2, 6, 3)
    given = (x, torch.randn(1, 2, 4), torch.randn(1, 2, 4)) if name == "lstm_state" else (x,)
    out = model(*given)
    arrays |= {f"{name}.{k}": value.numpy() for k, value in enumerate(given)}
    arrays[f"{name}.out"] = (out[0] if isinstance(out, tuple) else out).detach().numpy()
    options = {} if dynamo else {"do_constant_folding": name != "gru2"}
    if not dynamo and name == "lstm":
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 1: "time"}}}
    try:
        torch.onnx.export(model, given, f"{folder}/{name}.onnx", dynamo=dynamo, **options)
    except Exception as error:
        print("NOT EXPORTED", name, type(error).__name__)
np.savez(f"{folder}/values.npz", **arrays)
"""


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_what_pytorch_exports_is_what_pytorch_computes(exporter: str, tmp_path: Path) -> None:
    """The exporters are slow and loud, so they run in a process of their own."""
    made = subprocess.run(
        [sys.executable, "-c", EXPORT, str(tmp_path), exporter],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    with np.load(tmp_path / "values.npz") as archive:
        values = dict(archive)
    taken = []
    for name in sorted({key.partition(".")[0] for key in values}):
        path = tmp_path / f"{name}.onnx"
        if name == "lstm_projected" or (exporter == "dynamo" and name.startswith("rnn")):
            continue
        network = from_onnx(path)
        state = None
        if name == "lstm_state":
            parts = zip(("h", "c"), (values["lstm_state.1"], values["lstm_state.2"]), strict=True)
            state = {network.layers[0].name: {key: value[0] for key, value in parts}}
            assert set(network.meta["states"][network.layers[0].name]) == {"h", "c"}
        found = network.evaluate(values[f"{name}.0"], state=state)
        expected = values[f"{name}.out"]
        close(found.outputs if expected.ndim == 3 else found.last, expected)
        wanted = {"lstm_last": "last", "lstm2_final": "final", "rnn": "last", "rnn_relu": "last"}.get(name, "step")
        assert network.layers[-1].when == wanted
        assert all(row.used and row.problem is None for row in describe(path))
        taken.append(name)
    assert len(taken) == (8 if exporter == "torchscript" else 6)

    if exporter == "torchscript":
        assert not (tmp_path / "lstm_projected.onnx").exists()  # it refuses by itself
        return
    # the other exporter unrolls nn.RNN, and cuts the weights of a projected LSTM to a size that is wrong
    with pytest.raises(SparseGateError, match=r"initial_c has shape \(1, 2, 4\), expected \(1, 2, 2\)"):
        from_onnx(tmp_path / "lstm_projected.onnx")
    for name in ("rnn", "rnn_relu"):
        with pytest.raises(SparseGateError, match="no LSTM, GRU or RNN node .*dynamo exporter unrolls nn.RNN"):
            from_onnx(tmp_path / f"{name}.onnx")
