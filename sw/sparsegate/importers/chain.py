"""Layers in a row become a Network: what the torch and the Keras importer share.

An importer describes what it found as :class:`Link` s, in the order of definition. :func:`chain` picks those that the user names,
folds an embedding into the columns of the layer behind it, joins the two directions of bidirectional layers and decides on which
steps the head runs.

A name may end in ``:word``, which says what a file cannot: ``fc:relu``, ``rnn:tanh``, ``words:embedding``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.part import Array, Part, check_size
from sparsegate.network import Layer, Network
from sparsegate.network.passes import WHEN, When
from sparsegate.pattern import DENSE, NM, Wanted, pair

Patterns = Wanted | Mapping[str, Wanted]

ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
"""What may follow a matrix in a layer of its own."""
EMBEDDING = "embedding"
Stage = tuple[Layer, ...]
"""One layer, or the two directions of a bidirectional one, side by side."""


@dataclass(frozen=True)
class Link(Part):
    """A layer that takes what the one before gives.

    ``words`` are what it can be taken as, the first of them where the user does not say; ``ask`` is the question to the user
    where there is no such default. ``unseen``: an activation may follow that the model does not show. ``single``: it gives
    only its last value. ``backwards``: it reads and gives its steps in reverse. ``after``: the layer whose output it takes, "" for
    the input, where that is known. ``vouch``: why it is only taken by its name. ``damaged``: its problem is not what it is, but
    what is wrong with it.
    """

    role: Literal["recurrent", "linear", "embedding", "none"] = "none"
    words: tuple[str, ...] = ()
    ask: str | None = None
    tensors: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
    build: Callable[[str], list[Stage]] | None = field(default=None, repr=False, compare=False)
    unseen: bool = False
    single: bool = False
    backwards: bool = False
    after: str | None = None
    vouch: str | None = None
    damaged: bool = False

    @property
    def weights(self) -> int:
        """Number of values in all of its tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


def linear(link: Link, matrix: str, bias: str | None, transposed: bool = False) -> Link:
    """A fully connected layer of the tensors named, (outputs, inputs) unless ``transposed``."""

    def build(word: str) -> list[Stage]:
        weight = link.tensors[matrix].read(f"layer {link.name!r}: {matrix}")
        weight = weight.T if transposed else weight
        added = np.zeros(len(weight)) if bias is None else link.tensors[bias].read(f"layer {link.name!r}: {bias}")
        return [(Layer(link.name, "linear" if word == "linear" else f"linear_{word}", weight, None, added),)]

    return replace(link, role="linear", build=build)


def embedding(name: str, tensors: Mapping[str, Array]) -> Link:
    """A table of vectors, (vocabulary, size): the only tensor."""
    (table,) = tensors.values()
    problem = None if len(table.shape) == 2 else f"its table has shape {table.shape}, expected (vocabulary, size)"
    shape = " → ".join(map(str, table.shape))
    return Link(
        name,
        "Embedding",
        problem,
        shape,
        role="embedding",
        words=(EMBEDDING,),
        tensors=tensors,
        build=lambda word: [],
    )


def one_hot(tokens: ArrayLike, size: int) -> NDArray[np.float64]:
    """Tokens (N, T), each in 0..size-1, as inputs (N, T, size) of a network that begins with an embedding.

    One column is 1, so that a delta engine multiplies two columns where the token changes, and none where it stays.
    """
    tokens = np.asarray(tokens)
    if tokens.dtype.kind not in "iu" or tokens.ndim != 2:
        raise SparseGateError(f"tokens are integers (N, T), not {tokens.dtype} of shape {tokens.shape}")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
        raise SparseGateError(f"tokens are 0..{size - 1}, found {tokens.min()}..{tokens.max()}")
    return (tokens[:, :, None] == np.arange(size)).astype(np.float64)


