"""Synthesis: keeping results, and one small bitstream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from tests.hw.toolchain import CONFIG, Tools, folders, make_program

from sparsegate import estimate
from sparsegate.errors import SparseGateError, ToolError
from sparsegate_hw.synthesis import plan, synth, tools
from sparsegate_hw.synthesis.result import SynthResult


def test_results_are_kept_by_content(tmp_path, monkeypatch):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    result = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert (result.fmax_mhz, result.met, result.cached, result.seed) == (90.0, True, False, 1)
    assert (result.luts, result.ffs, result.bram, result.dsp) == (1, 2, 3, 4)
    assert (result.device, result.board, result.speed, result.frequency_mhz) == ("LFE5U-85F", "ulx3s-85f", "6", 80.0)
    assert result.bitstream.parent.parent == tmp_path
    assert result.bitstream.parent.name.startswith(f"{program.name}-ulx3s-85f-")
    assert [name for name, _ in stand_ins.calls] == ["Yosys", "nextpnr", "ecppack"]
    assert "speed grade 6" in result.how
    assert result.critical_path == ("0.50 ns a", "10.00 ns b")
    saved = json.loads((result.bitstream.parent / "synth.json").read_text())
    assert saved["bitstream"] == "top.bit"
    assert str(tmp_path) not in json.dumps(saved)
    # the same again costs nothing; another seed, frequency, device or network is another result
    assert synth.synthesize(program, CONFIG, folder=tmp_path).cached
    assert len(stand_ins.calls) == 3
    stand_ins.speeds[2] = 95.0
    assert synth.synthesize(program, CONFIG, folder=tmp_path, seed=2).seed == 2
    assert not synth.synthesize(program, CONFIG, folder=tmp_path, device="LFE5U-25F").cached
    assert not synth.synthesize(make_program(5), CONFIG, folder=tmp_path).cached
    assert len(folders(tmp_path)) == 4


def test_packing_gives_area_without_a_clock(tmp_path, monkeypatch):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    found = synth.pack(program, CONFIG, device="LFE5U-25F", frequency_hz=None, progress=lambda line: None)
    assert [name for name, _ in stand_ins.calls] == ["Yosys", "nextpnr"]
    assert (found["luts"], found["ffs"], found["bram"], found["dsp"]) == (1, 2, 3, 4)
    assert (found["fmax_mhz"], found["seed"], found["tried"]) == (None, None, [])
    routed = synth.synthesize(program, CONFIG, device="LFE5U-25F", folder=tmp_path)
    placed = stand_ins.calls[3][1]
    packed = [word for word in stand_ins.calls[1][1] if word != "--pack-only"]
    assert [word for word in placed if word in packed] == packed
    same = ("device", "board", "speed", "multipliers", "frequency_mhz", "luts", "ffs", "bram", "dsp", "sprams")
    assert {key: found[key] for key in same} == {key: getattr(routed, key) for key in same}
    # both are points
    points = [estimate.point(program, CONFIG, each, "") for each in (found, routed.as_json())]
    assert [", packed on LFE5U-25F" in one["name"] for one in points] == [True, False]
    assert plan.form_digest(program, CONFIG, device="LFE5U-25F") == routed.form


def test_a_routed_design_is_shared(tmp_path, monkeypatch):
    """Other ways to ask for what was routed before cost a packing."""
    stand_ins = Tools(monkeypatch, {1: 90.0, 2: 95.0, 3: 85.0})
    program = make_program()
    synth.synthesize(program, CONFIG, folder=tmp_path)
    result = synth.synthesize(program, CONFIG, folder=tmp_path, seeds=3)
    assert (result.seed, result.fmax_mhz) == (2, 95.0)
    assert result.tried == ((1, 90.0), (2, 95.0), (3, 85.0))
    assert result.router == "router1"
    assert set(result.stages) == {"yosys", "nextpnr", "ecppack"}
    assert [name for name, _ in stand_ins.calls[3:]] == ["Yosys", "nextpnr", "nextpnr", "ecppack"]
    assert SynthResult.load(result.bitstream.parent).tried == result.tried
    # a run whose files are damaged is made again
    run = next(
        path
        for path in (tmp_path / "routed").iterdir()
        if json.loads((path / "run.json").read_text())["fmax_mhz"] == 95.0
    )
    (run / "run.json").write_text("{")
    synth.synthesize(program, CONFIG, folder=tmp_path, seed=2)
    assert [name for name, _ in stand_ins.calls[7:]] == ["Yosys", "nextpnr", "ecppack"]


@pytest.mark.parametrize("damage", ["no bitstream", "no JSON", "other keys", "no result"])
def test_an_earlier_result_that_is_damaged_is_built_again(tmp_path, monkeypatch, damage):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    folder = synth.synthesize(program, CONFIG, folder=tmp_path).bitstream.parent
    if damage == "no bitstream":
        (folder / "top.bit").unlink()
    elif damage == "no result":
        (folder / "synth.json").unlink()
    else:
        (folder / "synth.json").write_text("{" if damage == "no JSON" else "{}")
    if damage != "no result":
        with pytest.raises(SparseGateError, match=re.escape(str(folder))):
            SynthResult.load(folder)
    again = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert not again.cached
    assert again.bitstream.read_text() == "1"
    assert [name for name, _ in stand_ins.calls[3:]] == ["ecppack"]
    assert folders(tmp_path) == [folder]
    assert synth.synthesize(program, CONFIG, folder=tmp_path).cached


def test_another_process_that_is_first(tmp_path, monkeypatch):
    """Two build the same; the second finds the folder taken and keeps what is there."""
    stand_ins = Tools(monkeypatch, {1: 90.0})
    program, run = make_program(), stand_ins.run

    def overtaken(name, *rest, **options):
        run(name, *rest, **options)
        if name == "ecppack":
            monkeypatch.setattr(tools, "run_tool", run)
            first = synth.synthesize(program, CONFIG, folder=tmp_path)
            (first.bitstream.parent / "first").write_text("")

    monkeypatch.setattr(tools, "run_tool", overtaken)
    result = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert (result.bitstream.parent / "first").exists()
    assert result.met
    assert folders(tmp_path) == [result.bitstream.parent]


def test_another_router_where_the_first_finds_no_end(tmp_path, monkeypatch):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    stand_ins.stuck = True
    said = []
    assert synth.synthesize(make_program(), CONFIG, folder=tmp_path, progress=said.append).met
    routers = [command[command.index("--router") + 1] for name, command in stand_ins.calls if name == "nextpnr"]
    assert routers == ["router2"]
    (folder,) = folders(tmp_path)
    result = SynthResult.load(folder)
    assert result.router == "router2"
    assert result.how.endswith(", seed 1, router2")
    assert "nextpnr: router1 finds no end, starting again with another router" in said


def test_other_seeds_are_tried_until_timing_is_met(tmp_path, monkeypatch):
    stand_ins = Tools(monkeypatch, {1: 70.0, 2: 79.9, 3: 75.0, 4: 80.0})
    result = synth.synthesize(make_program(), CONFIG, folder=tmp_path, attempts=3)
    assert (result.seed, result.fmax_mhz, result.met) == (2, 79.9, False)
    assert result.bitstream.read_text() == "2"
    result = synth.synthesize(make_program(), CONFIG, folder=tmp_path, attempts=5)
    assert (result.seed, result.met) == (4, True)
    assert len([name for name, _ in stand_ins.calls if name == "nextpnr"]) == 3 + 1


def test_a_seed_without_a_placement_is_passed_over(tmp_path, monkeypatch):
    """A nearly full device has room for some placements only; where it has for none, that is the answer."""
    stand_ins, said = Tools(monkeypatch, {1: 90.0, 2: 70.0, 3: 90.0}), []
    working = tools.run_tool

    def run(name, command, *rest, **options):
        if name == "nextpnr" and command[command.index("--seed") + 1] in full:
            raise ToolError("nextpnr failed with status 125: ERROR: Unable to find legal placement for all cells")
        return working(name, command, *rest, **options)

    monkeypatch.setattr(tools, "run_tool", run)
    full = {"1", "2", "3"}
    for _ in range(2):  # what finds no place is not tried again
        with pytest.raises(
            SparseGateError, match="no place on LFE5U-85F from seed 3; use --seeds, as another placement"
        ):
            synth.synthesize(make_program(), CONFIG, folder=tmp_path / "full", seeds=3)
        full = set()
    full = {"1"}
    result = synth.synthesize(make_program(), CONFIG, folder=tmp_path, seeds=3, progress=said.append)
    assert (result.seed, result.tried) == (3, ((1, None), (2, 70.0), (3, 90.0)))
    assert "nextpnr: no legal placement with seed 1" in said
    assert [name for name, _ in stand_ins.calls].count("nextpnr") == 2
    assert SynthResult.load(result.bitstream.parent).tried == result.tried


@pytest.mark.parametrize("part", ["arguments", "routers", "packer"])
def test_another_way_to_call_a_tool_is_another_result(tmp_path, monkeypatch, part):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    synth.synthesize(make_program(), CONFIG, folder=tmp_path)
    if part == "routers":
        monkeypatch.setattr(plan, "ROUTERS", ("router2",))
    elif part == "packer":
        monkeypatch.setattr(plan.Build, "packer", lambda build: ["--new"])
    else:
        usual = plan.Build.nextpnr
        monkeypatch.setattr(plan.Build, "nextpnr", lambda build: [*usual(build), "--new"])
    assert not synth.synthesize(make_program(), CONFIG, folder=tmp_path).cached
    again = [name for name, _ in stand_ins.calls[3:]]
    assert again == (["ecppack"] if part == "packer" else ["Yosys", "nextpnr", "ecppack"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ToolError("nextpnr failed")])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, error):
    def run(name, command, folder, log, say, script=None, limit=None):
        (folder / "garbage").write_text("x")
        if name == "nextpnr":
            raise error

    monkeypatch.setattr(tools, "run_tool", run)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ToolError):
        synth.synthesize(make_program(), CONFIG, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_device_is_a_sentence(tmp_path, monkeypatch):
    def run(name, command, folder, log, say, script=None, limit=None):
        if name == "nextpnr":
            raise ToolError("nextpnr failed with status 1: ERROR: Unable to find a placement location for cell 'x'")

    monkeypatch.setattr(tools, "run_tool", run)
    with pytest.raises(SparseGateError, match="the design does not fit LFE5U-12F; use fewer rows or a larger device"):
        synth.synthesize(make_program(), CONFIG, device="LFE5U-12F", folder=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SparseGateError, match="cannot write .*file"):
        synth.synthesize(make_program(), CONFIG, folder=tmp_path / "file" / "build")


def test_interrupting_the_process_leaves_nothing(tmp_path):
    """Ctrl-C while Yosys runs: children end, the folder stays clean."""
    code = textwrap.dedent(
        """
        import sys
        sys.path[:0] = {path!r}
        import numpy as np
        from sparsegate.array import HardwareConfig
        from sparsegate.network import synthetic
        from sparsegate.quantize import quantize
        from sparsegate_hw.synthesis import synth
        program = quantize(synthetic.network(3, [synthetic.Shape("lstm", 8)], 0), np.ones((2, 3, 3)))
        try:
            synth.synthesize(program, HardwareConfig(rows=4), folder={folder!r}, progress=lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            raise SystemExit(130)
        """
    ).format(path=sys.path, folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "Yosys: starting" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=30) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.synth
def test_a_small_bitstream(tmp_path):
    said = []
    program = make_program(units=2, inputs=2)
    result = synth.synthesize(program, CONFIG, device="LFE5U-25F", folder=tmp_path, progress=said.append, attempts=1)
    contents = result.bitstream.read_bytes()
    assert b"\xff\xff\xbd\xb3" in contents[:256]  # preamble
    assert bytes.fromhex("41111043") in contents[:256]  # identity of an LFE5U-25F
    assert result.fmax_mhz > 25
    assert result.dsp > 0
    assert result.critical_path
    assert {"Yosys: mapping memories", "nextpnr: placing", "nextpnr: routing"} <= set(said)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.synth
@pytest.mark.slow
def test_cells_of_an_engine_alone():
    """Less than with UART and packet layer around it, and the multipliers of its layout."""
    program = make_program(units=2, inputs=2)
    found = synth.engine_cells(program, CONFIG, "LFE5U-25F", lambda line: None)
    counted = estimate.estimate(program, CONFIG)
    assert (found["MULT18X18D"], found["DP16KD"]) == (counted.dsp, counted.bram)
    assert 100 < found["LUT4"] < 3000
    assert 100 < found["TRELLIS_FF"] < 3000
