"""What is to be built, as values, without a tool."""

from __future__ import annotations

from pathlib import Path

from tests.hw.toolchain import CONFIG, make_program

from sparsegate_hw.synthesis import boards, plan
from sparsegate_hw.synthesis.patch import split


def test_elaboration_is_the_same_every_time():
    program = make_program()
    first = plan.elaborate(program, CONFIG, boards.target("icepi-zero"), 80_000_000, 1_000_000)
    assert first == plan.elaborate(program, CONFIG, boards.target("icepi-zero"), 80_000_000, 1_000_000)
    assert str(Path(__file__).parents[3]) not in first[0] + first[1]
    assert "FREQUENCY PORT" in first[1]


def test_a_plan_is_a_value():
    """Files, arguments and key follow from it, and are the same for Programs of one shape."""
    program = make_program()
    build = plan.Build.of(program, CONFIG, boards.target(device="LFE5U-25F"), None, 1_000_000)
    assert build == plan.Build.of(program, CONFIG, boards.target(device="LFE5U-25F"), 80_000_000, 1_000_000)
    design = plan.Design.of(build, program)
    assert (design.form, design.contents) == split(design.text)
    assert build.files(design.text, design.constraints) == {"top.il": design.text, "top.lpf": design.constraints}
    key = build.key(design.form, design.constraints)
    assert key["design"] == plan.form_digest(program, CONFIG, device="LFE5U-25F")
    assert key["nextpnr"] == build.routing()
    assert build.routing()[: len(build.nextpnr())] == build.nextpnr()
    assert build.packer() == ["--compress", "--input", "top.config", "--bit", "top.bit"]
    assert build.script()[:2] == ["# reading the design", "read_rtlil top.il"]
    wider = plan.Build.of(program, CONFIG, boards.target(device="LFE5U-25F"), 50_000_000, 1_000_000)
    assert plan.digest(wider.key(design.form, design.constraints)) != plan.digest(key)
