"""When masks tighten and how far: schedules of pruning, in steps of the user's choice (optimizer steps or epochs).

A schedule says at which steps masks are chosen anew (``due``), the share of the weights outside of the pattern that stays
(``release``), the probability with which one of them is dropped (``probability``), and from which step on masks are frozen
(``end``).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from sparsegate.errors import SparseGateError


class Schedule(Protocol):
    """What ``prune.attach`` asks of a schedule."""

    @property
    def end(self) -> int:
        """The step from which on every mask is exactly its pattern's, and does not change."""

    def due(self, step: int) -> bool:
        """Whether masks are chosen anew at ``step``."""

    def release(self, step: int) -> Fraction:
        """Share, in 0..1, of the weights outside of the pattern that the mask keeps nevertheless."""

    def probability(self, step: int) -> float:
        """Probability that a weight outside of the mask is really dropped."""


def _whole(schedule: Any, *names: str) -> None:
    """Refuse steps that are no integers: masks are asked for at whole steps, and would never reach an end between two."""
    for name in names:
        try:
            object.__setattr__(schedule, name, operator.index(getattr(schedule, name)))
        except TypeError:
            raise SparseGateError(
                f"{name} of a schedule is a whole number of steps, not {getattr(schedule, name)!r}"
            ) from None


@dataclass(frozen=True)
class OneShot:
    """The whole pattern at step ``at``, and nothing before: train, prune, train on (Han et al., NeurIPS 2015, section 3).

    Up to step ``until`` masks are chosen anew at every step, as in SR-STE's training of N:M networks from scratch (Zhou et al.,
    ICLR 2021); where omitted they are frozen at once.
    """

    at: int = 0
    until: int | None = None

    def __post_init__(self) -> None:
        _whole(self, "at", *(() if self.until is None else ("until",)))
        if self.at < 0:
            raise SparseGateError(f"a schedule prunes at step 0 or later, not at {self.at}")
        if self.end < self.at:
            raise SparseGateError(f"masks that are chosen at step {self.at} cannot be frozen at {self.end}")

    @property
    def end(self) -> int:
        return self.at if self.until is None else self.until

    def due(self, step: int) -> bool:
        return self.at <= step <= self.end

    def release(self, step: int) -> Fraction:
        return Fraction(step < self.at)

    def probability(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _Ramp:
    """From step ``begin`` to step ``end``, with new masks every ``every`` steps and at ``end``."""

    begin: int
    end: int
    every: int = 1

    def __post_init__(self) -> None:
        _whole(self, "begin", "end", "every")
        if not 0 <= self.begin <= self.end:
            raise SparseGateError(f"a schedule needs 0 <= begin <= end, not {self.begin} and {self.end}")
        if self.every < 1:
            raise SparseGateError(f"a schedule updates every 1 or more steps, not every {self.every}")

    def due(self, step: int) -> bool:
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def _left(self, step: int) -> Fraction:
        """Share of the way that is still to go."""
        if step >= self.end:
            return Fraction(0)
        if step <= self.begin:
            return Fraction(1)
        return Fraction(self.end - step, self.end - self.begin)


@dataclass(frozen=True)
class Cubic(_Ramp):
    """Gradual pruning (Zhu & Gupta 2017, equation 1): quick while weights are plentiful, slow as they become scarce.

    From step ``begin`` to step ``end`` the sparsity follows ``s_f - s_f (1 - (t - begin) / (end - begin))**3``: the share
    ``(1 - (t - begin) / (end - begin))**3`` of what is to go in the end is still there, rounded towards more weights.
    """

    def release(self, step: int) -> Fraction:
        return self._left(step) ** 3

    def probability(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Annealed(_Ramp):
    """Targeted dropout that grows certain (CBTD of Spartus: Gao et al., TNNLS 2022, α of algorithm 1; after Gomez et al. 2019).

    The weights outside of the pattern are dropped at random, each with the same probability, which rises in a line from 0 at
    ``begin`` to 1 at ``end``. Which weights these are, and which of them fall, is drawn anew whenever masks are due. The code of
    Spartus' authors draws once an epoch and sets what falls to zero; here it is masked, and keeps its value for the next draw.
    """

    def release(self, step: int) -> Fraction:
        return Fraction(0)

    def probability(self, step: int) -> float:
        return float(1 - self._left(step))
