"""What the values of a graph are made of: labels of vectors, the layers found on the way, and names of nodes and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sparsegate.importers.onnx import cells as onnx_cells
from sparsegate.importers.onnx import file as onnx_file
from sparsegate.importers.onnx import glue as onnx_glue
from sparsegate.importers.onnx.cells import Weights
from sparsegate.importers.part import printable
from sparsegate.network.passes import When

if TYPE_CHECKING:
    from onnx import NodeProto


RECURRENT = tuple(onnx_cells.GATES)
MATRICES = ("MatMul", "Gemm")
ACTIVATIONS = {"Relu": "linear_relu", "Sigmoid": "linear_sigmoid", "Tanh": "linear_tanh"}
SUPPORTED = {
    *RECURRENT,
    *MATRICES,
    *ACTIVATIONS,
    *onnx_glue.MOVES,
    *onnx_glue.ARITHMETIC,
    *("Constant", "ConstantOfShape", "Shape", "Cast", "Concat", "ReverseSequence"),
}
DEFAULT_STEPS, DEFAULT_BATCH = (4, 5), (3, 2)
"""Sizes that stand for an axis of any size, in a first and a second run."""
FLOATS, INTS = (1, 10, 11, 16), (6, 7)
"""TensorProto.DataType of inputs."""


@dataclass
class Spec:
    """A layer to be: its weights, the vectors that it takes, and the slots of the values that it was run on."""

    name: str
    weights: Weights
    sources: tuple[int, ...]
    reverse: bool = False
    when: When = "step"
    initial: dict[str, NDArray] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    slots: frozenset[int] = frozenset()
    final: int | None = None
    """Slot of its final value, if there is one."""
    replaced: bool = False
    """Another spec holds the same layer with its bias, or its activation."""

    @property
    def recurrent(self) -> bool:
        return self.weights.w_h is not None


@dataclass(frozen=True)
class Vector:
    """What labels name: ``size`` features from label ``base`` on."""

    role: Literal["input", "layer", "state", "given"]
    name: str
    base: int
    size: int
    spec: Spec | None = None


@dataclass(frozen=True)
class Unknown:
    """A value that could not be followed, and the sentence that says why. ``unsupported``: it is a node's operator."""

    reason: str
    unsupported: bool = False


@dataclass(frozen=True)
class Labels:
    """A tensor of labels."""

    ids: NDArray[np.int64]


Value = NDArray | Labels | Unknown


@dataclass
class Found:
    """A node that is worth listing: what it is, its sizes, why it could not be taken, and the layers that it became.

    ``layer``: it can be named as one.
    """

    name: str
    what: str
    shape: str = ""
    problem: str | None = None
    layer: bool = False
    specs: list[Spec] = field(default_factory=list)


@dataclass(frozen=True)
class Taken:
    """What a node or an output takes: ``sources`` one after the other, for rows of sequence ``sequence`` (rows,) at ``slots``
    (rows, sources)."""

    sources: tuple[int, ...]
    sequence: NDArray[np.int64]
    slots: NDArray[np.int64]


def node_names(nodes: Sequence[NodeProto]) -> list[str]:
    """A name of its own for each node: that in the file, or its operator and position."""
    found: list[str] = []
    known: set[str] = set()
    for position, node in enumerate(nodes):
        name = printable(node.name or f"{node.op_type.lower()}_{position}")
        if name in known or name == "input":
            name = f"{name}_{position}"
        while name in known:
            name += "_"
        known.add(name)
        found.append(name)
    return found


def size_of(dimension: object) -> int | str | None:
    """Size of an axis in a file: a number, a name, or nothing."""
    which = dimension.WhichOneof("value")  # type: ignore[attr-defined]
    if which == "dim_value":
        value = int(dimension.dim_value)  # type: ignore[attr-defined]
        return value if value > 0 else None
    return str(dimension.dim_param) or None if which == "dim_param" else None  # type: ignore[attr-defined]


def input_name(model: onnx_file.Model, names: Sequence[str], layers: Sequence[str] | None) -> str | None:
    """The graph's input that feeds the first (named) recurrent node through its X: that is the network's input."""
    inputs = {entry.name for entry in model.graph.input} - set(model.weights)
    makers: dict[str, NodeProto] = {}
    first = None
    for node, title in zip(model.graph.node, names, strict=True):
        for name in node.output:
            makers.setdefault(name, node)
        if (
            first is None
            and (layers is None or title in layers)
            and node.op_type in RECURRENT
            and node.domain in onnx_file.DOMAINS
            and node.input
        ):
            first = node.input[0]
    waiting, seen = [first], set()
    while waiting:
        name = waiting.pop()
        if name is None or name in seen:
            continue
        if name in inputs:
            return name
        seen.add(name)
        if name in makers:
            waiting += reversed(makers[name].input)
    return None


def first_width(model: onnx_file.Model) -> int | None:
    """Number of features that the first recurrent node's W takes, for an input that does not say how many it has."""
    for node in model.graph.node:
        if node.op_type in RECURRENT and len(node.input) > 1:
            weight = model.weights.get(node.input[1])
            return int(weight.shape[-1]) if isinstance(weight, np.ndarray) and weight.ndim else None
    return None
