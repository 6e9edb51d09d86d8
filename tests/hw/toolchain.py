"""A small Program to synthesize, and stand-ins for the tools."""

from __future__ import annotations

import json

import numpy as np

from sparsegate.array import HardwareConfig
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_hw.synthesis import plan, tools

CONFIG = HardwareConfig(rows=4)


def make_program(units=4, inputs=3):
    shapes = [synthetic.Shape("lstm", units, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2, when="last")]
    x = np.random.default_rng(0).normal(size=(4, 6, inputs))
    return quantize(synthetic.network(inputs, shapes, 0), x)


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
        monkeypatch.setattr(plan, "elaborate", elaborated)
        monkeypatch.setattr(tools, "run_tool", self.run)

    def run(self, name, command, folder, log, say, script=None, limit=None):
        if limit is not None and self.stuck:
            raise tools.ToolTimeout("nextpnr took more than 240 s")
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


def folders(root):
    """Results in a folder, without the routed designs that they share."""
    return [path for path in root.iterdir() if path.name != "routed"]
