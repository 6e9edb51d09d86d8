"""A float Network as torch modules, to be trained and turned back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sparsegate import importers
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network
from sparsegate.pattern import NM

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda value: value,
    "linear_relu": torch.relu,
    "linear_sigmoid": torch.sigmoid,
    "linear_tanh": torch.tanh,
}
"""What the linear kinds do to their sums."""

CPU = torch.device("cpu")


class Trainable(nn.Module):
    """A Network of forward layers as trainable torch modules: (N, T, I) -> (N, T, outputs), float32.

    Parameters
    ----------
    network : the weights to start from; lstm, gru, rnn_tanh, rnn_relu and all linear layers, one after the other.
    lstm : the class that LSTM layers are made of: ``nn.LSTM`` or a subclass with the same parameters.
    """

    def __init__(self, network: Network, lstm: type[nn.LSTM] = nn.LSTM) -> None:
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
        with torch.random.fork_rng(devices=[]):  # what the modules draw at birth is overwritten
            self.parts = nn.ModuleList(_module(layer, lstm) for layer in network.layers)

    def forward(self, x: Tensor, lengths: ArrayLike | None = None) -> Tensor:
        """Every step is computed, of the padding too: forward layers need no ``lengths``."""
        return self.trace(x, lengths)[-1]

    def trace(self, x: Tensor, lengths: ArrayLike | None = None) -> list[Tensor]:
        """Outputs of every layer, each (N, T, outputs)."""
        if x.dim() != 3 or x.shape[2] != self.start.inputs:
            raise SparseGateError(f"x has shape {tuple(x.shape)}, expected (N, T, {self.start.inputs})")
        values = []
        for part, layer in zip(self.parts, self.start.layers, strict=True):
            x = part(x)[0] if isinstance(part, nn.RNNBase) else ACTIVATIONS[layer.kind](part(x))
            values.append(x)
        return values

    def network(
        self,
        patterns: Mapping[str, tuple[NM, NM]] | None = None,
        projections: Mapping[str, NM] | None = None,
    ) -> Network:
        """The Network with the present weights; ``patterns`` of Wx and Wh and those of ``projections`` by layer name, those of the
        start where omitted."""
        said = [layer.kind.partition("linear_")[2] for layer in self.start.layers]  # what no module of ours holds
        names = [f"{position}:{name}" if name else str(position) for position, name in enumerate(said)]
        made = importers.load(self.parts, layers=names)
        layers = []
        for old, new in zip(self.start.layers, made.layers, strict=True):
            pattern_x, pattern_h = (patterns or {}).get(old.name, (old.pattern_x, old.pattern_h))
            pattern_p = (projections or {}).get(old.name, old.pattern_p)
            new = replace(new, name=old.name, when=old.when, pattern_x=pattern_x, pattern_h=pattern_h)
            layers.append(replace(new, pattern_p=pattern_p))
        return self.start.with_layers(layers)


def _module(layer: Layer, lstm: type[nn.LSTM]) -> nn.Module:
    """The torch module of a float layer, with its weights."""
    bias = torch.from_numpy(layer.bias)
    if layer.kind in ACTIVATIONS:
        head = nn.Linear(layer.inputs, layer.units)
        head.load_state_dict({"weight": torch.from_numpy(layer.w_x), "bias": bias})
        return head
    part: nn.RNNBase
    if layer.kind == "lstm":
        projected = 0 if layer.w_p is None else layer.outputs
        part = lstm(layer.inputs, layer.units, batch_first=True, proj_size=projected)
    elif layer.kind == "gru":
        part = nn.GRU(layer.inputs, layer.units, batch_first=True)
    elif layer.kind in ("rnn_tanh", "rnn_relu"):
        part = nn.RNN(layer.inputs, layer.units, batch_first=True, nonlinearity=layer.kind.removeprefix("rnn_"))
    else:
        raise SparseGateError(
            f"layer {layer.name!r}: training knows {', '.join(ACTIVATIONS)}, lstm, gru, rnn_tanh and rnn_relu layers, not"
            f" {layer.kind!r}"
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


def usable(device: torch.device | str) -> torch.device:
    """A device that can be trained on here, by its name."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found).tolist()
    except Exception as error:  # torch raises several kinds for what it does not know, and for what is not there
        first = str(error).splitlines()[0].rstrip(".")
        raise SparseGateError(
            f"cannot train on {str(device)!r}, expected cpu, or cuda where there is one: {first}"
        ) from None
    return found
