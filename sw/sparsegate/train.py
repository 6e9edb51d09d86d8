"""Training of sequence classifiers on the CPU: float, gradual N:M pruning, quantization-aware fine-tuning.

The loss is cross-entropy on each sequence's last step. Input noise, in units of each input's deviation over the training
frames, is the only regularisation. Everything is deterministic for a seed, and runs on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sparsegate import golden, importers, quantize
from sparsegate.cells import cell
from sparsegate.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.fake_quant import FakeQuant
from sparsegate.network import Layer, Network, When
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.prune import Cubic, Patterns, attach
from sparsegate.quantize import QuantizeConfig

Progress = Callable[[int, int, float], None]
"""Called as ``progress(epoch, epochs, loss)`` after every epoch, counting from 1."""


@dataclass(frozen=True)
class Recipe:
    """How one stage trains: AdamW, one cycle of the learning rate (Smith & Topin 2018), gradients clipped to norm 1."""

    epochs: int
    rate: float
    batch: int = 32
    noise: float = 0.5
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise SparseGateError(
                f"training needs at least 1 epoch and a batch of 1, not {self.epochs} and {self.batch}"
            )
        if not (self.rate > 0 and self.noise >= 0 and self.decay >= 0):
            raise SparseGateError(
                f"rate {self.rate} must be positive, noise {self.noise} and decay {self.decay} not negative"
            )


FLOAT = Recipe(epochs=60, rate=5e-3)
PRUNE = Recipe(epochs=120, rate=5e-3)
QUANTIZE = Recipe(epochs=8, rate=1e-3)


class Classifier(nn.Module):
    """A Network of forward layers as trainable torch modules: (N, T, I) -> (N, T, classes)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.start = network
        for layer in network.layers:
            if layer.reverse:
                raise SparseGateError(
                    f"layer {layer.name!r} runs backwards in time; training takes forward layers only"
                )
        if not network.streams or network.initial:
            raise SparseGateError(
                "training takes layers that follow one another and start from zero; this network has "
                + ("a state of its own to start from" if network.initial else "layers that take several others")
            )
        with _seeded(0):  # what the modules draw at birth is overwritten, and must not move the caller's generator
            self.parts = nn.ModuleList(_module(layer) for layer in network.layers)

    def forward(self, x: Tensor, lengths: ArrayLike | None = None) -> Tensor:
        """Every step is computed, of the padding too: forward layers need no ``lengths``."""
        for part in self.parts:
            x = part(x)[0] if isinstance(part, nn.RNNBase) else part(x)
        return x

    def network(self, patterns: dict[str, tuple[NM, NM]] | None = None) -> Network:
        """The Network with the present weights; ``patterns`` by layer name, those of the start where omitted."""
        made = importers.load(self.parts, layers=[str(position) for position in range(len(self.parts))])
        layers = []
        for old, new in zip(self.start.layers, made.layers, strict=True):
            pattern_x, pattern_h = (patterns or {}).get(old.name, (old.pattern_x, old.pattern_h))
            layers.append(replace(new, name=old.name, when=old.when, pattern_x=pattern_x, pattern_h=pattern_h))
        return self.start.with_layers(layers)


def _module(layer: Layer) -> nn.Module:
    """The torch module of a float layer, with its weights."""
    bias = torch.from_numpy(layer.bias)
    if layer.kind == "linear":
        head = nn.Linear(layer.inputs, layer.units)
        head.load_state_dict({"weight": torch.from_numpy(layer.w_x), "bias": bias})
        return head
    part: nn.RNNBase
    if layer.kind == "lstm":
        projected = 0 if layer.w_p is None else layer.outputs
        part = nn.LSTM(layer.inputs, layer.units, batch_first=True, proj_size=projected)
    elif layer.kind == "gru":
        part = nn.GRU(layer.inputs, layer.units, batch_first=True)
    elif layer.kind in ("rnn_tanh", "rnn_relu"):
        part = nn.RNN(layer.inputs, layer.units, batch_first=True, nonlinearity=layer.kind.removeprefix("rnn_"))
    else:
        raise SparseGateError(
            f"layer {layer.name!r}: training knows linear, lstm, gru, rnn_tanh and rnn_relu layers, not {layer.kind!r}"
        )
    # PyTorch's two biases are trained both, which is its usual rate; the importer sums them again
    inner = torch.zeros_like(bias)
    if layer.bias_h is not None:
        inner[-len(layer.bias_h) :] = torch.from_numpy(layer.bias_h)  # the candidate's gate is the last
    state = {"weight_ih_l0": torch.from_numpy(layer.w_x), "bias_ih_l0": bias, "bias_hh_l0": inner}
    for key, weight in (("weight_hh_l0", layer.w_h), ("weight_hr_l0", layer.w_p)):
        if weight is not None:
            state[key] = torch.from_numpy(weight)
    part.load_state_dict(state)
    return part


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
) -> Network:
    """Train ``depth`` stacked LSTM layers of ``hidden`` units with a linear head."""
    if hidden < 1 or depth < 1:
        raise SparseGateError(f"an LSTM needs at least 1 unit and 1 layer, not {hidden} and {depth}")
    with _seeded(seed):
        lstm = nn.LSTM(dataset.inputs, hidden, num_layers=depth, batch_first=True)
        head = nn.Linear(hidden, dataset.classes)
    start = importers.load(nn.ModuleDict({"lstm": lstm, "head": head}), when=when, name=dataset.name)
    model = Classifier(start)
    _train(model, dataset, replace(recipe, epochs=epochs), seed, progress)
    return model.network()


