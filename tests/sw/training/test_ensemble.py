"""Several teachers as one."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from sparsegate import training
from sparsegate.errors import SparseGateError
from sparsegate.training import objective
from sparsegate.training.ensemble import Ensemble
from sparsegate.training.trainable import Trainable


def members(*sizes: tuple[int, int, int]) -> list[Trainable]:
    return [Trainable(training.lstm(*size, seed=seed)) for seed, size in enumerate(sizes)]


def test_outputs_are_the_logarithm_of_the_mean_probability() -> None:
    made = members((3, 4, 5), (3, 7, 5), (3, 2, 5))
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([torch.softmax(member(x), 2) for member in made]).mean(0)
    found = Ensemble(made)(x)
    assert found.shape == (2, 6, 5)
    torch.testing.assert_close(found.exp(), wanted)
    torch.testing.assert_close(torch.softmax(found, 2), wanted)


def test_of_one_member_says_what_the_member_says() -> None:
    (only,) = members((3, 4, 5))
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Ensemble([only])(x), torch.log_softmax(only(x), 2))


def test_a_student_learns_the_mean() -> None:
    """Two teachers that disagree: the student ends at their mean, and not at one of them."""
    made = members((2, 3, 2), (2, 3, 2))
    with torch.no_grad():
        for member, bias in zip(made, (3.0, -1.0), strict=True):
            head = member.parts[1]
            head.weight.zero_()
            head.bias.copy_(torch.tensor([bias, 0.0]))
    teacher = Ensemble(made)
    before = deepcopy(teacher.state_dict())
    (student,) = members((2, 3, 2))
    x = np.random.default_rng(0).normal(size=(64, 5, 2))
    aim = objective.match(teacher, "kl", 0, every=True)
    training.fit(student, aim, x, recipe=training.Recipe(60, 2e-2, noise=0.0))
    wanted = (1 / (1 + np.exp(-3.0)) + 1 / (1 + np.exp(1.0))) / 2
    found = torch.softmax(student(torch.from_numpy(x).float()), 2)[..., 0].detach().numpy()
    assert np.abs(found - wanted).max() < 0.03
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_hidden_layers_cannot_be_matched() -> None:
    teacher = Ensemble(members((2, 3, 2), (2, 3, 2)))
    (student,) = members((2, 3, 2))
    with pytest.raises(SparseGateError, match=r"layers of \[3, 2\] outputs cannot match a teacher's of \[2\]"):
        objective.match(teacher, "kl")(student, torch.zeros(1, 2, 2), np.array([2]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("sizes", "found"),
    [((), "not none"), (((3, 4, 5), (3, 4, 6)), "not 3 to 5, 3 to 6"), (((2, 4, 5), (3, 4, 5)), "not 2 to 5, 3 to 5")],
)
def test_refuses_what_has_no_mean(sizes: tuple[tuple[int, int, int], ...], found: str) -> None:
    with pytest.raises(SparseGateError, match=f"same inputs and outputs, {found}"):
        Ensemble(members(*sizes))
