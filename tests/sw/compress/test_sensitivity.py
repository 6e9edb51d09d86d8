"""The sensitivity scan: one matrix at a time, measured once, and continued where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparsegate.cells.matrices import KEYS
from sparsegate.compress.sensitivity import Scan, digest, pruned, scan
from sparsegate.errors import SparseGateError
from sparsegate.golden import run
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import NM, parse
from sparsegate.quantize import quantize

SHAPES = [Shape("lstm", 8, outputs=4), Shape("gru", 6, NM(2, 4)), Shape("linear", 3)]
PATTERNS = ("1:4", "2:8", "unstructured:1/4")


@pytest.fixture
def net():
    return network(5, SHAPES, 3)


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    return rng.normal(size=(6, 7, 5)), rng.integers(2, 8, 6)


def nonzero(trial) -> float:
    return float(sum(np.count_nonzero(layer.w_x) for layer in trial.layers))


def test_every_matrix_is_pruned_alone(net):
    """Nothing but the named matrix changes, and it obeys its pattern."""
    seen = []

    def score(trial):
        seen.append(trial)
        return 1.0

    made = scan(net, score, PATTERNS)
    matrices = [("lstm0", "x"), ("lstm0", "h"), ("lstm0", "p"), ("gru1", "x"), ("gru1", "h")]
    assert list(made.matrices) == matrices
    assert [(one.layer, one.key, str(one.pattern)) for one in made.measurements] == [
        (*matrix, pattern) for matrix in matrices for pattern in PATTERNS
    ]
    for one, trial in zip(made.measurements, seen[1:], strict=True):
        for before, after in zip(net.layers, trial.layers, strict=True):
            for key in ("x", "h", "p"):
                old, new = getattr(before, f"w_{key}"), getattr(after, f"w_{key}")
                if (before.name, key) == (one.layer, one.key):
                    mask = one.pattern.mask(old, 1 if key == "p" else before.gates)
                    assert (new == np.where(mask, old, 0)).all()
                    assert not mask.all()
                    hardware = one.pattern if isinstance(one.pattern, NM) else NM(1, 1)
                    assert getattr(after, f"pattern_{key}") == hardware
                else:
                    assert (new is old) or (new == old).all()
                    assert getattr(after, f"pattern_{key}") == getattr(before, f"pattern_{key}")


def test_heads_on_request(net):
    assert ("linear2", "x") not in scan(net, nonzero, ["1:2"]).matrices
    assert ("linear2", "x") in scan(net, nonzero, ["1:2"], heads=True).matrices


def test_output_error_by_hand(net, data):
    x, lengths = data
    made = scan(net, nonzero, ["1:4"], x, lengths)
    before = net.evaluate(x, lengths).outputs
    after = pruned(net, {("lstm0", "h"): NM(1, 4)}).evaluate(x, lengths).outputs
    wanted = np.linalg.norm(after - before) / np.linalg.norm(before)
    found = made.find("lstm0", "h")[NM(1, 4)].error
    assert found is not None
    assert found > 0.01
    assert found == pytest.approx(wanted, rel=1e-12)
    assert scan(net, nonzero, ["1:4"]).measurements[0].error is None


def test_score_of_the_golden_model(net, data):
    x, lengths = data

    def score(trial):
        program = quantize(trial, x, lengths)
        return -float(np.abs(run(program, program.quantize(x), lengths).last).sum())

    made = scan(net, score, ["1:4"], x, lengths)
    assert made.score == score(net)
    assert made.find("gru1", "x")[NM(1, 4)].score == score(pruned(net, {("gru1", "x"): NM(1, 4)}))


def test_compensated_pruning_errs_less(data):
    x, lengths = data
    net = network(5, [Shape("lstm", 8)], 3)
    plain = scan(net, nonzero, ["1:4"], x, lengths)
    better = scan(net, nonzero, ["1:4"], x, lengths, method="compensated")
    for one, other in zip(plain.measurements, better.measurements, strict=True):
        assert other.error < one.error
    with pytest.raises(SparseGateError, match="needs calibration data"):
        scan(net, nonzero, ["1:4"], method="compensated")


def test_json_round_trip(net, data, tmp_path):
    made = scan(net, nonzero, PATTERNS, *data)
    made.save(tmp_path / "scan.json")
    assert Scan.load(tmp_path / "scan.json") == made
    assert made.missing == 0


def test_interrupted_scan_goes_on(net, data, tmp_path):
    """Measured once each, however often it is interrupted, with the result of an uninterrupted scan."""
    path = tmp_path / "scan.json"
    whole = scan(net, nonzero, PATTERNS, *data)
    measured = []

    def counting(trial):
        if len(measured) == limit:
            raise KeyboardInterrupt
        measured.append(trial)
        return nonzero(trial)

    limit = 5  # the network itself, and four trials
    with pytest.raises(KeyboardInterrupt):
        scan(net, counting, PATTERNS, *data, path=path)
    left = Scan.load(path)
    assert left.measurements == whole.measurements[:4]
    assert left.missing == 15 - 4
    measured, limit = [], 100
    calls = []
    found = scan(net, counting, PATTERNS, *data, lambda *words: calls.append(words), path=path)
    assert found == whole == Scan.load(path)
    assert len(measured) == 1 + 11
    assert calls[0] == (4, 15, "lstm0 Wh 2:8")


def test_a_wider_scan_keeps_what_is_known(net, tmp_path):
    path = tmp_path / "scan.json"
    first = scan(net, nonzero, ["1:4"], path=path)
    measured = []
    second = scan(net, lambda trial: measured.append(trial) or nonzero(trial), ["1:4", "1:8"], path=path)
    assert len(measured) == 1 + 5
    assert set(first.measurements) < set(second.measurements)


@pytest.mark.parametrize("what", ["network", "calibration data", "score", "method"])
def test_a_file_of_another_scan_is_refused(net, data, tmp_path, what):
    path = tmp_path / "scan.json"
    x, lengths = data
    scan(net, nonzero, ["1:4"], x, lengths, path=path)
    before = path.read_text()
    other, score, method = net, nonzero, "magnitude"
    if what == "network":
        other = replace(net, layers=(*net.layers[:-1], replace(net.layers[-1], bias=net.layers[-1].bias + 1)))
    elif what == "calibration data":
        x = x + 1
    elif what == "score":
        score = lambda trial: nonzero(trial) + 1  # noqa: E731
    else:
        method = "compensated"
    with pytest.raises(SparseGateError, match=f"holds a scan with another {what} .* remove it"):
        scan(other, score, ["1:4"], x, lengths, method=method, path=path)
    assert path.read_text() == before


def test_digest_sees_everything_that_is_computed_with(net):
    weights = net.layers[0].w_h.copy()
    weights[3, 1] += 1e-9
    changed = [
        replace(net.layers[0], w_h=weights),
        replace(net.layers[0], w_p=net.layers[0].w_p * 2),
        replace(net.layers[0], bias=-net.layers[0].bias),
    ]
    digests = {digest(net), *(digest(net.with_layers([layer, *net.layers[1:]])) for layer in changed)}
    assert len(digests) == 4
    assert digest(replace(net, name="other", meta={"a": 1})) == digest(net)


def test_what_cannot_be_scanned(net):
    with pytest.raises(SparseGateError, match="there is no pattern to scan"):
        scan(net, nonzero, [])
    with pytest.raises(SparseGateError, match="there is no recurrent layer"):
        scan(network(3, [Shape("linear", 2)], 0), nonzero, ["1:2"])
    with pytest.raises(SparseGateError, match="the score of the network is nan, expected a finite number"):
        scan(net, lambda trial: float("nan"), ["1:2"])
    with pytest.raises(SparseGateError, match="the score of lstm0 Wx 1:2 is inf"):
        scan(net, lambda trial: 0.0 if trial is net else float("inf"), ["1:2"])


def test_damaged_files(net, tmp_path):
    path = tmp_path / "scan.json"
    made = scan(net, nonzero, ["1:4"])
    for change, sentence in (
        ({"format": "other"}, "is no sensitivity scan"),
        ({"version": 2}, "has version 2"),
        ({"patterns": ["none"]}, "a pattern is written like"),
        ({"matrices": [{"layer": "a", "key": "q"}]}, "damaged"),
        ({"measurements": [{}]}, "damaged"),
        ({"score": float("nan")}, "nan where a finite number below"),
        ({"score": 1e308}, "1e[+]308 where a finite number below"),
    ):
        path.write_text(json.dumps(made.as_json() | change))
        with pytest.raises(SparseGateError, match=sentence):
            Scan.load(path)
    path.write_text("[]")
    with pytest.raises(SparseGateError, match="is no sensitivity scan"):
        Scan.load(path)


def test_patterns_are_tried_once(net):
    assert scan(net, nonzero, ["1:4", parse("1:4")]).patterns == (NM(1, 4),)
    assert KEYS == ("x", "h", "p")


def test_a_measurement_that_stands_there_twice_counts_once(net):
    made = scan(net, nonzero, PATTERNS)
    assert made.missing == 0
    assert (
        replace(made, measurements=made.measurements[:1] * len(made.measurements)).missing == len(made.measurements) - 1
    )
