"""Keras models through h5py alone: whole models and weights of Keras 2 (``.h5``) and Keras 3 (``.keras``, ``.weights.h5``).

A model's configuration tells its layers, their order and their activations. A file of weights has none: kinds are told from
names and shapes, activations are assumed to be Keras' own (tanh, and sigmoid for the gates), and the layers must be named.

Keras orders an LSTM's gates i, f, c, o and a GRU's z, r, h; kernels are (inputs, gates * units). The layers for cuDNN store each
gate's kernel as its transpose re-read in Fortran order, the recurrent one as its transpose, and two halves of bias.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.chain import ACTIVATIONS, Link, Stage, embedding, linear
from sparsegate.importers.hdf5 import Group, failures, tree
from sparsegate.importers.part import Array, printable
from sparsegate.network import Layer

IGNORED = (
    "InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
)  # fmt: skip
"""Layers that change no value at inference."""
GATES = {"LSTM": 4, "CuDNNLSTM": 4, "GRU": 3, "CuDNNGRU": 3, "SimpleRNN": 1}
SUPPORTED = "LSTM, GRU, SimpleRNN, Bidirectional, Dense, TimeDistributed and Embedding are"
RATIO, SMALL = 20, 1 << 24
"""Trained weights hardly compress: what unpacks to more than so many times its size, and more than so many bytes, is no model."""

Weights = Mapping[str, Array]


def links(path: Path) -> list[Link]:
    """Layers of a Keras file, importable or not."""
    try:
        with failures():
            return _links(path)
    except SparseGateError as error:
        raise SparseGateError(f"{path} is not a readable Keras model: {error}") from error


def _links(path: Path) -> list[Link]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        text, weights = _unzipped(path)
        return _of_config(_json(text), tree(weights), legacy=False)
    top = tree(path)
    text = top.attribute("model_config")
    if text is not None:
        return _of_config(_json(text), top, legacy=True)
    return _of_weights(top)


def _unzipped(path: Path) -> tuple[bytes, bytes]:
    """Configuration and weights of a ``.keras`` archive; sizes are looked at before anything is unpacked."""
    wanted = ("config.json", "model.weights.h5")
    try:
        with zipfile.ZipFile(path) as archive:
            found = []
            for name in wanted:
                member = archive.getinfo(name)
                if member.file_size > max(SMALL, RATIO * path.stat().st_size):
                    raise SparseGateError(
                        f"{name} in it unpacks to {member.file_size} bytes, too many for an archive of its size"
                    )
                found.append(archive.read(member))
            return found[0], found[1]
    except KeyError:
        raise SparseGateError(f"it does not hold {' and '.join(wanted)}") from None
    except Exception as error:  # zipfile and its unpackers raise many types on damaged archives
        if isinstance(error, SparseGateError):
            raise
        raise SparseGateError(f"it is damaged ({error})") from error


def _json(text: Any) -> Any:
    if not isinstance(text, (str, bytes)):
        raise SparseGateError("its configuration is no text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SparseGateError(f"its configuration is no valid JSON: {error}") from error


# --- with a configuration ---------------------------------------------------------------------------------------------


def _of_config(config: Mapping[str, Any], top: Group, legacy: bool) -> list[Link]:
    """Layers of a Sequential or functional model, each with the layer whose output it takes."""
    kind, inner = config["class_name"], config["config"]
    if kind not in ("Sequential", "Functional", "Model"):
        raise SparseGateError(f"it is a model of class {kind!r}, expected Sequential or Functional")
    entries = inner if isinstance(inner, list) else inner["layers"]
    found: list[Link] = []
    behind: dict[str, str] = {}  # layer -> the last layer with arithmetic at or before it, "" for the input
    counts: dict[str, int] = {}
    before = ""
    for entry in entries:
        what, options = str(entry["class_name"]), entry["config"]
        name = str(entry.get("name") or options["name"])  # as the file knows it
        shown = printable(name)
        number = counts[what] = counts.get(what, -1) + 1
        sources = [before] if kind == "Sequential" else _inbound(entry, behind)
        if len(sources) > 1:
            found.append(Link(shown, what, f"it takes {' and '.join(sources)}, expected one layer"))
            behind[name] = before = shown
            continue
        source = sources[0] if kind == "Sequential" else behind.get(sources[0], "") if sources else ""
        if what in IGNORED or (
            what == "Masking" and not source
        ):  # steps that Keras would skip are left out by whoever calls
            behind[name] = before = source
            continue
        key = f"{_snake(what)}_{number}" if number else _snake(what)
        weights = _legacy_weights(top, name) if legacy else _keras3_weights(top, name, key)
        link = _link(shown, what, options, weights, found[-1] if found and found[-1].name == source else None)
        if found and link.name == found[-1].name:  # an activation joined the layer before
            found[-1], behind[name] = link, source
        else:
            found.append(replace(link, after=source))
            behind[name] = shown
        before = behind[name]
    return found


def _inbound(entry: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """Names of the layers whose outputs a layer of a functional model takes, each as often as it is called with them."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            history = value.get("keras_history")
            if history is not None:
                found.append(str(history[0]))
            else:
                for inner in value.values():
                    walk(inner)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) >= 3 and isinstance(value[0], str) and value[0] in known and isinstance(value[1], int):
                found.append(value[0])  # Keras 2: name, node, tensor, keywords
                value = value[3:]
            for inner in value:
                walk(inner)

    walk(entry.get("inbound_nodes", ()))
    return found


