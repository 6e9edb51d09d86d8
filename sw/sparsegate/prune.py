"""N:M pruning inside the user's own PyTorch training loop.

``attach`` puts a mask on the weights of recurrent modules, their cells and ``nn.Linear`` as a torch parametrization,
``Pruner.step`` tightens it by a schedule, and ``Pruner.finish`` bakes it in and checks the pattern. Masked weights keep their value
below the mask and may return while the schedule runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsegate import pattern
from sparsegate.errors import SparseGateError
from sparsegate.pattern import NM, Wanted, pair

Patterns = Wanted | Mapping[str, Wanted]

GATES: dict[type[nn.Module], int] = {
    nn.LSTM: 4,
    nn.GRU: 3,
    nn.RNN: 1,
    nn.LSTMCell: 4,
    nn.GRUCell: 3,
    nn.RNNCell: 1,
}
"""Gates of PyTorch's recurrent modules; blocks never cross one."""


@dataclass(frozen=True)
class Cubic:
    """Gradual pruning (Zhu & Gupta 2017, equation 1): quick while weights are plentiful, slow as they become scarce.

    From step ``begin`` to step ``end`` the sparsity follows ``s_f - s_f (1 - (t - begin) / (end - begin))**3``, rounded towards
    more weights, so that a block of M goes from M weights down to exactly N. Masks are chosen anew every ``every`` steps
    and at ``end``, and are frozen from ``end`` on.
    """

    begin: int
    end: int
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise SparseGateError(f"a schedule needs 0 <= begin <= end, not {self.begin} and {self.end}")
        if self.every < 1:
            raise SparseGateError(f"a schedule updates every 1 or more steps, not every {self.every}")

    def kept(self, step: int, target: NM) -> int:
        """Weights kept in a block of ``target.m`` at ``step``, from M down to N."""
        if step < self.begin:
            return target.m
        if step >= self.end:
            return target.n
        left = self.end - step
        span = self.end - self.begin
        # N + (M - N) left**3 / span**3, rounded up, in integers
        return target.n + -(-(target.m - target.n) * left**3 // span**3)

    def due(self, step: int) -> bool:
        """Whether masks change at ``step``."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)


class Mask(nn.Module):
    """The parametrization of a pruned weight: weight * mask."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, requires_grad=False))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


@dataclass(frozen=True)
class _Target:
    """One weight matrix under pruning."""

    module: nn.Module
    name: str
    gates: int
    pattern: NM
    label: str


class Pruner:
    """Masks on a model's weights and the schedule that tightens them; made by :func:`attach`."""

    def __init__(self, targets: Sequence[_Target], schedule: Cubic, patterns: Mapping[str, tuple[NM, NM]]) -> None:
        self.schedule = schedule
        self.patterns = dict(patterns)
        """Module name -> (pattern of Wx, pattern of Wh), as ``sparsegate.load`` takes them."""
        self.count = 0
        """Steps so far."""
        self.density = 1.0
        """Share of weights that the masks let through, over all pruned matrices."""
        self._targets = list(targets)
        self._hooks: list[Any] = []
        for target in self._targets:
            weight = getattr(target.module, target.name)
            parametrize.register_parametrization(target.module, target.name, Mask(weight))
        for module in {id(target.module): target.module for target in self._targets}.values():
            if isinstance(module, nn.RNNBase):
                self._hooks += [module.register_forward_pre_hook(_flatten), module.register_forward_hook(_release)]
        self._update()

    @property
    def frozen(self) -> bool:
        """Whether every mask has reached its pattern and will not change."""
        return self.count >= self.schedule.end

    def step(self) -> None:
        """Count one step (an optimizer step or an epoch, in the schedule's unit) and tighten the masks if it is time."""
        self.count += 1
        if self.schedule.due(self.count):
            self._update()

    def finish(self) -> None:
        """Bring every matrix to its exact pattern, bake the masks in, remove the parametrizations, and check the result."""
        if not self._targets:
            return
        if not self.frozen:
            self.count = self.schedule.end
            self._update()
        for hook in self._hooks:
            hook.remove()
        for target in self._targets:
            parametrize.remove_parametrizations(target.module, target.name, leave_parametrized=True)
            matrix = getattr(target.module, target.name).detach().cpu().double().numpy()
            pattern.check(matrix, target.gates, target.pattern, target.label)
            if isinstance(target.module, nn.RNNBase):
                _flatten(target.module)
        self._targets = []

    def _update(self) -> None:
        kept_weights = weights = 0
        for target in self._targets:
            kept = self.schedule.kept(self.count, target.pattern)
            weight = target.module.parametrizations[target.name].original  # type: ignore[union-attr, index]
            keep = pattern.mask(weight.detach().cpu().double().numpy(), target.gates, NM(kept, target.pattern.m))
            self._mask(target).copy_(torch.from_numpy(keep))
            kept_weights, weights = kept_weights + int(keep.sum()), weights + keep.size
        if weights:
            self.density = kept_weights / weights

    @staticmethod
    def _mask(target: _Target) -> Tensor:
        return target.module.parametrizations[target.name][0].mask  # type: ignore[union-attr, index]


def attach(model: nn.Module, patterns: Patterns, schedule: Cubic, projection: NM | str = "dense") -> Pruner:
    """Start pruning the weights of ``model`` to N:M patterns along their columns.

    Parameters
    ----------
    patterns : one pattern (``"2:16"``, an ``NM``, or a pair for Wx and Wh) for every ``nn.LSTM``, ``nn.GRU``,
        ``nn.RNN`` and their cells, or a mapping from module names to patterns. All layers and directions of a module take its
        pattern. Blocks never cross a gate. An optimizer made before or after stays valid.
    schedule : when, in calls of ``Pruner.step``.
    projection : pattern of the projections (``weight_hr``) of those modules that have ``proj_size``.

    Examples
    --------
    >>> pruner = attach(model, {"lstm": ("4:16", "2:16")}, Cubic(begin=10, end=200))   # doctest: +SKIP
    >>> for x, y in loader:                                                            # doctest: +SKIP
    ...     train_one_batch(model, optimizer, x, y)
    ...     pruner.step()
    >>> pruner.finish()                                                                # doctest: +SKIP
    """
    modules = dict(model.named_modules())
    if not isinstance(patterns, Mapping):
        patterns = {name: patterns for name, module in modules.items() if isinstance(module, tuple(GATES))}
        if not patterns:
            raise SparseGateError(
                "the model has no recurrent module to prune; name the modules: attach(model, {'fc': '2:16'}, ...)"
            )
    pairs: dict[str, tuple[NM, NM]] = {}
    targets: list[_Target] = []
    for name, wanted in patterns.items():
        if name not in modules:
            raise SparseGateError(
                f"the model has no module {name!r}; it has {', '.join(filter(None, modules)) or 'no submodules'}"
            )
        pairs[name] = pair(wanted)
        targets += _targets(name, modules[name], *pairs[name], *pair(projection)[:1])
    return Pruner(targets, schedule, pairs)


def _targets(name: str, module: nn.Module, x: NM, h: NM, p: NM) -> Iterator[_Target]:
    count = next((count for kind, count in GATES.items() if isinstance(module, kind)), None)
    if isinstance(module, nn.Linear):
        found = [("weight", 1, x)]
    elif count is None:
        raise SparseGateError(
            f"{name!r} is a {type(module).__name__}; nn.Linear, {', '.join(f'nn.{kind.__name__}' for kind in GATES)} "
            "can be pruned"
        )
    else:
        # weight_ih_l0, weight_hh_l1_reverse, weight_hr_l0 ...; a cell's have no layer
        patterns = {"weight_ih": (count, x), "weight_hh": (count, h), "weight_hr": (1, p)}
        names = module._flat_weights_names if isinstance(module, nn.RNNBase) else ["weight_ih", "weight_hh"]
        found = [(key, *patterns[key[:9]]) for key in names if key[:9] in patterns]
    for weight, gates, nm in found:
        if parametrize.is_parametrized(module, weight):
            raise SparseGateError(
                f"{name}.{weight} already has a parametrization; finish the first pruning before the next"
            )
        if not nm.dense:
            yield _Target(module, weight, gates, nm, f"{name}.{weight}")


def _flatten(module: Any, *_: Any) -> None:
    """Give a recurrent module the masked weights: its forward reads a list of tensors, not its attributes."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _release(module: Any, *_: Any) -> None:
    """Put the plain parameters back, so that the module can be copied and holds no graph between steps."""
    lists = getattr(module, "parametrizations", {})
    module._flat_weights = [
        lists[name].original if name in lists else getattr(module, name) for name in module._flat_weights_names
    ]
