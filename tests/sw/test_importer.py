"""Import of PyTorch models: what is supported gives PyTorch's numbers, what is not is refused by name."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from sparsegate import importer, prune
from sparsegate.errors import SparseGateError
from sparsegate.pattern import NM
from sparsegate.quantize import quantize


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
    network = importer.from_torch(model)
    assert [layer.name for layer in network.layers] == ["lstm_l0", "lstm_l1", "fc"]
    same_numbers(network, model)


def test_state_dict_gives_the_same(model):
    same_numbers(importer.from_torch(model.state_dict()), model)
    shuffled = dict(sorted(model.state_dict().items()))  # fc before lstm
    same_numbers(importer.from_torch(shuffled, layers=["lstm", "fc"]), model)


@pytest.mark.parametrize("bias", [True, False])
def test_without_bias(bias):
    lstm = nn.LSTM(3, 5, batch_first=True, bias=bias)
    network = importer.from_torch(lstm)
    assert [layer.name for layer in network.layers] == ["lstm"]
    same_numbers(network, Wrapped(lstm))
    same_numbers(importer.from_torch(lstm.state_dict()), Wrapped(lstm))


class Wrapped(nn.Module):
    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.inner = lstm

    def forward(self, x):
        return self.inner(x)[0]


def test_both_biases_are_summed(model):
    first = importer.from_torch(model).layers[0]
    expected = model.lstm.bias_ih_l0.double() + model.lstm.bias_hh_l0.double()
    assert (first.bias == expected.detach().numpy()).all()


def test_names_choose_and_order(model):
    assert [layer.name for layer in importer.from_torch(model, layers=["lstm"]).layers] == ["lstm_l0", "lstm_l1"]
    with pytest.raises(SparseGateError, match="the model has no layer 'gru'; it has 'lstm', 'fc'"):
        importer.from_torch(model, layers=["gru"])
    with pytest.raises(SparseGateError, match=r"layers is a list of names, like \['lstm'\], not a single string"):
        importer.from_torch(model, layers="lstm")
    with pytest.raises(SparseGateError, match="layer 'lstm_l0' takes 3 inputs, but 'fc' before it gives 2"):
        importer.from_torch(model, layers=["fc", "lstm"])


def test_an_order_that_does_not_fit_says_what_to_do(model):
    shuffled = dict(sorted(model.state_dict().items()))
    with pytest.raises(
        SparseGateError, match="found in this order: fc, lstm; name the layers in the order in which data flows"
    ):
        importer.from_torch(shuffled)


def test_head_on_the_last_step(model):
    assert [layer.when for layer in importer.from_torch(model, when="last").layers] == ["step", "step", "last"]
    assert importer.from_torch(model, layers=["lstm"], when="last").layers[-1].when == "step"


def test_nested_names(model):
    outer = nn.ModuleDict({"encoder": model})
    for source in (outer, outer.state_dict()):
        assert [layer.name for layer in importer.from_torch(source).layers] == [
            "encoder.lstm_l0",
            "encoder.lstm_l1",
            "encoder.fc",
        ]


def test_patterns_are_checked(model):
    pruner = prune.attach(model, {"lstm": ("1:5", "2:5")}, prune.Cubic(0, 0))
    with pytest.raises(SparseGateError, match="finish the pruning first"):
        importer.from_torch(model.state_dict())
    pruner.finish()
    first, second, _ = importer.from_torch(model, patterns=pruner.patterns).layers
    assert (first.pattern_x, second.pattern_h) == (NM(1, 5), NM(2, 5))
    with pytest.raises(SparseGateError, match="layer 'lstm_l0': w_h is not 1:5"):
        importer.from_torch(model, patterns={"lstm": "1:5"})
    with pytest.raises(SparseGateError, match="a pattern is given for 'gru', which is not among the imported layers"):
        importer.from_torch(model, patterns={"gru": "1:5"})
    every = importer.from_torch(model, patterns=("1:5", "2:5")).layers
    assert [(str(layer.pattern_x), str(layer.pattern_h)) for layer in every] == [*2 * [("1:5", "2:5")], ("1:1", "1:1")]
    with pytest.raises(SparseGateError, match="the model has no LSTM for the pattern"):
        importer.from_torch(nn.Linear(4, 4), patterns="1:4")


def test_a_block_larger_than_the_layer_is_one_short_block(model):
    """N:M says at most N of M: five units in blocks of 64 keep one weight of five, and so through quantization."""
    pruner = prune.attach(model, {"lstm": "1:64"}, prune.Cubic(0, 0))
    pruner.finish()
    network = importer.from_torch(model, patterns=pruner.patterns)
    assert (np.count_nonzero(network.layers[0].w_h.reshape(4, 5, 5), axis=1) == 1).all()
    program = quantize(network, np.random.default_rng(0).normal(size=(2, 4, 3)))
    assert (program.layers[0].block, program.layers[0].matrix_h.entries) == (64, 1)


def test_a_model_under_pruning_is_imported_as_it_computes(model):
    prune.attach(model, "1:5", prune.Cubic(0, 0))
    same_numbers(importer.from_torch(model), model)


UNSUPPORTED = [
    (
        nn.LSTM(3, 5, bidirectional=True),
        r"layer 'net' \(LSTM\) cannot be imported: bidirectional is True, expected False",
    ),
    (nn.LSTM(3, 5, proj_size=2), r"layer 'net' \(LSTM\) cannot be imported: proj_size is 2, expected 0"),
    (nn.GRU(3, 5), r"layer 'net' \(GRU\) cannot be imported: GRU is not supported"),
    (nn.RNN(3, 5), r"layer 'net' \(RNN\) cannot be imported: RNN is not supported"),
]


@pytest.mark.parametrize(("net", "message"), UNSUPPORTED)
def test_unsupported_recurrent_layers(net, message):
    outer = nn.ModuleDict({"net": net})
    for source in (outer, outer.state_dict()):
        with pytest.raises(SparseGateError, match=message):
            importer.from_torch(source)


@pytest.mark.parametrize("net", [nn.Conv1d(3, 5, 1), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.LSTMCell(3, 5)])
def test_unsupported_weights(net):
    outer = nn.ModuleDict({"fc": nn.Linear(3, 3), "net": net})
    for source in (outer, outer.state_dict()):
        with pytest.raises(SparseGateError, match=r"layer 'net' .* cannot be imported: .*nn\.LSTM and nn\.Linear are"):
            importer.from_torch(source)
        assert [layer.name for layer in importer.from_torch(source, layers=["fc"]).layers] == ["fc"]


def test_activations_between_layers_are_not_lost_silently():
    with pytest.raises(SparseGateError, match=r"layer '1' \(ReLU\) .*; name the layers to import to leave it out"):
        importer.from_torch(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))


def test_linear_layers_in_a_row_need_their_names():
    """A state_dict has no activations, and code of a forward is not seen either."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    for source in (model.state_dict(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))):
        with pytest.raises(SparseGateError, match=r"linear layers '0' and '[12]' follow each other, and an activation"):
            importer.from_torch(source)
    assert [layer.name for layer in importer.from_torch(model.state_dict(), layers=["0", "2"]).layers] == ["0", "2"]


