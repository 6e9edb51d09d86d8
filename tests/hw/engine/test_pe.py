from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from tests.hw.blocks import simulate, small_layout

from sparsegate.array import Layout, timing
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_hw.engine import pe
from sparsegate_hw.engine.pe import ProcessingElement
from sparsegate_hw.fabric.primitives import ScratchMemory

GRU = [Shape("gru", 10, NM(1, 4), NM(2, 4))]
READ = timing.SHALLOW.readout - timing.SHALLOW.broadcast - 1
"""From a read to its value."""


def shaped(apart: bool = False, block: bool = False, deep: bool = False, **changes: Any) -> Layout:
    """A small layout with some of its numbers replaced; of a ``block``, with all its accumulators in block RAM."""
    hardware = {"block_banks": 3 * block, "deep": deep}
    layout = small_layout(6, shapes=GRU, hardware=hardware) if apart else small_layout(hardware=hardware)
    vars(layout).update(changes)
    return layout


class Reference:
    """Accumulators of a PE, and the beats that may come next."""

    def __init__(self, layout: Layout, rng: random.Random, apart: bool) -> None:
        self.layout, self.rng, self.apart = layout, rng, apart
        self.block = 1 << layout.index_width
        self.index = [rng.randrange(self.block) for _ in range(layout.weight_depth)]
        self.weight = [rng.randint(-128, 127) for _ in range(layout.weight_depth)]
        self.dut = ProcessingElement(layout, self.index, self.weight, apart)
        self.values = [self.dut.value, self.dut.value_apart] if apart else [self.dut.value]
        self.acc: list[dict[int, int]] = [{} for _ in self.values]
        self.recent: list[int | None] = []

    def drive(self, ctx: Any, slots: range, entries: int) -> None:
        """Set a beat, or none, for an accumulator that was not hit in the last ``loop_distance - 1`` cycles."""
        rng, beat = self.rng, self.dut.beat
        address, slot = rng.randrange(entries) * (self.layout.weight_depth // entries), rng.choice(slots)
        delta, which = rng.randint(-200, 200), rng.randrange(len(self.acc))
        at = slot + self.index[address]
        distance = self.layout.loop_distance
        valid = rng.random() < 0.9 and at not in self.recent[-(distance - 1) or len(self.recent) :]
        self.recent.append(at if valid else None)
        ctx.set(beat.valid, int(valid))
        ctx.set(beat.address, address)
        ctx.set(beat.slot, slot)
        ctx.set(beat.delta, delta)
        if self.apart:
            ctx.set(beat.apart, which)
        if valid:
            self.acc[which] = self.dut.model(self.acc[which], slot, self.index[address], self.weight[address], delta)

    async def quiet(self, ctx: Any) -> None:
        """No beat any more; return when the first read may come."""
        ctx.set(self.dut.beat.valid, 0)
        await ctx.tick().repeat(self.dut.latency - 1)

    async def read(self, ctx: Any, addresses: Sequence[int], clear: bool, meanwhile: Any = lambda: None) -> None:
        """Read an address a cycle and compare each value, exactly READ cycles later."""
        wanted = []
        for cycle in range(len(addresses) + READ):
            if cycle >= READ:
                assert [ctx.get(value) for value in self.values] == wanted[cycle - READ], f"address {cycle - READ}"
            ctx.set(self.dut.read.valid, int(cycle < len(addresses)))
            if cycle < len(addresses):
                address = addresses[cycle]
                ctx.set(self.dut.read.address, address)
                ctx.set(self.dut.read.clear, int(clear))
                wanted.append([acc.get(address, 0) for acc in self.acc])
                for acc in self.acc if clear else ():
                    acc[address] = 0
            meanwhile()
            await ctx.tick()


class Undefined(ScratchMemory):
    """A block RAM that gives something else where a word is written and read in one cycle, as the device may."""

    def elaborate(self, platform: Any) -> Module:
        if not self._block:
            return super().elaborate(platform)
        m = Module()
        m.submodules.memory = memory = ScratchMemory(len(self.o), self._depth, block=True)
        collision = [Signal(name=f"collision_{stage}") for stage in range(memory.latency)]
        m.d.sync += [
            collision[0].eq(self.write & (self.write_address == self.address)),
            *(after.eq(before) for before, after in zip(collision, collision[1:], strict=False)),
        ]
        m.d.comb += [
            *(getattr(memory, name).eq(getattr(self, name)) for name in ("address", "write_address", "data", "write")),
            self.o.eq(memory.o ^ collision[-1].replicate(len(self.o))),
        ]
        return m


@pytest.mark.parametrize(("block", "deep"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("distance", [1, 2, 3, 4])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("words", [None, 2, 4])
def test_accumulates_and_reads_out(
    monkeypatch: pytest.MonkeyPatch, distance: int, apart: bool, words: int | None, block: bool, deep: bool
) -> None:
    monkeypatch.setattr(pe, "ScratchMemory", Undefined)
    changes = {"loop_distance": distance, **({"weight_words": words} if words else {})}
    layout = shaped(apart, block, deep, **changes)
    assert set(layout.acc_in_blocks) == {block}
    assert layout.weight_planes == (1 if words is None else -(-layout.weight_depth // words))
    assert words != 2 or layout.weight_planes > 8  # chosen in two steps, where an engine has two registers for it
    model = Reference(layout, random.Random(distance), apart)

    async def testbench(ctx: Any) -> None:
        for clear in (False, True, False):
            for _ in range(200):
                # few accumulators, so that most are hit again as soon as they may
                model.drive(ctx, range(2), min(4, layout.weight_depth))
                await ctx.tick()
            await model.quiet(ctx)
            assert all(any(acc.values()) for acc in model.acc)
            # the one that was hit last is read first, in the cycle in which its sum is written
            last = next(at for at in reversed(model.recent) if at is not None)
            await model.read(ctx, [*range(last, layout.acc_depth), *range(last)], clear)

    simulate(model.dut, testbench)


@pytest.mark.parametrize("blocks", [(False, False, False), (True, False, True)])
@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_one_bank_is_read_while_another_accumulates(apart: bool, distance: int, blocks: tuple[bool, ...]) -> None:
    depth, depths = 16, (16, 8, 16)
    layout = shaped(
        apart,
        acc_banks=3,
        acc_bank_depth=depth,
        acc_bank_depths=depths,
        acc_in_blocks=blocks,
        acc_depth=3 * depth,
        loop_distance=distance,
    )
    model = Reference(layout, random.Random(distance), apart)

    async def testbench(ctx: Any) -> None:
        for turn in range(7):
            bank, other = turn % 3, (turn + 1) % 3
            for _ in range(60):
                model.drive(ctx, range(bank * depth, bank * depth + 3), 8)
                await ctx.tick()
            await model.quiet(ctx)
            await model.read(
                ctx,
                range(bank * depth, bank * depth + depths[bank]),
                turn % 2 == 0,
                lambda other=other: model.drive(ctx, range(other * depth, other * depth + 3), 8),
            )
            await model.quiet(ctx)
        for bank in range(3):
            await model.read(ctx, range(bank * depth, bank * depth + depths[bank]), False)

    simulate(model.dut, testbench)


def test_a_row_without_sums_apart_takes_every_beat() -> None:
    """In a cluster whose other rows keep sums apart, the beat's flag means nothing to this one."""
    layout = shaped(True, loop_distance=1)
    dut = ProcessingElement(layout, [0], [3])
    assert not hasattr(dut, "value_apart")

    async def testbench(ctx: Any) -> None:
        for apart in (0, 1):
            ctx.set(dut.beat.valid, 1)
            ctx.set(dut.beat.delta, 5)
            ctx.set(dut.beat.apart, apart)
            await ctx.tick()
        ctx.set(dut.beat.valid, 0)
        await ctx.tick().repeat(dut.latency - 1)
        ctx.set(dut.read.valid, 1)
        await ctx.tick().repeat(READ)
        assert ctx.get(dut.value) == 2 * 3 * 5

    simulate(dut, testbench)