def _link(name: str, what: str, options: Mapping[str, Any], weights: dict[str, Weights], before: Link | None) -> Link:
    """A layer; for an activation alone the layer before, with it."""
    if what in ("Activation", "ReLU"):
        word = options["activation"] if what == "Activation" else "relu"
        plain = not any(options.get(key) for key in ("max_value", "negative_slope", "threshold"))
        if (
            before is not None
            and before.role == "linear"
            and before.words == ("linear",)
            and word in ACTIVATIONS
            and plain
        ):
            return replace(before, words=(word,), what=f"{before.what}, {word}")
        return Link(
            name, what, f"activation is {word!r}, and it does not follow a linear Dense layer; {SUPPORTED} supported"
        )
    if what == "TimeDistributed":
        inner = options["layer"]
        if inner["class_name"] != "Dense":
            return Link(name, what, f"layer is {inner['class_name']!r}, expected 'Dense'")
        what, options = "Dense", inner["config"]
    if what == "Embedding":
        table = weights.get("", {}).get("embeddings")
        return (
            Link(name, what, "its weights are missing", damaged=True)
            if table is None
            else embedding(name, {"embeddings": table})
        )
    if what == "Dense":
        return _dense(name, weights, options)
    if what == "Bidirectional":
        return _bidirectional(name, options, weights)
    if what in GATES:
        problem = _problem(what, options)
        return Link(name, what, problem) if problem else _recurrent(name, what, options, weights.get("", {}))
    return Link(name, what, f"{what} is not supported; {SUPPORTED}")


def _dense(name: str, weights: dict[str, Weights], options: Mapping[str, Any] | None) -> Link:
    tensors = weights.get("", {})
    if "kernel" not in tensors or len(tensors["kernel"].shape) != 2:
        return Link(name, "Dense", "its kernel is missing or is no matrix", damaged=True)
    inputs, outputs = tensors["kernel"].shape
    link = Link(name, "Dense", shape=f"{inputs} → {outputs}", words=ACTIVATIONS, tensors=tensors, unseen=True)
    if options is not None:
        word = options.get("activation", "linear")
        if options.get("quantization_config") is not None:
            return Link(name, "Dense", "quantization_config is set, expected None")
        link = replace(link, words=(word,), unseen=False, what="Dense" if word == "linear" else f"Dense, {word}")
        if word not in ACTIVATIONS:
            ask = f"activation is {word!r}, which the engine does not have; name it '{name}:linear' to take what goes into it"
            link = replace(link, words=("linear",), ask=ask)
    return linear(link, "kernel", "bias" if "bias" in tensors else None, transposed=True)


