"""Training: float, gradual pruning, quantization-aware fine-tuning.

:func:`fit` trains any module for any objective; the functions behind it are the stages of a sequence classifier, whose loss is the
cross-entropy on each sequence's last step. Input noise, in units of each input's deviation over the training frames, is the only
regularisation. On the CPU, where nothing else is said, everything is deterministic for a seed, and runs on one thread.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sparsegate import artefact, golden, importers, quantize
from sparsegate.cells import cell
from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, lengths_of
from sparsegate.network.passes import When
from sparsegate.pattern import DENSE, NM, Written, both
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.masks import Patterns, attach, move
from sparsegate.training.objective import Objective, last_class
from sparsegate.training.schedule import Annealed, Cubic, OneShot, Schedule
from sparsegate.training.trainable import CPU, Trainable, usable

CHECKPOINT = "sparsegate-training"

Progress = Callable[[int, int, float], None]
"""Called as ``progress(epoch, epochs, loss)`` after every epoch, counting from 1."""


@dataclass(frozen=True)
class Recipe:
    """How one stage trains: AdamW, one cycle of the learning rate (Smith & Topin 2018), gradients clipped to norm 1.

    ``noise``: deviation of the Gaussian noise on the inputs, in units of theirs. ``bucket``: so many batches at a time are sorted
    by length, which spares steps of padding. Batches of an epoch are of equal size, ``batch`` or the nearest to it.
    """

    epochs: int
    rate: float
    batch: int = 32
    noise: float = 0.5
    decay: float = 0.0
    bucket: int = 1

    def __post_init__(self) -> None:
        for what, count in (
            ("epochs", self.epochs),
            ("sequences a batch", self.batch),
            ("batches a bucket", self.bucket),
        ):
            if not isinstance(count, int) or count < 1:
                raise SparseGateError(f"training needs a whole number of {what}, 1 or more, not {count}")
        if not (self.rate > 0 and self.noise >= 0 and self.decay >= 0):
            raise SparseGateError(
                f"rate {self.rate} must be positive, noise {self.noise} and decay {self.decay} not negative"
            )


FLOAT = Recipe(epochs=60, rate=5e-3)
PRUNE = Recipe(epochs=120, rate=5e-3)
QUANTIZE = Recipe(epochs=8, rate=1e-3)


class Resumable(Protocol):
    """What a checkpoint keeps beside the module and its optimizer: a ``Pruner``."""

    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def fit(
    model: nn.Module,
    objective: Objective,
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    pruner: Resumable | None = None,
    checkpoint: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Train a module in place, on one thread, on the CPU deterministically for a seed.

    Parameters
    ----------
    model : called as ``model(x, lengths)`` by the objective: a ``Trainable``, a ``FakeQuant``, or your own.
    objective : what to minimise (``sparsegate.training.objective``).
    x, lengths : training sequences (N, T, I), zero past their ends, and their steps (N,).
    seed : of the order of the sequences, the noise, and all else that is drawn.
    pruner : told of every optimizer step.
    checkpoint : a file that is written at the end of every epoch and removed at the end. Where it exists, the run that wrote it
        goes on from there, on the CPU to the same result to the bit. One of another run is refused: of other data, weights, recipe,
        pruning, seed or kind of device, or with another loss on some 256 of the sequences.
    device : where to train, such as "cuda"; the module is back where it was when this returns. Results of devices differ, as they
        round (PyTorch lets a GPU's LSTM layers use TF32) and add in their own ways, and on a GPU they may differ from run to run.

    A training whose loss or gradient is no number any more ends with an error.
    """
    recipe = recipe or FLOAT
    if seed < 0:
        raise SparseGateError(f"a seed is 0 or more, not {seed}")
    parameters = list(model.parameters())
    if not parameters:
        raise SparseGateError(f"a {type(model).__name__} has no parameters to train")
    kind, home = parameters[0].dtype, parameters[0].device
    place = usable(device)
    if place.type != "cpu" and isinstance(model, FakeQuant):
        raise SparseGateError(f"fine-tuning on exact integers runs on the CPU, not on {place}")
    x = _checked(x)
    lengths = lengths_of(x.shape, lengths, x.shape[2])
    values = torch.from_numpy(x).to(place, kind)
    noise = recipe.noise * torch.from_numpy(_deviation(x, lengths)).to(place, kind)  # (I,)
    try:
        move(model, place)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
        count = _batches(len(x), recipe)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * count)
        rng = np.random.default_rng(seed)
        with _seeded(seed, place):
            run = _Run(checkpoint, model, optimizer, schedule, rng, pruner, place)
            if checkpoint is not None:
                run.what = _identity(model, objective, values, lengths, f"{recipe} seed {seed}", place)
            for epoch in range(run.resume() + 1, recipe.epochs + 1):
                total = 0.0
                for rows in _epoch(rng, lengths, count, recipe.bucket):
                    part = values[torch.from_numpy(rows).to(place), : int(lengths[rows].max())]
                    if recipe.noise:
                        part = part + noise * torch.randn_like(part)
                    loss = objective(model, part, lengths[rows], torch.from_numpy(rows))
                    optimizer.zero_grad()
                    loss.backward()
                    norm = nn.utils.clip_grad_norm_(parameters, 1.0)
                    if not math.isfinite(loss.item() + norm.item()):
                        raise SparseGateError(
                            f"the training diverged in epoch {epoch}: its loss is {loss.item():g}, its gradient's norm"
                            f" {norm.item():g}; give a lower rate than {recipe.rate:g}, or look at the data"
                        )
                    optimizer.step()
                    schedule.step()
                    if pruner is not None:
                        pruner.step()
                    total += loss.item() * len(rows)
                if progress is not None:
                    progress(epoch, recipe.epochs, total / len(x))
                run.save(epoch)
    finally:
        move(model, home)
    run.remove()


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
    with _seeded(seed):
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
        half = recipe.epochs * _batches(len(_checked(x)), recipe) // 2
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


