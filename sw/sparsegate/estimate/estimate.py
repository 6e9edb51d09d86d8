"""Area and cycles of a Program on an array before synthesis, in under a second, and the fastest array that fits a device.

Multipliers and block RAMs are counted from the layout, cycles come from the exact cycle model. LUTs and flip-flops follow laws that
are linear in a few sizes of the layout, with coefficients of 0 or more, fitted on synthesized points; a clock is what points
of a like size reached. A *point* is what one synthesis measured, beside the sizes of its layout at that time; a design that was
packed and not placed is one without a clock. ``sparsegate synth --points FILE`` adds one, ``sparsegate bench area`` several,
and ``sparsegate estimate --refit FILE`` writes what this module reads of them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, golden
from sparsegate.array import ICE40_SHAPES, HardwareConfig, Layout, contents_blocks, cycles
from sparsegate.compress.allocate import block_rams, memories
from sparsegate.errors import SparseGateError
from sparsegate.fpga.devices import WIDEST, Device, device
from sparsegate.program import Phase, Program

POINTS, LAWS, VERSION = "sparsegate-points", "sparsegate-laws", 1
FILE = "laws.json"
LARGEST = device("LFE5U-85F")
SHARE = 0.9
"""Of a device's LUTs and flip-flops that a design may take by the laws, where no fuller one was routed.

Where one was, as much as the laws say of that: they err by more than what is left of the device.
"""
NEAR = 2.5
"""Designs are of a like size where their LUTs differ by no larger factor: the least that leaves no gap between the ECP5 points."""
SEARCHED = ("rows", "groups", "lanes", "banks", "block_banks", "deep")
"""Fields of a configuration that the search chooses, where they are not fixed."""
GROUPS = (1, 2, 3, 4, 6, 8)
"""Column groups that it tries."""
TURNS = 8
"""Clusters that take turns at a lane, at most: beyond that, lanes save less than the longer read-out costs."""
OTHER_BLOCKS = 1
"""Block RAMs of an iCE40 for what is distributed RAM elsewhere: the identity."""
FEWEST = 5
"""Different layouts among the points of a family from which laws are fitted."""
SPARE = 2
"""Layouts that are more than a law's coefficients, so that its errors tell something."""
STEPS = 4
"""Of the sequence on which cycles are counted."""

SIZES = {
    "luts": ("one", "products", "logic", "accumulators", "adders", "forwarded", "lane_bits", "lists", "memories"),
    "ffs": ("one", "products", "pes", "forwarded", "lane_bits", "groups", "deep"),
}
"""Sizes of a layout in which each law is linear."""


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
        most = share(chip.family)
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
    return _estimated(layout, sizes(layout, chip, kind), chip, kind)


def kind_of_multipliers(chip: Device, asked: str | None = None) -> str:
    """What multipliers are made of: "dsp", the device's own, or "logic"; the default is what the device has.

    Raises
    ------
    SparseGateError
        If it is something else, or the device has none.
    """
    if asked not in (None, "dsp", "logic"):
        raise SparseGateError(f"multipliers are made of {asked!r}, expected 'dsp' or 'logic'")
    if asked == "dsp" and not chip.dsp:
        raise SparseGateError(f"{chip.name} has no multipliers; use --multipliers logic")
    return asked or ("dsp" if chip.dsp else "logic")


def suited(config: HardwareConfig, chip: Device, multipliers: str) -> HardwareConfig:
    """The configuration as a device takes it: operands as wide as its multipliers at most.

    Raises
    ------
    SparseGateError
        If it asks for what only other devices have.
    """
    check_family(config, chip.family)
    return replace(config, multiplier=min(config.multiplier, WIDEST[chip.family])) if multipliers == "dsp" else config


def check_family(config: HardwareConfig, family: str) -> None:
    """Refuse what a configuration asks of one family of FPGAs, where it is for another, in a sentence."""
    if config.block_banks and family != "ecp5":
        raise SparseGateError(
            f"block_banks is {config.block_banks}, expected 0: it is for an ECP5; on other devices the size of accumulators"
            " says where they lie"
        )


