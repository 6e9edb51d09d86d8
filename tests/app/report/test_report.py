"""The report says what the stages left, and stands alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sparsegate import artefact, golden
from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.golden import temporal
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_app import report
from sparsegate_app.report import page
from sparsegate_app.stages.compile import clear

VERILOG = "0" * 64
GOLDEN = {
    "data": "toy",
    "sequences": 4,
    "steps": 14,
    "thresholds": [0, 0],
    "accuracy": 0.25,
    "columns": {"seen": 100, "skipped": 25},
    "inputs": 70,
    "inputs_saturated": 0,
    "saturations": {"lstm0": {"h": 2}},
}
SIMULATION = {
    "passed": True,
    "summary": "160 values: all equal",
    "data": "toy",
    "thresholds": [0, 0],
    "inputs": 50,
    "inputs_saturated": 0,
    "rtl": {
        "simulator": "verilator",
        "sequences": 3,
        "steps": 10,
        "values_compared": 160,
        "mismatches": 0,
        "first_mismatch": None,
        "cycle_mismatches": 0,
        "counter_mismatches": [],
        "seconds": 0.5,
        "build_seconds": 2.0,
        "cycles_per_second": 1000,
    },
    "cycles": {"predicted": 500, "counted": 500, "step_mean": 40.0, "step_longest": 60},
    "occupancy": {"matvec": 0.9, "total": 0.8},
    "columns": {"seen": 100, "skipped": 25},
}
SYNTHESIS = {
    "device": "LFE5U-85F",
    "board": None,
    "speed": "6",
    "multipliers": "dsp",
    "hardware": {"rows": 8, "groups": 2},
    "baud": 1_000_000,
    "frequency_mhz": 80.0,
    "fmax_mhz": 100.0,
    "luts": 1,
    "ffs": 2,
    "bram": 3,
    "dsp": 4,
    "bitstream": "bits/top.bit",
    "tools": {"pyosys": "0.70"},
    "seconds": 60.0,
    "stages": {"yosys": 20.0},
    "seed": 1,
    "tried": [[1, 100.0]],
    "form": "abc",
    "how": "nextpnr after routing",
    "critical_path": ["10.00 ns a"],
    "router": "router1",
    "untimed": "",
    "sprams": 0,
    "met": True,
    "cached": False,
}


@pytest.fixture
def program() -> Program:
    shapes = [Shape("lstm", 16, NM(1, 8), NM(2, 8)), Shape("linear", 3)]
    network = synthetic.network(5, shapes, seed=1)
    x = np.random.default_rng(2).normal(size=(4, 6, 5))
    return quantize(network, x, meta={"data": "toy", "accuracy": {"float": 0.75, "pruned": 0.5}})


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(3)
    part = rng.normal(size=(4, 6, 5)), np.array([6, 3, 1, 4]), np.array([0, 1, 2, 0])
    return Dataset("toy", *part, *part, classes=3)


@pytest.fixture
def folder(tmp_path, program):
    """What compile leaves of a Program, as far as a report reads it."""
    place = tmp_path / "compiled"
    program.save(place / "program.safetensors")
    manifest = {
        "hardware": {"rows": 8, "groups": 2},
        "digests": {"program": program.digest, "shape": program.shape_digest},
        "files": {"engine.v": VERILOG},
    }
    artefact.write_json(place / "manifest.json", manifest)
    return place


def all_stages(folder):
    program = {"program": Program.load(folder / "program.safetensors").digest}
    both = {"digests": program | {"verilog": VERILOG}}
    artefact.write_json(folder / "golden.json", GOLDEN | {"digests": program})
    artefact.write_json(folder / "simulate-verilator.json", SIMULATION | both)
    fewer = SIMULATION["rtl"] | {"simulator": "icarus", "values_compared": 16}
    artefact.write_json(folder / "simulate-icarus.json", SIMULATION | {"rtl": fewer} | both)
    artefact.write_json(folder / "synth.json", SYNTHESIS | both)
    artefact.write_bytes(folder / "bits" / "top.bit", b"bits")


def change(path, **values):
    artefact.write_json(path, artefact.read_json(path) | values)


def test_every_promised_key(folder, tmp_path):
    all_stages(folder)
    made = report.collect(folder, tmp_path).as_json()
    assert made["accuracy"] == {"float": 0.75, "pruned": 0.5, "golden": 0.25}
    assert made["golden"]["sequences"] == 4
    assert {key: made["rtl"][key] for key in SIMULATION["rtl"]} == SIMULATION["rtl"]
    assert [also["simulator"] for also in made["rtl"]["also"]] == ["icarus"]
    assert (made["cycles"]["predicted"], made["cycles"]["counted"]) == (500, 500)
    assert made["occupancy"] == {"matvec": 0.9, "total": 0.8}
    assert made["columns"] == {"seen": 100, "skipped": 25}
    assert {"device", "fmax_mhz", "luts", "ffs", "bram", "dsp"} <= made["synth"].keys()
    assert made["synth"]["bitstream"] == "compiled/bits/top.bit"
    assert (tmp_path / made["synth"]["bitstream"]).read_bytes() == b"bits"
    assert made["tools"]["pyosys"] == "0.70"
    assert made["outdated"] == []
    assert made["digests"]["bitstream"] == hashlib.sha256(b"bits").hexdigest()


def test_times_are_cycles_over_the_clock(folder):
    all_stages(folder)
    took = report.collect(folder).as_json()["latency_us"]
    assert took["step"] == 40.0 / 80.0
    assert took["longest"] == 60 / 80.0
    assert took["step_at_fmax"] == 40.0 / 100.0
    assert took["how"] == "40.0 cycles a step, mean of 10 steps counted in RTL (verilator), at the bitstream's 80 MHz"
    told = dict(report.collect(folder).rows())
    assert told["time of a step"] == f"0.50 us: {took['how']}"
    assert told["longest latency"] == "60 cycles, from taking a frame to its last result"


def test_stages_that_have_not_run_are_none(folder):
    made = report.collect(folder).as_json()
    assert made["accuracy"]["golden"] is None
    assert made["rtl"] is made["cycles"] is made["synth"] is made["golden"] is None
    assert made["latency_us"]["step"] is None
    assert dict(report.collect(folder).rows())["accuracy, golden model, integers"] == "-"


@pytest.mark.parametrize("digests", [{"program": "1" * 64}, {"verilog": "1" * 64}, {}])
def test_results_of_something_else_are_left_out(folder, digests):
    all_stages(folder)
    ours = artefact.read_json(folder / "synth.json")["digests"]
    names = ("simulate-icarus", "simulate-verilator", "synth")
    for name in names:
        change(folder / f"{name}.json", digests=ours | digests if digests else {})
    made = report.collect(folder).as_json()
    assert made["rtl"] is made["cycles"] is made["synth"] is made["digests"]["bitstream"] is None
    assert made["latency_us"]["step"] is None
    assert "pyosys" not in made["tools"] or made["tools"]["pyosys"] != SYNTHESIS["tools"]["pyosys"]
    assert made["accuracy"]["golden"] == 0.25
    assert sorted(made["outdated"]) == sorted(names)


def test_golden_accuracy_of_another_program_is_left_out(folder):
    all_stages(folder)
    change(folder / "golden.json", digests={"program": "1" * 64})
    made = report.collect(folder).as_json()
    assert made["golden"] is made["accuracy"]["golden"] is None
    assert made["rtl"]["also"]
    assert made["outdated"] == ["golden"]


def test_a_bitstream_that_is_gone_takes_its_figures_with_it(folder):
    all_stages(folder)
    (folder / "bits" / "top.bit").unlink()
    made = report.collect(folder).as_json()
    assert made["synth"] is made["digests"]["bitstream"] is made["latency_us"]["step"] is None
    assert "device" not in dict(report.collect(folder).rows())
    assert made["outdated"] == ["synth"]


def test_clear_removes_results_only(folder):
    all_stages(folder)
    report.write(folder)
    (folder / "notes.txt").write_text("mine")
    clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "bits",
        "manifest.json",
        "notes.txt",
        "program.safetensors",
    ]


def test_inputs_outside_the_range_are_in_the_summary(folder):
    all_stages(folder)
    what = "inputs outside the calibrated range"
    assert what not in dict(report.collect(folder).rows())
    change(folder / "golden.json", inputs_saturated=3)
    assert dict(report.collect(folder).rows())[what] == "3 of 70"


def test_density_counts_weights_that_are_not_zero(program):
    sparse = report.sparsity(program)
    layer = program.layers[0]
    assert sparse["density_x"] == np.count_nonzero(layer.w_x) / layer.w_x.size <= 1 / 8
    assert sparse["density_h"] == np.count_nonzero(layer.w_h) / layer.w_h.size <= 2 / 8
    assert sparse["layers"]["lstm0"]["pattern_h"] == "2:8"
    assert "density_h" not in sparse["layers"]["linear1"]


class References(HTMLParser):
    """Everything a page asks a browser to load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("src", "href")]


