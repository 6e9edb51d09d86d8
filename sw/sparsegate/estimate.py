"""Area and cycles of a Program on an array before synthesis, in well under a second.

Multipliers and block RAMs are counted from the layout, cycles come from the exact cycle model. LUTs and flip-flops follow laws that
are linear in a few sizes of the layout, with coefficients of 0 or more, fitted on synthesized points. A *point* is what one
synthesis measured, beside the sizes of its layout at that time; ``sparsegate synth --points FILE`` adds one, and
``sparsegate estimate --refit FILE`` writes the laws that this module reads.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, cycles, golden
from sparsegate.allocate import block_rams, memories
from sparsegate.devices import WIDEST, Device, device
from sparsegate.errors import SparseGateError
from sparsegate.layout import ICE40_SHAPES, HardwareConfig, Layout, contents_blocks
from sparsegate.program import Phase, Program

POINTS, LAWS, VERSION = "sparsegate-points", "sparsegate-laws", 1
FILE = "laws.json"
SHARE = 0.9
"""Of a device's LUTs that a design may take: beyond that, routing gets slow and then impossible."""
OTHER_BLOCKS = 1
"""Block RAMs of an iCE40 for what is distributed RAM elsewhere: the identity."""
FEWEST = 3
"""Different layouts among the points of a family from which laws are fitted."""
STEPS = 4
"""Of the sequence on which cycles are counted."""

SIZES = {
    "luts": ("one", "products", "accumulators", "lane_bits", "lists", "memories"),
    "ffs": ("one", "products", "pes", "lane_bits", "groups", "deep"),
}
"""Sizes of a layout in which each law is linear."""


@dataclass(frozen=True)
class Estimate:
    """What a Program costs on an array. ``cycles`` of a step in which nothing is skipped; ``luts`` and ``ffs`` are None
    without laws; ``sprams`` are single-port memories that weights are loaded into.
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
    sprams: int = 0

    def fits(self, chip: Device) -> bool:
        """Whether a device has all that; what is not known counts as nothing."""
        return (
            self.dsp <= chip.dsp
            and self.bram <= chip.bram
            and (self.luts or 0) <= SHARE * chip.luts
            and (self.ffs or 0) <= SHARE * chip.ffs
        )


def estimate(program: Program, config: HardwareConfig, on: str = "LFE5U-85F", multipliers: str = "dsp") -> Estimate:
    """Area and cycles of one configuration."""
    layout = Layout(program, config)
    family = device(on).family
    found = sizes(layout, family, multipliers, device(on).sprams)
    laws = load_laws().get(family, {})
    return Estimate(
        device=device(on).name,
        rows=layout.rows,
        groups=layout.groups,
        lanes=layout.lanes,
        pes=config.pes,
        dsp=_multipliers(found, device(on), multipliers),
        bram=int(found["bram"]),
        luts=_law(laws, "luts", found),
        ffs=_law(laws, "ffs", found),
        cycles=step_cycles(layout),
        sprams=int(found.get("sprams", 0)),
    )


def _multipliers(found: Mapping[str, float], chip: Device, multipliers: str) -> int:
    """Multipliers of a layout's sizes, interpolations included as far as a device has some to spare."""
    needed = int(found["dsp"])
    return needed + (min(max(0, chip.dsp - needed), int(found.get("interpolations", 0))) if multipliers == "dsp" else 0)


def _law(laws: Mapping[str, Mapping[str, float]], figure: str, found: Mapping[str, float]) -> int | None:
    if figure not in laws:
        return None
    return round(sum(found[name] * value for name, value in laws[figure].items()))


