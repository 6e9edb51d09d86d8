"""Import of PyTorch models: what is supported gives PyTorch's numbers, what is not is refused by name."""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparsegate import importers, load
from sparsegate.errors import SparseGateError
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate.training import masks as prune


class Tagger(nn.Module):
    """A stacked LSTM and a head, as users write them."""

    def __init__(self, depth: int = 2, **options) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=depth, batch_first=True, **options)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(5, 2)
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.fc(self.drop(self.lstm(x)[0]))


@pytest.fixture
def model() -> Tagger:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Tagger().eval()


def same_numbers(network, model) -> None:
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    with torch.no_grad():
        expected = model.double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.evaluate(x).outputs, expected, atol=1e-12)


def test_module(model):
    network = load(model)
    assert [layer.name for layer in network.layers] == ["lstm_l0", "lstm_l1", "fc"]
    same_numbers(network, model)


def test_state_dict_gives_the_same(model):
    same_numbers(load(model.state_dict()), model)
    shuffled = dict(sorted(model.state_dict().items()))  # fc before lstm
    same_numbers(load(shuffled, layers=["lstm", "fc"]), model)


@pytest.mark.parametrize("bias", [True, False])
def test_without_bias(bias):
    lstm = nn.LSTM(3, 5, batch_first=True, bias=bias)
    network = load(lstm)
    assert [layer.name for layer in network.layers] == ["lstm"]
    same_numbers(network, Wrapped(lstm))
    same_numbers(load(lstm.state_dict()), Wrapped(lstm))


class Wrapped(nn.Module):
    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.inner = lstm

    def forward(self, x):
        return self.inner(x)[0]


def test_both_biases_are_summed(model):
    first = load(model).layers[0]
    expected = model.lstm.bias_ih_l0.double() + model.lstm.bias_hh_l0.double()
    assert (first.bias == expected.detach().numpy()).all()


def test_names_choose_and_order(model):
    assert [layer.name for layer in load(model, layers=["lstm"]).layers] == ["lstm_l0", "lstm_l1"]
    with pytest.raises(SparseGateError, match="the model has no layer 'gru'; it has 'lstm', 'fc'"):
        load(model, layers=["gru"])
    with pytest.raises(SparseGateError, match=r"layers is a list of names, like \['lstm'\], not a single string"):
        load(model, layers="lstm")
    with pytest.raises(SparseGateError, match="layer 'lstm_l0' takes 3 inputs, but 'fc' gives 2"):
        load(model, layers=["fc", "lstm"])


def test_an_order_that_does_not_fit_says_what_to_do(model):
    shuffled = dict(sorted(model.state_dict().items()))
    with pytest.raises(
        SparseGateError, match="linear layer 'fc' and 'lstm', which follows it, would not be seen; name the layers"
    ):
        load(shuffled)
    wide = nn.ModuleDict({"lstm": nn.LSTM(3, 5), "fc": nn.Linear(7, 2)})
    with pytest.raises(
        SparseGateError, match="found in this order: lstm, fc; name the layers in the order in which data flows"
    ):
        load(wide)


def test_head_on_the_last_step(model):
    assert [layer.when for layer in load(model, when="last").layers] == ["step", "step", "last"]
    assert load(model, layers=["lstm"], when="step").layers[-1].when == "step"
    for when in ("last", "final"):
        with pytest.raises(SparseGateError, match=r"when is for a linear head; the last layer is 'lstm' \(LSTM\)"):
            load(model, layers=["lstm"], when=when)


def test_nested_names(model):
    outer = nn.ModuleDict({"encoder": model})
    for source in (outer, outer.state_dict()):
        assert [layer.name for layer in load(source).layers] == [
            "encoder.lstm_l0",
            "encoder.lstm_l1",
            "encoder.fc",
        ]


def test_patterns_are_checked(model):
    pruner = prune.attach(model, {"lstm": ("1:5", "2:5")}, prune.Cubic(0, 0))
    with pytest.raises(SparseGateError, match="finish the pruning first"):
        load(model.state_dict())
    pruner.finish()
    first, second, _ = load(model, patterns=pruner.patterns).layers
    assert (first.pattern_x, second.pattern_h) == (NM(1, 5), NM(2, 5))
    with pytest.raises(SparseGateError, match="layer 'lstm_l0': w_h is not 1:5"):
        load(model, patterns={"lstm": "1:5"})
    with pytest.raises(SparseGateError, match="a pattern is given for 'gru', which is not among the imported layers"):
        load(model, patterns={"gru": "1:5"})
    every = load(model, patterns=("1:5", "2:5")).layers
    assert [(str(layer.pattern_x), str(layer.pattern_h)) for layer in every] == [*2 * [("1:5", "2:5")], ("1:1", "1:1")]
    with pytest.raises(SparseGateError, match="the model has no recurrent layer for the pattern"):
        load(nn.Linear(4, 4), patterns="1:4")


