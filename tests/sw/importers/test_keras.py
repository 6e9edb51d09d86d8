"""Import of Keras models: files that Keras 3 made, and those of Keras 2 as it laid them out, against Keras and NumPy."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sparsegate import importers, load
from sparsegate.errors import SparseGateError
from sparsegate.importers.chain import one_hot

h5py = pytest.importorskip("h5py", reason="needs the package h5py: pip install 'sparsegate[keras]'")

# --- files of Keras 3, which runs in a process of its own ---------------------------------------------------------------

MAKE = """
import sys
from pathlib import Path
import numpy as np
import keras
from keras import layers as L

keras.utils.set_random_seed(0)
folder = Path(sys.argv[1])


def grow(model):
    # the biases are zero at birth, which would hide their order
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape).astype("float32") * 0.5 for w in model.get_weights()])
    return model


def sequential(*layers):
    return grow(keras.Sequential([L.Input((None, 3)), *layers]))


def functional():
    value = start = L.Input((None, 3), name="features")
    value = L.GRU(4, return_sequences=True, name="down")(value)
    value = L.Dropout(0.5)(value)
    value = L.Bidirectional(L.SimpleRNN(3, activation="relu"), name="both")(value)
    return grow(keras.Model(start, L.Dense(2, name="out")(value)))


def embedded():
    model = keras.Sequential([L.Input((None,), dtype="int32"), L.Embedding(7, 3, mask_zero=True), L.LSTM(4), L.Dense(2)])
    return grow(model)


MODELS = {
    "lstm": lambda: sequential(L.LSTM(4), L.Dense(2)),
    "lstm_steps": lambda: sequential(L.Masking(), L.LSTM(4, return_sequences=True, use_bias=False), L.TimeDistributed(L.Dense(2))),
    "gru_after": lambda: sequential(L.GRU(4), L.Dense(2, activation="sigmoid")),
    "gru_before": lambda: sequential(L.GRU(4, reset_after=False), L.Dense(2, activation="tanh")),
    "gru_no_bias": lambda: sequential(L.GRU(4, reset_after=False, use_bias=False), L.Dense(2, use_bias=False)),
    "rnn": lambda: sequential(L.SimpleRNN(4, return_sequences=True), L.SimpleRNN(3, activation="relu"), L.Dense(2)),
    "both": lambda: sequential(L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Bidirectional(L.GRU(3)), L.Dense(2)),
    "both_steps": lambda: sequential(L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Dense(2)),
    "backwards": lambda: sequential(L.LSTM(4, go_backwards=True), L.Dense(2)),
    "backwards_twice": lambda: sequential(
        L.LSTM(4, go_backwards=True, return_sequences=True), L.GRU(3, go_backwards=True, return_sequences=True), L.Dense(2)
    ),
    "backwards_then_on": lambda: sequential(L.LSTM(4, go_backwards=True, return_sequences=True), L.LSTM(3), L.Dense(2)),
    "head": lambda: sequential(L.LSTM(4), L.Dense(5, "relu"), L.Dropout(0.2), L.Dense(3), L.Activation("tanh"), L.Dense(2)),
    "logits": lambda: sequential(L.LSTM(4), L.Dense(2, activation="softmax")),
    "functional": functional,
    "embedded": embedded,
    "relu_cell": lambda: sequential(L.LSTM(4, activation="relu")),
    "hard": lambda: sequential(L.LSTM(4, recurrent_activation="hard_sigmoid")),
    "summed": lambda: sequential(L.Bidirectional(L.LSTM(4), merge_mode="sum")),
    "normal": lambda: sequential(L.LSTM(4), L.BatchNormalization()),
    "reversed": lambda: sequential(L.LSTM(4, go_backwards=True, return_sequences=True), L.Dense(2)),
    "both_alone": lambda: sequential(L.Bidirectional(L.LSTM(4))),
    "backwards_alone": lambda: sequential(L.GRU(4, go_backwards=True)),
    "alone": lambda: sequential(L.LSTM(4)),
    "two_heads": lambda: sequential(L.Bidirectional(L.LSTM(4)), L.Dense(3), L.Dense(2)),
    "branched": lambda: (
        start := L.Input((None, 3)),
        first := L.LSTM(4, name="first", return_sequences=True)(start),
        second := L.LSTM(4, name="second", return_sequences=True)(start),
        keras.Model(start, L.Dense(2, name="out")(L.Add(name="sum")([first, second]))),
    )[-1],
    "skipped": lambda: (
        start := L.Input((None, 3)),
        first := L.LSTM(3, name="first", return_sequences=True)(start),
        second := L.LSTM(3, name="second", return_sequences=True)(start),
        keras.Model(start, [first, second]),
    )[-1],
}
rng = np.random.default_rng(2)
x, tokens = rng.normal(size=(3, 6, 3)).astype("float32"), rng.integers(1, 7, (3, 6))
answers = {"x": x, "tokens": tokens}
for name, make in MODELS.items():
    model = make()
    for suffix in (".keras", ".h5", ".weights.h5"):
        (model.save_weights if suffix == ".weights.h5" else model.save)(folder / f"{name}{suffix}")
    if len(model.outputs) == 1:
        answers[name] = model.predict(tokens if name == "embedded" else x, verbose=0)