def _problem(what: str, options: Mapping[str, Any]) -> str | None:
    """Why a recurrent layer cannot be imported, by attribute and value."""
    expected: dict[str, tuple[Any, ...]] = {
        "activation": ("tanh",),
        "recurrent_activation": ("sigmoid",),
        "return_state": (False,),
    }
    if what == "SimpleRNN":
        expected["activation"] = ("tanh", "relu")
    for key, values in expected.items():
        if options.get(key, values[0]) not in values:
            return f"{key} is {options[key]!r}, expected {' or '.join(map(repr, values))}"
    return None


def _bidirectional(name: str, options: Mapping[str, Any], weights: dict[str, Weights]) -> Link:
    inner = options["layer"]
    kind, forward = str(inner["class_name"]), inner["config"]
    backward = options.get("backward_layer") or {"config": forward | {"go_backwards": True}, "class_name": kind}
    what = f"Bidirectional {kind}"
    if kind not in GATES or backward["class_name"] != kind:
        return Link(
            name, what, f"its layers are {kind} and {backward['class_name']}, expected two LSTM, GRU or SimpleRNN"
        )
    if options.get("merge_mode", "concat") != "concat":
        return Link(name, what, f"merge_mode is {options['merge_mode']!r}, expected 'concat'")
    problem = _problem(kind, forward) or _problem(kind, backward["config"])
    for key, value in (("go_backwards", False), ("return_sequences", bool(forward.get("return_sequences", False)))):
        given = bool(backward["config"].get(key, value)) if key == "return_sequences" else bool(forward.get(key, False))
        if given != value:
            problem = problem or f"{key} is {given}, expected {value}"
    if problem:
        return Link(name, what, problem)
    return _two(
        name,
        _recurrent(name, kind, forward, weights.get("forward", {})),
        _recurrent(f"{name}_reverse", kind, backward["config"], weights.get("backward", {})),
    )


def _two(name: str, forward: Link, backward: Link) -> Link:
    """Two directions side by side."""
    problem = forward.problem or backward.problem
    if problem is None and forward.words != backward.words:
        problem = "its two directions differ"
    if problem:
        return Link(name, f"Bidirectional {forward.what}", problem, damaged=forward.damaged or backward.damaged)

    def build(word: str) -> list[Stage]:
        assert forward.build is not None
        assert backward.build is not None
        ((one,),), ((two,),) = forward.build(word), backward.build(word)
        return [(replace(one, reverse=False), replace(two, reverse=True))]

    tensors = {
        f"{side} {key}": value
        for side, link in (("forward", forward), ("backward", backward))
        for key, value in link.tensors.items()
    }
    return replace(
        forward,
        what=f"Bidirectional {forward.what}",
        shape=f"{forward.shape}, bidirectional",
        tensors=tensors,
        build=build,
        backwards=False,
    )


def _recurrent(name: str, what: str, options: Mapping[str, Any] | None, tensors: Weights) -> Link:
    """One direction; ``options`` is None where there is no configuration."""
    kernel, recurrent, bias = (tensors.get(key) for key in ("kernel", "recurrent_kernel", "bias"))
    gates = GATES[what]
    if kernel is None or recurrent is None:
        return Link(name, what, "its weights are missing", damaged=True)
    units = recurrent.shape[0] if recurrent.shape else 0
    wide = (gates * units,)
    if not units or len(kernel.shape) != 2 or kernel.shape[1:] != wide or recurrent.shape != (units, *wide):
        expected = f"(inputs, {gates} * units) and (units, {gates} * units)"
        problem = f"its kernels have shapes {kernel.shape} and {recurrent.shape}, expected {expected}"
        return Link(name, what, problem, damaged=True)
    known: dict[tuple[int, ...] | None, str] = {None: "none", wide: "one"}
    if gates == 3:
        known[(2, *wide)] = "two"
    if gates > 1:
        known[(2 * wide[0],)] = "cudnn"
    form = known.get(None if bias is None else bias.shape)
    if form is None:
        assert bias is not None
        problem = f"its bias has shape {bias.shape}, expected {' or '.join(str(key) for key in known if key)}"
        return Link(name, what, problem, damaged=True)
    words: tuple[str, ...] = ()
    ask = None
    if gates == 1:
        words = ("tanh", "relu") if options is None else (options.get("activation", "tanh"),)
        ask = (
            f"its activation is not in a file of weights; name it '{name}:tanh' or '{name}:relu'"
            if options is None
            else None
        )
    if gates == 3:
        words = ("reset_before",) if form == "one" else ("reset_after",)
        if form == "none" and what == "GRU":
            reset = None if options is None else options.get("reset_after", False)
            words = (
                ("reset_after", "reset_before") if reset is None else ("reset_after",) if reset else ("reset_before",)
            )
            if reset is None:
                ask = f"it has no bias that would tell its reset; name it '{name}:reset_after' or '{name}:reset_before'"
        elif options is not None and options.get("reset_after", words[0] == "reset_after") != (
            words[0] == "reset_after"
        ):
            problem = f"reset_after is {options['reset_after']}, but its bias has shape {bias and bias.shape}"
            return Link(name, what, problem, damaged=True)
    backwards = options is not None and bool(options.get("go_backwards", False))
    return Link(
        name,
        what,
        shape=f"{kernel.shape[0]} → {units}" + (", backwards" if backwards else ""),
        role="recurrent",
        words=words,
        ask=ask,
        tensors=tensors,
        build=partial(_stages, name, gates, form, tensors, backwards),
        single=options is not None and not options.get("return_sequences", False),
        backwards=backwards,
        vouch=None if options is not None else "its activations are not in a file of weights",
    )


