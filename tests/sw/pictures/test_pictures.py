"""Pictures show the numbers that they are given, and equal pictures are equal files."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact, golden, pictures
from sparsegate.compress import gates
from sparsegate.compress.sensitivity import Measurement, scan
from sparsegate.errors import SparseGateError
from sparsegate.golden.temporal import Point
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.quantize.calibration import calibrate
from sparsegate_app.bench import tasks
from sparsegate_app.cli import app

X = np.random.default_rng(2).normal(size=(5, 7, 6))
LENGTHS = np.array([7, 3, 5, 1, 6])


@pytest.fixture(scope="module")
def network():
    shapes = [
        Shape("lstm", 16, NM(2, 8), NM(1, 8), outputs=8, pattern_p=NM(1, 4)),
        Shape("gru", 16, NM(1, 4), NM(1, 8)),
        Shape("linear", 3),
    ]
    return synthetic.network(6, shapes, seed=1)


@pytest.fixture(scope="module")
def program(network):
    return quantize(network, X, LENGTHS, QuantizeConfig(weight_bits=4))


def bars(axis):
    """Heights of a histogram's bars."""
    return axis.patches[0].get_data().values


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_pictures_are_equal_files(program, tmp_path, suffix):
    for name in ("a", "b"):
        pictures.save(pictures.weight_histograms(program), tmp_path / (name + suffix))
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first == (tmp_path / f"b{suffix}").read_bytes()
    if suffix == ".svg":
        assert b"<dc:date>" not in first
        assert xml.etree.ElementTree.fromstring(first).tag.endswith("svg")
    else:
        assert first.startswith(b"\x89PNG")
        assert int.from_bytes(first[16:20], "big") == 880  # pixels wide


