"""G2-LSTM: an ordinary LSTM in evaluation, Gumbel gates in training; gate values over data."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sparsegate import importers
from sparsegate.compress.gates import binary_share, gate_values
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.training.gumbel import G2LSTM
from sparsegate.training.masks import Cubic, attach

SHAPES = {
    "plain": {},
    "batch first": {"batch_first": True},
    "stacked": {"num_layers": 2, "batch_first": True},
    "projected": {"num_layers": 2, "proj_size": 3},
    "no bias": {"bias": False},
}


def pair(**kwargs) -> tuple[G2LSTM, nn.LSTM]:
    """The same weights in both classes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = G2LSTM(4, 6, **kwargs)
    sampling = {"tau", "share"}
    plain = nn.LSTM(4, 6, **{key: value for key, value in kwargs.items() if key not in sampling})
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def same(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kwargs", SHAPES.values(), ids=SHAPES)
def test_evaluation_is_an_ordinary_lstm(kwargs):
    ours, plain = pair(**kwargs)
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    ours.eval()
    out, state = ours(x)
    expected, state_expected = plain(x)
    assert torch.equal(out, expected)
    assert all(torch.equal(*values) for values in zip(state, state_expected, strict=True))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kwargs", SHAPES.values(), ids=SHAPES)
def test_training_without_noise_and_at_temperature_1_is_an_ordinary_lstm_with_its_gradients(kwargs):
    ours, plain = pair(**kwargs, tau=1.0, share=0.0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3, 4, generator=generator)
    count, layers = (5 if ours.batch_first else 3), ours.num_layers
    start = [torch.randn(layers, count, size, generator=generator) for size in (ours.proj_size or 6, 6)]
    for hx in (None, (start[0], start[1])):
        results = []
        for module in (ours, plain):
            module.zero_grad()
            out, (h, c) = module(x, hx)
            (out.square().sum() + h.sum() + c.square().sum()).backward()
            results.append([out, h, c, *(parameter.grad for parameter in module.parameters())])
        for found, expected in zip(*results, strict=True):
            same(found, expected)


def test_unbatched_and_packed_sequences():
    ours, plain = pair(num_layers=2, tau=1.0, share=0.0)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, 4, 4, generator=generator)
    start = torch.randn(2, 4, 6, generator=generator), torch.randn(2, 4, 6, generator=generator)
    same(ours(x[:, 0]), plain(x[:, 0]))
    same(ours(x[:, 0], (start[0][:, 0], start[1][:, 0])), plain(x[:, 0], (start[0][:, 0], start[1][:, 0])))
    for lengths, ordered in (([3, 7, 1, 5], False), ([7, 5, 5, 2], True)):
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)
        found, state = ours(packed, start)
        expected, state_expected = plain(packed, start)
        assert torch.equal(found.batch_sizes, expected.batch_sizes)
        same(pad_packed_sequence(found)[0], pad_packed_sequence(expected)[0])
        same(state, state_expected)


def test_gates_are_samples_of_the_binary_concrete_distribution():
    """With zero weights a step from c = 1, g = tanh(1) shows its gates: c' = f + i g, which has a known median and spread."""
    tau, units = 0.7, 4000
    module = G2LSTM(1, units, tau=tau)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.bias_ih_l0[units : 2 * units] = 0.8  # forget gate
        module.bias_hh_l0[:units] = -40.0  # input gate shut, which no noise opens
    torch.manual_seed(0)
    _, (_, c) = module(torch.zeros(1, 1, 1), (torch.zeros(1, 1, units), torch.ones(1, 1, units)))
    logits = torch.logit(c.detach().double().flatten())  # (0.8 + logistic noise) / tau
    assert logits.mean().item() == pytest.approx(0.8 / tau, abs=0.15)
    assert logits.std().item() == pytest.approx(np.pi / np.sqrt(3) / tau, rel=0.05)
    below = (c < 0.5).double().mean().item()  # P(f < 1/2) = sigmoid(-0.8), whatever tau
    assert below == pytest.approx(1 / (1 + np.exp(0.8)), abs=0.03)
    with torch.no_grad():  # now the input gate is sampled and the forget gate shut
        module.bias_hh_l0[:units] = 0.8
        module.bias_ih_l0[units : 2 * units] = -40.0
        module.bias_ih_l0[2 * units : 3 * units] = 40.0  # tanh -> 1
    _, (h, c) = module(torch.zeros(1, 1, 1))
    assert (c < 0.5).double().mean().item() == pytest.approx(1 / (1 + np.exp(0.8)), abs=0.03)
    same(h, 0.5 * torch.tanh(c))  # the output gate is not sampled


