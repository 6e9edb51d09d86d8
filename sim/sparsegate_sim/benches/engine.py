"""cocotb bench of a whole engine: streams a plan through its pins and records what comes out.

Run by :mod:`sparsegate_sim.simulate`; files come by environment variables, so that nothing is compiled in:

- ``SPARSEGATE_PLAN`` the plan to run (npz), ``SPARSEGATE_PORTS`` widths of the ports (JSON),
- ``SPARSEGATE_RECORDING`` where the recording goes (npz).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cocotb

from sparsegate import artefact
from sparsegate_sim.drive import Driver, Plan, Port
from sparsegate_sim.pins import CocotbPins, clocked, reset


@cocotb.test()
async def engine(dut: Any) -> None:
    """Run a plan; judging the recording is the scoreboard's task, outside the simulator."""
    plan = Plan.load(Path(os.environ["SPARSEGATE_PLAN"]))
    ports = {name: Port(*entry) for name, entry in artefact.read_json(os.environ["SPARSEGATE_PORTS"]).items()}
    pins = CocotbPins(dut, ports)
    driver = Driver(plan, ports, pins)
    driver.reset()
    await reset(dut)
    while not driver.done:
        await clocked(dut, driver.before, driver.after)
    driver.finish().save(Path(os.environ["SPARSEGATE_RECORDING"]))