def test_a_block_larger_than_the_layer_is_one_short_block(model):
    """N:M says at most N of M: five units in blocks of 64 keep one weight of five, and so through quantization."""
    pruner = prune.attach(model, {"lstm": "1:64"}, prune.Cubic(0, 0))
    pruner.finish()
    network = load(model, patterns=pruner.patterns)
    assert (np.count_nonzero(network.layers[0].w_h.reshape(4, 5, 5), axis=1) == 1).all()
    program = quantize(network, np.random.default_rng(0).normal(size=(2, 4, 3)))
    assert (program.layers[0].block, program.layers[0].matrix_h.entries) == (64, 1)


def test_a_model_under_pruning_is_imported_as_it_computes(model):
    prune.attach(model, "1:5", prune.Cubic(0, 0))
    same_numbers(load(model), model)


@pytest.mark.parametrize("net", [nn.Conv1d(3, 5, 1), nn.BatchNorm1d(3), nn.LayerNorm(3)])
def test_unsupported_weights(net):
    outer = nn.ModuleDict({"fc": nn.Linear(3, 3), "net": net})
    for source in (outer, outer.state_dict()):
        with pytest.raises(SparseGateError, match=r"layer 'net' .* cannot be imported: .*nn\.LSTM, nn\.GRU"):
            load(source)
        assert [layer.name for layer in load(source, layers=["fc"]).layers] == ["fc"]


def test_activations_of_a_sequential_join_the_layer_before():
    torch.manual_seed(0)
    parts = (
        nn.Linear(3, 4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4, 4),
        nn.Dropout(),
        nn.Tanh(),
        nn.Linear(4, 2),
        nn.Sigmoid(),
    )
    model = nn.Sequential(*parts).eval()
    network = load(model)
    assert [(layer.name, layer.kind) for layer in network.layers] == [
        ("0", "linear_relu"),
        ("3", "linear_tanh"),
        ("6", "linear_sigmoid"),
    ]
    same_numbers(network, model)
    with pytest.raises(
        SparseGateError, match=r"layer '0' \(Linear, relu\) cannot be taken as 'linear'; expected 'relu'"
    ):
        load(model, layers=["0:linear"])


def test_activations_elsewhere_are_not_lost_silently():
    """Where they stand is the forward's secret."""
    model = nn.ModuleDict({"fc": nn.Linear(3, 3), "act": nn.ReLU(), "out": nn.Linear(3, 3)})
    with pytest.raises(
        SparseGateError, match=r"layer 'act' \(ReLU\) .*name the Linear before as 'NAME:relu'; name the layers"
    ):
        load(model)
    assert [layer.kind for layer in load(model, layers=["fc:relu", "out:tanh"]).layers] == [
        "linear_relu",
        "linear_tanh",
    ]
    with pytest.raises(SparseGateError, match=r"layer '1' \(ReLU6\) cannot be imported: ReLU6 is not supported"):
        load(nn.Sequential(nn.Linear(3, 3), nn.ReLU6()))


