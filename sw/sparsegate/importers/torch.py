"""PyTorch models: modules, state_dicts and what torch.save wrote of them. Files are never unpickled freely.

Supported are nn.LSTM, nn.GRU and nn.RNN with everything that they can do, their cells, nn.Linear, and an nn.Embedding before them,
chained in the order of definition or in the order of the names given.

Only layers are seen, never what code does between them: a state_dict holds no activations, and a ``forward`` may call functions.
A ReLU, Sigmoid or Tanh is seen directly behind a Linear in an nn.Sequential, and nowhere else. Linear layers in a row, which would
be one layer if nothing stood between them, are therefore taken only where the caller names the layers and so vouches for it. A
subclass with a ``forward`` of its own is refused.
"""

from __future__ import annotations

import argparse
import os
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegate.errors import SparseGateError
from sparsegate.importers import state_dict
from sparsegate.importers.chain import Link, embedding
from sparsegate.importers.part import Array

NO_ARITHMETIC = (nn.Dropout, nn.Identity, nn.modules.loss._Loss)
"""Modules that change no value at inference, or are no part of it."""
KNOWN = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear, nn.Embedding)
ACTIVATIONS = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of what torch.save writes, today and before PyTorch 1.6."""
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Where training frameworks keep the state_dict inside of a checkpoint."""
HOW = "in the code that trained it, torch.save(model.state_dict(), ...) or safetensors.torch.save_file(model.state_dict(), ...)"


class _Ignored:
    """Stands in for what checkpoints hold beside tensors: no code of theirs is run."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


IGNORED = [
    (_Ignored, f"{argparse.Namespace.__module__}.{argparse.Namespace.__qualname__}"),
    *(
        (_Ignored, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.ndarray"),
]
"""What a checkpoint may hold beside tensors, by its full name: never built, only stepped over."""


def links(source: nn.Module | Mapping[str, Any]) -> list[Link]:
    """Layers of a module or a state_dict, importable or not."""
    if isinstance(source, nn.Module):
        return _of_module(source)
    return state_dict.links(_arrays(source))


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``torch.save`` file that holds a state_dict, alone or under one of the usual keys (``weights_only`` loading)."""
    refused = f"{path} is not a readable PyTorch state_dict"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise SparseGateError(f"{refused}: it is empty")
    if not start.startswith((ZIP, PICKLE)):
        raise SparseGateError(f"{refused}: torch.save did not write it")
    zipped = start.startswith(ZIP)
    if zipped:
        _check_zip(path, refused)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(IGNORED):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # about how the file was pickled: what matters of it is in the error
            # mapped, a storage cannot reach beyond the file, whatever size the file gives it
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises a different type for each way in which a file can be damaged or unsafe
        reason = f"it is damaged ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = f"it holds more than tensors; save the weights alone: {HOW}"
        raise SparseGateError(f"{refused}: {reason}") from error
    if not isinstance(found, Mapping):
        raise SparseGateError(f"{path} holds a {type(found).__name__}, expected a state_dict")
    for _ in range(2):
        inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None)
        found = found if inner is None else inner
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SparseGateError(f"{path} holds no tensors; expected a state_dict")
    return tensors


