"""Benchmarks: small runs of each, and that their results say what they claim."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsegate.bench import accuracy, cells, golden
from sparsegate.cells import CELLS


def test_means():
    row = {"task": "t", "hidden": 4, "pattern": "1:4", "bits": 8, "density_x": 0.25, "density_h": 0.25, "seconds": 1.0}
    rows = [
        row | {"seed": seed, "accuracy_float": 0.98, "accuracy_pruned": 0.96, "accuracy_golden": value}
        for seed, value in enumerate((0.94, 0.96))
    ]
    (mean,) = accuracy.means(rows)
    assert (mean["accuracy_golden"], mean["loss"], mean["seeds"]) == (0.95, 3.0, 2)
    assert "seed" not in mean


def test_accuracy(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3, 2))
    np.savez(tmp_path / "d.npz", x=x, length=np.full(24, 3), y=(x[:, -1, 0] > 0).astype(int))
    arguments = f"--task {tmp_path}/d.npz --seeds 1 --patterns 2:4 --hidden 4 --out {tmp_path}/a.json"
    assert accuracy.main(arguments.split()) == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (row["pattern"], row["density_x"], row["density_h"]) == ("2:4", 0.5, 0.5)
    assert 0 <= row["accuracy_golden"] <= 1
    assert "2:4" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["--patterns 3-4", "--bits 99", "--task nothing"])
def test_accuracy_refuses(wrong, tmp_path, capsys):
    assert accuracy.main([*wrong.split(), "--out", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_golden_throughput():
    row = golden.measure(3, 8, 4, 5, repeats=2)
    assert row["ratio"] == pytest.approx(row["golden"] / row["torch"], rel=0.01)
    assert row["ratio_inference"] == pytest.approx(row["golden"] / row["torch_inference"], rel=0.01)


@pytest.mark.parametrize("name", cells.cases())
def test_the_fixed_point_error_falls_as_bits_grow(name):
    found = [cells.measure(cells.cases()[name], bits) for bits in cells.BITS]
    for key in ("rms", "max"):
        errors = [row[key] for row in found]
        assert all(fine < coarse for coarse, fine in zip(errors, errors[1:], strict=False)), (key, errors)
    # two bits are a factor of four; a feedback loop may hide a part of it
    assert all(fine["rms"] < coarse["rms"] / 2.5 for coarse, fine in zip(found, found[1:], strict=False))


def test_every_cell_is_in_the_table():
    assert set(CELLS) < set(cells.cases())
    made = cells.table()
    assert [row["cell"] for row in made["rows"]] == list(cells.cases())
    assert all(list(row["errors"]) == ["6", "8", "10", "12", "16"] for row in made["rows"])
