"""Import trained PyTorch models: modules, state_dicts and their files become a Network. Files are never unpickled freely.

Supported are unidirectional ``nn.LSTM`` of any number of stacked layers and ``nn.Linear``, chained in the order of definition or
in the order of the names given. The two bias vectors of PyTorch's LSTM are summed.

Only layers are seen, never what code does between them: a state_dict holds no activations, and a ``forward`` may call functions.
Linear layers in a row, which would be one layer if nothing stood between them, are therefore taken only where the caller names
the layers and so vouches for it. A subclass with a ``forward`` of its own is refused.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, When
from sparsegate.pattern import DENSE, NM, Wanted, pair

Patterns = Wanted | Mapping[str, Wanted]

RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d+)(_reverse)?$")
NO_ARITHMETIC = (nn.Dropout, nn.Identity, nn.modules.loss._Loss)
"""Modules that change no value at inference, or are no part of it."""
LSTM, LINEAR = "LSTM", "Linear"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of what torch.save writes, today and before PyTorch 1.6."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where training frameworks keep the state_dict inside of a checkpoint."""


@dataclass(frozen=True)
class Part:
    """A layer found in a model: its name, what it is in PyTorch's terms, and why it cannot be imported (or None)."""

    name: str
    what: str
    problem: str | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


def describe(source: nn.Module | Mapping[str, Any] | str | Path) -> list[Part]:
    """List the layers of a module, state_dict or file, importable or not."""
    if isinstance(source, (str, Path)):
        source = read(source)
    if isinstance(source, nn.Module):
        return _of_module(source)
    if not isinstance(source, Mapping):
        raise SparseGateError(f"a model is a torch module, a state_dict or a file, not a {type(source).__name__}")
    return _of_state_dict(source)


def from_torch(
    source: nn.Module | Mapping[str, Any] | str | Path,
    layers: Sequence[str] | None = None,
    when: When = "step",
    patterns: Patterns | None = None,
    name: str = "network",
) -> Network:
    """Make a Network of a torch module, a state_dict, or a file of one (``torch.save`` or safetensors).

    Parameters
    ----------
    layers : names of the modules to take, in the order in which data flows; all, in the order of definition, where omitted.
        The name of a stacked LSTM stands for all of its layers. To name them is to vouch that nothing else is computed
        between them.
    when : whether a final ``nn.Linear`` runs at every step or only on a sequence's last one.
    patterns : N:M patterns that the weights obey, checked: by module name (``Pruner.patterns``), or one for every LSTM. Layers
        without one are dense.

    Raises
    ------
    SparseGateError
        Naming the layer and the attribute that is not supported, the weights that hold NaN, or the shapes that disagree.
    """
    parts = describe(source)
    found = [part.name for part in parts]
    if layers is not None:
        if isinstance(layers, str):
            raise SparseGateError(f"layers is a list of names, like [{layers!r}], not a single string")
        for asked in layers:
            if asked not in found:
                raise SparseGateError(
                    f"the model has no layer {asked!r}; it has {', '.join(map(repr, found)) or 'none'}"
                )
        parts = [parts[found.index(asked)] for asked in layers]
    if not parts:
        raise SparseGateError("the model has no layers with weights")
    named = _named_patterns(parts, patterns)
    made: list[Layer] = []
    for part in parts:
        if part.problem is not None:
            hint = "" if layers is not None else "; name the layers to import to leave it out"
            raise SparseGateError(f"layer {part.name!r} ({part.what}) cannot be imported: {part.problem}{hint}")
        made += _layers(part, named.get(part.name, (DENSE, DENSE)))
    if layers is None:
        _refuse_what_may_be_hidden(parts, isinstance(source, nn.Module))
    last = made[-1]
    if last.kind == "linear":
        made[-1] = replace(last, when=when)
    try:
        return Network(tuple(made), name)
    except SparseGateError as error:
        if layers is not None or len(parts) == 1:
            raise
        order = ", ".join(part.name for part in parts)
        raise SparseGateError(
            f"{error}; found in this order: {order}; name the layers in the order in which data flows"
        ) from None


def _named_patterns(parts: Sequence[Part], patterns: Patterns | None) -> dict[str, tuple[NM, NM]]:
    """Patterns of Wx and Wh by layer name."""
    if patterns is None:
        return {}
    if not isinstance(patterns, Mapping):
        both = pair(patterns)
        recurrent = [part.name for part in parts if part.what == LSTM]
        if not recurrent:
            raise SparseGateError("the model has no LSTM for the pattern; give it by the layer's name")
        return dict.fromkeys(recurrent, both)
    names = [part.name for part in parts]
    for unknown in patterns:
        if unknown not in names:
            raise SparseGateError(
                f"a pattern is given for {unknown!r}, which is not among the imported layers: {', '.join(names)}"
            )
    return {name: pair(wanted) for name, wanted in patterns.items()}


