"""Points: what one synthesis measured, beside the sizes of its layout at that time.

A design that was packed and not placed is a point without a clock. ``sparsegate synth --points FILE`` adds one, ``sparsegate bench
area`` several, and ``sparsegate estimate --refit FILE`` fits the laws to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.estimate.sizes import sizes
from sparsegate.fpga.devices import device
from sparsegate.program import Program

POINTS, VERSION = "sparsegate-points", 1
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