def test_written_files(folder, tmp_path, dataset):
    all_stages(folder)
    made = report.write(folder, tmp_path / "out", dataset)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == made.as_json()
    html = (tmp_path / "out" / "report.html").read_text()
    parser = References()
    parser.feed(html)
    assert len(parser.found) == 7  # accuracy, weights twice, activations, gates, columns, thresholds
    assert all(reference.startswith("data:image/png;base64,") for reference in parser.found)
    assert "SHA-256" in html
    assert "LFE5U-85F" in html


def test_pictures_without_data_are_of_the_program_alone(folder, program):
    made = report.collect(folder)
    titles = [title for title, _ in page.drawings(made, program, None)]
    assert titles == ["Accuracy by stage", "Weights that are kept: lstm0", "Weights and their formats"]


def test_every_recurrent_layer_of_a_stack_has_its_map(folder):
    shapes = [Shape("lstm", 8, NM(1, 8), NM(2, 8)), Shape("gru", 16, NM(1, 4), NM(1, 4)), Shape("linear", 3)]
    x = np.random.default_rng(2).normal(size=(4, 6, 5))
    stack = quantize(synthetic.network(5, shapes, seed=1), x)
    drawn = page.drawings(report.collect(folder), stack, None)
    maps = {title: figure for title, figure in drawn if "kept" in title}
    assert list(maps) == ["Weights that are kept: lstm0", "Weights that are kept: gru1"]
    for figure, layer in zip(maps.values(), stack.layers, strict=False):
        assert [axis.images[0].get_array().sum() for axis in figure.axes] == [
            np.count_nonzero(matrix) for matrix in (layer.w_x, layer.w_h)
        ]


