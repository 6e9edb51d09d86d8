"""Speed of the tools at the size of the published engines: golden model, compile and RTL of LSTM 123 to 1024 on 96 PEs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate_app.bench import cpu, golden, tools, workloads
from sparsegate_app.bench.metered import metered


def measure(folder: Path, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record: of data in ``folder``; the network is kept in ``work``."""
    workload = workloads.WORKLOADS["spartus"]
    say("golden model and torch")
    rate = golden.measure(*golden.CASES[-1], repeats=3, pattern=NM(1, 16), head=0)
    say("network")
    program, config = workload.make(folder, work).program, workload.config
    say("compile")
    cost = _compile(program, config)
    say("Verilated RTL")
    found = tools.simulate(program, config, synthetic.stimulus(program.input_format, 2, 16, program.inputs, seed=1))
    if not found.passed:
        raise SparseGateError(found.summary)
    return {
        "processor": cpu.processor(),
        "golden": rate,
        "compile": cost | {"rows": config.rows, "groups": config.groups},
        "rtl": {
            "cycles": found.cycles,
            "seconds": round(found.seconds, 2),
            "build_seconds": round(found.build_seconds, 1),
            "cycles_per_second": round(found.cycles / found.seconds),
            "values_compared": found.values_compared,
        },
    }


def _compile(program: Program, config: HardwareConfig) -> dict[str, Any]:
    """What ``sparsegate compile`` takes."""
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        program.save(Path(scratch) / "program.safetensors")
        array = ["--rows", str(config.rows), "--groups", str(config.groups), "--outputs", str(config.outputs)]
        return metered(["compile", "program.safetensors", *array, *["--deep"] * config.deep], scratch)


def table(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a table: what, how much, and what is to be reached."""
    rate, cost, rtl = result["golden"], result["compile"], result["rtl"]
    return [
        ("golden model, batch of 64", f"{rate['golden']:,} steps/s", "1,000 steps/s or more"),
        ("float torch.nn.LSTM, the same batch", f"{rate['torch']:,} steps/s", ""),
        ("compile, wall and processor time", f"{cost['seconds']} s, {cost['cpu_seconds']} s", "under 60 s"),
        ("compile, memory of the largest process", f"{cost['megabytes']:,} MB", "under 2,000 MB"),
        ("Verilated RTL, one core", f"{rtl['cycles_per_second']:,} cycles/s", "20,000 cycles/s or more"),
        ("Verilated RTL, to build", f"{rtl['build_seconds']} s", ""),
    ]
