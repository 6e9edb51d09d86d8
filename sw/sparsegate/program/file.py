"""A Program's file: safetensors with a JSON header, a version and a digest; see ``docs/reference/file-formats.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.cells.matrices import KEYS
from sparsegate.errors import SparseGateError
from sparsegate.numerics.fixed import QFormat
from sparsegate.program.layer import QuantizedLayer
from sparsegate.program.matrix import Matrix
from sparsegate.program.states import RawState

FORMAT = "sparsegate-program"
VERSION = 2


def encode(
    name: str,
    input_format: QFormat,
    threshold: int,
    layers: Sequence[QuantizedLayer],
    output: Sequence[int],
    initial: RawState,
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Tensors and header of a Program's file, without its free values."""
    tensors: dict[str, NDArray] = {}
    entries = []
    for position, layer in enumerate(layers):
        for key, matrix in (("x", layer.matrix_x), ("h", layer.matrix_h), ("p", layer.matrix_p)):
            if matrix is not None:
                tensors[f"{position}.index_{key}"] = matrix.index.astype(np.uint16)
                tensors[f"{position}.weight_{key}"] = matrix.weight.astype(np.int16)
        tensors[f"{position}.bias"] = layer.bias.astype(np.int64)
        for key, values in layer.parameters.items():
            tensors[f"{position}.parameter.{key}"] = values.astype(np.int64)
        for key, values in initial.get(layer.name, {}).items():
            tensors[f"{position}.initial.{key}"] = values.astype(np.int64)
        entries.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "units": layer.units,
                "block": layer.block,
                "block_p": layer.block_p,
                "outputs": layer.outputs,
                "when": layer.when,
                "formats": {key: str(value) for key, value in sorted(layer.formats.items())},
                "step_bits": layer.step_bits,
                "thresholds": list(layer.thresholds),
                "sources": list(layer.sources),
                "reverse": layer.reverse,
            }
        )
    source = {"format": str(input_format), "threshold": threshold}
    return tensors, {"name": name, "input": source, "layers": entries, "output": list(output)}


def decode(tensors: Mapping[str, NDArray], header: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the Program whose file holds these."""
    layers, initial = [], {}
    for position, entry in enumerate(header["layers"]):
        layers.append(_layer(tensors, position, entry))
        found = _under(tensors, f"{position}.initial.")
        if found:
            initial[layers[-1].name] = found
    return {
        "name": str(header["name"]),
        "input_format": QFormat.parse(header["input"]["format"]),
        "layers": tuple(layers),
        "input_threshold": int(header["input"]["threshold"]),
        "meta": header["meta"],
        "output": tuple(int(vector) for vector in header["output"]),
        "initial": initial,
    }


def _layer(tensors: Mapping[str, NDArray], position: int, entry: Mapping[str, Any]) -> QuantizedLayer:
    matrices = [_matrix(tensors, position, key) for key in KEYS]
    if matrices[0] is None:
        raise SparseGateError(f"layer {entry['name']!r} has no input matrix")
    return QuantizedLayer(
        name=str(entry["name"]),
        kind=str(entry["kind"]),
        units=int(entry["units"]),
        block=int(entry["block"]),
        when=entry["when"],
        formats={key: QFormat.parse(value) for key, value in entry["formats"].items()},
        step_bits=int(entry["step_bits"]),
        matrix_x=matrices[0],
        matrix_h=matrices[1],
        bias=tensors[f"{position}.bias"].astype(np.int64),
        thresholds=tuple(int(value) for value in entry["thresholds"]),
        matrix_p=matrices[2],
        block_p=int(entry["block_p"]),
        parameters=_under(tensors, f"{position}.parameter."),
        sources=tuple(int(vector) for vector in entry["sources"]),
        reverse=bool(entry["reverse"]),
    )


def _matrix(tensors: Mapping[str, NDArray], position: int, key: str) -> Matrix | None:
    if f"{position}.index_{key}" not in tensors:
        return None
    index, weight = (tensors[f"{position}.{what}_{key}"].astype(np.int64) for what in ("index", "weight"))
    return Matrix(index, weight)


def _under(tensors: Mapping[str, NDArray], prefix: str) -> dict[str, NDArray]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