def test_linear_layers_in_a_row_need_their_names():
    """A state_dict has no activations, and code of a forward is not seen either."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    for source in (model.state_dict(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))):
        with pytest.raises(
            SparseGateError, match=r"an activation between linear layer '0' and '[12]', which follows it"
        ):
            load(source)
    assert [layer.name for layer in load(model.state_dict(), layers=["0", "2"]).layers] == ["0", "2"]


def test_a_matrix_that_may_be_an_embedding_needs_its_name():
    state = nn.ModuleDict({"words": nn.Embedding(3, 3), "lstm": nn.LSTM(3, 5)}).state_dict()
    with pytest.raises(SparseGateError, match="layer 'words' holds one matrix and no bias, so it may be an embedding"):
        load(state)
    with pytest.raises(
        SparseGateError, match="layer 'words': it may be an embedding or linear; name it 'words:embedding'"
    ):
        load(state, layers=["words", "lstm"])
    assert [layer.name for layer in load(state, layers=["words:linear", "lstm"]).layers] == ["words", "lstm"]
    assert [layer.name for layer in load(state, layers=["words:embedding", "lstm"]).layers] == ["lstm"]
    with pytest.raises(SparseGateError, match="layer 'words': an embedding can only be the first layer"):
        load(state, layers=["lstm", "words:embedding"])
    with pytest.raises(SparseGateError, match="an embedding alone is no network"):
        load(state, layers=["words:embedding"])
    assert load(nn.ModuleDict({"fc": nn.Linear(3, 3, bias=False), "lstm": nn.LSTM(3, 5)}), ["fc", "lstm"]).inputs == 3
    # a shape that fits only one way needs no word
    other = nn.ModuleDict({"words": nn.Embedding(7, 3), "lstm": nn.LSTM(3, 5)}).state_dict()
    assert load(other, layers=["words", "lstm"]).inputs == 7


@pytest.mark.parametrize("bidirectional", [False, True])
def test_embeddings_fold_into_the_columns(bidirectional):
    torch.manual_seed(1)
    words, gru = nn.Embedding(7, 4, padding_idx=0), nn.GRU(4, 5, batch_first=True, bidirectional=bidirectional)
    model = nn.ModuleDict({"words": words, "gru": gru}).double()
    network = load(model)
    tokens = np.random.default_rng(0).integers(0, 7, (3, 6))
    assert network.inputs == 7
    with torch.no_grad():
        expected = gru(words(torch.from_numpy(tokens)))[0].numpy()
    np.testing.assert_allclose(network.evaluate(importers.one_hot(tokens, 7)).outputs, expected, atol=1e-12)
    same = load(model.state_dict(), layers=["words", "gru"])
    assert (same.layers[0].w_x == network.layers[0].w_x).all()


def test_one_hot_refuses_what_is_no_token():
    for tokens, message in (
        (np.zeros((2, 3)), r"tokens are integers \(N, T\), not float64"),
        (np.zeros(3, int), r"of shape \(3,\)"),
        (np.array([[0, 7]]), r"tokens are 0\.\.6, found 0\.\.7"),
        (np.array([[-1, 3]]), r"tokens are 0\.\.6, found -1\.\.3"),
    ):
        with pytest.raises(SparseGateError, match=message):
            importers.one_hot(tokens, 7)


def test_embeddings_that_change_what_they_hold():
    model = nn.ModuleDict({"words": nn.Embedding(3, 3, max_norm=1.0), "lstm": nn.LSTM(3, 5)})
    with pytest.raises(
        SparseGateError, match=r"layer 'words' \(Embedding\) cannot be imported: max_norm is 1.0, expected None"
    ):
        load(model)
    fc = nn.ModuleDict({"words": nn.Embedding(9, 4), "lstm": nn.LSTM(3, 5)})
    with pytest.raises(SparseGateError, match="layer 'lstm' takes 3 inputs, but the embedding gives 4"):
        load(fc)


class Doubled(nn.LSTM):
    """Computes something else than its parent."""

    def forward(self, *arguments):
        return super().forward(*arguments)[0] * 2


class Renamed(nn.Linear):
    """Computes what its parent does."""


def test_a_forward_of_its_own_is_refused():
    for net, known in ((Doubled(3, 5), "LSTM"), (nn.Linear(3, 5), "Linear")):
        net.forward = net.forward  # as monkey patches do
        with pytest.raises(SparseGateError, match=rf"it has a forward of its own; only nn\.{known}'s own is known"):
            load(nn.ModuleDict({"net": net}), layers=["net"])
    with pytest.raises(SparseGateError, match=r"layer 'doubled' \(Doubled\) cannot be imported: it has a forward"):
        load(Doubled(3, 5))
    pruned = Doubled(3, 8)
    prune.attach(nn.ModuleDict({"net": pruned}), "1:4", prune.Cubic(0, 0))
    with pytest.raises(SparseGateError, match="it has a forward of its own"):
        load(pruned)
    assert load(Renamed(3, 5)).layers[0].kind == "linear"


def test_insides_of_unsupported_modules_are_not_imported():
    with pytest.raises(SparseGateError, match=r"layer 'net' \(MultiheadAttention\)"):
        load(nn.ModuleDict({"net": nn.MultiheadAttention(4, 2)}))


def test_parameters_beside_the_layers(model):
    """As of a loss: left out by naming the layers, of the module as of its state_dict."""
    model.scale = nn.Parameter(torch.ones(1))
    for source, name in ((model, r"tagger' \(Tagger"), (model.state_dict(), r"model' \(tensors scale \(1,\)")):
        with pytest.raises(SparseGateError, match=rf"layer '{name}\).*; name the layers to import to leave it out"):
            load(source)
        same_numbers(load(source, layers=["lstm", "fc"]), model)


def test_describe(model):
    model.extra = nn.LSTM(2, 3, proj_size=1, bidirectional=True)
    model.conv = nn.Conv1d(2, 2, 1)
    found = [(part.name, part.what, part.problem is None) for part in importers.describe(model)]
    assert found == [("lstm", "LSTM", True), ("fc", "Linear", True), ("extra", "LSTM", True), ("conv", "Conv1d", False)]
    assert [part.shape for part in importers.describe(model)[:3]] == [
        "3 → 5, 2 layers",
        "5 → 2",
        "2 → 3 → 1, bidirectional",
    ]
    assert [part.name for part in importers.describe(model.state_dict())] == ["lstm", "fc", "extra", "conv"]


def test_nan_weights(model):
    with torch.no_grad():
        model.lstm.weight_hh_l1[0, 0] = torch.nan
    with pytest.raises(SparseGateError, match="layer 'lstm_l1': w_h holds 1 NaN or infinite values"):
        load(model)


def test_damaged_state_dicts(model):
    state = model.state_dict()
    with pytest.raises(SparseGateError, match="layer 'lstm': bias_hh_l0 has shape"):
        load(state | {"lstm.bias_hh_l0": torch.zeros(3)})
    with pytest.raises(SparseGateError, match="layer 'lstm': weight_hh_l1 is missing"):
        load({key: value for key, value in state.items() if key != "lstm.weight_hh_l1"})
    with pytest.raises(SparseGateError, match="weight_ih_l0 or weight_hh_l0 is missing"):
        load({key: value for key, value in state.items() if key != "lstm.weight_hh_l0"})
    with pytest.raises(SparseGateError, match=r"layer 'fc': weight is of type torch\.int64, expected floating point"):
        load(state | {"fc.weight": torch.zeros(2, 5, dtype=torch.int64)})
    with pytest.raises(SparseGateError, match="'epoch' is a int, expected a tensor"):
        load(state | {"epoch": 3})
    with pytest.raises(SparseGateError, match="it has the unknown tensor weight"):
        load(state | {"lstm.weight": torch.zeros(2, 2)})
    with pytest.raises(SparseGateError, match="the model has no layers with weights"):
        load({})
    with pytest.raises(SparseGateError, match="a model is a torch module, a state_dict or a file, not a list"):
        load([1, 2])
    with pytest.raises(SparseGateError, match="3 is no name of a tensor"):
        load({3: torch.zeros(2, 2)})


HIDDEN = torch.zeros(20, 5)
ODD_TENSORS = [
    (torch.zeros(20, 0), r"weight_hh_l0 has shape \(20, 0\), expected a matrix"),
    (torch.zeros(()), r"weight_hh_l0 has shape \(\), expected a matrix"),
    (HIDDEN.to_sparse(), r"layer 'lstm': weight_hh_l0 is sparse \(torch.sparse_coo\), expected a dense tensor"),
    (
        torch.nested.nested_tensor([HIDDEN], layout=torch.jagged),
        "'lstm.weight_hh_l0' is a nested tensor, expected a dense one",
    ),
    (HIDDEN.to("meta"), r"layer 'lstm': weight_hh_l0 is a tensor without data"),
    (HIDDEN.to(torch.complex64), r"weight_hh_l0 is of type torch.complex64, expected floating point"),
    (HIDDEN.to(torch.int8), r"weight_hh_l0 is of type torch.int8, expected floating point"),
]


@pytest.mark.parametrize(("tensor", "message"), ODD_TENSORS)
def test_odd_tensors(model, tensor, message):
    with pytest.raises(SparseGateError, match=message):
        load(model.state_dict() | {"lstm.weight_hh_l0": tensor})


def test_weights_that_are_not_there_yet(model):
    lazy = nn.ModuleDict({"lstm": model.lstm, "fc": nn.LazyLinear(2)})
    with pytest.raises(
        SparseGateError, match=r"layer 'fc' \(LazyLinear\) .* its weights are not there yet; run the model"
    ):
        load(lazy)


# --- what is not seen, and must not be guessed ------------------------------------------------------------------------


def test_what_stands_before_a_recurrent_layer_is_not_guessed(tmp_path):
    """A forward may be lstm(relu(fc(x))), and a file with sorted names puts the head first."""
    model = nn.ModuleDict({"fc": nn.Linear(3, 4), "lstm": nn.LSTM(4, 3)})
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    seen = nn.ModuleDict({"fc": nn.Sequential(nn.Linear(3, 4), nn.ReLU()), "lstm": nn.LSTM(4, 3)})
    for source in (model, model.state_dict(), tmp_path / "m.safetensors", seen):
        with pytest.raises(
            SparseGateError, match=r"an activation between linear layer 'fc.*' and 'lstm', which follows"
        ):
            load(source)
    assert [layer.kind for layer in load(model, layers=["fc:relu", "lstm"]).layers] == ["linear_relu", "lstm"]
    row = nn.Sequential(
        nn.Linear(3, 4), nn.GRUCell(4, 4), nn.Linear(4, 4), nn.Tanh(), nn.GRUCell(4, 4), nn.GRUCell(4, 2)
    )
    assert [layer.kind for layer in load(row).layers] == ["linear", "gru", "linear_tanh", "gru", "gru"]


def test_several_recurrent_modules_are_not_joined_by_guess():
    model = nn.ModuleDict({"a": nn.LSTM(4, 4), "b": nn.GRU(4, 4), "fc": nn.Linear(4, 2)})
    for source in (model, model.state_dict()):
        with pytest.raises(SparseGateError, match="how recurrent layers 'a' and 'b' are joined is not seen; name the"):
            load(source)
        assert [layer.name for layer in load(source, layers=["b", "a", "fc"]).layers] == ["b", "a", "fc"]


def test_a_module_that_is_used_twice():
    torch.manual_seed(1)
    fc = nn.Linear(4, 4)
    model = nn.Sequential(fc, nn.ReLU(), fc)
    with pytest.raises(SparseGateError, match=r"layer '2' \(Linear\): it is the module '0' once more; name the layers"):
        load(model)
    network = load(model, layers=["0", "2"])
    assert [layer.kind for layer in network.layers] == ["linear_relu", "linear"]
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    with torch.no_grad():
        expected = model.double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.evaluate(x).outputs, expected, atol=1e-6)
    relu = nn.ReLU()  # changes nothing of its own, and may stand anywhere
    shared = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 3), relu)
    assert [layer.kind for layer in load(shared).layers] == ["linear_relu", "linear_relu"]


def test_a_model_that_contains_itself():
    model = nn.ModuleDict({"fc": nn.Linear(3, 3)})
    model["again"] = model
    with pytest.raises(SparseGateError, match="a module of the model contains itself"):
        load(model)


class Called(nn.Linear):
    def __call__(self, x):
        return super().__call__(x) * 2


def test_hooks_change_what_a_layer_computes():
    pruned, pushed, normed = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    torch_prune.random_unstructured(pruned, "weight", 0.5)
    pushed.register_forward_hook(lambda module, inputs, output: output * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        nn.utils.weight_norm(normed)
    drop = nn.Dropout()
    drop.register_forward_pre_hook(lambda module, inputs: None)
    for net in (pruned, pushed, normed, drop):
        for layers in (None, ["net"]):
            with pytest.raises(SparseGateError, match=r"layer 'net' .*it has hooks that change its weights or values"):
                load(nn.ModuleDict({"fc": nn.Linear(3, 3), "net": net}), layers)
    outer = nn.ModuleDict({"fc": nn.Linear(3, 3)})
    outer.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(SparseGateError, match=r"layer 'moduledict' .*it has hooks"):
        load(outer)
    assert load(outer, ["fc"]).outputs == 3
    torch_prune.remove(pruned, "weight")
    assert (load(pruned).layers[0].w_x == pruned.weight.detach().double().numpy()).all()
    with pytest.raises(SparseGateError, match="it has a forward of its own"):
        load(Called(3, 3))
    silent = nn.Sequential(nn.Linear(3, 3), pushed_relu := nn.ReLU())
    pushed_relu.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(SparseGateError, match=r"layer '1' \(ReLU\) cannot be imported: it has hooks"):
        load(silent)


class Scaled(nn.Module):
    """Arithmetic of its own, around modules that have none."""

    def __init__(self, *, buffer: bool) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Dropout())
        if buffer:
            self.fc = nn.Linear(5, 5)
            self.register_buffer("scale", torch.full((5,), 2.0))

    def forward(self, x):
        return self.parts(x) * 2


class Halved(nn.Identity):
    def forward(self, x):
        return x / 2


@pytest.mark.parametrize(
    "net", [Scaled(buffer=False), Scaled(buffer=True), Halved()], ids=["code", "buffer", "identity"]
)
def test_modules_with_arithmetic_of_their_own(net):
    outer = nn.ModuleDict({"lstm": nn.LSTM(3, 5), "net": net})
    with pytest.raises(
        SparseGateError, match=r"layer 'net' \((Scaled|Halved)\) cannot be imported: \w+ is not supported"
    ):
        load(outer)
    assert load(outer, layers=["lstm"]).outputs == 5
    if "net.scale" in outer.state_dict():
        with pytest.raises(SparseGateError, match=r"layer 'net' \(tensors scale \(5,\)\)"):
            load(outer.state_dict())


@pytest.mark.parametrize("key", ["bias_ih_l0", "bias_hh_l1", "bias_ih_l1_reverse"])
def test_biases_are_there_or_not(key):
    state = nn.LSTM(3, 5, num_layers=2, bidirectional=True).state_dict()
    del state[key]
    with pytest.raises(SparseGateError, match=f"layer 'lstm': {key} is missing"):
        load(state)


def test_names_of_files_do_not_reach_a_terminal_as_they_are():
    state = {f"a\n\x1b[2J.{key}": value for key, value in nn.LSTM(3, 5).state_dict().items()}
    assert [layer.name for layer in load(state).layers] == [r"a\n\x1b[2J"]
    (part,) = importers.describe({"evil\x1b[2J": torch.zeros(3)})
    assert all(text.isprintable() for text in (part.name, part.what, str(part.problem)))
    with pytest.raises(SparseGateError) as caught:
        load({"a\nb.weight_ih_l0": torch.zeros(4, 3)})
    assert str(caught.value).isprintable()


def test_the_hint_is_for_layers_that_can_be_left_out():
    with pytest.raises(SparseGateError, match=r"weight_ih_l0 or weight_hh_l0 is missing$"):
        load({"lstm.weight_hh_l0": torch.zeros(20, 5)})


# --- every recurrent module ------------------------------------------------------------------------------------------


def matrix_of_modules():
    """Every cell, direction, depth, projection and bias."""
    for depth in (1, 2, 3):
        for bidirectional in (False, True):
            for bias in (True, False):
                options = {"num_layers": depth, "bidirectional": bidirectional, "bias": bias}
                yield nn.LSTM, options
                yield nn.LSTM, options | {"proj_size": 2}
                yield nn.GRU, options
                yield nn.RNN, options | {"nonlinearity": "tanh"}
                yield nn.RNN, options | {"nonlinearity": "relu"}


def states(network, h, c=None):
    """PyTorch's (layers * directions, N, size) as a state by layer."""
    recurrent = [layer.name for layer in network.layers if layer.w_h is not None]
    return {
        name: {"h": h[row].numpy()} | ({} if c is None else {"c": c[row].numpy()}) for row, name in enumerate(recurrent)
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize(("kind", "options"), list(matrix_of_modules()), ids=str)
def test_every_module_with_states_and_lengths(kind, options, dtype):
    """Outputs and final states, from random initial states, on sequences of several lengths."""
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    torch.manual_seed(5)
    module = kind(3, 5, batch_first=True, dtype=dtype, **options)
    sides = 2 if options["bidirectional"] else 1
    outputs = options.get("proj_size", 5)
    head = nn.Linear(sides * outputs, 2, dtype=dtype)
    word = f":{options['nonlinearity']}" if kind is nn.RNN else ""
    model = nn.ModuleDict({"rnn": module, "fc": head})
    network = load(model)
    stem = [f"rnn_l{k}" for k in range(options["num_layers"])] if options["num_layers"] > 1 else ["rnn"]
    assert [layer.name for layer in network.layers] == [
        *(name + side for name in stem for side in ("", "_reverse")[:sides]),
        "fc",
    ]
    rng = np.random.default_rng(6)
    x = torch.from_numpy(rng.normal(size=(4, 7, 3))).to(dtype)
    lengths = np.array([7, 1, 4, 7])
    rows = sides * options["num_layers"]
    h = torch.from_numpy(rng.normal(size=(rows, 4, outputs))).to(dtype)
    c = torch.from_numpy(rng.normal(size=(rows, 4, 5))).to(dtype) if kind is nn.LSTM else None
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        out, final = module(packed, h if c is None else (h, c))
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=7)
        expected = head(out)
    ends = final if c is not None else (final,)
    for made in (network, load(model.state_dict(), layers=[f"rnn{word}", "fc"])):
        got = made.evaluate(x.numpy(), lengths, states(made, h, c))
        real = np.arange(7)[None, :] < lengths[:, None]
        np.testing.assert_allclose(got.outputs[real], expected.numpy()[real], rtol=0, atol=tolerance)
        assert (got.outputs[~real] == 0).all()
        for row, layer in enumerate(made.layers[:-1]):
            for key, value in zip(("h", "c"), ends, strict=False):
                np.testing.assert_allclose(got.state[layer.name][key], value[row].numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("when", ["step", "last", "final"])
def test_heads_behind_both_directions(kind, when):
    torch.manual_seed(5)
    module, head = kind(3, 5, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(10, 2)
    model = nn.ModuleDict({"rnn": module, "fc": head}).double()
    network = load(model, when=when)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 6, 3)))
    with torch.no_grad():
        out, state = module(x)
        h = state[0] if kind is nn.LSTM else state
        taken = {"step": out, "last": out[:, -1], "final": torch.cat([h[-2], h[-1]], dim=1)}[when]
        expected = head(taken).numpy()
    found = network.evaluate(x.numpy())
    np.testing.assert_allclose(found.outputs if when == "step" else found.last, expected, atol=1e-12)


