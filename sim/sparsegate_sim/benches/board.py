"""cocotb bench of the board top through its UART pins only: the real host code on one end, the RTL on the other.

The host (``sparsegate.host``) runs in a thread of its own and thinks that it holds a serial port; its reads and writes let the
simulation go on. Only clk, rst and rx are driven, only tx is observed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.task import bridge, resume

from sparsegate import host
from sparsegate.program import Program
from sparsegate_sim import blocks
from sparsegate_sim.pins import CocotbPins, clocked, reset
from sparsegate_sim.serial import Line


class Port:
    """The host's serial port. ``noise``: probability that a byte to the board arrives with one bit flipped."""

    def __init__(self, dut: Any, pins: CocotbPins, divisor: int, seed: int, noise: float) -> None:
        self._dut, self._pins = dut, pins
        self._line, self._rng, self._noise = Line(divisor), random.Random(seed), noise
        self._byte = 10 * divisor
        self.damaged = 0

    async def _cycles(self, count: int) -> None:
        for _ in range(count):
            await clocked(self._dut, self._before, self._after)

    def _before(self) -> None:
        self._pins.write("rx", self._line.drive())

    def _after(self) -> None:
        self._line.observe(self._pins.read("tx"))

    @resume
    async def write(self, data: bytes) -> int:
        for byte in data:
            if self._rng.random() < self._noise:
                byte ^= 1 << self._rng.randrange(8)
                self.damaged += 1
            self._line.send(bytes([byte]), pause=self._rng.choice((0, 0, 0, 1, 3)))
        while not self._line.idle:
            await self._cycles(self._byte)
        return len(data)

    @resume
    async def read(self, size: int = 1) -> bytes:
        # a port's read returns after a while even where nothing came
        for _ in range(50):
            if self._line.bytes:
                break
            await self._cycles(self._byte)
        data = bytes(self._line.bytes[:size])
        del self._line.bytes[: len(data)]
        return data

    @property
    def in_waiting(self) -> int:
        return len(self._line.bytes)

    def close(self) -> None:
        pass


@cocotb.test()
async def board(dut: Any) -> None:
    """Run sequences through the board as a host would.

    Parameters: ``program`` and ``data`` (npz with raw and lengths) name files; ``divisor`` clock cycles a bit; ``noise``, ``seed``,
    ``thresholds`` (or null).
    """
    ports, given = blocks.given()
    pins = CocotbPins(dut, {name: ports[name] for name in ("rx", "tx")})
    program = Program.load(Path(given["program"]))
    with np.load(given["data"], allow_pickle=False) as file:
        raw, lengths = file["raw"], file["lengths"]
    port = Port(dut, pins, given["divisor"], given["seed"], given["noise"])
    pins.write("rx", 1)
    await reset(dut)
    thresholds = None if given["thresholds"] is None else tuple(given["thresholds"])

    @bridge
    def converse() -> host.HostResult:
        # the simulation is far slower than a wire: what counts as silence is up to read, not to the clock on the wall
        return host.run(port, program, raw, lengths, thresholds=thresholds, timeout=given["timeout"], retries=50)

    result = await converse()
    assert result.first_mismatch is None, result.first_mismatch
    blocks.report(
        {
            "steps": result.steps,
            "values_compared": result.values_compared,
            "mismatches": result.mismatches,
            "retries": result.retries,
            "damaged": port.damaged,
            "cycles": result.cycles.tolist(),
            "counters": dict(result.counters),
            "process": os.getpid(),
        }
    )
