"""A request as it is received: held when its CRC is right, and a reason when it cannot be one."""

from __future__ import annotations

import random

import pytest
from tests.hw.blocks import simulate
from tests.hw.board.test_packet import CLOCK, GAP, TIMEOUT, make_program

from sparsegate.protocol import RUN_WORDS, Command, Frame, Identity, Reason, encode_step
from sparsegate_hw.board.request import Request


class Host:
    """Sends bytes with pauses, and watches what is held."""

    def __init__(self, bits: int = 8, loaded: bool = False, seed: int = 0) -> None:
        self.identity = Identity.of(make_program(inputs=5, bits=bits), CLOCK, loaded)
        self.dut = Request(self.identity, thresholds=3, timeout=TIMEOUT, gap=GAP)
        self.rng = random.Random(seed)

    async def begin(self, ctx):
        """The first ``answered`` opens the line: no byte is taken before."""
        ctx.set(self.dut.i.valid, 1)
        ctx.set(self.dut.i.payload, 0)
        for _ in range(5):
            assert not ctx.get(self.dut.i.ready)
            await ctx.tick()
        ctx.set(self.dut.i.valid, 0)
        await self.answer(ctx)

    async def answer(self, ctx):
        ctx.set(self.dut.answered, 1)
        await ctx.tick()
        ctx.set(self.dut.answered, 0)
        assert self.held(ctx) == (0, 0)

    def held(self, ctx):
        return ctx.get(self.dut.valid), ctx.get(self.dut.broken)

    async def send(self, ctx, data):
        for byte in data:
            while self.rng.random() < 0.3:
                await ctx.tick()
            ctx.set(self.dut.i.payload, byte)
            ctx.set(self.dut.i.valid, 1)
            await ctx.tick().until(self.dut.i.ready)
            ctx.set(self.dut.i.valid, 0)

    async def words(self, ctx):
        """All values of the payload, taken with pauses."""
        found = []
        while True:
            await ctx.tick().repeat(3)
            if not ctx.get(self.dut.words.valid):
                return found
            found.append(ctx.get(self.dut.words.payload))
            ctx.set(self.dut.words.ready, 1)
            await ctx.tick()
            ctx.set(self.dut.words.ready, 0)

    async def broken(self, ctx, limit):
        """Cycles until something broken is held."""
        for cycle in range(limit):
            assert not ctx.get(self.dut.valid)
            if ctx.get(self.dut.broken):
                return cycle
            await ctx.tick()
        raise AssertionError("nothing is held")


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_a_request_is_held_with_its_values_until_it_is_answered(bits):
    host = Host(bits, loaded=True, seed=bits)
    dut, rng = host.dut, host.rng

    async def testbench(ctx):
        await host.begin(ctx)
        for turn in range(12):
            kind = (Command.FRAME, Command.THRESHOLDS, Command.WEIGHTS, Command.RESET)[turn % 4]
            last, sequence, misfit, words = 0, rng.randrange(256), 0, []
            if kind == Command.FRAME:
                last = rng.randrange(2)
                values = [rng.randrange(-(1 << bits - 1), 1 << bits - 1) for _ in range(5)]
                payload = bytearray(encode_step(values, bits, bool(last)))
                words = [value & (0xFF if bits <= 8 else 0xFFFF) for value in values]
                if turn == 8 and bits % 8:
                    misfit = 1
                    payload[-1] = 1 << 6  # the top byte of the last value
                    words[-1] = words[-1] & 0xFF | 1 << 14 if bits > 8 else 1 << 6
            elif kind == Command.RESET:
                payload = b""
            else:
                count = 3 if kind == Command.THRESHOLDS else rng.choice([3, 2 + RUN_WORDS])
                words = [rng.randrange(1 << 16) for _ in range(count)]
                payload = b"".join(word.to_bytes(2, "little") for word in words)
            await host.send(ctx, b"\xa5\x00" * rng.randrange(2) + Frame(kind, sequence, bytes(payload)).encode())
            await ctx.tick().repeat(2)
            assert host.held(ctx) == (1, 0)
            assert not ctx.get(dut.idle)
            await host.send(ctx, Frame(Command.IDENTIFY, 99).encode())  # is dropped
            assert ctx.get(dut.valid)
            assert ctx.get(dut.command) == kind
            assert ctx.get(dut.sequence) == sequence
            assert ctx.get(dut.length) == len(payload)
            assert ctx.get(dut.misfit) == misfit
            if kind == Command.FRAME:
                assert ctx.get(dut.last) == last
            assert await host.words(ctx) == words
            await host.answer(ctx)
            assert ctx.get(dut.idle)

    simulate(dut, testbench)


