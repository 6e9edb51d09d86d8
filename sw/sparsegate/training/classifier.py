"""The stages of a sequence classifier: float, gradual pruning, quantization-aware fine-tuning.

Its loss is the cross-entropy on each sequence's last step. Input noise, in units of each input's deviation over the training
frames, is the only regularisation. On the CPU, where nothing else is said, everything is deterministic for a seed, and runs on
one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from sparsegate import golden, importers, quantize
from sparsegate.cells import cell
from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.network.passes import When
from sparsegate.pattern import DENSE, NM, Written, both
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.loop import Progress, batches, checked, fit, seeded
from sparsegate.training.masks import Patterns, attach
from sparsegate.training.objective import Objective, last_class
from sparsegate.training.recipe import FLOAT, PRUNE, QUANTIZE, Recipe
from sparsegate.training.schedule import Annealed, Cubic, OneShot, Schedule
from sparsegate.training.trainable import Trainable


def train_float(
    dataset: Dataset,
    hidden: int = 64,
    epochs: int = FLOAT.epochs,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    depth: int = 1,
    when: When = "step",
    recipe: Recipe = FLOAT,
    checkpoint: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """Train ``depth`` stacked LSTM layers of ``hidden`` units with a linear head; ``checkpoint``, ``device``: of :func:`fit`."""
    start = lstm(dataset.inputs, hidden, dataset.classes, depth, seed, when, dataset.name)
    model, loss = Trainable(start), last_class(dataset.y_train)
    recipe = replace(recipe, epochs=epochs)
    x, lengths = dataset.x_train, dataset.length_train
    fit(model, loss, x, lengths, recipe, seed, progress, checkpoint=checkpoint, device=device)
    return model.network()


def lstm(
    inputs: int, hidden: int, outputs: int, depth: int = 1, seed: int = 0, when: When = "step", name: str = "lstm"
) -> Network:
    """Stacked LSTM layers and a linear head with PyTorch's own random weights."""
    if min(inputs, hidden, outputs, depth) < 1:
        raise SparseGateError(
            f"an LSTM needs at least 1 input, unit, output and layer, not {inputs}, {hidden}, {outputs} and {depth}"
        )
    with seeded(seed):
        layers = nn.LSTM(inputs, hidden, num_layers=depth, batch_first=True)
        head = nn.Linear(hidden, outputs)
    return importers.load(nn.ModuleDict({"lstm": layers, "head": head}), when=when, name=name)


