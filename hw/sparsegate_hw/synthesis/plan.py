"""What is to be built, as values: all that decides a bitstream, the files and arguments of the tools, and digests of that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from amaranth.back import rtlil

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout, suited
from sparsegate.program import Program
from sparsegate_hw.board.board import BAUD, Bare, Board, Top
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.fabric import family as families
from sparsegate_hw.fabric.configuration import Contents
from sparsegate_hw.fabric.family import Family
from sparsegate_hw.synthesis import patch, tools
from sparsegate_hw.synthesis.boards import Target, target
from sparsegate_hw.synthesis.verilog import quick_conversion

ROUTERS = ("router1", "router2")
"""Routers of nextpnr in the order in which they are tried.

router1 is driven by timing and gives a quarter more speed, but may find no end; it has ``routing_seconds``. router2 has no limit.
These seconds are the clock's, so on a busy or slow machine router2 may end what router1 ends elsewhere: a result says which did.
"""


@dataclass(frozen=True)
class Build:
    """All that decides a bitstream but the Program and the seed."""

    target: Target
    config: HardwareConfig
    frequency_hz: int
    baud: int
    tools: Mapping[str, str]

    @classmethod
    def of(
        cls, program: Program, config: HardwareConfig | None, chosen: Target, frequency_hz: int | None, baud: int
    ) -> Build:
        config = suited(config or HardwareConfig(), chosen.chip, chosen.multipliers)
        versions = tools.versions(families.family(chosen.family))
        return cls(chosen, config, frequency_hz or chosen.chip.clock_hz, baud, versions)

    @property
    def family(self) -> Family:
        return families.family(self.target.family)

    def elaborate(self, program: Program, layout: Layout | None = None) -> tuple[str, str]:
        """RTLIL and constraints of the whole design; ``layout`` is the Program's, which serves if it is on this very array."""
        made = layout if layout is not None and layout.config == self.config else None
        return elaborate(program, self.config, self.target, self.frequency_hz, self.baud, made)

    def files(self, design: str, constraints: str) -> dict[str, str]:
        """Files that the tools find in their folder, and their texts."""
        return {"top.il": design, f"top.{self.family.constraints}": constraints}

    def script(self) -> list[str]:
        """Lines of the Yosys run; a line that begins with # is announced."""
        lines = self.family.script(self.target.multipliers)
        return ["# reading the design", "read_rtlil top.il", *lines, "# writing the netlist", "write_json top.json"]

    def nextpnr(self) -> list[str]:
        """Arguments of every run of nextpnr, whose report is then ``attempt.json``."""
        chosen = self.target
        return [
            *self.family.chip(chosen.chip, chosen.package, chosen.speed, chosen.board is None),
            *("--json", "top.json"),
            *("--report", "attempt.json"),
            *("--freq", f"{self.frequency_hz / 1e6:g}"),
        ]

    def routing(self) -> list[str]:
        """Arguments of every run of nextpnr that places and routes, but seed and router. The configuration is left in
        ``attempt.routed``, the routed netlist in ``attempt.cells``.
        """
        option = self.family.routed_option
        return [
            *self.nextpnr(),
            *((option, "attempt.routed") if option else ()),
            *("--write", "attempt.cells"),
            "--timing-allow-fail",  # the caller judges, and has a result to look at
        ]

    def packer(self) -> list[str]:
        """Arguments of the packer."""
        return self.family.pack(f"top.{self.family.routed}", f"top.{self.family.bitstream}")

    def key(self, form: str, constraints: str) -> dict[str, Any]:
        """JSON value that decides a netlist and, with a seed, its routing."""
        return {
            "design": sha256(form),
            "constraints": constraints,
            "target": asdict(self.target),
            "frequency_hz": self.frequency_hz,
            "script": self.script(),
            "nextpnr": self.routing(),
            "routers": ROUTERS,
            "tools": dict(self.tools),
        }


@dataclass(frozen=True)
class Design:
    """A Program's design on a target: its ``text`` in RTLIL, which is its ``form`` and its ``contents``, and ``constraints``."""

    text: str
    constraints: str
    form: str
    contents: Contents

    @classmethod
    def of(cls, build: Build, program: Program, layout: Layout | None = None) -> Design:
        text, constraints = build.elaborate(program, layout)
        form, contents = patch.split(text)
        return cls(text, constraints, form, contents)


@dataclass(frozen=True)
class Seeds:
    """Seeds of the placement that are tried in turn; ``until_met``: up to the first that meets timing, else all of them."""

    numbers: range
    until_met: bool


def elaborate(
    program: Program,
    config: HardwareConfig | None,
    chosen: Target,
    frequency_hz: int,
    baud: int,
    layout: Layout | None = None,
) -> tuple[str, str]:
    """RTLIL and constraints of the whole design."""
    engine = Engine(program, config, layout)
    board = Board(engine, program, frequency_hz, baud)
    family = families.family(chosen.family)
    with quick_conversion():
        if chosen.board is None:
            design = rtlil.convert(Bare(board), name="top", platform=chosen.fabric(engine.layout), emit_src=False)
            return design, family.bare(frequency_hz)
        plan = chosen.platform(engine.layout).prepare(Top(board), "top", emit_src=False)
    return plan.files["top.il"], plan.files[f"top.{family.constraints}"]


def form_digest(program: Program, config: HardwareConfig, *, device: str, frequency_hz: int | None = None) -> str:
    """``SynthResult.form`` of the design that ``synthesize`` would build for a bare device."""
    build = Build.of(program, config, target(device=device), frequency_hz, BAUD)
    return sha256(Design.of(build, program).form)


def digest(key: Any) -> str:
    """SHA-256 of a JSON value."""
    return sha256(artefact.canonical(key))


def sha256(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
