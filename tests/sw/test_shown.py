"""What a person sees of an object: a line or two in a console, a table as text, HTML with every name escaped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.cycles import predict
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.shown import Shown, counted

FLOATS = network(5, (Shape("lstm", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)), seed=1)
PROGRAM = quantize(FLOATS, np.random.default_rng(1).normal(size=(4, 5, 5)), config=QuantizeConfig())
TRACE = golden.run(PROGRAM, np.zeros((2, 3, 5), np.int64), saturations=True)
LAYOUT = Layout(PROGRAM, HardwareConfig(rows=8))
SEEN = [
    FLOATS,
    *FLOATS.layers,
    PROGRAM,
    *PROGRAM.layers,
    PROGRAM.layers[0].matrix_x,
    PROGRAM.phases[0],
    PROGRAM.phases[0].terms[0],
    TRACE,
    TRACE.passes[0],
    TRACE.streams[0],
    LAYOUT,
    LAYOUT.phases[0],
    LAYOUT.phases[0].matrices[0],
    predict(TRACE, LAYOUT),
]


@pytest.mark.parametrize("one", SEEN, ids=lambda one: type(one).__name__)
def test_an_object_prints_in_a_line_or_two(one):
    assert repr(one).startswith(f"<{type(one).__name__}: ")
    assert len(repr(one)) < 200
    assert "array(" not in repr(one)


@pytest.mark.parametrize("one", [FLOATS, PROGRAM, TRACE, LAYOUT], ids=lambda one: type(one).__name__)
def test_a_summary_is_a_table_below_the_sentence(one):
    first, titles, *rows = one.summary().splitlines()
    names, cells = one.table()
    assert first == one.sentence
    assert [name in titles for name in names] == [True] * len(names)
    assert len(rows) == len(cells) >= 2
    assert all(str(cell) in row for cells_of, row in zip(cells, rows, strict=True) for cell in cells_of)


def test_what_the_tables_say():
    assert "lstm0    lstm    5       10       1:4, 2:4  600      300" in FLOATS.summary()
    layer = PROGRAM.layers[0]
    assert f"{layer.matrix_x.nonzeros + layer.matrix_h.nonzeros}" in PROGRAM.summary()
    assert str(layer.formats["acc"]) in PROGRAM.summary()
    sent = sum(int(stream.sent.sum()) for stream in TRACE.streams)
    assert sum(row[2] for row in TRACE.table()[1]) == sent
    assert "8 x 1 PEs, 2 lanes" in LAYOUT.sentence


def test_names_are_escaped_in_a_notebook():
    named = replace(FLOATS, layers=(FLOATS.layers[0], replace(FLOATS.layers[1], name="<b>&")), output=())
    page = named._repr_html_()
    assert "<th>&lt;b&gt;&amp;</th>" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 3


def test_without_titles_the_table_stands_alone():
    class Pairs(Shown):
        sentence = "two"

        def table(self):
            return (), [("a", 1), ("long", 22)]

    assert Pairs().summary() == "a     1\nlong  22"
    assert Pairs()._repr_html_() == "<table><tr><th>a</th><td>1</td></tr><tr><th>long</th><td>22</td></tr></table>"
    assert (counted(1, "layer"), counted(2, "layer")) == ("1 layer", "2 layers")