def _stages(name: str, gates: int, form: str, tensors: Weights, backwards: bool, word: str) -> list[Stage]:
    at = f"layer {name!r}"
    kernel, recurrent = (tensors[key].read(f"{at}: {key}") for key in ("kernel", "recurrent_kernel"))
    bias = tensors["bias"].read(f"{at}: bias") if form != "none" else np.zeros(kernel.shape[1])
    if form == "cudnn":
        kernel, recurrent, bias = from_cudnn(kernel, recurrent, bias, gates)
    w_x, w_h = kernel.T, recurrent.T
    if gates == 1:
        return [(Layer(name, f"rnn_{word}", w_x, w_h, bias, reverse=backwards),)]
    if gates == 4:
        return [(Layer(name, "lstm", w_x, w_h, bias, reverse=backwards),)]
    w_x, w_h = _reset_first(w_x), _reset_first(w_h)
    if word == "reset_before":
        return [(Layer(name, "gru_reset_before", w_x, w_h, _reset_first(bias), reverse=backwards),)]
    ours, theirs = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    ours, theirs = _reset_first(ours), _reset_first(theirs)
    kept = 2 * len(bias.T) // 3  # the rows of r and z
    added = ours + np.append(theirs[:kept], np.zeros(len(theirs) - kept))
    return [(Layer(name, "gru", w_x, w_h, added, bias_h=theirs[kept:], reverse=backwards),)]


def _reset_first(rows: NDArray) -> NDArray:
    """Gates z, r, h to r, z, n."""
    z, r, h = np.split(rows, 3)
    return np.concatenate([r, z, h])


def from_cudnn(kernel: NDArray, recurrent: NDArray, bias: NDArray, gates: int) -> tuple[NDArray, NDArray, NDArray]:
    """Weights of Keras' CuDNNLSTM and CuDNNGRU as those of LSTM and of GRU (reset after)."""
    kernel = np.hstack([part.T.reshape(part.shape, order="F") for part in np.hsplit(kernel, gates)])
    recurrent = np.hstack([part.T for part in np.hsplit(recurrent, gates)])
    halves = bias.reshape(2, -1)
    return kernel, recurrent, halves if gates == 3 else halves.sum(axis=0)


# --- weights ----------------------------------------------------------------------------------------------------------


def _of_weights(top: Group) -> list[Link]:
    """Layers of a file without a configuration, in the file's order."""
    root = top.group("layers") or top.group("_layer_checkpoint_dependencies")
    names = top.names("layer_names")
    if not names and root is None:
        raise SparseGateError("it holds neither layer_names nor a group 'layers', which Keras would have written")
    found = []
    if names:
        named = {name: _legacy_weights(top, name) for name in names}
    else:
        assert root is not None
        named = {}
        for key in root.children:
            weights = _keras3_weights(top, None, key)
            group = root.group(f"{key}/vars")
            named[str((group and group.attribute("name")) or key)] = weights
    for name, weights in named.items():
        link = _told(printable(name), weights)
        if link is not None:
            found.append(link)
    return found