def fit(program: Program, on: str, config: HardwareConfig | None = None) -> list[Estimate]:
    """Configurations that fit a device, fewest cycles first, then fewest PEs.

    Raises
    ------
    SparseGateError
        If none fits.
    """
    chip, start = device(on), config or HardwareConfig()
    cluster = start.cluster or max(phase.gates for phase in program.phases)
    most = max(-(-phase.blocks // phase.gates) for phase in program.phases)
    found = []
    for groups in (1, 2, 3, 4, 6, 8):
        for clusters in _halves(most):
            rows = clusters * cluster
            if rows * groups > chip.dsp:
                continue
            for lanes in (lanes for lanes in range(1, clusters + 1) if clusters % lanes == 0):
                # lanes cost more than they save where few units are left to each: halves only
                if clusters // lanes > 8:
                    continue
                tried = replace(start, rows=rows, groups=groups, lanes=lanes)
                try:
                    layout = Layout(program, tried)
                except SparseGateError:
                    if not start.loaded:
                        raise
                    continue  # too many entries for so few memories
                counts = sizes(layout, chip.family, sprams=chip.sprams)
                if counts["dsp"] <= chip.dsp and counts["bram"] <= chip.bram:
                    found.append(estimate(program, tried, on))
    found = sorted((one for one in found if one.fits(chip)), key=lambda one: (one.cycles, one.pes, one.lanes))
    if not found:
        raise SparseGateError(
            f"no array for this Program fits {chip.name}: {chip.dsp} multipliers, {chip.bram} block RAMs"
        )
    return found


def _halves(most: int) -> list[int]:
    """Numbers of clusters that leave a different number of unit blocks to each: the smallest for every such number."""
    return sorted({-(-most // blocks) for blocks in range(1, most + 1)})


def step_cycles(layout: Layout) -> int:
    """Cycles of a step in the middle of a sequence in which every column is sent, from the cycle model."""
    program = layout.program
    raw = np.zeros((1, STEPS, program.inputs), np.int64)
    trace = golden.run(program, raw)
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
    counted = cycles.predict(replace(trace, passes=passes), layout)
    if not program.streams:
        return -(-counted.total // STEPS)
    return int(counted.end[0, 2] - counted.end[0, 1])


# -- sizes --------------------------------------------------------------------------------------------------------------


def sizes(layout: Layout, family: str = "ecp5", multipliers: str = "dsp", sprams: int = 0) -> dict[str, float]:
    """Counts of a layout: ``dsp`` and ``bram`` exactly as synthesis makes them, and what the laws are linear in. Of the device's
    ``sprams``, loaded weights take one a PE.

    ``products``: bits of the PEs' products; ``accumulators``: cells of 16 words and 4 bits in their memories; ``lane_bits``: bits
    of all values in the lanes' pipelines; ``lists`` and ``memories``: such cells in the column lists, and of weights and biases.
    ``interpolations``: multiplications that are made of logic where a device has no multipliers to spare. ``deep``: bits of the
    registers that a deep engine has more, in PEs, clusters, dispatchers and, of what is narrowed, lanes.
    """
    pes, lanes = layout.rows * layout.groups, layout.lanes
    phases = list(_pipelines(layout).values())
    widest = WIDEST[family]
    values = [_Values.of(phase, widest) for phase in phases]
    lists = sum(
        _cells(
            sum(layout.bank_depth(phase, group, lane) for phase in range(len(layout.phases))), layout.delta_width + 4
        )
        for group in range(layout.groups)
        for lane in range(lanes)
    )
    word = layout.bias_word()
    found: dict[str, float] = {
        "one": 1,
        "pes": pes,
        "groups": layout.groups,
        "products": pes * (layout.weight_width + layout.operand_width),
        "accumulators": pes * sum(_cells(depth, layout.partial_width) for depth in layout.acc_bank_depths),
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
    )
    found["interpolations"] = lanes * sum(len(v.lookups) for p, v in zip(phases, values, strict=True) if p.step_bits)
    found["dsp"] = 0
    if multipliers == "dsp":
        found["dsp"] = pes * _pieces(layout.weight_width, layout.operand_width, widest) + lanes * sum(
            value.multipliers for value in values
        )
    if family != "ice40":
        return found | {"bram": sum(block_rams(layout).values())}
    found["sprams"] = min(pes, sprams) if layout.config.loaded else 0
    banks = [_fewest(layout.partial_width, depth) for depth in layout.acc_bank_depths]
    accumulators = pes + layout.clusters * layout.groups * len(layout.apart_rows)
    found["bram"] = OTHER_BLOCKS + accumulators * sum(banks)
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


def point(program: Program, config: HardwareConfig, measured: Mapping[str, Any], command: str) -> dict[str, Any]:
    """JSON value of one synthesis: what it measured, and the sizes of its layout."""
    layout = Layout(program, config)
    chip = device(str(measured["device"]))
    keys = (
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
    return {
        "name": f"{program.name} {layout.rows} x {layout.groups} on {measured['board'] or chip.name}, "
        f"multipliers: {measured['multipliers']}",
        "command": command,
        **{key: measured[key] for key in keys},
        "hardware": asdict(config),
        "sizes": sizes(layout, chip.family, str(measured["multipliers"]), chip.sprams),
        "tools": dict(measured["tools"]),
    }


def read_points(path: str | Path) -> list[dict[str, Any]]:
    """Points of a file."""
    return list(artefact.read_record(path, POINTS, VERSION, "file of synthesized points")["points"])


def add_point(path: str | Path, new: Mapping[str, Any]) -> None:
    """Add a point to a file, in place of one of the same name; a missing file is made."""
    old = read_points(path) if Path(path).exists() else []
    kept = [one for one in old if one["name"] != new["name"]]
    points = sorted([*kept, dict(new)], key=lambda one: str(one["name"]))
    artefact.write_json(path, {"format": POINTS, "version": VERSION, "points": points})


def refit(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Laws of every family: figure -> size -> coefficient, not negative, of the least squares of relative errors."""
    laws: dict[str, dict[str, dict[str, float]]] = {}
    for family in sorted({device(str(one["device"])).family for one in points}):
        mine = [one for one in points if device(str(one["device"])).family == family and one["multipliers"] == "dsp"]
        mine = mine or [one for one in points if device(str(one["device"])).family == family]
        if len({artefact.canonical(one["sizes"]) for one in mine}) < FEWEST:
            continue
        for figure, names in SIZES.items():
            wanted = np.array([float(one[figure]) for one in mine])
            matrix = np.array([[float(one["sizes"][name]) for name in names] for one in mine])
            solved = _not_negative(matrix / wanted[:, None], np.ones(len(mine)))
            law = {name: float(f"{value:.4g}") for name, value in zip(names, solved, strict=True) if value > 0}
            laws.setdefault(family, {})[figure] = law
    return laws


def _not_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with coefficients of 0 or more, by trying every set of columns; of equally good ones, the smallest."""
    best: tuple[float, NDArray[np.float64]] = (float("inf"), np.zeros(matrix.shape[1]))
    for count in range(1, min(matrix.shape) + 1):
        for columns in itertools.combinations(range(matrix.shape[1]), count):
            solved, *_ = np.linalg.lstsq(matrix[:, columns], wanted, rcond=None)
            if (solved < 0).any():
                continue
            error = float(np.sum((matrix[:, columns] @ solved - wanted) ** 2))
            if error < 0.99 * best[0] - 1e-12:
                best = error, np.zeros(matrix.shape[1])
                best[1][list(columns)] = solved
    return best[1]


def write_laws(laws: Mapping[str, Any], path: str | Path | None = None) -> Path:
    """Write laws where :func:`load_laws` finds them, or elsewhere."""
    path = Path(str(resources.files("sparsegate").joinpath(FILE))) if path is None else Path(path)
    artefact.write_json(path, {"format": LAWS, "version": VERSION, "laws": laws})
    load_laws.cache_clear()
    return path


@lru_cache(maxsize=1)
def load_laws() -> dict[str, dict[str, dict[str, float]]]:
    """The fitted laws; none where the file is missing."""
    file = resources.files("sparsegate").joinpath(FILE)
    return json.loads(file.read_text(encoding="utf-8"))["laws"] if file.is_file() else {}


def errors(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every point, its estimate beside what was measured: block RAMs and multipliers as differences, laws as relative errors."""
    laws = load_laws()
    rows = []
    for one in points:
        of = laws.get(device(str(one["device"])).family, {})
        row: dict[str, Any] = {"name": one["name"]}
        row["dsp"] = _multipliers(one["sizes"], device(str(one["device"])), str(one["multipliers"])) - int(one["dsp"])
        row["bram"] = int(one["sizes"]["bram"]) - int(one["bram"])
        for figure in ("luts", "ffs"):
            value = _law(of, figure, one["sizes"])
            row[figure] = None if value is None else round(value / one[figure] - 1, 4)
        rows.append(row)
    return rows