def test_other_suffixes_are_refused_and_leave_nothing(program, tmp_path):
    with pytest.raises(SparseGateError, match=r"written as \.png or \.svg, not '\.pdf'"):
        pictures.save(pictures.weight_histograms(program), tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_may_be_missing(program, tmp_path):
    with pytest.raises(SparseGateError, match="not without a suffix"):
        pictures.save(pictures.weight_histograms(program), tmp_path / "a")


# --- matrices --------------------------------------------------------------------------------------------------------


def test_a_sparsity_map_marks_what_is_not_zero(network, program):
    layer = network.layers[0]
    axes = pictures.sparsity_map(network).axes
    shown = [axis.images[0].get_array() for axis in axes]
    for image, matrix in zip(shown, (layer.w_x, layer.w_h, layer.w_p), strict=True):
        assert (image == (matrix != 0)).all()
    integers = program.layers[1]
    axes = pictures.sparsity_map(program, "gru1").axes
    for axis, matrix in zip(axes, (integers.w_x, integers.w_h), strict=True):
        assert (axis.images[0].get_array() == (matrix != 0)).all()


def test_gates_are_labelled_and_blocks_ruled(network):
    wx, wh, wp = pictures.sparsity_map(network).axes
    assert [text.get_text() for text in wx.get_yticklabels()] == [
        "input gate i",
        "forget gate f",
        "candidate g",
        "output gate o",
    ]
    assert list(wx.get_yticks()) == [7.5, 23.5, 39.5, 55.5]
    rules = sorted(line.get_ydata()[0] for line in wh.lines)
    assert rules == [7.5, 15.5, 23.5, 31.5, 39.5, 47.5, 55.5]  # blocks of 8 in gates of 16
    assert sorted(line.get_ydata()[0] for line in wp.lines) == [3.5]
    finer = pictures.sparsity_map(network, "gru1").axes[0]
    assert sorted(line.get_ydata()[0] for line in finer.lines) == [at - 0.5 for at in range(4, 48, 4)]
    assert wx.get_title() == "Wx: 25 % kept"


def test_an_unknown_layer_is_refused(network):
    with pytest.raises(SparseGateError, match="no layer 'rnn'; there are lstm0, gru1, linear2"):
        pictures.sparsity_map(network, "rnn")


# --- histograms ------------------------------------------------------------------------------------------------------


def test_weights_that_are_zero_are_left_out_and_the_rest_counted(program):
    axis = pictures.weight_histograms(program).axes[0]
    weights = program.layers[0].w_x
    kept = weights[weights != 0]
    values, counts = np.unique(kept, return_counts=True)
    drawn = axis.patches[0].get_data()
    form = program.layers[0].formats["wx"]
    assert form.width == 4  # one bar for each raw value
    middles = np.round((drawn.edges[:-1] + drawn.edges[1:]) / 2 / form.lsb).astype(int)
    found = {int(at): share for at, share in zip(middles, drawn.values, strict=True) if share}
    assert found == {int(v): 100 * c / kept.size for v, c in zip(values, counts, strict=True)}


def test_formats_are_drawn_as_their_range(network, program):
    form = QFormat(6, 4)
    axis = pictures.weight_histograms(network, {("lstm0", "wx"): form}).axes[0]
    assert (
        sorted(line.get_xdata()[0] for line in axis.lines)
        == [form.min * form.lsb, form.max * form.lsb]
        == [-2, 31 / 16]
    )
    assert [text.get_text() for text in axis.texts] == ["s6f4, LSB 1/16"]
    assert [text.get_text() for text in pictures.weight_histograms(network).axes[0].texts] == []


def test_activations_are_those_of_the_golden_run(program):
    found = pictures.activations(program, X, LENGTHS)
    trace = golden.run(program, program.quantize(X), LENGTHS)
    edges, counts = found["gru1", "h"]
    inside = np.arange(7)[None, :] < LENGTHS[:, None]
    assert counts.sum() == inside.sum() * 16
    real = program.layers[1].formats["h"].real(trace.layers[1][inside])
    assert (counts == np.histogram(real, edges)[0]).all()
    assert found["input", "x"][1].sum() == inside.sum() * 6
    assert ("linear2", "h") in found
    drawn = pictures.activation_histograms(found, pictures.formats_of(program))
    assert all(abs(bars(axis).sum() - 100) < 1e-9 for axis in drawn.axes if axis.get_visible())


def test_calibration_histograms_are_gathered_without_loss(network):
    histograms = calibrate(network, X, LENGTHS).histograms
    drawn = pictures.activation_histograms(histograms)
    shown = [axis for axis in drawn.axes if axis.get_visible()]
    wanted = [key for key in histograms if key[1] not in ("wx", "wh", "wp")]
    assert len(shown) == len(wanted)
    for axis in shown:
        assert abs(bars(axis).sum() - 100) < 1e-9
        assert len(bars(axis)) <= 64


def test_neighbouring_bins_are_summed():
    counts = np.concatenate([np.zeros(56), np.arange(1, 201), np.zeros(256)])
    (axis,) = pictures.activation_histograms({("lstm", "h"): (np.arange(513.0), counts)}).axes
    drawn = axis.patches[0].get_data()
    assert list(drawn.edges) == list(range(56, 257, 4))  # 200 bins, four to a bar
    assert np.allclose(drawn.values, 100 * counts[56:256].reshape(-1, 4).sum(axis=1) / counts.sum())


def test_no_activation_is_a_sentence():
    with pytest.raises(SparseGateError, match="calibrate on data first"):
        pictures.activation_histograms({})


def test_gates_of_a_program_come_from_its_tables(network):
    program = quantize(network, X, LENGTHS, QuantizeConfig(activation_bits=12, weight_bits=12))
    floats, integers = pictures.gates_of(network, X, LENGTHS), pictures.gates_of(program, X, LENGTHS)
    assert {layer: set(sites) for layer, sites in integers.items()} == {"lstm0": {*"ifo"}, "gru1": {*"rz"}}
    for layer, sites in integers.items():
        for site, values in sites.items():
            assert values.size == LENGTHS.sum() * 16 == floats[layer][site].size
            assert abs(np.sort(values) - np.sort(floats[layer][site].reshape(-1))).max() < 0.05


def test_gate_histograms_say_how_many_are_shut_or_open():
    before = {"lstm": {"i": np.array([0.5, 0.5, 0.5, 0.02]), "f": np.array([0.5])}}
    after = {"lstm": {"i": np.array([[0.01, 0.99]]), "f": np.array([1.0])}}
    axes = pictures.gate_histograms(before, after).axes
    assert [axis.get_title(loc="left") for axis in axes] == [
        "lstm, input gate i\nnear 0 or 1: 25 % → 100 %",
        "lstm, forget gate f\nnear 0 or 1: 0 % → 100 %",
    ]
    assert bars(axes[0]).max() == 75
    assert gates.binary_share(before["lstm"]["i"]) == 0.25


def test_gates_must_be_known_before_and_after():
    with pytest.raises(SparseGateError, match="gate 'f' of layer 'lstm' is known before, but not after"):
        pictures.gate_histograms({"lstm": {"f": [0.5]}}, {"lstm": {"i": [0.5]}})


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [0, 2])
def test_changed_columns_are_those_of_the_sequence(program, sequence):
    run = golden.run(replace(program), program.quantize(X), LENGTHS, thresholds=[4] * len(program.vectors))
    axes = pictures.changed_columns(run, sequence).axes
    steps = LENGTHS[sequence]
    # input, the projected LSTM's inner vector and output, and the GRU; the head drives nothing
    assert [axis.images[0].get_array().shape for axis in axes] == [(6, steps), (16, steps), (8, steps), (16, steps)]
    for axis, stream in zip(axes, run.streams, strict=False):
        assert (axis.images[0].get_array() == stream.sent[sequence, :steps].T).all()


