"""cocotb bench of a processing element: bursts of beats with random bubbles, then every accumulator is read out."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from sparsegate_sim import blocks
from sparsegate_sim.pins import CocotbPins, clocked, reset


@cocotb.test()
async def processing_element(dut: Any) -> None:
    """Accumulate and read.

    Parameters: ``bursts`` with ``beats`` [address, slot, delta], whether the read-out clears, and the ``expected`` accumulators by
    address; ``mac`` and ``readout`` cycles from a beat to its write, and from a read to its value; ``seed``.
    """
    ports, given = blocks.given()
    pins, rng = CocotbPins(dut, ports), random.Random(given["seed"])
    for name, port in ports.items():
        if name.startswith(("beat__", "read__")) and port.width:
            pins.write(name, 0)
    await reset(dut)
    compared = 0

    async def cycles(count: int) -> None:
        for _ in range(count):
            await clocked(dut, lambda: None, lambda: None)

    def beat(valid: int, address: int, slot: int, delta: int) -> None:
        pins.write("beat__valid", valid)
        for name, value in (("address", address), ("slot", slot), ("delta", delta)):
            pins.write(f"beat__{name}", value & ((1 << ports[f"beat__{name}"].width) - 1))

    for number, burst in enumerate(given["bursts"]):
        for values in burst["beats"]:
            while rng.random() < 0.3:
                # what comes with a beat that is not valid must not matter
                beat(0, rng.getrandbits(3) & 1, rng.getrandbits(1), rng.getrandbits(8))
                await cycles(1)
            beat(1, *values)
            await cycles(1)
        beat(0, 0, 0, 0)
        await cycles(given["mac"])
        for address, want in enumerate(burst["expected"]):
            pins.write("read__valid", 1)
            pins.write("read__address", address)
            pins.write("read__clear", int(burst["clear"]))
            await cycles(1)
            pins.write("read__valid", 0)
            await cycles(given["readout"] - 1)
            await clocked(dut, lambda: None, check(pins, number, address, want))
            compared += 1
    blocks.report({"compared": compared})


def check(pins: CocotbPins, burst: int, address: int, want: int) -> Any:
    """A function that compares ``value`` when it is called."""

    def compare() -> None:
        got = pins.read("value")
        assert got == want, f"burst {burst}, accumulator {address}: expected {want}, got {got}"

    return compare
