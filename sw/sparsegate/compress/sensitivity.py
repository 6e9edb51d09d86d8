"""How much each matrix of a network minds being pruned: one matrix and one pattern at a time, everything else as it is.

The layer-by-layer scan that magnitude pruning has been steered with since Han et al. (2015), with the input and the recurrent
matrix of a layer apart, as they stand different densities (BRDS: Ghasemzadeh et al. 2021). Nothing is trained: the numbers say
which matrices to spare, not what fine-tuning reaches. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact, pattern
from sparsegate.cells import cell
from sparsegate.cells.matrices import KEYS, Key
from sparsegate.errors import SparseGateError
from sparsegate.network import Layer, Network, sequences
from sparsegate.pattern import DENSE, NM, Pattern
from sparsegate.quantize import compensate

FORMAT = "sparsegate-sensitivity"
VERSION = 1

Method = Literal["magnitude", "compensated"]
"""How a trial is pruned: by magnitude alone, or so that the kept weights make up for it (``rounding.prune_compensated``)."""

LARGEST = 1e30
"""Scores and errors are smaller: sums and differences of them stay finite."""

Score = Callable[[Network], float]
"""How good a network is; larger is better (an accuracy, or an error with its sign turned)."""
Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)`` before every measurement."""


@dataclass(frozen=True)
class Measurement:
    """One matrix pruned at once to one pattern: the network's score, and the relative error of its outputs (None without data)."""

    layer: str
    key: Key
    pattern: Pattern
    score: float
    error: float | None


