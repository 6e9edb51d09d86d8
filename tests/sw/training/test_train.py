"""Training end to end on a little of the real data, and what it promises: patterns, determinism, progress."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sparsegate import golden, training
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import DENSE, NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.training import Recipe, objective
from sparsegate.training.trainable import Trainable


@pytest.fixture(scope="module")
def small(vowels):
    """The first 60 training and 40 test utterances of three speakers."""
    rows, test = np.flatnonzero(vowels.y_train < 3)[:60], np.flatnonzero(vowels.y_test < 3)[:40]
    return replace(
        vowels,
        x_train=vowels.x_train[rows], length_train=vowels.length_train[rows], y_train=vowels.y_train[rows],
        x_test=vowels.x_test[test], length_test=vowels.length_test[test], y_test=vowels.y_test[test],
        classes=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def network(small):
    return training.train_float(small, hidden=8, epochs=15, seed=3)


def test_float_training_learns(network, small):
    assert training.accuracy(network, small.x_train, small.length_train, small.y_train) > 0.9
    assert [(layer.kind, layer.inputs, layer.units) for layer in network.layers] == [("lstm", 12, 8), ("linear", 8, 3)]


def test_the_whole_way(network, small):
    pruned = training.prune_and_finetune(network, small, ("4:8", "2:8"), epochs=10, seed=3)
    layer = pruned.layers[0]
    assert (layer.pattern_x, layer.pattern_h) == (NM(4, 8), NM(2, 8))
    assert pruned.layers[1].pattern_x == DENSE
    assert np.count_nonzero(layer.w_x) == layer.w_x.size // 2
    assert np.count_nonzero(layer.w_h) == layer.w_h.size // 4
    program = training.quantize_and_finetune(pruned, small, epochs=2, seed=3)
    NM(2, 8).check(program.layers[0].w_h, 4, "w_h")
    assert program.layers[0].matrix_h.entries == 2
    assert training.accuracy(program, small.x_train, small.length_train, small.y_train) > 0.9


def test_deterministic_for_a_seed(small):
    def digest(seed):
        network = training.train_float(small, hidden=8, epochs=2, seed=seed)
        network = training.prune_and_finetune(network, small, "2:8", epochs=2, seed=seed)
        return training.quantize_and_finetune(network, small, epochs=1, seed=seed).digest

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = digest(1)
    torch.rand(3)
    assert digest(1) == first
    assert digest(2) != first
    torch.set_rng_state(state)
    digest(1)
    assert torch.equal(torch.get_rng_state(), state)  # a caller's generator is left alone


def test_no_fine_tuning_is_post_training_quantization(network, small):
    config = QuantizeConfig(weight_bits=6)
    program = training.quantize_and_finetune(network, small, config, epochs=0)
    assert program.digest == quantize(network, small.x_train, small.length_train, config).digest


def test_patterns_by_layer_name(small):
    network = training.train_float(small, hidden=8, epochs=1, depth=2, when="last")
    assert [(layer.name, layer.when) for layer in network.layers] == [
        ("lstm_l0", "step"),
        ("lstm_l1", "step"),
        ("head", "last"),
    ]
    pruned = training.prune_and_finetune(network, small, {"lstm_l1": "2:8", "head": "1:3"}, epochs=1)
    assert [layer.pattern_x for layer in pruned.layers] == [DENSE, NM(2, 8), NM(1, 3)]
    assert [(layer.name, layer.when) for layer in pruned.layers] == [
        (layer.name, layer.when) for layer in network.layers
    ]
    with pytest.raises(SparseGateError, match="the network has no layer 'lstm'; it has lstm_l0, lstm_l1, head"):
        training.prune_and_finetune(network, small, {"lstm": "2:8"}, epochs=1)


def test_pruning_again_keeps_what_is_not_mentioned(small):
    network = training.train_float(small, hidden=8, epochs=1, depth=2)
    once = training.prune_and_finetune(network, small, {"lstm_l0": ("2:4", "1:4"), "head": "1:3"}, epochs=1)
    twice = training.prune_and_finetune(once, small, {"lstm_l1": "1:8"}, epochs=1)
    found = [(str(layer.pattern_x), str(layer.pattern_h)) for layer in twice.layers]
    assert found == [("2:4", "1:4"), ("1:8", "1:8"), ("1:3", "1:3")]
    head = twice.with_layers([replace(network.layers[2], name="only")])
    with pytest.raises(SparseGateError, match="the network has no recurrent layer to prune"):
        training.prune_and_finetune(head, small, "1:2", epochs=1)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projections_are_pruned_by_name_and_keep_their_patterns():
    start = synthetic.network(3, [Shape("lstm", 8, outputs=4, pattern_p=NM(2, 4)), Shape("linear", 2)], 0)

    def pruned(patterns):
        recipe = Recipe(2, 1e-2, batch=3)
        return training.prune_and_fit(start, objective.last_class(Y), X, None, patterns, recipe).layers[0]

    kept, finer = pruned("2:8"), pruned({"lstm0.w_p": "1:4"})
    assert (kept.pattern_x, kept.pattern_h, kept.pattern_p) == (NM(2, 8), NM(2, 8), NM(2, 4))
    assert (finer.pattern_x, finer.pattern_h, finer.pattern_p) == (DENSE, DENSE, NM(1, 4))
    assert np.count_nonzero(kept.w_p) == 16
    assert (kept.w_p != start.layers[0].w_p).any()
    assert np.count_nonzero(finer.w_p) == 8
    other = pruned({"lstm0": ("1:4", "dense"), "lstm0.w_p": "bbs:1:4"})
    assert (other.pattern_x, other.pattern_p, np.count_nonzero(other.w_p)) == (NM(1, 4), DENSE, 8)
    assert Trainable(start).network().layers[0].pattern_p == NM(2, 4)


def test_progress(small):
    calls = []
    training.train_float(small, hidden=4, epochs=3, progress=lambda *call: calls.append(call))
    assert [(epoch, epochs) for epoch, epochs, _ in calls] == [(1, 3), (2, 3), (3, 3)]
    assert calls[-1][2] < calls[0][2]


def test_a_classifier_computes_its_network():
    network = synthetic.network(4, [Shape("lstm", 5), Shape("lstm", 6), Shape("linear", 3)], seed=2)
    x = np.random.default_rng(2).normal(size=(3, 5, 4))
    with torch.no_grad():
        got = Trainable(network).double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, network.evaluate(x).outputs, atol=1e-6)  # weights pass through float32


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_a_classifier_of_every_kind_comes_back(kind):
    shapes = [Shape(kind, 5, outputs=3 if kind == "lstm" else 0), Shape(kind, 6), Shape("linear", 3)]
    network = synthetic.network(4, shapes, seed=2)
    x = np.random.default_rng(2).normal(size=(3, 5, 4))
    model = Trainable(network).double()
    with torch.no_grad():
        got = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, network.evaluate(x).outputs, atol=1e-6)
    np.testing.assert_allclose(model.network().evaluate(x).outputs, got, atol=1e-6)


def test_a_gru_is_pruned_and_fine_tuned(small):
    network = synthetic.network(12, [Shape("gru", 8), Shape("linear", 3, when="last")], seed=2)
    recipe = Recipe(epochs=10, rate=0.03, batch=12)
    pruned = training.prune_and_finetune(network, small, ("4:8", "2:8"), epochs=10, seed=3, recipe=recipe)
    program = training.quantize_and_finetune(pruned, small, epochs=2, seed=3)
    assert (program.layers[0].matrix_x.entries, program.layers[0].matrix_h.entries) == (4, 2)
    assert training.accuracy(program, small.x_train, small.length_train, small.y_train) > 0.5


def test_a_network_of_two_directions_is_fine_tuned(small):
    """Reversed layers and heads on one step learn too: fake-quantization is told the lengths."""
    network = synthetic.network(12, [Shape("gru", 6, both=True), Shape("linear", 3, when="final")], seed=2)
    before = training.quantize_and_finetune(network, small, epochs=0)
    recipe = Recipe(epochs=8, rate=0.03, batch=12)
    after = training.quantize_and_finetune(network, small, epochs=8, seed=1, recipe=recipe)
    reached = [training.accuracy(made, small.x_train, small.length_train, small.y_train) for made in (before, after)]
    assert reached[1] > max(0.5, reached[0])


def test_accuracy_by_hand(network, small):
    logits = network.evaluate(small.x_test, small.length_test).outputs
    right = [
        np.argmax(rows[length - 1]) == y
        for rows, length, y in zip(logits, small.length_test, small.y_test, strict=True)
    ]
    assert training.accuracy(network, small.x_test, small.length_test, small.y_test) == np.mean(right)
    program = quantize(network, small.x_train, small.length_train)
    last = golden.run(program, program.quantize(small.x_test), small.length_test).last
    assert training.accuracy(program, small.x_test, small.length_test, small.y_test) == np.mean(
        np.argmax(last, 1) == small.y_test
    )


def test_noise_is_part_of_the_recipe(small):
    plain, noisy = (
        training.train_float(small, hidden=4, epochs=1, recipe=Recipe(epochs=1, rate=0.01, noise=noise))
        for noise in (0.0, 0.5)
    )
    assert (plain.layers[0].w_x != noisy.layers[0].w_x).any()


def test_refusals(small):
    with pytest.raises(SparseGateError, match="a whole number of epochs, 1 or more, not 0"):
        training.train_float(small, epochs=0)
    both = synthetic.network(12, [Shape("lstm", 4, both=True), Shape("linear", 3)], seed=1)
    with pytest.raises(SparseGateError, match="runs backwards in time; training takes forward layers only"):
        Trainable(both)
    with pytest.raises(SparseGateError, match="training knows linear, .*, not 'cifg'"):
        Trainable(synthetic.network(12, [Shape("cifg", 4)], seed=1))
    with pytest.raises(SparseGateError, match="1 input, unit, output and layer, not 12, 0, 3 and 1"):
        training.train_float(small, hidden=0)
    with pytest.raises(SparseGateError, match=r"rate -1 must be positive"):
        Recipe(epochs=1, rate=-1)
    with pytest.raises(SparseGateError, match="a whole number of epochs, 1 or more, not 1.5"):
        Recipe(epochs=1.5, rate=1)
    with pytest.raises(SparseGateError, match="2 classes are given for 27 sequences"):
        training.accuracy(both, small.x_test[:27], small.length_test[:27], [0, 1])


X = np.random.default_rng(0).normal(size=(6, 4, 3))
Y = np.zeros(6, int)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": X[0]}, r"x has shape \(4, 3\) and type float64, expected \(N, T, I\) real numbers"),
        ({"x": [[[1.0]], [[1.0], [2.0]]]}, "x is ragged"),
        ({"x": np.full(X.shape, "a")}, "and type <U1, expected"),
        ({"x": X * np.nan}, "x holds NaN, infinite or immense values"),
        ({"x": X[:, :, :2]}, r"x has shape \(6, 4, 2\), expected \(N, T, 3\)"),
        ({"lengths": [1, 2]}, r"lengths has shape \(2,\)"),
        ({"seed": -1}, "a seed is 0 or more, not -1"),
        ({"model": nn.Identity()}, "a Identity has no parameters to train"),
        ({"objective": lambda model, x, *_: model(x).sum() * torch.inf}, "diverged in epoch 1: its loss is -?inf"),
        ({"objective": lambda model, x, *_: (model(x).sum() * 0).square().sqrt()}, "its loss is 0, .* nan"),
        ({"objective": objective.last_class(Y[:3])}, r"given \(3,\) values, which leave out sequence 5"),
        ({"objective": objective.last_class(Y + 2)}, r"classes lie in 2\.\.2, expected 0\.\.1, one for each output"),
        ({"objective": objective.last_class(Y - 1)}, r"classes lie in -1\.\.-1, expected 0\.\.1"),
        ({"objective": objective.step_class(np.zeros((6, 2), int))}, "expected 4 steps of each"),
        ({"objective": objective.step_value(X)}, r"values of shape \(6, 4, 3\) are given for outputs of \(6, 4, 2\)"),
        (
            {"objective": objective.match(Trainable(synthetic.network(3, [Shape("gru", 5), Shape("linear", 2)], 0)))},
            r"layers of \[4, 2\] outputs cannot match a teacher's of \[5, 2\]",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(options, message):
    model = Trainable(synthetic.network(3, [Shape("lstm", 4), Shape("linear", 2)], 0))
    given = {"model": model, "objective": objective.last_class(Y), "x": X, "recipe": Recipe(1, 1e-3)}
    with pytest.raises(SparseGateError, match=message):
        training.fit(**given | options)


def test_objectives_refuse_what_is_no_class_or_temperature():
    with pytest.raises(SparseGateError, match=r"classes have shape \(6,\) and type float64, expected \(N,\) integers"):
        objective.last_class(Y + 0.5)
    with pytest.raises(SparseGateError, match=r"expected \(N, T\) integers"):
        objective.step_class(Y)
    with pytest.raises(SparseGateError, match="a temperature is positive, not 0"):
        objective.match(nn.Identity(), "kl", temperature=0)


def test_statistics_of_batches_do_not_see_the_checkpoint(tmp_path):
    """A checkpoint changes no number of a training, nor does a float64 model."""

    class Normed(Trainable):
        def __init__(self, network):
            super().__init__(network)
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, lengths=None):
            return super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2), lengths)

    found = []
    for path in (None, tmp_path / "a.pt", str(tmp_path / "b.pt")):
        model = Normed(synthetic.network(3, [Shape("lstm", 4), Shape("linear", 2)], 0)).double()
        training.fit(model, objective.last_class(Y), X, None, Recipe(2, 1e-2, batch=3), checkpoint=path)
        found.append(model.state_dict())
    for name, value in found[0].items():
        assert all(torch.equal(value, other[name]) for other in found[1:]), name
        assert value.dtype in (torch.float64, torch.int64)


class Stopped(Exception):
    """What a test raises in the middle of a training."""


def stopping(at):
    def progress(epoch, epochs, loss):
        if epoch == at:
            raise Stopped

    return progress


@pytest.mark.parametrize("schedule", ["cubic", "annealed", "one-shot"])
def test_an_interrupted_pruning_goes_on_to_the_same_weights(schedule, network, small, tmp_path):
    def run(epochs=5, **options):
        recipe = Recipe(epochs=epochs, rate=5e-3, batch=16, bucket=2)
        done = training.prune_and_finetune(
            network, small, "2:8", epochs, 3, recipe=recipe, schedule=schedule, regrow=True, **options
        )
        return [layer.w_h for layer in done.layers[:1]] + [layer.w_x for layer in done.layers]

    whole = run()
    path = tmp_path / "half.pt"
    with pytest.raises(Stopped):
        run(checkpoint=path, progress=stopping(3))
    seen = []
    parts = run(checkpoint=path, progress=lambda epoch, epochs, loss: seen.append(epoch))
    assert seen == [3, 4, 5]  # the third epoch was never kept
    assert not path.exists()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(parts, whole, strict=True))


@pytest.mark.parametrize("stage", ["float", "integers"])
def test_the_other_stages_go_on_from_a_checkpoint_too(stage, network, small, tmp_path):
    """Only the epochs that are left are trained, and the result is that of a run that nobody stopped."""

    def run(**options):
        if stage == "float":
            return training.train_float(small, 6, 4, 3, recipe=Recipe(4, 5e-3, 16), **options)
        return training.quantize_and_finetune(network, small, QuantizeConfig(weight_bits=4), 4, 3, **options)

    path, seen = tmp_path / "half.pt", []
    run().save(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(checkpoint=path, progress=stopping(3))
    assert path.exists()
    run(checkpoint=path, progress=lambda epoch, epochs, loss: seen.append(epoch)).save(tmp_path / "parts")
    assert seen == [3, 4]
    assert not path.exists()
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_checkpoint_of_another_training_is_refused(network, small, tmp_path):
    path = tmp_path / "half.pt"

    def run(data=small, start=network, pattern="2:8", seed=3, **options):
        training.prune_and_finetune(start, data, pattern, 4, seed, checkpoint=path, **options)

    with pytest.raises(Stopped):
        run(progress=stopping(2))
    kept = path.read_bytes()
    other = training.train_float(small, hidden=8, epochs=1, seed=4)
    shifted = replace(small, y_train=(small.y_train + 1) % 3)
    moved = replace(small, x_train=small.x_train * 1.01)
    for wrong in ({"seed": 4}, {"start": other}, {"data": shifted}, {"data": moved}, {"pattern": "1:8"}):
        with pytest.raises(SparseGateError, match=r"half.pt(: | is the checkpoint of another training)"):
            run(**wrong)
        assert path.read_bytes() == kept
    path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(SparseGateError, match="half.pt is not a readable checkpoint of a training"):
        run()


def test_an_objective_of_ones_own(network, small):
    """Values at every step, and a teacher's outputs: ``fit`` asks only for a loss."""
    recipe = Recipe(epochs=6, rate=5e-3, batch=16, noise=0.0)
    steps = small.x_train.shape[1]
    wanted = np.cumsum(small.x_train[:, :, :3], axis=1) / 10

    def error(made):
        real = np.arange(steps)[None, :] < small.length_train[:, None]
        return np.square(made.evaluate(small.x_train, small.length_train).outputs - wanted)[real].mean()

    model = Trainable(network)
    aim = objective.step_value(wanted)
    training.fit(model, aim, small.x_train, small.length_train, replace(recipe, epochs=30))
    assert error(model.network()) < error(network) / 2

    student = Trainable(training.lstm(12, 8, 3, seed=9))
    before = student.network()
    aim = objective.match(Trainable(network), "kl", hidden=1.0, temperature=2.0)
    training.fit(student, aim, small.x_train, small.length_train, replace(recipe, epochs=30))

    def agree(made):
        mine, theirs = (net.evaluate(small.x_train, small.length_train).last.argmax(1) for net in (made, network))
        return np.mean(mine == theirs)

    assert agree(student.network()) > 0.9 > agree(before)


