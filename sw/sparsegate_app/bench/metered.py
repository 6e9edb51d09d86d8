"""What commands of ``sparsegate`` take: seconds and memory, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_sim import tools

METER = """\
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, "-m", "sparsegate_app.cli", *sys.argv[1:]])
if status:
    sys.exit(status)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
largest = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "megabytes": round(largest)}))
"""
"""Runs a command from a small process: from a large one its memory would count as the command's, on Linux."""


def compile_cost(checkpoint: Path, layers: Sequence[str], program: Program) -> dict[str, Any]:
    """Seconds and peak memory of the commands that import a checkpoint and compile a Program, each a process of its own."""
    rows, groups = 16, 4
    named = [word for name in layers for word in ("--layer", name)]
    stages = {
        "import": ["import", str(checkpoint.resolve()), "--when", "last", *named],
        "compile": ["compile", "program.safetensors", "--rows", str(rows), "--groups", str(groups)],
    }
    cost: dict[str, Any] = {
        "definition": "wall and processor time of the command with all of its processes, and the resident memory of the largest",
        "rows": rows,
        "groups": groups,
    }
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as scratch:
        program.save(Path(scratch) / "program.safetensors")
        for stage, words in stages.items():
            cost[stage] = metered(words, scratch)
    return cost


def metered(words: Sequence[str], folder: str) -> dict[str, Any]:
    """Seconds and megabytes of a command that runs in a folder."""
    # the modules of this very process, wherever the command runs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in sys.path if part)}
    log = Path(folder) / f"{words[0]}.log"
    status = tools.execute([sys.executable, "-c", METER, *words], log, Path(folder), environment)
    last = tools.tail(log, 1)
    if status:
        raise SparseGateError(f"'sparsegate {words[0]}' failed: {last or 'no message'}")
    return json.loads(last)
