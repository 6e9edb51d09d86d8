"""Placed and routed designs: what is kept of them, and what is refused."""

from __future__ import annotations

import shutil

import pytest
from tests.hw.toolchain import CONFIG, Tools, make_program

from sparsegate.errors import SparseGateError
from sparsegate_hw.fabric.family import family
from sparsegate_hw.synthesis import netlist, routed, synth
from sparsegate_hw.synthesis.routed import Routed


def test_the_routed_netlist_is_kept(tmp_path, monkeypatch):
    stand_ins = Tools(monkeypatch, {1: 90.0})
    program = make_program()
    built = synth.synthesize(program, CONFIG, folder=tmp_path).bitstream.parent
    assert Routed.load(built).netlist() == {"seed": 1}
    with pytest.raises(SparseGateError, match="written for an iCE40, but .* is for LFE5U-85F"):
        netlist.write_routed(built, tmp_path, "chip")
    # an earlier version kept none; its routed designs serve all the same
    shutil.rmtree(built)
    for kept in tmp_path.glob("routed/*/netlist.z"):
        kept.unlink()
    built = synth.synthesize(program, CONFIG, folder=tmp_path).bitstream.parent
    assert [name for name, _ in stand_ins.calls[3:]] == ["ecppack"]
    with pytest.raises(SparseGateError, match=r"has no netlist.z, as an earlier version routed it; synthesize into"):
        Routed.load(built).netlist()
    (built / "netlist.z").write_bytes(b"x")
    with pytest.raises(SparseGateError, match=r"netlist.z cannot be read"):
        Routed.load(built).netlist()


def test_larger_designs_may_route_longer():
    lines = ("Info: Routing..", "Info: Routing 800 arcs.", "Info: Routing 400000 arcs.")
    assert [routed.routing_seconds(line) for line in lines] == [None, 240.0, 6000.0]


def test_cells_that_a_packer_gets_wrong_are_refused():
    gowin = family("gowin")
    routed.refuse_mispacked(gowin, {"SDPX9B": 8, "pROMX9": 3})
    with pytest.raises(SparseGateError, match="the design needs 2 DPX9B, which gowin_pack does not pack rightly"):
        routed.refuse_mispacked(gowin, {"DPX9B": 2})
    routed.refuse_mispacked(family("ecp5"), {"DPX9B": 2})
