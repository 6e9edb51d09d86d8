"""Placed and routed designs: made by nextpnr, kept in a folder, found there again, and packed."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsegate import artefact
from sparsegate.errors import SparseGateError, ToolError
from sparsegate_hw.fabric.configuration import Contents, Place, is_netlist, plain
from sparsegate_hw.fabric.family import Family
from sparsegate_hw.synthesis import patch, plan, tools
from sparsegate_hw.synthesis.folders import making
from sparsegate_hw.synthesis.plan import Build
from sparsegate_hw.synthesis.report import cell_counts, critical_path, fmax
from sparsegate_hw.synthesis.tools import Progress, ToolTimeout

RUN, ROUTED, NETLIST, REPORT = "run.json", "routed.z", "netlist.z", "report.json"


class Unplaced(SparseGateError):
    """There are cells enough, but the placer found no place for all of them from this seed."""


@dataclass(frozen=True)
class Routed:
    """A placed and routed design in a folder: ``text``, nextpnr's configuration, and what nextpnr said about it.

    Where the netlist that nextpnr writes after routing is all there is, it is the configuration. ``seconds`` are those that Yosys
    and nextpnr took.
    """

    folder: Path
    text: str
    places: Mapping[str, Place]
    fmax_mhz: float
    figures: Mapping[str, int]
    critical_path: tuple[str, ...]
    router: str
    seconds: Mapping[str, float]

    @classmethod
    def load(cls, folder: Path) -> Routed:
        """Read a folder; Unplaced if there was no placement, another SparseGateError if it is damaged."""
        values = artefact.read_json(folder / RUN)
        if isinstance(values, dict) and "unplaced" in values:
            raise Unplaced(values["unplaced"])
        with artefact.reading(folder / RUN):
            return cls(
                folder,
                _decompressed(folder / values["routed"]),
                {name: Place(kind, tuple(at)) for name, (kind, at) in values["places"].items()},
                float(values["fmax_mhz"]),
                values["figures"],
                tuple(values["critical_path"]),
                values.get("router", ""),  # an earlier version noted neither
                values.get("seconds", {}),
            )

    @classmethod
    def kept(cls, folder: Path) -> Routed | None:
        """What an earlier run kept of a seed; None where there is nothing, or it is damaged. Unplaced if it found no placement."""
        try:
            return cls.load(folder)
        except Unplaced:
            raise
        except SparseGateError:
            return None

    def netlist(self) -> dict[str, Any]:
        """The netlist that nextpnr wrote after routing; its memories may hold another Program's contents.

        Raises
        ------
        SparseGateError
            If it is damaged, or not there because an earlier version routed the design.
        """
        file = self.folder / NETLIST
        if is_netlist(self.text):
            return json.loads(self.text)
        if not file.exists():
            raise SparseGateError(
                f"{self.folder} has no {NETLIST}, as an earlier version routed it; synthesize into another folder"
            )
        with artefact.reading(file):
            return json.loads(_decompressed(file))


def _decompressed(file: Path) -> str:
    try:
        return zlib.decompress(file.read_bytes()).decode()
    except (OSError, zlib.error) as error:
        raise SparseGateError(f"{file} cannot be read: {error}") from error


def compressed(text: str) -> bytes:
    """A configuration as :data:`ROUTED` keeps it."""
    return zlib.compress(text.encode())


def route(
    final: Path, work: Path, build: Build, contents: Contents, seed: int, seconds: dict[str, float], say: Progress
) -> Routed:
    """Place and route the design in ``work`` and keep it in ``final``; its netlist is made where it is not there yet. What Yosys
    and nextpnr took is noted in ``seconds``. Unplaced, which is kept too, if the seed finds no placement.
    """
    family = build.family
    if not (work / "top.json").exists():
        begun = time.monotonic()
        tools.run_yosys(work, build.script(), say)
        seconds["yosys"] = round(time.monotonic() - begun, 1)
    if family.mispacked:
        refuse_mispacked(family, cell_counts(artefact.read_json(work / "top.json")))
    begun = time.monotonic()
    try:
        report, router = _place(work, build, seed, say)
    except Unplaced as error:
        with making(final, keep=lambda staging: False) as staging:
            artefact.write_json(staging / RUN, {"unplaced": str(error)})
        raise
    seconds["nextpnr"] = round(time.monotonic() - begun, 1)
    text, places = _configuration(family, work, contents)
    cells = cell_counts(artefact.read_json(work / "top.json")) if family.cells else {}
    values = {
        "routed": ROUTED,
        "places": {name: [place.kind, list(place.at)] for name, place in places.items()},
        "fmax_mhz": fmax(report, build.frequency_hz),
        "figures": family.measured(report["utilization"], cells),
        "critical_path": critical_path(report, family),
        "router": router,
        "seconds": seconds,
    }
    with making(final, keep=lambda staging: False) as staging:
        (staging / ROUTED).write_bytes(compressed(text))
        if family.routed_option is not None:
            (staging / NETLIST).write_bytes(zlib.compress((work / "attempt.cells").read_bytes()))
        artefact.write_json(staging / REPORT, report)
        artefact.write_json(staging / RUN, values)
    for leftover in ("attempt.routed", "attempt.json", "attempt.cells"):
        (work / leftover).unlink(missing_ok=True)
    return Routed.load(final)


def _configuration(family: Family, work: Path, contents: Contents) -> tuple[str, dict[str, Place]]:
    """The configuration that nextpnr left in ``work``, and where the memories are in it."""
    # the netlists are large: each is read only where something is asked of it
    if family.routed_option is None:
        netlist = artefact.read_json(work / "attempt.cells")
        text, places = plain(netlist), patch.places(family, netlist, contents)
    else:
        text = (work / "attempt.routed").read_text(encoding="utf-8")
        places = patch.places(family, artefact.read_json(work / "attempt.cells"), contents) if contents else {}
    if patch.extract(text, places) != contents:
        raise ToolError("nextpnr's configuration does not hold the memories' contents where its netlist says")
    return text, places


def refuse_mispacked(family: Family, cells: Mapping[str, int]) -> None:
    """A SparseGateError where a netlist has cells whose bits the packer may get wrong."""
    for kind in family.mispacked:
        if cells.get(kind):
            raise SparseGateError(
                f"the design needs {cells[kind]} {kind}, which {family.packer.name} does not pack rightly; use smaller layers,"
                " weights that are not loaded, or another device"
            )


def _place(work: Path, build: Build, seed: int, say: Progress) -> tuple[dict[str, Any], str]:
    """Run nextpnr; its report, and the router that found an end."""
    device, nextpnr = build.target.device, tools.nextpnr(build.family)
    router = ""
    try:
        for router in plan.ROUTERS:
            arguments = [*build.routing(), "--seed", str(seed), "--router", router]
            limit = None if router == plan.ROUTERS[-1] else routing_seconds
            try:
                nextpnr.run(arguments, work, f"nextpnr-{seed}.log", say, limit=limit)
                break
            except ToolTimeout:
                say(f"nextpnr: {router} finds no end, starting again with another router")
    except ToolError as error:
        if re.search(
            r"[Uu]nable to (place|find)|no BELs|[Ff]ailed to (place|expand)|more .* than|too many", str(error)
        ):
            if "legal placement" in str(error):
                raise Unplaced(
                    f"the design finds no place on {device} from seed {seed}; use --seeds, as another placement may have room,"
                    f" fewer rows or a larger device ({error})"
                ) from error
            raise SparseGateError(
                f"the design does not fit {device}; use fewer rows or a larger device ({error})"
            ) from error
        raise
    return artefact.read_json(work / "attempt.json"), router


def routing_seconds(line: str) -> float | None:
    """Seconds that router1 may take from a line of nextpnr's output on; None: this line does not say how much there is to do.

    Four minutes at least, and 15 ms an arc: it took 39 s for 75,084 arcs and, beside other work on two machines, 1,294 s for
    382,916 and 3,675 s for 410,929.
    """
    found = re.match(r"Info: Routing (\d+) arcs", line)
    return max(240.0, 0.015 * int(found[1])) if found else None


def pack(build: Build, text: str, work: Path, say: Progress) -> None:
    """Pack a configuration into ``work/top.bit`` (or what the family calls it)."""
    (work / f"top.{build.family.routed}").write_text(text, encoding="utf-8")
    packer = tools.packer(build.family)
    packer.run(build.packer(), work, f"{packer.name}.log", say)