@dataclass(frozen=True)
class Scan:
    """What :func:`scan` measured.

    ``network``: digest of the network; ``data``: that of the data for the output errors, or None; ``method`` of pruning; ``score``:
    of the network as it is. ``patterns`` are the candidates, ``matrices`` (layer, key) what they are tried on.
    """

    network: str
    data: str | None
    method: Method
    score: float
    patterns: tuple[Pattern, ...]
    matrices: tuple[tuple[str, Key], ...]
    measurements: tuple[Measurement, ...]

    @property
    def missing(self) -> int:
        """Measurements that an interrupted scan has not made."""
        wanted = {(*matrix, candidate) for matrix in self.matrices for candidate in self.patterns}
        return len(wanted - {(made.layer, made.key, made.pattern) for made in self.measurements})

    def find(self, layer: str, key: Key) -> dict[Pattern, Measurement]:
        """Measurements of one matrix, by pattern."""
        return {made.pattern: made for made in self.measurements if (made.layer, made.key) == (layer, key)}

    def check(self, network: Network) -> None:
        """Refuse a network that is not the one that was scanned."""
        if self.network != digest(network):
            raise SparseGateError(
                "the sensitivity scan is of another network; scan this one with 'sparsegate sensitivity'"
            )

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "network": self.network,
            "data": self.data,
            "method": self.method,
            "score": self.score,
            "patterns": [str(candidate) for candidate in self.patterns],
            "matrices": [{"layer": layer, "key": key} for layer, key in self.matrices],
            "measurements": [
                {
                    "layer": made.layer,
                    "key": made.key,
                    "pattern": str(made.pattern),
                    "score": made.score,
                    "error": made.error,
                }
                for made in self.measurements
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        artefact.write_json(path, self.as_json())

    @classmethod
    def load(cls, path: str | Path) -> Scan:
        """Read what :meth:`save` wrote."""
        values = artefact.read_record(path, FORMAT, VERSION, "sensitivity scan; 'sparsegate sensitivity' writes one")
        with artefact.reading(path):
            return cls(
                network=str(values["network"]),
                data=None if values["data"] is None else str(values["data"]),
                method=_one_of(values["method"], get_args(Method)),
                score=_finite(values["score"]),
                patterns=tuple(pattern.parse(str(text)) for text in values["patterns"]),
                matrices=tuple((str(at["layer"]), _one_of(at["key"], KEYS)) for at in values["matrices"]),
                measurements=tuple(
                    Measurement(
                        str(made["layer"]),
                        _one_of(made["key"], KEYS),
                        pattern.parse(str(made["pattern"])),
                        _finite(made["score"]),
                        None if made["error"] is None else _finite(made["error"]),
                    )
                    for made in values["measurements"]
                ),
            )


def scan(
    network: Network,
    score: Score,
    patterns: Sequence[Pattern | str],
    x: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    progress: Progress | None = None,
    *,
    method: Method = "magnitude",
    heads: bool = False,
    path: str | Path | None = None,
) -> Scan:
    """Prune each matrix alone to each pattern, at once, and measure.

    Parameters
    ----------
    score : of a network; larger is better. An accuracy of the float network, or of the golden model of its quantization.
    patterns : candidates; all but N:M are measured, but cannot be allocated, as the hardware does not run them.
    x, lengths : data (N, T, I), (N,) for the relative error of the network's outputs, ``|y' - y| / |y|`` over all real steps; it
        orders patterns that the score does not tell apart.
    method : "compensated" needs x, and comes closer to what fine-tuning will leave; projections are pruned by magnitude all the
        same.
    heads : layers without a state, too.
    path : a file that is written after every measurement, and from which an interrupted scan goes on. One of another network,
        data or score is refused.

    Raises
    ------
    SparseGateError
        If there is nothing to scan, if a score is not finite, or if ``path`` holds something else.
    """
    candidates = tuple(dict.fromkeys(pattern.parse(candidate) for candidate in patterns))
    matrices = tuple((layer.name, key) for layer, key in matrices_of(network, heads))
    if not candidates or not matrices:
        what = "pattern" if not candidates else "recurrent layer (heads are scanned on request)"
        raise SparseGateError(f"there is no {what} to scan")
    if method == "compensated" and x is None:
        raise SparseGateError("compensated pruning needs calibration data: x (N, T, I)")
    reference = given = None
    if x is not None:
        x, lengths = sequences(x, lengths, network.inputs)
        given = artefact.digest({"x": x, "lengths": lengths}, {})
        reference = network.evaluate(x, lengths).outputs
    found = Scan(digest(network), given, method, _measured(score, network, "the network"), candidates, matrices, ())
    if path is not None:
        found = _resumed(found, Path(path))
    made = {(one.layer, one.key, one.pattern): one for one in found.measurements}
    total = len(candidates) * len(matrices)
    for layer, key in matrices:
        for candidate in candidates:
            if (layer, key, candidate) in made:
                continue
            what = f"{layer} W{key} {candidate}"
            if progress is not None:
                progress(len(made), total, what)
            trial = _trial(network, layer, key, candidate, method, x, lengths)
            error = None
            if reference is not None:
                outputs = trial.evaluate(x, lengths).outputs  # type: ignore[arg-type]
                error = _norm(outputs - reference) / max(_norm(reference), np.finfo(float).tiny)
            made[layer, key, candidate] = Measurement(layer, key, candidate, _measured(score, trial, what), error)
            found = replace(found, measurements=tuple(made.values()))
            if path is not None:
                found.save(path)
    if path is not None:
        found.save(path)
    return found


def matrices_of(network: Network, heads: bool = False) -> Iterator[tuple[Layer, Key]]:
    """Matrices that a scan tries: those of recurrent layers, and with ``heads`` of the others."""
    for layer in network.layers:
        if heads or cell(layer.kind).recurrent:
            for key in KEYS:
                if getattr(layer, f"w_{key}") is not None:
                    yield layer, key


def pruned(network: Network, patterns: Mapping[tuple[str, Key], Pattern]) -> Network:
    """The network with some matrices, (layer, key), pruned at once by magnitude. The others stay as they are.

    A pattern that is not N:M leaves what the hardware takes as a dense matrix with zeros.
    """
    layers = []
    for layer in network.layers:
        changed: dict[str, Any] = {}
        for key in KEYS:
            chosen = patterns.get((layer.name, key))
            weights: NDArray | None = getattr(layer, f"w_{key}")
            if chosen is None or weights is None:
                continue
            kept = chosen.mask(weights, 1 if key == "p" else layer.gates)
            changed[f"w_{key}"] = np.where(kept, weights, 0.0)
            changed[f"pattern_{key}"] = chosen if isinstance(chosen, NM) else DENSE
        layers.append(replace(layer, **changed))
    return network.with_layers(layers)


def _trial(
    network: Network,
    name: str,
    key: Key,
    candidate: Pattern,
    method: Method,
    x: ArrayLike | None,
    lengths: ArrayLike | None,
) -> Network:
    if method == "magnitude" or key == "p" or x is None:
        return pruned(network, {(name, key): candidate})
    layer = next(layer for layer in network.layers if layer.name == name)
    wanted = (candidate, layer.pattern_h) if key == "x" else (layer.pattern_x, candidate)
    return compensate.prune_compensated(network, {name: wanted}, x, lengths)


def digest(network: Network) -> str:
    """SHA-256 (hex) of all that a network computes with: weights, kinds, patterns and connections."""
    tensors: dict[str, NDArray] = {}
    for number, layer in enumerate(network.layers):
        parts = {key: getattr(layer, key) for key in ("w_x", "w_h", "w_p", "bias", "bias_h")}
        parts |= {f"parameter.{key}": value for key, value in layer.parameters.items()}
        parts |= {f"initial.{key}": value for key, value in network.initial.get(layer.name, {}).items()}
        tensors |= {f"{number}.{key}": value for key, value in parts.items() if value is not None}
    header = [
        [layer.name, layer.kind, layer.when, layer.reverse, *(str(getattr(layer, f"pattern_{key}")) for key in KEYS)]
        for layer in network.layers
    ]
    return artefact.digest(tensors, {"layers": header, "sources": network.sources, "output": network.output_vectors})


def _resumed(fresh: Scan, path: Path) -> Scan:
    """The scan with what an earlier run left in ``path``."""
    if not path.exists():
        return fresh
    before = Scan.load(path)
    for what, own, found in (
        ("network", fresh.network, before.network),
        ("calibration data", fresh.data, before.data),
        ("method", fresh.method, before.method),
        ("score", f"{fresh.score:g}", f"{before.score:g}"),
    ):
        if own != found:
            short = f"{str(found)[:12]} there, {str(own)[:12]} here"
            raise SparseGateError(
                f"{path} holds a scan with another {what} ({short}); remove it or write to another file"
            )
    wanted = set(fresh.patterns), set(fresh.matrices)
    kept = (made for made in before.measurements if made.pattern in wanted[0] and (made.layer, made.key) in wanted[1])
    return replace(fresh, measurements=tuple(kept))


def _measured(score: Score, network: Network, what: str) -> float:
    value = float(score(network))
    if not abs(value) < LARGEST:
        raise SparseGateError(f"the score of {what} is {value}, expected a finite number below {LARGEST:g}")
    return value


def _finite(value: Any) -> float:
    """A number of a file; JSON as Python reads it has NaN and infinities, too."""
    number = float(value)
    if not abs(number) < LARGEST:
        raise ValueError(f"{number} where a finite number below {LARGEST:g} is expected")
    return number


def _norm(values: NDArray) -> float:
    return float(np.sqrt(np.square(values).sum()))


def _one_of(text: Any, known: tuple[Any, ...]) -> Any:
    if text not in known:
        raise ValueError(f"{text!r} is none of {', '.join(known)}")
    return text
