"""A processing element: weight memory, multiplier, accumulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout, timing
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.fabric.primitives import LoadedMemory, Multiplier, ReadOnlyMemory, ScratchMemory
from sparsegate_hw.fabric.wires import choose


def depth_bits(depth: int) -> int:
    """Bits of an address into ``depth`` words, at least 1."""
    return max(1, (depth - 1).bit_length())


class Beat(wiring.Signature):
    """One entry for every PE of a group to process.

    ``address`` of the entry in the weight memory; ``delta``, already at the matrix's scale; ``slot``, accumulator address
    of the block's first unit; ``apart``, where some gate needs it: of a matrix whose products such gates sum apart.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "address": Out(depth_bits(layout.weight_depth)),
                "delta": Out(signed(layout.operand_width)),
                "slot": Out(depth_bits(layout.acc_depth)),
                **({"apart": Out(1)} if layout.apart_rows else {}),
            }
        )


class WeightWrite(wiring.Signature):
    """One word for one weight memory: ``data``, an entry, to ``address`` of the PE ``pe`` = row * groups + group."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "pe": Out(depth_bits(layout.config.pes)),
                "address": Out(depth_bits(layout.weight_depth)),
                "data": Out(layout.entry_width),
            }
        )


class Read(wiring.Signature):
    """Read-out of one accumulator of every PE; ``clear`` writes zero after it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__({"valid": Out(1), "address": Out(depth_bits(layout.acc_depth)), "clear": Out(1)})