np.savez(folder / "answers.npz", **answers)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of models, and what Keras computes of them."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs the package keras, which only makes the test files: pip install keras")
    folder = tmp_path_factory.mktemp("keras")
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": "", "KERAS_HOME": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return folder


EXACT = [
    "lstm", "lstm_steps", "gru_after", "gru_before", "gru_no_bias", "rnn", "both", "both_steps", "backwards", "backwards_twice",
    "backwards_then_on", "head", "functional", "two_heads", "alone",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", EXACT)
def test_models_compute_what_keras_does(made, name, suffix):
    answers = np.load(made / "answers.npz")
    network = load(made / f"{name}{suffix}")
    assert network.name == name
    found = network.evaluate(answers["x"])
    expected = answers[name]
    np.testing.assert_allclose(found.outputs if expected.ndim == 3 else found.last, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_embedding_takes_one_hot_tokens(made, suffix):
    answers = np.load(made / "answers.npz")
    network = load(made / f"embedded{suffix}")
    assert (network.inputs, [layer.kind for layer in network.layers]) == (7, ["lstm", "linear"])
    found = network.evaluate(one_hot(answers["tokens"], 7)).last
    np.testing.assert_allclose(found, answers["embedded"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_softmax_is_left_to_the_user(made, suffix):
    answers = np.load(made / "answers.npz")
    path = made / f"logits{suffix}"
    with pytest.raises(
        SparseGateError, match="layer 'dense.*': activation is 'softmax', which the engine does not have"
    ):
        load(path)
    rnn, dense = (part.name for part in importers.describe(path))
    logits = np.exp(load(path, layers=[rnn, f"{dense}:linear"]).evaluate(answers["x"]).last)
    np.testing.assert_allclose(logits / logits.sum(axis=1, keepdims=True), answers["logits"], rtol=0, atol=1e-6)


REFUSED = {
    "relu_cell": r"\(LSTM\) cannot be imported: activation is 'relu', expected 'tanh'",
    "hard": r"\(LSTM\) cannot be imported: recurrent_activation is 'hard_sigmoid', expected 'sigmoid'",
    "summed": r"\(Bidirectional LSTM\) cannot be imported: merge_mode is 'sum', expected 'concat'",
    "normal": r"\(BatchNormalization\) cannot be imported: BatchNormalization is not supported",
    "reversed": r"the outputs would be in reverse order of time \(go_backwards is True\)",
    "both_alone": "layer 'bidirectional.*': the output is the final value of a reversed layer, which needs a linear head; with",
    "backwards_alone": "layer 'gru.*': the output is the final value of a reversed layer, which needs a linear head; with",
    "branched": r"layer 'sum' \(Add\) cannot be imported: it takes first and second, expected one layer",
    "skipped": "layer 'second' takes the input, not 'first' before it: only layers in a row",
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name_and_value(made, name, suffix):
    with pytest.raises(SparseGateError, match=REFUSED[name]):
        load(made / f"{name}{suffix}")


def test_when_needs_a_head(made):
    """At every step there is nothing to choose; the final values are then the states."""
    answers = np.load(made / "answers.npz")
    network = load(made / "both_alone.keras", when="step")
    state = network.evaluate(answers["x"]).state
    final = np.concatenate([state[layer.name]["h"] for layer in network.layers], axis=1)
    np.testing.assert_allclose(final, answers["both_alone"], rtol=0, atol=1e-6)
    for name, when in (("alone", "last"), ("both_alone", "final")):
        with pytest.raises(SparseGateError, match=r"when is for a linear head; the last layer is '.*' \(.*LSTM\)"):
            load(made / f"{name}.keras", when=when)


@pytest.mark.parametrize(
    ("name", "words", "when"),
    [
        ("lstm", [":", ":linear"], "last"),
        ("gru_after", ["", ":sigmoid"], "last"),
        ("gru_before", ["", ":tanh"], "last"),
        ("gru_no_bias", [":reset_before", ""], "last"),
        ("rnn", [":tanh", ":relu", ""], "last"),
        ("both", ["", "", ""], "final"),
        ("functional", ["", ":relu", ""], "final"),
    ],
)
def test_weights_alone_are_taken_by_name(made, name, words, when):
    answers, path = np.load(made / "answers.npz"), made / f"{name}.weights.h5"
    names = [part.name for part in importers.describe(made / f"{name}.keras")]
    assert sorted(names) == sorted(part.name for part in importers.describe(path))
    layers = [name + (word if word != ":" else "") for name, word in zip(names, words, strict=True)]
    network = load(path, layers=layers, when=when)
    np.testing.assert_allclose(network.evaluate(answers["x"]).last, answers[name], rtol=0, atol=1e-6)
    with pytest.raises(SparseGateError, match=r"not in a file of weights; name the layers to import"):
        load(path)


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
def test_weights_without_names(made, tmp_path, root):
    """Earlier Keras 3, and 2.13 with the new format, wrote no names of layers: they are counted by class."""

    def older(source: Path) -> bytes:
        file = io.BytesIO(source.read_bytes())
        with h5py.File(file, "r+") as opened:
            groups = []
            opened.visititems(lambda _, found: groups.append(found))
            for group in groups:
                group.attrs.pop("name", None)
            if root != "layers":
                opened.move("layers", root)
        return file.getvalue()

    answers, path = np.load(made / "answers.npz"), tmp_path / "m.weights.h5"
    path.write_bytes(older(made / "both.weights.h5"))
    network = load(path, ["bidirectional", "bidirectional_1", "dense"], when="final")
    np.testing.assert_allclose(network.evaluate(answers["x"]).last, answers["both"], rtol=0, atol=1e-6)
    with zipfile.ZipFile(made / "both.keras") as source, zipfile.ZipFile(tmp_path / "m.keras", "w") as target:
        target.writestr("config.json", source.read("config.json"))
        target.writestr("model.weights.h5", path.read_bytes())
    found = load(tmp_path / "m.keras").evaluate(answers["x"]).last
    np.testing.assert_allclose(found, answers["both"], rtol=0, atol=1e-6)


def test_weights_of_another_model(made, tmp_path):
    with zipfile.ZipFile(made / "both.keras") as source, zipfile.ZipFile(tmp_path / "m.keras", "w") as target:
        target.writestr("config.json", source.read("config.json"))
        target.write(made / "both_steps.weights.h5", "model.weights.h5")
    with pytest.raises(SparseGateError, match="the weights of layer 'bidirectional' are those of 'bidirectional_"):
        load(tmp_path / "m.keras")


def test_what_weights_alone_do_not_say(made):
    for name, question in (("rnn", ":tanh' or '.*:relu'"), ("gru_no_bias", ":reset_after' or '.*:reset_before'")):
        path = made / f"{name}.weights.h5"
        with pytest.raises(SparseGateError, match=question):
            load(path, layers=[part.name for part in importers.describe(made / f"{name}.keras")])


def test_neither_keras_nor_torch_is_imported(made):
    code = (
        f"import sys, sparsegate; sparsegate.load({str(made / 'both.keras')!r}); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "sw")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "h5py" in run.stdout.split()
    assert not {"torch", "keras", "tensorflow"} & set(run.stdout.split())


# --- files of Keras 2, as it laid them out ------------------------------------------------------------------------------


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def lstm(x, kernel, recurrent, bias):
    """Keras' LSTM, written down again: gates i, f, c, o."""
    h = c = np.zeros((len(x), len(recurrent)))
    steps = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps, axis=1)


def gru(x, kernel, recurrent, bias_x, bias_h):
    """Keras' GRU with reset after the product, written down again: gates z, r, h."""
    h = np.zeros((len(x), len(recurrent)))
    steps = []
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ kernel + bias_x, 3, axis=1)
        hz, hr, hh = np.split(h @ recurrent + bias_h, 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xh + r * hh)
        steps.append(h)
    return np.stack(steps, axis=1)


def cudnn_kernel(kernel, gates):
    """The opposite conversion: cuDNN holds, for each gate, a (units, inputs) matrix in C order, written as (inputs, units)."""
    parts = []
    for part in np.split(kernel, gates, axis=1):
        flat = [value for column in part.T for value in column]  # (units, inputs) in C order
        parts.append(np.array(flat).reshape(part.shape, order="C"))
    return np.concatenate(parts, axis=1)


def keras2(path: Path, weights: dict[str, dict[str, np.ndarray]], config: list | None, nested: bool = True) -> Path:
    """A file as Keras 2 wrote it: an attribute for the names of layers, one for each layer's weights."""
    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if config is not None else file
        top.attrs["layer_names"] = np.array([name.encode() for name in weights])
        top.attrs["keras_version"] = b"2.2.4"
        for name, tensors in weights.items():
            group = top.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{key}:0".encode() for key in tensors])
            for key, value in tensors.items():
                group.create_dataset(f"{name}/{key}:0", data=value.astype("float32"))
        if config is not None:
            layers = [{"class_name": kind, "config": options} for kind, options in config]
            inner = {"name": "sequential_1", "layers": layers} if nested else layers
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": inner}).encode()
    return path


RNG = np.random.default_rng(8)
X = RNG.normal(size=(3, 5, 3))
LSTM2 = {"kernel": RNG.normal(size=(3, 16)), "recurrent_kernel": RNG.normal(size=(4, 16)), "bias": RNG.normal(size=16)}
GRU2 = {
    "kernel": RNG.normal(size=(3, 12)),
    "recurrent_kernel": RNG.normal(size=(4, 12)),
    "bias": RNG.normal(size=(2, 12)),
}
DENSE2 = {"kernel": RNG.normal(size=(4, 2)), "bias": RNG.normal(size=2)}
CUDNN_LSTM = {
    "kernel": cudnn_kernel(LSTM2["kernel"], 4),
    "recurrent_kernel": np.concatenate([part.T for part in np.split(LSTM2["recurrent_kernel"], 4, axis=1)], axis=1),
    "bias": np.concatenate([LSTM2["bias"] - 0.25, np.full(16, 0.25)]),
}
CUDNN_GRU = {
    "kernel": cudnn_kernel(GRU2["kernel"], 3),
    "recurrent_kernel": np.concatenate([part.T for part in np.split(GRU2["recurrent_kernel"], 3, axis=1)], axis=1),
    "bias": GRU2["bias"].reshape(-1),
}


def expected(cell: str) -> np.ndarray:
    values = {"lstm": LSTM2, "gru": GRU2}[cell]
    steps = (
        lstm(X, *values.values())
        if cell == "lstm"
        else gru(X, values["kernel"], values["recurrent_kernel"], *values["bias"])
    )
    return steps @ DENSE2["kernel"] + DENSE2["bias"]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("kind", "cell", "weights", "options"),
    [
        ("LSTM", "lstm", LSTM2, {"activation": "tanh", "recurrent_activation": "sigmoid"}),
        ("CuDNNLSTM", "lstm", CUDNN_LSTM, {}),
        ("LSTM", "lstm", CUDNN_LSTM, {"activation": "tanh", "recurrent_activation": "sigmoid"}),
        ("GRU", "gru", GRU2, {"reset_after": True, "recurrent_activation": "sigmoid"}),
        ("CuDNNGRU", "gru", CUDNN_GRU, {}),
    ],
)
def test_models_of_keras_2(tmp_path, kind, cell, weights, options, nested):
    config = [
        (kind, {"name": "rnn_1", "units": 4, "return_sequences": True} | options),
        ("Dense", {"name": "dense_1", "units": 2, "activation": "linear", "use_bias": True}),
    ]
    path = keras2(tmp_path / "m.h5", {"rnn_1": weights, "dense_1": DENSE2}, config, nested)
    found = load(path).evaluate(X).outputs
    np.testing.assert_allclose(found, expected(cell), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "weights"), [("lstm", LSTM2), ("lstm", CUDNN_LSTM), ("gru", GRU2), ("gru", CUDNN_GRU)]
)
def test_weights_of_keras_2(tmp_path, cell, weights):
    path = keras2(tmp_path / "m.h5", {"rnn_1": weights, "drop": {}, "dense_1": DENSE2}, None)
    assert [part.name for part in importers.describe(path)] == ["rnn_1", "dense_1"]
    np.testing.assert_allclose(load(path, ["rnn_1", "dense_1"]).evaluate(X).outputs, expected(cell), rtol=0, atol=1e-6)


def test_long_lists_of_names(tmp_path):
    """Keras cuts an attribute that HDF5 would not hold into numbered ones."""
    path = keras2(tmp_path / "m.h5", {"rnn_1": LSTM2, "dense_1": DENSE2}, None)
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"rnn_1"], [b"dense_1"]
    np.testing.assert_allclose(
        load(path, ["rnn_1", "dense_1"]).evaluate(X).outputs, expected("lstm"), rtol=0, atol=1e-6
    )


def test_the_activation_of_old_lstms(tmp_path):
    """Before 2.3 a plain LSTM had hard_sigmoid gates, and its file says so."""
    config = [("LSTM", {"name": "rnn_1", "recurrent_activation": "hard_sigmoid"})]
    with pytest.raises(SparseGateError, match="recurrent_activation is 'hard_sigmoid', expected 'sigmoid'"):
        load(keras2(tmp_path / "m.h5", {"rnn_1": LSTM2}, config))


def test_names_are_printable(tmp_path):
    name = "a\n\x1b[2J"
    config = [("LSTM", {"name": name, "return_sequences": True}), ("Dense", {"name": "out"})]
    path = keras2(tmp_path / "m.h5", {name: LSTM2, "out": DENSE2}, config)
    assert [layer.name for layer in load(path).layers] == [r"a\n\x1b[2J", "out"]
    plain = keras2(tmp_path / "w.h5", {name: LSTM2, "out": DENSE2}, None)
    for part in importers.describe(plain):
        assert part.name.isprintable()
    assert load(plain, [r"a\n\x1b[2J", "out"]).outputs == 2
    with pytest.raises(SparseGateError) as caught:
        load(keras2(tmp_path / "e.h5", {}, [("Evil\x1b[2J", {"name": name})]))
    assert str(caught.value).isprintable()


# --- what files may not do ----------------------------------------------------------------------------------------------


def damaged(path: Path, change) -> Path:
    keras2(path, {"rnn_1": LSTM2, "dense_1": DENSE2}, None)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


KERNEL = "rnn_1/rnn_1/kernel:0"


def outside(file):
    """Data of a dataset in another file."""
    del file[KERNEL]
    file.create_dataset(KERNEL, shape=(3, 16), dtype="f4", external=[("/etc/hostname", 0, 192)])


def virtual(file):
    layout = h5py.VirtualLayout((3, 16), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3, 16))
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def huge(file):
    """Chunks that were never written take no room in the file."""
    del file[KERNEL]
    file.create_dataset(KERNEL, shape=(1 << 20, 16), dtype="f4", chunks=(1024, 16))


