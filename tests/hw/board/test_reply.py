"""A reply: its bytes come out as a frame, as often as it is asked for."""

from __future__ import annotations

import random

import pytest
from tests.hw.blocks import simulate

from sparsegate.protocol import NAK, REPLY, Frame
from sparsegate_hw.board.reply import Reply, _Bytes


@pytest.mark.parametrize("capacity", [1, 5, 16, 300])
def test_frames_whole_again_or_refused(capacity):
    """Header, payload and CRC under back-pressure; what is written stays, and a refusal between does not touch it."""
    dut, rng = Reply(capacity, reasons=3), random.Random(capacity)
    written = bytearray(rng.randbytes(capacity))

    async def write(ctx, address):
        written[address] = rng.randrange(256)
        for port, value in ((dut.write, 1), (dut.address, address), (dut.data, written[address])):
            ctx.set(port, value)
        await ctx.tick()
        ctx.set(dut.write, 0)

    async def testbench(ctx):
        for address in range(capacity):
            await write(ctx, address)
        for turn in range(6):
            if turn == 3:
                await write(ctx, rng.randrange(capacity))
            nak = turn in (1, 4)
            command, sequence, reason = rng.randrange(128), rng.randrange(256), rng.randrange(8)
            length = capacity if turn == 3 else rng.randint(1, capacity)
            for port, value in (
                (dut.command, command),
                (dut.sequence, sequence),
                (dut.length, length),
                (dut.nak, nak),
                (dut.reason, reason),
            ):
                ctx.set(port, value)
            payload = bytes([reason]) if nak else bytes(written[:length])
            wanted = Frame(NAK if nak else command | REPLY, sequence, payload).encode()
            # a byte that was just written is there before it is sent
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            sent = bytearray()
            for _ in range(40 * len(wanted)):
                ctx.set(dut.o.ready, rng.random() < 0.6)
                if ctx.get(dut.done):
                    break
                _, _, valid, ready, byte = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
                if valid and ready:
                    sent.append(byte)
            assert ctx.get(dut.done)
            assert bytes(sent) == wanted
            for _ in range(20):  # and no more than that
                assert not ctx.get(dut.o.valid)
                await ctx.tick()
                assert not ctx.get(dut.done)

    simulate(dut, testbench)


@pytest.mark.parametrize("depth", [1, 100, 128, 129, 300, 517])
def test_a_reply_s_memory_gives_every_byte_from_any_part(depth):
    dut, rng = _Bytes(depth), random.Random(depth)
    wanted = [rng.randrange(256) for _ in range(depth)]

    async def testbench(ctx):
        ctx.set(dut.write, 1)
        for address in rng.sample(range(depth), depth):
            ctx.set(dut.write_address, address)
            ctx.set(dut.data, wanted[address])
            await ctx.tick()
        ctx.set(dut.write, 0)
        asked = [rng.randrange(depth) for _ in range(2 * depth)] + [0, 0]
        for number, address in enumerate(asked):
            ctx.set(dut.address, address)
            if number >= 2:
                assert ctx.get(dut.o) == wanted[asked[number - 2]], (number, asked[number - 2])
            await ctx.tick()

    simulate(dut, testbench)
