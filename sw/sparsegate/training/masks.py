"""Pruning inside the user's own PyTorch training loop.

``attach`` puts a mask on the weights of recurrent modules, their cells and ``nn.Linear`` as a torch parametrization,
``Pruner.step`` tightens it by a schedule, and ``Pruner.finish`` bakes it in and checks the pattern. Masked weights live on
below the mask and may return until the schedule ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsegate.errors import SparseGateError
from sparsegate.pattern import DENSE, NM, Pattern, Written, both, parse
from sparsegate.training.schedule import Annealed, Cubic, OneShot, Schedule

Patterns = Written | Mapping[str, Written]
Score = Callable[[str, Tensor], Tensor]
"""Importance of a matrix's weights, called with its name and value: a tensor of its shape, of which magnitudes count."""


class Scaler(Protocol):
    """What regrowth asks of a gradient scaler: ``torch.amp.GradScaler``."""

    def get_scale(self) -> float: ...


GATES: dict[type[nn.Module], int] = {
    nn.LSTM: 4,
    nn.GRU: 3,
    nn.RNN: 1,
    nn.LSTMCell: 4,
    nn.GRUCell: 3,
    nn.RNNCell: 1,
}
"""Gates of PyTorch's recurrent modules; blocks never cross one."""

MATRIX = re.compile(r"weight_(ih|hh|hr)(?:_(l\d+(?:_reverse)?))?")
"""Name of a recurrent module's matrix: which one it is, and the layer and direction of a stacked one."""


class _StraightThrough(torch.autograd.Function):
    """The masked weight, whose gradient reaches all weights (SR-STE: Zhou et al., ICLR 2021, figure 2b).

    A weight outside of the mask is drawn to zero besides: its gradient grows by ``decay`` times the weight.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return torch.where(mask, weight, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradient + ctx.decay * torch.where(mask, 0, weight), None, None


class Mask(nn.Module):
    """The parametrization of a pruned weight: the weight where the mask is true, 0 elsewhere.

    ``regrow``: masked weights take part in training, with this decay; None where they get no gradient. ``scaler``: by what the loss
    is multiplied, and so the gradient that the decay is added to.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, regrow: float | None = None, scaler: Scaler | None = None) -> None:
        super().__init__()
        self.regrow, self.scaler = regrow, scaler
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool, requires_grad=False))

    def forward(self, weight: Tensor) -> Tensor:
        if self.regrow is not None:
            scale = 1.0 if self.scaler is None else self.scaler.get_scale()
            return _StraightThrough.apply(weight, self.mask, self.regrow * scale)
        return torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


@dataclass(frozen=True)
class _Target:
    """One weight matrix under pruning."""

    module: nn.Module
    name: str
    gates: int
    pattern: Pattern
    label: str

    @property
    def mask(self) -> Mask:
        return self.module.parametrizations[self.name][0]  # type: ignore[index, return-value]

    @property
    def weight(self) -> Tensor:
        """All weights, those below the mask too."""
        return self.module.parametrizations[self.name].original.detach()  # type: ignore[union-attr, index]


