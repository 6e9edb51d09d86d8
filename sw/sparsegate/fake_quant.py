"""Fixed-point fake-quantization in torch: a forward that gives exactly the golden model's integers, with gradients.

Values are real numbers (raw * lsb) in float64. Scales are powers of two, so that every product and sum is exact and the
results are equal to the golden model's bit for bit, not nearly so. Gradients pass straight through roundings and stop where
a value saturates (Bengio et al. 2013); through tables flows the derivative of the real function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegate import activation, quantize
from sparsegate.cells import Cell, cell
from sparsegate.fixed import QFormat
from sparsegate.network import Layer, Network
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig


class _Narrow(torch.autograd.Function):
    """Half-up rounding to a multiple of ``2**-frac``, then clipping to the raw range low..high."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, frac: int, low: float, high: float) -> Tensor:
        # in place from here on: scaling by a power of two is exact
        raw = (value * 2.0**frac).add_(0.5).floor_()
        narrowed = raw.clamp(low, high)
        ctx.save_for_backward(raw == narrowed)
        return narrowed.mul_(2.0**-frac)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None


class _Lookup(torch.autograd.Function):
    """A table by raw integer; backward is the derivative of the real function, told from the table's output."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, function: str, full: Tensor, frac: int, largest: int) -> Tensor:
        found = full[(value * 2.0**frac).to(torch.int64).add_(largest)]
        ctx.function = function
        ctx.save_for_backward(value)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (value,) = ctx.saved_tensors
        if ctx.function == "sigmoid":
            smooth = torch.sigmoid(value)
            slope = smooth * (1.0 - smooth)
        else:
            slope = 1.0 - torch.tanh(value).square_()
        return grad * slope, None, None, None, None


def narrow(value: Tensor, target: QFormat, symmetric: bool = False) -> Tensor:
    """``fixed.narrow`` on real values: one rounding, then saturation to ``target``."""
    return _Narrow.apply(value, target.frac, -target.max if symmetric else target.min, target.max)


class TorchArithmetic:
    """The arithmetic of a cell (``sparsegate.cells.Arithmetic``) on float64 tensors of real values."""

    def __init__(
        self, formats: Mapping[str, QFormat], step_bits: int, gates: Mapping[str, Tensor], states: Mapping[str, Tensor]
    ) -> None:
        self._formats, self._step_bits = formats, step_bits
        self._gates, self._states = gates, states

    def gate(self, name: str) -> Tensor:
        return self._gates[name]

    def state(self, name: str) -> Tensor:
        return self._states[name]

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def one(self) -> float:
        return 1.0

    def narrow(self, value: Tensor, target: str, site: str, symmetric: bool = False) -> Tensor:
        return narrow(value, self._formats[target], symmetric)

    def lookup(self, function: str, value: Tensor) -> Tensor:
        source, target = self._formats["pre"], self._formats["gate"]
        return _Lookup.apply(value, function, _full(function, source, target, self._step_bits), source.frac, source.max)


@lru_cache(maxsize=256)
def _full(function: str, source: QFormat, target: QFormat, step_bits: int) -> Tensor:
    """Every output of a table as real values, indexed by ``raw + source.max``."""
    return torch.from_numpy(target.real(activation.table(function, source, target, step_bits).full))


class FakeQuantLayer(nn.Module):
    """One layer with float weights, run with the integers that they round to.

    Weights outside of the layer's N:M pattern are held at 0: ``mask_x`` and ``mask_h`` keep the nonzeros that the layer came with.
    """

    mask_x: Tensor
    mask_h: Tensor

    def __init__(self, layer: Layer, formats: Mapping[str, QFormat], step_bits: int) -> None:
        super().__init__()
        self.layer, self.formats, self.step_bits = layer, dict(formats), step_bits
        self.w_x = nn.Parameter(torch.from_numpy(layer.w_x.copy()))
        self.bias = nn.Parameter(torch.from_numpy(layer.bias.copy()))
        self.register_buffer("mask_x", _mask(layer.w_x, layer.pattern_x.dense))
        if layer.w_h is not None:
            self.w_h = nn.Parameter(torch.from_numpy(layer.w_h.copy()))
            self.register_buffer("mask_h", _mask(layer.w_h, layer.pattern_h.dense))

    @property
    def cell(self) -> Cell:
        return cell(self.layer.kind)

    def weights(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Wx, Wh and bias as the Program holds them, real values."""
        form = self.formats
        w_x = narrow(self.w_x * self.mask_x, form["wx"])
        w_h = narrow(self.w_h * self.mask_h, form["wh"]) if self.cell.recurrent else None
        frac = form["acc"].frac
        # the accumulator is as wide as the bias needs, so a bias is rounded and never saturates
        return w_x, w_h, _Narrow.apply(self.bias, frac, -torch.inf, torch.inf)

    def forward(self, seen: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
        """x^ of the source (N, T, I) -> outputs h and h^ (N, T, units), at every step."""
        w_x, w_h, bias = self.weights()
        units = self.layer.units
        pre_x = seen @ w_x.T + bias  # (N, T, G * units)
        hat = seen.new_zeros(len(seen), units)
        states = {name: torch.zeros_like(hat) for name in self.cell.states}
        outputs, hats = [], []
        for pre in pre_x.unbind(1):
            acc = pre if w_h is None else pre + hat @ w_h.T
            gates = dict(zip(self.cell.gates, acc.split(units, dim=1), strict=True))
            step = self.cell.step(TorchArithmetic(self.formats, self.step_bits, gates, states))
            hat, states = _hold(hat, step.h, threshold * self.formats["h"].lsb), dict(step.states)
            outputs.append(step.h)
            hats.append(hat)
        return torch.stack(outputs, 1), torch.stack(hats, 1)

    def float_layer(self) -> Layer:
        """The layer with its present float weights."""
        old = self.layer
        w_x, bias = (value.detach().numpy().copy() for value in (self.w_x * self.mask_x, self.bias))
        w_h = (self.w_h * self.mask_h).detach().numpy().copy() if self.cell.recurrent else None
        return Layer(old.name, old.kind, w_x, w_h, bias, old.when, old.pattern_x, old.pattern_h)


def _mask(weight: NDArray, dense: bool) -> Tensor:
    return torch.from_numpy(np.ones_like(weight) if dense else (weight != 0).astype(np.float64))


def _hold(hat: Tensor, value: Tensor, threshold: float) -> Tensor:
    """The value last sent: a new one where it moved by more than the threshold."""
    return value if threshold == 0 else torch.where((value - hat).abs() > threshold, value, hat)


class FakeQuant(nn.Module):
    """A whole network with the formats of its quantization: quantization-aware training, and inference on exact integers.

    Its forward equals the golden model of :meth:`program` raw by raw, times the output's lsb.

    Parameters
    ----------
    network : float weights to start from.
    formats : as :func:`sparsegate.quantize.choose_formats` gives them.
    config : bit widths, and the threshold of every vector.
    """

    def __init__(self, network: Network, formats: Sequence[dict[str, QFormat]], config: QuantizeConfig) -> None:
        super().__init__()
        self.start, self.config = network, config
        self.chosen = [dict(form) for form in formats]
        program = quantize.build(network, self.chosen, config)
        self.input_format = program.input_format
        self.thresholds = program.thresholds
        self.layers = nn.ModuleList(
            FakeQuantLayer(layer, made.formats, made.step_bits)
            for layer, made in zip(network.layers, program.layers, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Real inputs (N, T, I) -> real outputs (N, T, O) at every step, whatever ``when`` the last layer runs.

        Layers are causal, so the padding after a sequence's end changes nothing before it.
        """
        return self.trace(x)[-1]

    def trace(self, x: Tensor) -> list[Tensor]:
        """Outputs of every layer, each (N, T, units), real values."""
        now = narrow(x.double(), self.input_format)
        lsb = self.thresholds[0] * self.input_format.lsb
        seen = now
        if lsb:
            hat, hats = torch.zeros_like(now[:, 0]), []
            for value in now.unbind(1):
                hat = _hold(hat, value, lsb)
                hats.append(hat)
            seen = torch.stack(hats, 1)
        outputs = []
        for layer, threshold in zip(self.layers, self.thresholds[1:], strict=True):
            out, seen = layer(seen, threshold)
            outputs.append(out)
        return outputs

    def network(self) -> Network:
        """The network with its present float weights; they obey the same patterns."""
        return self.start.with_layers([layer.float_layer() for layer in self.layers])  # type: ignore[operator]

    def program(self, meta: dict[str, Any] | None = None) -> Program:
        """The Program whose golden model gives this module's numbers."""
        return quantize.build(self.network(), self.chosen, self.config, meta)
