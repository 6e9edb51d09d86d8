"""The report of a compiled folder: what every stage measured, as JSON, as one table, and as a page that stands alone.

Reads what the stages left (``golden.json``, ``simulate-*.json``, ``synth.json``) of this Program and this Verilog; runs nothing
but the golden model, for the pictures. Keys are described in ``docs/file-formats.md``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsegate import __version__, artefact, golden, pictures
from sparsegate.errors import SparseGateError
from sparsegate.golden import temporal
from sparsegate.program import Program
from sparsegate_app import doctor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsegate.data.datasets import Dataset

REPORT = "report.json"
PAGE = "report.html"
RESULTS = ("compile.json", "golden.json", "simulate-*.json", "synth.json", REPORT, PAGE)
"""Files that the stages leave in a compiled folder."""
SPREAD = 128
"""Most test sequences of the curve over Θ: enough for its shape, and a few seconds."""


def collect(folder: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Everything that is known about a compiled folder; a stage that has not run leaves None.

    A result of another Program, of another engine, or whose bitstream is gone is left out and named under ``outdated``. Paths in
    the report are relative to ``out``, the folder that the report is written to (``folder`` where omitted).
    """
    folder = Path(folder)
    out = folder if out is None else Path(out)
    if not (folder / "manifest.json").exists():
        raise SparseGateError(f"{folder} is no folder made by 'sparsegate compile': it has no manifest.json")
    program = Program.load(folder / "program.safetensors")
    manifest = artefact.read_json(folder / "manifest.json")
    ours = {"program": program.digest, "verilog": manifest["files"]["engine.v"]}
    results = {path.stem: artefact.read_json(path) for pattern in RESULTS[1:4] for path in sorted(folder.glob(pattern))}
    outdated = [name for name, result in results.items() if not _current(result, ours, folder)]
    current = {name: result for name, result in results.items() if name not in outdated}
    golden_run, synth = current.get("golden"), current.get("synth")
    simulations = [result for name, result in current.items() if name.startswith("simulate-")]
    simulations.sort(key=lambda result: -result["rtl"]["values_compared"])
    known = dict(program.meta.get("accuracy", {}))
    main = simulations[0] if simulations else None
    return {
        "name": program.name,
        "sparsegate": __version__,
        "data": program.meta.get("data"),
        "accuracy": {
            "float": known.get("float"),
            "pruned": known.get("pruned"),
            "golden": golden_run["accuracy"] if golden_run else None,
        },
        "sparsity": sparsity(program),
        "formats": formats(program),
        "golden": golden_run
        and {key: value for key, value in golden_run.items() if key not in ("accuracy", "digests")},
        "hardware": {**manifest["hardware"], "pes": manifest["hardware"]["rows"] * manifest["hardware"]["groups"]},
        "rtl": main and main["rtl"] | {"also": [result["rtl"] for result in simulations[1:]]},
        "cycles": main and main["cycles"],
        "occupancy": main and main["occupancy"],
        "columns": main and main["columns"],
        "synth": synth and _synth(synth, folder, out),
        "latency_us": latency(main, synth),
        "tools": doctor.versions() | (dict(synth["tools"]) if synth else {}),
        "digests": {
            **manifest["digests"],
            "verilog": manifest["files"]["engine.v"],
            "bitstream": synth and _sha256(folder / synth["bitstream"]),
        },
        "compiled": os.path.relpath(folder, out),
        "outdated": outdated,
    }


def clear(folder: str | Path) -> None:
    """Remove what the stages left in a compiled folder."""
    for pattern in RESULTS:
        for path in Path(folder).glob(pattern):
            path.unlink()


def _current(result: Mapping[str, Any], ours: Mapping[str, str], folder: Path) -> bool:
    """Whether a stage ran on what the folder holds now; the golden model knows no Verilog, all others say which they ran on."""
    digests = result.get("digests", {})
    same = "program" in digests and all(ours.get(name) == digest for name, digest in digests.items())
    return same and ("bitstream" not in result or (folder / result["bitstream"]).is_file())


