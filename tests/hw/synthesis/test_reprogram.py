"""Bitstreams: a Program put into one, what is refused, and the bitstream of an iCE40 simulated."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tests.hw import bitstream
from typer.testing import CliRunner

from sparsegate import estimate, golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.fpga.devices import device
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_app.cli import app
from sparsegate_hw.synthesis import netlist, patch, reprogram, synth
from sparsegate_hw.synthesis.boards import target
from sparsegate_hw.synthesis.plan import elaborate
from sparsegate_hw.synthesis.routed import Routed

CONFIG = HardwareConfig(rows=1)
CLOCK, BAUD = 12_000_000, 1_000_000


def make_program(units=4, scale=1, gain=1.0):
    shapes = [synthetic.Shape("rnn_tanh", units, NM(1, 2), NM(1, 2))]
    x = np.random.default_rng(0).normal(size=(4, 6, 3)) * scale
    return quantize(synthetic.network(3, shapes, 0, gain), x)


def tuned(program):
    """Another Program of the shape: weights, biases and a threshold differ."""
    layer = program.layers[0]
    x = replace(layer.matrix_x, weight=-layer.matrix_x.weight // 2)
    h = replace(layer.matrix_h, weight=layer.matrix_h.weight[:, ::-1] // 2)
    bias = layer.bias[:, ::-1] // 2
    return replace(program, layers=(replace(layer, matrix_x=x, matrix_h=h, bias=bias),), input_threshold=3)


def with_acc(program, change):
    layer = program.layers[0]
    acc = layer.formats["acc"]
    wider = replace(layer, formats=layer.formats | {"acc": replace(acc, width=acc.width + change)})
    return replace(program, layers=(wider,))


def test_accumulators_may_be_wider_than_needed():
    program = make_program()
    wide = with_acc(program, 2)
    assert reprogram.fitted(program, wide).shape_digest == wide.shape_digest
    raw = synthetic.stimulus(program.input_format, 2, 4, 3, seed=1)
    assert (golden.run(reprogram.fitted(program, wide), raw).outputs == golden.run(program, raw).outputs).all()
    needed, width = wide.layers[0].formats["acc"].width, program.layers[0].formats["acc"].width
    with pytest.raises(SparseGateError, match=rf"need {needed} bits for their bound, the bitstream's have {width}"):
        reprogram.fitted(wide, program)


def test_other_shapes_are_refused():
    program = make_program()
    with pytest.raises(SparseGateError, match="has units 6, the bitstream was built for 4"):
        reprogram.fitted(make_program(6), program)
    layer = program.layers[0]
    other = replace(layer.formats["h"], frac=layer.formats["h"].frac - 1)
    damaged = replace(layer)
    object.__setattr__(damaged, "formats", layer.formats | {"h": other})
    with pytest.raises(SparseGateError, match="format 'h' of layer .* is .*, the bitstream was built for"):
        reprogram._fitted(damaged, layer)


def test_the_form_does_not_depend_on_contents():
    """Weights of which half the bits are always 0 included."""
    program = make_program()
    zeros = replace(
        program,
        layers=(
            replace(
                program.layers[0],
                matrix_x=replace(program.layers[0].matrix_x, weight=program.layers[0].matrix_x.weight * 0),
            ),
        ),
    )
    for name, multipliers, options in (
        ("LFE5U-25F", "dsp", {}),
        ("LFE5U-25F", "dsp", {"block_banks": 1}),  # block RAMs of accumulators are no contents
        ("iCE40HX8K", "logic", {}),
        ("iCE40UP5K", "dsp", {"loaded": True, "multiplier": 16}),  # nor are weights that the host loads
        ("GW2A-18", "dsp", {}),
    ):
        config = replace(CONFIG, **options)
        chosen = target(device=name, multipliers=multipliers)
        forms, contents = [], []
        for one in (program, tuned(program), zeros):
            form, content = patch.split(elaborate(one, config, chosen, CLOCK, BAUD)[0])
            forms.append(form)
            contents.append(content)
        assert all(contents[0].values())
        assert forms[0] == forms[1] == forms[2]
        assert contents[0] != contents[1]
        assert contents[0].keys() == contents[1].keys()
        assert not any("memory \\memory" in line and "init" in line.lower() for line in forms[0].splitlines())


def test_biases_may_grow_as_far_as_the_memories_are_wide():
    program = make_program()
    bits = Layout(program, CONFIG).bias_bits
    layer = program.layers[0]
    for extra, fits in ((0, True), (1, False)):
        grown = layer.bias.copy()
        grown[0, 0] = -(1 << (bits - 1 + extra))
        other = replace(program, layers=(replace(layer, bias=grown),))
        if fits:
            assert Layout(other, replace(CONFIG, bias_bits=bits)).bias_bits == bits
        else:
            with pytest.raises(SparseGateError, match=f"biases need {bits + 1} bits, the hardware's have {bits}"):
                _ = Layout(other, replace(CONFIG, bias_bits=bits)).bias_bits


@pytest.mark.synth
@pytest.mark.slow
def test_patching_an_ecp5(tmp_path):
    """Block RAM for the weights of 16 units, distributed RAM for biases and identity."""
    program, other = make_program(16), tuned(make_program(16))
    config = replace(CONFIG, block_banks=1)
    built = synth.synthesize(program, config, device="LFE5U-25F", folder=tmp_path, attempts=1)
    run = Routed.load(built.bitstream.parent)
    assert {place.kind for place in run.places.values()} == {"DP16KD", "TRELLIS_DPR16X4"}
    done = reprogram.reprogram(built.bitstream.parent, other, tmp_path / "other.bit")
    assert done.changed > 2
    # synthesis of the other Program takes the same routed design, and gives the same bitstream
    said = []
    again = synth.synthesize(other, config, device="LFE5U-25F", folder=tmp_path, attempts=1, progress=said.append)
    assert said[-2:] == ["nextpnr: found an earlier run with seed 1", "ecppack: starting"]
    assert set(again.stages) - {"yosys", "nextpnr"} == {"ecppack"}
    assert [again.stages[tool] for tool in ("yosys", "nextpnr")] == [
        built.stages[tool] for tool in ("yosys", "nextpnr")
    ]
    assert again.bitstream.read_bytes() == done.bitstream.read_bytes() != built.bitstream.read_bytes()
    # so does the command, which leaves the Program that it runs beside it
    other.save(tmp_path / "tuned.safetensors")
    folder, out = str(built.bitstream.parent), tmp_path / "tuned.bit"
    said = CliRunner().invoke(app, ["patch", folder, str(tmp_path / "tuned.safetensors"), "-o", str(out), "--json"])
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    assert (result["memories"], result["changed"]) == (done.memories, done.changed)
    assert out.read_bytes() == done.bitstream.read_bytes()
    assert Program.load(Path(result["program"])).digest == done.program.digest
    # a bias that the netlist has no bits for, or another shape, is a sentence, and nothing is written
    layer = other.layers[0]
    grown = layer.bias.copy()
    grown[0, 0] = -(1 << Layout(program, config).bias_bits)
    wrong = {"grown": replace(other, layers=(replace(layer, bias=grown),)), "shape": make_program(6)}
    for name, sentence in (("grown", "biases need"), ("shape", "has units 6, the bitstream was built for 16")):
        wrong[name].save(tmp_path / f"{name}.safetensors")
        words = ["patch", folder, str(tmp_path / f"{name}.safetensors"), "-o", str(tmp_path / f"{name}.bit")]
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 1
        assert sentence in " ".join(said.stderr.split())
        assert "Traceback" not in said.output
        assert not list(tmp_path.glob(f"{name}.bit*"))
    # and back
    back = reprogram.reprogram(again.bitstream.parent, program, tmp_path / "back.bit")
    assert back.bitstream.read_bytes() == built.bitstream.read_bytes()
    # a build whose configuration is not what it should be is refused
    place = next(place for place in run.places.values() if place.kind == "DP16KD")
    key = f".bram_init {place.at[0]}\n"
    assert key in run.text
    text = run.text.replace(key, key + "1ff ", 1)
    (built.bitstream.parent / "routed.z").write_bytes(zlib.compress(text.encode()))
    with pytest.raises(
        SparseGateError, match="is damaged: its configuration does not hold the contents of its Program"
    ):
        reprogram.reprogram(built.bitstream.parent, other, tmp_path / "no.bit")
    assert not (tmp_path / "no.bit").exists()


def distributed_rams(bitstream, places):
    """Distributed RAMs in a Gowin's bitstream: the first four look-up tables of their tiles, where a bit is set for a 0."""
    from apycula import bslib, chipdb

    chip = chipdb.load_chipdb(resources.files("apycula") / "GW2A-18C.msgpack.xz")
    tiles = chipdb.tile_bitmap(chip, bslib.read_bitstream(str(bitstream))[0])
    found = {}
    for name, (x, y) in places.items():
        tables = [chip[y, x].bels[f"LUT{bit}"].flags for bit in range(4)]
        found[name] = {
            f"INIT_{bit}": sum(
                (not all(tiles[y, x][row][column] for row, column in table[word])) << word for word in range(16)
            )
            for bit, table in enumerate(tables)
        }
    return found


