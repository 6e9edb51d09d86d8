"""``sparsegate golden``: evaluate the bit-exact model on a data set, without any hardware tool."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import (
    Compiled,
    Data,
    Json,
    ProgramPath,
    Thresholds,
    check_classes,
    chosen_thresholds,
    open_data,
    open_program,
    percent,
)

if TYPE_CHECKING:
    from sparsegate.data.datasets import Dataset


def golden(
    program: ProgramPath,
    data: Data = "vowels",
    threshold: Thresholds = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="NETWORK", help="Compare with this float Network, narrowing by narrowing."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write outputs (raw integers) and predictions to this .npz file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the golden model on the test sequences: accuracy, skipped columns, saturations.

    With [bold]--trace[/], the error of every narrowing against the float network: where does it enter?

    Example: [bold]sparsegate golden build/program.safetensors --data vowels --trace build/pruned.safetensors[/]
    """
    compiled = open_program(program)
    dataset = open_data(data, compiled.program.inputs)
    check_classes(dataset, compiled.program.outputs)
    thresholds = chosen_thresholds(compiled.program, threshold)
    with console.task("golden model"):
        result, outputs = evaluate(compiled, dataset, thresholds)
    if out is not None:
        _write_npz(out, outputs)
        result["outputs"] = str(out)
    rows: list[tuple[str, object]] = [
        ("sequences", result["sequences"]),
        ("accuracy", percent(result["accuracy"])),
        ("columns seen", result["columns"]["seen"]),
        ("columns skipped", percent(result["columns"]["skipped"] / result["columns"]["seen"])),
        ("inputs outside the calibrated range", f"{result['inputs_saturated']} of {result['inputs']}"),
    ]
    rows += [
        (f"saturated at {layer}", ", ".join(f"{site} {count}" for site, count in sites.items() if count) or "nothing")
        for layer, sites in result["saturations"].items()
    ]
    if trace is None:
        console.emit(result, as_json, "golden model", rows)
    else:
        _trace(trace, compiled, dataset, thresholds, result, as_json, rows)
    if threshold is None:
        compiled.record("golden", result)


def evaluate(
    compiled: Compiled, dataset: Dataset, thresholds: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the whole test part; the stage's result, and arrays for whoever wants the outputs."""
    import numpy as np

    from sparsegate import golden as model
    from sparsegate.array import Layout, cycles

    program = compiled.program
    lengths = dataset.length_test
    valid = np.arange(dataset.x_test.shape[1])[None, :] < lengths[:, None]
    run = model.run(program, program.quantize(dataset.x_test), lengths, thresholds, saturations=True)
    predicted = np.argmax(run.last, axis=1)
    count = cycles.predict(run, Layout(program, compiled.config))
    result = {
        "data": dataset.name,
        "digests": {"program": program.digest},
        "sequences": len(lengths),
        "steps": int(lengths.sum()),
        "thresholds": list(thresholds),
        "accuracy": float(np.mean(predicted == dataset.y_test)),
        "columns": {"seen": count.columns_seen, "skipped": count.columns_seen - count.columns_sent},
        "inputs": int(valid.sum()) * program.inputs,
        "inputs_saturated": program.input_format.saturated(dataset.x_test[valid]),
        "saturations": {layer: dict(sites) for layer, sites in run.saturations.items()},
    }
    outputs = {"outputs": run.outputs, "length": lengths, "predicted": predicted, "y": dataset.y_test}
    return result, outputs


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    import io

    import numpy as np

    from sparsegate import artefact

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    artefact.write_bytes(path, buffer.getvalue())


def _trace(
    network: Path,
    compiled: Compiled,
    dataset: Dataset,
    thresholds: tuple[int, ...],
    result: dict[str, Any],
    as_json: bool,
    rows: list[tuple[str, object]],
) -> None:
    from sparsegate.golden import explain
    from sparsegate.network import Network

    with console.task("compare with the float network"):
        sites = explain.explain(
            Network.load(network), compiled.program, dataset.x_test, dataset.length_test, thresholds
        )
    console.emit({**result, "trace": [asdict(site) for site in sites]}, as_json, "golden model", rows)
    if not as_json:
        columns = ("layer", "site", "LSB", "mean error", "in LSBs", "largest error", "largest value", "saturated")
        cells = [
            (
                site.layer,
                site.site,
                f"{site.lsb:.3g}",
                f"{site.mean:.3g}",
                f"{site.mean / site.lsb:.2f}",
                f"{site.max:.3g}",
                f"{site.largest:.3g}",
                site.saturations,
            )
            for site in sites
        ]
        console.stdout().print(console.table("error against the float network", columns, cells))