def _batches(count: int, recipe: Recipe) -> int:
    """Batches in an epoch of ``count`` sequences."""
    return max(1, round(count / recipe.batch))


def _epoch(rng: np.random.Generator, lengths: NDArray[np.int64], count: int, bucket: int) -> list[NDArray[np.int64]]:
    """Rows of every batch of an epoch: a random order, within ``bucket`` batches at a time sorted by length."""
    order = rng.permutation(len(lengths))
    if bucket == 1:
        return np.array_split(order, count)
    size = -(-len(order) // count) * bucket
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    alike = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = np.array_split(alike, count)
    return [batches[place] for place in rng.permutation(count)]


def _checked(x: ArrayLike) -> NDArray:
    """Sequences of real numbers, (N, T, I), in their own precision."""
    try:
        x = np.asarray(x)
    except ValueError:
        raise SparseGateError("x is ragged, expected (N, T, I): pad the sequences and give lengths") from None
    if x.ndim != 3 or x.dtype.kind not in "buif":
        raise SparseGateError(f"x has shape {x.shape} and type {x.dtype}, expected (N, T, I) real numbers")
    return x


def _deviation(x: NDArray, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard deviation of each input over the real steps, (I,)."""
    with np.errstate(all="ignore"):
        found = x[np.arange(x.shape[1])[None, :] < lengths[:, None]].std(axis=0).astype(np.float64)
    if not np.isfinite(found).all():
        raise SparseGateError("x holds NaN, infinite or immense values")
    return found


IDENTIFYING = 256
"""Sequences whose loss tells one objective from another."""


def _identity(
    model: nn.Module, objective: Objective, values: Tensor, lengths: NDArray[np.int64], how: str, device: torch.device
) -> str:
    """A digest of all that a training depends on: data, starting weights, recipe, and what the objective says of them.

    Off the CPU a loss is not the same to the bit twice, and counts with three digits.
    """
    cpu = device.type == "cpu"
    how += "" if cpu else f" on {device.type}"
    rows = np.linspace(0, len(values) - 1, min(len(values), IDENTIFYING)).astype(np.int64)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
        loss = objective(model, values[rows], lengths[rows], torch.from_numpy(rows)).item()
        for buffer, value in before:  # a statistic of batches must not see this one
            buffer.copy_(value)
    said = repr(loss) if cpu else f"{loss:.3g}"
    digest = hashlib.sha256(f"{how} {said} {lengths.tolist()}".encode())
    for name, value in [("x", values), *sorted(model.state_dict().items())]:
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Run:
    """The state of a training between two epochs, in memory and in a file."""

    def __init__(
        self,
        path: Path | str | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: np.random.Generator,
        pruner: Resumable | None,
        device: torch.device,
    ) -> None:
        self.path, self.rng, self.device = None if path is None else Path(path), rng, device
        self.what = ""
        """Identity of the training."""
        self.parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
        if pruner is not None:
            self.parts["pruner"] = pruner

    def resume(self) -> int:
        """Take up what the file holds; epochs done so far."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(io.BytesIO(self.path.read_bytes()), weights_only=True, map_location="cpu")
            if state["format"] != CHECKPOINT:
                raise KeyError("format")
            if state["what"] != self.what:
                raise SparseGateError(
                    f"{self.path} is the checkpoint of another training (other data, weights, recipe, pruning, seed or device);"
                    " remove it or name another"
                )
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.rng.bit_generator.state = state["numpy"]
            torch.set_rng_state(state["torch"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)
            return int(state["epoch"])
        except SparseGateError as error:
            said = str(error)
            raise SparseGateError(said if str(self.path) in said else f"{self.path}: {said}") from error
        except OSError as error:
            raise SparseGateError(f"cannot read {self.path}: {error.strerror or error}") from error
        except Exception as error:  # torch raises many kinds for damaged files
            raise SparseGateError(f"{self.path} is not a readable checkpoint of a training: {error}") from error

    def save(self, epoch: int) -> None:
        if self.path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"format": CHECKPOINT, "what": self.what, "epoch": epoch}
        state |= {"numpy": self.rng.bit_generator.state, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        with artefact.writing(self.path) as temporary:
            torch.save(state, temporary)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@contextmanager
def _seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's generators and use one thread; leave both afterwards as they were.

    With layers this small a second thread costs more than it brings, and the order of additions would depend on it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
