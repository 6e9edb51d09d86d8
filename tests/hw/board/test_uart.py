"""UART: bytes through a line, at rates that differ, with gaps, spikes, missing stop bits and a slow reader."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from sparsegate.errors import SparseGateError
from sparsegate_hw.board.uart import Receiver, Transmitter, divisor_for


def run(dut, *benches):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


async def send(ctx, line, byte, divisor, stop=1):
    """One byte at ``divisor`` (it may be a fraction) cycles a bit, by hand."""
    due = 0.0
    for bit in [0, *((byte >> position) & 1 for position in range(8)), stop]:
        ctx.set(line, bit)
        due += divisor
        await ctx.tick().repeat(int(due))
        due -= int(due)


@pytest.mark.parametrize(("divisor", "seed"), [(4, 0), (5, 1), (8, 2), (87, 3)])
def test_transmitter_to_receiver(divisor, seed):
    random_ = random.Random(seed)
    message = random_.randbytes(12)
    m = Module()
    m.submodules.transmitter = transmitter = Transmitter(divisor)
    m.submodules.receiver = receiver = Receiver(divisor)
    m.d.comb += receiver.rx.eq(transmitter.tx)

    async def source(ctx):
        for byte in message:
            while random_.random() < 0.3:
                await ctx.tick()
            ctx.set(transmitter.i.payload, byte)
            ctx.set(transmitter.i.valid, 1)
            await ctx.tick().until(transmitter.i.ready)
            ctx.set(transmitter.i.valid, 0)

    async def sink(ctx):
        for byte in message:
            await ctx.tick().repeat(1 + random_.randrange(2 * divisor))
            ctx.set(receiver.o.ready, 1)
            (found,) = await ctx.tick().sample(receiver.o.payload).until(receiver.o.valid)
            ctx.set(receiver.o.ready, 0)
            assert found == byte

    run(m, source, sink)


def test_bytes_follow_without_a_gap():
    divisor = 6
    dut = Transmitter(divisor)
    seen = []

    async def source(ctx):
        ctx.set(dut.i.valid, 1)
        for byte in (0x00, 0xFF, 0xA5):
            ctx.set(dut.i.payload, byte)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)

    async def watch(ctx):
        for _ in range(31 * divisor):
            await ctx.tick()
            seen.append(ctx.get(dut.tx))

    run(dut, source, watch)
    start = seen.index(0)
    bits = seen[start + divisor // 2 :: divisor][:30]
    expected = [bit for byte in (0x00, 0xFF, 0xA5) for bit in (0, *((byte >> n) & 1 for n in range(8)), 1)]
    assert bits == expected
    assert all(seen[:start])


@pytest.mark.parametrize("drift", [0.97, 1.03])
def test_a_line_three_percent_off_is_understood(drift):
    divisor = 80
    dut = Receiver(divisor)
    message = random.Random(4).randbytes(6)
    found = []

    async def line(ctx):
        await ctx.tick().repeat(10)
        for byte in message:
            await send(ctx, dut.rx, byte, divisor * drift)
        await ctx.tick().repeat(divisor)

    async def sink(ctx):
        ctx.set(dut.o.ready, 1)
        while len(found) < len(message):
            (byte,) = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            found.append(byte)

    run(dut, line, sink)
    assert bytes(found) == message


def test_framing_error_spike_and_overflow():
    divisor = 8
    dut = Receiver(divisor)
    events = []

    async def line(ctx):
        await ctx.tick().repeat(20)
        ctx.set(dut.rx, 0)  # a spike shorter than half a bit
        await ctx.tick().repeat(2)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(12 * divisor)
        await send(ctx, dut.rx, 0x55, divisor, stop=0)
        await ctx.tick().repeat(40 * divisor)  # the line stays low: one error, no bytes
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(2 * divisor)
        await send(ctx, dut.rx, 0x11, divisor)
        await send(ctx, dut.rx, 0x22, divisor)  # nobody took the first
        await ctx.tick().repeat(2 * divisor)
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(2)
        ctx.set(dut.o.ready, 0)
        await send(ctx, dut.rx, 0x33, divisor)
        await ctx.tick().repeat(divisor)

    async def watch(ctx):
        async for _, _, error, overflow, valid, ready, payload in ctx.tick().sample(
            dut.error, dut.overflow, dut.o.valid, dut.o.ready, dut.o.payload
        ):
            if error:
                events.append("error")
            if overflow:
                events.append("overflow")
            if valid and ready:
                events.append(payload)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(line)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert events == ["error", "overflow", 0x22]


def test_rates():
    assert divisor_for(80e6, 1e6) == 80
    assert divisor_for(25e6, 115200) == 217
    with pytest.raises(SparseGateError, match="a clock of 25 MHz gives .* baud, not 9000000 within 2 %"):
        divisor_for(25e6, 9e6)
    for kind in (Receiver, Transmitter):
        with pytest.raises(SparseGateError, match="at least 4 clock cycles a bit, not 3"):
            kind(3)
