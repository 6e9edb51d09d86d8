"""PyTorch models: modules, state_dicts and what torch.save wrote of them. Files are never unpickled freely.

Supported are nn.LSTM, nn.GRU and nn.RNN with everything that they can do, their cells, nn.Linear, and an nn.Embedding before them,
chained in the order of definition or in the order of the names given.

Only layers are seen, never what code does between them: a state_dict holds no activations, and a ``forward`` may call functions.
A ReLU, Sigmoid or Tanh is seen directly behind a Linear in an nn.Sequential, and nowhere else. A Linear before another layer,
several recurrent modules, and a module that is used twice are therefore taken only where the caller names the layers and so vouches
for it. A layer with a ``forward`` or hooks of its own is refused; a ``gumbel.G2LSTM`` is the nn.LSTM that it is without its noise.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from sparsegate.importers.part import Array, printable

NO_ARITHMETIC = (nn.Dropout, nn.Identity, nn.modules.loss._Loss)
"""Modules that change no value at inference, or are no part of it."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
ALIKE: set[Callable[..., Any]] = set()
"""Methods ``forward`` of subclasses that compute in evaluation what their base class does; who defines one puts it here."""
KNOWN = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear, nn.Embedding)
ACTIVATIONS = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of what torch.save writes, today and before PyTorch 1.6."""
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Where training frameworks keep the state_dict inside of a checkpoint."""
HOW = "in the code that trained it, torch.save(model.state_dict(), ...) or safetensors.torch.save_file(model.state_dict(), ...)"


LAZY = "its weights are not there yet; run the model once on an input"
BESIDE = re.compile(r"optim|sched|scaler|averag|callback|loops|(^|_)(ema|swa)(_|$)", re.IGNORECASE)
"""Keys of what a checkpoint holds beside the model."""
LARGEST_PICKLE = 1 << 22
"""Bytes of the description of an archive's tensors, which are parsed in Python; 20000 tensors take as much."""


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
        key = next((key for key in NESTED if isinstance(found.get(key), Mapping)), None)
        _refuse_others(path, found, key)
        found = found if key is None else found[key]
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SparseGateError(f"{path} holds no tensors; expected a state_dict")
    return tensors


def _refuse_others(path: Path, found: Mapping[Any, Any], key: str | None) -> None:
    """Refuse tensors beside the state_dict under ``key``, or mappings of them beside tensors: they may be part of the model."""
    nested = [
        str(name)
        for name, value in found.items()
        if name != key and isinstance(value, Mapping) and not BESIDE.search(str(name)) and _holds_arrays(value)
    ]
    alone = [str(name) for name, value in found.items() if _is_array(value) and not BESIDE.search(str(name))]
    names = ([] if key is None else [key]) + nested + alone[:1]
    if (nested or alone) and (key is not None or (nested and alone)):
        listed = f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
        raise SparseGateError(
            f"{path} holds tensors under {listed}, expected a single state_dict; save the one to import alone: {HOW}"
        )


def _is_array(value: Any) -> bool:
    """A tensor that is no mere number, as counters and losses are, and no state of a random generator."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point()


def _holds_arrays(value: Any, depth: int = 4) -> bool:
    if isinstance(value, Mapping) and depth:
        return any(_holds_arrays(inner, depth - 1) for inner in value.values())
    return _is_array(value)


def _check_zip(path: Path, refused: str) -> None:
    """Refuse an archive that torch.save did not write: damaged, compressed, or with more in it than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise SparseGateError(f"{refused}: it is compressed, which torch.save does not do")
            if sum(member.file_size for member in members) > os.path.getsize(path):
                raise SparseGateError(f"{refused}: its parts are larger than the file")
            for member in members:
                if member.filename.endswith(".pkl") and member.file_size > LARGEST_PICKLE:
                    size = f"{member.file_size} bytes, more than the {LARGEST_PICKLE} that are read"
                    raise SparseGateError(f"{refused}: {member.filename} in it has {size}")
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
    """Layers of a module, in the order of definition. A module stands at each of its names."""
    try:
        modules = dict(model.named_modules(remove_duplicate=False))
    except RecursionError:
        raise SparseGateError("a module of the model contains itself") from None
    first: dict[nn.Module, str] = {}
    rows = _Rows()
    for path, module in modules.items():
        first.setdefault(module, path)
        if isinstance(module, nn.Sequential) and _only_holds(module):
            rows.add(path, module)
    found: list[Link] = []
    names: dict[str, str] = {}  # path -> name of the link
    listed = set(rows.activations.values())  # paths of what stands in the list already
    for path, module in modules.items():
        if path in listed or any(path.startswith(f"{above}.") for above in listed if above):
            continue
        if "" in listed:
            break
        name = printable(path) or type(module).__name__.removeprefix("Parametrized").lower()
        activation = modules[rows.activations[path]] if path in rows.activations else None
        link = _link(name, module, activation, path in rows.known, module is model)
        if link is None:
            continue
        if first[module] != path and link.vouch is None:
            link = replace(link, vouch=f"it is the module {first[module]!r} once more")
        if rows.before.get(path) in names:
            link = replace(link, after=names[rows.before[path]])
        names[path] = link.name
        found.append(link)
        if link.problem is None or (
            type(module).__module__.startswith("torch.") and not isinstance(module, CONTAINERS)
        ):
            listed.add(path)  # a user's own module holds layers that can be named
    return found


