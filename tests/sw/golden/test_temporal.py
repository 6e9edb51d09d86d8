"""Skipped columns, their price in score, the choice of thresholds, and training that keeps states still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sw.shapes import stacks
from torch import nn

from sparsegate import golden, quantize, training
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import SparseGateError
from sparsegate.golden import temporal
from sparsegate.golden.temporal import Point
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.objective import step_value
from sparsegate.training.quiet import _moves, quiet
from sparsegate.training.trainable import Trainable


def small(*shapes: Shape, inputs: int = 3, **config) -> Program:
    """A Program of drawn weights."""
    x = np.random.default_rng(0).normal(size=(6, 8, inputs))
    return quantize.quantize(synthetic.network(inputs, shapes, seed=1), x, config=QuantizeConfig(**config))


@settings(max_examples=30, deadline=None)
@given(stacks(), st.integers(0, 60), st.booleans(), st.integers(0, 1000))
def test_columns_are_those_of_the_cycle_model(shapes, threshold, initial, seed):
    network = synthetic.network(3, shapes, seed, initial=initial)
    x = np.random.default_rng(seed).normal(size=(3, 5, 3))
    lengths = np.array([5, 1, 3])
    program = quantize.quantize(network, x, lengths).with_thresholds(threshold)
    trace = golden.run(program, program.quantize(x), lengths)
    found = temporal.of_trace(trace)
    predicted = cycles.predict(trace, Layout(program, HardwareConfig(12, states=bool(program.initial))))
    assert (found.seen, found.sent) == (predicted.columns_seen, predicted.columns_sent)
    named = {vector.name for vector in program.vectors}
    assert set(found.vectors) <= named
    assert "input" in found.vectors
    assert all(0 <= share <= 1 for share in [*found.vectors.values(), found.total])


def test_shares_by_hand():
    """Two inputs, of which one moves at two of four steps and the other never; an LSTM of 4 units and a head of 3."""
    program = small(Shape("lstm", 4), Shape("linear", 3), inputs=2)
    x = np.zeros((1, 6, 2))
    x[0, :, 0] = [1, 1, 0.5, 0.5, 9, 9]
    lengths = np.array([4])
    found = temporal.skipped(program, x, lengths)
    trace = golden.run(program, program.quantize(x), lengths)
    h = trace.layers[0][0, :4]
    before = np.concatenate([np.zeros((1, 4), int), h[:-1]])
    to_head = int(np.count_nonzero(h != before))
    to_h = int(np.count_nonzero(before[1:] != before[:-1]))
    assert found.vectors == {"input": 1 - 2 / 8, "lstm0": 1 - (to_head + to_h) / 32}
    # an input column holds 16 weights, one of h 16 in the recurrent matrix and 3 in the head's
    assert found.total == pytest.approx(1 - (2 * 16 + to_h * 16 + to_head * 3) / (8 * 16 + 16 * 16 + 16 * 3))
    assert (found.seen, found.sent) == (8 + 32, 2 + to_h + to_head)


def test_vectors_that_a_layer_takes_together_are_told_apart():
    program = small(Shape("lstm", 4, both=True), Shape("linear", 2))
    x = np.random.default_rng(3).normal(size=(2, 6, 3))
    forward, backward = (vector.name for vector in program.vectors[1:3])
    quiet_forward = temporal.skipped(program.with_thresholds(0, 1000, 0, 0), x)
    quiet_backward = temporal.skipped(program.with_thresholds(0, 0, 1000, 0), x)
    assert quiet_forward.vectors[forward] == quiet_backward.vectors[backward] == 1
    assert quiet_forward.vectors[backward] < 0.5 > quiet_backward.vectors[forward]
    network = synthetic.network(3, [Shape("rnn_tanh", 4), Shape("rnn_tanh", 5), Shape("linear", 2)], seed=1)
    first, second, head = network.layers
    w_x = np.random.default_rng(0).normal(size=(2, 12))
    head = replace(head, sources=("input", first.name, second.name), w_x=w_x)
    network = replace(network, layers=(first, second, head))
    x = np.zeros((1, 6, 3))
    x[0, 0] = 1
    program = quantize.quantize(network, x).with_thresholds(0, 1000, 0, 0)  # nothing of the first layer moves
    found = temporal.skipped(program, x).vectors
    assert found["input"] == 1 - 6 / 18 / 1  # of its first and second step, in each of the two that take it
    trace = golden.run(program, program.quantize(x))
    h = np.concatenate([np.zeros((1, 5), int), trace.layers[1][0]])
    moves = (h[1:] != h[:-1]).sum(axis=1)
    assert moves[0] > 0
    assert found[first.name] == 1
    assert found[second.name] == 1 - (moves.sum() + moves[:-1].sum()) / 60


def test_the_curve_falls_in_score_and_rises_in_skipped_columns():
    program = small(Shape("lstm", 6), Shape("linear", 3))
    x = np.random.default_rng(3).normal(size=(5, 7, 3)).cumsum(axis=1) / 3
    reference = golden.run(program, program.quantize(x)).outputs

    def score(this: Program) -> float:
        return -float(np.abs(golden.run(this, this.quantize(x)).outputs - reference).mean())

    points = temporal.curve(program, x, None, score, (0, 2, 8, 32))
    assert points[0] == Point(0, 0.0, temporal.skipped(program, x).total)
    assert [point.threshold for point in points] == [0, 2, 8, 32]
    assert [point.skipped for point in points] == sorted(point.skipped for point in points)
    assert [point.score for point in points] == sorted((point.score for point in points), reverse=True)
    assert points[-1].skipped > points[0].skipped + 0.2


def test_thresholds_are_raised_where_it_costs_nothing():
    """The score punishes Θ of the input; it is left alone, and the state's goes to the end of the ladder."""
    program = small(Shape("lstm", 6), Shape("linear", 3))
    x = np.random.default_rng(3).normal(size=(5, 7, 3)).cumsum(axis=1) / 3
    asked = []

    def score(this: Program) -> float:
        asked.append(this.thresholds)
        return 100.0 - this.input_threshold - 0.1 * this.thresholds[1]

    chosen = temporal.choose(program, x, None, score, budget=0.65, thresholds=(4, 2, 6, 8))
    assert chosen.thresholds == (0, 6, 0)  # 8 would cost 0.8, and 2 of the input 2; the output drives nothing
    assert max(thresholds[0] for thresholds in asked) == 2
    assert temporal.skipped(chosen, x).total > temporal.skipped(program, x).total
    assert temporal.choose(program, x, None, score, budget=2.3, thresholds=(2,)).thresholds == (2, 2, 0)
    assert temporal.choose(program, x, None, score, budget=0.0).thresholds == (0, 0, 0)
    with pytest.raises(SparseGateError, match="0 or more, not -1"):
        temporal.choose(program, x, None, score, budget=-1)


