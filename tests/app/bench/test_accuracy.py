"""The benchmark of compression: its tasks, its rows, its record and page, and the command that makes them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact, golden, pictures, training
from sparsegate.errors import SparseGateError
from sparsegate.golden import temporal
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.program import Program
from sparsegate.training import Recipe, objective
from sparsegate.training.ensemble import Ensemble
from sparsegate_app.bench import accuracy, accuracy_table, real, tasks
from sparsegate_app.bench.accuracy import Bench, Case, Plan, cases
from sparsegate_app.bench.tasks import Part, Task
from sparsegate_app.cli import app

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "docs" / "benchmarks"
FOLDER = real.data_folder(None)
QUICK = Plan(Recipe(4, 2e-2, 16), Recipe(4, 1e-2, 16), Recipe(2, 1e-3, 16), (Case(), Case("1:4")), teach=True)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A user's own labelled sequences."""
    rng = np.random.default_rng(0)
    length = rng.integers(3, 7, 48)
    x = rng.normal(size=(48, 6, 3)) * np.array([1.0, 4.0, 0.5])
    path = tmp_path_factory.mktemp("own") / "mine.npz"
    np.savez(path, x=x, length=length, y=(x[np.arange(48), length - 1, 1] > 0).astype(int))
    return path


@pytest.fixture(scope="module")
def bench(mine, tmp_path_factory):
    return Bench(str(mine), 1, FOLDER, tmp_path_factory.mktemp("work"), QUICK)


CASES = [
    (Case(), 1.0, 4.0),
    (Case("1:4"), 0.25, 32 * 4 / 10),  # 8 bits and 2 of index for every fourth weight
    (Case("unstructured:1/4"), 0.25, None),
    (Case("cbtd:1/4:8", schedule="annealed"), 0.25, None),
    (Case("1:4", 4), 0.25, 32 * 4 / 6),
    (Case("1:4", 3, levels=5), 0.25, 32 * 4 / 5),
    (Case("1:4", permuted=True), 0.25, 32 * 4 / 10),
    (Case("1:4", gates="g2"), 0.25, 32 * 4 / 10),
    (Case("1:4", theta=8, quiet=1.0), 0.25, 32 * 4 / 10),
    # W_x 256 x 3, W_h 256 x 4, W_p 4 x 64 for the dense 256 x 67
    (Case(rank=4), 1.0, 32 * 256 * 67 / (8 * (256 * 7 + 256))),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("case", "density", "smaller"), CASES, ids=lambda value: getattr(value, "slug", ""))
def test_a_row(bench, case, density, smaller):
    row = bench.row(case)
    assert row["density"] == pytest.approx(density, abs=2e-3)
    if smaller is not None:
        assert row["compression_weights"] == pytest.approx(smaller, rel=1e-3)
    # heads and biases are there too
    assert row["compression_model"] < row["compression_weights"] or case == Case()
    network = bench.pruned(case)
    program = bench.program(case, network)
    test = bench.task.test
    last = golden.run(program, program.quantize(test.x), test.lengths).last
    assert row["golden"] == {"accuracy": pytest.approx(np.mean(last.argmax(1) == test.target), abs=1e-6)}
    assert row["loss"] == pytest.approx(100 * (row["float"]["accuracy"] - row["golden"]["accuracy"]), abs=1e-3)
    at = {theta: program.with_thresholds(theta) for theta in (0, case.theta, row["theta"])}
    skipped = {theta: temporal.skipped(made, test.x[:100], test.lengths[:100]).total for theta, made in at.items()}
    assert row["skipped"] == np.round(skipped[0], 4)
    assert row["skipped_at_theta"] == np.round(skipped[row["theta"]], 4)
    assert row.get("skipped_as_trained") == (np.round(skipped[case.theta], 4) if case.theta else None)
    assert set(program.thresholds) == {case.theta}  # which the golden figure is at
    assert row["theta"] in accuracy.THETAS
    assert set(row["gates_near_0_or_1"]) == set("ifo")
    for mine, before in zip(program.layers, network.layers, strict=True):  # what was pruned stays so
        matrix = mine.matrix_x
        assert matrix.nonzeros <= np.count_nonzero(before.w_x)


