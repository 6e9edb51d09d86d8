"""A bitstream's figures as a stage's result: in JSON, in a compiled folder, and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import quantize
from sparsegate_app.stages import synth as stage
from sparsegate_app.stages.compiled import Compiled, array_of
from sparsegate_app.stages.synth import Synthesis
from sparsegate_hw.synthesis import emit, synth
from sparsegate_hw.synthesis.result import SynthResult

MEASURED = SynthResult(
    device="LFE5U-85F",
    board="ulx3s-85f",
    speed="6",
    multipliers="dsp",
    hardware={"rows": 8},
    baud=1_000_000,
    frequency_mhz=80.0,
    fmax_mhz=79.96,
    luts=1,
    ffs=2,
    bram=3,
    dsp=4,
    bitstream=Path("build/made/top.bit"),
    tools={"pyosys": "0.70"},
    seconds=61.4,
    stages={"yosys": 20.0},
    seed=2,
    tried=((1, None), (2, 79.96)),
    form="abc",
    how="nextpnr after routing",
    critical_path=("12.51 ns a",),
    router="router1",
)


@pytest.fixture
def compiled(tmp_path) -> Compiled:
    network = synthetic.network(5, [Shape("lstm", 8), Shape("linear", 3)], seed=1)
    program = quantize(network, np.random.default_rng(1).normal(size=(4, 6, 5)))
    return Compiled(program, array_of(program), tmp_path / "build" / "compiled")


def test_json_and_back():
    one = Synthesis(MEASURED, {"program": "1", "verilog": None})
    values = json.loads(json.dumps(one.as_json()))
    assert (values["met"], values["cached"], values["bitstream"]) == (False, False, "build/made/top.bit")
    assert Synthesis.from_json(values) == one
    rows = dict(one.rows())
    assert rows["highest clock"] == "80.0 MHz, misses the 80 MHz of the bitstream"
    assert rows["device"] == "LFE5U-85F (speed grade 6)"
    assert "single-port memories" not in rows
    assert dict(replace(one, measured=replace(MEASURED, sprams=4)).rows())["single-port memories"] == 4
    assert repr(one) == "<Synthesis: 80.0 MHz on LFE5U-85F, bitstream build/made/top.bit>"


def test_in_a_compiled_folder_the_bitstream_is_relative_to_it(compiled, tmp_path):
    one = Synthesis(replace(MEASURED, bitstream=tmp_path / "build" / "made" / "top.bit"), {"program": "1"})
    compiled.record(one)
    assert Synthesis.load(compiled.folder / "synth.json").measured.bitstream == Path("../made/top.bit")
    replace(compiled, folder=None).record(one)  # a bare Program has nowhere to keep it


def test_the_verilog_is_told_of_a_compiled_folder_alone(compiled, monkeypatch):
    """And the layout is handed on where it is of this very array."""
    given = []
    monkeypatch.setattr(synth, "synthesize", lambda *_, **named: given.append(named["layout"]) or MEASURED)
    made = stage.synth(compiled, board="ulx3s-85f")
    assert made.digests == {
        "program": compiled.program.digest,
        "verilog": emit.verilog_digest(compiled.program, compiled.config),
    }
    assert stage.synth(compiled.program).digests["verilog"] is None
    assert given == [compiled.layout, None]
