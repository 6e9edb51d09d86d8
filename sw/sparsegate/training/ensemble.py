"""Several teachers as one: what they say on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sparsegate.errors import SparseGateError
from sparsegate.training.trainable import Trainable


class Ensemble(nn.Module):
    """A teacher of classes that is the mean of several networks (Hinton et al. 2015, section 3): (N, T, I) -> (N, T, O).

    Networks that were trained from different seeds overfit differently, so the mean of their softmax outputs is nearer to the truth
    than each of them, and who learns from it (``objective.match`` with the distance "kl") learns less of any one's mistakes. The
    outputs are the logarithm of that mean: logits whose softmax it is.

    Parameters
    ----------
    members : ``Trainable`` modules of the same inputs and outputs.
    """

    def __init__(self, members: Sequence[Trainable]) -> None:
        super().__init__()
        sizes = {(member.start.inputs, member.start.outputs) for member in members}
        if len(sizes) != 1:
            found = ", ".join(f"{inputs} to {outputs}" for inputs, outputs in sorted(sizes)) or "none"
            raise SparseGateError(f"an ensemble is of one network or more, of the same inputs and outputs, not {found}")
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, lengths: ArrayLike | None = None) -> Tensor:
        logs = torch.stack([torch.log_softmax(member(x, lengths), dim=2) for member in self.members])  # (K, N, T, O)
        return torch.logsumexp(logs, dim=0) - math.log(len(self.members))

    def trace(self, x: Tensor, lengths: ArrayLike | None = None) -> list[Tensor]:
        """The outputs alone: layers within belong to no one network, and cannot be matched."""
        return [self(x, lengths)]
