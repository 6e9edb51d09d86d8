"""The demo, small: every step of it, on real speech."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsegate.program import Program
from sparsegate_app import report
from sparsegate_app.cli import app

ROOT = Path(__file__).parents[3]
SMALL = [
    "demo",
    "--hidden",
    "16",
    "--epochs",
    "6,6,1",
    "--pattern",
    "2:8",
    "--sequences",
    "1",
    "--simulator",
    "amaranth",
]


def test_demo(tmp_path, vowels):
    result = CliRunner().invoke(app, [*SMALL, "--skip-synth", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert json.loads((tmp_path / "report.json").read_text()) == made
    assert (tmp_path / "report.html").exists()
    program = Program.load(tmp_path / "program.safetensors")
    assert made["digests"]["program"] == program.digest
    assert all(0 < share <= 1 for share in made["accuracy"].values())
    assert made["golden"]["sequences"] == len(vowels.y_test) == 370
    assert made["sparsity"]["density_x"] <= 0.25
    assert made["sparsity"]["density_h"] <= 0.25
    assert made["rtl"]["sequences"] == 1
    assert made["rtl"]["steps"] == vowels.length_test[0]
    assert made["rtl"]["mismatches"] == 0
    assert made["rtl"]["values_compared"] >= (16 + 9) * vowels.length_test[0]
    assert made["cycles"]["predicted"] == made["cycles"]["counted"]
    assert made["synth"] is None
    assert (tmp_path / made["compiled"] / "engine.v").exists()
    assert "accuracy, golden model, integers" in dict(report.collect(tmp_path / made["compiled"], tmp_path).rows())
    for number in (1, 2, 3, 4, 6):
        assert f"[{number}/6]" in result.stderr

    # the next run shows nothing that only this one made
    result = CliRunner().invoke(app, [*SMALL, "--skip-rtl", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    assert again["compiled"] == made["compiled"]
    assert again["accuracy"] == made["accuracy"]
    assert again["rtl"] is again["synth"] is again["latency_us"]["step"] is None


def test_no_placeholder_is_left_in_a_page():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    for page in pages:
        found = re.findall(r"\bDEMO_[A-Z]+|\b[A-Z]+_(?:MINUTES|TABLE)\b", page.read_text(encoding="utf-8"))
        assert set(found) <= {"DEMO_ARGS"}, page


def test_the_demo_takes_as_long_everywhere():
    places = (("README.md", r"takes about (\d+) minutes"), ("Makefile", r"^demo:.*\(about (\d+) minutes\)"))
    told = [re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M) for name, pattern in places]
    assert told[0] == told[1]
    assert len(told[0]) == 1


@pytest.mark.parametrize("epochs", ["1,2", "a,b,c"])
def test_epochs_that_are_not_three_numbers(tmp_path, epochs):
    result = CliRunner().invoke(app, ["demo", "--epochs", epochs, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"--epochs is three numbers such as 60,120,8, not {epochs!r}" in result.stderr
    assert not (tmp_path / "out").exists()