def _synth(result: Mapping[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    shown = {key: value for key, value in result.items() if key != "digests"}
    return shown | {"bitstream": os.path.relpath(folder / result["bitstream"], out)}


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


def formats(program: Program) -> dict[str, Any]:
    """Every Q format, as text."""
    return {
        "input": str(program.input_format),
        "layers": {layer.name: {key: str(form) for key, form in layer.formats.items()} for layer in program.layers},
    }


def latency(simulation: Mapping[str, Any] | None, synth: Mapping[str, Any] | None) -> dict[str, Any]:
    """Microseconds at the clock that the bitstream sets up: the time of a step, of its cycles a step, and the longest latency, from
    taking a frame to its last result; the time of a step at nextpnr's highest clock too.
    """
    if simulation is None or synth is None:
        return {"step": None, "longest": None, "how": "needs a simulation and a synthesis"}
    cycles, rtl = simulation["cycles"], simulation["rtl"]
    clock = synth["frequency_mhz"]
    return {
        "step": cycles["step_mean"] / clock,
        "longest": cycles["step_longest"] / clock,
        "step_at_fmax": cycles["step_mean"] / synth["fmax_mhz"],
        "how": (
            f"{cycles['step_mean']:.1f} cycles a step, mean of {rtl['steps']} steps counted in RTL ({rtl['simulator']}), "
            f"at the bitstream's {clock:g} MHz"
        ),
    }


def summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The one table: what, and how much."""
    accuracy, sparse, rtl, synth = report["accuracy"], report["sparsity"], report["rtl"], report["synth"]
    widths = sorted({entry["bits"] for entry in sparse["layers"].values()})
    hardware = report["hardware"]
    bits = ", ".join(str(width) for width in widths)
    rows = [
        (f"accuracy, {stage}", percent(accuracy[key]))
        for key, stage in (("float", "float"), ("pruned", "pruned, float"), ("golden", "golden model, integers"))
    ]
    checked = report["golden"]
    if checked and checked["inputs_saturated"]:
        rows.append(("inputs outside the calibrated range", f"{checked['inputs_saturated']} of {checked['inputs']}"))
    rows += [
        ("weights kept, Wx and Wh", f"{percent(sparse['density_x'])}, {percent(sparse['density_h'])}"),
        *([("weights kept, projections", percent(sparse["density_p"]))] if sparse["density_p"] is not None else []),
        ("bits of weights; of inputs and hidden states", f"{bits}; {report['formats']['input'][1:].split('f')[0]}"),
        ("processing elements", f"{hardware['rows']} x {hardware['groups']} = {hardware['pes']}"),
    ]
    if rtl:
        cycles, columns, occupancy = report["cycles"], report["columns"], report["occupancy"]
        for result in (rtl, *rtl["also"]):
            rows.append(
                (
                    f"RTL in {result['simulator']}",
                    f"{result['mismatches']} of {result['values_compared']} values differ, {result['steps']} steps of "
                    f"{result['sequences']} sequences",
                )
            )
        rows += [
            ("cycles, predicted and counted", f"{cycles['predicted']}, {cycles['counted']}"),
            ("cycles a step", f"{cycles['step_mean']:.1f}, from the end of a step to the end of the next"),
            ("longest latency", f"{cycles['step_longest']} cycles, from taking a frame to its last result"),
            (
                "occupancy, matrix-vector phase and total",
                f"{percent(occupancy['matvec'])}, {percent(occupancy['total'])}",
            ),
            ("columns skipped", f"{percent(columns['skipped'] / columns['seen'])} of {columns['seen']}"),
        ]
    if synth:
        rows += [
            (
                "device",
                f"{synth['device']}, speed grade {synth['speed']}" + (f", {synth['board']}" if synth["board"] else ""),
            ),
            (
                "highest clock",
                f"{synth['fmax_mhz']:.1f} MHz, nextpnr's estimate after routing; the bitstream's is {synth['frequency_mhz']:g} MHz",
            ),
            (
                "LUTs, flip-flops, block RAMs, multipliers",
                f"{synth['luts']}, {synth['ffs']}, {synth['bram']}, {synth['dsp']}",
            ),
        ]
    took = report["latency_us"]
    if took["step"] is not None:
        rows.append(("time of a step", f"{took['step']:.2f} us: {took['how']}"))
    return rows


def percent(share: float | None) -> str:
    """A share as text; a dash where it was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def drawings(report: Mapping[str, Any], program: Program, dataset: Dataset | None) -> list[tuple[str, Figure]]:
    """Titles and figures of the page; those of a run need data, and show the first test sequences."""
    drawn = (
        [] if (stages := pictures.accuracy_by_stage(report["accuracy"])) is None else [("Accuracy by stage", stages)]
    )
    drawn += [(f"Weights that are kept: {name}", figure) for name, figure in pictures.sparsity_maps(program).items()]
    drawn.append(("Weights and their formats", pictures.weight_histograms(program)))
    if dataset is None:
        return drawn
    x, lengths = dataset.x_test[: pictures.SEQUENCES], dataset.length_test[: pictures.SEQUENCES]
    seen, gates = pictures.activations(program, x, lengths), pictures.gates_of(program, x, lengths)
    drawn.append(("Activations and their formats", pictures.activation_histograms(seen, pictures.formats_of(program))))
    if gates:
        drawn.append(("Gates", pictures.gate_histograms(gates)))
    first = golden.run(program, program.quantize(x[:1, : lengths[0]]), lengths[:1])
    drawn.append(("Columns that are sent in the first test sequence", pictures.changed_columns(first)))
    points, count = thresholds(program, dataset)
    return [*drawn, (f"Accuracy and skipped products against Θ, on {count} test sequences", pictures.theta(points))]


def thresholds(program: Program, dataset: Dataset) -> tuple[list[temporal.Point], int]:
    """Accuracy and products skipped with one Θ for all vectors, and on how many test sequences.

    These are spread over the part, as data sets tend to be sorted by class.
    """
    rows = np.unique(np.linspace(0, len(dataset.y_test) - 1, SPREAD).astype(int))
    x, lengths, y = dataset.x_test[rows], dataset.length_test[rows], dataset.y_test[rows]
    points = []
    for threshold in temporal.THRESHOLDS:
        run = golden.run(program.with_thresholds(threshold), program.quantize(x), lengths)
        score = float(np.mean(np.argmax(run.last, axis=1) == y))
        points.append(temporal.Point(threshold, score, temporal.of_trace(run).total))
    return points, len(rows)


def _png(figure: Figure) -> str:
    return base64.b64encode(pictures.encoded(figure)).decode()


STYLE = """body { font: 15px/1.45 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .25em .8em .25em 0;
border-bottom: 1px solid #ddd } th { font-weight: 600 } img { max-width: 100% } code { font-size: 90% }"""


def page(report: Mapping[str, Any], program: Program, dataset: Dataset | None) -> str:
    """A page of HTML that needs no other file."""
    layers = report["formats"]["layers"]
    keys = list(dict.fromkeys(key for form in layers.values() for key in form))
    sections = [
        _section("Summary", _table(("what", "value"), summary(report))),
        *(
            _section(title, f'<img alt="{html.escape(title)}" src="data:image/png;base64,{_png(figure)}">')
            for title, figure in drawings(report, program, dataset)
        ),
        _section(
            "Formats (s8f7: signed, 8 bits, 7 of them fractional)",
            _table(("layer", *keys), [(name, *(form.get(key, "") for key in keys)) for name, form in layers.items()]),
        ),
    ]
    if report["golden"]:
        counts = [
            (layer, site, count)
            for layer, sites in report["golden"]["saturations"].items()
            for site, count in sites.items()
        ]
        sections.append(_section("Values that saturated in the golden model", _table(("layer", "at", "times"), counts)))
    sections += [
        _section("Tools", _table(("tool", "version"), list(report["tools"].items()))),
        _section("Digests", _table(("of", "SHA-256"), list(report["digests"].items()))),
    ]
    title = html.escape(f"SparseGate: {report['name']}")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{body}\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"


def write(folder: str | Path, out: str | Path | None = None, dataset: Dataset | None = None) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` to ``out`` (``folder`` where omitted); returns the report."""
    out = Path(folder) if out is None else Path(out)
    report = collect(folder, out)
    program = Program.load(Path(folder) / "program.safetensors")
    text = page(report, program, dataset)
    artefact.write_text(out / PAGE, text)
    artefact.write_json(out / REPORT, report)
    return report
