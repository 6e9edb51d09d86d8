"""Pruning by parametrizations, in a training loop of the user's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparsegate
from sparsegate.errors import SparseGateError
from sparsegate.pattern import DENSE, NM, parse
from sparsegate.training import masks as prune
from sparsegate.training.masks import attach, move
from sparsegate.training.schedule import Annealed, Cubic, OneShot

EVERY = ["2:4", "unstructured:1/4", "bbs:1:3", "ese:1/4:4", "block:1/4:2x2", "cbtd:1/4:4"]
SCHEDULES = [OneShot(3), Cubic(1, 6, 2), Annealed(1, 6)]


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


def loop(model, pruner, optimizer, steps: int, seed: int = 0, clip: float | None = None) -> list[float]:
    """Training steps on drawn data; the densities after each. Steps are drawn by their number, so that a run can be cut in two."""
    densities = []
    for step in range(steps):
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed + step)).to(
            next(model.parameters()).dtype
        )
        loss = (model(x) - x[..., :3].cumsum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
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
        NM(2, 6).check(x_weight, 4, "x")
        NM(1, 4).check(h_weight, 4, "h")
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
    NM(2, 4).check(matrix(model.lstm.weight_ih_l0), 4, "x")
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
        nm.check(weight, rows, name)
        assert np.count_nonzero(weight) == weight.size * nm.n // nm.m


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("text", EVERY)
def test_every_pattern_and_schedule(model, text, schedule):
    pruner = attach(model, text, schedule)
    densities = loop(model, pruner, torch.optim.Adam(model.parameters(), 1e-2), 8)
    assert densities[0] == 1.0
    assert densities[schedule.end - 1 :] == [densities[-1]] * (9 - schedule.end)
    assert densities[-1] == parse(text).density
    pruner.finish()
    for name, weight in model.lstm.named_parameters():
        if name.startswith("weight"):
            parse(text).check(matrix(weight), 4, name)
            assert np.count_nonzero(matrix(weight)) == weight.numel() * parse(text).density
    assert pruner.patterns == {"lstm": (NM(2, 4), NM(2, 4)) if text == "2:4" else (DENSE, DENSE)}


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1),
        lambda parameters: torch.optim.RMSprop(parameters, 1e-3),
        lambda parameters: torch.optim.Adagrad(parameters, 1e-2),
    ],
    ids=["SGD", "AdamW", "RMSprop", "Adagrad"],
)
@pytest.mark.parametrize("regrow", [False, True])
def test_any_optimizer_and_clipped_gradients(model, make, regrow):
    pruner = attach(model, "1:4", Cubic(0, 6), regrow=regrow)
    before = matrix(model.lstm.parametrizations.weight_hh_l0.original).copy()
    loop(model, pruner, make(model.parameters()), 8, clip=0.5)
    pruner.finish()
    weight = matrix(model.lstm.weight_hh_l0)
    assert np.count_nonzero(weight) == weight.size // 4
    assert (weight != before)[weight != 0].all()


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said by PyTorch when the flags go back to what they were
def test_autocast(model):
    """Mixed precision: bfloat16 products, float32 weights and masks.

    Without oneDNN, which has no LSTM of bfloat16 on processors that lack its instructions, and raises.
    """
    pruner = attach(model, "1:4", Cubic(0, 4), regrow=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16):
            y = model(torch.randn(4, 5, 6))
        assert y.dtype == torch.bfloat16
        optimizer.zero_grad()
        y.float().square().mean().backward()
        assert model.lstm.parametrizations.weight_ih_l0.original.grad.dtype == torch.float32
        optimizer.step()
        pruner.step()
    pruner.finish()
    NM(1, 4).check(matrix(model.lstm.weight_ih_l1), 4, "x")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # as above
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("regrow", [False, True])
def test_a_gradient_scaler_in_a_loop_of_mixed_precision(model, kind, regrow):
    """Steps that it skips, as their gradients overflow, change no weight, and the masks go on by their schedule."""
    expected = attach(copy.deepcopy(model), "1:4", Cubic(0, 6))
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = attach(model, "1:4", Cubic(0, 6), regrow=regrow, scaler=scaler)
    parametrization = model.lstm.parametrizations.weight_hh_l0
    overflows = (2, 5, 8)  # while masks change, at the step that freezes them, and after
    for step in range(10):
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(step))
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", kind):
            y = model(x)
        assert y.dtype == kind
        loss = (y.float() - x[..., :3].cumsum(1)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss * (1e38 if step in overflows else 1.0)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before, scale = parametrization.original.detach().clone(), scaler.get_scale()
        mask = parametrization[0].mask.clone()
        scaler.step(optimizer)
        scaler.update()
        moved = parametrization.original.detach() != before
        assert moved.any() == (step not in overflows)
        assert scaler.get_scale() == (scale / 2 if step in overflows else scale)
        frozen = pruner.frozen
        pruner.step()
        expected.step()
        assert (pruner.count, pruner.density) == (expected.count, expected.density)
        assert not frozen or torch.equal(parametrization[0].mask, mask)
        weight = model.lstm.weight_hh_l0
        assert torch.equal(weight, torch.where(parametrization[0].mask, parametrization.original, 0))
        assert weight.isfinite().all()
    assert pruner.frozen
    pruner.finish()
    for name, weight in model.lstm.named_parameters():
        if name.startswith("weight"):
            NM(1, 4).check(matrix(weight), 4, name)
            assert np.count_nonzero(matrix(weight)) == weight.numel() // 4


@pytest.mark.parametrize("regrow", [False, True])
def test_a_gradient_scaler_changes_no_number(model, regrow):
    """Scales are powers of two: the decay of masked weights included, a scaled run gives the same weights to the bit."""

    def trained(scaler):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.Adam(twin.parameters(), 1e-2)
        pruner = attach(twin, "1:4", Cubic(0, 5), regrow=regrow, decay=0.1, scaler=scaler)
        for step in range(7):
            x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(step))
            loss = (twin(x) - x[..., :3].cumsum(1)).square().mean()
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            pruner.step()
        return twin.state_dict()

    plain, scaled = trained(None), trained(torch.amp.GradScaler("cpu"))
    for name, value in plain.items():
        assert torch.equal(value, scaled[name]), name


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_any_precision_of_the_weights(model, kind):
    model.to(kind)
    pruner = attach(model, "1:4", Cubic(0, 3), regrow=True)
    loop(model, pruner, torch.optim.SGD(model.parameters(), 0.1), 3)
    pruner.finish()
    assert model.lstm.weight_hh_l0.dtype == kind
    assert np.count_nonzero(matrix(model.lstm.weight_hh_l0)) == model.lstm.weight_hh_l0.numel() // 4


class Wrapper(nn.Module):
    """What frameworks wrap a model in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values):
        return self.module(*values)