def test_a_chain_of_heads_on_the_final_values():
    torch.manual_seed(5)
    module, hidden, head = nn.LSTM(3, 5, batch_first=True, bidirectional=True), nn.Linear(10, 4), nn.Linear(4, 2)
    model = nn.ModuleDict({"rnn": module, "hidden": hidden, "fc": head})
    x = torch.randn(2, 6, 3)
    _, (h_n, _) = module(x)
    final = head(torch.relu(hidden(torch.cat([h_n[0], h_n[1]], dim=1))))
    network = load(model, layers=["rnn", "hidden:relu", "fc"], when="final")
    assert [layer.when for layer in network.layers[-2:]] == ["final", "final"]
    np.testing.assert_allclose(network.evaluate(x.numpy()).last, final.detach().numpy(), atol=1e-6)
    last = head(torch.relu(hidden(module(x)[0][:, -1])))
    network = load(model, layers=["rnn", "hidden:relu", "fc"], when="last")
    np.testing.assert_allclose(network.evaluate(x.numpy()).last, last.detach().numpy(), atol=1e-6)
    with pytest.raises(SparseGateError, match="when is 'step', 'last', 'final', not 'end'"):
        load(model, when="end")


CELLS = [nn.LSTMCell, nn.GRUCell, nn.RNNCell]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, bias):
    torch.manual_seed(4)
    options = {"nonlinearity": "relu"} if kind is nn.RNNCell else {}
    model = nn.ModuleDict({"cell": kind(3, 5, bias=bias, **options), "fc": nn.Linear(5, 2)}).double()
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(4, 6, 3)))
    h, c = torch.from_numpy(rng.normal(size=(2, 4, 5)))
    state, expected = (h, c) if kind is nn.LSTMCell else h, []
    given = {"cell": {"h": h.numpy()} | ({"c": c.numpy()} if kind is nn.LSTMCell else {})}
    with torch.no_grad():
        for t in range(6):
            state = model["cell"](x[:, t], state)
            expected.append(model["fc"](state[0] if kind is nn.LSTMCell else state))
    word = ":relu" if options else ""
    for network in (load(model), load(model.state_dict(), layers=[f"cell{word}", "fc"])):
        found = network.evaluate(x.numpy(), state=given).outputs
        np.testing.assert_allclose(found, torch.stack(expected, 1).numpy(), rtol=0, atol=1e-12)