class _Rows:
    """What plain nn.Sequential modules say of their parts, by path: the activation behind a Linear, the layer before a layer."""

    def __init__(self) -> None:
        self.activations: dict[str, str] = {}
        self.before: dict[str, str] = {}
        self.known: set[str] = set()
        """Linear modules directly before a recurrent one."""

    def add(self, path: str, module: nn.Sequential) -> None:
        stem = f"{path}." if path else ""
        parts = [(f"{stem}{key}", part) for key, part in module._modules.items() if part is not None]
        parts = [(name, part) for name, part in parts if not _changes_nothing(part)]
        last = ""  # the layer whose output goes on
        for position, (name, part) in enumerate(parts):
            if not isinstance(part, KNOWN):
                last = ""
                continue
            if last:
                self.before[name] = last
            last = name
            after, following = parts[position + 1] if position + 1 < len(parts) else ("", None)
            if isinstance(part, nn.Linear) and following is not None and _is_activation(following):
                self.activations[name] = after
                del parts[position + 1]
            elif isinstance(part, nn.Linear) and isinstance(following, (nn.RNNBase, nn.RNNCellBase)):
                self.known.add(name)


def _changes_nothing(module: nn.Module) -> bool:
    """Whether a module changes no value at inference, or is no part of it."""
    if not isinstance(module, NO_ARITHMETIC) or _hooks(module):
        return False
    known = next(known for known in NO_ARITHMETIC if isinstance(module, known))
    return known is nn.modules.loss._Loss or (type(module).forward is known.forward and "forward" not in vars(module))


def _is_activation(module: nn.Module) -> bool:
    return type(module) in ACTIVATIONS and not _hooks(module) and "forward" not in vars(module)


def _only_holds(module: nn.Module) -> bool:
    """Whether a module is a container without code of its own."""
    plain = type(module).forward in (nn.Sequential.forward, nn.Module.forward) and "forward" not in vars(module)
    return isinstance(module, CONTAINERS) and plain and not _hooks(module)


def _hooks(module: nn.Module) -> bool:
    """Whether something is computed around a module's forward; what our own pruning does there changes no value."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(getattr(hook, "__module__", None) != "sparsegate.training.masks" for hook in hooks)


def _link(name: str, module: nn.Module, activation: nn.Module | None, known_row: bool, root: bool) -> Link | None:
    """A module; None for what holds others, and for what changes nothing. ``known_row``: it is seen that nothing follows."""
    what = type(module).__name__.removeprefix("Parametrized")
    if _changes_nothing(module):
        return None
    if any(nn.parameter.is_lazy(value) for value in module.parameters(recurse=False)):
        return Link(name, what, LAZY, damaged=True)
    if _hooks(module):
        problem = "it has hooks that change its weights or values; remove them first (prune.remove, remove_weight_norm)"
        return Link(name, what, problem)
    if isinstance(module, KNOWN):
        known = next(known for known in KNOWN if isinstance(module, known))
        # asked of the attribute: a parametrization makes a subclass too, which inherits forward
        own = type(module).forward not in (known.forward, *ALIKE) or "forward" in vars(module)
        if own or type(module).__call__ is not nn.Module.__call__:
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
        found = state_dict.dense(name, {"weight": _array(module.weight), **bias}, word)
        return replace(found, unseen=False) if known_row else found
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None:
            return Link(name, what, f"max_norm is {module.max_norm}, expected None")
        return embedding(name, {"weight": _array(module.weight)})
    if type(module) in ACTIVATIONS:
        word = ACTIVATIONS[type(module)]
        return Link(
            name, what, f"it is seen only behind a Linear in an nn.Sequential; name the Linear before as 'NAME:{word}'"
        )
    # code around nothing but a Dropout is arithmetic of its own
    inner = (part for part in module.modules() if part is not module and not _only_holds(part))
    holds = root or _only_holds(module) or any(not _changes_nothing(part) for part in inner)
    if holds and not {*module._parameters.values(), *module._buffers.values()} - {None}:
        return None
    return Link(name, what, f"{what} is not supported; {state_dict.SUPPORTED}")
