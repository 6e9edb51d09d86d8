"""The rules of PyTorch's tensor names: what layers a state_dict holds. Needs no torch, so that safetensors files do not either.

Kinds are told from names and shapes: the rows of ``weight_ih_l0`` over the hidden size are 4 for an LSTM, 3 for a GRU and 1 for
an RNN, whose nonlinearity is nowhere in the file. PyTorch's two bias vectors are summed, but for the one inside a GRU's reset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.chain import ACTIVATIONS, EMBEDDING, Link, Stage, linear
from sparsegate.importers.part import Array, printable, real
from sparsegate.network import Layer

RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d{1,4})(_reverse)?)?$")
GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
SUPPORTED = "nn.LSTM, nn.GRU, nn.RNN, their cells, nn.Linear and nn.Embedding are"
"""The end of a sentence about what is not supported."""


def links(state: Mapping[str, Array]) -> list[Link]:
    """Layers of a state_dict, in the order of their first tensors."""
    groups: dict[str, dict[str, Array]] = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition(".")
        if ".parametrizations." in f".{key}":
            prefix, leaf = f".{key}".split(".parametrizations.", 1)
            prefix, leaf = prefix.removeprefix("."), f"parametrizations.{leaf}"
        groups.setdefault(prefix, {})[leaf] = value
    return [_link(printable(prefix), tensors) for prefix, tensors in groups.items()]


def _link(prefix: str, tensors: dict[str, Array]) -> Link:
    if any(leaf.startswith("parametrizations.") for leaf in tensors):
        problem = "its weights are under a parametrization; finish the pruning first"
        return Link(prefix or "model", "parametrized module", problem)
    if any(RECURRENT.match(leaf) for leaf in tensors):
        return recurrent(prefix, tensors)
    weight = tensors.get("weight")
    if weight is not None and len(weight.shape) == 2 and set(tensors) <= {"weight", "bias"}:
        found = dense(prefix or "linear", tensors)
        if "bias" in tensors:
            return found
        ask = f"may be an embedding or linear; name it '{found.name}:embedding' or '{found.name}:linear'"
        return replace(found, words=(*ACTIVATIONS, EMBEDDING), ask=f"it {ask}")
    shapes = ", ".join(f"{leaf} {shape.shape}" for leaf, shape in tensors.items())
    return Link(prefix or "model", f"tensors {shapes}", f"only {SUPPORTED.removesuffix(' are')} are supported")


def dense(name: str, tensors: Mapping[str, Array], activation: str | None = None) -> Link:
    """nn.Linear, and the activation behind it where that is known."""
    what = "Linear" if activation is None else f"Linear, {activation}"
    words = ACTIVATIONS if activation is None else (activation,)
    rows, columns = (*tensors["weight"].shape, 0, 0)[:2]
    found = Link(name, what, shape=f"{columns} → {rows}", words=words, tensors=tensors, unseen=activation is None)
    return linear(found, "weight", "bias" if "bias" in tensors else None)


def recurrent(
    name: str, tensors: Mapping[str, Array], what: str | None = None, nonlinearity: str | None = None
) -> Link:
    """nn.LSTM, nn.GRU, nn.RNN or one of their cells; ``what`` and ``nonlinearity`` where they are known."""
    cells = {key for key in tensors if key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    tensors = {f"{key}_l0" if key in cells else key: value for key, value in tensors.items()}
    unnamed = name
    name = name or (what or "rnn").lower()
    w_x, w_h = tensors.get("weight_ih_l0"), tensors.get("weight_hh_l0")
    if w_x is None or w_h is None:
        return Link(name, what or "recurrent module", "weight_ih_l0 or weight_hh_l0 is missing", damaged=True)
    for key, value in tensors.items():
        if key.startswith("weight_") and (len(value.shape) != 2 or 0 in value.shape):
            problem = f"{key} has shape {value.shape}, expected a matrix with values"
            return Link(name, what or "recurrent module", problem, damaged=True)
    projection = tensors.get("weight_hr_l0")
    outputs = w_h.shape[1]
    units = outputs if projection is None else projection.shape[1]
    gates = w_x.shape[0] / units
    kind = GATES.get(int(gates)) if gates == int(gates) else None
    if kind is None or (what is not None and not what.startswith(kind)):
        problem = f"weight_ih_l0 has {w_x.shape[0]} rows for {units} units, expected 4, 3 or 1 times as many"
        return Link(name, what or "recurrent module", problem, damaged=True)
    name = unnamed or kind.lower()
    unknown = [key for key in tensors if not RECURRENT.match(key)]
    if unknown:
        return Link(name, what or kind, f"it has the unknown tensor {unknown[0]}")
    if projection is not None and kind != "LSTM":
        return Link(name, what or kind, "it has weight_hr_l0, and a projection (proj_size) follows an LSTM only")
    both = any(key.endswith("_reverse") for key in tensors)
    depth = 1 + max(int(match[2]) for key in tensors if (match := RECURRENT.match(key)))
    shape = f"{w_x.shape[1]} → {units}"
    shape += f" → {outputs}" if projection is not None else ""
    shape += f", {depth} layers" if depth > 1 else ""
    shape += ", bidirectional" if both else ""
    words: tuple[str, ...] = ()
    ask = None
    if kind == "RNN":
        words = ("tanh", "relu") if nonlinearity is None else (nonlinearity,)
        if nonlinearity is None:
            ask = f"its nonlinearity is not in a state_dict; name it '{name}:tanh' or '{name}:relu'"
    return Link(
        name,
        what or kind,
        shape=shape,
        role="recurrent",
        words=words,
        ask=ask,
        tensors=tensors,
        build=partial(_stages, name, kind, tensors, depth, both, projection is not None),
    )


def _stages(
    name: str, kind: str, tensors: Mapping[str, Array], depth: int, both: bool, projected: bool, word: str
) -> list[Stage]:
    """One stage for each stacked layer: named by the module, the layer if there are several, and the direction backwards."""
    kind = f"rnn_{word}" if kind == "RNN" else kind.lower()
    keys = ["weight_ih", "weight_hh", *(["weight_hr"] if projected else [])]
    if any(key.startswith("bias_") for key in tensors):  # all of the biases, or none
        keys += ["bias_ih", "bias_hh"]
    made = []
    for k in range(depth):
        directions = ("", "_reverse") if both else ("",)
        for key in keys:
            for suffix in directions:
                if f"{key}_l{k}{suffix}" not in tensors:
                    raise SparseGateError(f"layer {name!r}: {key}_l{k}{suffix} is missing")
        stem = name if depth == 1 else f"{name}_l{k}"
        made.append(tuple(_layer(stem, name, kind, tensors, k, suffix) for suffix in directions))
    return made


def _layer(stem: str, name: str, kind: str, tensors: Mapping[str, Array], k: int, suffix: str) -> Layer:
    def read(key: str) -> NDArray[np.float64]:
        return tensors[f"{key}_l{k}{suffix}"].read(f"layer {name!r}: {key}_l{k}{suffix}")

    w_x = read("weight_ih")
    biases = []
    for key in ("bias_ih", "bias_hh"):
        tensor = tensors.get(f"{key}_l{k}{suffix}")
        if tensor is not None and tensor.shape != (len(w_x),):
            raise SparseGateError(
                f"layer {name!r}: {key}_l{k}{suffix} has shape {tensor.shape}, expected {(len(w_x),)}"
            )
        biases.append(np.zeros(len(w_x)) if tensor is None else read(key))
    bias_h = None
    if kind == "gru":
        kept = len(w_x) // 3 * 2  # the rows of r and z
        bias_h, biases[1] = biases[1][kept:], np.append(biases[1][:kept], np.zeros(len(w_x) - kept))
    return Layer(
        stem + suffix,
        kind,
        w_x,
        read("weight_hh"),
        biases[0] + biases[1],
        bias_h=bias_h,
        w_p=read("weight_hr") if f"weight_hr_l{k}{suffix}" in tensors else None,
        reverse=bool(suffix),
    )


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of a safetensors file; nothing is read but the header, which is checked against the file's size."""
    try:
        file = safetensors.safe_open(str(path), framework="np")  # mapped until the tensors are read
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        found = {
            key: Array(tuple(part.get_shape()), partial(_numbers, file, path, key, part.get_dtype()))
            for key, part in slices.items()
        }
        return found, dict(file.metadata() or {})
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the reader's error type is not public
        raise SparseGateError(f"{path} is not a readable safetensors file: {error}") from error


def _numbers(file: safetensors.safe_open, path: Path, key: str, dtype: str, place: str) -> NDArray[np.float64]:
    if dtype == "BF16":  # NumPy has no such type: the upper half of a float32
        return real(
            (_raw(path, key).astype(np.uint32) << 16).view(np.float32).reshape(file.get_slice(key).get_shape()), place
        )
    if dtype not in ("F16", "F32", "F64"):
        raise SparseGateError(f"{place} is of type {dtype}, expected floating point (F16, BF16, F32 or F64)")
    return real(file.get_tensor(key), place)


def _raw(path: Path, key: str) -> NDArray[np.uint16]:
    """Bytes of a tensor as 16-bit words; the header was checked when the file was opened."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(length))[key]["data_offsets"]
        file.seek(8 + length + begin)
        return np.frombuffer(file.read(end - begin), "<u2")
