"""The fastest arrays that fit a device, by the estimate of every array that is worth a try."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from sparsegate.array import HardwareConfig, Layout, suited
from sparsegate.array.resources import exact
from sparsegate.errors import SparseGateError
from sparsegate.estimate import laws
from sparsegate.estimate.figures import Estimate, of_layout
from sparsegate.estimate.sizes import linear
from sparsegate.fpga.devices import Device, device, kind_of_multipliers
from sparsegate.fpga.family import family
from sparsegate.program import Program

SEARCHED = ("rows", "groups", "lanes", "banks", "block_banks", "deep")
"""Fields of a configuration that the search chooses, where they are not fixed."""
GROUPS = (1, 2, 3, 4, 6, 8)
"""Column groups that it tries."""
TURNS = 8
"""Clusters that take turns at a lane, at most: beyond that, lanes save less than the longer read-out costs."""


def fit(
    program: Program,
    on: str,
    config: HardwareConfig | None = None,
    fixed: Collection[str] = (),
    multipliers: str | None = None,
) -> list[Estimate]:
    """Arrays that fit a device, the fastest first: the least time of a step, or where that is not known the fewest cycles
    (:func:`timed`), then the fewest PEs.

    ``fixed``: fields among :data:`SEARCHED` that are as the configuration says. Accumulators go into block RAM only where an array
    is too large otherwise, as few banks as that takes. Arrays that the Program cannot run on, or not with
    the rest of the configuration, are passed over. ``multipliers``: "dsp" or "logic", the default is what the device has;
    arrays with some of each are not searched.

    Raises
    ------
    SparseGateError
        If none fits.
    """
    chip = device(on)
    kind = kind_of_multipliers(chip, multipliers)
    start = suited(config or HardwareConfig(), chip, kind)
    only = "block_banks" in fixed or not family(chip.family).block_banks
    found: list[Estimate] = []
    ran, refused = False, None
    for tried in _arrays(program, start, _most_pes(program, chip, kind), fixed):
        try:
            found += _fitting(program, tried, chip, kind, (start.block_banks,) if only else range(tried.banks + 1))
        except SparseGateError as error:
            refused = refused or error
            continue
        ran = True
    if not found and refused and not ran:
        raise SparseGateError(f"no array runs this Program with these options: {refused}")
    if not found:
        there = [f"{chip.dsp} multipliers" if kind == "dsp" else "multipliers of logic", f"{chip.bram} block RAMs"]
        if "luts" in laws.load_laws().get(chip.family, {}):
            there.append(f"{round(laws.share(chip.family) * chip.luts)} of {chip.luts} LUTs by the laws")
        raise SparseGateError(f"no array for this Program fits {chip.name}: {', '.join(there)}")
    by_time = timed(found)

    def rank(one: Estimate) -> tuple[float, ...]:
        time = math.inf if one.us is None else one.us
        return (time if by_time else 0, one.cycles, one.pes, one.lanes, one.banks, one.deep)

    return sorted(found, key=rank)


def _most_pes(program: Program, chip: Device, multipliers: str) -> int:
    """PEs that a device has multipliers for; of logic, as many as it has LUTs for the bits of their partial products."""
    if multipliers == "dsp":
        return chip.dsp
    terms = [term for phase in program.phases for term in phase.terms]
    return chip.luts // (max(t.weight.width for t in terms) * max(t.form.width + 1 + t.shift for t in terms))


def _fitting(
    program: Program, tried: HardwareConfig, chip: Device, multipliers: str, block_banks: Iterable[int]
) -> list[Estimate]:
    """The array with the first of these numbers of banks in block RAM, which grow, with which it fits; none if it does not."""
    for turn, count in enumerate(block_banks):
        layout = Layout(program, replace(tried, block_banks=count))
        try:
            counts = exact(layout, chip, multipliers)
        except SparseGateError:
            if turn == 0:
                raise
            break  # the accumulators are too many for a block RAM
        if counts["dsp"] > chip.dsp or counts["bram"] > chip.bram or (turn and count > layout.acc_banks):
            break
        one = of_layout(layout, linear(layout, chip.family) | counts, chip, multipliers)
        if one.fits(chip):
            return [one]
    return []


def timed(found: Sequence[Estimate]) -> bool:
    """Whether arrays can be ranked by time, those without a clock last: each of these differs in nothing but pipeline depth and the
    memory of accumulators from one that has a clock, or would be slower than the fastest of those even at the highest clock of
    any point of the family.

    Of two that differ in depth the one with a clock goes first: no point says how much slower a large shallow array is.
    """

    def array(one: Estimate) -> tuple[int, ...]:
        return one.rows, one.groups, one.lanes, one.banks

    known = {array(one): one.us for one in found if one.us is not None}
    clocks = laws.load_routed().get(device(found[0].device).family, {}).get("clocks", ())
    highest = max((float(one["fmax_mhz"]) for one in clocks), default=math.inf)
    return bool(known) and all(
        array(one) in known or one.cycles / highest >= min(known.values()) for one in found if one.us is None
    )


def _arrays(program: Program, start: HardwareConfig, most: int, fixed: Collection[str]) -> Iterator[HardwareConfig]:
    """The configurations that the search tries, of at most ``most`` PEs; of as many PEs, the ones with the most lanes first."""
    cluster = start.cluster or max(phase.gates for phase in program.phases)
    heights = sorted({clusters for phase in program.phases for clusters in _halves(phase.blocks // phase.gates)})
    counts = [sum(len(program.layers[number].phases) for number in run.layers) for run in program.passes]
    banks = range(1, max(min(count, 2 + count % 2) for count in counts) + 1)
    for groups in (start.groups,) if "groups" in fixed else GROUPS:
        for rows in (start.rows,) if "rows" in fixed else (clusters * cluster for clusters in heights):
            if rows * groups > most:
                continue
            clusters = rows // cluster
            divisors = [
                lanes for lanes in range(clusters, 0, -1) if clusters % lanes == 0 and clusters <= TURNS * lanes
            ]
            for lanes, most_banks, deep in itertools.product(
                (start.lanes,) if "lanes" in fixed else divisors,
                (start.banks,) if "banks" in fixed else banks,
                (start.deep,) if "deep" in fixed else (False, True),
            ):
                yield replace(start, rows=rows, groups=groups, lanes=lanes, banks=most_banks, deep=deep)


def _halves(most: int) -> list[int]:
    """Numbers of clusters that leave a different number of unit blocks to each: the smallest for every such number."""
    return sorted({-(-most // blocks) for blocks in range(1, most + 1)})
