"""Benchmarks: small runs of each, and that their results say what they claim."""

from __future__ import annotations

import pytest

from sparsegate.cells import CELLS
from sparsegate_app.bench import cells, golden


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