def _refuse_what_may_be_hidden(parts: Sequence[Part], types_known: bool) -> None:
    """Refuse layers that are seldom all there is: linear ones in a row, and in a state_dict what may be an embedding."""
    first = parts[0]
    if not types_known and len(parts) > 1 and first.what == LINEAR and "bias" not in first.tensors:
        raise SparseGateError(
            f"layer {first.name!r} holds one matrix and no bias, so it may be an embedding, which is not supported; "
            "name the layers to import if it is linear"
        )
    for before, after in zip(parts, parts[1:], strict=False):
        if before.what == after.what == LINEAR:
            raise SparseGateError(
                f"linear layers {before.name!r} and {after.name!r} follow each other, and an activation between them would not be "
                "seen and is not supported; name the layers to import if there is none"
            )


def read(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of a ``torch.save`` file that holds a state_dict (``weights_only`` loading)."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    refused = f"{path} is not a readable PyTorch state_dict"
    if not start:
        raise SparseGateError(f"{refused}: it is empty")
    if not start.startswith((ZIP, PICKLE)):
        raise SparseGateError(f"{refused}: torch.save did not write it")
    if start.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise SparseGateError(f"{refused}: its end is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how the file was pickled: what matters of it is in the error
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each way in which a file can be damaged or unsafe
        reason = f"it is damaged ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = "it holds more than tensors; save the model's state_dict() instead of the model"
        raise SparseGateError(f"{refused}: {reason}") from error
    if not isinstance(found, Mapping):
        raise SparseGateError(f"{path} holds a {type(found).__name__}, expected a state_dict")
    for key in NESTED:
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SparseGateError(f"{path} holds no tensors; expected a state_dict")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # the reader's error type is not public
        raise SparseGateError(f"{path} is not a readable safetensors file: {error}") from error


def _of_module(model: nn.Module) -> list[Part]:
    """Layers of a module, in the order of definition."""
    parts: list[Part] = []
    listed: set[nn.Module] = set()  # insides of a layer that stands in the list already
    for name, module in model.named_modules():
        if module in listed or isinstance(module, NO_ARITHMETIC):
            continue
        part = _part_of_module(
            name or type(module).__name__.removeprefix("Parametrized").lower(), module, module is model
        )
        if part is not None:
            parts.append(part)
            listed.update(module.modules())
    return parts


def _part_of_module(name: str, module: nn.Module, root: bool) -> Part | None:
    what = type(module).__name__.removeprefix("Parametrized")
    if isinstance(module, (nn.LSTM, nn.Linear)):
        known = nn.LSTM if isinstance(module, nn.LSTM) else nn.Linear
        # asked of the attribute: a parametrization makes a subclass too, which inherits forward
        if type(module).forward is not known.forward or "forward" in vars(module):
            return Part(name, what, f"it has a forward of its own; only nn.{known.__name__}'s own is known")
    if isinstance(module, nn.LSTM):
        tensors = {key: getattr(module, key) for key in module._flat_weights_names}
        return Part(name, LSTM, _lstm_problem(module), tensors)
    if isinstance(module, nn.Linear):
        bias = {} if module.bias is None else {"bias": module.bias}
        return Part(name, LINEAR, None, {"weight": module.weight, **bias})
    container = any(True for _ in module.children()) or root
    if container and not any(True for _ in module.parameters(recurse=False)):
        return None
    return Part(name, what, f"{what} is not supported; nn.LSTM and nn.Linear are")


def _lstm_problem(module: nn.LSTM) -> str | None:
    if module.bidirectional:
        return "bidirectional is True, expected False"
    if module.proj_size:
        return f"proj_size is {module.proj_size}, expected 0"
    return None


def _of_state_dict(state: Mapping[str, Any]) -> list[Part]:
    """Layers of a state_dict, in the order of their first tensors; kinds are told from names and shapes."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise SparseGateError(f"{key!r} is no name of a tensor; give the model's state_dict()")
        if not isinstance(value, Tensor):
            raise SparseGateError(
                f"{key!r} is a {type(value).__name__}, expected a tensor; give the model's state_dict()"
            )
        if value.is_nested:  # it has no shape to ask for
            raise SparseGateError(f"{key!r} is a nested tensor, expected a dense one")
        prefix, _, leaf = key.rpartition(".")
        if ".parametrizations." in f".{key}":
            prefix, leaf = f".{key}".split(".parametrizations.", 1)
            prefix, leaf = prefix.removeprefix("."), f"parametrizations.{leaf}"
        groups.setdefault(prefix, {})[leaf] = value
    return [_part_of_tensors(prefix, tensors) for prefix, tensors in groups.items()]


def _part_of_tensors(prefix: str, tensors: dict[str, Tensor]) -> Part:
    if any(leaf.startswith("parametrizations.") for leaf in tensors):
        return Part(
            prefix or "model",
            "parametrized module",
            "its weights are under a parametrization; finish the pruning first",
        )
    shapes = ", ".join(f"{leaf} {tuple(value.shape)}" for leaf, value in tensors.items())
    if any(RECURRENT.match(leaf) for leaf in tensors):
        return _recurrent_part(prefix, tensors)
    weight = tensors.get("weight")
    if weight is not None and weight.ndim == 2 and set(tensors) <= {"weight", "bias"}:
        return Part(prefix or "linear", LINEAR, None, tensors)
    return Part(prefix or "model", f"tensors {shapes}", "only nn.LSTM and nn.Linear are supported")


def _recurrent_part(prefix: str, tensors: dict[str, Tensor]) -> Part:
    name = prefix or "lstm"
    hidden = tensors.get("weight_hh_l0")
    if hidden is None or "weight_ih_l0" not in tensors:
        return Part(name, "recurrent module", "weight_ih_l0 or weight_hh_l0 is missing")
    for key, value in tensors.items():
        if key.startswith("weight_") and (value.ndim != 2 or 0 in value.shape):
            return Part(
                name, "recurrent module", f"{key} has shape {tuple(value.shape)}, expected a matrix with values"
            )
    unknown = [leaf for leaf in tensors if not RECURRENT.match(leaf)]
    ratio = tensors["weight_ih_l0"].shape[0] / hidden.shape[1]
    if any(leaf.startswith("weight_hr") for leaf in tensors):
        problem: str | None = f"proj_size is {hidden.shape[1]}, expected 0"
    elif any(leaf.endswith("_reverse") for leaf in tensors):
        problem = "bidirectional is True, expected False"
    elif unknown:
        problem = f"it has the unknown tensor {unknown[0]}"
    elif ratio == 3:
        return Part(name, "GRU", "GRU is not supported; nn.LSTM and nn.Linear are")
    elif ratio == 1:
        return Part(name, "RNN", "RNN is not supported; nn.LSTM and nn.Linear are")
    else:
        problem = None
    return Part(name, LSTM, problem, tensors)


def _layers(part: Part, patterns: tuple[NM, NM]) -> list[Layer]:
    """Float layers of an importable part: one of a Linear, one for each stacked layer of an LSTM."""
    tensors = {key: _array(part.name, key, value) for key, value in part.tensors.items()}
    if part.what == LINEAR:
        weight = tensors["weight"]
        bias = tensors.get("bias", np.zeros(len(weight)))
        return [Layer(part.name, "linear", weight, None, bias, pattern_x=patterns[0])]
    depth = 1 + max(int(match.group(2)) for key in tensors if (match := RECURRENT.match(key)))
    made = []
    for k in range(depth):
        for key in (f"weight_ih_l{k}", f"weight_hh_l{k}"):
            if key not in tensors:
                raise SparseGateError(f"layer {part.name!r}: {key} is missing")
        w_x, w_h = tensors[f"weight_ih_l{k}"], tensors[f"weight_hh_l{k}"]
        bias = np.zeros(len(w_x))
        for key in (f"bias_ih_l{k}", f"bias_hh_l{k}"):
            value = tensors.get(key, bias)
            if value.shape != (len(w_x),):
                raise SparseGateError(f"layer {part.name!r}: {key} has shape {value.shape}, expected {(len(w_x),)}")
            bias = bias + value if key in tensors else bias
        name = part.name if depth == 1 else f"{part.name}_l{k}"
        made.append(Layer(name, "lstm", w_x, w_h, bias, pattern_x=patterns[0], pattern_h=patterns[1]))
    return made


def _array(name: str, key: str, value: Tensor) -> NDArray[np.float64]:
    if not value.dtype.is_floating_point:
        raise SparseGateError(f"layer {name!r}: {key} is of type {value.dtype}, expected floating point")
    if value.layout != torch.strided or value.is_meta:
        kind = "a tensor without data (device meta)" if value.is_meta else f"sparse ({value.layout})"
        raise SparseGateError(f"layer {name!r}: {key} is {kind}, expected a dense tensor")
    try:
        return value.detach().to("cpu", torch.float64).numpy().copy()
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # the rarer kinds of tensors
        reason = str(error).partition("\n")[0]
        raise SparseGateError(f"layer {name!r}: {key} cannot be read as numbers: {reason}") from error