def test_rows_and_networks_are_kept(bench, monkeypatch):
    row = bench.row(Case("1:4"))
    path = bench.work / "pattern=1_4.json"
    kept, network = path.read_bytes(), (bench.work / "pattern=1_4.safetensors").stat().st_mtime_ns
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 77'))
    assert bench.row(Case("1:4"))["seed"] == 77  # read, not measured
    path.unlink()
    again = bench.row(Case("1:4"))
    assert (bench.work / "pattern=1_4.safetensors").stat().st_mtime_ns == network
    assert {**again, "seconds": 0} == {**row, "seconds": 0}
    assert json.loads(kept)["key"] == json.loads(path.read_text())["key"]
    # a row that was measured in another way is measured again, of the same network
    monkeypatch.setattr(cases, "ROWS", cases.ROWS + 1)
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 77'))
    assert bench.row(Case("1:4"))["seed"] == 1
    assert (bench.work / "pattern=1_4.safetensors").stat().st_mtime_ns == network
    # another recipe is another network
    changed = replace(QUICK, prune=Recipe(5, 1e-2, 16))
    assert bench._key(Case("1:4")) != _keyed(bench, changed, Case("1:4"))
    assert bench._key(Case()) == _keyed(bench, changed, Case())
    accuracy.forget(["mine"], [1], bench.work.parent)
    assert not list(bench.work.iterdir())


def test_forgets_the_seeds_that_teach_too(tmp_path):
    for seed in range(5):
        (tmp_path / f"characters-{seed}").mkdir()
        (tmp_path / f"characters-{seed}" / "float-plain.safetensors").touch()
    accuracy.forget(["characters"], [0, 1], tmp_path)
    assert [path.parent.name for path in tmp_path.glob("*/*")] == ["characters-4"]


def _keyed(bench, plan, case):
    before, bench.plan = bench.plan, plan
    try:
        return bench._key(case)
    finally:
        bench.plan = before


def test_slugs_differ():
    for plan in accuracy.PLANS.values():
        slugs = [case.slug for case in plan.cases]
        assert len(set(slugs)) == len(slugs) == len(set(plan.cases))


def test_the_threshold_is_the_largest_below_which_all_are_cheap(bench, monkeypatch):
    costs = dict(zip(accuracy.THETAS, (0, 0.1, -0.2, 0.3, 0.4, 0.1, 0, 0, 0, 0, 0), strict=True))
    # more than run at once, and than 300
    many = bench.task.validation.take(np.arange(500) % len(bench.task.validation))
    monkeypatch.setattr(bench, "task", replace(bench.task, validation=many))
    asked = []

    def measure(self, model, part=None):
        theta = model.thresholds[0] if isinstance(model, Program) else 0
        asked.append((theta, part))
        return {"accuracy": 0.9 - (costs[theta] if part is many else 5 * costs[theta]) / 100}

    monkeypatch.setattr(Task, "measure", measure)
    made = bench._measure(Case())
    assert [theta for theta, part in asked if part is many] == [0, 1, 2, 3, 4]  # 6 would be cheap, 4 is not
    assert made["theta"] == 3
    assert made["validation"] == {"0": 0.9, "1": 0.899, "2": 0.902, "3": 0.897, "4": 0.896}
    assert (made["golden"], made["golden_at_theta"]) == ({"accuracy": 0.9}, {"accuracy": 0.885})


def test_loss_has_the_sense_of_its_unit():
    part = Part(np.zeros((1, 1, 1)), np.ones(1, np.int64), np.zeros(1))
    shares = Task("t", "", "last", part, part, part, lambda outputs, part: {}, "share", 1)
    assert (shares.loss(0.95, 0.97), shares.loss(0.98, 0.97)) == (2.0, -1.0)
    errors = replace(shares, unit="cycles")
    assert (errors.loss(16.5, 15.0), errors.higher) == (10.0, False)


def row(task="vowels", seed=0, golden=0.9, loss=1.0, **case):
    figures = {key: {"accuracy": golden} for key in ("float", "pruned", "golden", "golden_at_theta")}
    rest = {"density": 0.125, "compression_weights": 20.0, "compression_model": 15.0, "loss": loss, "skipped": 0.1}
    rest |= {"theta": 4, "skipped_at_theta": 0.5, "measure": "accuracy", "method": "", "seconds": 1.0}
    return {"task": task, "case": vars(Case(**case)).copy(), "seed": seed, **figures, **rest}


