"""cocotb bench of the input encoder: a source with random stalls, and banks taken and given back after random delays."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from sparsegate_sim import blocks
from sparsegate_sim.pins import CocotbPins, clocked, reset


@cocotb.test()
async def encoder(dut: Any) -> None:
    """Frames in, lists of moved columns out.

    Parameters: ``frames`` [values, last] in order; ``lists`` for each frame the expected [column, delta] pairs; ``groups``,
    ``width`` of a value, ``threshold``, ``seed``.
    """
    ports, given = blocks.given()
    pins, rng = CocotbPins(dut, ports), random.Random(given["seed"])
    width, groups = given["width"], given["groups"]
    source = [
        (value, int(last and place == len(values) - 1))
        for values, last in given["frames"]
        for place, value in enumerate(values)
    ]
    for name in ports:
        if name.startswith("threshold__"):
            pins.write(name, given["threshold"])
    pins.write("i__valid", 0)
    pins.write("i__payload", 0)
    pins.write("release", 0)
    await reset(dut)
    sent, offered, release, taken = 0, False, False, 0
    pushed: dict[int, list[list[int]]] = {0: [], 1: []}

    def before() -> None:
        nonlocal offered, release
        offered = sent < len(source) and (offered or rng.random() < 0.6)
        if offered:
            value, last = source[sent]
            pins.write("i__payload", value & ((1 << width) - 1) | last << width)
        pins.write("i__valid", int(offered))
        pins.write("release", int(release))

    def after() -> None:
        nonlocal sent, offered, release, taken
        if release:
            release = False  # the bank that is observed now is the one just given back
        elif pins.read("ready") and rng.random() < 0.3:
            bank = pins.read("bank")
            want, last = given["lists"][taken], given["frames"][taken][1]
            assert pushed[bank] == want, f"frame {taken}: expected columns {want}, got {pushed[bank]}"
            assert pins.read("last") == int(last), f"frame {taken}: expected last = {int(last)}"
            pushed[bank] = []
            taken += 1
            release = True
        if pins.read("push__valid"):
            column = pins.read("push__place") * groups + pins.read("push__group")
            pushed[pins.read("push__bank")].append([column, pins.read("push__delta")])
        if offered and pins.read("i__ready"):
            sent += 1
            offered = False

    for _ in range(200 * len(source) + 1000):
        await clocked(dut, before, after)
        if taken == len(given["frames"]):
            break
    assert taken == len(given["frames"]), f"{taken} frames came out, expected {len(given['frames'])}"
    assert not any(pushed.values()), f"columns without a frame: {pushed}"
    blocks.report({"frames": taken})
