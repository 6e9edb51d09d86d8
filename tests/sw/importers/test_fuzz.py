"""Damaged and malicious model files: each is imported or refused with a sentence. No crash, no read elsewhere, little memory.

Every format runs in a process of its own, which this file is too: a crash of a library in C would end it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

COUNT = 600
"""Files of each format."""
MEMORY = 400
"""Most MB that a process may grow by; the files take a few kB."""
ROOT = Path(__file__).parents[3]
HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 1 << 28, 1 << 40, (1 << 63) - 1, (1 << 64) - 1, 0)


@pytest.mark.parametrize("form", ["torch", "safetensors", "keras"])
def test_mutated_files(form, tmp_path):
    if form == "keras":
        pytest.importorskip("h5py", reason="needs the package h5py: pip install 'sparsegate[keras]'")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "sw"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", __file__, form, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, f"status {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["files"] == COUNT
    assert result["imported"] + result["refused"] == COUNT
    # the mutations are worth something only if they reach beyond the first check
    assert result["sentences"] >= 15, result
    assert result["imported"] >= 5, result
    assert result["grown"] < MEMORY, result


# --- mutations, in the other process ------------------------------------------------------------------------------------


def garbled(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, repeat, or write a large number somewhere."""
    changed = bytearray(data)
    kind = rng.integers(6)
    at = int(rng.integers(len(changed)))
    if kind <= 1:
        for _ in range(int(rng.integers(1, 9))):
            changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + int(rng.integers(1, 64))]
    elif kind == 4:
        changed[at:at] = changed[at : at + int(rng.integers(1, 64))]
    else:
        number = struct.pack("<Q", HUGE[int(rng.integers(len(HUGE)))])[: int(rng.choice([1, 2, 4, 8]))]
        changed[at : at + len(number)] = number
    return bytes(changed)