def test_share_of_perturbed_gates():
    module = G2LSTM(1, 5000, share=0.2, tau=0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.bias_ih_l0[5000:10000] = 0.3
        module.bias_ih_l0[:5000] = -40.0
    torch.manual_seed(0)
    _, (_, c) = module(torch.zeros(1, 1, 1), (torch.zeros(1, 1, 5000), torch.ones(1, 1, 5000)))
    still = torch.isclose(c, torch.sigmoid(torch.tensor(0.6)), atol=1e-6)
    assert still.double().mean().item() == pytest.approx(0.8, abs=0.02)


def test_noise_is_new_at_every_step_and_repeats_with_the_seed():
    module = G2LSTM(4, 6, num_layers=2, dropout=0.5, batch_first=True)
    x = torch.ones(3, 4, 4)
    torch.manual_seed(7)
    first = module(x)[0]
    second = module(x)[0]
    torch.manual_seed(7)
    assert torch.equal(first, module(x)[0])
    assert not torch.equal(first, second)
    noise = module._noise(torch.zeros(50, 3, 4), 6)
    assert len(torch.unique(noise)) > 0.99 * noise.numel()


def test_dropout_lies_between_the_layers():
    module = pair(num_layers=2, dropout=0.5, share=0.0)[0]
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    (first, (h, _)), (second, (other, _)) = module(x), module(x)
    assert torch.equal(h[0], other[0])  # the first layer, before it
    assert not torch.equal(first, second)
    assert (first != 0).all()  # none behind the last


def test_training_moves_the_gates_to_where_they_saturate():
    """Keeping c over 5 steps: under noise a forget gate is open only far from the middle, and so is shut to leaks afterwards."""
    leaks = []
    for module in pair(batch_first=True):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(module.parameters(), 3e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            x = torch.randn(32, 5, 4, generator=generator)
            c = torch.randn(1, 32, 6, generator=generator)
            loss = (module(x, (torch.tanh(c), c))[1][1] - c).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network = importers.load({f"lstm.{key}": value for key, value in module.state_dict().items()})
        leaks.append(1 - gate_values(network, torch.randn(50, 5, 4, generator=generator).numpy())["lstm"]["f"].mean())
    assert leaks[0] < leaks[1] / 5


def test_pruning_attaches_and_its_masks_are_in_the_samples():
    module = pair(num_layers=2, batch_first=True)[0]
    model = nn.ModuleDict({"lstm": module, "head": nn.Linear(6, 2)})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = attach(model, {"lstm": ("1:2", "1:3")}, Cubic(1, 6))
    assert isinstance(model["lstm"], G2LSTM)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(8):
        loss = model["head"](model["lstm"](x)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
    gradient = module.parametrizations["weight_hh_l1"].original.grad
    module.zero_grad()
    module(x)[0].sum().backward()
    assert not gradient[module.parametrizations["weight_hh_l1"][0].mask == 0].any()  # masked weights take no part
    torch.manual_seed(1)
    sampled = module(x)[0]
    evaluated = module.eval()(x)[0]
    assert torch.equal(copy.deepcopy(module)(x)[0], evaluated)
    pruner.finish()
    assert torch.equal(module(x)[0], evaluated)
    module.train()
    torch.manual_seed(1)
    same(module(x)[0], sampled)
    NM(1, 3).check(module.weight_hh_l1.detach().numpy(), 4, "h")


def test_refusals():
    with pytest.raises(SparseGateError, match="forwards in time"):
        G2LSTM(3, 4, bidirectional=True)
    with pytest.raises(SparseGateError, match="positive, not 0"):
        G2LSTM(3, 4, tau=0)
    with pytest.raises(SparseGateError, match=r"0\.\.1, not 1\.5"):
        G2LSTM(3, 4, share=1.5)
    with pytest.raises(SparseGateError, match=r"\(2, 1, 5\), expected \(T, B, 3\)"):
        G2LSTM(3, 4)(torch.zeros(2, 1, 5))
    with pytest.raises(SparseGateError, match=r"\(1, 2, 4\), expected \(1, 1, 4\)"):
        G2LSTM(3, 4)(torch.zeros(2, 1, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    assert "tau=0.9, share=1.0" in repr(G2LSTM(3, 4))


def test_under_autocast():
    module = G2LSTM(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = module(torch.randn(3, 2, 4))
    out.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


@pytest.mark.parametrize(
    "kind", ["lstm", "lstm_peephole", "cifg", "cifg_peephole", "gru", "gru_reset_before", "rnn_tanh"]
)
def test_gate_values(kind):
    network = synthetic.network(3, [Shape(kind, 5), Shape("linear_sigmoid", 2)], seed=1)
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    lengths = np.array([6, 2, 4, 1])
    values = gate_values(network, x, lengths)
    name = network.layers[0].name
    gates = {"gru": {"r", "z"}, "gru_reset_before": {"r", "z"}, "rnn_tanh": set()}.get(kind, {"i", "f", "o"})
    assert set(values.get(name, {})) == gates
    assert set(values) <= {name}
    for array in values.get(name, {}).values():
        assert array.shape == (13, 5)
        assert 0 < array.min() < array.max() < 1
    if kind == "lstm":  # at the first step the state is zero
        layer = network.layers[0]
        pre = x[:, 0] @ layer.w_x.T + layer.bias
        np.testing.assert_allclose(values[name]["f"][:4], 1 / (1 + np.exp(-pre[:, 5:10])), rtol=1e-12)
    if kind == "cifg":
        np.testing.assert_array_equal(values[name]["f"], 1 - values[name]["i"])


def test_binary_share():
    assert binary_share([0.0, 0.05, 0.1, 0.2, 0.5, 0.85, 0.95, 1.0]) == 5 / 8
    assert binary_share([0.2, 0.5], margin=0.25) == 0.5
    with pytest.raises(SparseGateError, match="not 0.6 of 1"):
        binary_share([0.5], 0.6)
