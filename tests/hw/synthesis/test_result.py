"""What synthesis measured: as values, in a file, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsegate import artefact
from sparsegate.errors import SparseGateError
from sparsegate_hw.synthesis.result import RESULT, SynthResult, complete


def result(folder: Path) -> SynthResult:
    return SynthResult(
        device="LFE5U-25F",
        board=None,
        speed="6",
        multipliers="dsp",
        hardware={"rows": 4},
        baud=1_000_000,
        frequency_mhz=80.0,
        fmax_mhz=79.5,
        luts=1,
        ffs=2,
        bram=3,
        dsp=4,
        bitstream=folder / "top.bit",
        tools={"nextpnr": "1"},
        seconds=1.5,
        stages={"yosys": 1.0},
        seed=2,
        tried=((1, None), (2, 79.5)),
        form="f",
        how="h",
        critical_path=("1.00 ns a",),
    )


def test_a_result_is_read_as_it_was_written(tmp_path):
    made = result(tmp_path)
    made.bitstream.write_text("x")
    assert not made.met
    assert not complete(tmp_path)
    artefact.write_json(tmp_path / RESULT, made.as_json())
    found = SynthResult.load(tmp_path)
    assert complete(tmp_path)
    assert found.cached
    assert found.fresh() == made
    assert "cached" not in made.as_json()


def test_a_result_without_its_bitstream_is_none(tmp_path):
    artefact.write_json(tmp_path / RESULT, result(tmp_path).as_json())
    assert not complete(tmp_path)
    with pytest.raises(SparseGateError, match="has no bitstream top.bit"):
        SynthResult.load(tmp_path)
