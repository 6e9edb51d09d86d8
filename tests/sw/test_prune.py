"""N:M pruning by parametrizations, in a training loop of the user's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsegate import pattern, prune
from sparsegate.errors import SparseGateError
from sparsegate.pattern import DENSE, NM
from sparsegate.prune import Cubic, attach


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, num_layers=2, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


@pytest.fixture
def model() -> Tagger:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Tagger()


def loop(model, pruner, optimizer, steps: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    densities = []
    for _ in range(steps):
        x = torch.randn(4, 5, 6, generator=generator)
        loss = (model(x) - x[..., :3].cumsum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
        densities.append(pruner.density)
    return densities


def matrix(weight) -> np.ndarray:
    return weight.detach().double().numpy()


def test_gradual_pruning(model):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)  # made before: it stays valid
    pruner = attach(model, {"lstm": ("2:6", "1:4"), "fc": "1:3"}, Cubic(begin=2, end=12))
    assert pruner.density == 1.0
    before = matrix(model.lstm.weight_ih_l1).copy()
    densities = loop(model, pruner, optimizer, 15)
    assert densities == sorted(densities, reverse=True)
    assert densities[0] == 1.0
    assert densities[11] == densities[-1]
    assert pruner.frozen
    x = torch.randn(2, 5, 6)
    expected = model(x)
    pruner.finish()
    assert torch.equal(model(x), expected)
    for k in range(2):
        x_weight, h_weight = (matrix(getattr(model.lstm, f"weight_{key}_l{k}")) for key in ("ih", "hh"))
        pattern.check(x_weight, 4, NM(2, 6), "x")
        pattern.check(h_weight, 4, NM(1, 4), "h")
        assert np.count_nonzero(x_weight) == x_weight.size // 3
        assert np.count_nonzero(h_weight) == h_weight.size // 4
    assert np.count_nonzero(matrix(model.fc.weight)) == 12
    assert (matrix(model.lstm.weight_ih_l1) != before).any()


def test_the_masks_take_part_in_the_forward(model):
    pruner = attach(model, {"lstm": "1:12"}, Cubic(0, 0))
    x = torch.randn(2, 5, 6)
    masked = model(x)
    twin = Tagger()
    state = {
        key.replace("parametrizations.", "").replace(".original", ""): value
        for key, value in model.state_dict().items()
        if not key.endswith("mask")
    }
    twin.load_state_dict(state)
    assert not torch.equal(masked, twin(x))
    pruner.finish()
    assert torch.equal(masked, model(x))


def test_masked_weights_get_no_gradient_and_frozen_masks_stay(model):
    pruner = attach(model, {"lstm": "1:4"}, Cubic(0, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loop(model, pruner, optimizer, 1)
    parametrization = model.lstm.parametrizations.weight_hh_l0
    mask, weight = parametrization[0].mask.clone(), parametrization.original.detach().clone()
    loop(model, pruner, optimizer, 5)
    assert torch.equal(parametrization[0].mask, mask)
    moved = parametrization.original.detach() != weight
    assert not (moved & (mask == 0)).any()
    assert moved.any()


def test_parameters_stay_the_same_objects(model):
    before = {id(parameter) for parameter in model.parameters()}
    pruner = attach(model, "1:4", Cubic(0, 0))
    assert {id(parameter) for parameter in model.parameters()} == before
    pruner.finish()
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in Tagger().named_parameters()}


def test_models_under_pruning_can_be_copied_and_moved(model):
    pruner = attach(model, "1:4", Cubic(0, 4))
    loop(model, pruner, torch.optim.Adam(model.parameters()), 2)
    x = torch.randn(2, 5, 6)
    expected = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), expected)
    assert torch.allclose(model.double()(x.double()).float(), expected, atol=1e-5)
    assert torch.equal(model.float()(x), expected)


def test_finish_early_brings_the_exact_pattern(model):
    pruner = attach(model, "2:4", Cubic(0, 100))
    pruner.finish()
    pattern.check(matrix(model.lstm.weight_ih_l0), 4, NM(2, 4), "x")
    assert pruner.density == 0.5
    pruner.finish()  # a second time does nothing


def test_nothing_to_prune(model):
    pruner = attach(model, "dense", Cubic(0, 2))
    pruner.step()
    pruner.finish()
    assert pruner.density == 1.0
    assert pruner.patterns == {"lstm": (DENSE, DENSE)}


def test_one_pattern_for_every_lstm(model):
    assert attach(model, ("dense", "1:4"), Cubic(0, 0)).patterns == {"lstm": (DENSE, NM(1, 4))}
    assert not torch.nn.utils.parametrize.is_parametrized(model.lstm, "weight_ih_l0")


def test_blocks_do_not_cross_gates():
    """7 units in blocks of 4: the second block of each gate has 3 units."""
    lstm = nn.LSTM(3, 7)
    attach(lstm, "1:4", Cubic(0, 0)).finish()
    keep = (matrix(lstm.weight_ih_l0) != 0).reshape(4, 7, 3)
    assert (keep[:, :4].sum(1) == 1).all()
    assert (keep[:, 4:].sum(1) == 1).all()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("module", "gates"),
    [
        (nn.LSTM(6, 8, num_layers=2, bidirectional=True), 4),
        (nn.LSTM(6, 8, proj_size=4, bidirectional=True), 4),
        (nn.GRU(6, 8, num_layers=2, bidirectional=True), 3),
        (nn.RNN(6, 8), 1),
        (nn.LSTMCell(6, 8), 4),
        (nn.GRUCell(6, 8), 3),
        (nn.RNNCell(6, 8), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_every_recurrent_module(module, gates):
    """All layers and directions obey the pattern, gate by gate, and the forward sees the masks."""
    module = copy.deepcopy(module)
    pruner = attach(nn.ModuleDict({"part": module}), ("4:8", "1:4"), Cubic(0, 2), projection="1:2")
    x = torch.randn(3, 6) if isinstance(module, nn.RNNCellBase) else torch.randn(5, 3, 6)
    module(x)
    pruner.step()
    pruner.step()
    expected = module(x)[0]
    pruner.finish()
    assert torch.equal(module(x)[0], expected)
    found = {"weight_ih": (gates, NM(4, 8)), "weight_hh": (gates, NM(1, 4)), "weight_hr": (1, NM(1, 2))}
    matrices = [name for name, _ in module.named_parameters() if name.startswith("weight")]
    assert matrices
    for name in matrices:
        rows, nm = found[name[:9]]
        weight = matrix(getattr(module, name))
        pattern.check(weight, rows, nm, name)
        assert np.count_nonzero(weight) == weight.size * nm.n // nm.m


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 20), st.integers(0, 30))
def test_cubic_schedule(n, m, begin, span):
    """Zhu & Gupta 2017, equation 1, with s_i = 0, rounded towards more weights."""
    if n > m:
        n, m = m, n
    schedule, target = Cubic(begin, begin + span), NM(n, m)
    kept = [schedule.kept(step, target) for step in range(begin + span + 3)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == n
    assert all(value == m for value in kept[:begin])
    final = 1 - n / m
    for step in range(begin, begin + span):
        sparsity = final + (0 - final) * (1 - (step - begin) / span) ** 3
        assert m * (1 - sparsity) - 1e-9 <= kept[step] < m * (1 - sparsity) + 1


def test_schedule_in_larger_strides():
    schedule = Cubic(begin=4, end=14, every=5)
    assert [step for step in range(20) if schedule.due(step)] == [4, 9, 14]


def test_refusals(model):
    with pytest.raises(SparseGateError, match="needs 0 <= begin <= end, not 5 and 2"):
        Cubic(5, 2)
    with pytest.raises(SparseGateError, match="updates every 1 or more steps, not every 0"):
        Cubic(0, 2, every=0)
    with pytest.raises(SparseGateError, match="the model has no module 'gru'; it has lstm, fc"):
        attach(model, {"gru": "1:4"}, Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"'' is a Tagger; nn\.Linear, nn\.LSTM, .* can be pruned"):
        attach(model, {"": "1:4"}, Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"the model has no recurrent module to prune"):
        attach(nn.Linear(2, 2), "1:2", Cubic(0, 0))
    with pytest.raises(SparseGateError, match="an N:M pattern is written like"):
        attach(model, "half", Cubic(0, 0))
    attach(model, "1:4", Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"lstm\.weight_ih_l0 already has a parametrization"):
        prune.attach(model, "1:4", Cubic(0, 0))
