"""Form and contents of a design, and contents put into configurations."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
from amaranth.back import rtlil
from tests.hw.cells import Walk, words_of

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.configuration import Place, is_netlist, plain
from sparsegate_hw.fabric.family import family
from sparsegate_hw.synthesis import patch


def test_design_is_form_and_contents():
    first, second = words_of(30, 200), words_of(30, 200)[::-1]
    texts = [
        rtlil.convert(Walk(30, words), name="top", platform=SimpleNamespace(family="ecp5"), emit_src=False)
        for words in (first, second)
    ]
    (form, contents), (other_form, other) = map(patch.split, texts)
    assert form == other_form
    assert contents != other
    assert list(contents) == ["memory.block_0_0"]
    assert len(contents["memory.block_0_0"]) == 64
    assert contents["memory.block_0_0"]["INITVAL_00"] & 0x3FFFF == first[0] & 0x3FFFF


def test_a_gowins_contents_are_found_in_its_design():
    for width, depth, kind, rows, value in (
        (9, 2048, "pROMX9", 64, lambda words: words[0] | words[1] << 9),
        (4, 2100, "pROM", 64, lambda words: words[0] | words[1] << 4),
        (4, 16, "RAM16SDP4", 4, lambda words: sum((word & 1) << at for at, word in enumerate(words))),
    ):
        words = words_of(width, depth)
        text = rtlil.convert(Walk(width, words), name="top", platform=SimpleNamespace(family="gowin"), emit_src=False)
        form, contents = patch.split(text)
        assert f"cell \\{kind} " in form
        assert "INIT" not in form
        (values,) = contents.values()
        assert len(values) == rows
        first = next(iter(values.values()))
        wanted = value(words)
        assert first & ((1 << wanted.bit_length()) - 1) == wanted


def test_textual_configurations():
    """Each kind of cell in a small configuration: read, replaced, read again; everything else stays."""
    text = (
        ".comment x\n\n.tile R3C4:PLC2\narc: A B\n"
        + "".join(f"word: SLICE{s}.K{k}.INIT {'0' * 16}\n" for s in "AB" for k in (0, 1))
        + "enum: SLICEA.MODE DPRAM\n\n.bram_init 7\n"
        + "\n".join(" ".join(["000"] * 8) for _ in range(256))
        + "\n\n.ram_data 8 15\n"
        + "\n".join(["0" * 64] * 16)
        + "\n\n.sym 1 x\n"
    )
    places = {
        "d": Place("TRELLIS_DPR16X4", (3, 4, 0, 3, 4, 1, 3, 4, 2, 3, 4, 3)),
        "b": Place("DP16KD", (7,)),
        "r": Place("SB_RAM40_4K", (8, 15)),
    }
    rng = random.Random(1)
    halves = sum(((1 << 18) - 1) << 20 * at for at in range(16))
    contents = {
        "d": {"INITVAL": rng.getrandbits(64)},
        "b": {f"INITVAL_{row:02X}": rng.getrandbits(320) & halves for row in range(64)},
        "r": {f"INIT_{row:X}": rng.getrandbits(256) for row in range(16)},
    }
    assert all(value == 0 for values in patch.extract(text, places).values() for value in values.values())
    changed = patch.replace(text, places, contents)
    assert patch.extract(changed, places) == contents
    zeros = {name: dict.fromkeys(values, 0) for name, values in contents.items()}
    assert patch.replace(changed, places, zeros) == text
    with pytest.raises(SparseGateError, match="the design has 3 memories, expected the 1 of the Program"):
        patch.replace(text, places, {"d": contents["d"]})
    with pytest.raises(SparseGateError, match=r"the configuration has no part '.bram_init 7'"):
        patch.extract(text.replace(".bram_init 7", ".bram_init 8"), places)


def test_a_netlist_that_is_a_configuration():
    """A Gowin's: memories are found by name, those of distributed RAM in its look-up tables; everything else stays."""
    rom = {f"INIT_RAM_{row:02X}": "0" * 288 for row in range(64)}
    ram = {f"INIT_{bit}": "0" * 16 for bit in range(4)}
    tables = {
        f"r_LUT{bit}": {"parameters": {"INIT": "0" * 16}, "attributes": {"NEXTPNR_BEL": f"X2Y3/LUT{bit}"}}
        for bit in range(4)
    }
    cells = {
        "b": {
            "parameters": {"BIT_WIDTH": "1001", **rom},
            "attributes": {"NEXTPNR_BEL": "X7Y9/BSRAM", "BSRAM_SUBTYPE": "X9"},
        },
        "r": {"parameters": ram, "attributes": {"NEXTPNR_BEL": "X2Y3/RAM16SDP4", "src": "somewhere"}},
        **tables,
    }
    netlist_ = {"modules": {"top": {"attributes": {}, "cells": cells, "netnames": {"n": {"attributes": {"src": "x"}}}}}}
    rng = random.Random(1)
    contents = {
        "b": {key: rng.getrandbits(288) for key in rom},
        "r": {key: rng.getrandbits(16) for key in ram},
    }
    places = patch.places(family("gowin"), netlist_, contents)
    assert places == {"b": Place("pROMX9", (7, 9)), "r": Place("RAM16SDP4", (2, 3))}
    text = plain(netlist_)
    assert is_netlist(text)
    assert "src" not in text
    assert all(value == 0 for values in patch.extract(text, places).values() for value in values.values())
    changed = patch.replace(text, places, contents)
    assert patch.extract(changed, places) == contents
    found = json.loads(changed)["modules"]["top"]["cells"]
    assert found["b"]["parameters"]["BIT_WIDTH"] == "1001"
    assert (
        found["r"]["parameters"]["INIT_2"] == found["r_LUT2"]["parameters"]["INIT"] == f"{contents['r']['INIT_2']:016b}"
    )
    zeros = {name: dict.fromkeys(values, 0) for name, values in contents.items()}
    assert patch.replace(changed, places, zeros) == text
    del netlist_["modules"]["top"]["cells"]["r_LUT3"]
    with pytest.raises(SparseGateError, match="the configuration has no memory cell r"):
        patch.extract(plain(netlist_), places)
