"""Recurrent nodes of ONNX in SparseGate's terms: attributes, gate orders, biases, peepholes.

ONNX has its gates in the order i, o, f, c (LSTM) and z, r, h (GRU), W and R of all directions in one tensor, and two biases one
after the other, which are summed except for the one inside of a GRU's reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.onnx import file as onnx_file

if TYPE_CHECKING:
    from onnx import NodeProto

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = ("forward", "reverse", "bidirectional")
COMMON = {
    "activation_alpha": "FLOATS",
    "activation_beta": "FLOATS",
    "activations": "STRINGS",
    "clip": "FLOAT",
    "direction": "STRING",
    "hidden_size": "INT",
}
OWN = {"LSTM": {"input_forget": "INT"}, "GRU": {"linear_before_reset": "INT"}, "RNN": {}}
FUNCTIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
RNN_KINDS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


@dataclass(frozen=True, eq=False)
class Weights:
    """What a ``sparsegate.network.Layer`` is made of."""

    kind: str
    w_x: NDArray[np.float64]
    w_h: NDArray[np.float64] | None
    bias: NDArray[np.float64]
    bias_h: NDArray[np.float64] | None = None
    parameters: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        return len(self.w_x) if self.w_h is None else self.w_h.shape[1]

    units = outputs

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.w_x.size + (0 if self.w_h is None else self.w_h.size)


def real(value: object, what: str) -> NDArray[np.float64]:
    """A constant of floating-point numbers; float16 and float32 are exact in float64."""
    if not isinstance(value, np.ndarray):
        raise SparseGateError(f"{what} is not a constant")
    if value.dtype.kind != "f":
        raise SparseGateError(f"{what} is of type {value.dtype}, expected floating point")
    return np.asarray(value, np.float64)


def direction_of(node: NodeProto) -> str:
    """The attribute ``direction``."""
    return next((onnx_file.text(entry.s) for entry in node.attribute if entry.name == "direction"), "forward")


def recurrent(node: NodeProto, inputs: Sequence[object], opset: int) -> tuple[list[Weights], int]:
    """Weights of each direction of a node with the inputs W, R, B, ..., P; and its layout."""
    operator = node.op_type
    attributes = onnx_file.attributes(node, COMMON | OWN[operator] | ({"layout": "INT"} if opset >= 14 else {}))
    for key in ("clip", "activation_alpha", "activation_beta"):
        if attributes.get(key, []) != []:
            raise SparseGateError(f"{key} is {attributes[key]}, which is not supported")
    direction = attributes.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise SparseGateError(f"direction is {direction!r}, expected {', '.join(DIRECTIONS)}")
    flags = {key: attributes.get(key, 0) for key in ("input_forget", "linear_before_reset", "layout")}
    for key, flag in flags.items():
        if flag not in (0, 1):
            raise SparseGateError(f"{key} is {flag}, expected 0 or 1")
    directions = 2 if direction == "bidirectional" else 1
    functions = _functions(operator, attributes.get("activations"), directions)
    w, r = real(inputs[0], "W"), real(inputs[1], "R")
    gates = GATES[operator]
    units = r.shape[-1] if r.ndim == 3 else 0
    if units < 1 or r.shape != (directions, gates * units, units):
        raise SparseGateError(f"R has shape {r.shape}, expected ({directions}, {gates} * units, units)")
    if w.ndim != 3 or w.shape[:2] != r.shape[:2] or w.shape[2] < 1:
        raise SparseGateError(f"W has shape {w.shape}, expected ({directions}, {gates * units}, inputs)")
    if attributes.get("hidden_size", units) != units:
        raise SparseGateError(f"hidden_size is {attributes['hidden_size']}, but R has {units} units")
    b = np.zeros((directions, 2 * gates * units)) if inputs[2] is None else real(inputs[2], "B")
    if b.shape != (directions, 2 * gates * units):
        raise SparseGateError(f"B has shape {b.shape}, expected {(directions, 2 * gates * units)}")
    p = None
    if inputs[6] is not None:
        p = real(inputs[6], "P")
        if operator != "LSTM" or p.shape != (directions, 3 * units):
            raise SparseGateError(f"P has shape {p.shape}, expected {(directions, 3 * units)} of an LSTM")
    made = []
    for d in range(directions):
        half = gates * units
        biases = (b[d, :half], b[d, half:])
        if operator == "LSTM":
            made.append(
                _lstm(w[d], r[d], biases[0] + biases[1], None if p is None else p[d], bool(flags["input_forget"]))
            )
        elif operator == "GRU":
            made.append(_gru(w[d], r[d], biases, bool(flags["linear_before_reset"])))
        else:
            made.append(Weights(RNN_KINDS[functions[d]], w[d], r[d], biases[0] + biases[1]))
    return made, flags["layout"]


def _functions(operator: str, found: list[str] | None, directions: int) -> list[str]:
    """Check the activations; those of an RNN, one a direction."""
    expected = FUNCTIONS[operator] * directions
    lower = (
        [name.lower() for name in found] if found else [name.lower() for name in expected]
    )  # names are case-insensitive
    known = (
        len(lower) == directions and set(lower) <= set(RNN_KINDS)
        if operator == "RNN"
        else lower == [name.lower() for name in expected]
    )
    if not known:
        wanted = f"{directions} of Tanh and Relu" if operator == "RNN" else str(expected)
        raise SparseGateError(f"activations is {found}, expected {wanted}")
    return lower


def _rows(matrix: NDArray, order: Sequence[int], gates: int) -> NDArray[np.float64]:
    """Gates of a matrix or vector in another order."""
    parts = matrix.reshape(gates, len(matrix) // gates, *matrix.shape[1:])
    return parts[list(order)].reshape(-1, *matrix.shape[1:])


def _lstm(w: NDArray, r: NDArray, bias: NDArray, p: NDArray | None, coupled: bool) -> Weights:
    order = (0, 3, 1) if coupled else (0, 2, 3, 1)  # i, (f,) g, o of i, o, f, c
    w, r, bias = (_rows(part, order, 4) for part in (w, r, bias))
    kind = "cifg" if coupled else "lstm"
    if p is None:
        return Weights(kind, w, r, bias)
    p_i, p_o, p_f = p.reshape(3, -1)
    parameters = {"p_i": p_i, "p_o": p_o} if coupled else {"p_i": p_i, "p_f": p_f, "p_o": p_o}
    return Weights(f"{kind}_peephole", w, r, bias, parameters=parameters)


def _gru(w: NDArray, r: NDArray, biases: tuple[NDArray, NDArray], after: bool) -> Weights:
    order = (1, 0, 2)  # r, z, n of z, r, h
    w, r = _rows(w, order, 3), _rows(r, order, 3)
    outer, inner = (_rows(part, order, 3) for part in biases)
    if not after:
        return Weights("gru_reset_before", w, r, outer + inner)
    units = r.shape[1]
    bias = outer + np.append(inner[: 2 * units], np.zeros(units))
    return Weights("gru", w, r, bias, inner[2 * units :])
