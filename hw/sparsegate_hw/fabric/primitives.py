"""What an FPGA has ready-made: multipliers, memories of weights, and registers that stay where they are.

Every primitive has one behaviour and one latency. Without a :class:`Fabric` it is plain Amaranth, which simulators run; with one it
is the device's own cell, whose registers are in use. Tests simulate both on the same random inputs.

ECP5: Lattice FPGA-TN-02204 (block RAM) and FPGA-TN-02205 (sysDSP). iCE40: FPGA-TN-02007 (SB_MAC16)
and FPGA-TN-02022 (SB_SPRAM256KA). Gowin: UG285 (block RAM) and UG287 (DSP).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array, Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import BLOCK_SHAPES, SPRAM_SHAPE, rom_blocks, timing
from sparsegate.estimate import scratch_blocks
from sparsegate.fpga.devices import WIDEST
from sparsegate_hw.fabric.contents import Contents


@dataclass
class Fabric:
    """What the primitives of one design may take of an FPGA; the ``platform`` of its elaboration, or that one's ``fabric``.

    ``multipliers`` and ``sprams`` are as many as the device has, or fewer: who comes later gets logic, or block RAM. ``spare`` of
    the multipliers are for small multiplications, which are made of logic otherwise. All count down while a design is elaborated,
    so a design needs a new one.
    """

    family: str
    multipliers: int
    sprams: int = 0
    spare: int = 0

    def take(self, multipliers: int, small: bool = False) -> bool:
        """Whether so many are left, which are then taken."""
        enough = self.multipliers >= multipliers and (self.spare >= multipliers or not small)
        if enough:
            self.multipliers -= multipliers
            self.spare -= multipliers * small
        return enough

    def take_spram(self) -> bool:
        """Whether a single-port memory is left, which is then taken."""
        self.sprams -= 1
        return self.sprams >= 0


def fabric(platform: Any) -> Fabric | None:
    """The fabric of an elaboration's platform, if it has one."""
    return platform if isinstance(platform, Fabric) else getattr(platform, "fabric", None)


def accumulator_style(platform: Any, width: int, depth: int) -> dict[str, Any]:
    """Attributes of a memory of few words that is read and written every cycle, with a registered read."""
    of = fabric(platform)
    return {} if of is None else {"ram_style": "block" if scratch_blocks(width, depth, of.family) else "distributed"}


def memory_style(
    platform: Any, width: int, depth: int, blocks: Callable[[int, int], int] = rom_blocks
) -> dict[str, Any]:
    """Attributes of a memory that is written and has a registered read: where it goes follows from its size alone."""
    of = fabric(platform)
    if of is None:
        return {}
    return {"ram_style": "block" if of.family == "ice40" or blocks(width, depth) else "distributed"}


