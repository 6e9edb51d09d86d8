"""CRC component against the Python model and the catalogue's check value."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from sparsegate.protocol import crc16
from sparsegate_hw.board.crc import Crc16


def test_check_value():
    assert Crc16.model(b"123456789") == 0x29B1


@pytest.mark.parametrize("seed", range(3))
def test_component_equals_model(seed):
    random_ = random.Random(seed)
    message = random_.randbytes(random_.randrange(1, 40))
    dut = Crc16()

    async def bench(ctx):
        for _ in range(2):  # a second run after start forgets the first
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for number, byte in enumerate(message):
                while random_.random() < 0.3:
                    await ctx.tick()
                ctx.set(dut.data, byte)
                ctx.set(dut.valid, 1)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                assert ctx.get(dut.crc) == crc16(message[: number + 1])
                assert ctx.get(dut.match) == (crc16(message[: number + 1]) == 0)
            for byte in crc16(message).to_bytes(2, "big"):
                ctx.set(dut.data, byte)
                ctx.set(dut.valid, 1)
                await ctx.tick()
                ctx.set(dut.valid, 0)
            assert ctx.get(dut.match)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert Crc16.latency == 1
