"""Importers: trained models of other frameworks become a Network. ``load`` is the one entry; see ``docs/reference/python-api.md``.

Nothing heavy is imported before a source needs it: torch for its modules and files, h5py for Keras, onnx for ONNX. What a file
holds is told from its first bytes, and where these are the same (or there are none) from its suffix.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsegate.errors import SparseGateError
from sparsegate.extras import named
from sparsegate.importers import chain as _chain
from sparsegate.importers import state_dict
from sparsegate.importers.chain import Patterns, one_hot
from sparsegate.importers.part import Part, printable
from sparsegate.network import Network
from sparsegate.network.passes import When

FORMS = "a Network of SparseGate, safetensors, torch.save's .pt or .pth, Keras' .keras or .h5, or .onnx"


def load(
    source: Any,
    layers: Sequence[str] | None = None,
    when: When | None = None,
    patterns: Patterns | None = None,
    name: str | None = None,
) -> Network:
    """Make a Network of a trained model: a torch module, a state_dict, or a file of any supported framework.

    Parameters
    ----------
    layers : names of the layers to take, in the order in which data flows; all, in the order of definition, where omitted. The
        name of a stacked layer stands for all of it. To name layers is to vouch that nothing else is computed between them. What
        a file does not say stands behind a colon: ``fc:relu``, ``rnn:tanh``, ``words:embedding``.
    when : whether a linear head runs at every "step", on the values of a sequence's "last" one, or on each direction's "final"
        value, which of a reversed one is that of the first step. Where omitted what the model says, else "step".
    patterns : N:M patterns that the weights obey, checked: by name (``Pruner.patterns``), or one for every recurrent layer. A
        name is that of a module, or of one of its layers (``lstm_l1``). Layers without one are dense.
    name : name of the network; the file's where omitted.

    Raises
    ------
    SparseGateError
        Naming the layer and the attribute that is not supported, the weights that hold NaN, or the shapes that disagree.
    """
    with _printable_messages():
        return _load(source, _chain.names_of(layers), when, patterns, name)


def _load(
    source: Any, layers: list[str] | None, when: When | None, patterns: Patterns | None, name: str | None
) -> Network:
    found = _open(source)
    if isinstance(source, (str, Path)):
        name = name or printable(Path(source).stem)
    if isinstance(found, Network):
        if layers is not None or when is not None or patterns is not None:
            raise SparseGateError(f"{source} is a Network already; layers, when and patterns are for other models")
        return found
    if found is None:
        return _module("onnx").from_onnx(source, layers=layers, when=when, patterns=patterns, name=name or "network")
    return _chain.chain(found, layers, when, patterns, name or "network")


def describe(source: Any, layers: Sequence[str] | None = None) -> Sequence[Part]:
    """List the layers of what :func:`load` takes, importable or not; ``used`` is by an import of ``layers``, or of all."""
    with _printable_messages():
        layers = _chain.names_of(layers)
        found = _open(source)
        if isinstance(found, Network):
            return [Part(layer.name, layer.kind, None, f"{layer.inputs} → {layer.outputs}") for layer in found.layers]
        return _module("onnx").describe(source, layers) if found is None else found


@contextmanager
def _printable_messages() -> Iterator[None]:
    """Messages quote what files hold, and must not break lines or move the cursor of whoever reads them."""
    try:
        yield
    except SparseGateError as error:
        if str(error).isprintable():
            raise
        raise SparseGateError(printable(str(error))) from error


def _open(source: Any) -> Network | Sequence[_chain.Link] | None:
    """The links of a source; a Network, if it is one already; None for an ONNX model, which is no chain but a graph."""
    if isinstance(source, (str, Path)):
        return _open_file(Path(source))
    if isinstance(source, Network):
        return source
    kinds = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    if "onnx" in kinds:
        return None
    if not isinstance(source, Mapping) and "torch" not in kinds:
        raise SparseGateError(f"a model is a torch module, a state_dict or a file, not a {type(source).__name__}")
    return _module("torch").links(source)


def _open_file(path: Path) -> Network | Sequence[_chain.Link] | None:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe would wait for its other end
            raise SparseGateError(f"cannot read {path}: it is not a file")
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name that no file can have
        raise SparseGateError(f"cannot read {path}: {error}") from error
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return None
    if suffix == ".safetensors" or start[8:9] == b"{":  # behind the length of the header
        tensors, metadata = state_dict.read_safetensors(path)
        return Network.load(path) if "sparsegate" in metadata else state_dict.links(tensors)
    if start.startswith(b"\x89HDF") or suffix in (".h5", ".hdf5", ".keras") or _is_keras_zip(path, start):
        return _module("keras").links(path)
    if start.startswith((b"PK", b"\x80")) or suffix in (".pt", ".pth", ".ckpt", ".bin"):
        torch = _module("torch")
        return torch.links(torch.read(path))
    raise SparseGateError(f"{path} is no model that SparseGate knows: expected {FORMS}")


def _is_keras_zip(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except Exception:  # zipfile raises many types; the importer of torch says what is wrong with the file
        return False


def _module(framework: str) -> Any:
    """The importer of a framework, loaded when it is needed."""
    with named():
        return importlib.import_module(f"sparsegate.importers.{framework}")


__all__ = ["FORMS", "Part", "Patterns", "describe", "load", "one_hot"]