def test_a_matrix_that_may_be_an_embedding_needs_its_name():
    state = nn.ModuleDict({"words": nn.Embedding(3, 3), "lstm": nn.LSTM(3, 5)}).state_dict()
    with pytest.raises(SparseGateError, match="layer 'words' holds one matrix and no bias, so it may be an embedding"):
        importer.from_torch(state)
    assert importer.from_torch(state, layers=["words", "lstm"]).inputs == 3
    assert importer.from_torch(nn.ModuleDict({"fc": nn.Linear(3, 3, bias=False), "lstm": nn.LSTM(3, 5)})).inputs == 3


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
            importer.from_torch(nn.ModuleDict({"net": net}), layers=["net"])
    with pytest.raises(SparseGateError, match=r"layer 'doubled' \(Doubled\) cannot be imported: it has a forward"):
        importer.from_torch(Doubled(3, 5))
    pruned = Doubled(3, 8)
    prune.attach(nn.ModuleDict({"net": pruned}), "1:4", prune.Cubic(0, 0))
    with pytest.raises(SparseGateError, match="it has a forward of its own"):
        importer.from_torch(pruned)
    assert importer.from_torch(Renamed(3, 5)).layers[0].kind == "linear"


def test_insides_of_unsupported_modules_are_not_imported():
    with pytest.raises(SparseGateError, match=r"layer 'net' \(MultiheadAttention\)"):
        importer.from_torch(nn.ModuleDict({"net": nn.MultiheadAttention(4, 2)}))