def test_match_is_zero_for_the_teacher_itself(network, small):
    teacher = Trainable(network)
    x, lengths = torch.from_numpy(small.x_train[:8]).float(), small.length_train[:8]
    for distance in ("squared", "cosine", "kl"):
        loss = objective.match(teacher, distance)(teacher, x, lengths, torch.arange(8))
        assert abs(loss.item()) < 1e-6
    with pytest.raises(SparseGateError, match="a distance is 'squared', 'cosine' or 'kl', not 'far'"):
        objective.match(teacher, "far")


@pytest.mark.parametrize("hidden", [0, 1.0])
@pytest.mark.parametrize("every", [False, True])
def test_a_teacher_that_is_asked_once(network, small, monkeypatch, hidden, every):
    """The same losses and gradients as of one that is asked at every step, in any order of the sequences."""
    monkeypatch.setattr(objective, "ASKED", 5)
    count = 13
    x, lengths = torch.from_numpy(small.x_train[:count]).float(), small.length_train[:count]
    teacher, calls = Trainable(network), []
    trace = teacher.trace
    monkeypatch.setattr(teacher, "trace", lambda *part: calls.append(len(part[0])) or trace(*part))
    labels = np.random.default_rng(0).integers(3, size=(4, x.shape[1]) if every else 4)
    kinds = {"distance": "kl", "hidden": hidden, "every": every, "labels": labels, "trust": 0.5}
    once = objective.match(teacher, **kinds, asked=(small.x_train[:count], lengths))
    always = objective.match(Trainable(network), **kinds)
    for seed in range(3):
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:6]
        order = rows.numpy()
        found = []
        for aim in (once, always):
            student = Trainable(training.lstm(12, 8, 3, seed=9))
            loss = aim(student, x[rows, : lengths[order].max()], lengths[order], rows)
            loss.backward()
            found.append([loss.detach(), *(value.grad for value in student.parameters())])
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert calls == [5, 5, 3]
    with pytest.raises(SparseGateError, match="which leave out sequence 13"):
        once(teacher, x[:1], lengths[:1], torch.tensor([13]))