def test_the_nonlinearity_of_an_rnn_is_not_in_a_state_dict():
    model = nn.ModuleDict({"rnn": nn.RNN(3, 5, nonlinearity="relu"), "fc": nn.Linear(5, 2)})
    assert load(model).layers[0].kind == "rnn_relu"
    with pytest.raises(
        SparseGateError, match="its nonlinearity is not in a state_dict; name it 'rnn:tanh' or 'rnn:relu'"
    ):
        load(model.state_dict())
    assert load(model.state_dict(), layers=["rnn:relu", "fc"]).layers[0].kind == "rnn_relu"
    with pytest.raises(
        SparseGateError, match=r"layer 'rnn' \(RNN\) cannot be taken as 'sigmoid'; expected 'tanh' or 'relu'"
    ):
        load(model.state_dict(), layers=["rnn:sigmoid", "fc"])
    with pytest.raises(SparseGateError, match=r"layer 'rnn' \(RNN\) cannot be taken as 'tanh'; expected 'relu'"):
        load(model, layers=["rnn:tanh", "fc"])
    lstm = nn.ModuleDict({"net": nn.LSTM(3, 5)})
    with pytest.raises(
        SparseGateError, match=r"layer 'net' \(LSTM\) cannot be taken as 'relu'; there is nothing to choose"
    ):
        load(lstm, layers=["net:relu"])


