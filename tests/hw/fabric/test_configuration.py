"""The two forms of configurations: parts of a text, and a netlist."""

from __future__ import annotations

import json

import pytest

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.configuration import RoutedNetlist, Tiles, bel, is_netlist, opened, plain

TEXT = ".comment one\n\n.tile R3C4:PLC2\narc: A B\n\n.comment one\nlast\n"


def test_parts_of_a_text_are_together_the_text():
    tiles = opened(TEXT)
    assert isinstance(tiles, Tiles)
    assert tiles.text() == TEXT
    assert tiles[".tile R3C4:PLC2"] == ".tile R3C4:PLC2\narc: A B\n\n"
    tiles[".tile R3C4:PLC2"] = ".tile R3C4:PLC2\narc: C D\n\n"
    assert tiles.text() == TEXT.replace("A B", "C D")
    for change in (lambda: tiles[".tile R9C9:PLC2"], lambda: tiles.__setitem__(".tile R9C9:PLC2", "")):
        with pytest.raises(SparseGateError, match=r"the configuration has no part '.tile R9C9:PLC2'"):
            change()


def test_a_netlist_is_one_text_for_one_content():
    """Whatever the order of its keys, and wherever its parts were written down."""
    cells = {"b": {"attributes": {"src": "x"}}, "a": {"attributes": {"keep": "1"}}}
    netlist = {"modules": {"top": {"attributes": {"src": "y"}, "cells": cells, "netnames": {}}}}
    text = plain(netlist)
    assert is_netlist(text)
    assert "src" not in text
    other = opened(json.dumps(json.loads(text), indent=2))
    assert isinstance(other, RoutedNetlist)
    assert other.text() == text
    assert other.cells == {"a": {"attributes": {"keep": "1"}}, "b": {"attributes": {}}}
    assert not is_netlist(TEXT)


def test_the_place_of_a_cell():
    cells = {"a": {"attributes": {"NEXTPNR_BEL": "X3/Y14/ram"}}, "b": {"attributes": {}}}
    assert bel(cells, "a", r"X(\d+)/Y(\d+)/ram") == ("3", "14")
    for name, pattern in (("a", "X3"), ("b", ".+"), ("c", ".+")):
        with pytest.raises(SparseGateError, match=f"the routed design has no memory cell {name}"):
            bel(cells, name, pattern)
