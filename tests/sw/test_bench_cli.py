"""The benchmark's command measures what the documentation shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from sparsegate.bench import accuracy
from sparsegate.cli import app

ROOT = Path(__file__).parents[2]


def row(pattern, bits, seed):
    stages = {"accuracy_float": 0.9, "accuracy_pruned": 0.9, "accuracy_golden": 0.8}
    density = {"density_x": 0.25, "density_h": 0.25}
    name = {"task": "vowels", "hidden": 64, "pattern": str(pattern), "bits": bits, "seed": seed}
    return {**name, **density, **stages, "seconds": 1.0}


def test_the_command_has_the_benchmarks_defaults(tmp_path, monkeypatch, vowels):
    def measure(dataset, patterns, configs, seeds, hidden):
        assert (len(dataset.y_test), hidden) == (370, 64)
        for seed in seeds:
            for pattern in patterns:
                yield from (row(pattern, config.weight_bits, seed) for config in configs)

    monkeypatch.setattr(accuracy, "measure", measure)
    out = tmp_path / "accuracy.json"
    done = CliRunner().invoke(app, ["bench", "accuracy", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    made, kept = (json.loads(path.read_text()) for path in (out, ROOT / "docs" / "benchmarks" / "accuracy.json"))
    cases = ("task", "hidden", "pattern", "bits", "seed")
    assert made.keys() == kept.keys()
    assert [[entry[key] for key in cases] for entry in made["rows"]] == [
        [entry[key] for key in cases] for entry in kept["rows"]
    ]
    assert kept["means"] == accuracy.means(kept["rows"])
    done = CliRunner().invoke(app, ["bench", "accuracy", "--out", str(out), "--bits", "6", "--bits", "8", "--json"])
    assert {entry["bits"] for entry in json.loads(done.stdout)["means"]} == {6, 8}


def test_the_documented_command_writes_the_documented_file():
    recipe = re.search(r"^bench-accuracy:.*\n\t@(.*)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    assert "--out docs/benchmarks/accuracy.json" in recipe[1]


def test_the_table_holds_the_means():
    page = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for mean in json.loads((ROOT / "docs" / "benchmarks" / "accuracy.json").read_text())["means"]:
        stages = [f"{100 * mean[f'accuracy_{stage}']:.2f} %" for stage in ("float", "pruned", "golden")]
        assert f"| {' | '.join(stages)} | {mean['loss']:.2f} |" in page
