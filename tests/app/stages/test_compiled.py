"""What a stage works on, from whatever a Python user has."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsegate.array import HardwareConfig
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import quantize
from sparsegate_app.stages.compile import compile_
from sparsegate_app.stages.compiled import Compiled, array_of, compiled_of, open_program

NETWORK = synthetic.network(5, [Shape("gru", 8), Shape("linear", 3)], seed=1)
PROGRAM = quantize(NETWORK, np.random.default_rng(1).normal(size=(4, 6, 5)))


def test_every_source_gives_the_same(tmp_path):
    built = compile_(PROGRAM, HardwareConfig(rows=3), tmp_path)
    PROGRAM.save(tmp_path / "bare.safetensors")
    for source in (built, built.compiled, built.folder, str(built.folder)):
        found = compiled_of(source)
        assert (found.program.digest, found.config.rows, found.folder) == (PROGRAM.digest, 3, built.folder)
    for source in (PROGRAM, tmp_path / "bare.safetensors"):
        found = compiled_of(source)
        assert (found.program.digest, found.config, found.folder) == (PROGRAM.digest, array_of(PROGRAM), None)
        assert found.config.rows == 6
    # another array is no longer the folder's, the same one is
    assert compiled_of(built, HardwareConfig(rows=6)).folder is None
    assert compiled_of(built.folder, HardwareConfig(rows=3)).folder == built.folder
    assert compiled_of(built).layout is built.compiled.layout


def test_fields_that_are_asked_for(tmp_path):
    PROGRAM.save(tmp_path / "bare.safetensors")
    assert open_program(tmp_path / "bare.safetensors", {"rows": None, "groups": 2}).config == HardwareConfig(6, 2)
    folder = compile_(Compiled(PROGRAM, HardwareConfig(3)), out=tmp_path).folder
    assert open_program(folder, {"rows": 3}).folder == folder
    other = open_program(folder, {"rows": 6})
    assert (other.config, other.folder) == (HardwareConfig(6), None)
    with pytest.raises(SparseGateError, match=r"not one that 'sparsegate compile' made: it has no manifest\.json"):
        open_program(tmp_path)
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    values["digests"]["program"] = "0"
    manifest.write_text(json.dumps(values))
    with pytest.raises(SparseGateError, match="the manifest belongs to another Program; compile again"):
        open_program(folder)