def _check_zip(path: Path, refused: str) -> None:
    """Refuse an archive that torch.save did not write: damaged, compressed, or with more in it than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise SparseGateError(f"{refused}: it is compressed, which torch.save does not do")
            if sum(member.file_size for member in members) > os.path.getsize(path):
                raise SparseGateError(f"{refused}: its parts are larger than the file")
            broken = archive.testzip()
    except SparseGateError:
        raise
    except Exception as error:  # zipfile raises many types on damaged archives
        reason = "its end is missing" if "not a zip file" in str(error) else f"it is damaged ({error})"
        raise SparseGateError(f"{refused}: {reason}") from error
    if broken is not None:
        raise SparseGateError(f"{refused}: it is damaged (checksum of {broken})")


def _arrays(state: Mapping[Any, Any]) -> dict[str, Array]:
    arrays = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise SparseGateError(f"{key!r} is no name of a tensor; give the model's state_dict()")
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor):
            raise SparseGateError(
                f"{key!r} is a {type(value).__name__}, expected a tensor; give the model's state_dict()"
            )
        if value.is_nested:  # it has no shape to ask for
            raise SparseGateError(f"{key!r} is a nested tensor, expected a dense one")
        arrays[key] = _array(value)
    return arrays


def _array(value: Tensor) -> Array:
    lazy = nn.parameter.is_lazy(value)  # it has no shape yet
    return Array(() if lazy else tuple(value.shape), partial(_numbers, value))


def _numbers(value: Tensor, place: str) -> NDArray[np.float64]:
    if not value.dtype.is_floating_point:
        raise SparseGateError(f"{place} is of type {value.dtype}, expected floating point")
    if value.layout != torch.strided or value.is_meta:
        kind = "a tensor without data (device meta)" if value.is_meta else f"sparse ({value.layout})"
        raise SparseGateError(f"{place} is {kind}, expected a dense tensor")
    try:
        return value.detach().to("cpu", torch.float64).numpy().copy()
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # the rarer kinds of tensors
        reason = str(error).partition("\n")[0]
        raise SparseGateError(f"{place} cannot be read as numbers: {reason}") from error


def _of_module(model: nn.Module) -> list[Link]:
    """Layers of a module, in the order of definition."""
    followed = _activations(model)
    found: list[Link] = []
    listed: set[nn.Module] = set(
        followed.values()
    )  # what stands in the list already, or belongs to something that does
    for name, module in model.named_modules():
        if module in listed or isinstance(module, NO_ARITHMETIC):
            continue
        name = name or type(module).__name__.removeprefix("Parametrized").lower()
        link = _link(name, module, followed.get(module), module is model)
        if link is not None:
            found.append(link)
            if link.problem is None or type(module).__module__.startswith(
                "torch."
            ):  # a user's own module holds layers that can be named
                listed.update(module.modules())
    return found


def _activations(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Activation modules behind the Linear modules of plain nn.Sequential modules."""
    found: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            parts = [part for part in module if not isinstance(part, NO_ARITHMETIC)]
            for part, following in zip(parts, parts[1:], strict=False):
                if isinstance(part, nn.Linear) and type(following) in ACTIVATIONS:
                    found[part] = following
    return found


def _link(name: str, module: nn.Module, activation: nn.Module | None, root: bool) -> Link | None:
    what = type(module).__name__.removeprefix("Parametrized")
    if isinstance(module, KNOWN):
        known = next(known for known in KNOWN if isinstance(module, known))
        # asked of the attribute: a parametrization makes a subclass too, which inherits forward
        if type(module).forward is not known.forward or "forward" in vars(module):
            return Link(name, what, f"it has a forward of its own; only nn.{known.__name__}'s own is known")
        what = known.__name__
    if isinstance(module, nn.RNNBase):
        tensors = {key: _array(getattr(module, key)) for key in module._flat_weights_names}
        return state_dict.recurrent(name, tensors, what, getattr(module, "nonlinearity", None))
    if isinstance(module, nn.RNNCellBase):
        values = {key: getattr(module, key) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        tensors = {key: _array(value) for key, value in values.items() if value is not None}
        return state_dict.recurrent(name, tensors, what, getattr(module, "nonlinearity", None))
    if isinstance(module, nn.Linear):
        bias = {} if module.bias is None else {"bias": _array(module.bias)}
        word = None if activation is None else ACTIVATIONS[type(activation)]
        return state_dict.dense(name, {"weight": _array(module.weight), **bias}, word)
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None:
            return Link(name, what, f"max_norm is {module.max_norm}, expected None")
        return embedding(name, {"weight": _array(module.weight)})
    if type(module) in ACTIVATIONS:
        word = ACTIVATIONS[type(module)]
        return Link(
            name, what, f"it is seen only behind a Linear in an nn.Sequential; name the Linear before as 'NAME:{word}'"
        )
    container = any(True for _ in module.children()) or root
    if container and not any(True for _ in module.parameters(recurse=False)):
        return None
    return Link(name, what, f"{what} is not supported; {state_dict.SUPPORTED}")