def test_describe(model):
    model.extra = nn.GRU(2, 2)
    found = [(part.name, part.what, part.problem is None) for part in importer.describe(model)]
    assert found == [("lstm", "LSTM", True), ("fc", "Linear", True), ("extra", "GRU", False)]
    assert [part.name for part in importer.describe(model.state_dict())] == ["lstm", "fc", "extra"]


def test_nan_weights(model):
    with torch.no_grad():
        model.lstm.weight_hh_l1[0, 0] = torch.nan
    with pytest.raises(SparseGateError, match="layer 'lstm_l1': w_h holds 1 NaN or infinite values"):
        importer.from_torch(model)


def test_damaged_state_dicts(model):
    state = model.state_dict()
    with pytest.raises(SparseGateError, match="layer 'lstm': bias_hh_l0 has shape"):
        importer.from_torch(state | {"lstm.bias_hh_l0": torch.zeros(3)})
    with pytest.raises(SparseGateError, match="layer 'lstm': weight_hh_l1 is missing"):
        importer.from_torch({key: value for key, value in state.items() if key != "lstm.weight_hh_l1"})
    with pytest.raises(SparseGateError, match="weight_ih_l0 or weight_hh_l0 is missing"):
        importer.from_torch({key: value for key, value in state.items() if key != "lstm.weight_hh_l0"})
    with pytest.raises(SparseGateError, match=r"layer 'fc': weight is of type torch\.int64, expected floating point"):
        importer.from_torch(state | {"fc.weight": torch.zeros(2, 5, dtype=torch.int64)})
    with pytest.raises(SparseGateError, match="'epoch' is a int, expected a tensor"):
        importer.from_torch(state | {"epoch": 3})
    with pytest.raises(SparseGateError, match="it has the unknown tensor weight"):
        importer.from_torch(state | {"lstm.weight": torch.zeros(2, 2)})
    with pytest.raises(SparseGateError, match="the model has no layers with weights"):
        importer.from_torch({})
    with pytest.raises(SparseGateError, match="a model is a torch module, a state_dict or a file, not a list"):
        importer.from_torch([1, 2])
    with pytest.raises(SparseGateError, match="3 is no name of a tensor"):
        importer.from_torch({3: torch.zeros(2, 2)})


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
        importer.from_torch(model.state_dict() | {"lstm.weight_hh_l0": tensor})


def test_weights_that_are_not_there_yet(model):
    lazy = nn.ModuleDict({"lstm": model.lstm, "fc": nn.LazyLinear(2)})
    with pytest.raises(SparseGateError, match="layer 'fc': weight cannot be read as numbers"):
        importer.from_torch(lazy)


@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict"])
def test_files(model, tmp_path, nested):
    state = model.state_dict()
    torch.save(state if nested is None else {nested: state, "epoch": 3}, tmp_path / "m.pt")
    same_numbers(importer.from_torch(tmp_path / "m.pt"), model)


def test_safetensors(model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    # the file has its tensors in the order of their names
    same_numbers(importer.from_torch(str(tmp_path / "m.safetensors"), layers=["lstm", "fc"]), model)
    half = {key: value.bfloat16() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "h.safetensors")
    assert importer.from_torch(tmp_path / "h.safetensors", layers=["lstm", "fc"]).outputs == 2


def test_bad_files(model, tmp_path):
    with pytest.raises(SparseGateError, match=r"cannot read .*none\.pt: No such file or directory"):
        importer.from_torch(tmp_path / "none.pt")
    with pytest.raises(SparseGateError, match=r"cannot read .*: Is a directory"):
        importer.from_torch(tmp_path)
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
            importer.from_torch(path)
    torch.save([1, 2], path)
    with pytest.raises(SparseGateError, match=r"m\.pt holds a list, expected a state_dict"):
        importer.from_torch(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(SparseGateError, match=r"m\.pt holds no tensors"):
        importer.from_torch(path)
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(SparseGateError, match="is not a readable safetensors file"):
        importer.from_torch(path)


def test_whole_models_are_not_unpickled(model, tmp_path):
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(SparseGateError, match=r"it holds more than tensors; save the model's state_dict\(\) instead"):
        importer.from_torch(tmp_path / "m.pt")


def test_pickles_are_refused_without_a_warning(tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"a": Path("x")}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SparseGateError, match="it holds more than tensors"):
            importer.from_torch(tmp_path / "m.pt")