def test_a_sequence_that_is_not_there(program):
    run = golden.run(program, program.quantize(X), LENGTHS)
    with pytest.raises(SparseGateError, match="sequence 5 is not there: the trace has 5"):
        pictures.changed_columns(run, 5)


# --- measurements ----------------------------------------------------------------------------------------------------


def row(pattern, seed, golden, density=None, bits=8, task="toy", method="", measure="accuracy"):
    n, _, m = pattern.partition(":")
    case = {"pattern": pattern, "bits": bits}
    figures = {"float": {measure: 0.99}, "golden": {measure: golden}, "measure": measure}
    density = int(n) / int(m) if density is None else density
    return {"task": task, "case": case, "method": method, "seed": seed, "density": density, **figures}


def lines(axis):
    """Label -> (x, y) of every line with error bars."""
    found = {}
    for bar in axis.containers:
        line = bar.lines[0]
        found[bar.get_label()] = line.get_xdata(), line.get_ydata()
    return found


def test_density_curves_join_the_means_of_a_family():
    rows = [
        row("1:8", 0, 0.9),
        row("1:8", 1, 0.8),
        row("1:16", 0, 0.7),
        row("2:16", 0, 0.95),
        row("bbs:2:16", 0, 0.6, 0.125),
        row("1:8", 0, 0.1, bits=4),
        row("1:8", 0, 0.2, method="G2 gates"),
        row("1:8", 0, 0.92, method="units permuted"),
        row("cbtd:1/8:8", 0, 0.5, 0.125, method="annealed"),
        row("cbtd:1/8:8", 0, 0.1, 0.125),
        row("dense", 0, 0.97, 1.0),
    ]
    (axis,) = pictures.accuracy_by_density(rows).axes
    found = lines(axis)
    assert list(found) == [
        "1:M columns", "1:M columns, units permuted", "2:M columns", "bank-balanced (BBS)", "column-balanced (CBTD)",
    ]  # fmt: skip
    assert np.allclose(found["1:M columns"][1], [70, 85])
    assert np.allclose(found["1:M columns"][0], np.array([0.0625, 0.125]) * 0.94)
    assert np.allclose(found["1:M columns, units permuted"], [[0.125 * 0.97], [92]])
    assert np.allclose(found["2:M columns"], [[0.125], [95]])
    assert np.allclose(found["column-balanced (CBTD)"][1], [50])
    assert [float(line.get_ydata()[0]) for line in axis.lines if len(set(line.get_ydata())) == 1][-2:] == [99, 97]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["6.25", "12.5"]


def test_bits_curves_take_patterns_with_several_widths():
    rows = [row("1:8", 0, 0.9), row("1:8", 0, 0.8, bits=2), row("2:16", 0, 0.95)]
    (axis,) = pictures.accuracy_by_bits(rows).axes
    found = lines(axis)
    assert list(found) == ["1:8"]
    assert np.allclose(found["1:8"], [[2, 8], [80, 90]])
    with pytest.raises(SparseGateError, match="no pattern was measured with several widths"):
        pictures.accuracy_by_bits(rows[:1])
    with pytest.raises(SparseGateError, match="no row is of plain pruning with weights of 3 bits"):
        pictures.accuracy_by_density(rows, bits=3)