def test_what_is_broken_is_held_with_its_reason():
    host = Host(seed=3)
    dut, rng = host.dut, host.rng
    good = Frame(Command.FRAME, 7, encode_step([1, 2, 3, 4, 5], 8, True)).encode()

    async def testbench(ctx):
        await host.begin(ctx)
        for turn in range(16):
            reason = (Reason.CRC, Reason.TIMEOUT, Reason.FRAMING, Reason.LENGTH)[turn % 4]
            quiet = GAP
            if reason == Reason.CRC:
                damaged = bytearray(good)
                damaged[rng.randrange(6, len(good))] ^= 1 << rng.randrange(8)
                await host.send(ctx, damaged)
            elif reason == Reason.TIMEOUT:
                await host.send(ctx, good[: rng.randrange(3, len(good))])
                quiet = TIMEOUT
            elif reason == Reason.FRAMING:
                await host.send(ctx, good[: rng.randrange(3, len(good))])
                await ctx.tick().repeat(2)  # a byte takes longer than that
                ctx.set(dut.i_error, 1)
                await ctx.tick()
                ctx.set(dut.i_error, 0)
                await host.send(ctx, good)  # belongs to it
            else:
                await host.send(ctx, Frame(Command.FRAME, 7, bytes(12)).encode())
            assert quiet <= await host.broken(ctx, quiet + 10)
            assert ctx.get(dut.reason) == reason
            await host.send(ctx, good)  # is dropped
            assert host.held(ctx) == (0, 1)
            await host.answer(ctx)
            await host.send(ctx, good)
            await ctx.tick().repeat(2)
            assert host.held(ctx) == (1, 0)
            assert ctx.get(dut.last)
            assert await host.words(ctx) == [1, 2, 3, 4, 5]
            await host.answer(ctx)

    simulate(dut, testbench)


@pytest.mark.parametrize("at", [4, 5, 6, 7, 12, 13])
def test_a_byte_about_the_timeout_is_in_time_or_late(at):
    """A frame pauses before its byte ``at``, in header, payload and CRC: it is held whole, or given up, never both."""
    good = Frame(Command.FRAME, 7, encode_step([1, 2, 3, 4, 5], 8, True)).encode()
    held = []
    for pause in range(TIMEOUT - 4, TIMEOUT + 5):
        host = Host(seed=pause)

        async def testbench(ctx, host=host, pause=pause):
            dut = host.dut
            await host.begin(ctx)
            await host.send(ctx, good[:at])
            await ctx.tick().repeat(pause)
            ctx.set(dut.i.payload, good[at])
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
            await host.send(ctx, good[at + 1 :])
            await ctx.tick().repeat(2)
            held.append(host.held(ctx))
            if held[-1] == (1, 0):
                assert await host.words(ctx) == [1, 2, 3, 4, 5]
            else:
                assert ctx.get(dut.reason) == Reason.TIMEOUT
            await host.answer(ctx)
            await host.send(ctx, good)
            await ctx.tick().repeat(2)
            assert host.held(ctx) == (1, 0)

        simulate(host.dut, testbench)
    late = held.index((0, 1))
    assert held == [(1, 0)] * late + [(0, 1)] * (len(held) - late)
    assert late
