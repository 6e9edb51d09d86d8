"""What every stage left in a compiled folder: read as the stages' own results, with what is known of the Program."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsegate import __version__, artefact
from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_app import doctor
from sparsegate_app.stages.compiled import MANIFEST, PROGRAM_FILE
from sparsegate_app.stages.golden import Evaluation
from sparsegate_app.stages.quantize import formats
from sparsegate_app.stages.result import Result, Rows
from sparsegate_app.stages.simulate import Simulation
from sparsegate_app.stages.synth import Synthesis

STAGES: dict[str, type[Result]] = {
    "golden.json": Evaluation,
    "simulate-*.json": Simulation,
    "synth.json": Synthesis,
}
"""Files of the stages whose results a report shows."""


@dataclass(frozen=True)
class Latency:
    """Microseconds at the clock that the bitstream sets up: the time of a step, of its cycles a step, and the longest latency, from
    taking a frame to its last result; the time of a step at nextpnr's highest clock too. None where a stage has not run.
    """

    step: float | None
    longest: float | None
    step_at_fmax: float | None
    how: str

    @classmethod
    def of(cls, simulation: Simulation | None, synthesis: Synthesis | None) -> Latency:
        if simulation is None or synthesis is None:
            return cls(None, None, None, "needs a simulation and a synthesis")
        cycles, rtl, measured = simulation.cycles, simulation.rtl, synthesis.measured
        clock = measured.frequency_mhz
        return cls(
            step=cycles.step_mean / clock,
            longest=cycles.step_longest / clock,
            step_at_fmax=cycles.step_mean / measured.fmax_mhz,
            how=(
                f"{cycles.step_mean:.1f} cycles a step, mean of {rtl.steps} steps counted in RTL ({rtl.simulator}), "
                f"at the bitstream's {clock:g} MHz"
            ),
        )

    def as_json(self) -> dict[str, Any]:
        at_fmax = {} if self.step_at_fmax is None else {"step_at_fmax": self.step_at_fmax}
        return {"step": self.step, "longest": self.longest, **at_fmax, "how": self.how}


@dataclass(frozen=True, repr=False)
class Report(Result):
    """Everything that is known about a compiled folder; a stage that has not run is None.

    ``simulations`` are sorted by how much they compared; the first is the report's. Paths are relative to the folder that the
    report is written to. ``outdated`` names results of another Program, of another engine, or whose bitstream is gone.
    """

    name: str
    data: str | None
    accuracy: Mapping[str, float | None]
    sparsity: Mapping[str, Any]
    formats: Mapping[str, Any]
    golden: Evaluation | None
    hardware: Mapping[str, Any]
    simulations: tuple[Simulation, ...]
    synthesis: Synthesis | None
    tools: Mapping[str, str]
    digests: Mapping[str, str | None]
    compiled: str
    outdated: tuple[str, ...]

    @property
    def stage(self) -> str:
        return "report"

    @property
    def sentence(self) -> str:
        return f"{self.name}, {', '.join(f'{what} {value}' for what, value in self.rows()[:3])}"

    @property
    def simulation(self) -> Simulation | None:
        """The one that compared most."""
        return self.simulations[0] if self.simulations else None

    @property
    def latency(self) -> Latency:
        return Latency.of(self.simulation, self.synthesis)

    def as_json(self) -> dict[str, Any]:
        """The content of ``report.json``; its keys are described in ``docs/reference/file-formats.md``."""
        simulated = [one.as_json() for one in self.simulations]
        main = simulated[0] if simulated else None
        return {
            "name": self.name,
            "sparsegate": __version__,
            "data": self.data,
            "accuracy": dict(self.accuracy),
            "sparsity": self.sparsity,
            "formats": self.formats,
            "golden": _without(self.golden, "accuracy", "digests"),
            "hardware": dict(self.hardware),
            "rtl": main and main["rtl"] | {"also": [one["rtl"] for one in simulated[1:]]},
            "cycles": main and main["cycles"],
            "occupancy": main and main["occupancy"],
            "columns": main and main["columns"],
            "synth": _without(self.synthesis, "digests"),
            "latency_us": self.latency.as_json(),
            "tools": dict(self.tools),
            "digests": dict(self.digests),
            "compiled": self.compiled,
            "outdated": list(self.outdated),
        }

    def rows(self) -> Rows:
        return [*self._of_program(), *self._of_simulations(), *self._of_synthesis()]

    def _of_program(self) -> Rows:
        """Accuracies, what is left of the weights, widths and the array."""
        rows: Rows = [
            (f"accuracy, {stage}", percent(self.accuracy[key]))
            for key, stage in (("float", "float"), ("pruned", "pruned, float"), ("golden", "golden model, integers"))
        ]
        checked, sparse, hardware = self.golden, self.sparsity, self.hardware
        if checked is not None and checked.inputs_saturated:
            rows.append(("inputs outside the calibrated range", f"{checked.inputs_saturated} of {checked.inputs}"))
        bits = ", ".join(str(width) for width in sorted({entry["bits"] for entry in sparse["layers"].values()}))
        return [
            *rows,
            ("weights kept, Wx and Wh", f"{percent(sparse['density_x'])}, {percent(sparse['density_h'])}"),
            *([("weights kept, projections", percent(sparse["density_p"]))] if sparse["density_p"] is not None else []),
            ("bits of weights; of inputs and hidden states", f"{bits}; {self.formats['input'][1:].split('f')[0]}"),
            ("processing elements", f"{hardware['rows']} x {hardware['groups']} = {hardware['pes']}"),
        ]

    def _of_simulations(self) -> Rows:
        if self.simulation is None:
            return []
        cycles, columns, occupancy = self.simulation.cycles, self.simulation.columns, self.simulation.occupancy
        return [
            *(
                (
                    f"RTL in {one.rtl.simulator}",
                    f"{one.rtl.mismatches} of {one.rtl.values_compared} values differ, {one.rtl.steps} steps of "
                    f"{one.rtl.sequences} sequences",
                )
                for one in self.simulations
            ),
            ("cycles, predicted and counted", f"{cycles.predicted}, {cycles.counted}"),
            ("cycles a step", f"{cycles.step_mean:.1f}, from the end of a step to the end of the next"),
            ("longest latency", f"{cycles.step_longest} cycles, from taking a frame to its last result"),
            (
                "occupancy, matrix-vector phase and total",
                f"{percent(occupancy.matvec)}, {percent(occupancy.total)}",
            ),
            ("columns skipped", f"{percent(columns.skipped / columns.seen)} of {columns.seen}"),
        ]

    def _of_synthesis(self) -> Rows:
        if self.synthesis is None:
            return []
        one, took = self.synthesis.measured, self.latency
        return [
            ("device", f"{one.device}, speed grade {one.speed}" + (f", {one.board}" if one.board else "")),
            (
                "highest clock",
                f"{one.fmax_mhz:.1f} MHz, nextpnr's estimate after routing; the bitstream's is {one.frequency_mhz:g} MHz",
            ),
            ("LUTs, flip-flops, block RAMs, multipliers", f"{one.luts}, {one.ffs}, {one.bram}, {one.dsp}"),
            *([] if took.step is None else [("time of a step", f"{took.step:.2f} us: {took.how}")]),
        ]


def percent(share: float | None) -> str:
    """A share as text; a dash where it was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _without(result: Result | None, *keys: str) -> dict[str, Any] | None:
    """JSON values but some."""
    return None if result is None else {key: value for key, value in result.as_json().items() if key not in keys}


