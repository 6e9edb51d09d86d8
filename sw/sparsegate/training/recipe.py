"""How long and how fast a training runs."""

from __future__ import annotations

from dataclasses import dataclass

from sparsegate.errors import SparseGateError


@dataclass(frozen=True)
class Recipe:
    """How one stage trains: AdamW, one cycle of the learning rate (Smith & Topin 2018), gradients clipped to norm 1.

    ``noise``: deviation of the Gaussian noise on the inputs, in units of theirs. ``bucket``: so many batches at a time are sorted
    by length, which spares steps of padding. Batches of an epoch are of equal size, ``batch`` or the nearest to it.
    """

    epochs: int
    rate: float
    batch: int = 32
    noise: float = 0.5
    decay: float = 0.0
    bucket: int = 1

    def __post_init__(self) -> None:
        for what, count in (
            ("epochs", self.epochs),
            ("sequences a batch", self.batch),
            ("batches a bucket", self.bucket),
        ):
            if not isinstance(count, int) or count < 1:
                raise SparseGateError(f"training needs a whole number of {what}, 1 or more, not {count}")
        if not (self.rate > 0 and self.noise >= 0 and self.decay >= 0):
            raise SparseGateError(
                f"rate {self.rate} must be positive, noise {self.noise} and decay {self.decay} not negative"
            )


FLOAT = Recipe(epochs=60, rate=5e-3)
PRUNE = Recipe(epochs=120, rate=5e-3)
QUANTIZE = Recipe(epochs=8, rate=1e-3)