def test_padding_counts_for_nothing(network, small):
    """What lies past a sequence's end changes no objective."""
    lengths, rows = small.length_train[:8], torch.arange(8)
    x = torch.from_numpy(small.x_train[:8]).float()
    after = torch.arange(x.shape[1])[None, :] >= torch.from_numpy(lengths)[:, None]
    assert after.any()
    other = torch.where(after[:, :, None], torch.tensor(7.0), x)
    model, student = Trainable(network), Trainable(training.lstm(12, 8, 3, seed=9))
    rng = np.random.default_rng(0)
    aims = [
        objective.last_class(rng.integers(0, 3, 8)),
        objective.step_class(rng.integers(0, 3, x.shape[:2])),
        objective.step_value(rng.normal(size=(*x.shape[:2], 3))),
        objective.match(model),
    ]
    for aim in aims:
        assert aim(student, x, lengths, rows).item() == aim(student, other, lengths, rows).item()


@pytest.mark.parametrize("kind", ["linear_relu", "linear_sigmoid", "linear_tanh"])
def test_activations_behind_linear_layers(kind):
    network = synthetic.network(4, [Shape("lstm", 5), Shape(kind, 3)], seed=2)
    x = np.random.default_rng(2).normal(size=(3, 5, 4))
    model = Trainable(network).double()
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), network.evaluate(x).outputs, atol=1e-6)
    assert model.network().layers[1].kind == kind


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_labels_of_some_sequences_and_a_teacher_for_all(network, small, every, trust):
    """By definition, sequence by sequence: a mixture where there are labels, the teacher where there are none."""
    x, lengths = torch.from_numpy(small.x_train[:8]).float(), small.length_train[:8]
    rng, teacher, student = np.random.default_rng(0), Trainable(network), Trainable(training.lstm(12, 5, 3, seed=1))
    given = rng.integers(3, size=(5, x.shape[1]) if every else 5)
    rows = torch.tensor([7, 0, 6, 4, 2, 5, 1, 3])
    order = rows.numpy()
    aim = objective.match(teacher, "kl", hidden=0, temperature=2.0, every=every, labels=given, trust=trust)
    got = aim(student, x[rows], lengths[order], rows).item()
    wanted, mine = (torch.softmax(model(x, lengths) / 2, 2).detach().double().numpy() for model in (teacher, student))
    total, count = 0.0, 0
    for row in range(8):
        for step in range(lengths[row]) if every else [lengths[row] - 1]:
            target = wanted[row, step].copy()
            if row < 5:
                target = (1 - trust) * target + trust * np.eye(3)[given[row, step] if every else given[row]]
            some = target > 0
            total += (target[some] * np.log(target[some] / mine[row, step][some])).sum()
            count += 1
    assert got == pytest.approx(4 * total / count, rel=1e-4)
    # a batch without any of them
    rest = torch.tensor([5, 6, 7])
    plain = objective.match(teacher, "kl", hidden=0, temperature=2.0, every=every)
    assert aim(student, x[5:], lengths[5:], rest).item() == plain(student, x[5:], lengths[5:], rest).item()