def test_gates_that_do_not_count():
    state = {"net.weight_ih_l0": torch.zeros(10, 3), "net.weight_hh_l0": torch.zeros(10, 5)}
    with pytest.raises(SparseGateError, match="weight_ih_l0 has 10 rows for 5 units, expected 4, 3 or 1 times as many"):
        load(state)
    gru = {f"net.{key}": value for key, value in nn.GRU(3, 4).state_dict().items()}
    with pytest.raises(SparseGateError, match="a projection \\(proj_size\\) follows an LSTM only"):
        load(gru | {"net.weight_hr_l0": torch.zeros(4, 4)})
    both = {f"net.{key}": value for key, value in nn.LSTM(3, 4, bidirectional=True).state_dict().items()}
    del both["net.weight_hh_l0_reverse"]
    with pytest.raises(SparseGateError, match="layer 'net': weight_hh_l0_reverse is missing"):
        load(both)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict"])
def test_files(model, tmp_path, nested):
    state = model.state_dict()
    torch.save(state if nested is None else {nested: state, "epoch": 3}, tmp_path / "m.pt")
    same_numbers(load(tmp_path / "m.pt"), model)


def test_safetensors(model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    # the file has its tensors in the order of their names
    same_numbers(load(str(tmp_path / "m.safetensors"), layers=["lstm", "fc"]), model)
    half = {key: value.bfloat16() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "h.safetensors")
    assert load(tmp_path / "h.safetensors", layers=["lstm", "fc"]).outputs == 2


def test_bad_files(model, tmp_path):
    with pytest.raises(SparseGateError, match=r"cannot read .*none\.pt: No such file or directory"):
        load(tmp_path / "none.pt")
    with pytest.raises(SparseGateError, match=r"cannot read .*: Is a directory"):
        load(tmp_path)
    path = tmp_path / "m.pt"
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    for contents, reason in (
        (b"", "it is empty"),
        (b"hello\n", "torch.save did not write it"),
        (b"\x80\x02}q", "it is damaged"),
        (whole[:2000], "its end is missing"),
    ):
        path.write_bytes(contents)
        with pytest.raises(SparseGateError, match=rf"m\.pt is not a readable PyTorch state_dict: {reason}"):
            load(path)
    torch.save([1, 2], path)
    with pytest.raises(SparseGateError, match=r"m\.pt holds a list, expected a state_dict"):
        load(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(SparseGateError, match=r"m\.pt holds no tensors"):
        load(path)
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(SparseGateError, match="is not a readable safetensors file"):
        load(path)


def test_whole_models_are_not_unpickled(model, tmp_path):
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(
        SparseGateError,
        match=r"it holds more than tensors; save the weights alone: in the code that trained it, torch\.save",
    ):
        load(tmp_path / "m.pt")


def test_pickles_are_refused_without_a_warning(tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"a": Path("x")}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SparseGateError, match="it holds more than tensors"):
            load(tmp_path / "m.pt")


def test_more_than_tensors_beside_the_state_dict(model, tmp_path):
    """Optimizers, counters, NumPy's scalars and arrays, the arguments of the training script: none is built."""
    optimizer = torch.optim.Adam(model.parameters())
    extra = {
        "optimizer_state": optimizer.state_dict(),
        "step": 3,
        "loss": np.float64(0.5),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(hidden=5, path="x"),
    }
    for key in ("model_state", "model", "net", "state_dict"):
        for zipped in (True, False):
            torch.save({key: model.state_dict()} | extra, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
            same_numbers(load(tmp_path / "m.pt"), model)
    torch.save({"model": {"state_dict": model.state_dict()}}, tmp_path / "m.pt")
    same_numbers(load(tmp_path / "m.pt"), model)


def test_checkpoints_of_several_parts(model, tmp_path):
    """What may be part of the model is not dropped in silence."""
    state, head, path = model.state_dict(), nn.Linear(2, 2).state_dict(), tmp_path / "m.pt"
    for found, names in (
        ({"model": state, "head": head}, "'model' and 'head'"),
        ({"model": state, "net": head, "extra": {"deep": head}}, "'model', 'net' and 'extra'"),
        ({"model": {"state_dict": state, "decoder": head}}, "'state_dict' and 'decoder'"),
        ({"model": state, "scale": torch.ones(2)}, "'model' and 'scale'"),
        (state | {"head": head}, "'head' and 'lstm.weight_ih_l0'"),
    ):
        torch.save(found, path)
        with pytest.raises(
            SparseGateError, match=f"holds tensors under {names}, expected a single state_dict; save the"
        ):
            load(path)
    beside = {
        "optimizer": {"state": {0: {"momentum": torch.ones(3)}}},
        "lr_scheduler": {"x": torch.ones(3)},
        "model_ema": state,
        "rng": torch.get_rng_state(),
        "metrics": {"loss": torch.tensor(0.5)},
    }
    torch.save({"model": state} | beside, path)
    same_numbers(load(path), model)


def test_an_archive_that_describes_too_much(model, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2), "note": "x" * (5 << 20)}, path)
    with pytest.raises(SparseGateError, match=r"data\.pkl in it has \d+ bytes, more than the 4194304 that are read"):
        load(path)


