"""The training loop: any module, any objective, to the same bits after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sparsegate.errors import SparseGateError
from sparsegate.network import lengths_of
from sparsegate.training.checkpoint import Kept, Resumable, identity
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.masks import move
from sparsegate.training.objective import Objective
from sparsegate.training.recipe import FLOAT, Recipe
from sparsegate.training.trainable import CPU, usable

Progress = Callable[[int, int, float], None]
"""Called as ``progress(epoch, epochs, loss)`` after every epoch, counting from 1."""


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
    x = checked(x)
    lengths = lengths_of(x.shape, lengths, x.shape[2])
    values = torch.from_numpy(x).to(place, kind)
    noise = recipe.noise * torch.from_numpy(_deviation(x, lengths)).to(place, kind)  # (I,)
    try:
        move(model, place)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
        count = batches(len(x), recipe)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * count)
        rng = np.random.default_rng(seed)
        with seeded(seed, place):
            run = Kept(checkpoint, model, optimizer, schedule, rng, pruner, place)
            if checkpoint is not None:
                run.what = identity(model, objective, values, lengths, f"{recipe} seed {seed}", place)
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


def batches(count: int, recipe: Recipe) -> int:
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


def checked(x: ArrayLike) -> NDArray:
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


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
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