def test_the_columns_are_those_of_the_first_test_sequence(folder, program, dataset):
    drawn = dict(page.drawings(report.collect(folder), program, dataset))
    run = golden.run(program, program.quantize(dataset.x_test[:1]), dataset.length_test[:1])
    shown = drawn["Columns that are sent in the first test sequence"].axes
    assert [axis.images[0].get_array().sum() for axis in shown] == [
        run.streams[0].sent.sum(),
        run.streams[1].sent.sum(),  # the output layer drives no column
    ]


def test_the_curve_over_thresholds_is_of_the_golden_model(folder, program, dataset):
    drawn = dict(page.drawings(report.collect(folder), program, dataset))
    above, below = drawn["Accuracy and skipped products against Θ, on 4 test sequences"].axes
    run = golden.run(program.with_thresholds(6), program.quantize(dataset.x_test), dataset.length_test)
    at = list(above.lines[0].get_xdata()).index(6)
    assert above.lines[0].get_ydata()[at] == 100 * np.mean(run.last.argmax(axis=1) == dataset.y_test)
    assert below.lines[0].get_ydata()[at] == 100 * temporal.of_trace(run).total > below.lines[0].get_ydata()[0]


def test_the_curve_is_made_from_all_over_a_sorted_part(program, dataset, monkeypatch):
    monkeypatch.setattr(page, "SPREAD", 2)
    points, count = page.thresholds(program, dataset)
    ends = [0, 3]
    run = golden.run(program, program.quantize(dataset.x_test[ends]), dataset.length_test[ends])
    assert count == 2
    assert points[0].score == np.mean(run.last.argmax(axis=1) == dataset.y_test[ends])
    assert points[0].skipped == temporal.of_trace(run).total


def test_names_are_escaped(folder, program):
    made = replace(report.collect(folder), name="<script>")
    assert "<script>" not in page.render(made, program, None)


def test_a_folder_that_compile_did_not_make(tmp_path):
    with pytest.raises(SparseGateError, match=r"no folder made by 'sparsegate compile': it has no manifest\.json"):
        report.collect(tmp_path)
