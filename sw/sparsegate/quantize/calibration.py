"""Calibration: what values a network's formats must hold, and how many fractional bits suit them. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.network import Layer, Network, sequences
from sparsegate.numerics.fixed import QFormat, frac_for

Method = Literal["min-max", "percentile", "mse"]
METHODS: tuple[str, ...] = get_args(Method)

BINS = 1 << 12
"""Bins of a histogram over both signs; the coarsest step that they must tell apart is that of 8 bits, which has 16 of them."""
COARSER, FINER = 2, 8
"""How many fractional bits fewer and more than the largest value allows are tried for the smallest squared error."""


@dataclass(frozen=True)
class Levels(QFormat):
    """A Q format of which only the raw integers -limit..limit are used: ``2 * limit + 1`` levels around zero.

    In a Program it is a plain :class:`QFormat` of the same width and fraction, whose integers happen to stay within the limit.
    """

    limit: int = 1

    @property
    def max(self) -> int:
        return self.limit

    @property
    def min(self) -> int:
        return -self.limit

    @property
    def plain(self) -> QFormat:
        """The format that a Program has for it."""
        return QFormat(self.width, self.frac)


class Histogram:
    """How often values were seen, in :data:`BINS` equal bins from ``-2**exponent`` to ``2**exponent``.

    The range doubles whenever a larger magnitude comes, neighbouring bins being merged: memory is bounded, and the counts do not
    depend on the order in which values come. ``largest`` is the exact largest magnitude.
    """

    def __init__(self, values: ArrayLike = ()) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = -1000  # of no values, or of zeros alone
        self.largest = 0.0
        self.add(values)

    def add(self, values: ArrayLike) -> None:
        """Count values (any shape)."""
        values = np.asarray(values, np.float64).reshape(-1)
        if not values.size:
            return
        largest = float(np.abs(values).max())
        self._reach(int(np.frexp(largest)[1]) if largest else self.exponent)
        self.largest = max(self.largest, largest)
        place = np.floor(np.ldexp(values, BINS.bit_length() - 2 - self.exponent)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(place, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has seen, too."""
        whole = Histogram()
        whole.counts, whole.exponent = other.counts.copy(), other.exponent
        self._reach(other.exponent)
        whole._reach(self.exponent)
        self.counts += whole.counts
        self.largest = max(self.largest, other.largest)

    def _reach(self, exponent: int) -> None:
        """Widen the range to ``2**exponent``."""
        if exponent <= self.exponent:
            return
        half = BINS // 2
        group = 1 << min(exponent - self.exponent, half.bit_length() - 1)  # bins that become one
        below, above = self.counts.reshape(2, half // group, group).sum(axis=2)
        self.counts = np.zeros_like(self.counts)
        self.counts[half - len(below) : half], self.counts[half : half + len(above)] = below, above
        self.exponent = exponent

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        same = (self.exponent, self.largest) == (other.exponent, other.largest)
        return same and bool((self.counts == other.counts).all())

    __hash__ = None  # type: ignore[assignment]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Borders of the bins, (BINS + 1,)."""
        return np.ldexp(np.arange(-BINS // 2, BINS // 2 + 1, dtype=np.float64), self.exponent - BINS.bit_length() + 2)

    def percentile(self, share: float) -> float:
        """The magnitude that so many per cent of the values do not exceed, to the upper border of its bin."""
        half = BINS // 2
        of_magnitude = self.counts[half:] + self.counts[:half][::-1]
        reached = np.cumsum(of_magnitude) >= of_magnitude.sum() * (share / 100)
        return min(self.largest, float(self.edges[half + 1 + int(np.argmax(reached))]))

    def error(self, form: QFormat) -> float:
        """Sum of squared errors when all values are narrowed to a format, rounding and saturation both.

        Within a bin values are taken to be spread evenly, for which the integrals are exact: the step of a format and the width of
        a bin are both powers of two.
        """
        edges, width = self.edges, float(self.edges[1] - self.edges[0])
        centre = (edges[1:] + edges[:-1]) / 2
        raw = np.floor(np.ldexp(centre, form.frac) + 0.5)
        held = np.clip(raw, form.min, form.max)
        one = np.square(centre - np.ldexp(held, -form.frac)) + width**2 / 12  # all of a bin goes to one value
        if form.lsb <= width:
            one = np.where(raw == held, form.lsb**2 / 12, one)
        return float(self.counts @ one)

    def frac(self, form: QFormat, method: Method, share: float) -> int:
        """Fractional bits that a format of this width (and these levels) should have; ``share`` is the percentile."""
        if method == "percentile":
            return frac_for(self.percentile(share), form.width)
        start = frac_for(self.largest, form.width)
        if method == "min-max" or not self.largest:
            return start
        tried = range(start - COARSER, start + FINER + 1)
        return min(tried, key=lambda frac: (self.error(replace(form, frac=frac)), abs(frac - start)))


@dataclass(frozen=True)
class Calibration:
    """Values that a network met on calibration data, by (layer, format): ("input", "x"), ("lstm", "c"), ("lstm", "h") ...

    Weights are there too, as ("lstm", "wx") and so on: those that are not 0, as pruned ones are in no format's way.
    """

    seen: dict[tuple[str, str], Histogram]

    @property
    def input(self) -> float:
        """Largest magnitude of the input."""
        return self.seen["input", "x"].largest

    @property
    def ranges(self) -> dict[tuple[str, str], float]:
        """Largest magnitudes."""
        return {key: histogram.largest for key, histogram in self.seen.items()}

    @property
    def histograms(self) -> dict[tuple[str, str], tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Borders (bins + 1,) and counts (bins,) of the bins."""
        return {key: (histogram.edges, histogram.counts) for key, histogram in self.seen.items()}

    def of(self, keys: Iterable[tuple[str, str]]) -> Histogram:
        """One histogram of all that was seen under some keys."""
        whole = Histogram()
        for key in keys:
            if key in self.seen:
                whole.merge(self.seen[key])
        return whole


def calibrate(network: Network, x: ArrayLike, lengths: ArrayLike | None = None) -> Calibration:
    """Run the float network over data (N, T, I) and count the values of every format."""
    x, lengths = sequences(x, lengths, network.inputs)
    valid = np.arange(x.shape[1])[None, :] < lengths[:, None]
    seen = {("input", "x"): Histogram(x[valid])}

    def observe(layer: str, target: str, site: str, value: NDArray) -> None:
        seen.setdefault((layer, target), Histogram()).add(value)

    network.evaluate(x, lengths, observe=observe)
    for layer in network.layers:
        for key, values in weights_of(layer).items():
            seen[layer.name, key] = of_weights(values)
    return Calibration(seen)


def weights_of(layer: Layer) -> dict[str, NDArray[np.float64]]:
    """A layer's weights by their format: "wx", "wh", "wp" and "parameter" where there are any."""
    found = {"wx": layer.w_x, "wh": layer.w_h, "wp": layer.w_p}
    if layer.parameters:
        found["parameter"] = np.concatenate(list(layer.parameters.values()))
    return {key: values for key, values in found.items() if values is not None}


def of_weights(values: NDArray[np.float64]) -> Histogram:
    """The weights that are not 0."""
    return Histogram(values[values != 0])
