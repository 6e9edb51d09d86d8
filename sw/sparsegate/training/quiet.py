"""Delta-aware training: a penalty that keeps hidden states still, so that a delta engine has less to send.

The other half, thresholds in the forward pass, is ``FakeQuant.thresholds``: there, training sees what the engine computes when
it skips.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegate.errors import SparseGateError
from sparsegate.training.fake_quant import FakeQuantLayer
from sparsegate.training.objective import Objective


def quiet(objective: Objective, weight: float) -> Objective:
    """An objective plus ``weight`` times the mean of ``|h_t - h_{t-1}|`` over units, real steps and recurrent layers.

    It looks at the outputs (real values) of every ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and recurrent ``FakeQuantLayer`` that
    the objective runs inside of its model; of a stack in one module PyTorch shows the last layer only. Sparse deltas by such a
    penalty on the activations' change: Neil et al., ICML 2017.
    """
    if not weight >= 0:
        raise SparseGateError(f"the weight of a penalty is 0 or more, not {weight}")

    def loss(model: nn.Module, x: Tensor, lengths: NDArray[np.int64], rows: Tensor) -> Tensor:
        with _watched(model) as seen:
            total = objective(model, x, lengths, rows)
        if not seen:
            raise SparseGateError("the objective ran no recurrent layer of its model whose steps could be kept still")
        moves = [_moves(values, torch.as_tensor(lengths, device=values.device)) for values in seen]
        return total + weight * torch.stack(moves).mean()

    return loss


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of recurrent layers, each (B, T, H), while a model runs."""
    seen: list[Tensor] = []

    def look(module: Any, _: Any, result: Any) -> None:
        if not isinstance(result[0], Tensor):
            raise SparseGateError("packed sequences are not seen by the penalty on moving states; pad them")
        steps_first = isinstance(module, nn.RNNBase) and not module.batch_first
        seen.append(result[0].transpose(0, 1) if steps_first else result[0])

    hooks = [
        module.register_forward_hook(look)
        for module in model.modules()
        if isinstance(module, nn.RNNBase) or (isinstance(module, FakeQuantLayer) and module.cell.recurrent)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _moves(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean ``|h_t - h_{t-1}|`` of values (B, T, H) over pairs of real steps; 0 where there is none."""
    real = torch.arange(1, values.shape[1], device=values.device)[None, :] < lengths[:, None]
    moved = values.diff(dim=1).abs().mean(dim=2) * real
    return moved.sum() / real.sum().clamp_min(1)