class Pruner:
    """Masks on a model's weights and the schedule that tightens them; made by :func:`attach`."""

    def __init__(
        self,
        targets: Sequence[_Target],
        schedule: Schedule,
        patterns: Mapping[str, tuple[NM, NM]],
        regrow: float | None = None,
        score: Score | None = None,
        seed: int = 0,
        scaler: Scaler | None = None,
    ) -> None:
        self.schedule = schedule
        self.patterns = dict(patterns)
        """Module name -> (pattern of Wx, pattern of Wh), as ``sparsegate.load`` takes them. A module whose layers differ is there
        layer by layer, and a pattern that is not N:M is dense: what is pruned so is a dense matrix with zeros to the hardware."""
        self.count = 0
        """Steps so far."""
        self.density = 1.0
        """Share of weights that the masks let through, over all pruned matrices."""
        self._targets = list(targets)
        self._regrow, self._score, self._seed = regrow, score, seed
        self._hooks: list[Any] = []
        for target in self._targets:
            weight = getattr(target.module, target.name)
            _register(target.module, target.name, Mask(weight, scaler=scaler))
        for module in {id(target.module): target.module for target in self._targets}.values():
            if isinstance(module, nn.RNNBase):
                self._hooks += [module.register_forward_pre_hook(_flatten), module.register_forward_hook(_release)]
        try:
            self._update()
        except Exception:
            self._remove(masked=False)  # the model stays as it was
            raise

    @property
    def frozen(self) -> bool:
        """Whether every mask has reached its pattern and will not change."""
        return self.count >= self.schedule.end

    def step(self) -> None:
        """Count one step (an optimizer step or an epoch, in the schedule's unit) and choose the masks anew if it is time.

        One that a gradient scaler skips counts too, so that the schedule ends when it was to.
        """
        self.count += 1
        if self.schedule.due(self.count):
            self._update()

    def finish(self) -> None:
        """Bring every matrix to its exact pattern, bake the masks in, remove the parametrizations, and check the result.

        To train on afterwards, make a ``DistributedDataParallel`` anew that was made with the masks on: it misses them.
        """
        if not self._targets:
            return
        if not self.frozen:
            self.count = self.schedule.end
            self._update()
        self._remove(masked=True)
        for target in self._targets:
            target.pattern.check(_numbers(getattr(target.module, target.name)), target.gates, target.label)
        self._targets = []

    def state_dict(self) -> dict[str, Any]:
        """Numbers and texts with which :meth:`load_state_dict` goes on; weights and masks are in the model's own."""
        return {"count": self.count, "density": self.density, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another pruner of the same patterns and schedule stopped.

        Load the model's and the optimizer's state too, and make the optimizer on the same side of :func:`attach` as in the first
        run: it knows parameters by their order, which a parametrization changes.
        """
        for key in self.state_dict():
            if key not in state:
                raise SparseGateError(f"this is no state of a pruner: {key!r} is missing")
        for key, own in self._identity().items():
            if state[key] != own:
                raise SparseGateError(f"{key} of the pruner is {state[key]!r} in the checkpoint, but {own!r} here")
        self.count, self.density = int(state["count"]), float(state["density"])
        self._set_regrow()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on bit by bit."""
        return {
            "schedule": str(self.schedule),
            "patterns": {target.label: str(target.pattern) for target in self._targets},
            "regrow": self._regrow,
            "seed": self._seed,
        }

    def _update(self) -> None:
        kept_weights = weights = 0
        probability = self.schedule.probability(self.count)
        for number, target in enumerate(self._targets):
            score = target.weight if self._score is None else self._score(target.label, target.weight)
            if score.shape != target.weight.shape:
                expected = f"expected {tuple(target.weight.shape)}"
                raise SparseGateError(f"the score of {target.label} has shape {tuple(score.shape)}, {expected}")
            try:
                keep = target.pattern.mask(_numbers(score), target.gates, self.schedule.release(self.count))
            except SparseGateError as error:  # the training has diverged
                raise SparseGateError(f"{target.label}: {error}") from None
            if probability < 1:
                # a generator of this step and matrix alone, so that a resumed run draws what an uninterrupted one does
                keep |= np.random.default_rng((self._seed, self.count, number)).random(keep.shape) >= probability
            target.mask.mask.copy_(torch.from_numpy(keep))
            kept_weights, weights = kept_weights + int(np.count_nonzero(keep)), weights + keep.size
        if weights:
            self.density = kept_weights / weights
        self._set_regrow()

    def _remove(self, masked: bool) -> None:
        """Leave plain weights behind, ``masked`` or as they are below the masks."""
        for hook in self._hooks:
            hook.remove()
        for target in self._targets:
            if masked:  # in place, as PyTorch's own way would part the weight from its wrapper
                with torch.no_grad():
                    target.weight.copy_(getattr(target.module, target.name))
            parametrize.remove_parametrizations(target.module, target.name, leave_parametrized=False)
            if isinstance(target.module, nn.RNNBase):
                _flatten(target.module)

    def _set_regrow(self) -> None:
        """Masked weights train on only as long as they can return."""
        for target in self._targets:
            target.mask.regrow = None if self.frozen else self._regrow


def attach(
    model: nn.Module,
    patterns: Patterns,
    schedule: Schedule,
    projection: Pattern | str = "dense",
    *,
    regrow: bool = False,
    decay: float = 2e-4,
    score: Score | None = None,
    seed: int = 0,
    scaler: Scaler | None = None,
) -> Pruner:
    """Start pruning the weights of ``model``.

    Parameters
    ----------
    patterns : one pattern (``"2:16"``, ``"bbs:2:16"``, a ``Pattern``, or a pair for Wx and Wh) for every ``nn.LSTM``, ``nn.GRU``,
        ``nn.RNN`` and their cells, or a mapping from names to patterns. A name is that of a module (``lstm``), of one layer and
        direction of it (``lstm.l1``, ``lstm.l1_reverse``) or of a matrix (``lstm.weight_hh_l1``); the more exact one wins. No
        N:M block crosses a gate. An optimizer made before or after stays valid, and so does a wrapper (``nn.DataParallel``,
        ``DistributedDataParallel``).
    schedule : when, in calls of ``Pruner.step``.
    projection : pattern of the projections (``weight_hr``) of those modules that have ``proj_size``.
    regrow : masked weights get the gradient of what they would be without the mask, and so can return while the schedule
        runs; otherwise they get none, and return only where others become smaller. (What an optimizer does without a gradient, by
        momentum or weight decay, it does to them too.)
    decay : with ``regrow``, how much a masked weight adds of itself to its gradient (λ of SR-STE; its authors' value).
    score : what is compared instead of the weights' magnitudes.
    seed : of the random drops of ``schedule.Annealed``.
    scaler : with ``regrow``, the ``torch.amp.GradScaler`` of the loop, if it has one, so that the decay is scaled as the loss is.

    Examples
    --------
    >>> pruner = attach(model, {"lstm": ("4:16", "2:16")}, Cubic(begin=10, end=200))   # doctest: +SKIP
    >>> for x, y in loader:                                                            # doctest: +SKIP
    ...     train_one_batch(model, optimizer, x, y)
    ...     pruner.step()
    >>> pruner.finish()                                                                # doctest: +SKIP
    """
    if not decay >= 0:
        raise SparseGateError(f"the decay of masked weights is 0 or more, not {decay}")
    if seed < 0:
        raise SparseGateError(f"a seed is 0 or more, not {seed}")
    if scaler is not None and not hasattr(scaler, "get_scale"):
        raise SparseGateError(f"a scaler is a torch.amp.GradScaler or the like, not {scaler!r}")
    if not hasattr(schedule, "release"):
        raise SparseGateError(f"a schedule is a OneShot, Cubic, Annealed or the like, not {schedule!r}")
    modules = dict(model.named_modules())
    if not isinstance(patterns, Mapping):
        patterns = {name: patterns for name, module in modules.items() if isinstance(module, tuple(GATES))}
        if not patterns:
            raise SparseGateError(
                "the model has no recurrent module to prune; name the modules: attach(model, {'fc': '2:16'}, ...)"
            )
    parts: dict[str, dict[str, tuple[Pattern, Pattern]]] = {}  # module -> "", layer or matrix -> patterns
    for name, wanted in patterns.items():
        parent, part = _find(name, modules)
        parts.setdefault(parent, {})[part] = both(wanted)
    targets: list[_Target] = []
    pairs: dict[str, tuple[NM, NM]] = {}
    for name, found in parts.items():
        matrices = list(_matrices(name, modules[name], found, parse(projection)))
        pairs |= _pairs(name, modules[name], found, matrices)
        targets += [target for target in matrices if not target.pattern.dense]
    return Pruner(targets, schedule, pairs, decay if regrow else None, score, seed, scaler)


def _find(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """A module's name and, if the name is not that of a module, the layer or matrix of it."""
    parent, _, part = name.rpartition(".")
    if name in modules:
        return name, ""
    if parent in modules and part in {key for names in _names(modules[parent]) for key in names[:2]}:
        return parent, part
    raise SparseGateError(
        f"the model has no module {name!r}; it has {', '.join(filter(None, modules)) or 'no submodules'}"
    )


def _names(module: nn.Module) -> list[tuple[str, str, str]]:
    """Matrices of a module: its name, its layer and direction ("" of a cell), and whether it is "ih", "hh" or "hr"."""
    if isinstance(module, nn.Linear):
        return [("weight", "", "ih")]
    if not isinstance(module, tuple(GATES)):
        return []
    names = module._flat_weights_names if isinstance(module, nn.RNNBase) else ["weight_ih", "weight_hh"]
    found = [(name, MATRIX.fullmatch(name)) for name in names]
    return [(name, match[2] or "", match[1]) for name, match in found if match]


def _matrices(
    name: str, module: nn.Module, found: Mapping[str, tuple[Pattern, Pattern]], projection: Pattern
) -> Iterator[_Target]:
    """Every matrix of a module with its pattern, dense ones too."""
    gates = 1 if isinstance(module, nn.Linear) else next((GATES[kind] for kind in GATES if isinstance(module, kind)), 0)
    if not gates:
        raise SparseGateError(
            f"{name!r} is a {type(module).__name__}; nn.Linear, {', '.join(f'nn.{kind.__name__}' for kind in GATES)} "
            "can be pruned"
        )
    for matrix, layer, which in _names(module):
        label = f"{name}.{matrix}".removeprefix(".")
        if parametrize.is_parametrized(module, matrix):
            raise SparseGateError(f"{label} already has a parametrization; finish the first pruning before the next")
        x, h = found.get(matrix) or found.get(layer) or found.get("") or (DENSE, DENSE)
        if matrix in found and x != h:
            raise SparseGateError(f"{label} is one matrix and takes one pattern, not the pair {x} and {h}")
        pattern = h if which == "hh" or matrix in found else x
        if which == "hr":
            yield _Target(module, matrix, 1, pattern if matrix in found else projection, label)
        else:
            yield _Target(module, matrix, gates, pattern, label)


def _pairs(
    name: str, module: nn.Module, found: Mapping[str, tuple[Pattern, Pattern]], matrices: Sequence[_Target]
) -> dict[str, tuple[NM, NM]]:
    """What ``sparsegate.load`` has to know of a module: its patterns, or, if they differ, those of each of its layers."""
    name = name or type(module).__name__.lower()  # as importers call a model that is one module
    if set(found) == {""}:
        x, h = found[""]
        return {name: (_hardware(x), _hardware(h))}
    layers: dict[str, dict[str, NM]] = {}
    for target, (_, layer, which) in zip(matrices, _names(module), strict=True):
        layers.setdefault(layer, {})[which] = _hardware(target.pattern)
    pairs = {layer: (kept["ih"], kept.get("hh", DENSE)) for layer, kept in layers.items()}
    if len(set(pairs.values())) == 1:
        return {name: next(iter(pairs.values()))}
    stacked = getattr(module, "num_layers", 1) > 1
    return {f"{name}_{layer}" if stacked else name + layer.removeprefix("l0"): both for layer, both in pairs.items()}


def _hardware(pattern: Pattern) -> NM:
    return pattern if isinstance(pattern, NM) else DENSE


def _numbers(values: Tensor) -> np.ndarray:
    """A matrix for NumPy, in a precision that it knows."""
    values = values.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


def _register(module: nn.Module, name: str, mask: Mask) -> None:
    """Put a mask on a weight that stays the same to those who listen for its gradient, such as ``DistributedDataParallel``.

    PyTorch would set the weight to what ``right_inverse`` gives, here itself, and so make it a new one to autograd.
    """
    weight = getattr(module, name)
    weight.__dict__["set_"] = lambda _: weight
    try:
        parametrize.register_parametrization(module, name, mask)
    finally:
        del weight.__dict__["set_"]


def _flatten(module: Any, *_: Any) -> None:
    """Give a recurrent module the masked weights: its forward reads a list of tensors, not its attributes."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def move(model: nn.Module, device: torch.device) -> None:
    """Move a model, under pruning or not, to a device, if it is not there.

    A recurrent module that moves collects its weights anew, which puts the masked ones among them; they go back to the plain ones.
    """
    if all(value.device == device for value in (*model.parameters(), *model.buffers())):
        return
    model.to(device)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            _release(module)


def _release(module: Any, *_: Any) -> None:
    """Put the plain parameters back, so that the module can be copied and holds no graph between steps."""
    lists = getattr(module, "parametrizations", {})
    module._flat_weights = [
        lists[name].original if name in lists else getattr(module, name) for name in module._flat_weights_names
    ]


__all__ = ["Annealed", "Cubic", "Mask", "OneShot", "Patterns", "Pruner", "attach", "move"]
