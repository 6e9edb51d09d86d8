"""A network's weights in the four single-port memories of an iCE40 UP5K: a routed design and a synthesized netlist run it."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from tests.hw import bitstream
from tests.hw.synthesis.test_netlist import compare
from tests.sw.estimate.test_estimate import small_program

from sparsegate import golden
from sparsegate.array import HardwareConfig
from sparsegate.estimate import estimate
from sparsegate.network import synthetic
from sparsegate_hw.synthesis import synth
from sparsegate_hw.synthesis.boards import target

DEVICE = "iCE40UP5K"
CONFIG = HardwareConfig(rows=4, multiplier=16, banks=1, loaded=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.synth
@pytest.mark.icarus
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
def test_the_netlist_with_loaded_weights_gives_the_golden_integers(tmp_path):
    """A network beyond the device's block RAMs, whose weights are written through the engine's port."""
    program = small_program(40, 240, 10, 8)
    assert estimate(program, CONFIG, DEVICE).fits(target(device=DEVICE).chip)
    raw = synthetic.stimulus(program.input_format, 2, 2, program.inputs, seed=5)
    lengths = np.array([2, 1])
    expected = golden.run(program, raw, lengths)
    fabric = target(device=DEVICE).fabric()
    counts = compare(tmp_path, program, CONFIG, fabric, raw, lengths, program.thresholds, expected)
    assert re.search(r"\b4 +SB_SPRAM256KA\b", counts)
    assert re.search(r"\b7 +SB_MAC16\b", counts)


@bitstream.needed
@pytest.mark.verilator
def test_a_routed_design_with_loaded_weights_gives_the_golden_integers(tmp_path):
    """As it is built for the iCEBreaker, PLL included; loading through the UART is most of the simulation, so a few words a PE.

    In Icarus, which knows what was never written, and in Verilator, which runs designs of full size: ``python -m
    tests.hw.bitstream``.
    """
    program = small_program(4, 8, 2, 8)
    built = synth.synthesize(program, CONFIG, board="icebreaker", baud=5_000_000, folder=tmp_path, attempts=1)
    chip, counts = bitstream.routed(built.bitstream.parent, tmp_path)
    assert re.search(r"\b4 +ICESTORM_SPRAM\b", counts)
    assert re.search(r"\b7 +ICESTORM_DSP\b", counts)
    raw = synthetic.stimulus(program.input_format, 2, 4, program.inputs, seed=5)
    for talk in (bitstream.talk, bitstream.talk_verilated):
        bitstream.check(tmp_path, chip, program, CONFIG, raw, np.array([4, 3]), talk)
