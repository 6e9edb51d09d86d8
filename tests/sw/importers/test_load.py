"""``sparsegate.load``: one entry for every source, which imports no more than the source needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

import sparsegate
from sparsegate import artefact, importers
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(2)
    return nn.ModuleDict({"fc": nn.Linear(5, 2), "lstm": nn.LSTM(3, 5)})


NAMES = ["lstm", "fc"]


def same(one: Network, two: Network) -> bool:
    return all(
        (a.w_x == b.w_x).all() and (a.bias == b.bias).all() and (a.name, a.kind) == (b.name, b.kind)
        for a, b in zip(one.layers, two.layers, strict=True)
    )


def test_every_form_of_a_model_gives_the_same(model, tmp_path):
    state = model.state_dict()
    torch.save(state, tmp_path / "m.pt")
    torch.save(state, tmp_path / "other.bin")
    torch.save(state, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    (tmp_path / "renamed").write_bytes((tmp_path / "m.safetensors").read_bytes())
    network = sparsegate.load(model, NAMES)
    arrays = {key: value.numpy() for key, value in state.items()}
    for source in (state, arrays, *sorted(tmp_path.iterdir()), *map(str, tmp_path.iterdir())):
        assert same(sparsegate.load(source, NAMES), network)


def test_a_network_comes_back_as_it_is(tmp_path):
    network = synthetic.network(3, [Shape("lstm", 4), Shape("linear", 2)], seed=1)
    network.save(tmp_path / "n.safetensors")
    assert same(sparsegate.load(tmp_path / "n.safetensors"), network)
    assert sparsegate.load(network) is network
    assert [(part.name, part.what) for part in importers.describe(tmp_path / "n.safetensors")] == [
        (layer.name, layer.kind) for layer in network.layers
    ]
    for options in ({"layers": ["a"]}, {"when": "last"}, {"patterns": "1:4"}):
        with pytest.raises(
            SparseGateError, match="is a Network already; layers, when and patterns are for other models"
        ):
            sparsegate.load(tmp_path / "n.safetensors", **options)


def test_the_name_is_the_files(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "speech.pt")
    assert sparsegate.load(tmp_path / "speech.pt", NAMES).name == "speech"
    assert sparsegate.load(tmp_path / "speech.pt", NAMES, name="other").name == "other"
    assert sparsegate.load(model, NAMES).name == "network"


def test_types_of_numbers(model, tmp_path):
    """Halves and bfloat16 are exact in float64; what has no fraction, or eight bits, is refused."""
    state = model.state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        given = {key: value.to(dtype) for key, value in state.items()}
        safetensors.torch.save_file(given, tmp_path / "m.safetensors")
        found = sparsegate.load(tmp_path / "m.safetensors", NAMES).layers[0].w_h
        assert (found == given["lstm.weight_hh_l0"].double().numpy()).all()
    for dtype, name in ((torch.float8_e4m3fn, "F8_E4M3"), (torch.int32, "I32")):
        safetensors.torch.save_file({key: value.to(dtype) for key, value in state.items()}, tmp_path / "m.safetensors")
        with pytest.raises(
            SparseGateError, match=f"layer 'lstm': weight_ih_l0 is of type {name}, expected floating point"
        ):
            sparsegate.load(tmp_path / "m.safetensors", NAMES)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        (
            "m.txt",
            b"hello, world, this is text",
            "is no model that SparseGate knows: expected a Network of SparseGate, safetensors",
        ),
        ("m.npz", b"PK\x03\x04rubbish", "is not a readable PyTorch state_dict: its end is missing"),
        ("m.keras", b"rubbish", "is not a readable Keras model: it is damaged"),
        ("m.h5", b"", "is not a readable Keras model: it is damaged"),
        ("m.safetensors", b"\0" * 20, "is not a readable safetensors file"),
        ("m.pt", b"", "it is empty"),
    ],
)
def test_what_is_no_model(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(SparseGateError, match=message):
        sparsegate.load(tmp_path / name)


def test_what_is_no_source(tmp_path):
    with pytest.raises(SparseGateError, match=r"cannot read .*none\.pt: No such file or directory"):
        sparsegate.load(tmp_path / "none.pt")
    with pytest.raises(SparseGateError, match=r"cannot read .*: Is a directory"):
        sparsegate.load(tmp_path)
    for source in ([1, 2], 3, None):
        with pytest.raises(SparseGateError, match="a model is a torch module, a state_dict or a file, not a"):
            sparsegate.load(source)
    with pytest.raises(AttributeError, match="has no attribute 'loads'"):
        sparsegate.loads  # noqa: B018


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_are_not_waited_for(tmp_path):
    for name in ("m.pt", "m.onnx"):
        os.mkfifo(tmp_path / name)
        for use in (sparsegate.load, importers.describe):
            with pytest.raises(SparseGateError, match="cannot read .*: it is not a file"):
                use(tmp_path / name)


def test_names_that_no_file_has():
    with pytest.raises(SparseGateError, match=r"cannot read m\\x00\.pt: .*null"):
        sparsegate.load("m\0.pt")


def test_layers_are_names(model):
    for layers, message in (
        ([3], "layers is a list of names, but 3 in it is a int"),
        (["fc", None], "but None in it is a NoneType"),
        (3, "layers is a list of names, not a int"),
        ("fc", r"layers is a list of names, like \['fc'\], not a single string"),
    ):
        for use in (sparsegate.load, importers.describe):
            with pytest.raises(SparseGateError, match=message):
                use(model, layers)


def test_headers_nested_without_end(tmp_path):
    for text in ("[" * 100_000, '{"a":' * 100_000):
        safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "n.safetensors", {"sparsegate": text})
        with pytest.raises(SparseGateError, match="has a damaged header"):
            sparsegate.load(tmp_path / "n.safetensors")
        (tmp_path / "n.json").write_text(text)
        with pytest.raises(SparseGateError, match="is not valid JSON"):
            artefact.read_json(tmp_path / "n.json")


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after a statement, in a fresh interpreter."""
    code = f"import sys, sparsegate; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "sw")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_nothing_is_imported_before_it_is_needed(model, tmp_path):
    assert not loaded("pass") & {"numpy", "torch", "h5py", "onnx", "safetensors"}
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    found = loaded(f"sparsegate.load({str(tmp_path / 'm.safetensors')!r}, {NAMES})")
    assert "safetensors" in found
    assert not found & {"torch", "h5py", "onnx"}


def test_onnx_is_a_graph_of_its_own(tmp_path):
    pytest.importorskip("onnx", reason="needs the package onnx: pip install 'sparsegate[onnx]'")
    (tmp_path / "m.onnx").write_bytes(b"rubbish")
    for use in (sparsegate.load, importers.describe):
        with pytest.raises(SparseGateError, match=r"m\.onnx"):
            use(tmp_path / "m.onnx")


def test_metadata_that_is_not_ours(model, tmp_path):
    """safetensors files of other programs have metadata too; ours, damaged, is not taken for a state_dict."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors", {"format": "pt", "epoch": "3"})
    assert same(sparsegate.load(tmp_path / "m.safetensors", NAMES), sparsegate.load(model, NAMES))
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors", {"sparsegate": json.dumps({"header": {}})})
    with pytest.raises(SparseGateError, match="has a damaged header"):
        sparsegate.load(tmp_path / "m.safetensors", NAMES)
