"""ONNX models with random weights, as exporters build them, and what onnxruntime computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OPSET = 22
onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True)
class Cell:
    """A recurrent node, as its operator and attributes."""

    operator: str = "LSTM"
    attributes: tuple[tuple[str, int], ...] = ()
    peepholes: bool = False
    relu: bool = False

    def __str__(self) -> str:
        words = [key if value == 1 else f"{key}_{value}" for key, value in self.attributes]
        return "-".join([self.operator, *words, *["peepholes"] * self.peepholes, *["relu"] * self.relu])


CELLS = (
    Cell("LSTM"),
    Cell("LSTM", peepholes=True),
    Cell("LSTM", (("input_forget", 1),)),
    Cell("LSTM", (("input_forget", 1),), peepholes=True),
    Cell("GRU", (("linear_before_reset", 0),)),
    Cell("GRU", (("linear_before_reset", 1),)),
    Cell("RNN"),
    Cell("RNN", relu=True),
)
DIRECTIONS = ("forward", "reverse", "bidirectional")


class Graph:
    """Collects nodes, weights, inputs and outputs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str, value: NDArray, dtype: type = np.float32) -> str:
        value = np.asarray(value)
        self.weights.append(numpy_helper.from_array(value.astype(dtype) if value.dtype.kind == "f" else value, name))
        return name

    def draw(self, name: str, *shape: int, scale: float = 0.4) -> str:
        return self.weight(name, self.rng.normal(0.0, scale, shape))

    def ints(self, name: str, *values: int) -> str:
        return self.weight(name, np.array(values, np.int64))

    def input(self, name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int = TensorProto.FLOAT) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))
        return name

    def node(self, operator: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: object) -> str:
        made = [outputs] if isinstance(outputs, str) else list(outputs)
        name = attributes.pop("name", made[0])
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=str(name), **attributes))
        return made[0]

    def model(self, opset: int = OPSET) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def recurrent(
    graph: Graph,
    cell: Cell,
    name: str,
    x: str,
    sizes: tuple[int, int],
    direction: str = "forward",
    bias: bool = True,
    lengths: str = "",
    h: str = "",
    c: str = "",
    layout: int = 0,
    outputs: Sequence[str] | None = None,
) -> list[str]:
    """Add a node; its outputs are called <name>_y, <name>_h and, of an LSTM, <name>_c."""
    inputs, units = sizes
    count = 2 if direction == "bidirectional" else 1
    rows = GATES[cell.operator] * units
    names = [
        x,
        graph.draw(f"{name}_W", count, rows, inputs),
        graph.draw(f"{name}_R", count, rows, units),
        graph.draw(f"{name}_B", count, 2 * rows) if bias else "",
        lengths,
        h,
    ]
    if cell.operator == "LSTM":
        names += [c, graph.draw(f"{name}_P", count, 3 * units) if cell.peepholes else ""]
    while not names[-1]:
        names.pop()
    attributes: dict[str, object] = dict(cell.attributes)
    if cell.relu:
        attributes["activations"] = ["Relu"] * count
    if layout:
        attributes["layout"] = layout
    made = list(outputs or [f"{name}_y", f"{name}_h", f"{name}_c"][: 3 if cell.operator == "LSTM" else 2])
    graph.node(cell.operator, names, made, name=name, hidden_size=units, direction=direction, **attributes)
    return made


def stack(
    rng: np.random.Generator,
    cell: Cell,
    direction: str = "forward",
    layers: int = 1,
    sizes: tuple[int, int] = (3, 4),
    steps: int | str = "T",
    batch: int | str = "N",
    bias: bool = True,
    lengths: bool = False,
    initial: str = "none",
    layout: int = 0,
    head: bool = False,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Recurrent layers on top of each other, the way PyTorch exports them.

    ``initial`` is "none", "constant" (then ``batch`` must be a number) or "input".
    """
    graph = Graph(rng)
    inputs, units = sizes
    count = 2 if direction == "bidirectional" else 1
    x = graph.input("x", [batch, steps, inputs] if layout else [steps, batch, inputs])
    given = graph.input("lengths", [batch], TensorProto.INT32) if lengths else ""
    for k in range(layers):
        states = {"h": "", "c": ""}
        for key in ("h", "c") if cell.operator == "LSTM" else ("h",):
            shape = [batch, count, units] if layout else [count, batch, units]
            if initial == "input":
                states[key] = graph.input(f"{key}0_{k}", shape)
            elif initial == "constant":
                same = rng.normal(0.0, 0.5, (count, 1, units)) + np.zeros((1, int(batch), 1))
                states[key] = graph.weight(f"{key}0_{k}", same.swapaxes(0, 1) if layout else same)
        made = recurrent(graph, cell, f"rnn{k}", x, (inputs, units), direction, bias, given, **states, layout=layout)
        for name in made[1:]:
            graph.output(name)
        y = made[0]
        if not layout:
            y = graph.node("Transpose", [y], f"turned{k}", perm=[0, 2, 1, 3])
        x = graph.node("Reshape", [y, graph.ints(f"shape{k}", 0, 0, -1)], f"joined{k}")
        inputs = count * units
    if head:
        x = graph.node("MatMul", [x, graph.draw("head_W", inputs, 5)], "product", name="head")
        x = graph.node("Add", [graph.draw("head_B", 5), x], "sum")
    graph.output(x)
    return graph.model(opset)


def run(model: onnx.ModelProto | str, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Outputs by name, of onnxruntime."""
    content = model if isinstance(model, str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {key: value.astype(np.float32) if value.dtype.kind == "f" else value for key, value in feeds.items()}
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