def test_a_panel_for_each_task_on_a_scale_of_its_own():
    rows = [row("1:8", 0, 0.9), row("1:8", 0, 15.5, task="other", measure="rmse"), row("1:8", 0, 0.4, task="third")]
    axes = [axis for axis in pictures.accuracy_by_density(rows).axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == ["toy", "other", "third"]
    assert [axis.get_ylabel() for axis in axes] == ["test accuracy, %", "root mean squared error", "test accuracy, %"]
    assert [lines(axis)["1:M columns"][1][0] for axis in axes] == [90, 15.5, 40]


def scanned():
    return scan(synthetic.network(3, [Shape("lstm", 8)], seed=1), lambda network: 0.5, ["1:4", "1:8"])


def test_sensitivity_has_a_panel_for_each_layer_on_one_scale():
    tried = [
        Measurement("a", "x", NM(1, 8), 0.9, None),
        Measurement("a", "h", NM(1, 8), 0.7, None),
        Measurement("a", "h", NM(2, 16), 0.5, None),
        Measurement("b", "x", NM(1, 4), 0.2, None),
    ]
    made = replace(scanned(), score=0.95, measurements=tuple(tried))
    first, second = pictures.sensitivity(made).axes
    assert lines(first).keys() == {"Wx", "Wh"}
    assert np.allclose(lines(first)["Wh"], [[0.125], [0.6]])
    assert first.get_ylim() == second.get_ylim()
    assert [line.get_ydata()[0] for line in second.lines][-1] == 0.95
    with pytest.raises(SparseGateError, match="measured nothing yet"):
        pictures.sensitivity(replace(made, measurements=()))


def test_theta_shows_both_figures_in_order():
    points = [Point(4, 0.9, 0.5), Point(0, 1.0, 0.25)]
    above, below = pictures.theta(points).axes
    assert above.lines[0].get_xydata().tolist() == [[0, 100], [4, 90]]
    assert below.lines[0].get_xydata().tolist() == [[0, 25], [4, 50]]
    both = pictures.theta({"plain": points, "G2 gates": points[:1]}, "score", 1)
    assert [line.get_label() for line in both.axes[0].lines] == ["plain", "G2 gates"]
    assert both.axes[0].lines[1].get_xydata().tolist() == [[4, 0.9]]
    assert len(both.legends) == 1
    with pytest.raises(SparseGateError, match="no threshold to draw"):
        pictures.theta([])


def test_accuracy_of_unknown_stages_is_left_out():
    (axis,) = pictures.accuracy_by_stage({"float": 0.75, "pruned": None, "golden": 0.5}).axes
    assert [bar.get_width() for bar in axis.patches] == [75, 50]
    assert pictures.accuracy_by_stage({"float": None}) is None


# --- the command -----------------------------------------------------------------------------------------------------


def command(*words, status=0):
    result = CliRunner().invoke(app, ["pictures", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def test_command(network, program, tmp_path):
    network.save(tmp_path / "network.safetensors")
    program.save(tmp_path / "folder" / "program.safetensors")
    np.savez(
        tmp_path / "data.npz",
        x=X,
        length=LENGTHS,
        y=np.arange(5) % 3,
        x_test=X,
        length_test=LENGTHS,
        y_test=np.arange(5) % 3,
    )
    out = tmp_path / "out"
    made = json.loads(command(tmp_path / "network.safetensors", "--out", out, "--json").stdout)
    assert set(made["pictures"]) == {"sparsity-lstm0", "sparsity-gru1", "weights"}
    assert set(pictures.of_model(network, X, LENGTHS)) == {*made["pictures"], "gates", "activations"}
    assert all((out / f"{name}.png").exists() for name in made["pictures"])
    made = json.loads(
        command(tmp_path / "folder", "-d", tmp_path / "data.npz", "-o", out, "--format", "svg", "--json").stdout
    )
    assert set(made["pictures"]) == {"sparsity-lstm0", "sparsity-gru1", "weights", "gates", "activations", "columns"}
    assert made["pictures"]["columns"] == str(out / "columns.svg")
    assert (out / "columns.svg").exists()


def test_command_with_measurements(tmp_path):
    out = tmp_path / "out"
    artefact.write_json(tmp_path / "accuracy.json", {"rows": [row("1:8", 0, 0.9), row("1:8", 0, 0.8, bits=2)]})
    command(tmp_path / "accuracy.json", "-o", out)
    assert sorted(path.name for path in out.iterdir()) == ["bits.png", "density.png"]
    scanned().save(tmp_path / "scan.json")
    command(tmp_path / "scan.json", "-o", out)
    assert (out / "sensitivity.png").exists()
    artefact.write_json(tmp_path / "bad.json", {"columns": []})
    assert (
        "bad.json is neither a sensitivity scan nor rows" in command(tmp_path / "bad.json", "-o", out, status=1).output
    )


def test_command_with_gates_of_two_models(network, program, tmp_path, monkeypatch):
    network.save(tmp_path / "plain.safetensors")
    program.save(tmp_path / "integers.safetensors")
    labels = np.arange(5) % 3
    np.savez(tmp_path / "data.npz", x=X, length=LENGTHS, y=labels, x_test=X, length_test=LENGTHS, y_test=labels)
    drawn = []
    monkeypatch.setattr(
        pictures, "gate_histograms", lambda *given: drawn.append(given) or pictures.weight_histograms(network)
    )
    words = tmp_path / "plain.safetensors", "--after", tmp_path / "integers.safetensors"
    command(*words, "-d", tmp_path / "data.npz", "-o", tmp_path / "out")
    ((before, after, names),) = drawn
    assert names == ("plain", "integers")
    for found, model in ((before, network), (after, program)):
        for layer, sites in pictures.gates_of(model, X, LENGTHS).items():
            for site, values in sites.items():
                assert np.array_equal(found[layer][site], values)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gates.png"]
    assert "name them with --data" in command(*words, status=1).output


def test_command_takes_the_data_of_a_benchmark_task(network, tmp_path, monkeypatch):
    network.save(tmp_path / "network.safetensors")
    asked = []
    monkeypatch.setattr(tasks, "missing", lambda name, folder: None)
    part = tasks.Part(X, LENGTHS, np.zeros(5))
    task = tasks.Task("engines", "", "value", part, part, part, lambda outputs, part: {}, "cycles", 1)
    monkeypatch.setattr(tasks, "open_task", lambda name, *folders: asked.append(name) or task)
    command(tmp_path / "network.safetensors", "-d", "engines", "-o", tmp_path / "out")
    assert asked == ["engines"]
    assert (tmp_path / "out" / "gates.png").exists()
    narrow = replace(task, test=tasks.Part(X[:, :, :2], LENGTHS, np.zeros(5)))
    monkeypatch.setattr(tasks, "open_task", lambda name, *folders: narrow)
    refused = command(tmp_path / "network.safetensors", "-d", "engines", status=1).output
    assert "the task 'engines' has 2 inputs a step, the model takes 6" in refused
    monkeypatch.setattr(tasks, "missing", lambda name, folder: "there is no folder")
    assert "there is no folder" in command(tmp_path / "network.safetensors", "-d", "engines", status=1).output


def test_command_writes_all_or_nothing(tmp_path, monkeypatch):
    artefact.write_json(tmp_path / "accuracy.json", {"rows": [row("1:8", 0, 0.9), row("1:8", 0, 0.8, bits=2)]})
    made = []

    def encoded(figure, suffix):
        if made:
            raise SparseGateError("there is no font")
        made.append(figure)
        return b""

    monkeypatch.setattr(pictures, "encoded", encoded)
    assert "there is no font" in command(tmp_path / "accuracy.json", "-o", tmp_path / "out", status=1).output
    assert not (tmp_path / "out").exists()


def test_command_on_something_else(tmp_path):
    artefact.save(tmp_path / "other.safetensors", "something", 1, {}, {})
    assert "holds a something" in command(tmp_path / "other.safetensors", "-o", tmp_path, status=1).output