def prune_and_finetune(
    network: Network,
    dataset: Dataset,
    patterns: Patterns = "4:16",
    epochs: int = PRUNE.epochs,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    recipe: Recipe = PRUNE,
) -> Network:
    """Prune the recurrent layers gradually while training goes on.

    ``patterns`` is one N:M pattern, a pair for Wx and Wh, or a mapping from layer names to these. Masks tighten
    over the first half of the steps and are frozen for the second. Layers that are not mentioned come out with the
    patterns that they had.
    """
    recurrent = [layer.name for layer in network.layers if cell(layer.kind).recurrent]
    wanted = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(recurrent, patterns)
    if not wanted:
        raise SparseGateError("the network has no recurrent layer to prune; give the patterns by layer name")
    names = {layer.name: f"parts.{position}" for position, layer in enumerate(network.layers)}
    for unknown in wanted.keys() - names.keys():
        raise SparseGateError(f"the network has no layer {unknown!r}; it has {', '.join(names)}")
    kept = {layer.name: (layer.pattern_x, layer.pattern_h) for layer in network.layers}  # of an earlier pruning
    model = Classifier(network)
    recipe = replace(recipe, epochs=epochs)
    steps = epochs * _batches(dataset, recipe)
    targets = {names[name]: pattern for name, pattern in (kept | wanted).items()}
    pruner = attach(model, targets, Cubic(begin=0, end=steps // 2))
    _train(model, dataset, recipe, seed, progress, after_step=pruner.step)
    pruner.finish()
    return model.network({name: pruner.patterns[part] for name, part in names.items()})


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
) -> Program:
    """Calibrate on the training sequences, fine-tune on exact integers, and build the Program. ``epochs=0`` only rounds.

    ``thresholds``: Θ of each of the Program's vectors, or one for all; ``config.threshold`` where omitted.
    """
    config = config or QuantizeConfig()
    calibration = quantize.calibrate(network, dataset.x_train, dataset.length_train)
    model = FakeQuant(network, quantize.choose_formats(network, calibration, config), config)
    if thresholds:
        model.thresholds = model.made.with_thresholds(*thresholds).thresholds
    if epochs:
        _train(model, dataset, replace(recipe, epochs=epochs), seed, progress)
    return model.program()


def accuracy(model: Network | Program, x: ArrayLike, lengths: ArrayLike, y: ArrayLike) -> float:
    """Share of sequences whose largest output at the last step is the right class; ties go to the lower class.

    A Network runs in float, a Program as its golden model.
    """
    if isinstance(model, Program):
        last = golden.run(model, model.quantize(x), lengths).last
    else:
        last = model.evaluate(x, lengths).last
    return float(np.mean(np.argmax(last, axis=1) == np.asarray(y)))


def _batches(dataset: Dataset, recipe: Recipe) -> int:
    """Batches in an epoch."""
    return max(1, round(len(dataset.y_train) / recipe.batch))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator and use one thread; leave both afterwards as they were.

    With layers this small a second thread costs more than it brings, and the order of additions would depend on it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    progress: Progress | None,
    after_step: Callable[[], None] | None = None,
) -> None:
    kind = next(model.parameters()).dtype
    x, y = torch.from_numpy(dataset.x_train).to(kind), torch.from_numpy(dataset.y_train)
    last = torch.from_numpy(dataset.length_train) - 1
    noise = recipe.noise * torch.from_numpy(dataset.spread()[1]).to(kind)  # (I,)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
    count = _batches(dataset, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * count)
    rng = np.random.default_rng(seed)
    with _seeded(seed):
        for epoch in range(1, recipe.epochs + 1):
            total = 0.0
            for rows in np.array_split(rng.permutation(len(y)), count):
                chosen = torch.from_numpy(rows)
                part = x[chosen, : int(last[chosen].max()) + 1]
                part = part + noise * torch.randn_like(part)
                logits = model(part, last[chosen].numpy() + 1)[torch.arange(len(chosen)), last[chosen]]
                loss = nn.functional.cross_entropy(logits, y[chosen])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                if after_step is not None:
                    after_step()
                total += loss.item() * len(rows)
            if progress is not None:
                progress(epoch, recipe.epochs, total / len(y))
