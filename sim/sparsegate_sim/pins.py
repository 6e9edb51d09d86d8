"""A design's ports in cocotb, and the clock.

The bench moves the clock itself instead of racing against one: inputs change while it is low, outputs are read when they
have settled, then it rises. So a cycle means the same in Icarus, in Verilator and in Amaranth's simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cocotb.triggers import Timer

from sparsegate_sim.drive import RESET_CYCLES, Port

HALF = 5
"""Half a clock period in nanoseconds."""


class CocotbPins:
    """Ports of a cocotb design under their Verilog names; ports without bits read as 0."""

    def __init__(self, dut: Any, ports: Mapping[str, Port]) -> None:
        self._ports = dict(ports)
        self._handles = {name: getattr(dut, name) for name, port in ports.items() if port.width}

    def read(self, name: str) -> int:
        port = self._ports[name]
        if not port.width:
            return 0
        value = self._handles[name].value
        try:
            raw = int(value) if port.width == 1 else value.to_unsigned()
        except ValueError:
            raise ValueError(f"port {name} is {value}, expected 0s and 1s only") from None
        return port.value(raw)

    def write(self, name: str, value: int) -> None:
        if self._ports[name].width:
            self._handles[name].value = value


async def reset(dut: Any) -> None:
    """Hold the design in reset for a few cycles; the next cycle is number 0."""
    dut.rst.value = 1
    dut.clk.value = 0
    for _ in range(RESET_CYCLES):
        await Timer(HALF, "ns")
        dut.clk.value = 1
        await Timer(HALF, "ns")
        dut.clk.value = 0
    dut.rst.value = 0


async def clocked(dut: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
    """One cycle: ``before`` sets inputs, ``after`` reads settled outputs, then the clock rises.

    Never write in ``after``: the clock rises at that very moment.
    """
    before()
    await Timer(HALF, "ns")
    after()
    dut.clk.value = 1
    await Timer(HALF, "ns")
    dut.clk.value = 0