def colossal(file):
    for key, shape in (("kernel", (1 << 30, 16)),):
        del file[f"rnn_1/rnn_1/{key}:0"]
        file.create_dataset(f"rnn_1/rnn_1/{key}:0", shape=shape, dtype="f4", chunks=(1024, 16))


def link(target):
    def change(file):
        del file[KERNEL]
        file[KERNEL] = target

    return change


def text(file):
    del file[KERNEL]
    file[KERNEL] = np.zeros((3, 16), "i4")


def lost(file):
    del file[KERNEL]


def packed(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, data=np.zeros((3, 16), "f4"), chunks=(3, 16), scaleoffset=3)


def rings(file):
    file["rnn_1/rnn_1/again"] = file["rnn_1"]


CHANGES = [
    (outside, "takes its data from other files, expected the data itself"),
    (virtual, "takes its data from other files, expected the data itself"),
    (huge, r"has shape \(1048576, 16\), but the file holds fewer values"),
    (colossal, "the layers to import hold 1717986"),
    (link(h5py.ExternalLink("/etc/hostname", "/")), "is a link to '/etc/hostname /', expected the data itself"),
    (link(h5py.SoftLink("/dense_1")), "is a link to '/dense_1', expected the data itself"),
    (text, "kernel is of type int32, expected floating point"),
    (lost, "layer 'rnn_1': rnn_1/kernel:0 is missing"),
    (packed, "is packed by filter"),
    (rings, "its groups are nested more than 16 deep"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda value: getattr(value, "__name__", None))
def test_nothing_but_the_file_itself_is_read(tmp_path, change, message):
    with pytest.raises(SparseGateError, match=message):
        load(damaged(tmp_path / "m.h5", change), ["rnn_1", "dense_1"])


def test_archives_that_unpack_to_too_much(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\0" * (1 << 25))
    with pytest.raises(SparseGateError, match="model.weights.h5 in it unpacks to 33554432 bytes, too many"):
        load(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "its configuration is no valid JSON"),
        ("[" * 100_000, "its configuration is no valid JSON"),
        ("{}", r"it is damaged \(KeyError: 'class_name'\)"),
        ('{"class_name": "Mine", "config": {}}', "it is a model of class 'Mine', expected Sequential or Functional"),
        ('{"class_name": "Sequential", "config": {"layers": [3]}}', "it is damaged"),
        ('{"class_name": "Sequential", "config": {"layers": []}}', "the model has no layers with weights"),
        (
            '{"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {"name": "a"}}]}}',
            r"layer 'a' \(LSTM\) cannot be imported: its weights are missing",
        ),
    ],
)
def test_configurations_that_make_no_sense(tmp_path, config, message):
    path = tmp_path / "m.keras"
    keras2(tmp_path / "w.h5", {}, None)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with pytest.raises(SparseGateError, match=message):
        load(path)


def test_without_h5py(tmp_path, monkeypatch):
    path = keras2(tmp_path / "m.h5", {"rnn_1": LSTM2}, None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SparseGateError, match=r"need the package h5py: pip install 'sparsegate\[keras\]'"):
        load(path)