def collect(folder: str | Path, out: str | Path | None = None) -> Report:
    """Read a compiled folder for a report that is written to ``out`` (``folder`` where omitted); runs nothing."""
    folder = Path(folder)
    out = folder if out is None else Path(out)
    if not (folder / MANIFEST).exists():
        raise SparseGateError(f"{folder} is no folder made by 'sparsegate compile': it has no {MANIFEST}")
    program = Program.load(folder / PROGRAM_FILE)
    manifest = artefact.read_json(folder / MANIFEST)
    verilog = manifest["files"]["engine.v"]
    results, outdated = _results(folder, {"program": program.digest, "verilog": verilog})
    golden = next((one for one in results if isinstance(one, Evaluation)), None)
    simulations = [one for one in results if isinstance(one, Simulation)]
    synthesis = next((one for one in results if isinstance(one, Synthesis)), None)
    known = dict(program.meta.get("accuracy", {}))
    hardware = manifest["hardware"]
    bitstream = None if synthesis is None else folder / synthesis.measured.bitstream
    return Report(
        name=program.name,
        data=program.meta.get("data"),
        accuracy={
            "float": known.get("float"),
            "pruned": known.get("pruned"),
            "golden": golden.accuracy if golden else None,
        },
        sparsity=sparsity(program),
        formats=formats(program),
        golden=golden,
        hardware={**hardware, "pes": hardware["rows"] * hardware["groups"]},
        simulations=tuple(sorted(simulations, key=lambda one: -one.rtl.values_compared)),
        synthesis=synthesis.at(bitstream).seen_from(out) if synthesis and bitstream else None,
        tools=doctor.versions() | (dict(synthesis.measured.tools) if synthesis else {}),
        digests={
            **manifest["digests"],
            "verilog": verilog,
            "bitstream": None if bitstream is None else _sha256(bitstream),
        },
        compiled=os.path.relpath(folder, out),
        outdated=tuple(outdated),
    )


def _results(folder: Path, ours: Mapping[str, str]) -> tuple[list[Result], list[str]]:
    """The stages' results on what the folder holds now, and the names of those that are outdated."""
    current, outdated = [], []
    for pattern, kind in STAGES.items():
        for path in sorted(folder.glob(pattern)):
            if _current(artefact.read_json(path), ours, folder):
                current.append(kind.load(path))
            else:
                outdated.append(path.stem)
    return current, outdated


def _current(result: Mapping[str, Any], ours: Mapping[str, str], folder: Path) -> bool:
    """Whether a stage ran on what the folder holds now; the golden model knows no Verilog, all others say which they ran on."""
    digests = result.get("digests", {})
    same = "program" in digests and all(ours.get(name) == digest for name, digest in digests.items())
    return same and ("bitstream" not in result or (folder / result["bitstream"]).is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sparsity(program: Program) -> dict[str, Any]:
    """Shares of weights that are not zero, over the recurrent layers' matrices and for each layer; None where there are none."""
    kept = dict.fromkeys("xhp", 0)
    total = dict.fromkeys("xhp", 0)
    layers = {}
    for layer in program.layers:
        entry: dict[str, Any] = {"block": layer.block, "bits": layer.formats["wx"].width, "reverse": layer.reverse}
        for key, matrix, rows, block in (
            ("x", layer.matrix_x, layer.gates * layer.units, layer.block),
            ("h", layer.matrix_h, layer.gates * layer.units, layer.block),
            ("p", layer.matrix_p, layer.outputs, layer.block_p),
        ):
            if matrix is None:
                continue
            size = rows * matrix.columns
            entry[f"pattern_{key}"] = f"{matrix.entries}:{block}"
            entry[f"density_{key}"] = matrix.nonzeros / size
            if layer.cell.recurrent:
                kept[key] += matrix.nonzeros
                total[key] += size
        layers[layer.name] = entry
    densities = {f"density_{key}": kept[key] / total[key] if total[key] else None for key in kept}
    return {**densities, "layers": layers}
