"""Fixed-point fake-quantization in torch: a forward that gives exactly the golden model's integers, with gradients.

It walks layers, columns and thresholds by code of its own, independent of golden model and RTL on purpose: they check one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sparsegate import quantize
from sparsegate.cells import PROJECTION, Cell, PhaseSpec, cell, phases_of
from sparsegate.cells.matrices import KEYS, WEIGHT_FORMATS
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, State, lengths_of
from sparsegate.network.passes import When
from sparsegate.numerics.fixed import QFormat
from sparsegate.program import EXACT, Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training.torch_arithmetic import Lookup, Narrow, TorchArithmetic, joined_tables, narrow, narrow_weight


class _Reader:
    """Arithmetic that computes nothing, but notes through which tables gates go as they are."""

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}

    def gate(self, name: str) -> str:
        return name

    def nothing(self, *_: Any) -> None:
        return None

    state = parameter = mul = add = sub = one = relu = nothing

    def narrow(self, value: str | None, target: str, site: str, symmetric: bool = False) -> str | None:
        return value if target == "pre" else None

    def lookup(self, function: str, value: str | None) -> None:
        if value is not None:
            self.functions[value] = function


def _together(spec: PhaseSpec) -> tuple[str, ...]:
    """Tables of a phase's first gates, as far as they go through them as they are: those can be looked up at once."""
    reader = _Reader()
    spec.step(reader)
    found: list[str] = []
    for name in spec.gates:
        if name not in reader.functions:
            break
        found.append(reader.functions[name])
    return tuple(found)


