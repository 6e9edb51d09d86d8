"""The benchmark of real models: what it counts, what it skips, and that its record says what the documentation shows."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import importers
from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import QuantizeConfig
from sparsegate_app.bench import real
from sparsegate_app.cli import app

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "benchmarks" / "real_models.json"


def test_accuracy_among_all_classes_and_among_digits():
    classes = ["happy", *real.DIGITS]
    outputs = np.zeros((3, 11))
    outputs[0, 1 + 4] = 1  # four
    outputs[1, 0], outputs[1, 1 + 7] = 2, 1  # happy before seven
    outputs[2, 1 + 2] = 1  # two
    found = real.accuracies(outputs, np.array([4, 7, 3]), classes)
    assert found == {"accuracy_35": 0.333333, "accuracy_10": 0.666667}


def test_speakers_are_identified_by_the_nearest_mean():
    enrolled = np.array([[1.0, 0], [3, 1], [0, 1], [0, 5]])
    tests = np.array([[2.0, 0.1], [0.1, 9], [1, 1.2]])
    right = real.identified(tests, enrolled, ["ann", "bob", "ann"], ["ann", "ann", "bob", "bob"])
    assert right.tolist() == [True, True, False]
    assert real.cosines(np.array([[3.0, 0], [0, 0]]), np.array([[5.0, 0], [1, 0]])).tolist() == [1, 0]


def test_recordings_are_told_from_their_names(tmp_path):
    folder = real.fsdd_folder(tmp_path)
    folder.mkdir(parents=True)
    for name in ("7_theo_12.wav", "0_ann_4.wav", "0_ann_5.wav", "readme.txt"):
        (folder / name).touch()
    (clip,) = real.clips(tmp_path, real.TEST)
    assert (clip.digit, clip.speaker, clip.index) == (0, "ann", 4)
    assert [found.path.name for found in real.clips(tmp_path, range(5, 20))] == ["0_ann_5.wav", "7_theo_12.wav"]


@pytest.mark.parametrize("double", [False, True])
def test_a_network_is_scaled_rounded_and_fitted(double):
    rng = np.random.default_rng(4)
    network = synthetic.network(6, [Shape("lstm", 12), Shape("linear", 5, when="last")], seed=1)
    x = rng.normal(size=(70, 8, 6)) * np.array([1, 200, 5, 1, 0.01, 1]) / 10
    source = real.rounded(network, x[:40], centre=True, double=double)
    made = real.fitted(source, x[:40], QuantizeConfig(activation_bits=10), 12)
    assert made.program.input_format.width == 12
    assert made.program.inputs == (12 if double else 6)
    assert made.program.layers[0].formats["h"].width == 10
    assert np.median(real.cosines(made.outputs(x), real.evaluated(network, x))) > 0.99


@pytest.mark.slow
@pytest.mark.verilator
def test_rtl_of_a_small_network():
    network = synthetic.network(4, [Shape("lstm", 6), Shape("linear", 3, when="last")], seed=1)
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    made = real.fitted(real.rounded(network, x, centre=True, double=True), x, QuantizeConfig(), 16)
    found = real.rtl(made.program, HardwareConfig(rows=4), made.raw(x))
    assert (found["mismatches"], found["cycle_mismatches"], found["counter_mismatches"]) == (0, 0, 0)
    assert found["cycles_counted"] == found["cycles_predicted"]
    assert (found["sequences"], found["steps"]) == (3, 15)


def test_a_model_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv(real.VARIABLE, str(tmp_path / "nothing"))
    out = tmp_path / "real.json"
    done = CliRunner().invoke(app, ["bench", "real", "--out", str(out)])
    assert done.exit_code == 0, done.output
    models = json.loads(out.read_text())["models"]
    assert set(models) == {"speech_commands", "speaker_encoder"}
    for model in models.values():
        assert re.match(r"skipped, because .*there is no FSDD in .*nothing", model["skipped"])
    assert "skipped, because" in done.output


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SparseGateError, match="--data-dir names .*gone, expected a folder"):
        real.data_folder(tmp_path / "gone")


def test_the_encoder_is_read_without_importing_its_package():
    checkpoint = real.checkpoint_of_encoder()
    if checkpoint is None:
        pytest.skip("resemblyzer is not installed; 'pip install --no-deps resemblyzer' provides it")
    network = importers.load(checkpoint, layers=real.LAYERS_OF_ENCODER, when="last")
    assert [(layer.kind, layer.inputs, layer.units) for layer in network.layers] == [
        ("lstm", 40, 256),
        ("lstm", 256, 256),
        ("lstm", 256, 256),
        ("linear_relu", 256, 256),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries that librosa brings
def test_the_float_reference_of_the_speech_commands():
    folder = real.data_folder(None)
    why = real.missing(folder).get("speech_commands")
    if why:
        pytest.skip(why)
    if importlib.util.find_spec("librosa") is None:
        pytest.skip("librosa is not installed")
    tests = real.clips(folder, real.TEST)
    x = np.stack([real.cepstra(clip) for clip in tests])
    network = importers.load(real.checkpoint_of_commands(folder), layers=["lstm", "fc"], when="last")
    classes = (folder / "speech_commands_lstm" / "config" / "classes_kaggle.names").read_text().split()
    found = real.accuracies(real.evaluated(network, x), np.array([clip.digit for clip in tests]), classes)
    assert found == {
        "accuracy_35": pytest.approx(262 / 300, abs=1e-6),
        "accuracy_10": pytest.approx(278 / 300, abs=1e-6),
    }


def test_the_makefile_writes_the_documented_file():
    assert "bench real --out docs/benchmarks/real_models.json" in (ROOT / "Makefile").read_text()


def test_the_record_keeps_what_was_promised():
    models = json.loads(RECORD.read_text(encoding="utf-8"))["models"]
    commands, encoder = models["speech_commands"], models["speaker_encoder"]
    assert (commands["float"]["accuracy_35"], commands["float"]["accuracy_10"]) == (0.873333, 0.926667)
    assert all(loss <= 1 for loss in commands["loss_points"].values())
    assert commands["rtl"]["sequences"] >= 10
    chosen = next(row for row in encoder["golden"] if row["cosine_50"]["median"] >= 0.99)
    assert chosen["weight_bits"] == 8
    assert chosen["identification"] >= 0.99
    assert encoder["clips"] == 50
    for model in (commands, encoder):
        assert (model["rtl"]["mismatches"], model["rtl"]["cycle_mismatches"], model["rtl"]["counter_mismatches"]) == (
            0,
            0,
            0,
        )


def test_the_page_shows_the_record():
    page = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for _, what, *figures in real.table(json.loads(RECORD.read_text(encoding="utf-8"))["models"]):
        assert f"| {what} | {' | '.join(figures)} |" in page, what
