"""cocotb bench of a block with a fixed latency: items go in with random bubbles between them, results must come out in time.

In a bubble every input takes a random value, so that a result which lingers, or arrives a cycle early or late, is noticed.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb

from sparsegate_sim import blocks
from sparsegate_sim.pins import CocotbPins, clocked, reset


@cocotb.test()
async def pipeline(dut: Any) -> None:
    """Play the items given by ``blocks.pipeline``."""
    ports, given = blocks.given()
    pins, rng = CocotbPins(dut, ports), random.Random(given["seed"])
    items = list(reversed(given["items"]))
    inputs = list(items[0]["inputs"])
    expected: dict[int, list[tuple[int, str, int]]] = {}
    for name, value in given["fixed"].items():
        pins.write(name, value)
    await reset(dut)
    cycle = number = compared = 0

    def before() -> None:
        nonlocal number
        if items and rng.random() < 0.75:
            item = items.pop()
            for name, (later, value) in item["outputs"].items():
                expected.setdefault(cycle + later, []).append((number, name, value))
            values = item["inputs"]
            number += 1
        else:
            values = {name: rng.randrange(1 << ports[name].width) for name in inputs}
        for name, value in values.items():
            pins.write(name, value & ((1 << ports[name].width) - 1))

    def after() -> None:
        nonlocal compared
        for which, name, value in expected.pop(cycle, []):
            got = pins.read(name)
            assert got == value, f"item {which}, port {name}: expected {value}, got {got}"
            compared += 1

    while items or expected:
        await clocked(dut, before, after)
        cycle += 1
    blocks.report({"compared": compared, "cycles": cycle})
