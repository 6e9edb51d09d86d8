"""Damaged and hostile ONNX files: imported or refused in a sentence; nothing outside the folder is read, memory is bounded."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.sw.importers.onnx.models import Cell, Graph, recurrent, stack

from sparsegate.errors import SparseGateError
from sparsegate.importers.onnx import describe, from_onnx

ROOT = Path(__file__).resolve().parents[4]
LIMIT = 1 << 30
"""Bytes of memory that reading any of the files may take, which have less than 20 kB, beside what the interpreter takes anyway."""


def bases() -> list[onnx.ModelProto]:
    """Small models that between them have every input, glue operator and way to store a tensor."""
    rng = np.random.default_rng(0)
    first = stack(rng, Cell(peepholes=True), "bidirectional", 2, lengths=True, initial="input", head=True)
    second = stack(
        rng, Cell("GRU", (("linear_before_reset", 1),)), "reverse", 2, steps=5, batch=2, initial="constant", head=True
    )
    graph = Graph(rng)
    x = graph.input("x", ["N", "T", 3])
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    shape = graph.node("Shape", [x], "shape")
    batch = graph.node("Gather", [shape, graph.ints("one", 1)], "batch", axis=0)
    size = graph.node("Concat", [graph.ints("d", 1), batch, graph.ints("u", 4)], "size", axis=0)
    zero = graph.node("Expand", [graph.weight("z", np.zeros((1, 1, 1))), size], "zero")
    back = graph.node("Slice", [x, *(graph.ints(f"s{k}", v) for k, v in enumerate((-1, -(1 << 62), 0, -1)))], "back")
    y, *_ = recurrent(graph, Cell(), "ahead", x, (3, 4), h=zero, c=zero)
    z, *_ = recurrent(graph, Cell(), "behind", back, (3, 4), h=zero, c=zero)
    parts = [graph.node("Squeeze", [v, graph.ints(f"a{v}", 1)], f"flat_{v}") for v in (y, z)]
    parts[1] = graph.node("Slice", [parts[1], *(f"s{k}" for k in range(4))], "again")
    y = graph.node("Concat", parts, "both", axis=2)
    y = graph.node("Gather", [y, graph.weight("minus_one", np.array(-1))], "last", axis=0)
    y = graph.node("Gemm", [y, graph.draw("W", 5, 8), graph.draw("B", 5)], "head", transB=1)
    graph.output(graph.node("Relu", [y], "y"))
    third = graph.model(18)
    for tensor in third.graph.initializer:  # values as numbers instead of bytes
        tensor.CopyFrom(
            helper.make_tensor(
                tensor.name, tensor.data_type, tensor.dims, numpy_helper.to_array(tensor).ravel().tolist()
            )
        )
    return [first, second, third]


HUGE = (0, -1, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63), 65536, 7)


def flipped(rng: random.Random, content: bytes) -> bytes:
    """A few bits, of the structure more often than of the weights."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, content: bytes) -> bytes:
    """Truncated, or with a piece taken out or doubled."""
    a, b = sorted(rng.randrange(len(content)) for _ in range(2))
    return rng.choice((content[:a], content[:a] + content[b:], content[:b] + content[a:], content[a:]))


def reshaped(rng: random.Random, content: bytes) -> bytes:
    """Dimensions that are wrong or huge: of weights, of inputs, of constants that shapes are made of."""
    model = onnx.ModelProto.FromString(content)
    what = rng.randrange(4)
    tensor = rng.choice(model.graph.initializer)
    if what == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(HUGE)
    elif what == 1:
        tensor.dims.extend(rng.choice(HUGE) for _ in range(rng.choice((1, 1, 2, 9))))
    elif what == 2:
        entry = rng.choice(model.graph.input)
        rng.choice(entry.type.tensor_type.shape.dim).dim_value = rng.choice(HUGE)
    else:
        small = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64]
        if small:
            tensor = rng.choice(small)
            values = numpy_helper.to_array(tensor).copy()
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(HUGE)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


def rewired(rng: random.Random, content: bytes) -> bytes:
    """Nodes with other inputs, operators and attributes; tensors of other types."""
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    for _ in range(rng.choice((1, 1, 3))):
        node = rng.choice(graph.node)
        what = rng.randrange(8)
        if what == 0 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        elif what == 1:
            node.op_type = rng.choice(
                [*{other.op_type for other in graph.node}, "Identity", "Tile", "Split", "If", "Div", ""]
            )
        elif what == 2 and node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.i, attribute.type = rng.choice(HUGE), rng.choice((attribute.type, 2, 0))
        elif what == 3:
            node.attribute.append(
                helper.make_attribute(rng.choice(("axis", "axes", "perm", "layout", "clip")), rng.choice(HUGE))
            )
        elif what == 4:
            del node.input[rng.randrange(len(node.input) + 1) :]
        elif what == 5:
            rng.choice(graph.initializer).data_type = rng.randrange(24)
        elif what == 6:
            node.output.append(rng.choice(names))
        else:
            graph.node.append(graph.node[0])
            del graph.node[0]
    return model.SerializeToString()


SOMEWHERE = (
    "../../etc/passwd",
    "../secret.bin",
    "/etc/passwd",
    "{outside}/secret.bin",
    "inside/../../secret.bin",
    "link.bin",
    "loop.bin",
    "linked/secret.bin",
    "inside",
    "",
    ".",
    "..",
    "a\0b",
    "pipe",
    "x" * 5000,
    "weights.bin",
    "file:///etc/passwd",
    "inside/weights.bin",
)


