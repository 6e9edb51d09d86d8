"""Memories whose contents a Program decides, as cells of the device: a bitstream can be given other contents.

A read-only memory that Yosys sees becomes whatever its contents make simplest: a bit that is always 0 disappears, a small
one turns into logic. Memory cells that the design names itself stay what they are. So the netlist is the same for every
Program of a shape, and ``sparsegate_hw.synthesis.patch`` finds the cells in the routed design by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.fpga.memory import contents_blocks
from sparsegate_hw.fabric.budget import family
from sparsegate_hw.fabric.family import Family


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
        if of is None:
            m.submodules.memory = memory = Memory(shape=self._width, depth=len(self._words), init=[])
            # Amaranth would look at every word by itself, half a minute for a million of them
            memory.init._elems[:] = self._words
            read = memory.read_port()
            m.d.comb += read.addr.eq(self.address)
            word: Value = read.data
        elif of.facts.distributed and not contents_blocks(self._width, len(self._words)):
            word = self._distributed(m, of)
        else:
            inside = self._registered and of.rom_registered
            word = self._tiles(m, of, inside)
        if self._registered and not inside:
            out = Signal.like(self.o, name="out", reset_less=True)
            m.d.sync += out.eq(word)
            word = out
        m.d.comb += self.o.eq(word)
        return m

    def _tiles(self, m: Module, of: Family, registered: bool) -> Value:
        """Block RAMs side by side, and in rows where the memory is deeper than one."""
        depth, columns = of.facts.block_shape(len(self._words))
        inside = (depth - 1).bit_length()
        address = Cat(self.address, Const(0, inside))[:inside]
        rows = []
        for row in range(-(-len(self._words) // depth)):
            words = self._words[row * depth : (row + 1) * depth]
            parts = []
            for column in range(-(-self._width // columns)):
                out = Signal(columns, name=f"out_{row}_{column}")
                mine = [word >> column * columns & (1 << columns) - 1 for word in words]
                m.submodules[f"block_{row}_{column}"] = of.rom(columns, mine, address, out, registered)
                parts.append(out)
            rows.append(Cat(*parts)[: self._width])
        chosen: Value = self.address[inside:]
        if len(rows) > 1:
            for stage in range(2 if registered else 1):
                row = Signal(range(len(rows)), name=f"row_{stage}", reset_less=True)
                m.d.sync += row.eq(chosen)
                chosen = row
        return Array(rows)[chosen] if len(rows) > 1 else rows[0]

    def _distributed(self, m: Module, of: Family) -> Value:
        banks = []
        for bank in range(-(-len(self._words) // 16)):
            words = self._words[16 * bank : 16 * bank + 16]
            outs = []
            for column in range(-(-self._width // 4)):
                out = Signal(4, name=f"out_{bank}_{column}")
                init = sum((word >> 4 * column & 15) << 4 * at for at, word in enumerate(words))
                m.submodules[f"cell_{bank}_{column}"] = of.small_rom(init, Cat(self.address, Const(0, 4))[:4], out)
                outs.append(out)
            banks.append(Cat(*outs)[: self._width])
        word = Signal.like(self.o, name="word", reset_less=True)
        m.d.sync += word.eq(Array(banks)[self.address[4:]] if len(banks) > 1 else banks[0])
        return word