def test_the_checkpoint_of_resemblyzer():
    """A real one: legacy format, an optimizer, and parameters of the loss beside the layers."""
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package resemblyzer: pip install resemblyzer")
    path = Path(spec.origin).parent / "pretrained.pt"
    with pytest.raises(
        SparseGateError, match="layer 'model' .*similarity_weight.* name the layers to import to leave it out"
    ):
        load(path)
    network = load(path, layers=["lstm", "linear:relu"], when="last")
    assert [(layer.name, layer.kind, layer.inputs, layer.outputs) for layer in network.layers] == [
        ("lstm_l0", "lstm", 40, 256),
        ("lstm_l1", "lstm", 256, 256),
        ("lstm_l2", "lstm", 256, 256),
        ("linear", "linear_relu", 256, 256),
    ]
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    lstm, fc = nn.LSTM(40, 256, num_layers=3, batch_first=True), nn.Linear(256, 256)
    lstm.load_state_dict({key.removeprefix("lstm."): value for key, value in state.items() if key.startswith("lstm.")})
    fc.load_state_dict(
        {key.removeprefix("linear."): value for key, value in state.items() if key.startswith("linear.")}
    )
    x = np.random.default_rng(0).random((2, 20, 40))
    with torch.no_grad():
        expected = fc.double()(lstm.double()(torch.from_numpy(x))[1][0][-1]).relu().numpy()
    np.testing.assert_allclose(network.evaluate(x).last, expected, atol=1e-12)


