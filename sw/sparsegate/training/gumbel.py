"""Binary-valued gates: an LSTM whose input and forget gates are noisy while it trains (G2-LSTM, Li et al., ICML 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sparsegate.errors import SparseGateError
from sparsegate.importers.torch import ALIKE

EDGE = 1e-6
"""Distance of the uniform numbers from 0 and 1: the noise stays within 13.8 either way."""


class G2LSTM(nn.LSTM):
    """``nn.LSTM`` with Gumbel gates (Li et al., "Towards Binary-Valued Gates for Robust LSTM Training", ICML 2018).

    In training mode the input and forget gates are samples of the Gumbel-Softmax estimator for two classes, also known as
    binary concrete (Jang et al. 2017; Maddison et al. 2017): ``sigmoid((a + log u - log(1 - u)) / tau)``, where a is the
    pre-activation and u is uniform on 0..1, drawn anew for each gate, unit, step and sequence. Samples are soft, in the forward
    pass too; gradients flow through them, and no straight-through estimator is used. Noise makes a middle value useless, so that
    training moves the gates to where they saturate.

    In evaluation mode the module is ``nn.LSTM`` itself: gates are ``sigmoid(a)``, without noise and without tau, as the authors'
    published code evaluates. So its parameters, names and calls are those of ``nn.LSTM``: a state_dict is exchanged with
    one as it is, pruning attaches to it, and what the engine runs is exactly what it computes.

    Parameters
    ----------
    args, kwargs : those of ``nn.LSTM``; ``bidirectional`` is refused.
    tau : temperature; 0.9 in the paper.
    share : share of the gates that are perturbed, drawn like u; the others are ``sigmoid(a / tau)``. 1 is the method as the
        paper defines it; the authors' code says that the paper's experiments used 0.2.

    Noise comes from torch's generator of the input's device: ``torch.manual_seed`` repeats a run.
    """

    def __init__(self, *args: Any, tau: float = 0.9, share: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.bidirectional:
            raise SparseGateError("G2LSTM runs forwards in time; train a second one on reversed sequences")
        if not tau > 0:
            raise SparseGateError(f"the temperature of Gumbel gates is positive, not {tau}")
        if not 0 <= share <= 1:
            raise SparseGateError(f"the share of perturbed gates lies in 0..1, not {share}")
        self.tau, self.share = tau, share

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau={self.tau}, share={self.share}"

    def forward(self, x: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """As ``nn.LSTM``: padded, unbatched or packed sequences -> outputs, (h_n, c_n)."""
        if not self.training:
            return super().forward(x, hx)
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x)  # in the caller's order, as hx is
            out, state = self._run(padded, hx, lengths)
            if x.sorted_indices is not None:
                out, lengths = out[:, x.sorted_indices], lengths[x.sorted_indices.cpu()]
            packed = pack_padded_sequence(out, lengths)
            return PackedSequence(packed.data, packed.batch_sizes, x.sorted_indices, x.unsorted_indices), state
        if x.dim() == 2:
            out, (h, c) = self._run(x.unsqueeze(1), None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1)))
            return out.squeeze(1), (h.squeeze(1), c.squeeze(1))
        out, state = self._run(x.transpose(0, 1) if self.batch_first else x, hx)
        return out.transpose(0, 1) if self.batch_first else out, state

    def _run(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All layers over x (T, B, I), each sequence's state taken after its last step; lengths (B,), all T where None."""
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise SparseGateError(f"x has shape {tuple(x.shape)}, expected (T, B, {self.input_size})")
        count = x.shape[1]
        sizes = self.proj_size or self.hidden_size, self.hidden_size
        if hx is None:
            hx = x.new_zeros(self.num_layers, count, sizes[0]), x.new_zeros(self.num_layers, count, sizes[1])
        for value, size in zip(hx, sizes, strict=True):
            if value.shape != (self.num_layers, count, size):
                raise SparseGateError(
                    f"an initial state has shape {tuple(value.shape)}, expected ({self.num_layers}, {count}, {size})"
                )
        ends = None if lengths is None else (lengths.to(x.device) - 1, torch.arange(count, device=x.device))
        final: list[tuple[Tensor, Tensor]] = []
        for layer, (h, c) in enumerate(zip(*hx, strict=True)):
            if layer:
                x = nn.functional.dropout(x, self.dropout)
            hs, cs = self._layer(x, h, c, layer)
            x = torch.stack(hs)
            final.append((hs[-1], cs[-1]) if ends is None else (x[ends], torch.stack(cs)[ends]))
        return x, (torch.stack([h for h, _ in final]), torch.stack([c for _, c in final]))

    def _layer(self, x: Tensor, h: Tensor, c: Tensor, layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """One layer: x (T, B, I) -> h and c of every step."""
        # read as attributes: a parametrization, such as a pruning mask, answers there
        w_x, w_h = (getattr(self, f"weight_{key}_l{layer}") for key in ("ih", "hh"))
        w_p = getattr(self, f"weight_hr_l{layer}") if self.proj_size else None
        units = self.hidden_size
        # 1 / tau goes into the rows of i and f, so that a step is that of a plain LSTM
        scale = x.new_ones(4 * units)
        scale[: 2 * units] = 1 / self.tau
        bias = getattr(self, f"bias_ih_l{layer}") + getattr(self, f"bias_hh_l{layer}") if self.bias else None
        pre = nn.functional.linear(x, w_x * scale[:, None], None if bias is None else bias * scale)
        with torch.no_grad():  # a constant: it changes no gradient
            pre[..., : 2 * units] += self._noise(x, units)
        w_h = (w_h * scale[:, None]).T
        hs, cs = [], []
        for now in pre.unbind():
            gates, g, o = torch.addmm(now, h, w_h).split((2 * units, units, units), 1)
            i, f = torch.sigmoid(gates).split(units, 1)
            c = torch.addcmul(f * c, i, torch.tanh(g))
            h = torch.sigmoid(o) * torch.tanh(c)
            if w_p is not None:
                h = nn.functional.linear(h, w_p)
            hs.append(h)
            cs.append(c)
        return hs, cs

    def _noise(self, x: Tensor, units: int) -> Tensor:
        """What is added to the pre-activations of i and f over tau, (T, B, 2 * units)."""
        shape = (*x.shape[:2], 2 * units)
        noise = torch.rand(shape, dtype=x.dtype, device=x.device).logit_(EDGE).mul_(1 / self.tau)
        if self.share < 1:
            noise.mul_(torch.rand(shape, dtype=x.dtype, device=x.device) < self.share)
        return noise


ALIKE.add(G2LSTM.forward)