def test_the_vector_that_wins_most_goes_first():
    """A wide recurrent matrix outweighs the input's: the budget is spent there."""
    program = small(Shape("lstm", 16), Shape("linear", 3), inputs=2)
    x = np.random.default_rng(3).normal(size=(5, 12, 2)).cumsum(axis=1) / 3

    def score(this: Program) -> float:
        return -float(sum(this.thresholds))

    assert temporal.choose(program, x, None, score, budget=4, thresholds=(4,)).thresholds == (0, 4, 0)


def test_a_vector_that_wins_nothing_keeps_its_threshold():
    program = small(Shape("lstm", 4), Shape("linear", 3))
    x = np.zeros((1, 5, 3))
    x[:, :, 0] = [3, -3, 3, -3, 3]  # moves far at every step
    assert temporal.skipped(program.with_thresholds(0, 1, 0), x) == temporal.skipped(program, x)
    chosen = temporal.choose(program, x, None, lambda this: 0.0, budget=0, thresholds=(1, 8))
    assert chosen.thresholds == (0, 8, 0)  # past a value that wins nothing


def task(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy steps whose slow mean is asked for: x (N, T, 2), y (N, T, 1), lengths."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(size=(48, 3, 1)), 6, axis=1)
    x = np.concatenate([level, level], axis=2) + 0.4 * rng.normal(size=(48, 18, 2))
    return x, level, rng.integers(10, 19, 48)


def test_thresholds_and_the_penalty_in_training_raise_the_skipped_share():
    x, y, lengths = task()
    network = synthetic.network(2, [Shape("lstm", 8), Shape("linear", 1)], seed=0)
    aim = step_value(y)
    model = Trainable(network)
    training.fit(model, aim, x, lengths, training.Recipe(12, 2e-2, 16, noise=0.0))
    network = model.network()
    config = QuantizeConfig()
    formats = quantize.choose_formats(network, quantize.calibrate(network, x, lengths), config)

    def trained(theta: int, weight: float) -> tuple[float, float]:
        module = FakeQuant(network, formats, config)
        module.thresholds = (0, theta, 0)
        loss = quiet(aim, weight) if weight else aim
        training.fit(module, loss, x, lengths, training.Recipe(6, 1e-2, 16, noise=0.0))
        program = module.program()
        assert program.thresholds == (0, theta, 0)
        found = program.output_format.real(golden.run(program, program.quantize(x), lengths).outputs)
        real = np.arange(18)[None, :] < lengths[:, None]
        return temporal.skipped(program, x, lengths).vectors["lstm0"], float(np.square(found - y)[real].mean())

    plain, held, still = trained(0, 0.0), trained(8, 0.0), trained(8, 2.0)
    assert held[0] > plain[0] + 0.2
    assert still[0] > held[0] + 0.03
    assert still[1] < 0.2 * np.square(y).mean()  # and the task is still done


class Steps(nn.Module):
    """Layers whose first axis is time, as they are by default in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(2, 3), nn.GRU(3, 4)

    def forward(self, x, lengths):
        return self.gru(self.lstm(x.transpose(0, 1))[0])[0].transpose(0, 1)


def test_the_penalty_is_the_mean_move_of_real_steps():
    values = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [1.0, 1.0]], [[5.0, 5.0], [9.0, 9.0], [7.0, 7.0]]])
    assert _moves(values, torch.tensor([3, 1])).item() == (2 + 1) / 2
    assert _moves(values, torch.tensor([1, 1])).item() == 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Steps()
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    lengths = np.array([5, 3])

    def nothing(model, x, lengths, rows):
        return 0.0 * model(x, lengths).sum()

    inner = model.lstm(x.transpose(0, 1))[0]
    outputs = [inner.transpose(0, 1), model.gru(inner)[0].transpose(0, 1)]
    expected = np.mean([_moves(value, torch.from_numpy(lengths)).item() for value in outputs])
    loss = quiet(nothing, 2.0)(model, x, lengths, torch.arange(2))
    assert loss.item() == pytest.approx(2 * expected, rel=1e-6)
    loss.backward()
    assert model.lstm.weight_hh_l0.grad.abs().sum() > 0
    assert not model.lstm._forward_hooks
    assert quiet(nothing, 0.0)(model, x, lengths, torch.arange(2)).item() == 0


def test_the_penalty_of_a_fake_quantized_network_sees_its_recurrent_layers_only():
    network = synthetic.network(2, [Shape("gru", 3), Shape("linear", 2)], seed=0)
    network = network.with_layers([network.layers[0], replace(network.layers[1], w_x=100 * network.layers[1].w_x)])
    x = np.random.default_rng(0).normal(size=(2, 5, 2))
    config = QuantizeConfig()
    module = FakeQuant(network, quantize.choose_formats(network, quantize.calibrate(network, x), config), config)
    lengths = np.array([5, 3])
    h = module.trace(torch.from_numpy(x), lengths)[0]
    loss = quiet(lambda *_: module(torch.from_numpy(x), lengths).sum() * 0, 1.0)
    assert loss(module, torch.from_numpy(x), lengths, torch.arange(2)).item() == pytest.approx(
        _moves(h, torch.from_numpy(lengths)).item()
    )


def test_refusals():
    def zero(*_: object) -> torch.Tensor:
        return torch.zeros(())

    with pytest.raises(SparseGateError, match="0 or more, not -1"):
        quiet(zero, -1)
    with pytest.raises(SparseGateError, match="ran no recurrent layer"):
        quiet(zero, 1.0)(nn.LSTM(2, 3), torch.zeros(1, 2, 2), np.array([2]), torch.arange(1))
    model = nn.LSTM(2, 3)
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 2)])
    with pytest.raises(SparseGateError, match="packed sequences"):
        quiet(lambda model, *_: model(packed)[0].data.sum(), 1.0)(model, torch.zeros(1), np.array([2]), torch.arange(1))
    assert not model._forward_hooks