class ProcessingElement(wiring.Component):
    """acc[slot + index] += weight * delta, one entry a cycle.

    Members: ``beat`` (:class:`Beat`), ``read`` (:class:`Read`), ``value`` signed(partial_width). ``index`` and ``weight`` are the
    entries of the weight memory. With ``apart``, products of such beats go to a second accumulator, read at ``value_apart``
    at the same time. Of a layout whose weights are loaded: in a cycle with ``write``, which has no valid beat, ``data`` becomes
    the entry at the beat's address.

    Timing: an entry's sum is written ``layout.depths.mac`` cycles after its beat (6, deep 7, with accumulators in block RAM two
    more); the accumulator read by ``read`` is at ``value`` 3 cycles later. One accumulator is hit no sooner than
    ``layout.loop_distance`` cycles after it was. A read must come no sooner than ``mac`` cycles after the last beat for its bank
    (``layout.acc_banks`` of them, the high bits of an accumulator's address), and no product may be at that bank while it is read,
    nor within four cycles after; other banks are free.
    Arithmetic: exact; the Program proves that ``partial_width`` bits suffice.
    """

    def __init__(self, layout: Layout, index: Sequence[int], weight: Sequence[int], apart: bool = False) -> None:
        self.latency = layout.depths.mac
        self._layout, self._apart = layout, apart
        self._words = layout.pack(np.asarray(index, np.int64), np.asarray(weight, np.int64)).tolist()
        super().__init__(
            {
                "beat": In(Beat(layout)),
                "read": In(Read(layout)),
                "value": Out(signed(layout.partial_width)),
                **({"value_apart": Out(signed(layout.partial_width))} if apart else {}),
                **({"write": In(1), "data": In(layout.entry_width)} if layout.config.loaded else {}),
            }
        )

    @staticmethod
    def model(acc: Mapping[int, int], slot: int, index: int, weight: int, delta: int) -> dict[int, int]:
        """Integer model of one entry."""
        return {**acc, slot + index: acc.get(slot + index, 0) + weight * delta}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, beat, read = self._layout, self.beat, self.read
        planes = layout.weight_planes
        weights: LoadedMemory | ReadOnlyMemory
        if layout.config.loaded:
            weights = LoadedMemory(layout.entry_width, self._words)
            m.d.comb += [weights.write.eq(self.write), weights.data.eq(self.data)]
        else:
            weights = ReadOnlyMemory(planes * layout.entry_width, self._words, replaceable=True)
        m.submodules.weights = weights
        m.submodules.multiplier = multiplier = Multiplier(layout.weight_width, layout.operand_width)

        later = partial(delay, m, reset_less=True)

        # -- fetch -----------------------------------------------------------------------------------------------------
        m.d.comb += weights.address.eq(beat.address)
        entries = data.ArrayLayout(
            data.StructLayout({"index": layout.index_width, "weight": signed(layout.weight_width)}), planes
        )
        word = data.View(entries, weights.o)
        at = later(beat.address[weights.address.shape().width :], timing.MEMORY, "plane") if planes > 1 else Const(0)
        fetch = layout.depths.fetch
        slot = later(beat.slot, fetch, "slot")
        address = Signal(depth_bits(layout.acc_depth), name="address", reset_less=True)
        weight, index = (
            self._chosen(later, [word[plane][name] for plane in range(planes)], at, name)
            for name in ("weight", "index")
        )
        m.d.comb += [multiplier.a.eq(weight), multiplier.b.eq(later(beat.delta, fetch, "delta"))]
        m.d.sync += address.eq(slot + index)

        product = later(multiplier.o, layout.depths.hold, "product").as_signed()

        # -- accumulate ------------------------------------------------------------------------------------------------
        valid = delay(m, beat.valid, fetch + 1, "valid")
        wanted = {"": valid}
        if self._apart:
            apart = later(beat.apart, fetch + 1, "apart")
            wanted = {"": valid & ~apart, "_apart": valid & apart}
        low = depth_bits(layout.acc_bank_depth)
        banks = range(layout.acc_banks)
        places = list(zip(layout.acc_bank_depths, layout.acc_in_blocks, strict=True))
        values = {name: [_Accumulators(layout, *place) for place in places] for name in wanted}
        for bank in banks:
            chosen, reading = (
                ((value[low:] == bank) if len(banks) > 1 else Const(1, 1)) for value in (address, read.address)
            )
            for name, enable in wanted.items():
                unit = values[name][bank]
                m.submodules[f"accumulators{name}_{bank}" if len(banks) > 1 else f"accumulators{name}"] = unit
                m.d.comb += [
                    unit.hit.eq(enable & chosen),
                    # a smaller bank's accumulators lie at its low addresses
                    unit.address.eq(Mux(read.valid & reading, read.address[:low], address[:low])),
                    unit.clear.eq(read.valid & reading & read.clear),
                    unit.product.eq(product),
                ]
        asked = later(read.address[low:], 2, "asked") if len(banks) > 1 else Const(0)
        for name, units in values.items():
            value = choose([unit.value for unit in units], asked)
            m.d.comb += getattr(self, f"value{name}").eq(later(value, 1, f"read{name}"))
        return m

    def _chosen(self, later: Callable[..., Any], values: Sequence[Value], at: Value, name: str) -> Value:
        """A word's entry, registered as ``depths.fetch`` has it: of two registers the first is behind a choice among four."""
        stages = self._layout.depths.fetch - timing.MEMORY
        if stages > 1 and len(values) > 4:
            some = [values[first : first + 4] for first in range(0, len(values), 4)]
            values = [later(choose(four, at[:2]), 1, f"{name}_{number}") for number, four in enumerate(some)]
            at, stages = later(at[2:], 1, f"{name}_plane"), stages - 1
        return later(choose(values, at), stages, name)


