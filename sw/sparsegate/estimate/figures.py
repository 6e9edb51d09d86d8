"""What a Program costs on an array before synthesis: multipliers, memories, LUTs, flip-flops, cycles and a clock.

Multipliers and block RAMs are counted from the layout, cycles come from the exact cycle model. LUTs and flip-flops follow the
laws of :mod:`~sparsegate.estimate.laws`; a clock is what synthesized designs of a like size reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsegate.array import HardwareConfig, Layout, suited
from sparsegate.array.step import streamed_cycles
from sparsegate.estimate import laws
from sparsegate.estimate.sizes import dsp_of, sizes
from sparsegate.fpga.devices import Device, device, kind_of_multipliers
from sparsegate.program import Program

NEAR = 2.5
"""Designs are of a like size where their LUTs differ by no larger factor: the least that leaves no gap between the ECP5 points."""


@dataclass(frozen=True)
class Clock:
    """MHz that synthesized designs of a like size reached, of the same family, speed grade and pipeline depth: the mean, lowest
    and highest of ``points``.
    """

    mhz: float
    low: float
    high: float
    points: int


@dataclass(frozen=True)
class Estimate:
    """What a Program costs on an array. ``cycles`` of a step in which nothing is skipped; ``luts`` and ``ffs`` are None
    without laws, ``clock`` and ``us`` of a step where no point is of a like size; ``sprams`` are single-port memories that weights
    are loaded into. ``banks`` are those that the array has, ``block_banks`` and ``deep`` its configuration's.
    """

    device: str
    rows: int
    groups: int
    lanes: int
    pes: int
    dsp: int
    bram: int
    luts: int | None
    ffs: int | None
    cycles: int
    banks: int
    deep: bool
    clock: Clock | None
    us: float | None
    sprams: int = 0
    block_banks: int = 0

    def fits(self, chip: Device) -> bool:
        """Whether a device has all that; what is not known counts as nothing."""
        most = laws.share(chip.family)
        return (
            self.dsp <= chip.dsp
            and self.bram <= chip.bram
            and (self.luts or 0) <= most * chip.luts
            and (self.ffs or 0) <= most * chip.ffs
        )


def estimate(
    program: Program, config: HardwareConfig, on: str = "LFE5U-85F", multipliers: str | None = None
) -> Estimate:
    """Area and cycles of one configuration. ``multipliers``: "dsp" or "logic"; the default is what the device has.

    Raises
    ------
    SparseGateError
        If the Program does not run on it, or it asks a device for what only others have.
    """
    chip = device(on)
    kind = kind_of_multipliers(chip, multipliers)
    config = suited(config, chip, kind)
    layout = Layout(program, config)
    return of_layout(layout, sizes(layout, chip, kind), chip, kind)


def of_layout(layout: Layout, found: Mapping[str, float], chip: Device, multipliers: str) -> Estimate:
    """The estimate of a layout of these sizes."""
    mine = laws.load_laws().get(chip.family, {})
    luts, counted = laws.by_law(mine, "luts", found), streamed_cycles(layout)
    clock = clock_of(chip, layout.config.deep, luts)
    return Estimate(
        device=chip.name,
        rows=layout.rows,
        groups=layout.groups,
        lanes=layout.lanes,
        pes=layout.config.pes,
        dsp=dsp_of(found, chip, multipliers),
        bram=int(found["bram"]),
        luts=luts,
        ffs=laws.by_law(mine, "ffs", found),
        cycles=counted,
        banks=layout.acc_banks,
        deep=layout.config.deep,
        clock=clock,
        us=None if clock is None else round(counted / clock.mhz, 3),
        sprams=int(found.get("sprams", 0)),
        block_banks=layout.config.block_banks,
    )


def clock_of(chip: Device, deep: bool, luts: int | None) -> Clock | None:
    """What synthesized designs of a like size reached; None where there is none."""
    near = [
        float(one["fmax_mhz"])
        for one in laws.load_routed().get(chip.family, {}).get("clocks", ())
        if luts
        and (one["fabric"], one["speed"], one["deep"]) == (chip.fabric, chip.speed, deep)
        and max(luts, one["luts"]) <= NEAR * min(luts, one["luts"])
    ]
    return Clock(round(sum(near) / len(near), 2), min(near), max(near), len(near)) if near else None