def _estimated(layout: Layout, found: Mapping[str, float], chip: Device, multipliers: str) -> Estimate:
    """The estimate of a layout of these sizes."""
    laws = load_laws().get(chip.family, {})
    luts, counted = _law(laws, "luts", found), step_cycles(layout)
    clock = clock_of(chip, layout.config.deep, luts)
    return Estimate(
        device=chip.name,
        rows=layout.rows,
        groups=layout.groups,
        lanes=layout.lanes,
        pes=layout.config.pes,
        dsp=_multipliers(found, chip, multipliers),
        bram=int(found["bram"]),
        luts=luts,
        ffs=_law(laws, "ffs", found),
        cycles=counted,
        banks=layout.acc_banks,
        deep=layout.config.deep,
        clock=clock,
        us=None if clock is None else round(counted / clock.mhz, 3),
        sprams=int(found.get("sprams", 0)),
        block_banks=layout.config.block_banks,
    )


def _multipliers(found: Mapping[str, float], chip: Device, multipliers: str) -> int:
    """Multipliers of a layout's sizes, interpolations included as far as a device has some to spare."""
    needed = int(found["dsp"])
    return needed + (min(max(0, chip.dsp - needed), int(found.get("interpolations", 0))) if multipliers == "dsp" else 0)


def _law(laws: Mapping[str, Mapping[str, float]], figure: str, found: Mapping[str, float]) -> int | None:
    if figure not in laws:
        return None
    return round(sum(found[name] * value for name, value in laws[figure].items()))


def clock_of(chip: Device, deep: bool, luts: int | None) -> Clock | None:
    """What synthesized designs of a like size reached; None where there is none."""
    near = [
        float(one["fmax_mhz"])
        for one in load_routed().get(chip.family, {}).get("clocks", ())
        if luts
        and (one["fabric"], one["speed"], one["deep"]) == (chip.fabric, chip.speed, deep)
        and max(luts, one["luts"]) <= NEAR * min(luts, one["luts"])
    ]
    return Clock(round(sum(near) / len(near), 2), min(near), max(near), len(near)) if near else None


def share(family: str) -> float:
    """Of a device's LUTs and flip-flops that a design may take by the laws."""
    return max(SHARE, load_routed().get(family, {}).get("share") or 0)


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
    only = "block_banks" in fixed or chip.family != "ecp5"
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
        if "luts" in load_laws().get(chip.family, {}):
            there.append(f"{round(share(chip.family) * chip.luts)} of {chip.luts} LUTs by the laws")
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
            counts = _exact(layout, chip, multipliers)
        except SparseGateError:
            if turn == 0:
                raise
            break  # the accumulators are too many for a block RAM
        if counts["dsp"] > chip.dsp or counts["bram"] > chip.bram or (turn and count > layout.acc_banks):
            break
        one = _estimated(layout, _linear(layout, chip.family) | counts, chip, multipliers)
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
    clocks = load_routed().get(device(found[0].device).family, {}).get("clocks", ())
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