def _told(name: str, weights: dict[str, Weights]) -> Link | None:
    """A layer, told from the names and shapes of its weights."""
    if not any(weights.values()):
        return None
    if "backward" in weights:
        links = []
        for side, suffix in (("forward", ""), ("backward", "_reverse")):
            links.append(_told(name + suffix, {"": weights.get(side, {})}))
            if links[-1] is None or links[-1].role != "recurrent":
                return Link(name, "Bidirectional", "it holds no LSTM, GRU or SimpleRNN in each direction")
        return _two(name, links[0], links[1])  # type: ignore[arg-type]
    tensors = weights.get("", {})
    if "recurrent_kernel" in tensors:
        rows, columns = (*tensors["recurrent_kernel"].shape, 0, 0)[:2]
        what = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}.get(columns // rows if rows and columns % rows == 0 else 0)
        if what is not None:
            return _recurrent(name, what, None, tensors)
    if set(tensors) == {"embeddings"}:
        return embedding(name, tensors)
    if "kernel" in tensors and set(tensors) <= {"kernel", "bias"}:
        return replace(_dense(name, weights, None), vouch="its activation is not in a file of weights")
    shapes = ", ".join(f"{key} {value.shape}" for key, value in tensors.items())
    return Link(name, f"weights {shapes}", f"they are of no supported layer; {SUPPORTED}")


def _legacy_weights(top: Group, name: str) -> dict[str, Weights]:
    """Weights of a layer by direction ("" if there is one) and name, where Keras 2 puts them."""
    group = (top.group("model_weights") or top).group(name)
    if group is None:
        return {}
    paths = group.names("weight_names")
    leaves = [path.rpartition("/")[2].partition(":")[0] for path in paths]
    half = len(paths) // 2
    both = len(paths) % 2 == 0 and leaves[:half] == leaves[half:]  # of Bidirectional: the same twice
    found: dict[str, dict[str, Array]] = {}
    for position, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        array = group.find(path)
        if not isinstance(array, Array):
            raise SparseGateError(f"layer {name!r}: {path} is missing")
        side = "" if not both else "forward" if position < half else "backward"
        found.setdefault(side, {})[leaf if leaf not in found.get(side, {}) else path] = array
    return dict(found)


def _keras3_weights(top: Group, name: str | None, key: str) -> dict[str, Weights]:
    """Weights of a layer by direction and name, where Keras 3 puts them: under its class, with a number from the second one on."""
    group = (top.group("layers") or top.group("_layer_checkpoint_dependencies") or top).group(key)
    if group is None:
        return {}
    own = group.group("vars")
    called = own and own.attribute("name")
    if name is not None and called and called != name:
        raise SparseGateError(f"the weights of layer {name!r} are those of {called!r}")
    found: dict[str, Weights] = {}
    for path in (
        "",
        "layer",
        "forward_layer",
        "backward_layer",
    ):  # of the layer itself, of what TimeDistributed and Bidirectional wrap
        inner = group.group(path)
        if inner is None:
            continue
        side = path.partition("_layer")[0] if path.endswith("_layer") else ""
        cell = inner.group("cell/vars")
        plain = inner.group("vars")
        if cell is not None and cell.children:
            found[side] = _numbered(cell, ("kernel", "recurrent_kernel", "bias"))
        elif plain is not None and plain.children:
            found[side] = _numbered(plain, ("embeddings",) if key.startswith("embedding") else ("kernel", "bias"))
    return found


def _numbered(group: Group, names: Sequence[str]) -> Weights:
    return {
        names[int(key)] if key.isdecimal() and int(key) < len(names) else f"vars/{key}": value
        for key, value in group.children.items()
        if isinstance(value, Array)
    }


def _snake(name: str) -> str:
    """A class' name as Keras 3 writes it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
