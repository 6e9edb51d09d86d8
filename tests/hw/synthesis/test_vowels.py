"""The vowels workload on iCE40: a bitstream, a routed design and a synthesized netlist run real utterances."""

from __future__ import annotations

import importlib.util
import re
import shutil

import numpy as np
import pytest
from tests.hw import bitstream
from tests.hw.synthesis.test_netlist import compare

from sparsegate import golden
from sparsegate_app.bench.workloads import WORKLOADS
from sparsegate_hw.synthesis import synth
from sparsegate_hw.synthesis.boards import target

VOWELS = WORKLOADS["vowels"]
CLOCK, BAUD = 12_000_000, 1_000_000
UTTERANCES = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vowels")
    return VOWELS.make(folder, folder)


def shortest(work):
    """Raw inputs and lengths of the shortest utterances: gates are simulated by the thousand a cycle."""
    short = np.argsort(work.lengths, kind="stable")[:UTTERANCES]
    return work.raw[short], work.lengths[short]


@bitstream.needed
@bitstream.unpacking
def test_a_bitstream_gives_the_golden_integers(tmp_path, work):
    """On an HX8K, which has no multipliers, and at its board's own clock: icebox_vlog knows neither SB_MAC16 nor a PLL."""
    built = synth.synthesize(
        work.program,
        VOWELS.config,
        board="ice40-hx8k",
        frequency_hz=CLOCK,
        baud=BAUD,
        folder=tmp_path,
        attempts=1,
    )
    assert built.dsp == 0
    sources = bitstream.unpacked(tmp_path, built.bitstream, built.bitstream.parent / "top.pcf")
    chip = bitstream.Chip(sources, CLOCK, BAUD)
    bitstream.check(tmp_path, chip, work.program, VOWELS.config, *shortest(work))


@bitstream.needed
def test_a_routed_design_with_sb_mac16_gives_the_golden_integers(tmp_path, work):
    """As it is built for the iCEBreaker, PLL included; a faster UART and short utterances make the simulation shorter."""
    built = synth.synthesize(
        work.program, VOWELS.config, board="icebreaker", baud=5_000_000, folder=tmp_path, attempts=1
    )
    chip, counts = bitstream.routed(built.bitstream.parent, tmp_path)
    assert re.search(r"\b7 +ICESTORM_DSP\b", counts)  # one a PE, three in the lane
    assert re.search(r"\b30 +ICESTORM_RAM\b", counts)
    bitstream.check(tmp_path, chip, work.program, VOWELS.config, *shortest(work))


@pytest.mark.synth
@pytest.mark.icarus
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
def test_the_netlist_with_sb_mac16_gives_the_golden_integers(tmp_path, work):
    program, (raw, lengths) = work.program, shortest(work)
    expected = golden.run(program, raw, lengths)
    fabric = target(device=VOWELS.device).fabric()
    counts = compare(tmp_path, program, VOWELS.config, fabric, raw, np.asarray(lengths), program.thresholds, expected)
    assert re.search(r"\b7 +SB_MAC16\b", counts)  # one a PE, three in the lane