def test_means_and_spread():
    rows = [row(seed=0, golden=0.9, loss=1.0), row(seed=1, golden=0.94, loss=3.0), row(pattern="1:8")]
    first, second = accuracy.means(rows)
    assert (first["golden"], first["golden_spread"], first["loss"], first["loss_spread"]) == (
        {"accuracy": 0.92}, 0.04, 2.0, 2.0,
    )  # fmt: skip
    assert (first["seeds"], second["seeds"], second["case"]["pattern"]) == (2, 1, "1:8")


def test_what_the_threshold_costs_on_test_data():
    shares = [row(seed=seed) | {"golden_at_theta": {"accuracy": at}} for seed, at in enumerate((0.88, 0.9))]
    assert accuracy.means(shares)[0]["loss_by_theta"] == 1.0  # points
    errors = row("engines") | {"measure": "rmse", "float": {"rmse": 15.0}, "pruned": {"rmse": 16.0}}
    errors |= {"golden": {"rmse": 16.0}, "golden_at_theta": {"rmse": 18.0}}
    assert accuracy.means([errors])[0]["loss_by_theta"] == 12.5  # per cent
    hardly = row() | {"golden": {"accuracy": 0.9}, "golden_at_theta": {"accuracy": 0.90004}}
    for one, cell in ((shares[0], "+2.00"), (errors, "+12.50"), (hardly, "+0.00")):
        assert accuracy_table.page(record(one)).rstrip().endswith(f"| {cell} |")
    # which figures are shares is what the tasks say
    for one in artefact.read_json(KEPT / "accuracy.json")["rows"]:
        main = one["measure"]
        assert one["loss"] == tasks.lost(one["golden"][main], one["float"][main], main not in tasks.ERRORS)


def record(*rows):
    return {"tasks": {row["task"]: "data" for row in rows}, "rows": list(rows), "means": accuracy.means(rows)}


def test_tasks_that_were_not_measured_stay():
    old = record(row("vowels", golden=0.8), row("engines", golden=0.7))
    made = accuracy.merged(old, record(row("engines", golden=0.6), row("keywords", golden=0.5)))
    assert [(row["task"], row["golden"]["accuracy"]) for row in made["rows"]] == [
        ("vowels", 0.8), ("keywords", 0.5), ("engines", 0.6),
    ]  # fmt: skip
    assert made["means"] == accuracy.means(made["rows"])
    assert accuracy.merged(None, old) == accuracy.merged(old, record()) == old


def test_seeds_that_were_not_measured_stay():
    plan = [{"pattern": name} for name in ("1:16", "1:4")]  # not the order of before
    old = record(*(row(seed=seed, golden=0.1, pattern=name) for seed in range(3) for name in ("1:4", "1:8", "1:16")))
    made = accuracy.merged(old, record(*(row(seed=1, golden=0.2, **case) for case in plan)))
    found = [(row["seed"], row["case"]["pattern"], row["golden"]["accuracy"]) for row in made["rows"]]
    assert found == [
        (0, "1:16", 0.1), (0, "1:4", 0.1), (1, "1:16", 0.2), (1, "1:4", 0.2), (2, "1:16", 0.1), (2, "1:4", 0.1),
    ]  # fmt: skip
    assert [mean["seeds"] for mean in made["means"]] == [3, 3]
    # the committed one, of which a part is measured again to the same figures
    kept = artefact.read_json(KEPT / "accuracy.json")
    again = [row for row in kept["rows"] if (row["task"], row["seed"]) == ("vowels", 0)]
    assert accuracy.merged(kept, record(*again) | {"tasks": {}}) == kept


