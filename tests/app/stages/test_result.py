"""What a stage gives is the same in Python, in JSON and in a file, and shows itself briefly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from sparsegate.errors import SparseGateError
from sparsegate_app.stages.result import Result, Rows, percent


@dataclass(frozen=True)
class Part:
    seen: int
    names: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Toy(Result):
    part: Part
    said: str = field(metadata={"json": "summary"})
    shares: Mapping[str, float]
    none: int | None
    extra: int | None = field(default=None, metadata={"optional": True})
    work: object = field(default=None, compare=False, metadata={"json": None})

    @property
    def sentence(self) -> str:
        return self.said

    def rows(self) -> Rows:
        return [("seen", self.part.seen), ("<names>", ", ".join(self.part.names))]


TOY = Toy(Part(3, ("a", "b")), "three seen", {"x": 0.5}, None, work=object())
JSON = {"part": {"seen": 3, "names": ["a", "b"]}, "summary": "three seen", "shares": {"x": 0.5}, "none": None}


def test_json_has_the_fields_in_their_order():
    assert json.dumps(TOY.as_json()) == json.dumps(JSON)
    assert Toy.from_json(JSON) == TOY
    assert Toy.from_json(JSON | {"extra": 5, "unknown": 1}).as_json() == JSON | {"extra": 5}
    with pytest.raises(KeyError, match="none"):
        Toy.from_json({key: value for key, value in JSON.items() if key != "none"})


def test_a_damaged_file_is_a_sentence(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(JSON))
    assert Toy.load(path) == TOY
    path.write_text(json.dumps({"part": JSON["part"]}))
    with pytest.raises(SparseGateError, match="toy.json has a damaged header: KeyError 'summary'"):
        Toy.load(path)


def test_results_are_frozen_and_show_themselves():
    with pytest.raises(FrozenInstanceError):
        TOY.said = "two"
    assert repr(TOY) == "<Toy: three seen>"
    assert TOY.summary() == "seen     3\n<names>  a, b"
    assert "<th>&lt;names&gt;</th><td>a, b</td>" in TOY._repr_html_()
    assert percent(0.97027) == "97.03 %"
