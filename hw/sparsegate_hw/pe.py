"""A processing element: weight memory, multiplier, accumulators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.layout import Layout


def depth_bits(depth: int) -> int:
    """Bits of an address into ``depth`` words, at least 1."""
    return max(1, (depth - 1).bit_length())


class Beat(wiring.Signature):
    """One entry for every PE of a group to process.

    ``address`` of the entry in the weight memory; ``delta``, already at the matrix's scale; ``slot``, accumulator address
    of the block's first unit.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "address": Out(depth_bits(layout.weight_depth)),
                "delta": Out(signed(layout.operand_width)),
                "slot": Out(depth_bits(layout.acc_depth)),
            }
        )


class Read(wiring.Signature):
    """Read-out of one accumulator of every PE; ``clear`` writes zero after it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__({"valid": Out(1), "address": Out(depth_bits(layout.acc_depth)), "clear": Out(1)})


class ProcessingElement(wiring.Component):
    """acc[slot + index] += weight * delta, one entry a cycle.

    Members: ``beat`` (:class:`Beat`), ``read`` (:class:`Read`), ``value`` signed(acc_width). ``weights`` are the contents
    of the weight memory.

    Timing: an entry's product is added, and written, ``MAC`` = 4 cycles after its beat; the accumulator read by ``read`` is
    at ``value`` 2 cycles later. The same accumulator may be hit in consecutive cycles. A read must not come while a product
    is at the accumulator.
    Arithmetic: exact; the Program proves that ``acc_width`` bits suffice.
    """

    latency = timing.MAC

    def __init__(self, layout: Layout, index: Sequence[int], weight: Sequence[int]) -> None:
        self._layout = layout
        self._entry = data.StructLayout({"index": layout.index_width, "weight": signed(layout.weight_width)})
        self._init = [{"index": int(i), "weight": int(w)} for i, w in zip(index, weight, strict=True)]
        super().__init__({"beat": In(Beat(layout)), "read": In(Read(layout)), "value": Out(signed(layout.acc_width))})

    @staticmethod
    def model(acc: Mapping[int, int], slot: int, index: int, weight: int, delta: int) -> dict[int, int]:
        """Integer model of one entry."""
        return {**acc, slot + index: acc.get(slot + index, 0) + weight * delta}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, beat, read = self._layout, self.beat, self.read
        m.submodules.weights = weights = Memory(shape=self._entry, depth=len(self._init), init=self._init)
        m.submodules.accumulators = accumulators = Memory(
            shape=signed(layout.acc_width), depth=layout.acc_depth, init=[]
        )
        fetch = weights.read_port()
        current = accumulators.read_port(domain="comb")
        update = accumulators.write_port()

        # fetch: the memory's own output register is stage 1
        valid = [Signal(name=f"valid_{stage}") for stage in range(1, self.latency + 1)]
        delta_1, delta_2 = Signal.like(beat.delta, name="delta_1"), Signal.like(beat.delta, name="delta_2")
        slot_1 = Signal.like(beat.slot, name="slot_1")
        m.d.comb += fetch.addr.eq(beat.address)
        m.d.sync += [valid[0].eq(beat.valid), delta_1.eq(beat.delta), slot_1.eq(beat.slot)]
        for before, after in zip(valid, valid[1:], strict=False):
            m.d.sync += after.eq(before)

        # operands
        weight_2 = Signal(signed(layout.weight_width))
        address_2, address_3, address = (Signal(depth_bits(layout.acc_depth), name=f"address_{s}") for s in (2, 3, 4))
        m.d.sync += [weight_2.eq(fetch.data.weight), delta_2.eq(delta_1), address_2.eq(slot_1 + fetch.data.index)]

        # multiply, two registers for the multiplier's own
        product_3, product = (
            Signal(signed(layout.weight_width + layout.operand_width), name=f"product_{s}") for s in (3, 4)
        )
        m.d.sync += [product_3.eq(weight_2 * delta_2), product.eq(product_3), address_3.eq(address_2)]

        # accumulate; read-out shares the address register, so that the loop has no multiplexer in it
        clear = Signal()
        m.d.sync += [address.eq(Mux(read.valid, read.address, address_3)), clear.eq(read.valid & read.clear)]
        m.d.comb += [
            current.addr.eq(address),
            update.addr.eq(address),
            update.data.eq(Mux(clear, 0, current.data + product)),
            update.en.eq(valid[-1] | clear),
        ]
        m.d.sync += self.value.eq(current.data)
        return m
