"""What a family of FPGAs is in hardware: the cells of its primitives, its tools, and what its routed designs look like.

``FAMILY`` of the module of a family's name is its :class:`Family`; the facts that need no hardware are
``sparsegate.fpga.family.Family``, under the same name. Nothing else in the project asks which family it is.
"""

from __future__ import annotations

import importlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Elaboratable, Instance, Module, Signal, Value

from sparsegate.fpga import family as facts
from sparsegate.fpga.family import Device
from sparsegate_hw.fabric.configuration import Contents, MemoryCell

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


@dataclass(frozen=True)
class Command:
    """A tool of a Python package: ``module.run_<name>(arguments)``, or ``module.main()``, which looks at the command line."""

    module: str
    name: str
    main: bool = False

    @property
    def code(self) -> str:
        """Python that runs it with the arguments that follow."""
        if self.main:
            return f"import {self.module} as tool; tool.main()"
        return f"import sys, {self.module} as tool; sys.exit(tool.run_{self.name}(sys.argv[1:]))"


class Family(ABC):
    """What differs between families of FPGAs. An attribute is a line; those with a value may stay as they are."""

    name: str
    """That of its two modules."""

    # -- tools

    nextpnr: Command
    """Its nextpnr."""
    packer: Command
    """What makes a bitstream of a configuration."""
    unpacker: Command | None = None
    """What makes a configuration of a bitstream, memories' contents included; None where nothing does."""

    # -- synthesis

    synth: str
    """Yosys' command."""
    dsp: tuple[str, str] = ("", "-nodsp")
    """Its options with and without multipliers."""
    without: tuple[str, ...] = ("flatten",)
    """Parts among :data:`STEPS` that the command lacks."""
    end: str
    """The part before which it stops."""
    mispacked: tuple[str, ...] = ()
    """Cells of Yosys that the packer is not trusted with, so that a design with one is refused."""

    # -- place-and-route

    constraints: str
    """Ending of the file of pins and clocks."""
    routed: str
    """Ending of the configuration."""
    routed_option: str | None = None
    """nextpnr's option for the configuration; None where the netlist that it writes after routing is all there is."""
    bitstream: str
    """Ending of the bitstream."""
    untimed: str = ""
    """Cells that nextpnr has no delays for, in words."""
    figures: Mapping[str, Mapping[str, float]]
    """Figure of a report -> nextpnr's names of what is used, and how often each counts."""
    cells: Mapping[str, str] = {}
    """Figure that nextpnr does not report -> pattern of Yosys' cells that count."""
    suffixes: str
    """Pattern of what Yosys appends to a net's name, to call a cell of the family, beside pins and look-up tables."""

    @abstractmethod
    def chip(self, device: Device, package: str, speed: str, free: bool) -> list[str]:
        """nextpnr's arguments for a device, its package and speed grade; ``free``: pins may lie anywhere."""

    def bare(self, frequency_hz: int) -> str:
        """Constraints of a design at a frequency for a device without a board."""
        return ""

    @abstractmethod
    def pack(self, routed: str, bitstream: str) -> list[str]:
        """Arguments of the packer."""

    def unpack(self, bitstream: str, routed: str) -> list[str]:
        """Arguments of the unpacker."""
        raise NotImplementedError

    def part(self, platform: Any) -> str | None:
        """Name of the FPGA of a platform of amaranth-boards, where it is one of this family."""
        name = getattr(platform, "device", None)
        return name if any(chip.name == name for chip in self.facts.devices) else None

    # -- the design

    far: bool = True
    """Whether parts of a design may lie so far apart that the ways between them want registers."""
    pll_at_pin: bool = False
    """Whether a PLL sits at the clock's pin and takes it before any buffer."""
    power_up_s: float = 0.0
    """Seconds after configuration for which a design stays in reset."""
    rom_registered: bool = False
    """Whether :meth:`rom` can be read through a register of its own."""

    @abstractmethod
    def multiplier(self, m: Module, a: Value, b: Value, o: Signal) -> None:
        """``o`` is the product of two signed values, each no wider than ``facts.widest``, with latency 3: through its registers."""

    @abstractmethod
    def flip_flop(self, clock: Value, reset: Value, i: Value, o: Value) -> Instance:
        """A flip-flop that a synchronous reset sets to 0."""

    @abstractmethod
    def rom(
        self, bits: int, words: Sequence[int], address: Value, out: Signal, registered: bool
    ) -> Instance | Elaboratable:
        """A block RAM that is only read, of ``facts.block_shapes``, with latency 1, or 2 where it is ``registered``."""

    def small_rom(self, contents: int, address: Value, out: Signal) -> Instance:
        """A distributed RAM of 16 words of 4 bits that is read at once; word w is bits 4w to 4w + 3 of ``contents``."""
        raise NotImplementedError

    def single_port(self, address: Value, write: Value, data: Value, word: Signal) -> Instance:
        """A single-port memory of ``array.SPRAM_SHAPE`` with latency 1; its pins are as wide as that."""
        raise NotImplementedError

    def scratch(self, m: Module, ports: Any, depth: int, block: bool) -> bool:
        """Make a memory of :class:`~sparsegate_hw.fabric.primitives.ScratchMemory` of cells; False where Yosys is to do that."""
        return False

    @abstractmethod
    def pll(self, m: Module, input_hz: int, output_hz: int, clock: Any) -> Value:
        """Drive the clock domain "sync", as nearly ``output_hz`` as can be and never faster; 1 when the PLL has locked.

        Raises
        ------
        SparseGateError
            If no setting gives that.
        """

    # -- routed designs

    memories: tuple[MemoryCell, ...]
    """Kinds of memory cells whose contents can be replaced."""
    simulates_routed: bool = False
    """Whether :meth:`plain_netlist` is there, and models of what nextpnr packs."""

    def plain_netlist(self, top: dict[str, Any], contents: Contents) -> None:
        """Make the netlist that nextpnr writes after routing one that simulators read, with these contents in its memories."""
        raise NotImplementedError

    # -- models

    models: tuple[str, ...]
    """Files of Yosys that model cells; what they lack is in ``<name>_cells.v`` beside the family's module."""

    def simulated(self, models: list[str]) -> list[str]:
        """The texts of these files as every simulator reads them."""
        return models

    # -- what follows from these

    @property
    def facts(self) -> facts.Family:
        """What its devices have."""
        return facts.family(self.name)

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


def families() -> dict[str, Family]:
    """All families by name, in the order of ``sparsegate.fpga.family.families``."""
    return {name: family(name) for name in facts.families()}


def family(name: str) -> Family:
    """A family by its name."""
    return importlib.import_module(f"{__package__}.{name}").FAMILY
