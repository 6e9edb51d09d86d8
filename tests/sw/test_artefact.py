"""Files: whole or not at all, and every kind of damage is one sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest
import safetensors.numpy

from sparsegate import artefact
from sparsegate.errors import SparseGateError

TENSORS = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([1.5])}


def written(folder):
    path = folder / "thing.safetensors"
    artefact.save(path, "thing", 1, TENSORS, {"name": "x"})
    return path


def test_round_trip(tmp_path):
    path = written(tmp_path)
    tensors, header = artefact.load(path, "thing", 1)
    assert header == {"name": "x", "format": "thing", "version": 1}
    assert all((tensors[name] == value).all() and tensors[name].dtype == value.dtype for name, value in TENSORS.items())
    assert os.listdir(tmp_path) == [path.name]


def test_same_contents_same_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    assert written(tmp_path).read_bytes() == written(tmp_path / "other").read_bytes()


def test_digest_sees_everything():
    base = artefact.digest(TENSORS, {"n": 1})
    changed = [
        (TENSORS | {"b": np.array([1.25])}, {"n": 1}),
        (TENSORS | {"a": TENSORS["a"].reshape(3, 2)}, {"n": 1}),
        (TENSORS | {"a": TENSORS["a"].astype(np.uint16)}, {"n": 1}),
        ({"a": TENSORS["a"], "c": TENSORS["b"]}, {"n": 1}),
        (TENSORS, {"n": 2}),
    ]
    assert len({base, *(artefact.digest(*each) for each in changed)}) == 6
    assert artefact.digest(dict(reversed(TENSORS.items())), {"n": 1}) == base


def test_digest_does_not_depend_on_memory_layout():
    columns = np.asfortranarray(TENSORS["a"])
    assert artefact.digest({"a": columns}, {}) == artefact.digest({"a": TENSORS["a"]}, {})
    swapped = TENSORS["a"].astype(">i2")
    assert artefact.digest({"a": swapped}, {}) != ""


def test_missing_file(tmp_path):
    with pytest.raises(SparseGateError, match=r"cannot read .*nothing.safetensors: no such file"):
        artefact.load(tmp_path / "nothing.safetensors", "thing", 1)


@pytest.mark.parametrize("keep", [0, 4, 40, 200, -1])
def test_truncated_file(tmp_path, keep):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SparseGateError, match="is not a readable safetensors file"):
        artefact.load(path, "thing", 1)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(SparseGateError, match=str(tmp_path)):
        artefact.load(tmp_path, "thing", 1)


def test_every_damaged_byte_is_found(tmp_path):
    """Any single damaged byte of the contents, or of the header that carries them, gives a SparseGateError."""
    path = written(tmp_path)
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(SparseGateError):
            artefact.load(path, "thing", 1)


def test_corrupted_contents_are_told_by_the_digest(tmp_path):
    path = written(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(SparseGateError, match="corrupted: its contents do not match the digest"):
        artefact.load(path, "thing", 1)


def test_someone_elses_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(3)}))
    with pytest.raises(SparseGateError, match="not one that SparseGate wrote; use 'sparsegate import' first"):
        artefact.load(path, "thing", 1)


def test_wrong_form_and_version(tmp_path):
    path = written(tmp_path)
    with pytest.raises(SparseGateError, match="holds a thing, expected a sparsegate-program"):
        artefact.load(path, "sparsegate-program", 1)
    with pytest.raises(SparseGateError, match="has version 1 of thing, this SparseGate reads version 2"):
        artefact.load(path, "thing", 2)


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SparseGateError, match=r"cannot write .*thing"):
        artefact.write_text(tmp_path / "file" / "thing", "text")


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    artefact.write_text(path, "old")

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(SparseGateError, match=r"cannot write .*out.txt: No space left on device"):
        artefact.write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupted():
        with artefact.writing(tmp_path / "out") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_files_are_readable_by_others_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        artefact.write_text(tmp_path / "out", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o644


def test_json(tmp_path):
    artefact.write_json(tmp_path / "v.json", {"b": 1, "a": [1.5, None]})
    assert artefact.read_json(tmp_path / "v.json") == {"b": 1, "a": [1.5, None]}
    (tmp_path / "v.json").write_text("{")
    with pytest.raises(SparseGateError, match="is not valid JSON"):
        artefact.read_json(tmp_path / "v.json")
    with pytest.raises(SparseGateError, match="cannot read"):
        artefact.read_json(tmp_path / "w.json")


def test_damaged_header_is_a_sentence(tmp_path):
    with pytest.raises(SparseGateError, match="damaged header: KeyError 'layers'"), artefact.reading("p"):
        {}["layers"]
    with pytest.raises(SparseGateError, match="p: too many"), artefact.reading("p"):
        raise SparseGateError("too many")