def chain(
    found: Sequence[Link],
    layers: Sequence[str] | None,
    when: When | None,
    patterns: Patterns | None,
    name: str,
) -> Network:
    """Make a Network of links; parameters as of ``sparsegate.load``."""
    chosen = _choose(found, layers)
    parts = [link for link, _ in chosen]
    if not parts:
        raise SparseGateError("the model has no layers with weights")
    if when is not None and when not in WHEN:
        raise SparseGateError(f"when is {', '.join(map(repr, WHEN))}, not {when!r}")
    named = _named_patterns(parts, patterns)
    for link, word in chosen:
        if link.problem is not None or link.build is None:
            hint = "" if layers is not None or link.damaged else "; name the layers to import to leave it out"
            raise SparseGateError(f"layer {link.name!r} ({link.what}) cannot be imported: {link.problem}{hint}")
        if word is not None and word not in link.words:
            known = f"expected {' or '.join(map(repr, link.words))}" if link.words else "there is nothing to choose"
            raise SparseGateError(f"layer {link.name!r} ({link.what}) cannot be taken as {word!r}; {known}")
    if layers is None:
        _refuse_unseen(parts)
    for position, (link, word) in enumerate(chosen):
        if link.ask is not None and word is None:
            chosen[position] = (link, _fits(link, parts[position + 1 : position + 2]))
    check_size(sum(link.weights for link in parts))
    made, ends = _joined(chosen, named, when)
    names = list(dict.fromkeys([link.name for link in parts] + [layer.name for layer in made]))
    for asked in named:
        if asked not in names:
            raise SparseGateError(
                f"a pattern is given for {asked!r}, which is not among the imported layers: {', '.join(names)}"
            )
    try:
        return Network(tuple(made), name, output=ends)
    except SparseGateError as error:
        if layers is not None or len(parts) == 1:
            raise
        order = ", ".join(link.name for link in parts)
        raise SparseGateError(
            f"{error}; found in this order: {order}; name the layers in the order in which data flows"
        ) from None


def names_of(layers: Sequence[str] | None) -> list[str] | None:
    """The argument ``layers``, checked."""
    if layers is None:
        return None
    if isinstance(layers, str):
        raise SparseGateError(f"layers is a list of names, like [{layers!r}], not a single string")
    if not isinstance(layers, Iterable):
        raise SparseGateError(f"layers is a list of names, not a {type(layers).__name__}")
    names = list(layers)
    for name in names:
        if not isinstance(name, str):
            raise SparseGateError(f"layers is a list of names, but {name!r} in it is a {type(name).__name__}")
    return names


def _choose(found: Sequence[Link], layers: Sequence[str] | None) -> list[tuple[Link, str | None]]:
    """Links by name, with the word behind the colon."""
    layers = names_of(layers)
    if layers is None:
        return [(link, None) for link in found]
    links = {link.name: link for link in found}
    chosen: list[tuple[Link, str | None]] = []
    for asked in layers:
        if asked in links:
            chosen.append((links[asked], None))
            continue
        name, _, word = asked.rpartition(":")
        if name not in links:
            raise SparseGateError(f"the model has no layer {asked!r}; it has {', '.join(map(repr, links)) or 'none'}")
        chosen.append((links[name], word))
    return chosen


def _fits(link: Link, following: Sequence[Link]) -> str:
    """A matrix that the next layer can only take as an embedding, or only as linear; else the question is asked."""
    if EMBEDDING in link.words and following:
        rows, columns = link.tensors["weight"].shape
        taken = next((tensor.shape[1] for tensor in following[0].tensors.values() if len(tensor.shape) == 2), None)
        if rows != columns and taken in (rows, columns):
            return "linear" if taken == rows else EMBEDDING
    raise SparseGateError(f"layer {link.name!r}: {link.ask}")


def _named_patterns(parts: Sequence[Link], patterns: Patterns | None) -> dict[str, tuple[NM, NM]]:
    """Patterns of Wx and Wh by the name of a link, or of one of its layers."""
    if patterns is None:
        return {}
    if not isinstance(patterns, Mapping):
        both = pair(patterns)
        recurrent = [link.name for link in parts if link.role == "recurrent"]
        if not recurrent:
            raise SparseGateError("the model has no recurrent layer for the pattern; give it by the layer's name")
        return dict.fromkeys(recurrent, both)
    return {name: pair(wanted) for name, wanted in patterns.items()}


def _refuse_unseen(parts: Sequence[Link]) -> None:
    """Refuse layers that are seldom all there is: a linear one before another, recurrent ones whose order is not known, and in
    a state_dict what may be an embedding."""
    for link in parts:
        if link.vouch is not None:
            raise SparseGateError(f"layer {link.name!r} ({link.what}): {link.vouch}; name the layers to import")
    for last, link in zip(("", *(link.name for link in parts)), parts, strict=False):
        if link.after not in (None, last):
            taken = repr(link.after) if link.after else "the input"
            raise SparseGateError(
                f"layer {link.name!r} takes {taken}, not {last!r} before it: only layers in a row are supported; name them"
            )
    first = parts[0]
    if len(parts) > 1 and EMBEDDING in first.words and first.role != "embedding":
        raise SparseGateError(
            f"layer {first.name!r} holds one matrix and no bias, so it may be an embedding; name the layers to import, this one "
            f"as '{first.name}:embedding' or '{first.name}:linear'"
        )
    for before, after in zip(parts, parts[1:], strict=False):
        guessed = (
            after.role == "recurrent" and after.after is None
        )  # an activation may be seen, but not that this comes next
        if before.role == "linear" and (before.unseen or guessed):
            raise SparseGateError(
                f"an activation between linear layer {before.name!r} and {after.name!r}, which follows it, would not be seen; name "
                f"the layers to import in the order in which data flows, as '{before.name}:relu' if there is a ReLU"
            )
    loose = [link.name for link in parts if link.role == "recurrent" and link.after is None]
    if len(loose) > 1:
        raise SparseGateError(
            f"how recurrent layers {loose[0]!r} and {loose[1]!r} are joined is not seen; name the layers to import, in the "
            "order in which data flows"
        )


