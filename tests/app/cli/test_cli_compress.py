"""The commands that compress: scan, allocate, prune, quantize; interrupted and continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.app.cli.test_cli import ENVIRONMENT, failure, sparsegate

from sparsegate.compress.budget import Allocation
from sparsegate.compress.sensitivity import Scan
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import DENSE, NM
from sparsegate.program import Program
from sparsegate_app.console import TimeLeft


@pytest.fixture
def files(tmp_path):
    """A dense network and sequences of three classes that differ in their means."""
    rng = np.random.default_rng(1)
    y = np.arange(24) % 3
    x = rng.normal(size=(24, 6, 4)) + y[:, None, None]
    network = synthetic.network(4, [Shape("lstm", 8), Shape("linear", 3)], seed=1)
    network.save(tmp_path / "network.safetensors")
    np.savez(tmp_path / "data.npz", x=x, length=rng.integers(2, 7, 24), y=y)
    return tmp_path


def options(files) -> tuple[object, ...]:
    return files / "network.safetensors", "--data", files / "data.npz"


def test_scan_allocate_prune_quantize(files):
    """The whole way, each command taking what the one before wrote."""
    network, *data = options(files)
    scan, allocation, pruned, program = (
        files / name for name in ("scan.json", "allocation.json", "pruned.safetensors", "program.safetensors")
    )
    patterns = ("--pattern", "1:4", "--pattern", "1:8")
    result = sparsegate("sensitivity", network, *data, *patterns, "--out", scan, "--json")
    made = Scan.load(scan)
    assert json.loads(result.stdout) == {"file": str(scan), **made.as_json()}
    assert made.patterns == (NM(1, 4), NM(1, 8))
    assert made.missing == 0

    budget = ("--budget-nonzeros", 80, "--rows", 8, "--groups", 2)
    result = sparsegate("allocate", network, "--sensitivity", scan, *budget, "--out", allocation, "--json")
    chosen = Allocation.load(allocation)
    assert json.loads(result.stdout) == {"file": str(allocation), **chosen.as_json()}
    assert chosen.nonzeros <= 80
    assert (chosen.hardware.rows, chosen.hardware.groups) == (8, 2)

    words = ("--allocation", allocation, "--epochs", 2, "--out", pruned, "--json")
    result = json.loads(sparsegate("prune", network, *data, *words).stdout)
    found = Network.load(pruned)
    for layer, said in zip(found.layers, result["layers"], strict=True):
        assert layer.pattern_x == chosen.patterns[layer.name]["x"]
        assert said["pruned_x"] == said["pattern_x"] == str(layer.pattern_x)
    lstm = found.layers[0]
    assert lstm.pattern_h == chosen.patterns["lstm0"]["h"]
    kept = np.count_nonzero(lstm.w_x) + np.count_nonzero(lstm.w_h)
    assert result["layers"][0]["density"] == kept / (lstm.w_x.size + lstm.w_h.size)

    sparsegate("quantize", pruned, *data, "--epochs", 1, "--out", program)
    from sparsegate.compress.costs import stored_entries

    assert stored_entries(Program.load(program)) == chosen.nonzeros


def test_an_allocation_prunes_projections(files):
    network, *data = options(files)
    shapes = [Shape("lstm", 8, outputs=4), Shape("linear", 3)]
    synthetic.network(4, shapes, seed=1).save(network)
    scan, allocation, pruned = (files / name for name in ("scan.json", "allocation.json", "pruned.safetensors"))
    sparsegate("sensitivity", network, *data, "--pattern", "1:4", "--out", scan)
    sparsegate("allocate", network, "--sensitivity", scan, "--budget-nonzeros", 90, "--out", allocation)
    chosen = Allocation.load(allocation).patterns["lstm0"]
    assert chosen["p"] == NM(1, 4)
    sparsegate("prune", network, *data, "--allocation", allocation, "--epochs", 2, "--out", pruned)
    made = Network.load(pruned).layers[0]
    assert {"x": made.pattern_x, "h": made.pattern_h, "p": made.pattern_p} == chosen
    assert chosen["p"].violations(made.w_p, 1) == 0


def test_tables_for_readers(files):
    network, *data = options(files)
    shown = sparsegate("sensitivity", network, *data, "--pattern", "1:4", "--out", files / "scan.json").stdout
    assert "accuracy lost" in shown
    assert "lstm0 Wx" in shown
    assert "lstm0 Wh" in shown
    words = ("--sensitivity", files / "scan.json", "--budget-us", 5, "--clock", 100, "--out", files / "a.json")
    shown = sparsegate("allocate", network, *words).stdout
    for text in ("lstm0 Wh", "stored entries", "microseconds at 100 MHz", "block RAMs"):
        assert text in shown


def test_the_scan_of_the_golden_model_and_of_heads(files):
    network, *data = options(files)
    words = ("--pattern", "1:4", "--golden", "--heads", "--compensated", "--out", files / "scan.json")
    sparsegate("sensitivity", network, *data, *words)
    made = Scan.load(files / "scan.json")
    assert ("linear1", "x") in made.matrices
    assert made.method == "compensated"


def test_an_interrupted_scan_goes_on(files, monkeypatch):
    from sparsegate.compress import sensitivity

    network, *data = options(files)
    words = ("sensitivity", network, *data, "--pattern", "1:4", "--out", files / "scan.json")
    real, seen = sensitivity.pruned, []

    def interrupted(*given):
        seen.append(given)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(sensitivity, "pruned", interrupted)
    result = sparsegate(*words, status=130)
    assert f"{files / 'scan.json'} keeps what has been measured" in "".join(result.stderr.split("\n"))
    assert Scan.load(files / "scan.json").missing == 1
    sparsegate(*words)
    assert Scan.load(files / "scan.json").missing == 0
    assert len(seen) == 3


@pytest.mark.parametrize(
    "pattern", ["1:4", "dense", "unstructured:1/4", "bbs:1:4", "ese:1/4:2", "block:1/4:2x2", "cbtd:1/4:2"]
)
def test_every_pattern_can_be_pruned_to(files, pattern):
    network, *data = options(files)
    out = files / "pruned.safetensors"
    result = json.loads(
        sparsegate("prune", network, *data, "--pattern", pattern, "--epochs", 1, "--out", out, "--json").stdout
    )
    made = Network.load(out).layers[0]
    assert made.pattern_x == (NM(1, 4) if pattern == "1:4" else DENSE)
    assert result["layers"][0]["density"] == pytest.approx(1 if pattern == "dense" else 0.25)
    assert not (files / "pruned.checkpoint").exists()


@pytest.mark.parametrize("schedule", ["cubic", "one-shot", "annealed"])
def test_schedules_and_a_pattern_of_the_recurrent_matrix(files, schedule):
    network, *data = options(files)
    out = files / "pruned.safetensors"
    words = ("--pattern", "1:4", "--pattern-h", "2:8", "--schedule", schedule, "--epochs", 2, "--out", out)
    sparsegate("prune", network, *data, *words)
    made = Network.load(out).layers[0]
    assert (made.pattern_x, made.pattern_h) == (NM(1, 4), NM(2, 8))
    assert made.pattern_h.violations(made.w_h, 4) == 0


@pytest.mark.parametrize(
    ("command", "given", "other", "sentence"),
    [
        ("train", ("--hidden", 4), ("--hidden", 5), "another training"),
        ("prune", ("--pattern", "1:4"), ("--pattern-h", "1:8"), "in the checkpoint"),
        ("quantize", ("--weight-bits", 6), ("--weight-bits", 5), "another training"),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_result(files, command, given, other, sentence):
    """Ctrl-C in the middle, then the same command: the file is that of a run that nobody disturbed, to the byte."""
    source = options(files)[command == "train" :]
    words = [command, *source, *given, "--epochs", 300, "--out", files / "made.safetensors"]
    sparsegate(*words[:-1], files / "whole.safetensors")
    arguments = [sys.executable, "-m", "sparsegate_app.cli", *map(str, words)]
    checkpoint = files / "made.checkpoint"
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert f"{checkpoint} keeps the epochs that are done" in said
    assert "error: interrupted" in said
    assert checkpoint.exists()
    assert not (files / "made.safetensors").exists()

    # another run does not take it for its own
    for changed, expected in ((("--seed", 1), "another training"), (other, sentence)):
        refused = failure(*words, *changed)
        assert str(checkpoint) in refused
        assert expected in refused
    assert checkpoint.exists()

    result = sparsegate(*words)
    assert "made.safetensors" in "".join(result.stdout.split())
    assert (files / "made.safetensors").read_bytes() == (files / "whole.safetensors").read_bytes()
    assert not checkpoint.exists()


@pytest.mark.parametrize("command", ["train", "prune", "quantize"])
def test_a_checkpoint_of_ones_own_choice(files, command):
    (files / "mine").write_bytes(b"no checkpoint")
    words = ("--epochs", 1, "--out", files / "made.safetensors", "--checkpoint", files / "mine")
    said = failure(command, *options(files)[command == "train" :], *words)
    assert f"{files / 'mine'} is not a readable checkpoint" in said


def test_rounding_alone_neither_reads_nor_removes_a_checkpoint(files):
    (files / "made.checkpoint").write_bytes(b"of an earlier run")
    result = sparsegate("quantize", *options(files), "--epochs", 0, "--out", files / "made.safetensors")
    assert "going on" not in result.stderr
    assert (files / "made.checkpoint").read_bytes() == b"of an earlier run"


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (("--weight-bits", 4), {"weight_bits": 4}),
        (
            ("--matrix-bits", "lstm0.wh=4", "--matrix-bits", "linear1.wx=6"),
            {"matrix_bits": {"lstm0.wh": 4, "linear1.wx": 6}},
        ),
        (("--weight-levels", 5), {"weight_levels": 5}),
        (("--calibration", "percentile", "--percentile", 90), {"calibration": "percentile", "percentile": 90}),
        (("--calibration", "mse", "--weight-bits", 3), {"calibration": "mse", "weight_bits": 3}),
        (("--rounding", "compensated"), {"rounding": "compensated"}),
        (("--bias-correction", "--weight-bits", 3), {"bias_correction": True, "weight_bits": 3}),
        (("--input-bits", 12), {"input_bits": 12}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_quantization_option_reaches_the_program(files, words, config):
    from sparsegate.data import datasets
    from sparsegate.quantize import QuantizeConfig, quantize

    network, *data = options(files)
    out = files / "program.safetensors"
    sparsegate("quantize", network, *data, *words, "--epochs", 0, "--out", out)
    dataset, model = datasets.load(str(files / "data.npz")), Network.load(network)
    plain, wanted = (
        quantize(model, dataset.x_train, dataset.length_train, QuantizeConfig(**given)) for given in ({}, config)
    )
    assert Program.load(out).digest == wanted.digest != plain.digest


def test_thresholds_within_a_budget_of_accuracy(files):
    """They are chosen on training sequences with noise, from --threshold on, and are in the Program; the test part is unseen."""
    from sparsegate import training
    from sparsegate.data import datasets
    from sparsegate.golden import temporal

    network, *data = options(files)
    out = files / "program.safetensors"
    words = ("quantize", network, *data, "--epochs", 1, "--threshold", 1, "--out", out, "--json")
    sparsegate(*words)
    plain, dataset = Program.load(out), datasets.load(str(files / "data.npz"))
    x, length, y = dataset.noisy()

    def score(trial):
        return training.accuracy(trial, x, length, y)

    found = []
    for points in (0, 100):
        said = json.loads(sparsegate(*words, "--threshold-budget", points).stdout)
        made = Program.load(out)
        expected = temporal.choose(plain, dataset.x_train, dataset.length_train, score, points / 100)
        assert made.thresholds == expected.thresholds == tuple(said["thresholds"].values())
        assert list(said["thresholds"]) == ["input", "lstm0", "linear1"]
        assert score(made) >= score(plain) - points / 100
        shares = [temporal.skipped(each, dataset.x_test, dataset.length_test).total for each in (plain, made)]
        assert said["skipped"] == {"before": shares[0], "after": shares[1]}
        assert said["accuracy"]["golden"] == training.accuracy(
            made, dataset.x_test, dataset.length_test, dataset.y_test
        )
        found.append(made.thresholds)
    assert found[0] != found[1] == (32, 32, 0)  # 100 points may go: the largest Θ that are tried
    shown = sparsegate(*words[:-1], "--threshold-budget", 100).stdout
    assert "input 32, lstm0 32" in shown
    assert "Invalid value for '--threshold-budget'" in sparsegate(*words, "--threshold-budget", -1, status=2).stderr


def test_zeros_of_another_pattern_are_held(files):
    """Of a network that `prune` wrote; of another one on request."""
    network, *data = options(files)
    pruned, program = files / "pruned.safetensors", files / "program.safetensors"
    sparsegate("prune", network, *data, "--pattern", "bbs:1:4", "--epochs", 1, "--out", pruned)
    zero = Network.load(pruned).layers[0].w_h == 0
    written = Network.load(pruned)
    assert written.meta["patterns"] == {"lstm0": ["bbs:1:4", "bbs:1:4"]}
    replace(written, meta={}).save(files / "unknown.safetensors")
    replace(written, meta={"patterns": {"lstm0": ["1:4", "dense"]}}).save(files / "nm.safetensors")
    for name, words, held in (
        ("pruned", (), True),
        ("pruned", ("--no-hold-zeros",), False),
        ("unknown", (), False),
        ("unknown", ("--hold-zeros",), True),
        ("nm", (), False),
    ):
        sparsegate("quantize", files / f"{name}.safetensors", *data, *words, "--epochs", 60, "--out", program)
        assert (Program.load(program).layers[0].w_h[zero] == 0).all() == held, (name, words)
    replace(written, meta={"patterns": 3}).save(files / "damaged.safetensors")
    assert "has a damaged header" in failure("quantize", files / "damaged.safetensors", *data, "--out", program)


def test_what_is_refused(files):
    network, *data = options(files)
    scan, allocation = files / "scan.json", files / "allocation.json"
    sparsegate("sensitivity", network, *data, "--pattern", "1:4", "--out", scan)
    allocate = ("allocate", network, "--sensitivity", scan, "--out", allocation)
    absent = files / "absent.json"
    told = failure("allocate", network, "--sensitivity", absent, "--budget-us", 3)
    assert told == f"there is no {absent}; 'sparsegate sensitivity' writes one"
    said = "expected one of --budget-us, --budget-nonzeros and --budget-brams"
    assert failure(*allocate) == f"no budgets given, {said}"
    assert failure(*allocate, "--budget-us", 3, "--budget-brams", 4) == f"2 budgets given, {said}"
    assert "cannot be met: 120 is the least" in failure(*allocate, "--budget-nonzeros", 10)
    assert not allocation.exists()
    assert "a pattern is written like" in failure("sensitivity", network, *data, "--pattern", "1-4", "--out", scan)
    (files / "other.json").write_text("{}")
    said = failure("allocate", network, "--sensitivity", files / "other.json", "--budget-us", 3)
    assert said == f"{files / 'other.json'} is no sensitivity scan; 'sparsegate sensitivity' writes one"

    sparsegate(*allocate, "--budget-nonzeros", 200)
    prune = ("prune", network, *data, "--out", files / "pruned.safetensors")
    assert "expected one of them" in failure(*prune, "--allocation", allocation, "--pattern", "1:4")
    synthetic.network(4, [Shape("lstm", 8), Shape("linear", 3)], seed=2).save(network)
    assert "the allocation is of another network" in failure(*prune, "--allocation", allocation)
    assert "holds a scan with another network" in failure("sensitivity", *options(files), "--out", scan)
    assert "a pattern is written like" in failure(*prune, "--pattern", "bbs:1")
    assert "bits of a matrix are written like 'lstm.wh=4', not 'wh:4'" in failure(
        "quantize", *options(files), "--matrix-bits", "wh:4"
    )
    assert "weights are given 4 bits and 5 levels, expected one of" in failure(
        "quantize", *options(files), "--weight-bits", 4, "--weight-levels", 5
    )
    assert not (files / "pruned.safetensors").exists()


def test_what_would_be_taken_for_something_else_is_refused(files):
    """Zeros and empty texts are not the default, and nothing is chosen from two."""
    network, *data = options(files)
    pruned, scan = files / "pruned.safetensors", files / "scan.json"
    prune = ("prune", network, *data, "--epochs", 1, "--out", pruned)
    assert failure(*prune, "--pattern", "").endswith("not ''")
    assert failure(*prune, "--pattern", "1:4", "--pattern-h", "").endswith("not ''")
    assert "blocks of 65 and 64 units meet at 4160, expected at most 1024" in failure(
        *prune, "--pattern", "1:65", "--pattern-h", "1:64"
    )
    assert not pruned.exists()
    assert "the bits of lstm0.wh are given twice, 4 and 5" in failure(
        "quantize", *options(files), "--matrix-bits", "lstm0.wh=4", "--matrix-bits", "lstm0.wh=5"
    )
    sparsegate("sensitivity", network, *data, "--pattern", "1:4", "--out", scan)
    for option in ("--rows", "--groups"):
        words = ("allocate", network, "--sensitivity", scan, "--budget-us", 5, option, 0, "--out", files / "a.json")
        assert "is 0, expected 1 or more" in failure(*words)


@pytest.mark.parametrize("command", ["train", "prune", "quantize"])
@pytest.mark.parametrize("seed", [-1, 10**22])
def test_seeds_that_no_generator_takes(files, command, seed):
    source = () if command == "train" else (files / "network.safetensors",)
    said = failure(command, *source, "--data", files / "data.npz", "--seed", seed)
    assert said == f"a seed is 0 or more and below 2**63, not {seed}"


@pytest.mark.parametrize("command", ["train", "prune", "quantize"])
def test_what_cannot_be_written_is_refused_before_training(files, command):
    network, *data = options(files)
    source = () if command == "train" else (network,)
    words = (command, *source, *data, "--epochs", 10**6, "--out")
    assert failure(*words, files) == f"cannot write {files}: it is a folder"
    assert failure(*words, network / "x") == f"cannot write {network / 'x'}: {network} is no folder"
    assert "cannot be both" in failure(*words, files / "x", "--checkpoint", files / "x")
    assert "it is a folder" in failure(*words, files / "x", "--checkpoint", files)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"rows": 3}', '{"rows": [{"accuracy": 1}]}', '{"format": "other"}'])
def test_pictures_of_json_that_is_something_else(files, text):
    (files / "some.json").write_text(text)
    said = failure("pictures", files / "some.json", "--out", files / "pictures")
    assert said.startswith(f"{files / 'some.json'} is neither a sensitivity scan nor rows of an accuracy benchmark")
    assert not (files / "pictures").exists()


def test_a_network_with_nothing_to_prune(files):
    synthetic.network(4, [Shape("linear", 3)], seed=2).save(files / "network.safetensors")
    assert failure("prune", *options(files)) == "the network has no recurrent layer to prune"


def test_time_left():
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    assert left(0, 10) == ""
    now[0] = 20.0
    assert left(2, 10) == ", about 80 s left"
    now[0] = 600.0
    assert left(5, 10) == ", about 10 min left"
    assert left(10, 10) == ""
    # what an earlier run did takes no time from this one: epoch 51 is the first
    now[0] = 0.0
    left = TimeLeft(lambda: now[0])
    now[0] = 300.0
    assert left(51, 100, 1) == ", about 4.1 h left"