def prune_and_finetune(
    network: Network,
    dataset: Dataset,
    patterns: Patterns = "4:16",
    epochs: int = PRUNE.epochs,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    recipe: Recipe = PRUNE,
    schedule: Schedule | str = "cubic",
    regrow: bool = False,
    checkpoint: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """Prune the recurrent layers gradually while training goes on; :func:`prune_and_fit` with the classifier's loss."""
    return prune_and_fit(
        network,
        last_class(dataset.y_train),
        dataset.x_train,
        dataset.length_train,
        patterns,
        replace(recipe, epochs=epochs),
        seed,
        progress,
        schedule=schedule,
        regrow=regrow,
        checkpoint=checkpoint,
        device=device,
    )


def prune_and_fit(
    network: Network,
    objective: Objective,
    x: ArrayLike,
    lengths: ArrayLike | None,
    patterns: Patterns,
    recipe: Recipe,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    schedule: Schedule | str = "cubic",
    regrow: bool = False,
    checkpoint: Path | str | None = None,
    lstm: type[nn.LSTM] = nn.LSTM,
    device: torch.device | str = "cpu",
) -> Network:
    """Prune the layers of a Network while it is trained for any objective.

    Parameters
    ----------
    patterns : one pattern for the recurrent layers, a pair for Wx and Wh, or a mapping from layer names to these. A projection is
        pruned by its own name only, such as ``lstm.w_p``. Layers that are not mentioned come out with the patterns that they had.
    schedule : a Schedule in optimizer steps, or "cubic", "one-shot", "annealed": masks then tighten over the first half of the
        steps (at once) and are frozen for the rest.
    regrow : let gradients reach the pruned weights, so that they can come back (``prune.attach``).
    checkpoint, device, and the rest : as of :func:`fit`.
    """
    recurrent = [layer.name for layer in network.layers if cell(layer.kind).recurrent]
    wanted = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(recurrent, patterns)
    if not wanted:
        raise SparseGateError("the network has no recurrent layer to prune; give the patterns by layer name")
    names = {layer.name: f"parts.{position}" for position, layer in enumerate(network.layers)}
    inner = {layer.name: f"{layer.name}.w_p" for layer in network.layers if layer.w_p is not None}
    places = names | {inner[name]: f"{names[name]}.weight_hr_l0" for name in inner}
    for unknown in wanted.keys() - places.keys():
        raise SparseGateError(f"the network has no layer {unknown!r}; it has {', '.join(places)}")
    kept: dict[str, Written] = {}  # of an earlier pruning
    for layer in network.layers:
        kept[layer.name] = layer.pattern_x, layer.pattern_h
        if layer.name in inner:
            kept[inner[layer.name]] = layer.pattern_p
    model = Trainable(network, lstm)
    if isinstance(schedule, str):
        half = recipe.epochs * batches(len(checked(x)), recipe) // 2
        if schedule not in SCHEDULES:
            raise SparseGateError(f"a schedule is {', '.join(SCHEDULES)}, not {schedule!r}")
        schedule = SCHEDULES[schedule](half)
    targets = {places[name]: pattern for name, pattern in (kept | wanted).items()}
    pruner = attach(model, targets, schedule, regrow=regrow, seed=seed)
    fit(model, objective, x, lengths, recipe, seed, progress, pruner=pruner, checkpoint=checkpoint, device=device)
    pruner.finish()
    projections = {name: both((kept | wanted)[place])[0] for name, place in inner.items()}
    return model.network(
        {name: pruner.patterns[part] for name, part in names.items()},
        {name: found if isinstance(found, NM) else DENSE for name, found in projections.items()},
    )


SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "cubic": lambda end: Cubic(begin=0, end=end),
    "one-shot": lambda end: OneShot(),
    "annealed": lambda end: Annealed(begin=0, end=end),
}
"""Schedules by name, for masks that are frozen after so many steps."""


def quantize_and_finetune(
    network: Network,
    dataset: Dataset,
    config: QuantizeConfig | None = None,
    epochs: int = QUANTIZE.epochs,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    recipe: Recipe = QUANTIZE,
    thresholds: Sequence[int] = (),
    hold_zeros: bool = False,
    checkpoint: Path | str | None = None,
) -> Program:
    """Calibrate on the training sequences, fine-tune on exact integers, and build the Program. ``epochs=0`` only rounds.

    ``thresholds``: Θ of each of the Program's vectors, or one for all; ``config.threshold`` where omitted. ``hold_zeros``: weights
    that are 0 stay so where no N:M pattern says it: of networks that are pruned to another pattern. ``checkpoint``: of :func:`fit`.
    """
    config = config or QuantizeConfig()
    start, formats = quantize.prepare(network, dataset.x_train, dataset.length_train, config)
    model = FakeQuant(start, formats, config, hold_zeros=hold_zeros, pruned=network)
    if thresholds:
        model.thresholds = model.made.with_thresholds(*thresholds).thresholds
    if epochs:
        recipe = replace(recipe, epochs=epochs)
        x, lengths, loss = dataset.x_train, dataset.length_train, last_class(dataset.y_train)
        fit(model, loss, x, lengths, recipe, seed, progress, checkpoint=checkpoint)
    return model.program()


def accuracy(model: Network | Program, x: ArrayLike, lengths: ArrayLike, y: ArrayLike) -> float:
    """Share of sequences whose largest output at the last step is the right class; ties go to the lower class.

    A Network runs in float, a Program as its golden model.
    """
    if len(np.asarray(y)) != len(np.asarray(x)):
        raise SparseGateError(f"{len(np.asarray(y))} classes are given for {len(np.asarray(x))} sequences")
    if isinstance(model, Program):
        last = golden.run(model, model.quantize(x), lengths).last
    else:
        last = model.evaluate(x, lengths).last
    return float(np.mean(np.argmax(last, axis=1) == np.asarray(y)))