def _joined(
    chosen: Sequence[tuple[Link, str | None]], patterns: Mapping[str, tuple[NM, NM]], when: When | None
) -> tuple[list[Layer], tuple[str, ...]]:
    """Build the stages, and link each to the one before; the names of the last one too, if these are two."""
    made: list[Layer] = []
    before: Stage = ()
    table: NDArray | None = None
    flipped = False  # the vectors between layers run backwards in time
    single: str | None = None  # the layer that gave only its last value
    back = False  # the last recurrent stage has a direction backwards in time
    for link, word in chosen:
        assert link.build is not None
        word = word or next(iter(link.words), "")
        if word == EMBEDDING:
            if made or table is not None:
                raise SparseGateError(f"layer {link.name!r}: an embedding can only be the first layer")
            ((key, tensor),) = link.tensors.items()
            table = tensor.read(f"layer {link.name!r}: {key}")  # (vocabulary, size)
            continue
        if single is not None and link.role == "recurrent":
            raise SparseGateError(
                f"layer {link.name!r} takes a sequence, but layer {single!r} gives only its last value (return_sequences is False)"
            )
        for stage in link.build(word):
            sources: tuple[str, ...] = ()
            if len(before) + len(stage) > 2 or (len(stage) == 2 and not before):
                sources = tuple(layer.name for layer in before) or ("input",)
            if table is not None:
                stage, table = _folded(stage, table), None
            stage = tuple(
                replace(
                    layer,
                    sources=sources,
                    reverse=layer.w_h is not None and layer.reverse != flipped,
                    pattern_x=pattern_x,
                    pattern_h=pattern_h if layer.w_h is not None else DENSE,
                )
                for layer in stage
                for pattern_x, pattern_h in [patterns.get(layer.name) or patterns.get(link.name, (DENSE, DENSE))]
            )
            made += stage
            before = stage
            back = any(layer.reverse for layer in stage) if link.role == "recurrent" else back
        flipped ^= link.backwards
        single = link.name if link.single else single
    if not made:
        raise SparseGateError("an embedding alone is no network; a layer must follow it")
    if made[-1].w_h is not None:
        _refuse_ends(chosen[-1][0], when, single is not None and back)
    if when is None:
        when = "step" if single is None else "final" if back else "last"
    if flipped and when == "step" and single is None:
        raise SparseGateError(
            "the outputs would be in reverse order of time (go_backwards is True), which is not supported"
        )
    if when != "step":
        # all that follows the last recurrent layer runs on that one step
        for at in range(len(made) - 1, 0, -1):
            if made[at].w_h is not None or (
                at < len(made) - 1 and not any(layer.w_h is not None for layer in made[:at])
            ):
                break
            made[at] = replace(made[at], when=when)
    return made, tuple(layer.name for layer in before) if len(before) > 1 else ()


def _refuse_ends(last: Link, when: When | None, final: bool) -> None:
    """Refuse what is the work of a head where the last layer is a recurrent one. ``final``: its direction backwards gives its final
    value."""
    if when not in (None, "step"):
        raise SparseGateError(f"when is for a linear head; the last layer is {last.name!r} ({last.what})")
    if final and when is None:
        raise SparseGateError(
            f"layer {last.name!r}: the output is the final value of a reversed layer, which needs a linear head; with when='step' "
            "all of its steps are taken"
        )


def _folded(stage: Stage, table: NDArray) -> Stage:
    """An embedding, multiplied into the columns of the layer behind it: one column for each word."""
    vocabulary, size = table.shape
    for layer in stage:
        if layer.inputs != size:
            raise SparseGateError(f"layer {layer.name!r} takes {layer.inputs} inputs, but the embedding gives {size}")
        check_size(vocabulary * len(layer.w_x))
    return tuple(replace(layer, w_x=layer.w_x @ table.T) for layer in stage)
