"""Choose N:M for every matrix so that a network meets a budget and loses the least, by a sensitivity scan.

What an allocation loses is the sum of what its matrices lost one by one in the scan; that they do not mind one another is an
assumption, which fine-tuning makes a mild one. What it costs is counted (``sparsegate.compress.costs``). Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparsegate.array import HardwareConfig, default_rows
from sparsegate.compress.budget import MHZ, NAMES, Allocation, Budget, Kind
from sparsegate.compress.costs import UNIT, Choice, Costs, choices_of
from sparsegate.compress.sensitivity import Scan
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.quantize import QuantizeConfig


def allocate(
    network: Network,
    scan: Scan,
    budget: Budget,
    hardware: HardwareConfig | None = None,
    mhz: float = MHZ,
    config: QuantizeConfig | None = None,
) -> Allocation:
    """The patterns that lose the least within a budget.

    Every matrix keeps its pattern or takes one of the scan's N:M candidates; blocks of a layer's Wx and Wh are as long as the least
    common multiple of their M, and the finer one, or a dense one, is stored at that length. Of all combinations this finds one with
    the smallest sum of losses of score (what a pruned matrix wins counts as nothing lost), among these the smallest sum of output
    errors, and then the lowest cost: exactly, by dynamic programming over the layers, as a layer's cost depends on its own
    patterns and on how long the blocks are of the layer before.

    Parameters
    ----------
    scan : a complete scan of this very network.
    hardware, mhz, config : the array, its clock, and the bit widths, for cycles and memories. The widths of accumulators, and with
        them those of the bias memories, are those of a quantization on drawn data; no cycle depends on them.

    Raises
    ------
    SparseGateError
        If the scan is incomplete or of another network, if the array cannot run the network, or if the budget cannot be met.
    """
    scan.check(network)
    if scan.missing:
        raise SparseGateError(
            f"the sensitivity scan is not complete: {scan.missing} of {len(scan.matrices) * len(scan.patterns)} measurements are "
            "missing; run it again to go on"
        )
    if not (math.isfinite(mhz) and mhz > 0):
        raise SparseGateError(f"a clock of {mhz:g} MHz found, expected a positive number")
    hardware = hardware or HardwareConfig(rows=default_rows(network), states=bool(network.initial))
    choices = [list(choices_of(layer, scan)) for layer in network.layers]
    costs = Costs(network, choices, hardware, config or QuantizeConfig())
    # in whole cycles; a limit that is one but for its rounding is that one
    limit = budget.limit * mhz if budget.kind == "us" else budget.limit
    if budget.kind == "us" and math.isfinite(limit):
        limit = math.floor(limit + 1e-6)
    best, least = solve(costs, choices, budget.kind, limit)
    if best is None:
        smallest = f"{math.ceil(1e4 * least / mhz) / 1e4:g}" if budget.kind == "us" else f"{least}"
        raise SparseGateError(
            f"{budget.limit:g} {NAMES[budget.kind]} cannot be met: {smallest} is the least that the scan's patterns reach on "
            "this array"
        )
    nonzeros, cycles, rams = costs.of(best)
    return Allocation(
        network=scan.network,
        budget=budget,
        patterns={layer.name: choice.patterns for layer, choice in zip(network.layers, best, strict=True)},
        loss=sum(choice.loss for choice in best) * UNIT,
        nonzeros=nonzeros,
        cycles=cycles,
        us=cycles / mhz,
        block_rams=rams,
        mhz=mhz,
        hardware=hardware,
    )


Label = tuple[int, int, tuple[int, ...], tuple[Choice, ...]]
"""Loss, error, costs so far, and the choices made."""


def solve(
    costs_of: Costs, choices: Sequence[Sequence[Choice]], kind: Kind, limit: float
) -> tuple[tuple[Choice, ...] | None, int]:
    """The best choice for every layer within the limit (None where there is none), and the least that can be reached.

    Partial choices that agree in what the layers to come see of them (the last block length and, for memories, the longest
    one) compete; one that neither loses nor costs less than another is dropped.
    """
    states: dict[tuple[int, int], list[Label]] = {(1, 1): [(0, 0, (0,) * (costs_of.groups + 1), ())]}
    if kind != "block_rams":
        states = {(1, 1): [(0, 0, (0,), ())]}
    for number, mine in enumerate(choices):
        grown: dict[tuple[int, int], list[Label]] = {}
        for (before, longest), labels in states.items():
            for choice in mine:
                cost = costs_of.layer(number, choice, before)[kind]
                most = max(longest, choice.block, choice.block_p) if kind == "block_rams" else 1
                into = grown.setdefault((costs_of.out(number, choice), most), [])
                for loss, error, costs, chosen in labels:
                    summed = tuple(a + b for a, b in zip(costs, cost, strict=True))
                    into.append((loss + choice.loss, error + choice.error, summed, (*chosen, choice)))
        states = {state: _undominated(labels) for state, labels in grown.items()}
    best: tuple[int, int, int] | None = None
    found: tuple[Choice, ...] | None = None
    least = -1
    for (_, longest), labels in states.items():
        for loss, error, costs, chosen in labels:
            total = costs_of.total(kind, costs, longest)
            least = total if least < 0 else min(least, total)
            if total <= limit and (best is None or (loss, error, total) < best):
                best, found = (loss, error, total), chosen
    return found, least


def _undominated(labels: list[Label]) -> list[Label]:
    """Labels for which no other loses as little and costs no more."""
    labels.sort(key=lambda label: label[:3])
    kept: list[Label] = []
    costs = np.empty((len(labels), len(labels[0][2])), np.int64)
    for label in labels:
        mine = np.array(label[2])
        if not (costs[: len(kept)] <= mine).all(axis=1).any():
            costs[len(kept)] = mine
            kept.append(label)
    return kept
