"""What Yosys' netlists and nextpnr's reports tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sparsegate.errors import ToolError
from sparsegate_hw.fabric.family import Family


def cell_counts(netlist: Mapping[str, Any]) -> dict[str, int]:
    """Cells of Yosys' netlist by type."""
    return Counter(cell["type"] for cell in netlist["modules"]["top"]["cells"].values())


def fmax(report: Mapping[str, Any], frequency_hz: int) -> float:
    """Achieved MHz of the engine's clock. A board's own clock that only feeds the PLL is not reported by nextpnr."""
    clocks = report["fmax"]
    if not clocks:
        raise ToolError("nextpnr reported no clock, expected the engine's")
    engine = [
        entry for entry in clocks.values() if abs(entry["constraint"] - frequency_hz / 1e6) < 0.01 * entry["constraint"]
    ]
    return min(entry["achieved"] for entry in engine or clocks.values())


def critical_path(report: Mapping[str, Any], family: Family) -> list[str]:
    """The slowest path between registers: a line for each place it passes, with the nanoseconds spent on the way there."""
    inside = [path for path in report["critical_paths"] if path["from"] == path["to"]]
    if not inside:
        return []
    slowest = max(inside, key=lambda path: sum(hop["delay"] for hop in path["path"]))
    end_of_net = re.compile(rf"_(?:{family.suffixes}|LUT[1-4]|DI|DO|RAD|WAD|D|Q|Z)(?:_|$)|\$")
    places: list[tuple[str, float]] = []
    for hop in slowest["path"]:
        # Yosys names a cell after a net and how it hangs together with others; the net is what a person knows
        place = end_of_net.split(hop["to"]["cell"])[0]
        # cells that nextpnr adds have no net of their own
        if places and place in (places[-1][0], ""):
            places[-1] = (places[-1][0], places[-1][1] + hop["delay"])
        else:
            places.append((place, hop["delay"]))
    return [f"{delay:.2f} ns {place}" for place, delay in places]