def test_the_command(tmp_path, monkeypatch, mine):
    asked = []

    def measure(names, seeds, folder, work, jobs, shown, device):
        asked.append((names, list(seeds), folder, jobs, device))
        shown.at(1, 2)
        rows = [row(seed=seed, pattern="2:16") for seed in seeds]
        return {"tasks": {"vowels": "data"}, "rows": rows, "means": accuracy.means(rows)}, {"keywords": "no data"}

    monkeypatch.setattr(accuracy, "measure", measure)
    out = tmp_path / "accuracy.json"
    command = [
        "bench",
        "accuracy",
        "--task",
        "vowels",
        "--task",
        "keywords",
        "--seeds",
        "2",
        "--data-dir",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert asked == [(["vowels", "keywords"], [0, 1], tmp_path, 1, "cpu")]
    assert "keywords: skipped, no data" in done.output
    written = json.loads(out.read_text())
    assert [entry["seed"] for entry in written["rows"]] == [0, 1]
    assert out.with_suffix(".md").read_text() == accuracy_table.page(written)
    wrong = CliRunner().invoke(app, ["bench", "accuracy", "--task", "vowel", "--out", str(out)])
    assert wrong.exit_code == 1
    assert "there is no task 'vowel'; the tasks are vowels," in wrong.output
    nowhere = CliRunner().invoke(app, [*command, "--device", "abacus", "--out", str(out)])
    assert nowhere.exit_code == 1
    assert "cannot train on 'abacus', expected cpu, or cuda where there is one" in " ".join(nowhere.output.split())


def test_progress_counts_what_was_measured_and_says_what_is_in_work(tmp_path):
    now, count = [0.0], len(accuracy.PLANS["engines"].cases)
    assert count == 6
    units = [("engines", 0), ("engines", 1)]
    for seed, key in ((0, "another plan"), (1, f"some network {accuracy.PLANS['engines'].measuring(Case())}")):
        artefact.write_json(tmp_path / f"engines-{seed}" / "plain.json", {"key": key})
    shown = accuracy.Progress(units, tmp_path, lambda: now[0])
    assert str(shown) == "0 of 12 rows"
    shown.hear(units[0], "say", "data")
    shown.hear(units[0], "kept", 2)
    assert str(shown) == "2 of 12 rows; engines 0: data"  # not 3: the row of the other seed is not looked at yet
    now[0] = 60.0
    shown.hear(units[0], "row")
    shown.hear(units[0], "say", "1:8: pruning")
    # three of this seed, and five of the other one, of which one is likely there
    assert str(shown) == "3 of 12 rows, about 8 min left; engines 0: 1:8: pruning"
    shown.hear(units[1], "kept", 0)  # it was of another network
    shown.hear(units[0], "end")
    assert str(shown) == "3 of 12 rows, about 9 min left"


def test_rows_are_measured_in_processes_that_report(mine, tmp_path, monkeypatch):
    bench = Bench(str(mine), 0, FOLDER, tmp_path)
    for case in bench.plan.cases:
        key = bench._row_key(case) if case != Case() else "another plan"
        artefact.write_json(bench.work / f"{case.slug}.json", {"key": key, "row": row("mine", **vars(case))})
    heard, seen = [], []
    hear = accuracy.Progress.hear

    def listen(self, unit, what, value=None):
        heard.append((unit, what, value))
        hear(self, unit, what, value)

    class Shown:
        def at(self, done, total):
            seen.append((done, total))

        def say(self, text):
            pass

    monkeypatch.setattr(accuracy.Progress, "hear", listen)
    found, skipped = accuracy.measure([str(mine)], [0], FOLDER, tmp_path, 1, Shown())
    count = len(bench.plan.cases)
    assert (len(found["rows"]), skipped, seen[-1]) == (count, {}, (count, count))
    assert {unit for unit, *_ in heard} == {(str(mine), 0)}
    assert [(what, value) for _, what, value in heard if what != "say"] == [
        ("kept", count - 1), ("row", None), ("end", None),
    ]  # fmt: skip
    said = [value for _, what, value in heard if what == "say"]
    assert said[:2] == ["data", "plain baseline of seed 0"]
    epochs = bench.plan.baseline.epochs
    for epoch, text in enumerate(said[2:-1], 1):
        assert text.startswith(f"plain baseline of seed 0, epoch {epoch} of {epochs}")
    assert (epoch, said[-1]) == (epochs, "dense: golden model")
    assert found["rows"][0]["golden"] != row("mine")["golden"]  # measured, not read


def test_a_bench_says_what_it_trains(mine, tmp_path):
    said = []
    plan = replace(QUICK, teachers=2)
    bench = Bench(str(mine), 4, FOLDER, tmp_path, plan, say=said.append)
    bench.row(Case("1:4", 3))
    starts = [text for text in said if "epoch" not in text]
    assert starts == [
        "plain baseline of seed 4", "plain baseline of seed 5", "1:4: pruning", "1:4, 3 bits: fine-tuning",
        "1:4, 3 bits: golden model",
    ]  # fmt: skip
    assert said[-2].startswith("1:4, 3 bits: fine-tuning, epoch 2 of 2")


def test_tasks_without_data_say_why(tmp_path):
    for name in tasks.TASKS:
        reason = tasks.missing(name, tmp_path)
        assert (reason is None) == (name == "vowels"), reason
        if name != "vowels":
            assert "there is no" in reason or "not installed" in reason
    with pytest.raises(SparseGateError, match="there is no task 'words'"):
        tasks.open_task("words", tmp_path, tmp_path)


def test_speakers_are_identified_on_validation_data_too(tmp_path, monkeypatch):
    """Who enrols is of the training part; six recordings of three speakers instead of FSDD, and a small encoder."""
    rng = np.random.default_rng(3)
    voices = rng.normal(size=(3, 4))
    everyone = [
        real.Clip(Path(f"{digit}"), digit, "abc"[who], index)
        for digit in range(2)
        for who in range(3)
        for index in range(20)
    ]
    encoder = synthetic.network(4, [Shape("lstm", 6), Shape("linear_relu", 5)], seed=1)
    monkeypatch.setattr(tasks.real, "clips", lambda folder, which: [clip for clip in everyone if clip.index in which])
    monkeypatch.setattr(
        tasks.real, "spectrum", lambda clip: np.abs(voices["abc".index(clip.speaker)] + rng.normal(size=(7, 4)))
    )
    monkeypatch.setattr(tasks.real, "checkpoint_of_encoder", lambda: tmp_path / "encoder.pt")
    monkeypatch.setattr(tasks.importers, "load", lambda *given, **named: encoder)
    task = tasks.speakers(tmp_path, tmp_path)
    training = [clip for clip in everyone if clip.index >= 10]
    assert (len(task.train), len(task.validation), len(task.test)) == (len(training), 60, 60)
    enrols = task.train.take(np.array([10 <= clip.index < 15 for clip in training]))
    assert np.array_equal(task.validation.x[30:], enrols.x)
    found = task.measure(task.teacher, task.validation)
    assert list(found) == list(task.measure(task.teacher)) == ["identification", "cosine"]
    assert found["cosine"] == 1
    tests, own = (task.teacher.evaluate(part.x).last for part in (task.validation.take(slice(30)), enrols))
    means = np.stack([real.unit(own)[enrols.target == who].mean(axis=0) for who in range(3)])
    nearest = (tests @ real.unit(means).T).argmax(axis=1)
    assert found["identification"] == np.round(np.mean(nearest == task.validation.target[:30]), 6)
    assert 0.4 < found["identification"] < 1
    assert list(task.measure(task.teacher, task.train)) == ["cosine"]  # nobody is enrolled


needs = pytest.mark.skipif(not (FOLDER / "cmapss").is_dir(), reason="needs the third-party data (SPARSEGATE_DATA)")


@needs
def test_remaining_life(tmp_path):
    task = tasks.open_task("engines", FOLDER, tmp_path)
    train, test = task.train, task.test
    assert (len(train), len(test), len(task.validation)) == (86, 100, 70)
    for life, length in zip(train.target[:, :, 0], train.lengths, strict=True):
        own = tasks.RUL_CAP * life[:length]
        assert own[-1] == 0
        assert own[0] == min(length - 1, tasks.RUL_CAP)
        assert (np.diff(own) <= 0).all()
    given = np.minimum(np.loadtxt(FOLDER / "cmapss" / "RUL_FD001.txt"), tasks.RUL_CAP)
    last = test.target[np.arange(100), test.lengths - 1, 0]
    np.testing.assert_allclose(tasks.RUL_CAP * last, given)
    exact = task.measures(test.target, test)
    assert exact == {"rmse": 0.0}
    assert task.measures(test.target - 2 / tasks.RUL_CAP, test)["rmse"] == pytest.approx(2.0, abs=0.3)  # clipped at 0


@needs
def test_characters(tmp_path):
    task = tasks.open_task("characters", FOLDER, tmp_path)
    part = task.validation
    assert part.x.shape[1:] == (1000, 65)
    assert (part.x.sum(2) == 1).all()
    assert (part.x.argmax(2)[:, 1:] == part.target[:, :-1]).all()  # what is to be told is the next symbol
    uniform = np.zeros((*part.x.shape[:2], 65))
    assert task.measures(uniform, part)["bits_per_character"] == pytest.approx(np.log2(65))
    sure = np.where(np.arange(65) == part.target[:, :, None], 50.0, 0.0)
    assert task.measures(sure, part)["bits_per_character"] < 1e-9


def test_the_record_is_that_of_the_plans():
    record = artefact.read_json(KEPT / "accuracy.json")
    assert record["means"] == accuracy.means(record["rows"])
    assert list(record["tasks"]) == list(accuracy.PLANS)
    wanted = [
        (name, seed, vars(case)) for name, plan in accuracy.PLANS.items() for seed in range(3) for case in plan.cases
    ]
    assert [(row["task"], row["seed"], row["case"]) for row in record["rows"]] == wanted


def test_the_page_is_that_of_the_record():
    record = artefact.read_json(KEPT / "accuracy.json")
    assert (KEPT / "accuracy.md").read_text(encoding="utf-8") == accuracy_table.page(record)


def test_what_a_row_skips_at_the_threshold_of_its_training():
    rows = [row(seed=seed, theta=8) | {"skipped": skipped} for seed, skipped in enumerate((0.12, 0.14))]
    new = [each | {"skipped_as_trained": share} for each, share in zip(rows, (0.6, 0.7), strict=True)]
    page = accuracy_table.page(record(*new))
    assert "| 13.0 % (65.0 % at Θ = 8) |" in page
    partly = [new[0], new[1] | {"skipped": None}]  # of an earlier rule
    assert "| – (65.0 % at Θ = 8) |" in accuracy_table.page(record(*partly))
    assert "| 12.0 % |" in accuracy_table.page(record(row() | {"skipped": 0.12}))


def test_the_page_says_which_rows_are_of_an_earlier_rule():
    new, old = row("vowels") | {"validation": {"0": 0.9}}, row("engines")
    assert "Rows of engines are of an earlier rule, all or in part" in accuracy_table.page(record(new, old))
    assert "earlier rule" not in accuracy_table.page(record(new))


def test_the_documented_command_writes_the_documented_file():
    recipe = re.search(r"^bench-accuracy:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert recipe is not None
    assert "--out docs/benchmarks/accuracy.json" in recipe[0]
    # and draws what it has written
    _, _, after = recipe[0].partition("sparsegate bench accuracy")
    assert "sparsegate pictures docs/benchmarks/accuracy.json --format svg --out docs/benchmarks\n" in after
    assert re.search(
        r"pictures \S+/float-plain\.\S+ --after \S+/float-g2\.\S+ --data characters .* --out docs/benchmarks;", after
    )


def test_the_pictures_are_those_of_the_record():
    pinned = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    if matplotlib.__version__ != pinned[1]:
        pytest.skip(f"needs matplotlib {pinned[1]}, which draws the same bytes")
    rows = artefact.read_json(KEPT / "accuracy.json")["rows"]
    shown = (KEPT / "README.md").read_text(encoding="utf-8")
    for name, draw in (("density", pictures.accuracy_by_density), ("bits", pictures.accuracy_by_bits)):
        assert (KEPT / f"{name}.svg").read_bytes() == pictures.encoded(draw(rows), ".svg"), "run 'sparsegate pictures'"
        assert f"]({name}.svg)" in shown
    # of networks, which are not kept here
    assert "](gates.svg)" in shown
    assert ElementTree.parse(KEPT / "gates.svg").getroot().tag.endswith("svg")


def test_the_summary_quotes_the_means():
    """Losses of plain patterns in the table of what was found, by task."""
    means = artefact.read_json(KEPT / "accuracy.json")["means"]
    shown = (KEPT / "README.md").read_text(encoding="utf-8")
    checked = 0
    for task, named in (
        ("vowels", "vowels"), ("digits-64", "digits, LSTM-64"), ("digits-128", "digits, LSTM-128"), ("engines", "engines"),
    ):  # fmt: skip
        line = next(line for line in shown.splitlines() if line.startswith(f"| {named} |"))
        found = re.findall(r"(-?\d+\.\d)(?: points| %)?(?: better| lost)? at (\d+:\d+)", line)
        found += [(loss, name) for name, loss in re.findall(r"\((\d+:\d+): (\d+\.\d)\)", line)]
        for loss, name in found:
            mean = next(each["loss"] for each in means if each["task"] == task and each["case"] == asdict(Case(name)))
            better = re.search(rf"{loss} %( better)? at {name}", line) is not None and mean < 0
            assert float(loss) == round(-mean if better else mean, 1), (task, name)
        checked += len(found)
    assert checked > 12


def test_what_a_plan_says(bench):
    said = QUICK.words(bench.task)
    assert "4 epochs, rate 0.02, batch 16" in said
    assert "learning from the baseline's outputs" in said
    assert "exact integers" not in said  # its two cases are only rounded
    assert "as its authors trained it" in QUICK.words(replace(bench.task, teacher=bench.float()))


def test_several_baselines_teach_together(mine, tmp_path):
    plan = replace(QUICK, teachers=2)
    made = Bench(str(mine), 1, FOLDER, tmp_path, plan)
    teacher = made._teacher("plain")
    assert isinstance(teacher, Ensemble)
    for seed, member in zip((1, 2), teacher.members, strict=True):
        assert (tmp_path / f"mine-{seed}" / "float-plain.safetensors").exists()  # kept for the other seed's rows too
        alone = Bench(str(mine), seed, FOLDER, tmp_path / "alone", QUICK).float()
        assert np.array_equal(member.network().layers[0].w_h, alone.layers[0].w_h)
    first, second = (member.network().layers[0].w_h for member in teacher.members)
    assert not np.array_equal(first, second)
    assert made.seed == 1
    assert made._key(Case("1:4")) != Bench(str(mine), 1, FOLDER, tmp_path, QUICK)._key(Case("1:4"))
    assert "the mean of 2 baselines' outputs" in plan.words(made.task)


@pytest.mark.parametrize("teachers", [1, 2])
def test_values_are_learned_from_the_mean_of_baselines_and_truth(mine, tmp_path, monkeypatch, teachers):
    plan = replace(QUICK, teachers=teachers)
    made = Bench(str(mine), 1, FOLDER, tmp_path, plan)
    said = [
        made._of_seed(1 + more).float().evaluate(made.task.train.x, made.task.train.lengths).outputs for more in (0, 1)
    ]
    assert not np.array_equal(*said)
    true = np.random.default_rng(0).normal(size=said[0].shape)
    made.task = replace(made.task, kind="value", train=replace(made.task.train, target=true))
    wanted = []
    monkeypatch.setattr(objective, "step_value", wanted.append)
    made.aim(Case("1:4"))
    np.testing.assert_array_equal(wanted[0], (true + (said[0] if teachers == 1 else (said[0] + said[1]) / 2)) / 2)
    words = plan.words(made.task)
    assert ("the true values and the averaged outputs of 2 baselines (of this seed and the next ones)" in words) == (
        teachers == 2
    )
    assert ("the mean of the true values and the baseline's outputs" in words) == (teachers == 1)


def test_a_row_and_the_page_say_where_a_network_was_trained(bench):
    made = bench.row(Case("1:4"))
    assert made["device"] == "cpu"
    elsewhere = made | {"device": "cuda"}
    page = {
        device: accuracy_table.page({"means": accuracy.means([each])})
        for device, each in (("cpu", made), ("cuda", elsewhere))
    }
    assert "Trained on a GPU (`--device`), all or in part: 1:4." in page["cuda"]
    assert "GPU" not in page["cpu"]


def test_patterns_may_take_longer_and_trainings_have_a_checkpoint_each(bench, monkeypatch):
    plan = replace(QUICK, longer=(("1:4", 9),))
    assert [plan.pruning(Case(name)).epochs for name in ("1:4", "1:8")] == [9, 4]
    assert "noise 0.5 (1:4: 9 epochs), masks frozen" in plan.words(bench.task)
    seen = []
    monkeypatch.setattr(training, "prune_and_fit", lambda *given, **named: seen.append((given[5], named)))
    for which in (QUICK, plan):
        monkeypatch.setattr(bench, "plan", which)
        bench._pruned(Case("1:4"))
    assert [recipe.epochs for recipe, _ in seen] == [4, 9]
    names = [named["checkpoint"] for _, named in seen]
    assert len(set(names)) == 2  # what another plan left is not gone on from
    assert {name.parent for name in names} == {bench.work}
    names[0].touch()
    accuracy.forget(["mine"], [1], bench.work.parent)
    assert not names[0].exists()


def test_masks_freeze_when_the_plan_says(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "prune_and_fit", lambda *given, **named: seen.append(named["schedule"]))
    bench._pruned(Case("1:4"))
    early = replace(QUICK, until=0.25)
    monkeypatch.setattr(bench, "plan", early)
    bench._pruned(Case("1:4"))
    steps = early.prune.epochs * round(len(bench.task.train) / early.prune.batch)
    assert seen[0] == "cubic"
    assert (seen[1].begin, seen[1].end) == (0, steps // 4)
