"""What a training minimises: labels, values, or what a teacher computes.

An objective is called with the module, a batch and the rows that the batch was made of, and gives a scalar loss. It is free to look
inside of the module, so that penalties and distillation are objectives too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sparsegate.errors import SparseGateError

Objective = Callable[[nn.Module, Tensor, NDArray[np.int64], Tensor], Tensor]
"""``objective(model, x, lengths, rows)`` -> loss: x (B, T, I), lengths (B,) in 1..T, rows (B,) of the training sequences, on
the CPU. The loss is where x is."""

Distance = Literal["squared", "cosine", "kl"]

ASKED = 64
"""Sequences that a teacher is asked about at once."""


def last_class(y: ArrayLike) -> Objective:
    """Cross-entropy of each sequence's last output with its class; ``y`` (N,)."""
    classes = _classes(y, 1)

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        return _cross_entropy(_last(model(x, lengths), lengths), _of(classes, rows, x))

    return loss


def step_class(y: ArrayLike) -> Objective:
    """Cross-entropy of every step's output with the class of that step; ``y`` (N, T), the mean over real steps."""
    classes = _classes(y, 2)

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        real = _real(x, lengths)
        return _cross_entropy(model(x, lengths)[real], _of(classes, rows, x, x.shape[1])[real])

    return loss


def step_value(y: ArrayLike) -> Objective:
    """Mean squared error of every step's output; ``y`` (N, T, O)."""
    wanted = torch.from_numpy(np.asarray(y, np.float64))

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        real = _real(x, lengths)
        found, goal = model(x, lengths), _of(wanted, rows, x, x.shape[1])
        if goal.shape != found.shape:
            raise SparseGateError(f"values of shape {tuple(goal.shape)} are given for outputs of {tuple(found.shape)}")
        return nn.functional.mse_loss(found[real], goal[real].to(found.dtype))

    return loss


