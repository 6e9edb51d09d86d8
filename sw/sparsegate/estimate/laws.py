"""Laws of LUTs and flip-flops, of each family of FPGAs.

A law is linear in a few sizes of a layout, with coefficients of 0 or more, fitted on synthesized points. ``laws.json`` holds
the fitted ones, and what the same points tell beside; :func:`write_laws` writes it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact
from sparsegate.errors import SparseGateError
from sparsegate.estimate.sizes import dsp_of
from sparsegate.fpga.devices import device

LAWS, VERSION = "sparsegate-laws", 1
FILE = "laws.json"
SHARE = 0.9
"""Of a device's LUTs and flip-flops that a design may take by the laws, where no fuller one was routed.

Where one was, as much as the laws say of that: they err by more than what is left of the device.
"""
FEWEST = 5
"""Different layouts among the points of a family from which laws are fitted."""
SPARE = 2
"""Layouts that are more than a law's coefficients, so that its errors tell something."""
SIZES = {
    "luts": ("one", "products", "logic", "accumulators", "adders", "forwarded", "lane_bits", "lists", "memories"),
    "ffs": ("one", "products", "pes", "forwarded", "lane_bits", "groups", "deep"),
}
"""Sizes of a layout in which each law is linear."""


def by_law(laws: Mapping[str, Mapping[str, float]], figure: str, found: Mapping[str, float]) -> int | None:
    """What a family\'s law says of a figure at these sizes; None without one."""
    if figure not in laws:
        return None
    return round(sum(found[name] * value for name, value in laws[figure].items()))


def share(family: str) -> float:
    """Of a device's LUTs and flip-flops that a design may take by the laws."""
    return max(SHARE, load_routed().get(family, {}).get("share") or 0)


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
            math.ceil(1e4 * (by_law(laws[family], "luts", one["sizes"]) or 0) / device(str(one["device"])).luts) / 1e4
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
    """Fit the laws to points, and write them, and what the points tell beside, where :func:`load_laws` finds them, or elsewhere."""
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
        estimated = {figure: by_law(of, figure, one["sizes"]) for figure in SIZES} | {
            "bram": int(one["sizes"]["bram"]),
            "dsp": dsp_of(one["sizes"], chip, str(one["multipliers"])),
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
        value = by_law(laws, figure, point["sizes"])
        found[figure] = None if value is None else round(value / point[figure] - 1, 4)
    return found
