"""Sequences that a network writes itself: data without end for whoever learns from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.training.trainable import ACTIVATIONS, Trainable, usable

BATCH = 2048
"""Sequences that are written at once, which bounds memory."""


def sample(
    network: Network, first: ArrayLike, steps: int, seed: int = 0, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """What a network writes that was trained to predict its own next input, a class at every step.

    A pruned network that learns from the outputs of the one before it overfits where there is little data; on the teacher's own
    samples it meets the teacher's whole distribution (sequence-level distillation, Kim & Rush 2016, with samples for beams).

    Parameters
    ----------
    network : of as many outputs as inputs, the logits of the next input's class.
    first : (N,) classes that the sequences begin with.
    steps : of each sequence.
    seed : of the draws; with the same one come the same sequences, on the same device.
    device : where the network runs.

    Returns
    -------
    (N, steps, I) one-hot inputs.
    """
    first = np.asarray(first)
    if network.inputs != network.outputs or any(layer.when != "step" for layer in network.layers):
        raise SparseGateError(
            f"a network that writes sequences predicts its next input at every step; this one has {network.inputs} inputs and "
            f"{network.outputs} outputs"
        )
    if first.ndim != 1 or first.dtype.kind not in "bui" or not ((first >= 0) & (first < network.inputs)).all():
        raise SparseGateError(f"sequences begin with classes 0..{network.inputs - 1}, one each")
    if steps < 1:
        raise SparseGateError(f"steps is {steps}, expected 1 or more")
    place = usable(device)
    model = Trainable(network).to(place)
    draws = torch.Generator(place).manual_seed(seed)
    classes = np.concatenate(
        [
            _written(model, torch.from_numpy(first[at : at + BATCH].astype(np.int64)).to(place), steps, draws)
            for at in range(0, len(first), BATCH)
        ]
    )
    return np.eye(network.inputs, dtype=np.float32)[classes]


@torch.no_grad()
def _written(model: Trainable, now: torch.Tensor, steps: int, draws: torch.Generator) -> NDArray[np.int64]:
    """Classes (N, steps)."""
    states: list = [None] * len(model.parts)
    written = [now]
    for _ in range(steps - 1):
        value = nn.functional.one_hot(written[-1], model.start.inputs).float()[:, None]
        for number, (part, layer) in enumerate(zip(model.parts, model.start.layers, strict=True)):
            if isinstance(part, nn.RNNBase):
                value, states[number] = part(value, states[number])
            else:
                value = ACTIVATIONS[layer.kind](part(value))
        written.append(torch.multinomial(torch.softmax(value[:, 0], 1), 1, generator=draws)[:, 0])
    return torch.stack(written, 1).cpu().numpy()
