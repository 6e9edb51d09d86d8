"""What an FPGA has ready-made: multipliers, memories of weights, and registers that stay where they are.

Every primitive has one behaviour and one latency. Without a :class:`~sparsegate_hw.fabric.budget.Fabric` it is plain Amaranth,
which simulators run; with one it is the device's own cell, whose registers are in use. Tests simulate both on the same random
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Module, Mux, ResetSignal, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import timing
from sparsegate.fpga.memory import SPRAM_SHAPE, rom_blocks
from sparsegate_hw.fabric.budget import fabric
from sparsegate_hw.fabric.contents import Contents
from sparsegate_hw.fabric.wires import kept, shifted_sum


def accumulator_style(platform: Any, width: int, depth: int) -> dict[str, Any]:
    """Attributes of a memory of few words that is read and written every cycle, with a registered read."""
    of = fabric(platform)
    return (
        {}
        if of is None
        else {"ram_style": "block" if of.cells.facts.scratch_blocks(width, depth, False) else "distributed"}
    )


def memory_style(
    platform: Any, width: int, depth: int, blocks: Callable[[int, int], int] = rom_blocks
) -> dict[str, Any]:
    """Attributes of a memory that is written and has a registered read: where it goes follows from its size alone."""
    of = fabric(platform)
    if of is None:
        return {}
    return {"ram_style": "distributed" if of.cells.facts.distributed and not blocks(width, depth) else "block"}


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
        widest = of.cells.facts.widest
        pieces = -(-len(self.a) // widest) * -(-len(self.b) // widest)
        if not of.take(pieces, self._small):
            self._logic(m)
        elif pieces > 1:
            self._behaviour(m)  # Yosys joins several
        else:
            of.cells.multiplier(m, self.a, self.b, self.o)
        return m

    def _behaviour(self, m: Module) -> None:
        a, b = kept(self.a, "a_1"), kept(self.b, "b_1")
        product, out = kept(self.o, "o_2"), kept(self.o, "o_3")
        m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b), out.eq(product)]
        m.d.comb += self.o.eq(out)

    def _logic(self, m: Module) -> None:
        """Two halves of the multiplication, then their sum; a ``*`` would become a multiplier again."""
        long, short = (self.a, self.b) if len(self.a) >= len(self.b) else (self.b, self.a)
        left, right = kept(long, "long_1"), kept(short, "short_1")
        half = len(right) // 2
        low = Signal(signed(len(left) + half), name="low_2", reset_less=True)
        high = Signal(signed(len(left) + len(right) - half), name="high_2", reset_less=True)
        out = kept(self.o, "o_3")
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
        by_size = of is not None and of.cells.facts.distributed  # else Yosys says what a table becomes
        if of is not None and (self._replaceable or (by_size and rom_blocks(self._width, len(self._words)))):
            m.submodules.memory = cells = Contents(self._width, self._words, registered=True)
            m.d.comb += [cells.address.eq(self.address), self.o.eq(cells.o)]
            return m
        style = {"rom_style": "logic"} if by_size else {}
        m.submodules.memory = memory = Memory(shape=self._width, depth=len(self._words), init=[], attrs=style)
        # Amaranth would look at every word by itself, half a minute for a million of them
        memory.init._elems[:] = self._words
        port = memory.read_port()
        out = kept(self.o, "out")
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
        out = kept(self.o, "out")
        if of is not None and of.take_spram():
            deepest, widest = SPRAM_SHAPE
            word = Signal(widest)
            m.submodules.cell = of.cells.single_port(
                Cat(self.address, Const(0, (deepest - 1).bit_length() - len(self.address))),
                self.write,
                Cat(self.data, Const(0, widest - self._width)),
                word,
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
    """A memory of few words that is read and written every cycle: block RAM where the family's ``scratch_blocks`` gives some.

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
        if of is not None and of.cells.scratch(m, self, self._depth, self._block):
            return m
        width, depth = len(self.o), self._depth
        m.submodules.memory = memory = Memory(
            shape=width, depth=depth, init=[], attrs=accumulator_style(platform, width, depth)
        )
        read, write = memory.read_port(), memory.write_port()
        word: Value = read.data
        if self._block:
            word = kept(self.o, "word")
            m.d.sync += word.eq(read.data)
        m.d.comb += [
            read.addr.eq(self.address),
            self.o.eq(word),
            write.addr.eq(self.write_address),
            write.data.eq(self.data),
            write.en.eq(self.write),
        ]
        return m


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
            m.submodules[f"bit_{bit}"] = of.cells.flip_flop(ClockSignal(), reset, self.i[bit], self.o[bit])
        return m
