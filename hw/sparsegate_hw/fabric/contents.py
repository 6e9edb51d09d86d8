"""Memories whose contents a Program decides, as cells of the device: a bitstream can be given other contents.

A read-only memory that Yosys sees becomes whatever its contents make simplest: a bit that is always 0 disappears, a small
one turns into logic. Memory cells that the design names itself stay what they are. So the netlist is the same for every
Program of a shape, and ``sparsegate_hw.synthesis.patch`` finds the cells in the routed design by their names.

ECP5: Lattice FPGA-TN-02204; iCE40: FPGA-TN-02002, and the order of bits in a block RAM as Yosys' ``ice40/brams_map.v`` has it.
Gowin: UG285.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from amaranth.hdl import Array, Cat, ClockSignal, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from sparsegate.array import BLOCK_SHAPES, ICE40_SHAPES, contents_blocks


def family(platform: Any) -> str | None:
    """The family of the FPGA that is elaborated for; None for a simulation."""
    return getattr(getattr(platform, "fabric", platform), "family", None)


class Contents(wiring.Component):
    """A read-only memory: ``words`` of ``width`` bits, unsigned, that a bitstream can be given anew.

    Members: ``address``; ``o`` unsigned(width), the word. Reading beyond the last word gives anything.

    Timing: latency 1, one word a cycle; 2 with ``registered``. An ECP5's block RAM has a register of its own for that.
    Size: ``layout.contents_blocks`` block RAMs of an ECP5 or a Gowin; where that is 0, a distributed RAM for every 16 words and
    4 bits.
    """

    def __init__(self, width: int, words: Sequence[int], registered: bool = False) -> None:
        self._width, self._words, self._registered = width, words, registered
        self.latency = 2 if registered else 1
        assert min(words) >= 0, "words are unsigned"
        assert max(words) < 1 << width, "a word is wider than its memory"
        super().__init__({"address": In(max(1, (len(words) - 1).bit_length())), "o": Out(width)})

    @staticmethod
    def model(words: Sequence[int], address: int) -> int:
        """Integer model."""
        return words[address]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = family(platform)
        inside = False  # whether the second register is the block RAM's own
        if of in DISTRIBUTED and not contents_blocks(self._width, len(self._words)):
            word = self._distributed(m, DISTRIBUTED[of])
        elif of == "ecp5":
            shape = next((shape for shape in BLOCK_SHAPES if shape[0] >= len(self._words)), BLOCK_SHAPES[-1])
            inside = self._registered
            word = self._tiles(m, *shape, partial(_dp16kd, registered=inside))
        elif of == "gowin":
            # not with its own register, which some of the GW2A-18's widths lack (Apycula's NEED_BSRAM_OUTREG_FIX)
            shape = next((shape for shape in BLOCK_SHAPES if shape[0] >= len(self._words)), BLOCK_SHAPES[-1])
            word = self._tiles(m, *shape, _prom)
        elif of == "ice40":
            shape = next((shape for shape in ICE40_SHAPES if shape[0] >= len(self._words)), ICE40_SHAPES[-1])
            word = self._tiles(m, *shape, _sb_ram40)
        else:
            m.submodules.memory = memory = Memory(shape=self._width, depth=len(self._words), init=[])
            # Amaranth would look at every word by itself, half a minute for a million of them
            memory.init._elems[:] = self._words
            read = memory.read_port()
            m.d.comb += read.addr.eq(self.address)
            word = read.data
        if self._registered and not inside:
            out = Signal.like(self.o, name="out", reset_less=True)
            m.d.sync += out.eq(word)
            word = out
        m.d.comb += self.o.eq(word)
        return m

    def _tiles(self, m: Module, depth: int, columns: int, cell: Any) -> Value:
        """Block RAMs side by side, and in rows where the memory is deeper than one."""
        inside = (depth - 1).bit_length()
        address = Cat(self.address, Const(0, inside))[:inside]
        rows = []
        for row in range(-(-len(self._words) // depth)):
            words = self._words[row * depth : (row + 1) * depth]
            parts = []
            for column in range(-(-self._width // columns)):
                out = Signal(columns, name=f"out_{row}_{column}")
                mine = [word >> column * columns & (1 << columns) - 1 for word in words]
                m.submodules[f"block_{row}_{column}"] = cell(columns, mine, address, out)
                parts.append(out)
            rows.append(Cat(*parts)[: self._width])
        chosen: Value = self.address[inside:]
        if len(rows) > 1:
            for stage in range(2 if getattr(cell, "keywords", {}).get("registered") else 1):
                row = Signal(range(len(rows)), name=f"row_{stage}", reset_less=True)
                m.d.sync += row.eq(chosen)
                chosen = row
        return Array(rows)[chosen] if len(rows) > 1 else rows[0]

    def _distributed(self, m: Module, cell: Callable[[int, Value, Signal], Instance]) -> Value:
        banks = []
        for bank in range(-(-len(self._words) // 16)):
            words = self._words[16 * bank : 16 * bank + 16]
            outs = []
            for column in range(-(-self._width // 4)):
                out = Signal(4, name=f"out_{bank}_{column}")
                init = sum((word >> 4 * column & 15) << 4 * at for at, word in enumerate(words))
                m.submodules[f"cell_{bank}_{column}"] = cell(init, Cat(self.address, Const(0, 4))[:4], out)
                outs.append(out)
            banks.append(Cat(*outs)[: self._width])
        word = Signal.like(self.o, name="word", reset_less=True)
        m.d.sync += word.eq(Array(banks)[self.address[4:]] if len(banks) > 1 else banks[0])
        return word


def _dpr16x4(init: int, address: Value, out: Signal) -> Instance:
    """A distributed RAM of an ECP5: word w of 4 bits is bits 4w to 4w + 3 of ``init``."""
    return Instance(
        "TRELLIS_DPR16X4",
        p_INITVAL=Const(init, 64),
        p_WCKMUX="WCK",
        p_WREMUX="WRE",
        i_WCK=ClockSignal(),
        i_WRE=Const(0),
        i_WAD=Const(0, 4),
        i_DI=Const(0, 4),
        i_RAD=address,
        o_DO=out,
    )


def _ram16sdp4(init: int, address: Value, out: Signal) -> Instance:
    """The same of a Gowin, which has a parameter for each bit of the words."""
    return Instance(
        "RAM16SDP4",
        **{f"p_INIT_{bit}": Const(sum((init >> 4 * at + bit & 1) << at for at in range(16)), 16) for bit in range(4)},
        i_CLK=ClockSignal(),
        i_WRE=Const(0),
        i_WAD=Const(0, 4),
        i_DI=Const(0, 4),
        i_RAD=address,
        o_DO=out,
    )


DISTRIBUTED = {"ecp5": _dpr16x4, "gowin": _ram16sdp4}
"""Distributed RAMs of the families that have some."""


def _prom(columns: int, words: Sequence[int], address: Value, out: Signal) -> Instance:
    """A Gowin's block RAM as a memory that is only read, of one of ``BLOCK_SHAPES``.

    64 parameters hold the words one after another, in 256 bits each where words have fewer than 9, else in 288. Of an address of
    14 bits, those are left over at its low end that would tell bits of a word apart.
    """
    depth = next(rows for rows, bits in BLOCK_SHAPES if bits == columns)
    nine = columns >= 9
    flat = np.packbits(unpack(words, columns, depth).reshape(64, -1), axis=1, bitorder="little")
    pins = Signal(36 if nine else 32, name=f"{out.name}_pins")
    return _wired(
        Instance(
            "pROMX9" if nine else "pROM",
            **{
                f"p_INIT_RAM_{row:02X}": Const(int.from_bytes(bits.tobytes(), "little"), 288 if nine else 256)
                for row, bits in enumerate(flat)
            },
            p_READ_MODE=Const(0, 1),
            p_BIT_WIDTH=columns,
            p_RESET_MODE="SYNC",
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_OCE=Const(1),
            i_RESET=Const(0),
            i_AD=Cat(Const(0, 14 - (depth - 1).bit_length()), address),
            o_DO=pins,
        ),
        out,
        pins[:columns],
    )


def _dp16kd(columns: int, words: Sequence[int], address: Value, out: Signal, registered: bool) -> Instance:
    """A block RAM of one of ``BLOCK_SHAPES``: 36 bits through both ports, fewer through port A."""
    depth = next(rows for rows, bits in BLOCK_SHAPES if bits == columns)
    contents = {
        f"p_INITVAL_{row:02X}": Const(value, 320) for row, value in enumerate(initvals(unpack(words, columns, depth)))
    }
    port = min(columns, 18)  # both ports read halves of a 36-bit word
    low = 14 - (depth - 1).bit_length()
    ports: dict[str, Any] = {}
    for number, side in enumerate("AB"):
        used = columns == 36 or number == 0
        where = Cat(Const(0, 4), Const(number, 1), address) if columns == 36 else Cat(Const(0, low), address)
        for bit in range(14):
            ports[f"i_AD{side}{bit}"] = where[bit] if used and bit < len(where) else Const(0)
        for bit in range(18):
            ports[f"i_DI{side}{bit}"] = Const(0)
            if used and 18 * number + bit < columns:
                ports[f"o_DO{side}{bit}"] = out[18 * number + bit]
        ports |= {f"i_CS{side}{bit}": Const(0) for bit in range(3)}
        ports |= {
            f"i_CLK{side}": ClockSignal(),
            f"i_CE{side}": Const(int(used)),
            f"i_OCE{side}": Const(int(used)),
            f"i_WE{side}": Const(0),
            f"i_RST{side}": Const(0),
            f"p_DATA_WIDTH_{side}": port,
            f"p_REGMODE_{side}": "OUTREG" if registered else "NOREG",
            f"p_WRITEMODE_{side}": "READBEFOREWRITE",
            f"p_CSDECODE_{side}": "0b000",
            f"p_CLK{side}MUX": f"CLK{side}",
        }
    return Instance("DP16KD", **contents, **ports, p_RESETMODE="SYNC", p_ASYNC_RESET_RELEASE="SYNC", p_GSR="DISABLED")


def unpack(words: Sequence[int], width: int, depth: int) -> NDArray[np.uint8]:
    """Bits of words, least significant first, zeros to ``depth``. (depth, width)"""
    size = -(-width // 8)
    raw = b"".join(word.to_bytes(size, "little") for word in words).ljust(depth * size, b"\0")
    return np.unpackbits(np.frombuffer(raw, np.uint8).reshape(depth, size), axis=1, bitorder="little")[:, :width]


def initvals(bits: NDArray[np.uint8]) -> list[int]:
    """The 64 INITVAL parameters of a DP16KD that holds the words (depth, columns) of one of ``BLOCK_SHAPES``.

    It is an array of 2048 bytes of 9 bits, of whose ninth words of fewer than 9 bits make no use. A parameter holds 16
    words of 18 bits, each in 20 bits.
    """
    if bits.shape[1] < 9:
        bits = np.pad(bits.reshape(2048, 8), ((0, 0), (0, 1)))
    spaced = np.pad(bits.reshape(64, 16, 18), ((0, 0), (0, 0), (0, 2)))
    rows = np.packbits(spaced.reshape(64, 320), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _sb_ram40(columns: int, words: Sequence[int], address: Value, out: Signal) -> Instance:
    """4096 bits in words of 16, 8, 4 or 2. ``INIT_h`` holds 16 rows of 16 bits; narrow words lie in a row bit-reversed."""
    mode = (16, 8, 4, 2).index(columns)
    rows = [0] * 256
    for at, word in enumerate(words):
        flat = at * columns
        for bit in range(columns):
            if word >> bit & 1:
                rows[(flat + bit) >> 4] |= 1 << _reversed(flat + bit & 15)
    contents = {
        f"p_INIT_{part:X}": Const(sum(row << 16 * at for at, row in enumerate(rows[16 * part : 16 * part + 16])), 256)
        for part in range(16)
    }
    # the lowest bits of an address choose within a row, and are the highest pins
    low = [address[bit] for bit in range(mode)]
    pins = Cat(address[mode : mode + 8], *reversed(low), Const(0, 3 - mode))
    read = Signal(16, name=f"{out.name}_pins")
    offset = (0, 0, 1, 3)[mode]
    return _wired(
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
        Cat(read[_reversed(bit) + offset] for bit in range(columns)),
    )


def _reversed(bit: int) -> int:
    """A number of four bits, the other way round."""
    return int(f"{bit:04b}"[::-1], 2)


def _wired(cell: Instance, out: Signal, value: Value) -> Module:
    m = Module()
    m.submodules.cell = cell
    m.d.comb += out.eq(value)
    return m
