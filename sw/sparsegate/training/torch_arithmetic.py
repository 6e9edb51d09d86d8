"""A cell's arithmetic in torch: real numbers on the grids of their formats, with gradients.

Values are raw * lsb in float64. Scales are powers of two, so that every product and sum is exact and results are the golden
model's bit for bit. It shares no arithmetic with golden model and RTL, on purpose: they check one another. Gradients pass straight
through roundings and stop where a value saturates (Bengio et al. 2013); through tables flows the derivative of the real function.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsegate.numerics import tables
from sparsegate.numerics.fixed import QFormat


class Narrow(torch.autograd.Function):
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


class _NarrowWeight(torch.autograd.Function):
    """The same for a weight, whose gradient passes outside of the range, too, where a step down it leads back.

    With few bits many weights lie outside; if their gradients stopped there, no training could ever change them again.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, frac: int, low: float, high: float) -> Tensor:
        raw = (value * 2.0**frac).add_(0.5).floor_()
        narrowed = raw.clamp(low, high)
        ctx.save_for_backward(raw.sub_(narrowed))
        return narrowed.mul_(2.0**-frac)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (beyond,) = ctx.saved_tensors
        return grad * (beyond * grad >= 0), None, None, None


class Lookup(torch.autograd.Function):
    """Narrowing to a table's input and the table, in one; backward is the derivative of the real function, 0 where it saturates.

    ``offset`` is the position of input 0 in ``values`` and ``slopes``; both have one place more at each end of a table, for all
    that saturates.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, values: Tensor, slopes: Tensor, offset: Tensor | int, frac: int, largest: int
    ) -> Tensor:
        raw = (value * 2.0**frac).add_(0.5).floor_().clamp_(-largest - 1, largest + 1).add_(offset)
        at = raw.to(torch.int32).reshape(
            -1
        )  # index_select of a flat int32 index takes a quarter of the time of values[at]
        ctx.slopes, ctx.shape = slopes, raw.shape
        ctx.save_for_backward(at)
        return values.index_select(0, at).view(raw.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (at,) = ctx.saved_tensors
        return ctx.slopes.index_select(0, at).view(ctx.shape).mul_(grad), None, None, None, None, None


def narrow(value: Tensor, target: QFormat, symmetric: bool = False) -> Tensor:
    """``fixed.narrow`` on real values: one rounding, then saturation to ``target``."""
    return Narrow.apply(value, target.frac, -target.max if symmetric else target.min, target.max)


def narrow_weight(value: Tensor, target: QFormat) -> Tensor:
    """The same for weights: gradients that lead back from beyond the range pass."""
    return _NarrowWeight.apply(value, target.frac, target.min, target.max)


class TorchArithmetic:
    """The arithmetic of a cell (``sparsegate.cells.Arithmetic``) on float64 tensors of real values.

    ``looked``: table outputs that are known already, by the ``id`` of the gate that was looked up.
    """

    def __init__(
        self,
        formats: Mapping[str, QFormat],
        step_bits: int,
        gates: Mapping[str, Tensor],
        states: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        looked: Mapping[int, Tensor] | None = None,
    ) -> None:
        self._formats, self._step_bits = formats, step_bits
        self._gates, self._states, self._parameters = gates, states, parameters
        self._looked = looked or {}

    def gate(self, name: str) -> Tensor:
        return self._gates[name]

    def state(self, name: str) -> Tensor:
        return self._states[name]

    def parameter(self, name: str) -> Tensor:
        return self._parameters[name]

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def one(self) -> float:
        return 1.0

    def relu(self, value: Tensor) -> Tensor:
        return torch.relu(value)

    def narrow(self, value: Tensor, target: str, site: str, symmetric: bool = False) -> Tensor:
        if target == "pre":  # only tables take it, and narrow it themselves
            return value
        return narrow(value, self._formats[target], symmetric)

    def lookup(self, function: str, value: Tensor) -> Tensor:
        if id(value) in self._looked:
            return self._looked[id(value)]
        source = self._formats["pre"]
        values, slopes = joined_tables((function,), source, self._formats["gate"], self._step_bits)
        return Lookup.apply(value, values, slopes, source.max + 1, source.frac, source.max)


@lru_cache(maxsize=256)
def joined_tables(
    functions: tuple[str, ...], source: QFormat, target: QFormat, step_bits: int
) -> tuple[Tensor, Tensor]:
    """Every output of some tables as real values, and the slopes of the real functions, one table after the other.

    Each is indexed by ``raw + source.max + 1``, with a place more at both ends, where the slope is 0.
    """
    points = source.real(np.arange(-source.max, source.max + 1))
    values, slopes = [], []
    for function in functions:
        smooth = tables.exact(function, points)
        full = target.real(tables.table(function, source, target, step_bits).full)
        values.append(np.pad(full, 1, mode="edge"))
        slopes.append(np.pad(smooth * (1.0 - smooth) if function == "sigmoid" else 1.0 - np.square(smooth), 1))
    return torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(slopes))
