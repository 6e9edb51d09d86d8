"""The whole lowering: every stage in order, each result kept as it is given, the layout made once."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest

from sparsegate.array import Layout
from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate_app.stages import lower as page
from sparsegate_app.stages.compile import Compilation
from sparsegate_app.stages.golden import Evaluation
from sparsegate_app.stages.lower import Wanted, lower
from sparsegate_app.stages.simulate import Simulation

NETWORK = synthetic.network(5, [Shape("lstm", 8, NM(2, 4), NM(1, 4)), Shape("linear", 3)], seed=1)
WANTED = Wanted({"rows": 4}, [("amaranth", 2)])


@pytest.fixture
def dataset() -> Dataset:
    part = np.random.default_rng(3).normal(size=(4, 6, 5)), np.array([6, 3, 1, 4]), np.array([0, 1, 2, 0])
    return Dataset("toy", *part, *part, classes=3)


class Heard:
    """Notes the stages that began and the results that came."""

    def __init__(self):
        self.stages, self.results = [], []

    @contextmanager
    def stage(self, name, detail=""):
        self.stages.append(name)
        yield lambda text: None

    def found(self, result):
        self.results.append(result)


def test_every_stage_in_order_and_its_result_in_the_folder(tmp_path, dataset):
    heard = Heard()
    made = lower(NETWORK, dataset, WANTED, tmp_path, heard)
    assert heard.stages == ["compile", "golden model", "predict cycles", "simulate"]
    assert heard.results == [made.evaluation, made.compilation, *made.simulations]
    assert made.synthesis is None
    folder = made.compilation.folder
    for result in heard.results:
        kept = folder / f"{result.stage}.json"
        assert json.loads(kept.read_text()) == json.loads(json.dumps(result.as_json()))
        assert type(result).load(kept) == result
    (simulation,) = made.simulations
    assert simulation.passed
    assert simulation.cycles.counted == simulation.cycles.predicted
    assert (simulation.rtl.sequences, simulation.rtl.steps) == (2, 9)
    assert made.evaluation.steps == made.compilation.prediction.steps == 14
    assert made.compilation.compiled.config.rows == 4


def test_the_layout_is_made_once(tmp_path, dataset, monkeypatch):
    made, init = [], Layout.__init__

    def counted(self, program, config):
        made.append(self)
        init(self, program, config)

    monkeypatch.setattr(Layout, "__init__", counted)
    lower(NETWORK, dataset, WANTED, tmp_path)
    assert len(made) == 1


def test_a_difference_ends_it(tmp_path, dataset, monkeypatch):
    right = lower(NETWORK, dataset, WANTED, tmp_path).simulations[0]
    wrong = Simulation.from_json(right.as_json() | {"passed": False, "summary": "unit 5 differs"})
    monkeypatch.setattr(page, "simulate", lambda *given, **named: wrong)
    monkeypatch.setattr(page, "synth", lambda *given, **named: pytest.fail("synthesized"))
    with pytest.raises(SparseGateError, match="^unit 5 differs$"):
        lower(NETWORK, dataset, Wanted(WANTED.array, WANTED.simulators, "ulx3s-85f"), tmp_path)


def test_a_bitstream_is_made_where_a_board_is_wanted(tmp_path, dataset, monkeypatch):
    asked = []

    def synth(compiled, **named):
        asked.append((compiled.folder, named["board"], named["seed"]))
        raise SparseGateError("no tool")

    monkeypatch.setattr(page, "synth", synth)
    with pytest.raises(SparseGateError, match="no tool"):
        lower(NETWORK, dataset, Wanted(board="ulx3s-25f", seed=3), tmp_path)
    ((folder, *rest),) = asked
    assert rest == ["ulx3s-25f", 3]
    assert Compilation.load(folder / "compile.json").compiled.folder == folder
    assert Evaluation.load(folder / "golden.json").sequences == 4