class Multiplier(wiring.Component):
    """o = a * b, exactly.

    Members: ``a`` signed(a_width), ``b`` signed(b_width), ``o`` signed(a_width + b_width). A ``small`` one, with few rows to add,
    is made of logic where others need the device's multipliers.

    Timing: latency ``timing.MUL`` = 3, one product a cycle; registers at the inputs, within, and at the output.
    """

    latency = timing.MUL

    def __init__(self, a_width: int, b_width: int, small: bool = False) -> None:
        self._small = small
        super().__init__({"a": In(signed(a_width)), "b": In(signed(b_width)), "o": Out(signed(a_width + b_width))})

    @staticmethod
    def model(a: Any, b: Any) -> Any:
        """Integer model."""
        return a * b

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = fabric(platform)
        if of is None:
            self._behaviour(m)
            return m
        widest = WIDEST[of.family]
        pieces = -(-len(self.a) // widest) * -(-len(self.b) // widest)
        if not of.take(pieces, self._small):
            self._logic(m)
        elif pieces > 1:
            self._behaviour(m)  # Yosys joins several
        else:
            {"ecp5": self._ecp5, "ice40": self._ice40, "gowin": self._gowin}[of.family](m)
        return m

    def _behaviour(self, m: Module) -> None:
        a, b = _kept(self.a, "a_1"), _kept(self.b, "b_1")
        product, out = _kept(self.o, "o_2"), _kept(self.o, "o_3")
        m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b), out.eq(product)]
        m.d.comb += self.o.eq(out)

    def _logic(self, m: Module) -> None:
        """Two halves of the multiplication, then their sum; a ``*`` would become a multiplier again."""
        long, short = (self.a, self.b) if len(self.a) >= len(self.b) else (self.b, self.a)
        left, right = _kept(long, "long_1"), _kept(short, "short_1")
        half = len(right) // 2
        low = Signal(signed(len(left) + half), name="low_2", reset_less=True)
        high = Signal(signed(len(left) + len(right) - half), name="high_2", reset_less=True)
        out = _kept(self.o, "o_3")
        rows: list[Value] = [Mux(right[bit], left, 0).as_signed() for bit in range(len(right))]
        rows[-1] = -rows[-1]  # the sign's weight
        m.d.sync += [
            left.eq(long),
            right.eq(short),
            low.eq(shifted_sum(rows[:half])),
            high.eq(shifted_sum(rows[half:])),
            out.eq(low + high.shift_left(half)),
        ]
        m.d.comb += self.o.eq(out)

    def _ecp5(self, m: Module) -> None:
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
            **_pins("i_A", _extended(self.a, 18)),
            **_pins("i_B", _extended(self.b, 18)),
            **_pins("i_C", Const(0, 18)),
            **_pins("o_P", product),
        )
        m.d.comb += self.o.eq(product)

    def _gowin(self, m: Module) -> None:
        """Of the registers, only the middle one is the cell's own.

        nextpnr has no delays for this cell and times no path that begins or ends there. So those are bare wires to and from
        flip-flops, and it sees the logic on their other side.
        """
        a, b = _kept(self.a, "a_1"), _kept(self.b, "b_1")
        product, out = Signal(36), _kept(self.o, "o_3")
        m.submodules.cell = Instance(
            "MULT18X18",
            **{f"p_{name}": Const(0, 1) for name in ("AREG", "BREG", "OUT_REG", "ASIGN_REG", "BSIGN_REG", "SOA_REG")},
            p_PIPE_REG=Const(1, 1),
            p_MULT_RESET_MODE="SYNC",
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_RESET=Const(0),
            i_A=_extended(a, 18),
            i_B=_extended(b, 18),
            i_SIA=Const(0, 18),
            i_SIB=Const(0, 18),
            **{f"i_{name}": Const(1) for name in ("ASIGN", "BSIGN")},
            **{f"i_{name}": Const(0) for name in ("ASEL", "BSEL")},
            o_DOUT=product,
        )
        m.d.sync += [a.eq(self.a), b.eq(self.b), out.eq(product)]
        m.d.comb += self.o.eq(out)

    def _ice40(self, m: Module) -> None:
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
            i_A=_extended(self.a, 16),
            i_B=_extended(self.b, 16),
            i_C=Const(0, 16),
            i_D=Const(0, 16),
            **{f"i_{name}HOLD": Const(0) for name in "ABCD"},
            **{f"i_{name}{half}": Const(0) for name in ("IRST", "ORST", "OLOAD", "ADDSUB") for half in ("TOP", "BOT")},
            **{f"i_OHOLD{half}": Const(0) for half in ("TOP", "BOT")},
            **{f"i_{name}": Const(0) for name in ("CI", "ACCUMCI", "SIGNEXTIN")},
            o_O=product,
        )
        m.d.comb += self.o.eq(product)


def _kept(value: Value, name: str) -> Signal:
    """A register like ``value`` that no reset reaches, as those in multipliers and memories."""
    return Signal.like(value, name=name, reset_less=True)


def _extended(value: Value, width: int) -> Signal | Value:
    return Cat(value, value[-1].replicate(width - len(value)))


def _pins(stem: str, value: Value) -> dict[str, Value]:
    """A port for every bit, as Lattice's cells have them."""
    return {f"{stem}{bit}": value[bit] for bit in range(len(value))}


def shifted_sum(rows: Sequence[Value]) -> Value:
    """sum of rows[k] << k, as a tree."""
    if len(rows) <= 1:
        return rows[0] if rows else Const(0)
    half = len(rows) // 2
    return shifted_sum(rows[:half]) + shifted_sum(rows[half:]).shift_left(half)