def external(rng: random.Random, content: bytes, outside: str) -> bytes:
    """Weights that claim to lie in another file, inside or outside of the folder, at places that exist or do not."""
    model = onnx.ModelProto.FromString(content)
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": rng.choice(SOMEWHERE).format(outside=outside)}
    if rng.random() < 0.7:
        entries["offset"] = str(rng.choice((0, 4, -1, 1 << 62, "nine", "", 4096)))
    if rng.random() < 0.7:
        entries["length"] = str(rng.choice((0, 4, -1, 1 << 62, "nine", "16")))
    if rng.random() < 0.3:
        tensor.dims[:] = [rng.choice(HUGE)]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def mutants(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Over 700 files, always the same."""
    rng = random.Random(1)
    outside = str(folder.parent)
    kinds: dict[str, tuple[int, Callable[[random.Random, bytes], bytes]]] = {
        "flipped": (100, flipped),
        "cut": (40, cut),
        "reshaped": (40, reshaped),
        "rewired": (40, rewired),
        "external": (30, lambda rng, content: external(rng, content, outside)),
    }
    for model in bases():
        content = model.SerializeToString()
        for kind, (count, change) in kinds.items():
            for k in range(count):
                yield f"{kind} {k}", change(rng, content)


def child(folder: Path) -> None:
    """Import every mutant in this process, and print what happened."""
    seen: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            seen.append(str(arguments[0]))

    describe_first = bases()[0]
    from_onnx(describe_first)  # everything is imported now, and memory in use that has nothing to do with the files
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    taken, refused, wrong, counts = 0, 0, [], {}
    path = folder / "model.onnx"
    for name, content in mutants(folder):
        path.write_bytes(content)
        watching = True
        try:
            from_onnx(path)
            taken += 1
        except SparseGateError as error:
            refused += 1
            if not str(error).strip() or "\n" in str(error):
                wrong.append(f"{name}: {error!r}")
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")
        try:
            describe(path)
        except SparseGateError:
            pass
        except BaseException as error:
            wrong.append(f"{name}, described: {error!r}")
        watching = False
        counts[name.split()[0]] = counts.get(name.split()[0], 0) + 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    real = folder.resolve()
    left = [name for name in seen if not Path(name).resolve().is_relative_to(real)]
    print(
        json.dumps(
            {"taken": taken, "refused": refused, "wrong": wrong, "left": left, "kB": after - before, "counts": counts}
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with everything in it that could lead out of it."""
    made = tmp_path / "models"
    (made / "inside").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    (made / "weights.bin").write_bytes(bytes(1 << 12))
    (made / "inside" / "weights.bin").write_bytes(bytes(1 << 12))
    (made / "link.bin").symlink_to(tmp_path / "secret.bin")
    (made / "loop.bin").symlink_to(made / "loop.bin")
    (made / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(made / "pipe")
    return made


def test_no_file_crashes_the_importer_or_leads_it_out_of_its_folder(folder: Path) -> None:
    program = (
        f"from pathlib import Path; from tests.sw.importers.onnx.test_fuzz import child; child(Path({str(folder)!r}))"
    )
    made = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    assert made.returncode == 0, made.stderr[-2000:]
    found = json.loads(made.stdout)
    assert found["wrong"] == []
    assert found["left"] == []
    assert sum(found["counts"].values()) == found["taken"] + found["refused"] >= 500
    assert found["refused"] > 300
    assert (
        found["taken"] > 20
    )  # bits of weights were flipped: the mutants are not all too damaged to reach the importer's depths
    assert found["kB"] * 1024 < LIMIT


@pytest.mark.parametrize(
    "location", ["../secret.bin", "link.bin", "linked/secret.bin", "inside/../../secret.bin", "absolute"]
)
def test_external_data_outside_of_the_folder_is_refused_by_name(folder: Path, location: str) -> None:
    """Each of these files exists and is large enough."""
    location = str(folder.parent / "secret.bin") if location == "absolute" else location
    model = stack(np.random.default_rng(0), Cell())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = folder / "model.onnx"
    onnx_bytes = model.SerializeToString()
    path.write_bytes(onnx_bytes)
    with pytest.raises(SparseGateError, match="tensor 'rnn0_W' lies in .*, which is no file in the model's folder"):
        from_onnx(path)
    tensor.external_data[0].value = "inside/weights.bin"
    path.write_bytes(model.SerializeToString())
    assert not from_onnx(path).layers[0].w_x.any()


@pytest.mark.parametrize(
    ("dims", "sentence"),
    [
        ([1 << 20, 1 << 20], "holds 1099511627776 values, more than the"),
        ([1, 16, 4], r"of shape \(1, 16, 4\) needs 256 bytes, but 192 are there"),
        ([1, 1 << 40, 0], r"expected at most 8 axes, each below 2147483648"),
        ([-1, 16, 3], r"has shape \(-1, 16, 3\), expected"),
        ([1 << 27], "needs 536870912 bytes, but 192 are there"),
    ],
)
def test_dimensions_that_disagree_with_the_contents_are_refused(dims: list[int], sentence: str) -> None:
    model = stack(np.random.default_rng(0), Cell())
    model.graph.initializer[0].dims[:] = dims
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SparseGateError, match=sentence if dims[0] != 1 << 20 else "weights, more than"):
        from_onnx(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_graph_that_doubles_its_values_is_refused() -> None:
    """Thirty nodes that would need a terabyte."""
    graph = Graph(np.random.default_rng(0))
    x = graph.input("x", ["T", "N", 3])
    y, *_ = recurrent(graph, Cell(), "lstm", x, (3, 4))
    for k in range(30):
        y = graph.node("Concat", [y, y], f"twice{k}", axis=3)
    graph.output(y)
    with pytest.raises(SparseGateError, match="larger than what is followed|is larger than the"):
        from_onnx(graph.model())
