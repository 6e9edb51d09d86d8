"""Pruning: a Network whose recurrent layers obey patterns, trained on while the masks tighten."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sparsegate import pattern
from sparsegate.cells import cell
from sparsegate.compress.budget import Allocation
from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.extras import named
from sparsegate.network import Layer, Network
from sparsegate.pattern import Pattern
from sparsegate_app.stages.quantize import Progress
from sparsegate_app.stages.result import Result, Rows, percent

Patterns = Mapping[str, tuple[Pattern, Pattern]]
"""Of Wx and Wh, by the names of layers and of single matrices (``lstm.w_p``)."""


@dataclass(frozen=True)
class PrunedLayer:
    """A layer's N:M patterns, those that it was pruned to (None: it was not), and the share of its weights that is not zero."""

    name: str
    pattern_x: str
    pattern_h: str
    pruned_x: str | None
    pruned_h: str | None
    density: float

    @classmethod
    def of(cls, layer: Layer, patterns: Patterns) -> PrunedLayer:
        x, h = map(str, patterns[layer.name]) if layer.name in patterns else (None, None)
        matrices = [matrix for matrix in (layer.w_x, layer.w_h, layer.w_p) if matrix is not None]
        kept = sum(int(np.count_nonzero(matrix)) for matrix in matrices)
        density = kept / sum(matrix.size for matrix in matrices)
        return cls(layer.name, str(layer.pattern_x), str(layer.pattern_h), x, h, density)


@dataclass(frozen=True, repr=False)
class Pruning(Result):
    """A pruned Network that was written to a file; ``accuracy`` on the test sequences: "float" before, "pruned" after."""

    network: Path
    accuracy: Mapping[str, float]
    layers: tuple[PrunedLayer, ...]

    @property
    def sentence(self) -> str:
        return (
            f"{self.network}, accuracy {percent(self.accuracy['pruned'])} (before: {percent(self.accuracy['float'])})"
        )

    def rows(self) -> Rows:
        return [
            ("network", self.network),
            *((f"{layer.name}: weights kept", percent(layer.density)) for layer in self.layers),
            ("test accuracy before", percent(self.accuracy["float"])),
            ("test accuracy after", percent(self.accuracy["pruned"])),
        ]


def prune(
    network: Network,
    dataset: Dataset,
    patterns: Patterns,
    out: Path,
    *,
    epochs: int,
    seed: int,
    progress: Progress,
    schedule: Literal["cubic", "one-shot", "annealed"],
    checkpoint: Path,
    device: str,
) -> Pruning:
    """Prune and train on, as ``sparsegate.training.prune_and_finetune`` does, and write the Network to ``out``."""
    with named():
        from sparsegate import training

    test = dataset.x_test, dataset.length_test, dataset.y_test
    before = training.accuracy(network, *test)
    with warnings.catch_warnings():
        # PyTorch says that it has no fast kernel for projections
        warnings.filterwarnings("ignore", message="LSTM with projections")
        pruned = training.prune_and_finetune(
            network, dataset, patterns, epochs, seed, progress, schedule=schedule, checkpoint=checkpoint, device=device
        )
    accuracy = {"float": before, "pruned": training.accuracy(pruned, *test)}
    written = {name: [str(one) for one in pair] for name, pair in patterns.items()}
    pruned = replace(
        pruned, meta={**network.meta, "data": dataset.name, "accuracy": dict(accuracy), "patterns": written}
    )
    pruned.save(out)
    return Pruning(out, accuracy, tuple(PrunedLayer.of(layer, patterns) for layer in pruned.layers))


def of_matrices(network: Network, x: str, h: str | None) -> Patterns:
    """One pattern for all Wx of the recurrent layers, and one for all Wh: the same where it is None."""
    both = pattern.both((x, x if h is None else h))
    m = [each.m for each in both if isinstance(each, pattern.NM) and not each.dense]
    block = math.lcm(*m)
    if block > pattern.MAX_BLOCK:  # no Program has such blocks, and training would be in vain
        raise SparseGateError(
            f"blocks of {m[0]} and {m[1]} units meet at {block}, expected at most {pattern.MAX_BLOCK}: choose multiples"
        )
    found = {layer.name: both for layer in network.layers if cell(layer.kind).recurrent}
    if not found:
        raise SparseGateError("the network has no recurrent layer to prune")
    return found


def words(patterns: Patterns) -> str:
    """What all layers are pruned to."""
    x, h = next(iter(patterns.values()))
    return f"to {x}" + (f" and {h}" if x != h else "")


def allocated(network: Network, path: Path, given: str | None) -> Patterns:
    """Every layer's patterns from a file of ``sparsegate allocate``, which must be of this network; ``given`` is to be None."""
    if given is not None:
        raise SparseGateError(f"both an allocation and the pattern {given} are given, expected one of them")
    made = Allocation.load(path)
    made.check(network)
    projections = {f"{name}.w_p": (chosen["p"],) * 2 for name, chosen in made.patterns.items() if "p" in chosen}
    return made.pairs | projections