class ReadOnlyMemory(wiring.Component):
    """A memory of fixed contents: ``words`` of ``width`` bits, unsigned.

    Members: ``address``; ``o`` unsigned(width), the word. Reading beyond the last word gives anything.

    With ``replaceable`` it is made of the device's cells whatever the contents are, so that a bitstream can be given others: see
    ``sparsegate_hw.fabric.contents``.

    Timing: latency 2, one word a cycle; the second register is the memory's own on an ECP5.
    Size: ``layout.rom_blocks`` block RAMs of an ECP5 or a Gowin, and where that is 0 logic; of a replaceable one
    ``layout.contents_blocks``, and where that is 0 distributed RAM.
    """

    latency = timing.MEMORY

    def __init__(self, width: int, words: Iterable[int], replaceable: bool = False) -> None:
        self._width, self._words, self._replaceable = width, [int(word) for word in words], replaceable
        assert min(self._words) >= 0, "words are unsigned"
        assert max(self._words) < 1 << width, "a word is wider than its memory"
        super().__init__({"address": In(max(1, (len(self._words) - 1).bit_length())), "o": Out(width)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = fabric(platform)
        if of is not None and (
            self._replaceable or (of.family != "ice40" and rom_blocks(self._width, len(self._words)))
        ):
            m.submodules.memory = cells = Contents(self._width, self._words, registered=True)
            m.d.comb += [cells.address.eq(self.address), self.o.eq(cells.o)]
            return m
        style = {"rom_style": "logic"} if of is not None and of.family != "ice40" else {}
        m.submodules.memory = memory = Memory(shape=self._width, depth=len(self._words), init=[], attrs=style)
        # Amaranth would look at every word by itself, half a minute for a million of them
        memory.init._elems[:] = self._words
        port = memory.read_port()
        out = _kept(self.o, "out")
        m.d.comb += [port.addr.eq(self.address), self.o.eq(out)]
        m.d.sync += out.eq(port.data)
        return m


class LoadedMemory(wiring.Component):
    """A memory that is written after reset and then only read: ``words`` of ``width`` bits, unsigned.

    Members: ``address``; ``o`` unsigned(width), the word. In a cycle with ``write`` the word becomes ``data``, and what is read
    is anything, as is what lies beyond the last word.

    Without a fabric it holds ``words`` from the start, so that a simulation need not write them. On a device it starts with
    anything: an SPRAM has no initial contents.

    Timing: latency 2, one word a cycle; the SPRAM's second register is a flip-flop a bit.
    Size: an SPRAM where the fabric has one left; else block RAM as Yosys maps it, or distributed RAM where ``rom_blocks`` gives 0.
    """

    latency = timing.MEMORY

    def __init__(self, width: int, words: Iterable[int]) -> None:
        self._width, self._words = width, [int(word) for word in words]
        deepest, widest = SPRAM_SHAPE
        assert width <= widest, "a word is wider than an SPRAM's"
        assert len(self._words) <= deepest, "there are more words than an SPRAM has"
        super().__init__(
            {
                "address": In(max(1, (len(self._words) - 1).bit_length())),
                "write": In(1),
                "data": In(width),
                "o": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = fabric(platform)
        out = _kept(self.o, "out")
        if of is not None and of.take_spram():
            deepest, widest = SPRAM_SHAPE
            word = Signal(widest)
            m.submodules.cell = Instance(
                "SB_SPRAM256KA",
                i_CLOCK=ClockSignal(),
                i_CHIPSELECT=Const(1),
                i_STANDBY=Const(0),
                i_SLEEP=Const(0),
                i_POWEROFF=Const(1),  # low switches it off
                i_ADDRESS=Cat(self.address, Const(0, (deepest - 1).bit_length() - len(self.address))),
                i_WREN=self.write,
                i_MASKWREN=Const(0xF, 4),
                i_DATAIN=Cat(self.data, Const(0, widest - self._width)),
                o_DATAOUT=word,
            )
            m.d.sync += out.eq(word)
        else:
            depth = len(self._words)
            m.submodules.memory = memory = Memory(
                shape=self._width, depth=depth, init=[], attrs=memory_style(platform, self._width, depth)
            )
            if of is None:
                # Amaranth would look at every word by itself, half a minute for a million of them
                memory.init._elems[:] = self._words
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.addr.eq(self.address),
                write.addr.eq(self.address),
                write.data.eq(self.data),
                write.en.eq(self.write),
            ]
            m.d.sync += out.eq(read.data)
        m.d.comb += self.o.eq(out)
        return m


class ScratchMemory(wiring.Component):
    """A memory of few words that is read and written every cycle: block RAM where ``estimate.scratch_blocks`` gives some.

    Members: ``o``, the word at ``address`` a cycle before, or two with ``block``; ``data`` is written to ``write_address`` where
    ``write`` holds. A word that is read and written in the same cycle is read as it was, of a ``block`` as anything.

    Timing: latency 1, of a ``block`` 2, whose second register is the block RAM's own; a read and a write a cycle. Words start as 0.
    Size: a ``block`` is one block RAM of an ECP5.
    """

    def __init__(self, width: int, depth: int, block: bool = False) -> None:
        self._depth, self._block = depth, block
        self.latency = 2 if block else 1
        address = max(1, (depth - 1).bit_length())
        super().__init__(
            {
                "address": In(address),
                "o": Out(width),
                "write_address": In(address),
                "data": In(width),
                "write": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = fabric(platform)
        ecp5 = of is not None and of.family == "ecp5"
        if ecp5 and self._block:
            m.submodules.cell = self._dp16kd()
            return m
        if ecp5 and RAM_WORDS < self._depth <= MOST_RAMS * RAM_WORDS:
            self._ecp5(m)
            return m
        width, depth = len(self.o), self._depth
        m.submodules.memory = memory = Memory(
            shape=width, depth=depth, init=[], attrs=accumulator_style(platform, width, depth)
        )
        read, write = memory.read_port(), memory.write_port()
        word: Value = read.data
        if self._block:
            word = _kept(self.o, "word")
            m.d.sync += word.eq(read.data)
        m.d.comb += [
            read.addr.eq(self.address),
            self.o.eq(word),
            write.addr.eq(self.write_address),
            write.data.eq(self.data),
            write.en.eq(self.write),
        ]
        return m

    def _dp16kd(self) -> Instance:
        """512 words of 36 bits: port A writes them, with an enable for each 9 bits, port B reads them, through the pins of both."""
        rows, columns = BLOCK_SHAPES[0]
        assert self._depth <= rows, "a memory is deeper than a block RAM"
        assert len(self.o) <= columns, "a word is wider than a block RAM's"
        where = [Cat(address, Const(0, 9))[:9] for address in (self.write_address, self.address)]
        data = Cat(self.data, Const(0, columns))[:columns]
        ports: dict[str, Any] = {}
        for number, side in enumerate("AB"):
            low = self.write.replicate(4) if side == "A" else Const(0, 4)
            pins = Cat(low, Const(0, 1), where[number])
            ports |= {f"i_AD{side}{bit}": pins[bit] for bit in range(14)}
            ports |= {f"i_DI{side}{bit}": data[18 * number + bit] for bit in range(18)}
            ports |= {
                f"o_DO{side}{bit}": self.o[18 * number + bit] for bit in range(18) if 18 * number + bit < len(self.o)
            }
            ports |= {f"i_CS{side}{bit}": Const(0) for bit in range(3)}
            ports |= {
                f"i_CLK{side}": ClockSignal(),
                f"i_CE{side}": Const(1),
                f"i_OCE{side}": Const(1),
                f"i_WE{side}": Const(int(side == "A")),
                f"i_RST{side}": Const(0),
                f"p_DATA_WIDTH_{side}": columns,
                f"p_REGMODE_{side}": "OUTREG",
                f"p_WRITEMODE_{side}": "NORMAL",
                f"p_CSDECODE_{side}": "0b000",
                f"p_CLK{side}MUX": f"CLK{side}",
            }
        return Instance("DP16KD", **ports, p_RESETMODE="SYNC", p_ASYNC_RESET_RELEASE="SYNC", p_GSR="DISABLED")

    def _ecp5(self, m: Module) -> None:
        """Distributed RAMs of 16 words, and a choice among them in the slices' own multiplexers.

        Yosys makes that choice of LUTs alone, twice as many.
        """
        low = RAM_WORDS.bit_length() - 1
        found: list[Value] = []
        width = len(self.o)
        for number in range(-(-self._depth // RAM_WORDS)):
            write = Signal(name=f"write_{number}")
            m.d.comb += write.eq(self.write & (self.write_address[low:] == number))
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
                    i_WAD=self.write_address[:low],
                    i_DI=Cat(self.data[column : column + 4], Const(0, 4))[:4],
                    i_RAD=self.address[:low],
                    o_DO=outs[-1],
                )
            found.append(Cat(*outs)[:width])
        word = _kept(self.o, "word_1")
        m.d.comb += self.o.eq(word)
        m.d.sync += word.eq(
            Cat(
                _choice(m, [word[bit] for word in found], self.address[low:], f"bit_{bit}")
                for bit in range(len(self.o))
            )
        )


RAM_WORDS = 16
"""Words of an ECP5's distributed RAM (TRELLIS_DPR16X4)."""
MOST_RAMS = 16
"""Of them on top of one another."""


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


class Register(wiring.Component):
    """A register that no tool merges with another of the same contents: what is broadcast to a far corner starts anew there.

    Members: ``i``, ``o`` unsigned(width). Timing: latency 1.
    """

    latency = 1

    def __init__(self, width: int) -> None:
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        of = fabric(platform)
        if of is None:
            m.d.sync += self.o.eq(self.i)
            return m
        reset = ResetSignal(allow_reset_less=True)
        for bit in range(len(self.i)):
            # cells that Yosys does not look into
            m.submodules[f"bit_{bit}"] = FLIP_FLOPS[of.family](ClockSignal(), reset, self.i[bit], self.o[bit])
        return m


def _trellis_ff(clock: Value, reset: Value, i: Value, o: Value) -> Instance:
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


FLIP_FLOPS: dict[str, Callable[[Value, Value, Value, Value], Instance]] = {
    "ecp5": _trellis_ff,
    "ice40": lambda clock, reset, i, o: Instance("SB_DFFSR", i_C=clock, i_R=reset, i_D=i, o_Q=o),
    "gowin": lambda clock, reset, i, o: Instance("DFFR", i_CLK=clock, i_RESET=reset, i_D=i, o_Q=o),
}
"""A flip-flop that a synchronous reset sets to 0."""


def choose(values: Sequence[Value], at: Value) -> Value:
    """One of the values; the only one without a multiplexer."""
    return Array(values)[at] if len(values) > 1 else values[0]
