"""Runs a cocotb bench on one block of the hardware: any Amaranth component, any bench module, parameters as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsegate import artefact
from sparsegate_sim import cache, runner
from sparsegate_sim.drive import Port, verilog_ports

TOP = "block"


def run(
    component: Any,
    bench: str,
    parameters: Mapping[str, Any],
    *,
    simulator: runner.Simulator = "icarus",
    waves: Path | None = None,
    folder: Path | None = None,
) -> Any:
    """Convert, build and run; returns what the bench reported.

    ``bench`` is a module whose tests use :func:`given`, and :func:`report` for results.

    Raises
    ------
    SimulationError
        If the bench fails.
    """
    # a bench imports this module too, and has no need of Amaranth
    from sparsegate_hw.synthesis.verilog import convert

    verilog = convert(component, TOP)
    ports = {name: [port.width, port.signed] for name, port in verilog_ports(verilog, TOP).items()}
    built = runner.build(verilog, TOP, simulator, runner.waves_format(waves))
    folder = cache.root() / "runs" if folder is None else Path(folder)
    with cache.scratch(folder) as scratch:
        artefact.write_json(scratch / "bench.json", {"ports": ports, "parameters": dict(parameters)})
        environment = {
            "SPARSEGATE_BENCH": str(scratch / "bench.json"),
            "SPARSEGATE_REPORT": str(scratch / "report.json"),
        }
        runner.run(built, TOP, simulator, bench, folder=folder, environment=environment, waves=waves)
        found = scratch / "report.json"
        return artefact.read_json(found) if found.exists() else None


def given() -> tuple[dict[str, Port], Any]:
    """Inside a bench: ports of the block, and the parameters that :func:`run` was given."""
    content = artefact.read_json(os.environ["SPARSEGATE_BENCH"])
    return {name: Port(*entry) for name, entry in content["ports"].items()}, content["parameters"]


def report(value: Any) -> None:
    """Inside a bench: hand a JSON value to the caller of :func:`run`."""
    artefact.write_json(os.environ["SPARSEGATE_REPORT"], value)


@dataclass(frozen=True)
class Item:
    """One item of a pipeline without back-pressure: inputs in its cycle, and outputs expected later.

    ``outputs`` maps a port to (cycles later, value).
    """

    inputs: dict[str, int]
    outputs: dict[str, tuple[int, int]]


def pipeline(items: Sequence[Item], seed: int, fixed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Parameters of ``bench_pipeline``; ``fixed`` inputs keep their values."""
    return {"items": [asdict(item) for item in items], "seed": seed, "fixed": dict(fixed or {})}