class FakeQuantLayer(nn.Module):
    """One layer with float weights, run with the integers that they round to.

    Weights outside of the layer's N:M patterns, and with ``hold_zeros`` all that are 0 in ``pruned``, are held at 0: ``mask_x``,
    ``mask_h`` and ``mask_p`` keep the nonzeros of that layer.
    """

    def __init__(
        self,
        layer: Layer,
        formats: Mapping[str, QFormat],
        step_bits: int,
        hold_zeros: bool = False,
        pruned: Layer | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.formats, self.step_bits = layer, dict(formats), step_bits
        for key in KEYS:
            weight = getattr(layer, f"w_{key}")
            if weight is not None:
                setattr(self, f"w_{key}", nn.Parameter(torch.from_numpy(weight.copy())))
                dense = not hold_zeros and getattr(layer, f"pattern_{key}").dense
                self.register_buffer(f"mask_{key}", _mask(getattr(pruned or layer, f"w_{key}"), dense))
        self.bias = nn.Parameter(torch.from_numpy(layer.bias.copy()))
        if layer.bias_h is not None:
            self.bias_h = nn.Parameter(torch.from_numpy(layer.bias_h.copy()))
        self.constants = nn.ParameterDict(
            {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in layer.parameters.items()}
        )

    @property
    def cell(self) -> Cell:
        return cell(self.layer.kind)

    @property
    def specs(self) -> tuple[PhaseSpec, ...]:
        """The phases of a step."""
        return phases_of(self.cell, self.layer.w_p is not None)

    def masked(self) -> dict[str, Tensor]:
        """The matrices that the layer has, by "x", "h" and "p", each with its mask."""
        return {
            key: getattr(self, f"w_{key}") * getattr(self, f"mask_{key}") for key in KEYS if hasattr(self, f"w_{key}")
        }

    def forward(self, seen: Tensor, thresholds: Sequence[int], start: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x^ of the source (N, T, I) -> outputs h and h^ (N, T, outputs), at every step.

        ``thresholds``: Θ of what each phase gives; ``start``: the raw state's real values, for a recurrent layer.
        """
        if not self.cell.recurrent and seen.shape[1] > 1:  # steps that do not depend on each other, at once
            flat, _ = self(seen.reshape(-1, 1, seen.shape[2]), thresholds, start)
            out = flat.reshape(*seen.shape[:2], -1)
            return out, _held(out, [thresholds[-1] * self.formats["h"].lsb], [out.shape[2]])
        weights = {
            key: narrow_weight(weight, self.formats[WEIGHT_FORMATS[key]]) for key, weight in self.masked().items()
        }
        constants = {name: narrow_weight(value, self.formats["parameter"]) for name, value in self.constants.items()}
        bias_h = None if self.layer.bias_h is None else self._exact(self.bias_h).split(self.layer.units)
        walks = [self._walk(spec, seen, weights) for spec in self.specs]
        tables = [self._at_once(spec) for spec in self.specs]
        forms = [{**self.formats, "acc": self.formats[spec.acc], "h": self.formats[spec.output]} for spec in self.specs]
        hats: dict[str, Tensor] = {}
        if self.cell.recurrent:
            hats["h"] = _hold(torch.zeros_like(start["h"]), start["h"], thresholds[-1] * self.formats["h"].lsb)
        for spec in self.specs[:-1]:
            hats[spec.output] = seen.new_zeros(len(seen), self.layer.units)
        states = {name: start[name] for name in self.cell.states}
        outputs, sent = [], []
        for t in range(seen.shape[1]):
            handed = dict(states)
            for spec, form, (pre, weight), table, theta in zip(
                self.specs, forms, walks, tables, thresholds, strict=True
            ):
                column = None if weight is None else hats[spec.columns[-1]]
                acc, gates = self._sums(spec, None if pre is None else pre[t], column, weight, bias_h)
                looked = {} if table is None else table(acc, gates)
                step = spec.step(TorchArithmetic(form, self.step_bits, gates, handed, constants, looked))
                hat = hats.get(spec.output)
                hats[spec.output] = _hold(
                    torch.zeros_like(step.h) if hat is None else hat, step.h, theta * form["h"].lsb
                )
                handed |= step.states
            states = {name: handed[name] for name in self.cell.states}
            outputs.append(step.h)
            sent.append(hats["h"])
        whole = torch.stack(outputs, 1)
        return whole, whole if thresholds[-1] == 0 else torch.stack(sent, 1)

    def _exact(self, bias: Tensor) -> Tensor:
        """A bias as the Program holds it: the accumulator is as wide as it needs, so it is rounded and never saturates."""
        return Narrow.apply(bias, self.formats["acc"].frac, -torch.inf, torch.inf)

    def _walk(
        self, spec: PhaseSpec, seen: Tensor, weights: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
        """What the input gives to a phase's sums at each step, with biases (N, sums), and the matrix (columns, sums) of its other
        vector."""
        if spec is PROJECTION:
            return None, weights["p"].T
        units, gates = self.layer.units, self.cell.gates

        def rows(values: Tensor) -> Tensor:
            if spec.gates == gates:
                return values
            parts = dict(zip(gates, values.split(units), strict=True))
            return torch.cat([parts[name] for name in spec.gates])

        pre = seen @ rows(weights["x"]).T + rows(self._exact(self.bias))
        # unbound, as the gradient of a single step's slice would be as large as all of them
        return pre.unbind(1), rows(weights["h"]).T if len(spec.columns) > 1 else None

    def _sums(
        self,
        spec: PhaseSpec,
        pre: Tensor | None,
        column: Tensor | None,
        weight: Tensor | None,
        bias_h: Sequence[Tensor] | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What a phase's products add up to, (N, gates * units), and its accumulators by name, (N, units) each."""
        size = self.layer.outputs if spec is PROJECTION else self.layer.units
        if pre is None or column is None or weight is None or not spec.apart:
            if pre is None or column is None or weight is None:
                acc = pre if column is None or weight is None else column @ weight
            else:
                acc = torch.addmm(pre, column, weight)
            assert acc is not None
            return acc, dict(zip(spec.gates, acc.split(size, dim=1), strict=True))
        assert bias_h is not None
        inner = dict(zip(self.cell.apart, bias_h, strict=True))
        sums = {}
        product = column @ weight
        for name, mine, other in zip(spec.gates, pre.split(size, 1), product.split(size, 1), strict=True):
            sums[name] = mine if name in inner else mine + other
            if name in inner:
                sums[f"{name}_h"] = other + inner[name]
        return product, sums

    def _at_once(self, spec: PhaseSpec) -> Callable[[Tensor, Mapping[str, Tensor]], dict[int, Tensor]] | None:
        """A function that looks the first gates of a phase's sums (N, sums) up in one go, where there are several."""
        functions, units = _together(spec), self.layer.units
        if len(functions) < 2 or spec.apart:
            return None
        source = self.formats["pre"]
        values, slopes = joined_tables(functions, source, self.formats["gate"], self.step_bits)
        start = torch.arange(len(functions), dtype=torch.float64) * (2 * source.max + 3) + source.max + 1
        offset = torch.repeat_interleave(start, units)

        def look(acc: Tensor, gates: Mapping[str, Tensor]) -> dict[int, Tensor]:
            part = acc if acc.shape[1] == len(offset) else acc[:, : len(offset)]
            found = Lookup.apply(part, values, slopes, offset, source.frac, source.max)
            parts = found.split(units, dim=1)
            return {id(gates[name]): part for name, part in zip(spec.gates[: len(parts)], parts, strict=True)}

        return look

    def float_layer(self) -> Layer:
        """The layer with its present float weights."""
        fields: dict[str, Any] = {f"w_{key}": _numpy(weight) for key, weight in self.masked().items()}
        if self.layer.bias_h is not None:
            fields["bias_h"] = _numpy(self.bias_h)
        parameters = {name: _numpy(value) for name, value in self.constants.items()}
        return replace(self.layer, bias=_numpy(self.bias), parameters=parameters, **fields)


def _mask(weight: NDArray, dense: bool) -> Tensor:
    return torch.from_numpy(np.ones_like(weight) if dense else (weight != 0).astype(np.float64))


def _numpy(value: Tensor) -> NDArray[np.float64]:
    return value.detach().numpy().copy()


def _hold(hat: Tensor, value: Tensor, threshold: float | Tensor) -> Tensor:
    """The value last sent: a new one where it moved by more than the threshold."""
    if isinstance(threshold, float | int) and threshold == 0:
        return value
    return torch.where((value - hat).abs() > threshold, value, hat)


def _flipped(values: Tensor, lengths: Tensor) -> Tensor:
    """Sequences (N, T, size) backwards in time, each within its own length."""
    steps = torch.arange(values.shape[1])[None, :]
    order = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return values.take_along_dim(order[:, :, None], 1)


def _single(values: Tensor, lengths: Tensor, reverse: bool, when: When) -> Tensor:
    """The one step (N, 1, size) that a vector gives to a layer that runs on the last or final step."""
    at = torch.zeros_like(lengths) if when == "final" and reverse else lengths - 1
    return values[torch.arange(len(lengths)), at][:, None]


class FakeQuant(nn.Module):
    """A whole network with the formats of its quantization: quantization-aware training, and inference on exact integers.

    Its forward equals the golden model of :meth:`program` raw by raw, times the output's lsb.

    Parameters
    ----------
    network : float weights to start from.
    formats : as :func:`sparsegate.quantize.choose_formats` gives them.
    config : bit widths, and the threshold of every vector.
    hold_zeros : weights that are 0 at the start stay 0: for networks pruned to patterns that the hardware does not know, whose
        matrices are dense to it. Those of N:M patterns always do.
    pruned : the network whose zeros these are, if not ``network``: where weights were compensated, some of those that pruning kept
        were rounded to 0, and are free to change.
    """

    def __init__(
        self,
        network: Network,
        formats: Sequence[dict[str, QFormat]],
        config: QuantizeConfig,
        hold_zeros: bool = False,
        pruned: Network | None = None,
    ) -> None:
        super().__init__()
        self.start, self.config = network, config
        self.chosen = [dict(form) for form in formats]
        self.made = quantize.build(network, self.chosen, config)
        """The Program as it was before any training: its formats and initial state are those of the module."""
        self.thresholds = self.made.thresholds
        """Θ of each of ``made.vectors``; may be set."""
        for layer in self.made.layers:
            if layer.peak >= EXACT:
                raise SparseGateError(
                    f"layer {layer.name!r}: an intermediate of the cell may reach {layer.peak}, beyond 2**53, up to which"
                    " fake-quantization is exact; quantize with fewer bits or without fine-tuning"
                )
        self.layers = nn.ModuleList(
            # the formats of the weights as they were chosen: of some only a few levels are used
            FakeQuantLayer(layer, {**made.formats, **form}, made.step_bits, hold_zeros, kept)
            for layer, made, form, kept in zip(
                network.layers, self.made.layers, self.chosen, (pruned or network).layers, strict=True
            )
        )

    def forward(self, x: Tensor, lengths: ArrayLike | None = None, state: State | None = None) -> Tensor:
        """Real inputs (N, T, I) -> real outputs (N, T, outputs); meaningless past a sequence's end.

        Layers that run backwards, or on the last step, need ``lengths`` (N,) where the sequences' differ; forward ones
        are causal, so that padding changes nothing before it. ``state`` is as in :meth:`Network.evaluate`.
        """
        outputs = self.trace(x, lengths, state)
        return torch.cat([outputs[vector - 1] for vector in self.made.output_vectors], 2)

    def trace(self, x: Tensor, lengths: ArrayLike | None = None, state: State | None = None) -> list[Tensor]:
        """Outputs of every layer, each (N, T, outputs), real values in order of time; on the CPU."""
        if x.device.type != "cpu":
            raise SparseGateError(f"exact integers run on the CPU, and the inputs are on {x.device}")
        made = self.made.with_thresholds(*self.thresholds)
        ends = torch.from_numpy(lengths_of(tuple(x.shape), lengths, made.inputs))
        raw = made.states(None if state is None else made.quantize_state(state, len(x)), len(x))
        now = narrow(x.double(), made.input_format)
        values = [now]
        thetas = [made.input_threshold, *(layer.thresholds[-1] for layer in made.layers)]
        for this in made.passes:
            parts, steps = [values[vector] for vector in this.sources], ends
            if this.when != "step":
                backwards = [vector > 0 and made.layers[vector - 1].reverse for vector in this.sources]
                parts = [_single(part, ends, back, this.when) for part, back in zip(parts, backwards, strict=True)]
                steps = torch.ones_like(ends)
            source = torch.cat(parts, 2)
            if this.reverse:
                source = _flipped(source, steps)
            lsb = made.layers[this.layers.start].formats["x"].lsb
            seen = _held(source, [thetas[vector] * lsb for vector in this.sources], [part.shape[2] for part in parts])
            for number in this.layers:
                layer = made.layers[number]
                # a head behind another one sees a single step already
                if layer.when != "step" and this.when == "step" and seen.shape[1] == x.shape[1]:
                    seen = _single(seen, ends, False, "last")
                start = {
                    name: torch.from_numpy(layer.formats[name].real(value))
                    for name, value in raw.get(layer.name, {}).items()
                }
                out, seen = self.layers[number](seen, layer.thresholds, start)
                if layer.when != "step":
                    rows = torch.arange(len(x)), ends - 1
                    out = out.new_zeros(*x.shape[:2], layer.outputs).index_put(rows, out[:, 0])
                values.append(_flipped(out, steps) if this.reverse else out)
        return values[1:]

    def network(self) -> Network:
        """The network with its present float weights; they obey the same patterns."""
        return self.start.with_layers([layer.float_layer() for layer in self.layers])  # type: ignore[operator]

    def program(self, meta: dict[str, Any] | None = None) -> Program:
        """The Program whose golden model gives this module's numbers."""
        return quantize.build(self.network(), self.chosen, self.config, meta).with_thresholds(*self.thresholds)


def _held(source: Tensor, thresholds: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """x^ of a source (N, T, I) at every step; a threshold for each of the vectors that it is made of."""
    if not any(thresholds):
        return source
    limit = torch.repeat_interleave(torch.tensor(thresholds, dtype=source.dtype), torch.tensor(sizes))
    hat, hats = torch.zeros_like(source[:, 0]), []
    for value in source.unbind(1):
        hat = _hold(hat, value, limit)
        hats.append(hat)
    return torch.stack(hats, 1)
