"""Read ONNX files that may be damaged or mean harm: nothing is allocated before its size is checked against what is there.

Weights may lie in files of their own beside the model ("external data"). Only files that lie in the model's folder, symbolic links
followed, are read. The onnx package is used for its protobuf classes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.part import LARGEST_MODEL, check_size

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

LARGEST_FILE = (1 << 31) - 1
"""Bytes; protobuf cannot hold more."""
OLDEST = 7
"""Operator set in which LSTM, GRU and RNN got their present meaning."""
DOMAINS = ("", "ai.onnx")
"""Names of the operators that ONNX itself defines."""

TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_data"),
    2: ("<u1", "int32_data"),
    3: ("<i1", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<u2", "int32_data"),  # float16, as bits
    11: ("<f8", "double_data"),
    16: ("<u2", "int32_data"),  # bfloat16, as bits
}
"""TensorProto.DataType -> type of the stored values, and the field that holds them where raw_data does not."""
FLOAT16, BFLOAT16 = 10, 16


@dataclass(frozen=True)
class Model:
    """A parsed model, and its weights by name: arrays, or why one cannot be read."""

    graph: GraphProto
    opset: int
    weights: Mapping[str, NDArray | SparseGateError]


def read(source: str | Path | ModelProto) -> Model:
    """Parse a file or take a model, and check what the whole of it needs: known operator sets, no functions of its own."""
    try:
        import onnx
    except ImportError:
        raise SparseGateError("ONNX models need the onnx package: pip install 'sparsegate[onnx]'") from None
    folder = None
    if isinstance(source, (str, Path)):
        path = Path(source)
        model, folder, what = _parsed(path), path.parent, str(path)
    elif isinstance(source, onnx.ModelProto):
        model, what = source, "the model"
    else:
        raise SparseGateError(f"an ONNX model is a file or an onnx.ModelProto, not a {type(source).__name__}")
    if not model.graph.node:
        raise SparseGateError(f"{what} is not an ONNX model: its graph has no nodes")
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        raise SparseGateError(
            f"{what} is of operator set {', '.join(map(str, versions)) or 'none'}, expected {OLDEST} to {newest}"
        )
    for function in model.functions:
        if function.domain in DOMAINS:
            raise SparseGateError(f"{what} redefines the operator {function.name}")
    check_size(sum(max(0, math.prod(tensor.dims)) for tensor in model.graph.initializer))
    weights: dict[str, NDArray | SparseGateError] = {}
    for tensor in model.graph.initializer:
        try:
            weights[tensor.name] = array(tensor, folder)
        except SparseGateError as error:
            weights[tensor.name] = error
    for sparse in model.graph.sparse_initializer:
        name = sparse.values.name
        weights[name] = SparseGateError(f"tensor {name!r} is sparse, which is not supported")
    return Model(model.graph, versions[0], weights)


def _parsed(path: Path) -> ModelProto:
    import onnx

    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SparseGateError(f"cannot read {path}: it is not a file")
        if size > LARGEST_FILE:
            raise SparseGateError(f"{path} has {size} bytes, more than an ONNX file can have ({LARGEST_FILE})")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, SparseGateError):
            raise
        raise SparseGateError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return onnx.ModelProto.FromString(content)
    except Exception as error:  # the parser's error type is protobuf's, which is no dependency of ours
        raise SparseGateError(f"{path} is not a readable ONNX model: it is damaged, or no ONNX file at all") from error


def array(tensor: TensorProto, folder: Path | None = None) -> NDArray:
    """The values of a tensor, in its own type (bfloat16 as float32); refused where size, type and contents disagree.

    ``folder`` is where they may lie in a file of their own.
    """
    at = f"tensor {tensor.name!r}"
    if tensor.data_type not in TYPES:
        raise SparseGateError(f"{at} is of ONNX type {tensor.data_type}, expected floating point or integers")
    dtype, field = TYPES[tensor.data_type]
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    if len(shape) > 8 or any(not 0 <= size < 1 << 31 for size in shape):
        raise SparseGateError(f"{at} has shape {shape}, expected at most 8 axes, each below {1 << 31}")
    if count > LARGEST_MODEL:
        raise SparseGateError(
            f"{at} of shape {shape} holds {count} values, more than the {LARGEST_MODEL} that are read"
        )
    if tensor.HasField("segment"):
        raise SparseGateError(f"{at} is stored in segments, which is not supported")
    bytes_needed = count * np.dtype(dtype).itemsize
    if tensor.data_location == 1:
        values = np.frombuffer(_external(tensor, at, folder, bytes_needed), dtype)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != bytes_needed:
            raise SparseGateError(
                f"{at} of shape {shape} needs {bytes_needed} bytes, but {len(tensor.raw_data)} are there"
            )
        values = np.frombuffer(tensor.raw_data, dtype)
    else:
        stored = getattr(tensor, field)
        if len(stored) != count:
            raise SparseGateError(f"{at} of shape {shape} needs {count} values, but {len(stored)} are there")
        wide = np.fromiter(stored, np.float64 if field.startswith(("float", "double")) else np.int64, count)
        with np.errstate(over="ignore"):  # floats come from the same type
            values = wide.astype(dtype)
        if wide.dtype.kind == "i" and not np.array_equal(values.astype(np.int64), wide):
            raise SparseGateError(f"{at} holds integers beyond its type {dtype}")
    if tensor.data_type == FLOAT16:
        values = values.view(np.float16)
    elif tensor.data_type == BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _external(tensor: TensorProto, at: str, folder: Path | None, needed: int) -> bytes:
    """Bytes of a tensor that lie in another file of the model's folder."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    location = where.get("location", "")
    if folder is None:
        raise SparseGateError(
            f"{at} lies in another file, {location!r}, and only the weights of a model read by its path may"
        )
    try:
        offset, length = int(where.get("offset", 0)), int(where.get("length", needed))
    except ValueError:
        raise SparseGateError(f"{at}: offset and length of its external data are no integers") from None
    try:
        base = folder.resolve(strict=True)
        path = (base / location).resolve(strict=True)
        inside = path.is_relative_to(base) and not Path(location).is_absolute()
        if not inside or not path.is_file():
            raise SparseGateError(f"{at} lies in {location!r}, which is no file in the model's folder")
        size = path.stat().st_size
        if offset < 0 or length != needed or offset + length > size:
            raise SparseGateError(
                f"{at} needs {needed} bytes; it claims {length} from byte {offset} of {location!r}, which has {size}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(needed)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        if isinstance(error, SparseGateError):
            raise
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise SparseGateError(f"{at}: cannot read its external data {location!r}: {reason}") from error
    if len(content) != needed:
        raise SparseGateError(f"{at} needs {needed} bytes, but {location!r} ended after {len(content)}")
    return content


ATTRIBUTE_FIELDS = {
    "FLOAT": "f",
    "INT": "i",
    "STRING": "s",
    "TENSOR": "t",
    "FLOATS": "floats",
    "INTS": "ints",
    "STRINGS": "strings",
}


def attributes(node: NodeProto, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of a node by name. ``kinds`` are the names that are understood, and the type of each; others are refused."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        kind = _type_name(attribute)
        if name not in kinds or name in found:
            raise SparseGateError(f"its attribute {name} is {'there twice' if name in found else 'not supported'}")
        if kind != kinds[name]:
            raise SparseGateError(f"its attribute {name} is of type {kind}, expected {kinds[name]}")
        value = getattr(attribute, ATTRIBUTE_FIELDS[kind])
        if kind == "STRING":
            value = text(value)
        elif kind == "STRINGS":
            value = [text(part) for part in value]
        elif kind in ("INTS", "FLOATS"):
            value = list(value)
        found[name] = value
    return found


def _type_name(attribute: AttributeProto) -> str:
    kinds = {1: "FLOAT", 2: "INT", 3: "STRING", 4: "TENSOR", 6: "FLOATS", 7: "INTS", 8: "STRINGS"}
    return kinds.get(attribute.type, f"number {attribute.type}")


def text(value: bytes) -> str:
    """A string attribute, for messages too: what is not UTF-8 shows as such."""
    return value.decode("utf-8", "backslashreplace")
