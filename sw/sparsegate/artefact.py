"""Files: safetensors with a JSON header, a content digest, and outputs that appear whole or not at all. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError


def digest(tensors: Mapping[str, NDArray], header: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of tensors and header: names, types, shapes and little-endian contents, in name order."""
    state = hashlib.sha256(canonical(header).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        state.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        state.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return state.hexdigest()


def canonical(value: Any) -> str:
    """JSON with one spelling for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is renamed into place, on any failure removed."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise SparseGateError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise SparseGateError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a binary file whole or not at all."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write readable JSON, keys in the given order, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a sentence."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SparseGateError(f"{path} is not valid JSON: {error}") from error


def read_record(path: str | Path, form: str, version: int, what: str) -> dict[str, Any]:
    """Read a JSON object that names its ``format`` and ``version``; ``what`` it is not, in a sentence, where it is another."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != form:
        raise SparseGateError(f"{path} is no {what}")
    if values.get("version") != version:
        raise SparseGateError(
            f"{path} has version {values.get('version')} of {form}, this SparseGate reads version {version}"
        )
    return values


def save(path: str | Path, form: str, version: int, tensors: Mapping[str, NDArray], header: Mapping[str, Any]) -> str:
    """Write tensors and header; returns the content digest, which is stored beside them."""
    body = {**header, "format": form, "version": version}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = digest(tensors, body)
    # one key: safetensors writes several in no fixed order, and equal contents must be equal files
    metadata = {"sparsegate": canonical({"digest": content, "header": body})}
    write_bytes(path, safetensors.numpy.save(dict(tensors), metadata))
    return content


def load(path: str | Path, form: str, version: int) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read what :func:`save` wrote, checking form, version and digest."""
    path = Path(path)
    try:
        with safetensors.safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise SparseGateError(f"cannot read {path}: no such file") from None
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        raise SparseGateError(f"{path} is not a readable safetensors file: {error}") from error
    if "sparsegate" not in metadata:
        raise SparseGateError(
            f"{path} is a safetensors file, but not one that SparseGate wrote; use 'sparsegate import' first"
        )
    try:
        stored = json.loads(metadata["sparsegate"])
        header, expected = stored["header"], stored["digest"]
        found, number = header["format"], header["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SparseGateError(f"{path} has a damaged header: {error}") from error
    if found != form:
        raise SparseGateError(f"{path} holds a {found}, expected a {form}")
    if number != version:
        raise SparseGateError(f"{path} has version {number} of {form}, this SparseGate reads version {version}")
    if digest(tensors, header) != expected:
        raise SparseGateError(f"{path} is corrupted: its contents do not match the digest stored in it")
    return tensors, header


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn missing keys and wrong types met while decoding ``path`` into one sentence."""
    try:
        yield
    except SparseGateError as error:
        raise SparseGateError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise SparseGateError(f"{path} has a damaged header: {type(error).__name__} {error}") from error
