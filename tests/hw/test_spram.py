"""A network beyond the block RAMs of an iCE40 UP5K, its weights in the four single-port memories: the netlist runs it."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from sparsegate import golden, synthetic
from sparsegate.estimate import estimate
from sparsegate.layout import HardwareConfig
from sparsegate_hw.boards import target
from tests.hw.test_netlist import compare
from tests.sw.test_estimate import small_program

DEVICE = "iCE40UP5K"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.synth
@pytest.mark.icarus
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
def test_the_netlist_with_loaded_weights_gives_the_golden_integers(tmp_path):
    program = small_program(40, 240, 10, 8)
    config = HardwareConfig(rows=4, multiplier=16, banks=1, loaded=True)
    assert estimate(program, config, DEVICE).fits(target(device=DEVICE).chip)
    raw = synthetic.stimulus(program.input_format, 2, 2, program.inputs, seed=5)
    lengths = np.array([2, 1])
    expected = golden.run(program, raw, lengths)
    fabric = target(device=DEVICE).fabric()
    counts = compare(tmp_path, program, config, fabric, raw, lengths, program.thresholds, expected)
    assert re.search(r"\b4 +SB_SPRAM256KA\b", counts)
    assert re.search(r"\b7 +SB_MAC16\b", counts)