class _Accumulators(wiring.Component):
    """A bank of ``depth`` accumulators: memory[address] += product.

    Members: ``hit`` with ``address``, and two cycles later, or ``depths.hold`` more, ``product``; ``clear`` with ``address`` in
    place of a hit writes zero; ``value`` is what the accumulator at ``address`` held, two cycles later.

    Timing: the sum of a hit is written ``MUL + depths.hold`` cycles after it. One accumulator is hit no sooner than
    ``layout.loop_distance`` cycles after it was: of the two sums on their way to the memory, those that may be asked for again are
    forwarded. A ``block`` RAM is asked a cycle sooner, for its second register: there are three such sums, and a value that is
    read may be the first. With ``hold`` what they are chosen from goes into a register, and there is one sum more, the last: it
    is forwarded behind that register.
    """

    def __init__(self, layout: Layout, depth: int, block: bool = False) -> None:
        self._layout, self._depth, self._block = layout, depth, block
        super().__init__(
            {
                "hit": In(1),
                "clear": In(1),
                "address": In(depth_bits(depth)),
                "product": In(signed(layout.weight_width + layout.operand_width)),
                "value": Out(signed(layout.partial_width)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, block = self._layout, self._block
        m.submodules.memory = memory = ScratchMemory(layout.partial_width, self._depth, block)
        hold = layout.depths.hold
        stages = 3 + block + hold
        address = [Signal.like(self.address, name=f"address_{stage}", reset_less=True) for stage in range(stages)]
        write = [Signal(name=f"write_{stage}") for stage in range(stages)]
        clear = [Signal(name=f"clear_{stage}") for stage in range(2 + hold)]
        total = Signal(signed(layout.partial_width), name="total", reset_less=True)
        m.d.sync += [
            *(after.eq(before) for before, after in zip([self.address, *address], address, strict=False)),
            *(after.eq(before) for before, after in zip([self.hit | self.clear, *write], write, strict=False)),
            *(after.eq(before) for before, after in zip([self.clear, *clear], clear, strict=False)),
        ]
        again = [(address[0] == later) & wanted for later, wanted in zip(address[1:], write[1:], strict=True)]
        last, *others = [each if at >= layout.loop_distance else None for at, each in enumerate(again, 1)]
        current = memory.o.as_signed()
        near = others if hold else [last, *others]
        # of a block RAM the first sum counts whatever the distance: a value that is read may be it
        held = (
            self._of_three(m, current, total, [*near[:2], again[-1]])
            if block
            else self._of_two(m, current, total, near)
        )
        m.d.comb += [
            memory.address.eq(self.address if block else address[0]),
            self.value.eq(held if block else current),
            memory.write_address.eq(address[2 + hold]),
            memory.data.eq(total),
            memory.write.eq(write[2 + hold]),
        ]
        if hold:
            register = Signal.like(total, name="held", reset_less=True)
            m.d.sync += register.eq(held)
            held = register
            if last is not None:
                held = Mux(delay(m, last, 2, "again_last"), total, register).as_signed()
        m.d.sync += total.eq(held + self.product)
        with m.If(clear[-1]):
            m.d.sync += total.eq(0)
        return m

    def _of_two(self, m: Module, current: Value, total: Signal, near: Sequence[Value | None]) -> Value:
        """What an accumulator holds: the last sum or the one before, where ``near`` of them is the same accumulator's."""
        held = current
        if near[1] is not None:
            earlier = Signal.like(total, name="earlier")
            wanted = Signal(name="again_2")
            m.d.sync += [earlier.eq(total), wanted.eq(near[1])]
            held = Mux(wanted, earlier, held).as_signed()
        if near[0] is not None:
            wanted = Signal(name="again_1")
            m.d.sync += wanted.eq(near[0])
            held = Mux(wanted, total, held).as_signed()
        return held

    def _of_three(self, m: Module, current: Value, total: Signal, near: Sequence[Value | None]) -> Value:
        """The same with one sum more: a choice of one of four, by two bits that are known a cycle before."""
        earlier, earliest = (Signal.like(total, name=name) for name in ("earlier", "earliest"))
        last, before, first = (Const(0) if each is None else each for each in near)
        chosen = Signal(2, name="chosen")
        m.d.sync += [
            earlier.eq(total),
            earliest.eq(earlier),
            chosen.eq(Mux(last, 3, Mux(before, 2, first))),
        ]
        return Mux(chosen[1], Mux(chosen[0], total, earlier), Mux(chosen[0], earliest, current)).as_signed()