def match(
    teacher: nn.Module,
    distance: Distance = "squared",
    hidden: float = 1.0,
    temperature: float = 1.0,
    every: bool = False,
    labels: ArrayLike | None = None,
    trust: float = 1.0,
    asked: tuple[ArrayLike, ArrayLike] | None = None,
) -> Objective:
    """Distillation (Hinton et al. 2015): the teacher's outputs on any inputs at hand, without labels.

    The loss is the distance of the last steps' outputs plus ``hidden`` times the mean squared error of every layer before the
    last one, at every real step (Romero et al. 2015, with units that correspond one to one, as they do when a student is the
    teacher's own weights, pruned). Errors are relative to the mean square of what is matched.

    Parameters
    ----------
    teacher : a module with ``trace`` (``Trainable``, ``FakeQuant``, ``Ensemble``); not trained, and moved to where the inputs are.
    distance : "squared"; "cosine": 1 - cos, for embeddings; "kl": Kullback-Leibler divergence of softmax at ``temperature``,
        times its square, for classes.
    every : match the outputs of every real step instead of the last one's.
    labels : classes of the first sequences, (n,) or with ``every`` (n, T), for "kl": what is matched there is ``trust`` times the
        label plus 1 - ``trust`` times the teacher's output. The others, which the teacher may have written, have none.
    asked : the training sequences (N, T, I) and their lengths (N,), where a training shows them as they are, without noise. The
        teacher is then asked about each of them once, at the first batch, and not at every step; what it says takes N x T x
        outputs floats of memory, and with ``hidden`` as much for every layer.
    """
    if distance not in ("squared", "cosine", "kl"):
        raise SparseGateError(f"a distance is 'squared', 'cosine' or 'kl', not {distance!r}")
    if labels is not None and distance != "kl":
        raise SparseGateError(f"labels go with the distance 'kl', not {distance!r}")
    if not 0 <= trust <= 1:
        raise SparseGateError(f"trust in labels is 0 to 1, not {trust}")
    classes = None if labels is None else _classes(labels, 1 + every)
    if not temperature > 0:
        raise SparseGateError(f"a temperature is positive, not {temperature}")
    kind = next(teacher.parameters()).dtype
    said: list[Tensor] = []

    def traced(module: nn.Module, x: Tensor, lengths: NDArray[np.int64]) -> list[Tensor]:
        """What is matched: outputs of every layer, or of the last."""
        return module.trace(x, lengths)[0 if hidden else -1 :]  # type: ignore[operator]

    @torch.no_grad()
    def told(x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> list[Tensor]:
        if next(teacher.parameters()).device != x.device:
            teacher.to(x.device)
        if asked is None:
            return [value.to(x.dtype) for value in traced(teacher, x.to(kind), lengths)]
        if not said:
            every_x, every_length = (np.asarray(part) for part in asked)
            # in an order of its own: what is said must not depend on the batches, so that a run can be resumed
            for at in range(0, len(every_x), ASKED):
                part = torch.from_numpy(every_x[at : at + ASKED]).to(x.device, kind)
                for place, value in enumerate(traced(teacher, part, every_length[at : at + ASKED])):
                    if not at:
                        said.append(value.new_empty(len(every_x), *value.shape[1:], dtype=x.dtype))
                    said[place][at : at + ASKED] = value
        return [_of(value, rows, x, x.shape[1]) for value in said]

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        wanted = told(x, lengths, rows)
        found = traced(model, x, lengths)
        # a factored student has other sizes inside, which matters only where they are matched
        own, other = ([value.shape[2] for value in values] for values in (found, wanted))
        if own != other:
            raise SparseGateError(f"layers of {own} outputs cannot match a teacher's of {other}")
        real = _real(x, lengths)
        mine, theirs = (values[-1][real] if every else _last(values[-1], lengths) for values in (found, wanted))
        if classes is None or not bool((known := rows < len(classes)).any()):
            total = _distance(mine, theirs, distance, temperature)
        else:
            given = _of(classes, rows[known], x, x.shape[1] if every else None)
            known = known.to(x.device)
            steps = known[:, None].expand(real.shape)[real] if every else known
            target = torch.softmax(theirs / temperature, dim=1)
            target[steps] = torch.lerp(target[steps], _one_hot(given[real[known]] if every else given, target), trust)
            found_log = torch.log_softmax(mine / temperature, dim=1)
            total = nn.functional.kl_div(found_log, target, reduction="batchmean") * temperature**2
        if hidden:
            for mine, theirs in zip(found[:-1], wanted[:-1], strict=True):  # (B, T, units) each
                total = total + hidden * _relative(mine[real], theirs[real])
        return total

    return loss


def _one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """(M, O) of the type and width of ``like``."""
    _check_range(classes, like.shape[1])
    return nn.functional.one_hot(classes, like.shape[1]).to(like.dtype)


def _classes(y: ArrayLike, axes: int) -> Tensor:
    y = np.asarray(y)
    if y.ndim != axes or y.dtype.kind not in "bui":
        expected = ("(N,)", "(N, T)")[axes - 1]
        raise SparseGateError(f"classes have shape {y.shape} and type {y.dtype}, expected {expected} integers")
    return torch.from_numpy(y.astype(np.int64))


def _of(values: Tensor, rows: Tensor, x: Tensor, steps: int | None = None) -> Tensor:
    """What is given for some sequences, up to so many steps, where their inputs ``x`` are."""
    if len(values) <= int(rows.max()) or (steps is not None and values.shape[1] < steps):
        at = "" if steps is None else f", expected {steps} steps of each"
        raise SparseGateError(
            f"the objective is given {tuple(values.shape)} values, which leave out sequence {int(rows.max())}{at}"
        )
    rows = rows.to(values.device)
    return (values[rows] if steps is None else values[rows, :steps]).to(x.device)


def _cross_entropy(found: Tensor, classes: Tensor) -> Tensor:
    _check_range(classes, found.shape[1])
    return nn.functional.cross_entropy(found, classes)


def _check_range(classes: Tensor, outputs: int) -> None:
    if classes.numel() and (int(classes.min()) < 0 or int(classes.max()) >= outputs):
        raise SparseGateError(
            f"classes lie in {int(classes.min())}..{int(classes.max())}, expected 0..{outputs - 1}, one for each output"
        )


def together(*objectives: Objective) -> Objective:
    """The sum of several objectives."""

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        return torch.stack([objective(model, x, lengths, rows) for objective in objectives]).sum()

    return loss


def _distance(found: Tensor, wanted: Tensor, distance: Distance, temperature: float) -> Tensor:
    if distance == "cosine":
        return 1 - nn.functional.cosine_similarity(found, wanted, dim=1).mean()
    if distance == "kl":
        target = torch.log_softmax(wanted / temperature, dim=1)
        mine = torch.log_softmax(found / temperature, dim=1)
        return nn.functional.kl_div(mine, target, reduction="batchmean", log_target=True) * temperature**2
    return _relative(found, wanted)


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.mse_loss(found, wanted) / wanted.square().mean().clamp_min(1e-12)


def _last(outputs: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """Outputs (B, T, O) at each sequence's last step, (B, O)."""
    rows, steps = torch.arange(len(lengths)), torch.from_numpy(lengths) - 1
    return outputs[rows.to(outputs.device), steps.to(outputs.device)]


def _real(x: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """(B, T): steps that are no padding."""
    return (torch.arange(x.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]).to(x.device)