@pytest.mark.parametrize("wrap", [nn.DataParallel, Wrapper])
@pytest.mark.parametrize("late", [False, True])
def test_wrapped_models(model, wrap, late):
    """Masks put on before or after wrapping make no difference to the numbers."""
    plain = copy.deepcopy(model)
    expected = attach(plain, "2:4", Cubic(1, 5))
    loop(plain, expected, torch.optim.Adam(plain.parameters(), 1e-2), 6)
    if late:
        wrapped = wrap(model)
        pruner = attach(wrapped, {"module.lstm": "2:4"}, Cubic(1, 5))
    else:
        pruner = attach(model, "2:4", Cubic(1, 5))
        wrapped = wrap(model)
    loop(wrapped, pruner, torch.optim.Adam(wrapped.parameters(), 1e-2), 6)
    pruner.finish()
    expected.finish()
    assert pruner.density == 0.5
    for (name, weight), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(weight, other), name
    assert pruner.patterns == {"module.lstm" if late else "lstm": (NM(2, 4), NM(2, 4))}


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone."""
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("late", [False, True])
def test_distributed_data_parallel(model, process_group, tmp_path, late):
    """It trains as the model alone does, and a checkpoint in the middle of the schedule resumes, wrapped again or not."""
    from torch.nn.parallel import DistributedDataParallel

    def start(own, wrap=True):
        if late and wrap:
            whole = DistributedDataParallel(own)
            pruner = attach(whole, {"module.lstm": "2:4"}, Annealed(1, 5), regrow=True)
        else:
            pruner = attach(own, {"lstm": "2:4"}, Annealed(1, 5), regrow=True)
            whole = DistributedDataParallel(own) if wrap else own
        return whole, pruner, torch.optim.Adam(whole.parameters(), 1e-2)

    plain, expected, optimizer = start(copy.deepcopy(model), wrap=False)
    loop(plain, expected, optimizer, 7)
    whole, pruner, optimizer = start(copy.deepcopy(model))
    before = model.lstm.weight_hh_l1.detach().clone()
    loop(whole, pruner, optimizer, 3)
    saved = {"model": whole.state_dict(), "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}
    torch.save(saved, tmp_path / "half.pt")

    whole, pruner, optimizer = start(Tagger())  # other weights
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    whole.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    pruner.load_state_dict(saved["pruner"])
    assert pruner.count == 3
    loop(whole, pruner, optimizer, 4, seed=3)
    assert pruner.frozen
    for (name, value), other in zip(plain.state_dict().items(), whole.module.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    pruner.finish()
    weight = whole.module.lstm.weight_hh_l1
    NM(2, 4).check(matrix(weight), 4, "weight_hh_l1")
    assert np.count_nonzero(matrix(weight)) == weight.numel() // 2
    assert (weight != before)[weight != 0].all()
    whole = whole if late else DistributedDataParallel(whole.module)  # one that was made with the masks misses them
    loop(whole, pruner, optimizer, 2)  # the wrapper still hears of every gradient


def test_a_model_and_its_pruner_can_be_copied_together(model):
    pruner = attach(model, "1:4", Cubic(0, 6))
    loop(model, pruner, torch.optim.SGD(model.parameters(), 0.1), 3)
    twin, other = copy.deepcopy((model, pruner))
    loop(twin, other, torch.optim.SGD(twin.parameters(), 0.1), 4)
    other.finish()
    assert np.count_nonzero(matrix(twin.lstm.weight_hh_l0)) == 144
    assert pruner.count == 3
    assert model.lstm.parametrizations.weight_hh_l0[0].mask.sum() > 144


# regrowth


def test_straight_through_gradients_reach_masked_weights(model):
    """SR-STE: the gradient of the masked weight, and for what is masked the decay besides."""
    attach(model, {"fc": "1:3"}, Cubic(0, 1), regrow=True, decay=0.25)
    parametrization = model.fc.parametrizations.weight
    keep = torch.from_numpy(NM(1, 3).mask(matrix(parametrization.original), 1))
    parametrization[0].mask.copy_(keep)
    x = torch.randn(7, 12)
    model.fc(x).square().sum().backward()
    weight = parametrization.original.detach()
    masked = torch.where(keep, weight, 0).requires_grad_()
    nn.functional.linear(x, masked, model.fc.bias.detach()).square().sum().backward()
    assert torch.equal(parametrization.original.grad, masked.grad + 0.25 * torch.where(keep, 0, weight))
    assert torch.equal(model.fc.weight, masked)


def test_masked_weights_can_return_until_masks_are_frozen(model):
    pruner = attach(model, "1:4", Cubic(0, 2), regrow=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parametrization = model.lstm.parametrizations.weight_hh_l0
    pruner.step()
    mask, weight = parametrization[0].mask.clone(), parametrization.original.detach().clone()
    with torch.no_grad():  # what the gradients of a long training may do
        parametrization.original[~mask] *= 1000
    loop(model, pruner, optimizer, 1)
    assert (parametrization[0].mask & ~mask).any()
    assert pruner.frozen
    mask, weight = parametrization[0].mask.clone(), parametrization.original.detach().clone()
    loop(model, pruner, optimizer, 3)
    assert torch.equal(parametrization[0].mask, mask)
    moved = parametrization.original.detach() != weight
    assert moved.any()
    assert not (moved & ~mask).any()  # below frozen masks nothing trains, and no gradient counts in a clipped norm


def test_annealed_drops_come_from_the_seed_and_the_step(model):
    def masks(seed: int) -> list[np.ndarray]:
        twin = copy.deepcopy(model)
        pruner = attach(twin, "cbtd:1/4:4", Annealed(0, 8, every=2), seed=seed)
        found = []
        for _ in range(8):
            pruner.step()
            found.append(twin.lstm.parametrizations.weight_hh_l0[0].mask.numpy().copy())
        return found

    first, again, other = masks(0), masks(0), masks(1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[2] != other[2]).any()
    assert (first[1] == first[2]).all()  # steps 2 and 3: drawn anew at even ones
    assert (first[3] & ~first[1]).any()  # what fell at step 2 may stand at step 4: every draw is a new one
    least = parse("cbtd:1/4:4").mask(matrix(model.lstm.weight_hh_l0), 4)
    assert all(mask[least].all() for mask in first)  # only what is outside of the pattern can fall
    assert (first[7] == least).all()
    dropped = [
        1 - mask[~least].mean() for mask in first
    ]  # weights do not train here, so that every share is one draw of 432
    assert np.allclose(dropped, [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1], atol=0.08)


def test_matrices_draw_apart():
    model = nn.LSTM(12, 12)
    with torch.no_grad():
        model.weight_ih_l0.copy_(model.weight_hh_l0)
    pruner = attach(model, "unstructured:1/4", Annealed(0, 2))
    pruner.step()
    x, h = (model.parametrizations[name][0].mask for name in ("weight_ih_l0", "weight_hh_l0"))
    assert not torch.equal(x, h)


# resuming


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("text", ["1:4", "block:1/4:2x2"])
def test_a_half_pruned_run_goes_on_from_its_checkpoint_bit_by_bit(model, tmp_path, text, schedule, regrow):
    def start(model):
        pruner = attach(model, (text, "dense"), schedule, regrow=regrow, seed=11)
        return pruner, torch.optim.AdamW(model.parameters(), 1e-2)

    whole = copy.deepcopy(model)
    pruner, optimizer = start(whole)
    loop(whole, pruner, optimizer, 4, seed=0)
    checkpoint = {"model": whole.state_dict(), "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}
    torch.save(checkpoint, tmp_path / "half.pt")
    loop(whole, pruner, optimizer, 5, seed=4)

    again = Tagger()  # other weights
    resumed, optimizer = start(again)
    state = torch.load(tmp_path / "half.pt", weights_only=True)
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["pruner"])
    assert resumed.count == 4
    loop(again, resumed, optimizer, 5, seed=4)
    assert (resumed.count, resumed.density) == (pruner.count, pruner.density)
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    pruner.finish()
    resumed.finish()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_frozen_run_resumes_frozen(model):
    def start(model):
        return attach(model, "1:4", Cubic(0, 2), regrow=True)

    pruner = start(model)
    pruner.step()
    pruner.step()
    other = start(Tagger())
    other.load_state_dict(pruner.state_dict())
    assert other.frozen
    assert other.density == 0.25
    assert all(target.mask.regrow is None for target in other._targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"patterns": "1:6"},
            r"patterns of the pruner is \{.*'lstm.weight_ih_l0': '1:4'.*\} in the checkpoint, but \{.*'1:6'",
        ),
        ({"patterns": {"lstm": "1:4", "fc": "1:3"}}, "patterns of the pruner is"),
        (
            {"schedule": Cubic(0, 9)},
            r"schedule of the pruner is 'Cubic\(begin=0, end=8, every=1\)' in the checkpoint, but .*end=9",
        ),
        ({"schedule": Annealed(0, 8)}, "schedule of the pruner is 'Cubic"),
        ({"seed": 1}, "seed of the pruner is 0 in the checkpoint, but 1 here"),
        ({"regrow": True}, "regrow of the pruner is None in the checkpoint, but 0.0002 here"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_state_of_another_pruning_is_refused(model, change, message):
    state = attach(copy.deepcopy(model), "1:4", Cubic(0, 8)).state_dict()
    pruner = attach(model, **({"patterns": "1:4", "schedule": Cubic(0, 8)} | change))
    with pytest.raises(SparseGateError, match=message):
        pruner.load_state_dict(state)
    with pytest.raises(SparseGateError, match="this is no state of a pruner: 'count' is missing"):
        pruner.load_state_dict({})
    assert pruner.count == 0


# patterns by name


def test_patterns_of_layers_and_matrices():
    model = nn.ModuleDict({"lstm": nn.LSTM(12, 12, num_layers=2, bidirectional=True), "fc": nn.Linear(24, 3)})
    wanted = {
        "lstm": "1:2",
        "lstm.l1": ("1:3", "bbs:1:4"),
        "lstm.weight_hh_l0": "1:6",
        "fc.weight": "1:3",
    }
    pruner = attach(model, wanted, OneShot())
    pruner.finish()
    found = {
        name: np.count_nonzero(matrix(weight)) / weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim == 2
    }
    third, fourth, sixth = 1 / 3, 1 / 4, 1 / 6
    assert found == {
        "lstm.weight_ih_l0": 0.5,
        "lstm.weight_hh_l0": sixth,
        "lstm.weight_ih_l0_reverse": 0.5,
        "lstm.weight_hh_l0_reverse": 0.5,
        "lstm.weight_ih_l1": third,
        "lstm.weight_hh_l1": fourth,
        "lstm.weight_ih_l1_reverse": 0.5,
        "lstm.weight_hh_l1_reverse": 0.5,
        "fc.weight": third,
    }
    assert pruner.patterns == {
        "lstm_l0": (NM(1, 2), NM(1, 6)),
        "lstm_l0_reverse": (NM(1, 2), NM(1, 2)),
        "lstm_l1": (NM(1, 3), DENSE),
        "lstm_l1_reverse": (NM(1, 2), NM(1, 2)),
        "fc": (NM(1, 3), DENSE),
    }
    network = sparsegate.load(model, layers=["lstm", "fc"], patterns=pruner.patterns)
    assert {layer.name: (layer.pattern_x, layer.pattern_h) for layer in network.layers} == pruner.patterns


def test_one_matrix_alone(model):
    pruner = attach(model, {"lstm.weight_hh_l1": "1:4"}, OneShot())
    assert [target.label for target in pruner._targets] == ["lstm.weight_hh_l1"]
    assert pruner.patterns == {"lstm_l0": (DENSE, DENSE), "lstm_l1": (DENSE, NM(1, 4))}


def test_a_cell_and_a_model_that_is_one_module():
    cell = nn.GRUCell(4, 8)
    pruner = attach(cell, {"weight_hh": "1:4"}, OneShot())
    pruner.finish()
    assert pruner.patterns == {"grucell": (DENSE, NM(1, 4))}
    lstm = nn.LSTM(4, 8, bidirectional=True)
    pruner = attach(lstm, {"": "1:2", "l0_reverse": "1:4"}, OneShot())
    pruner.finish()
    assert pruner.patterns == {"lstm": (NM(1, 2), NM(1, 2)), "lstm_reverse": (NM(1, 4), NM(1, 4))}
    layers = sparsegate.load(lstm, patterns=pruner.patterns).layers
    assert [layer.pattern_h for layer in layers] == [NM(1, 2), NM(1, 4)]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection_by_its_name():
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 8, proj_size=4)})
    pruner = attach(model, {"lstm": "1:4", "lstm.weight_hr_l0": "1:2"}, OneShot())
    pruner.finish()
    assert np.count_nonzero(matrix(model["lstm"].weight_hr_l0)) == 16
    assert pruner.patterns == {"lstm": (NM(1, 4), NM(1, 4))}


def test_subclasses_are_pruned_as_what_they_are():
    class Own(nn.LSTM):
        """As a gate of another kind would be."""

    model = nn.ModuleDict({"own": Own(4, 8)})
    pruner = attach(model, "1:4", OneShot())
    assert pruner.density == 0.25
    pruner.finish()
    assert type(model["own"]) is Own


# importance


def test_another_score_than_the_magnitude(model):
    asked = []

    def score(name, weight):
        asked.append(name)
        return weight.abs() * torch.arange(1, weight.shape[1] + 1)  # as if later inputs were larger

    pruner = attach(model, {"lstm": ("dense", "unstructured:1/4")}, OneShot(), score=score)
    assert asked == ["lstm.weight_hh_l0", "lstm.weight_hh_l1"]
    weight = model.lstm.parametrizations.weight_hh_l0.original
    expected = parse("unstructured:1/4").mask(matrix(score("", weight)), 4)
    assert (model.lstm.parametrizations.weight_hh_l0[0].mask.numpy() == expected).all()
    assert pruner.density == 0.25
    with pytest.raises(SparseGateError, match=r"the score of fc.weight has shape \(3,\), expected \(3, 12\)"):
        attach(model, {"fc": "1:3"}, OneShot(), score=lambda name, weight: weight[:, 0])


def test_weights_that_are_not_numbers_are_refused(model):
    pruner = attach(model, "1:4", Cubic(0, 4))
    with torch.no_grad():
        model.lstm.parametrizations.weight_hh_l0.original[0, 0] = torch.nan
    with pytest.raises(SparseGateError, match="lstm.weight_hh_l0: 1 of the weights are NaN"):
        pruner.step()


def test_a_model_that_cannot_be_pruned_is_left_as_it_was(model):
    with torch.no_grad():
        model.lstm.weight_hh_l1[0, 0] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SparseGateError, match="lstm.weight_hh_l1: 1 of the weights are NaN"):
        attach(model, "1:4", OneShot())
    assert type(model.lstm) is nn.LSTM
    assert not model.lstm._forward_hooks
    assert not model.lstm._forward_pre_hooks
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, old in before.items():
        assert torch.equal(old.nan_to_num(7), after[name].nan_to_num(7)), name
    with torch.no_grad():
        model.lstm.weight_hh_l1[0, 0] = 0.0
    with pytest.raises(ZeroDivisionError):  # of the user's own
        attach(model, "1:4", OneShot(), score=lambda name, weight: weight / (1 // 0))
    assert type(model.lstm) is nn.LSTM
    assert attach(model, "1:4", OneShot()).density == 0.25


def test_masks_may_follow_the_weights_at_full_sparsity(model):
    """SR-STE trains at the final pattern all along."""
    pruner = attach(model, "1:4", OneShot(0, until=3), regrow=True)
    mask = model.lstm.parametrizations.weight_hh_l0[0].mask.clone()
    densities = loop(model, pruner, torch.optim.Adam(model.parameters(), 0.1), 4)
    assert densities == [0.25] * 4
    assert not torch.equal(mask, model.lstm.parametrizations.weight_hh_l0[0].mask)
    assert pruner.frozen


def test_refusals(model):
    with pytest.raises(SparseGateError, match="the decay of masked weights is 0 or more, not -1"):
        attach(model, "1:4", OneShot(), regrow=True, decay=-1)
    with pytest.raises(SparseGateError, match="a seed is 0 or more, not -1"):
        attach(model, "1:4", OneShot(), seed=-1)
    with pytest.raises(SparseGateError, match=r"a scaler is a torch.amp.GradScaler or the like, not 1024\.0"):
        attach(model, "1:4", OneShot(), regrow=True, scaler=1024.0)
    with pytest.raises(SparseGateError, match="a schedule is a OneShot, Cubic, Annealed or the like, not 'cubic'"):
        attach(model, "1:4", "cubic")
    with pytest.raises(SparseGateError, match="the model has no module 'gru'; it has lstm, fc"):
        attach(model, {"gru": "1:4"}, Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"'' is a Tagger; nn\.Linear, nn\.LSTM, .* can be pruned"):
        attach(model, {"": "1:4"}, Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"the model has no recurrent module to prune"):
        attach(nn.Linear(2, 2), "1:2", Cubic(0, 0))
    with pytest.raises(SparseGateError, match="a pattern is written like"):
        attach(model, "half", Cubic(0, 0))
    attach(model, "1:4", Cubic(0, 0))
    with pytest.raises(SparseGateError, match=r"lstm\.weight_ih_l0 already has a parametrization"):
        prune.attach(model, "1:4", Cubic(0, 0))
    for name in ("lstm.l7", "lstm.weight_hh_l9", "lstm.bias_ih_l0", "fc.l0"):
        with pytest.raises(SparseGateError, match=f"the model has no module {name!r}"):
            attach(Tagger(), {name: "1:4"}, OneShot())
    with pytest.raises(
        SparseGateError, match="fc.weight is one matrix and takes one pattern, not the pair 1:3 and 2:3"
    ):
        attach(Tagger(), {"fc.weight": ("1:3", "2:3")}, OneShot())


def test_a_pruned_model_moves_between_devices():
    """On the way recurrent modules collect their weights anew; masked ones, which hold a graph, must not stay among them."""
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 8, batch_first=True)})
    attach(model, "1:4", OneShot())
    before = copy.deepcopy(model.state_dict())
    move(model, torch.device("cpu"))  # where it is
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    move(model, torch.device("meta"))
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    copy.deepcopy(model)
    assert all(isinstance(weight, nn.Parameter) for weight in model["lstm"]._flat_weights)