def step_cycles(layout: Layout) -> int:
    """Cycles of a step in the middle of a sequence in which every column is sent, from the cycle model."""
    counted = cycles.predict(_all_sent(layout.program), layout)
    if not layout.program.streams:
        return -(-counted.total // STEPS)
    return int(counted.end[0, 2] - counted.end[0, 1])


@lru_cache(maxsize=1)
def _all_sent(program: Program) -> golden.Trace:
    """A sequence of :data:`STEPS` in which every column is sent; which they are is the Program's, whatever the array."""
    trace = golden.run(program, np.zeros((1, STEPS, program.inputs), np.int64))
    passes = tuple(
        replace(
            run,
            streams=tuple(
                replace(stream, sent=np.ones_like(stream.sent), held=np.ones_like(stream.held))
                for stream in run.streams
            ),
        )
        for run in trace.passes
    )
    return replace(trace, passes=passes)


# -- sizes --------------------------------------------------------------------------------------------------------------


def sizes(layout: Layout, chip: Device = LARGEST, multipliers: str = "dsp") -> dict[str, float]:
    """Counts of a layout on a device: ``bram`` exactly as synthesis makes them, ``dsp`` as many as it asks for, which the device
    may not have, and what the laws are linear in. Of the device's ``sprams``, loaded weights take one a PE.

    ``products``: bits of the PEs' products; ``logic``: bits of the partial products of as many of them as there are multipliers
    made of logic, because the device has no more; ``accumulators``: cells of 16 words and 4 bits in their memories, ``adders``:
    bits of the adders before these, one for each bank, and ``forwarded`` of the sums that are forwarded to them; ``lane_bits``:
    bits of all values in the lanes' pipelines; ``lists`` and ``memories``: such cells in the column lists, and of weights and
    biases. ``interpolations``: multiplications that are made of logic where a device has no multipliers to spare. ``deep``: bits
    of the registers that a deep engine has more, in PEs, clusters, dispatchers and, of what is narrowed, lanes, and of those
    before the additions where accumulators are in block RAM.
    """
    return _linear(layout, chip.family) | _exact(layout, chip, multipliers)


def _linear(layout: Layout, family: str) -> dict[str, float]:
    """What the laws are linear in."""
    pes, lanes = layout.rows * layout.groups, layout.lanes
    values = [_Values.of(phase, WIDEST[family]) for phase in _pipelines(layout).values()]
    lists = sum(
        _cells(
            sum(layout.bank_depth(phase, group, lane) for phase in range(len(layout.phases))), layout.delta_width + 4
        )
        for group in range(layout.groups)
        for lane in range(lanes)
    )
    word = layout.bias_word()
    accumulators = pes + layout.clusters * layout.groups * len(layout.apart_rows)
    hold = layout.depths.hold
    in_blocks = [block and family == "ecp5" for block in layout.acc_in_blocks]
    forwarded = sum(
        3 + hold * (layout.loop_distance <= 1) if block else max(0, 3 + hold - layout.loop_distance)
        for block in in_blocks
    )
    found: dict[str, float] = {
        "one": 1,
        "pes": pes,
        "groups": layout.groups,
        "products": pes * (layout.weight_width + layout.operand_width),
        "accumulators": pes
        * sum(
            _cells(depth, layout.partial_width)
            for depth, block in zip(layout.acc_bank_depths, in_blocks, strict=True)
            if not block
        ),
        "adders": accumulators * layout.acc_banks * layout.partial_width,
        "forwarded": accumulators * forwarded * layout.partial_width,
        "lane_bits": lanes * (sum(value.bits for value in values) + layout.sums * layout.acc_width),
        "lists": lists,
        "memories": sum(
            count * _cells(depth, width)
            for count, depth, width in (
                (lanes, layout.position_depth, word),
                (pes, layout.weight_words, layout.weight_planes * layout.entry_width),
            )
            if not blocks(width, depth, family)
        ),
    }
    beat = layout.operand_width + layout.acc_depth.bit_length()
    found["deep"] = layout.config.deep * (
        pes * layout.entry_width
        + layout.clusters * layout.groups * (2 * beat + layout.weight_depth.bit_length())
        + layout.groups * (lanes + 1) * 2 * layout.delta_width
        + lanes * sum(value.narrowed for value in values)
    ) + hold * (found["products"] + found["adders"])
    return found


def _exact(layout: Layout, chip: Device, multipliers: str) -> dict[str, float]:
    """What is counted exactly: multipliers, those of interpolations beside them, those of logic, block RAMs, an iCE40's SPRAMs."""
    pes, lanes, family = layout.rows * layout.groups, layout.lanes, chip.family
    phases, widest = list(_pipelines(layout).values()), WIDEST[family]
    values = [_Values.of(phase, widest) for phase in phases]
    needed = pes * _pieces(layout.weight_width, layout.operand_width, widest) + lanes * sum(
        value.multipliers for value in values
    )
    own = chip.dsp if multipliers == "dsp" else 0
    found: dict[str, float] = {
        "interpolations": lanes * sum(len(v.lookups) for p, v in zip(phases, values, strict=True) if p.step_bits),
        "dsp": needed if multipliers == "dsp" else 0,
        "logic": max(0, needed - own) * layout.weight_width * layout.operand_width,
    }
    accumulators = pes + layout.clusters * layout.groups * len(layout.apart_rows)
    scratch = accumulators * sum(
        scratch_blocks(layout.partial_width, depth, family, block)
        for depth, block in zip(layout.acc_bank_depths, layout.acc_in_blocks, strict=True)
    )
    if family != "ice40":
        return found | {"bram": sum(block_rams(layout).values()) + scratch}
    found["sprams"] = min(pes, chip.sprams) if layout.config.loaded else 0
    found["bram"] = OTHER_BLOCKS + scratch
    for kind, width, depth, count in memories(layout):
        if kind == "weights":
            found["bram"] += (count - found["sprams"]) * blocks(width, depth, family)
        elif kind == "biases":
            found["bram"] += count * blocks(width, depth, family)
        else:
            found["bram"] += count * _fewest(width, depth)
    return found


def blocks(width: int, depth: int, family: str) -> int:
    """Block RAMs of a memory of weights or biases; 0 where it is distributed RAM."""
    if family != "ice40":
        return contents_blocks(width, depth)
    rows, columns = next((shape for shape in ICE40_SHAPES if shape[0] >= depth), ICE40_SHAPES[-1])
    return -(-width // columns) * -(-depth // rows)


def scratch_blocks(width: int, depth: int, family: str, block: bool = False) -> int:
    """Block RAMs of a memory that is read and written every cycle, as accumulators are; 0 where it is distributed RAM.

    An ECP5's is one where it is asked for (``block``: ``HardwareConfig.block_banks``), as weights want block RAM more.
    A Gowin has few distributed RAMs, and nextpnr places no more than a part of them. What one block RAM of 512 words of 36 bits
    holds and none of 18 bits, Yosys makes a simple dual port; of all else it makes true dual ports, for which the packer sets no
    byte enables, so that stays distributed.
    """
    if family == "ice40":
        return _fewest(width, depth)
    if family == "ecp5":
        return int(block)
    return int(18 < width <= 36 and depth <= 512)


def _fewest(width: int, depth: int) -> int:
    """Block RAMs of an iCE40 for a memory whose shape Yosys chooses."""
    return min(-(-width // columns) * -(-depth // rows) for rows, columns in ICE40_SHAPES)


def _cells(depth: int, width: int) -> int:
    """Cells of distributed RAM of 16 words of 4 bits."""
    return -(-depth // 16) * -(-width // 4)


def _pieces(a: int, b: int, widest: int) -> int:
    return -(-a // widest) * -(-b // widest)


def _pipelines(layout: Layout) -> dict[Any, Phase]:
    """The distinct cell pipelines of a lane: phases of one arithmetic and the same formats share one."""
    found: dict[Any, Phase] = {}
    for phase in layout.program.phases:
        inside = phase.spec.acc == "acc"
        names = ("acc", "h", *(phase.layer.cell.formats if inside else ()))
        kind = phase.layer.kind if inside else "projection"
        formats = tuple(phase.formats[name] for name in names)
        found.setdefault((kind, phase.number if inside else 0, phase.step_bits, *formats), phase)
    return found


@dataclass
class _Values:
    """An arithmetic that counts: bits of all results, multipliers of ``widest`` bits, and which tables are read."""

    phase: Phase
    widest: int
    bits: int = 0
    narrowed: int = 0
    multipliers: int = 0

    def __post_init__(self) -> None:
        self.lookups: list[str] = []

    @classmethod
    def of(cls, phase: Phase, widest: int) -> _Values:
        found = cls(phase, widest)
        phase.spec.step(found)
        return found

    def _made(self, width: int) -> int:
        self.bits += width
        return width

    def gate(self, name: str) -> int:
        return self.phase.formats["acc"].width

    def state(self, name: str) -> int:
        return self.phase.formats[name].width

    def parameter(self, name: str) -> int:
        return self.phase.formats["parameter"].width

    def one(self) -> int:
        return self.phase.formats["gate"].width

    def relu(self, value: int) -> int:
        return self._made(value)

    def mul(self, a: int, b: int) -> int:
        self.multipliers += _pieces(a, b, self.widest)
        return self._made(a + b)

    def add(self, a: int, b: int) -> int:
        return self._made(max(a, b) + 1)

    def sub(self, a: int, b: int) -> int:
        return self._made(max(a, b) + 1)

    def narrow(self, value: int, target: str, site: str, symmetric: bool = False) -> int:
        self.narrowed += value
        return self._made(self.phase.formats[target].width)

    def lookup(self, function: str, value: int) -> int:
        self.lookups.append(function)
        return self._made(self.phase.formats["gate"].width)


# -- points and laws ------------------------------------------------------------------------------------------------------


MEASURED = (
    "device",
    "board",
    "speed",
    "multipliers",
    "frequency_mhz",
    "fmax_mhz",
    "luts",
    "ffs",
    "bram",
    "dsp",
    "seed",
    "tried",
)
"""What a point has of a synthesis, as ``SynthResult`` explains it."""


def point(program: Program, config: HardwareConfig, measured: Mapping[str, Any], command: str) -> dict[str, Any]:
    """JSON value of one synthesis: what it measured, and the sizes of its layout.

    Without a clock the design was packed and not placed; its name then says all of its array, as a Program may have several.
    """
    layout = Layout(program, config)
    chip = device(str(measured["device"]))
    array = f"{program.name} {layout.rows} x {layout.groups}"
    if measured["fmax_mhz"] is None:
        array += f", lanes: {layout.lanes}, banks: {layout.acc_banks}, {'deep' if config.deep else 'shallow'}, packed"
    return {
        "name": f"{array} on {measured['board'] or chip.name}, multipliers: {measured['multipliers']}"
        + (f", {config.block_banks} banks in block RAM" if config.block_banks else ""),
        "command": command,
        **{key: measured[key] for key in MEASURED},
        "untimed": measured.get("untimed") or "",
        "hardware": asdict(config),
        "sizes": sizes(layout, chip, str(measured["multipliers"])),
        "tools": dict(measured["tools"]),
    }


def read_points(path: str | Path) -> list[dict[str, Any]]:
    """Points of a file.

    Raises
    ------
    SparseGateError
        If it is no such file, or a point lacks a part.
    """
    points = artefact.read_record(path, POINTS, VERSION, "file of synthesized points").get("points")
    if not isinstance(points, list):
        raise SparseGateError(f"{path} has no list of points")
    for number, one in enumerate(points):
        parts = ("name", "command", *MEASURED, "hardware", "sizes", "tools")
        if lacking := [key for key in parts if not isinstance(one, dict) or key not in one]:
            raise SparseGateError(f"{path}: point {number} has no {lacking[0]!r}; measure it again")
    return points


def add_point(path: str | Path, new: Mapping[str, Any]) -> None:
    """Add a point to a file, in place of one of the same name; a missing file is made."""
    old = read_points(path) if Path(path).exists() else []
    kept = [one for one in old if one["name"] != new["name"]]
    points = sorted([*kept, dict(new)], key=lambda one: str(one["name"]))
    artefact.write_json(path, {"format": POINTS, "version": VERSION, "points": points})


def refit(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Laws of every family: figure -> size -> coefficient, not negative, of the least squares of relative errors."""
    laws: dict[str, dict[str, dict[str, float]]] = {}
    for family, mine in _families(points).items():
        if _layouts(mine) < FEWEST:
            continue
        for one in mine:
            if lacking := {name for names in SIZES.values() for name in names} - set(one["sizes"]):
                raise SparseGateError(f"point {one['name']!r} has no size {sorted(lacking)[0]!r}; measure it again")
        for figure, names in SIZES.items():
            wanted = np.array([float(one[figure]) for one in mine])
            matrix = np.array([[float(one["sizes"][name]) for name in names] for one in mine])
            solved = _not_negative(matrix / wanted[:, None], np.ones(len(mine)), _layouts(mine) - SPARE)
            law = {name: float(f"{value:.4g}") for name, value in zip(names, solved, strict=True) if value > 0}
            laws.setdefault(family, {})[figure] = law
    return laws


def _not_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Least squares with coefficients of 0 or more, ``most`` of them not 0, by trying every set of columns; of equally good ones,
    the smallest.
    """
    best: tuple[float, NDArray[np.float64]] = (float("inf"), np.zeros(matrix.shape[1]))
    for count in range(1, min(most, *matrix.shape) + 1):
        for columns in itertools.combinations(range(matrix.shape[1]), count):
            solved, *_ = np.linalg.lstsq(matrix[:, columns], wanted, rcond=None)
            if (solved < 0).any():
                continue
            error = float(np.sum((matrix[:, columns] @ solved - wanted) ** 2))
            if error < 0.99 * best[0] - 1e-12:
                best = error, np.zeros(matrix.shape[1])
                best[1][list(columns)] = solved
    return best[1]


def _families(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Points that laws of a family are fitted on: multipliers of logic are a size like others."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in points:
        found.setdefault(device(str(one["device"])).family, []).append(one)
    return dict(sorted(found.items()))


def _layouts(points: Sequence[Mapping[str, Any]]) -> int:
    """Different layouts among points."""
    return len({artefact.canonical(one["sizes"]) for one in points})


def routed(points: Sequence[Mapping[str, Any]], laws: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the points of every family tell beside its laws.

    ``layouts``: different ones among them. ``errors``: figure -> the lowest and the highest error of a law that was fitted without
    the point in question. ``share``: the most of a device's LUTs that the law says of one that was routed, rounded up so that
    it fits itself. Both are empty without laws. ``clocks``: fabric, speed grade, depth, LUTs and Fmax of each that is not but an
    upper bound, for lack of delays in nextpnr's model.
    """
    found: dict[str, dict[str, Any]] = {}
    for family, mine in _families(points).items():
        spread: dict[str, list[float]] = {}
        for figure in laws.get(family, ()):
            off = [row["left_out"][figure] for row in errors(mine, laws) if row["left_out"][figure] is not None]
            spread |= {figure: [min(off), max(off)]} if off else {}
        full = [
            math.ceil(1e4 * (_law(laws[family], "luts", one["sizes"]) or 0) / device(str(one["device"])).luts) / 1e4
            for one in mine
            if family in laws and one["fmax_mhz"] is not None
        ]
        clocks = [
            {
                "fabric": device(str(one["device"])).fabric,
                "speed": one["speed"],
                "deep": one["hardware"]["deep"],
                "luts": one["luts"],
                "fmax_mhz": one["fmax_mhz"],
            }
            for one in mine
            if one["fmax_mhz"] is not None and not one.get("untimed")
        ]
        found[family] = {
            "layouts": _layouts(mine),
            "errors": spread,
            "share": max(full, default=None),
            "clocks": sorted(clocks, key=lambda one: (one["deep"], one["luts"])),
        }
    return found


def write_laws(points: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Path:
    """Fit the laws to points, and write them, and what the points tell beside, where this module finds them, or elsewhere."""
    path = Path(str(resources.files("sparsegate.estimate").joinpath(FILE))) if path is None else Path(path)
    laws = refit(points)
    artefact.write_json(path, {"format": LAWS, "version": VERSION, "laws": laws, "routed": routed(points, laws)})
    _read.cache_clear()
    return path


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    file = resources.files("sparsegate.estimate").joinpath(FILE)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def load_laws() -> dict[str, dict[str, dict[str, float]]]:
    """The fitted laws; none where the file is missing."""
    return _read().get("laws", {})


def load_routed() -> dict[str, dict[str, Any]]:
    """What :func:`routed` found of the points that the laws were fitted to."""
    return _read().get("routed", {})


def errors(points: Sequence[Mapping[str, Any]], laws: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Of every point, its ``estimate`` beside what was measured: block RAMs and multipliers as differences, laws as relative
    errors.

    ``left_out``: the same errors of laws that are fitted to the other points, without those of the same layout: what to expect of a
    design that was never synthesized.
    """
    laws = load_laws() if laws is None else laws
    rows = []
    for one in points:
        chip = device(str(one["device"]))
        own = artefact.canonical(one["sizes"])
        others = [
            other
            for other in points
            if device(str(other["device"])).family == chip.family and artefact.canonical(other["sizes"]) != own
        ]
        of = laws.get(chip.family, {})
        estimated = {figure: _law(of, figure, one["sizes"]) for figure in SIZES} | {
            "bram": int(one["sizes"]["bram"]),
            "dsp": _multipliers(one["sizes"], chip, str(one["multipliers"])),
        }
        row: dict[str, Any] = {"name": one["name"], "estimate": estimated}
        row |= {figure: (estimated[figure] or 0) - int(one[figure]) for figure in ("dsp", "bram")}
        row |= _relative(one, of)
        row["left_out"] = _relative(one, refit(others).get(chip.family, {}))
        rows.append(row)
    return rows


def _relative(point: Mapping[str, Any], laws: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Errors of both laws at a point; None without a law."""
    found: dict[str, float | None] = {}
    for figure in SIZES:
        value = _law(laws, figure, point["sizes"])
        found[figure] = None if value is None else round(value / point[figure] - 1, 4)
    return found