def test_archives_that_are_larger_than_they_look(model, tmp_path):
    """Compressed parts, or many names for the same bytes, would unpack to more than the file holds."""
    path, bomb = tmp_path / "m.pt", tmp_path / "bomb.pt"
    torch.save(model.state_dict(), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
        target.writestr("archive/data/99", b"\0" * 10_000_000)
    with pytest.raises(SparseGateError, match="it is compressed, which torch.save does not do"):
        load(bomb)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    huge = bytearray(whole)
    huge[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2  # both sizes in the directory
    bomb.write_bytes(huge)
    with pytest.raises(SparseGateError, match="its parts are larger than the file"):
        load(bomb)


def test_a_storage_does_not_reach_beyond_its_file(tmp_path):
    """A record that says it holds more values than it does must not show other memory."""
    path = tmp_path / "m.pt"
    torch.save({"fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    # BININT1 9 values -> BININT 2**28, sizes (3, 3) -> (2**28 / 2, 2): 1 GB that is not there
    for name, data in members.items():
        if name.endswith("data.pkl"):
            changed = data.replace(b"K\x09t", b"J\x00\x00\x00\x10t").replace(
                b"K\x03K\x03\x86", b"J\x00\x00\x00\x08K\x02\x86"
            )
            assert len(changed) == len(data) + 6
            members[name] = changed
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    with pytest.raises(SparseGateError, match="it is damaged"):
        load(path)


def test_tensors_larger_than_any_model(tmp_path):
    """A stride of 0 makes a large tensor of one value."""
    torch.save(
        {"fc.weight": torch.ones(1).expand(1 << 20, 1 << 20), "fc.bias": torch.ones(1).expand(1 << 20)},
        tmp_path / "m.pt",
    )
    with pytest.raises(
        SparseGateError, match="the layers to import hold 1099512676352 weights, more than the 268435456"
    ):
        load(tmp_path / "m.pt")
    state = {
        "words.weight": torch.ones(1).expand(1 << 20, 1),
        "gru.weight_ih": torch.ones(1).expand(3 << 10, 1),
        "gru.weight_hh": torch.ones(1).expand(3 << 10, 1 << 10),
    }
    with pytest.raises(SparseGateError, match="hold 3221225472 weights"):
        load(state, layers=["words:embedding", "gru"])


def test_archives_that_say_they_span_disks(model, tmp_path):
    """Found by mutation: zipfile's own question whether it is an archive raises here."""
    path = tmp_path / "m.pt"
    torch.save(model.state_dict(), path)
    whole = bytearray(path.read_bytes())
    locator = whole.rindex(b"PK\x06\x07")  # PyTorch writes zip64
    whole[locator + 16 : locator + 20] = (7).to_bytes(4, "little")
    path.write_bytes(whole)
    with pytest.raises(SparseGateError, match="it is damaged .*multiple disks"):
        load(path)