@pytest.mark.synth
@pytest.mark.slow
def test_another_program_in_a_gowins_routed_design(tmp_path):
    """Block RAM for the weights of 16 units, distributed RAM for biases and identity. Nothing unpacks it, so nothing patches it."""
    program, other = make_program(16), tuned(make_program(16))
    built = synth.synthesize(program, CONFIG, device="GW2A-18", folder=tmp_path, attempts=1)
    folder = built.bitstream.parent
    run = Routed.load(folder)
    assert {place.kind for place in run.places.values()} == {"pROMX9", "RAM16SDP4"}
    blocks = len([place for place in run.places.values() if place.kind == "pROMX9"])
    counted = estimate.sizes(Layout(program, CONFIG), device("GW2A-18"))
    assert (built.dsp, built.bram) == (1, blocks + 1) == (counted["dsp"], counted["bram"])  # and accumulators
    said = []
    again = synth.synthesize(other, CONFIG, device="GW2A-18", folder=tmp_path, attempts=1, progress=said.append)
    assert said[-2:] == ["nextpnr: found an earlier run with seed 1", "gowin_pack: starting"]
    assert set(again.stages) - {"yosys", "nextpnr"} == {"gowin_pack"}
    assert [again.stages[tool] for tool in ("yosys", "nextpnr")] == [
        built.stages[tool] for tool in ("yosys", "nextpnr")
    ]
    assert again.bitstream.read_bytes() != built.bitstream.read_bytes()
    new = Routed.load(again.bitstream.parent)
    for one, runs in ((run, program), (new, other)):
        design, _ = elaborate(runs, CONFIG, target(device="GW2A-18"), 54_000_000, 1_000_000)
        contents = patch.extract(one.text, one.places)
        assert contents == patch.split(design)[1]
        at = {name: place.at for name, place in one.places.items() if place.kind == "RAM16SDP4"}
        assert distributed_rams(one.folder / "top.fs", at) == {name: contents[name] for name in at}
    with pytest.raises(
        SparseGateError, match="GW2A-18 cannot be patched, as no tool unpacks its block RAMs to check it"
    ):
        reprogram.reprogram(folder, other, tmp_path / "other.fs")
    with pytest.raises(SparseGateError, match="routed netlists are written for an iCE40, but .* is for GW2A-18"):
        netlist.write_routed(folder, tmp_path, "chip")


@bitstream.needed
@bitstream.unpacking
def test_the_bitstream_of_an_ice40_gives_the_golden_integers(tmp_path):
    program, other = make_program(), tuned(make_program())
    built = synth.synthesize(
        program, CONFIG, board="ice40-hx8k", frequency_hz=CLOCK, baud=BAUD, folder=tmp_path, attempts=1
    )
    done = reprogram.reprogram(built.bitstream.parent, other, tmp_path / "other.bin")
    assert {place.kind for place in Routed.load(built.bitstream.parent).places.values()} == {"SB_RAM40_4K"}
    raw = synthetic.stimulus(program.input_format, 2, 3, 3, seed=1)
    pins = built.bitstream.parent / "top.pcf"
    for image, runs in ((built.bitstream, program), (done.bitstream, done.program)):
        chip = bitstream.Chip(bitstream.unpacked(tmp_path, image, pins), CLOCK, BAUD)
        bitstream.check(tmp_path, chip, runs, CONFIG, raw, np.array([3, 2]))