def repacked(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """An archive with changed members and checksums that are right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.namelist():
            target.writestr(member, change(member, source.read(member)))
    return made.getvalue()


def torch_files(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    import torch
    from torch import nn

    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4, bidirectional=True), "fc": nn.Linear(8, 2)})
    checkpoint = {"model": model.state_dict(), "step": 3, "loss": np.float64(1)}
    whole = {}
    for zipped in (True, False):
        made = io.BytesIO()
        torch.save(checkpoint, made, _use_new_zipfile_serialization=zipped)
        whole[zipped] = made.getvalue()
    while True:
        yield "m.pt", garbled(whole[True], rng)
        yield "m.pt", garbled(whole[False], rng)
        yield (
            "m.pt",
            repacked(whole[True], lambda name, data: garbled(data, rng) if name.endswith("data.pkl") else data),
        )
        yield "m.pt", repacked(whole[True], lambda name, data: garbled(data, rng) if "/data/" in name else data)


def safetensors_files(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    import safetensors.numpy

    from sparsegate.network import synthetic
    from sparsegate.network.synthetic import Shape

    shapes = {
        "lstm.weight_ih_l0": (16, 3),
        "lstm.weight_hh_l0": (16, 4),
        "lstm.bias_ih_l0": (16,),
        "lstm.bias_hh_l0": (16,),
        "fc.weight": (2, 4),
        "fc.bias": (2,),
    }
    state = safetensors.numpy.save({name: np.zeros(shape, "f4") for name, shape in sorted(shapes.items())})
    made = io.BytesIO()
    with contextlib.suppress(OSError):
        path = Path(sys.argv[2]) / "network.safetensors"
        synthetic.network(3, [Shape("lstm", 4), Shape("linear", 2)], seed=1).save(path)
        made.write(path.read_bytes())
    native = made.getvalue()

    def header(data: bytes) -> bytes:
        """Another number somewhere in the header, whose length is right."""
        length = int.from_bytes(data[:8], "little")
        text = json.loads(data[8 : 8 + length])
        entry = text[str(rng.choice([name for name in text if name != "__metadata__"]))]
        key = str(rng.choice(["shape", "data_offsets", "dtype"]))
        if key == "dtype":
            entry[key] = str(rng.choice(["F64", "BF16", "F8_E4M3", "I32", "BOOL", "X"]))
        else:
            entry[key][int(rng.integers(len(entry[key])))] = int(rng.choice([0, 1, 7, -1, 1 << 30, 1 << 62]))
        packed = json.dumps(text).encode()
        return len(packed).to_bytes(8, "little") + packed + data[8 + length :]

    while True:
        yield "m.safetensors", garbled(state, rng)
        yield "network.safetensors", garbled(native, rng)
        yield "m.safetensors", header(state)
        yield "network.safetensors", header(native)


def keras_files(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    import h5py

    def layers() -> list:
        lstm = {
            "class_name": "LSTM",
            "config": {"name": "lstm", "units": 4, "return_sequences": True, "activation": "tanh"},
        }
        return [lstm, {"class_name": "Dense", "config": {"name": "dense", "units": 2, "activation": "relu"}}]

    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers()}}
    shapes = {"lstm": ((3, 16), (4, 16), (16,)), "dense": ((4, 2), (2,))}
    names = ("kernel", "recurrent_kernel", "bias")

    def whole(change: Callable | None = None) -> bytes:
        made = io.BytesIO()
        with h5py.File(made, "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            top = file.create_group("model_weights")
            top.attrs["layer_names"] = [name.encode() for name in shapes]
            for name, tensors in shapes.items():
                keys = names if name == "lstm" else ("kernel", "bias")
                top.create_group(name).attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in keys]
                for key, shape in zip(keys, tensors, strict=True):
                    top[name].create_dataset(
                        f"{name}/{key}:0", data=np.zeros(shape, "f4"), compression=rng.choice([None, "gzip"])
                    )
            if change is not None:
                change(file)
        return made.getvalue()

    def weights() -> bytes:
        made = io.BytesIO()
        with h5py.File(made, "w") as file:
            for name, tensors in shapes.items():
                for number, shape in enumerate(tensors):
                    inner = "cell/vars" if name == "lstm" else "vars"
                    file[f"layers/{name}/{inner}/{number}"] = np.zeros(shape, "f4")
        return made.getvalue()

    def archive(text: bytes, data: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as target:
            target.writestr("metadata.json", "{}")
            target.writestr("config.json", text)
            target.writestr("model.weights.h5", data)
        return made.getvalue()

    def tampered(file) -> None:
        """A dataset of another shape, a link, or data that lie elsewhere."""
        key = str(rng.choice([f"lstm/lstm/{name}:0" for name in names]))
        top, kind = file["model_weights"], rng.integers(4)
        del top[key]
        if kind == 0:
            top[key] = h5py.ExternalLink("/etc/hostname", "/")
        elif kind == 1:
            top[key] = h5py.SoftLink("/model_weights")
        elif kind == 2:
            shape = tuple(int(n) for n in rng.choice([1, 3, 4, 16, 1 << 20, 1 << 33], int(rng.integers(0, 4))))
            top.create_dataset(
                key, shape=shape, dtype=str(rng.choice(["f4", "f8", "i4"])), chunks=(1,) * len(shape) or None
            )
        else:
            top.create_dataset(key, shape=(3, 16), dtype="f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])

    plain, text, stored = whole(), json.dumps(config).encode(), weights()
    while True:
        yield "m.h5", garbled(plain, rng)
        yield "m.h5", whole(tampered)
        yield "m.keras", archive(text, garbled(stored, rng))
        yield "m.keras", archive(garbled(text, rng), stored)
        yield "m.keras", garbled(archive(text, stored), rng)
        yield "m.weights.h5", garbled(stored, rng)


def sentence(error: Exception, path: Path) -> str:
    """The beginning of a message, without what differs from file to file."""
    text = str(error).partition(path.name)[2] or str(error)
    return "".join(letter for letter in text if not letter.isdigit())[:60]


def main(form: str, folder: Path) -> None:
    from sparsegate import importers
    from sparsegate.errors import SparseGateError

    names = {"torch": ["lstm", "fc"], "safetensors": ["lstm", "fc"], "keras": ["lstm", "dense"]}[form]
    files = {"torch": torch_files, "safetensors": safetensors_files, "keras": keras_files}[form](
        np.random.default_rng(1)
    )
    watched = False

    def audit(event: str, arguments: tuple) -> None:
        if watched and event == "open" and isinstance(arguments[0], str):
            path = os.path.realpath(arguments[0])
            if not path.startswith(
                (str(folder.resolve()), *map(os.path.realpath, sys.path[1:]), sys.prefix, sys.base_prefix)
            ):
                print(f"opened {path}", flush=True)
                os._exit(3)

    sys.addaudithook(audit)
    sentences: set[str] = set()
    imported = refused = 0
    for number in range(COUNT):
        name, data = next(files)
        path = folder / f"{number}-{name}"
        path.write_bytes(data)
        if number == 20:  # everything is loaded
            start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watched = True
        try:
            importers.describe(path)
            for layers in (None, names):
                try:
                    importers.load(path, layers)
                except SparseGateError as error:
                    sentences.add(sentence(error, path))
            network = importers.load(path, None if form == "keras" or name == "network.safetensors" else names)
            network.evaluate(np.zeros((1, 2, network.inputs)))
            imported += 1
        except SparseGateError as error:
            if "\n" in str(error):
                raise RuntimeError(f"{path.name}: more than a sentence") from error
            sentences.add(sentence(error, path))
            refused += 1
        except BaseException:
            print(f"{path} was neither imported nor refused", flush=True)
            raise
        finally:
            watched = False
        path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    print(
        json.dumps(
            {"files": COUNT, "imported": imported, "refused": refused, "sentences": len(sentences), "grown": grown}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