def test_labels_of_a_teachers_student_are_checked(network, small):
    teacher = Trainable(network)
    with pytest.raises(SparseGateError, match="labels go with the distance 'kl', not 'squared'"):
        objective.match(teacher, labels=[0])
    with pytest.raises(SparseGateError, match="trust in labels is 0 to 1, not 2"):
        objective.match(teacher, "kl", labels=[0], trust=2)
    x, lengths, rows = torch.from_numpy(small.x_train[:2]).float(), small.length_train[:2], torch.arange(2)
    with pytest.raises(SparseGateError, match=r"classes lie in 0..3, expected 0..2"):
        objective.match(teacher, "kl", hidden=0, labels=[0, 3])(teacher, x, lengths, rows)


def test_a_student_of_another_shape_learns_outputs_alone(network, small):
    """Hidden states are compared only where they are to be matched."""
    x, lengths, rows = torch.from_numpy(small.x_train[:8]).float(), small.length_train[:8], torch.arange(8)
    other = Trainable(training.lstm(12, 5, 3, seed=1))
    alone = objective.match(Trainable(network), "kl", hidden=0)
    assert alone(other, x, lengths, rows).item() > 0
    with pytest.raises(SparseGateError, match=r"layers of \[5, 3\] outputs cannot match a teacher's of \[8, 3\]"):
        objective.match(Trainable(network), "kl")(other, x, lengths, rows)
    labels = objective.last_class(small.y_train)
    both = objective.together(alone, labels)(other, x, lengths, rows).item()
    assert both == pytest.approx(alone(other, x, lengths, rows).item() + labels(other, x, lengths, rows).item())
    every = objective.match(Trainable(network), "squared", hidden=0, every=True)
    assert (
        every(other, x, lengths, rows).item()
        != objective.match(Trainable(network), hidden=0)(other, x, lengths, rows).item()
    )


def test_a_device_that_is_not_there_is_refused():
    model = Trainable(training.lstm(2, 3, 2))
    for name in ("abacus", "cuda:99", "meta"):
        with pytest.raises(
            SparseGateError, match=f"cannot train on '{name}', expected cpu, or cuda where there is one"
        ):
            training.fit(model, objective.last_class([0]), np.zeros((1, 2, 2)), device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_a_gpu():
    """The same training as on the CPU, up to the order of sums; the module comes back."""
    x, y = np.random.default_rng(0).normal(size=(32, 5, 3)), np.arange(32) % 2
    found = {}
    for device in ("cpu", "cuda"):
        model = Trainable(training.lstm(3, 4, 2))
        training.fit(model, objective.last_class(y), x, recipe=Recipe(2, 1e-2, noise=0.0), device=device)
        assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
        found[device] = model.network().evaluate(x).outputs
    assert np.abs(found["cpu"] - found["cuda"]).max() < 1e-3
