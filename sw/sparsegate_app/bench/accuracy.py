"""Accuracy of every way of compression on real tasks, over seeds: ``make bench-accuracy``.

A *case* is what one row of the table measures: how a network is trained, pruned and quantized. Rows and networks are kept in a work
folder as soon as they are there, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sparsegate import artefact, pattern, quantize
from sparsegate.cells import cell
from sparsegate.compress import gates, low_rank, permute
from sparsegate.errors import SparseGateError
from sparsegate.golden import temporal
from sparsegate.network import Network
from sparsegate.pattern import DENSE, Pattern
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training import objective, sampling, train
from sparsegate.training.ensemble import Ensemble
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.gumbel import G2LSTM
from sparsegate.training.objective import Objective
from sparsegate.training.quiet import quiet
from sparsegate.training.schedule import Cubic
from sparsegate.training.train import Recipe
from sparsegate.training.trainable import Trainable
from sparsegate_app.bench.tasks import ERRORS, Part, Task, lost, missing, open_task
from sparsegate_app.console import Task as Shown
from sparsegate_app.console import TimeLeft

THETAS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
BUDGET = 0.3
"""What Θ may cost on validation data: points of a share, percent of any other figure."""
Curve = dict[int, float]
"""The deciding figure at each Θ."""
CALIBRATION = 300
"""Training sequences that formats are calibrated on."""

POLL = 2.0
"""Seconds between two looks at how far the processes are."""
TEMPERATURE = 2.0
"""At which a baseline's outputs are softened for those who learn from them."""
VERSION = 1
"""Counts up when a change of this module makes networks of an earlier one invalid."""
ROWS = 2
"""Counts up when rows are measured in another way; networks stay."""


@dataclass(frozen=True)
class Case:
    """One way of compressing a task's network.

    ``pattern``: of both matrices of the recurrent layers, as ``pattern.parse`` takes it. ``bits``: of weights; ``levels`` instead,
    where they have an odd number of levels. ``gates``: "plain", or "g2" for training with Gumbel gates. ``permuted``: units are
    relabelled before pruning. ``rank``: of the projection that a recurrent matrix is factored into; 0 for none. ``theta`` and
    ``quiet``: threshold in the forward pass of fine-tuning, and weight of the penalty on moving hidden states.
    """

    pattern: str = "dense"
    bits: int = 8
    activation_bits: int = 8
    schedule: str = "cubic"
    gates: str = "plain"
    permuted: bool = False
    rank: int = 0
    theta: int = 0
    quiet: float = 0.0
    levels: int = 0

    @property
    def method(self) -> str:
        """What is special, in words; empty for plain pruning and quantization."""
        said = [
            "annealed" if self.schedule == "annealed" else "",
            "G2 gates" if self.gates == "g2" else "",
            "units permuted" if self.permuted else "",
            f"rank {self.rank}, projection dense" if self.rank else "",
            f"trained at Θ = {self.theta}" if self.theta else "",
            f"penalty {self.quiet:g}" if self.quiet else "",
            f"{self.levels} levels" if self.levels else "",
        ]
        return ", ".join(filter(None, said))

    @property
    def words(self) -> str:
        """The case in a few words."""
        return ", ".join(filter(None, [self.pattern, f"{self.bits} bits" if self.bits != 8 else "", self.method]))

    @property
    def slug(self) -> str:
        """A file name; cases that differ differ in it."""
        values = (
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        )
        return "-".join(values).replace(":", "_").replace("/", "_") or "plain"


@dataclass(frozen=True)
class Plan:
    """How a task is trained, and its cases."""

    baseline: Recipe
    prune: Recipe
    few: Recipe
    """Fine-tuning on exact integers, of weights with fewer than 8 bits and where Θ is trained; the others are rounded."""
    cases: tuple[Case, ...]
    regrow: bool = False
    teach: bool = False
    """Pruned networks learn from the float baseline: classes from its softened outputs, values from their mean with it."""
    labels: bool = False
    """They learn classes from the labels as well."""
    teachers: int = 1
    """So many baselines, of this seed and the next ones, teach together."""
    samples: int = 0
    """How many times as many sequences as there are for training the baseline writes, for those who learn from it."""
    until: float = 0.5
    """Share of the steps after which masks are frozen."""
    longer: tuple[tuple[str, int], ...] = ()
    """Patterns that are pruned over another number of epochs than ``prune`` says."""
    hidden: float = 1.0
    """Weight of the hidden layers in the distillation of a model that others trained."""
    distance: objective.Distance = "squared"
    formats: tuple[tuple[str, int], ...] = ()
    """Widths that a task needs beside those of weights and activations, by their names in QuantizeConfig."""
    full: Recipe | None = None
    """Fine-tuning with 8 bits, where rounding alone loses something."""

    def words(self, task: Task) -> str:
        """How a network is trained, pruned and quantized, for the page."""

        def recipe(one: Recipe) -> str:
            return f"{one.epochs} epochs, rate {one.rate:g}, batch {one.batch}, noise {one.noise:g}"

        if task.teacher is not None:
            baseline = "as its authors trained it"
            teacher = f"the baseline's outputs ({self.distance}) and hidden states, without labels"
        else:
            baseline, teacher = recipe(self.baseline), "the labels"
            own = "the baseline's outputs"
            if self.teach and task.kind == "value":
                several = f"the averaged outputs of {self.teachers} baselines (of this seed and the next ones)"
                teacher = f"the mean of the true values and {several if self.teachers > 1 else own}"
            elif self.teach:
                teacher = own
                if self.teachers > 1:
                    teacher = f"the mean of {self.teachers} baselines' outputs (of this seed and the next ones)"
                teacher += " and the labels" * self.labels
                if self.samples:
                    teacher += f" on the training data and {self.samples} times as much that the baseline wrote itself"
        share = f"{100 * self.until:g} % of the steps"
        tuned = f"then {recipe(self.full)} on exact integers" if self.full else "no training"
        said = [
            f"Baseline: {baseline}",
            f"pruned: {recipe(self.prune)}"
            + "".join(f" ({name}: {epochs} epochs)" for name, epochs in self.longer)
            + f", masks frozen after {share}, learning from {teacher}",
            f"8 bits: weights rounded with compensation, biases corrected, {tuned}",
        ]
        if any(self.trains(case) for case in self.cases):
            said.append(f"fewer bits, or trained at a Θ: {recipe(self.few)} on exact integers")
        return "; ".join(said + [f"{name} {bits}" for name, bits in self.formats])

    def pruning(self, case: Case) -> Recipe:
        """How a case is pruned."""
        return replace(self.prune, epochs=dict(self.longer).get(case.pattern, self.prune.epochs))

    def measuring(self, case: Case) -> str:
        """What makes the row of a case beside its network."""
        return f"{case} {self.trains(case)} {self.formats} rows {ROWS}"

    def trains(self, case: Case) -> Recipe | None:
        """How a case is fine-tuned on exact integers; None where it is only rounded."""
        return self.few if case.bits < 8 or case.theta or case.quiet else self.full


COLUMNS = ("1:4", "1:8", "2:16", "1:16", "2:32")
RIVALS = ("unstructured:1/8", "bbs:2:16", "ese:1/8:16", "block:1/8:4x4")


PATTERNS = (
    *(Case(name) for name in ("dense", *COLUMNS, *RIVALS)),
    Case("cbtd:1/8:8", schedule="annealed"),
    *(Case("2:16", bits) for bits in (6, 4, 3, 2)),
)
"""Every pattern at 8 bits, and fewer bits of weights."""


def _every(hidden: int) -> tuple[Case, ...]:
    """The whole programme, for the small tasks."""
    return (
        *PATTERNS,
        Case("2:16", 3, levels=5),
        Case("1:8", permuted=True),
        *(Case(name, gates="g2") for name in ("dense", "2:16")),
        Case("2:16", rank=hidden // 4),
        Case("2:16", theta=8),
        Case("2:16", theta=8, quiet=1.0),
    )


PLANS: dict[str, Plan] = {
    "vowels": Plan(
        Recipe(60, 5e-3), Recipe(120, 5e-3), Recipe(20, 2e-3), _every(64), regrow=True, teach=True, labels=True
    ),
    "digits-64": Plan(
        Recipe(40, 5e-3, 64, bucket=8),
        Recipe(60, 5e-3, 64, bucket=8),
        Recipe(8, 2e-3, 64, bucket=8),
        _every(64),
        regrow=True,
        teach=True,
    ),
    "digits-128": Plan(
        Recipe(40, 5e-3, 64, bucket=8),
        Recipe(30, 5e-3, 64, bucket=8),
        Recipe(6, 2e-3, 64, bucket=8),
        PATTERNS,
        regrow=True,
        teach=True,
        full=Recipe(6, 2e-3, 64, bucket=8),
    ),
    "keywords": Plan(
        Recipe(1, 1e-3),
        Recipe(40, 5e-3, 32, 0.1),
        Recipe(4, 5e-4, 64, 0.0),
        tuple(Case(name) for name in ("dense", "1:8")),
        regrow=True,
        hidden=0.3,
        distance="kl",
    ),
    "speakers": Plan(
        Recipe(1, 1e-3),
        Recipe(40, 3e-3, 32, 0.0),
        Recipe(2, 3e-4, 32, 0.0),
        (Case("2:32"),),
        regrow=True,
        distance="cosine",
        formats=(("input_bits", 16),),  # a power spectrum without logarithm spans six decades
    ),
    "engines": Plan(
        Recipe(100, 5e-3, 10),
        Recipe(
            100, 5e-3, 10, 0.3
        ),  # who learns from three teachers needs less noise; baselines are worse with as little
        Recipe(10, 5e-4, 10),
        tuple(Case(name) for name in ("dense", *COLUMNS)),
        regrow=True,
        teach=True,
        teachers=3,
        formats=(
            ("gate_bits", 14),
            ("state_bits", 20),
        ),  # sequences of hundreds of steps: forget gates are near 1, what is left of 1 counts, and states grow
    ),
    "characters": Plan(
        Recipe(8, 1e-2, 24, 0.0),
        Recipe(4, 1.2e-2, 8, 0.0),
        Recipe(1, 2e-4, 24, 0.0),
        (Case(), Case("1:4"), Case("1:8", permuted=True), Case(gates="g2")),
        regrow=True,
        teach=True,
        teachers=3,
        samples=4,
        until=0.25,
        longer=(("1:8", 10),),
    ),
}


def plan_of(name: str) -> Plan:
    """The plan of a task; a user's own data are treated like the vowels."""
    if name.endswith(".npz"):
        return PLANS["vowels"]
    if name not in PLANS:
        raise SparseGateError(
            f"there is no task {name!r}; the tasks are {', '.join(PLANS)}, or an .npz file of your own"
        )
    return PLANS[name]


def objective_of(task: Task, plan: Plan) -> Objective:
    if task.kind == "match":
        assert task.teacher is not None
        return objective.match(Trainable(task.teacher), plan.distance, plan.hidden, TEMPERATURE)
    makers = {"last": objective.last_class, "step": objective.step_class, "value": objective.step_value}
    return makers[task.kind](task.train.target)


class Bench:
    """One task and seed: stages that later cases share are kept in ``work``."""

    def __init__(
        self,
        name: str,
        seed: int,
        folder: Path,
        work: Path,
        plan: Plan | None = None,
        device: str = "cpu",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plan, self.device, self.say = plan or plan_of(name), device, say
        self.task, self.seed = open_task(name, folder, work), seed
        self.work = _folder(work, name, seed)
        self.recipe = objective_of(self.task, self.plan)

    def row(self, case: Case) -> dict[str, Any]:
        """Measure a case, or read what an earlier run measured."""
        row = self.kept(case)
        if row is None:
            row = self._measure(case)
            artefact.write_json(self.work / f"{case.slug}.json", {"key": self._row_key(case), "row": row})
        return row

    def kept(self, case: Case) -> dict[str, Any] | None:
        """The row that an earlier run measured; None where there is none, or one of another plan."""
        path = self.work / f"{case.slug}.json"
        found = artefact.read_json(path) if path.exists() else {}
        return found["row"] | {"method": case.method} if found.get("key") == self._row_key(case) else None

    def _row_key(self, case: Case) -> str:
        return f"{self._key(case)} {self.plan.measuring(case)}"

    def float(self, gates: str = "plain") -> Network:
        """The float baseline: trained here, or by others."""
        if self.task.teacher is not None:
            return self.task.teacher
        return self._kept(f"float-{gates}", self._float_key, lambda: self._float(gates))

    def pruned(self, case: Case) -> Network:
        """The pruned network in float, fine-tuned; of a dense case the baseline."""
        only = replace(case, bits=8, activation_bits=8, theta=0, quiet=0.0, levels=0)
        if parsed(only.pattern).dense and not only.rank:
            return self.float(case.gates)
        return self._kept(only.slug, self._key(only), lambda: self._pruned(only))

    @property
    def _float_key(self) -> str:
        return f"{VERSION} {self.plan.baseline}"

    def _key(self, case: Case) -> str:
        """What made the network of a case: of another key, it is made again."""
        plan = self.plan
        how = f"{plan.pruning(case)} {plan.regrow} {plan.teach} {plan.hidden} {plan.distance}"
        how += (
            f" teachers {plan.teachers}" * (plan.teachers > 1)
            + f" samples {plan.samples}" * (plan.samples > 0)
            + " labels" * plan.labels
            + f" until {plan.until}" * (plan.until != 0.5)
        )
        if self.task.teacher is not None:  # all that such a network learns from are the sequences themselves
            how += f" {len(self.task.train)} sequences"
        dense = parsed(case.pattern).dense and not case.rank
        return self._float_key if dense else f"{self._float_key} {how}"

    def program(self, case: Case, network: Network) -> Program:
        """The Program, fine-tuned on exact integers."""
        task, plan = self.task, self.plan
        config = QuantizeConfig(
            weight_bits=case.bits,
            activation_bits=case.activation_bits,
            weight_levels=case.levels or None,
            rounding="compensated",
            bias_correction=True,
            **dict(plan.formats),  # type: ignore[arg-type]
        )
        some = task.train.take(slice(None, None, max(1, len(task.train) // CALIBRATION)))
        start, formats = quantize.prepare(network, some.x, some.lengths, config)
        recipe = plan.trains(case)
        if recipe is None:
            return quantize.build(start, formats, config)
        held = not parsed(case.pattern).dense
        model = FakeQuant(start, formats, config, hold_zeros=held, pruned=network)
        aim = self.aim(case)
        if case.theta:
            model.thresholds = (case.theta,) * len(model.thresholds)
        if case.quiet:
            aim = quiet(aim, case.quiet)
        at = self._checkpoint(case.slug, f"{self._key(case)} {recipe}")
        shown = self._epochs(f"{case.words}: fine-tuning")
        train.fit(model, aim, task.train.x, task.train.lengths, recipe, self.seed, shown, checkpoint=at)
        return model.program()

    def aim(self, case: Case, asked: tuple[NDArray, NDArray] | None = None) -> Objective:
        """What pruned and quantized networks are trained for; ``asked`` as of ``objective.match``."""
        if not self.plan.teach:
            return self.recipe
        if self.task.kind in ("last", "step"):
            softened = TEMPERATURE if self.task.kind == "last" else 1.0
            every = self.task.kind == "step"
            taught = objective.match(self._teacher(case.gates), "kl", 0, softened, every, asked=asked)
            return objective.together(taught, self.recipe) if self.plan.labels else taught
        train = self.task.train
        said = [one.evaluate(train.x, train.lengths).outputs for one in self._teachers(case.gates)]
        return objective.step_value((train.target + np.mean(said, axis=0)) / 2)

    def _teacher(self, gates: str) -> nn.Module:
        """The baselines that teach classes, as one."""
        members = [Trainable(one) for one in self._teachers(gates)]
        return members[0] if len(members) == 1 else Ensemble(members)

    def _teachers(self, gates: str) -> list[Network]:
        """The baseline, and where several teach, those of the next seeds."""
        others = [self._of_seed(self.seed + more).float(gates) for more in range(1, self.plan.teachers)]
        return [self.float(gates), *others]

    def _of_seed(self, seed: int) -> Bench:
        """The same task and plan from another seed, whose baseline is kept for its own rows too."""
        other = copy(self)
        other.seed, other.work = seed, self.work.with_name(f"{self.work.name.rpartition('-')[0]}-{seed}")
        return other

    def _float(self, gates: str) -> Network:
        task = self.task
        start = train.lstm(task.train.x.shape[2], task.hidden, task.outputs, seed=self.seed, name=task.name)
        model = Trainable(start, G2LSTM if gates == "g2" else nn.LSTM)
        train.fit(
            model,
            self.recipe,
            task.train.x,
            task.train.lengths,
            self.plan.baseline,
            self.seed,
            self._epochs(f"{gates} baseline of seed {self.seed}"),
            checkpoint=self._checkpoint(f"float-{gates}", self._float_key),
            device=self.device,
        )
        return model.network()

    def _pruned(self, case: Case) -> Network:
        task, wanted, recipe = self.task, parsed(case.pattern), self.plan.pruning(case)
        network = self.float(case.gates)
        recurrent = [layer.name for layer in network.layers if cell(layer.kind).recurrent]
        if case.permuted:
            assert isinstance(wanted, pattern.NM)
            network = permute.permuted(network, permute.search(network, wanted, seed=self.seed))
        if case.rank:
            some = task.train.take(slice(None, None, max(1, len(task.train) // CALIBRATION)))
            network = low_rank.factor(network, dict.fromkeys(recurrent, case.rank), some.x, some.lengths)
        x, lengths = task.train.x, task.train.lengths
        if self.plan.samples:
            self.say(f"{case.words}: the baseline writes sequences")
            again = np.tile(np.arange(len(x)), self.plan.samples)
            written = sampling.sample(self.float(case.gates), x[again, 0].argmax(1), x.shape[1], self.seed, self.device)
            x, lengths = np.concatenate([x, written]), np.tile(lengths, 1 + self.plan.samples)
        return train.prune_and_fit(
            network,
            self.aim(case, None if recipe.noise else (x, lengths)),
            x,
            lengths,
            dict.fromkeys(recurrent, wanted),
            recipe,
            self.seed,
            self._epochs(f"{case.words}: pruning"),
            schedule=case.schedule if self.plan.until == 0.5 else self._schedule(len(x), recipe),
            regrow=self.plan.regrow,
            checkpoint=self._checkpoint(case.slug, self._key(case)),
            lstm=G2LSTM if case.gates == "g2" else nn.LSTM,
            device=self.device,
        )

    def _epochs(self, what: str) -> train.Progress:
        """Says how far a training is."""
        left = TimeLeft()
        self.say(what)

        def progress(epoch: int, epochs: int, loss: Any) -> None:
            self.say(f"{what}, epoch {epoch} of {epochs}{left(epoch, epochs, 1)}")

        return progress

    def _schedule(self, count: int, recipe: Recipe) -> Cubic:
        steps = recipe.epochs * max(1, round(count / recipe.batch))
        return Cubic(0, int(self.plan.until * steps), every=max(1, steps // 1000))

    def _checkpoint(self, slug: str, key: str) -> Path:
        """Where a training is kept between epochs; one of another plan has another name."""
        self.work.mkdir(parents=True, exist_ok=True)
        return self.work / f"{slug}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.checkpoint"

    def _kept(self, slug: str, key: str, make: Callable[[], Network]) -> Network:
        """A network of an earlier stage, made once."""
        path = self.work / f"{slug}.safetensors"
        found = _read(path, key)
        if found is not None:
            return found
        start = time.perf_counter()
        made = make()
        seconds = round(time.perf_counter() - start, 1)
        # baselines teach other seeds too, in processes of their own: the first one that is done counts, for all
        found = _read(path, key)
        if found is None:
            found = replace(made, meta={"bench": key, "seconds": seconds, "device": self.device})
            found.save(path)
        return found

    def _measure(self, case: Case) -> dict[str, Any]:
        start = time.perf_counter()
        task = self.task
        network = self.pruned(case)
        program = self.program(case, network)
        self.say(f"{case.words}: golden model")
        reference, figures = task.measure(self.float()), task.measure(network)
        golden = task.measure(program)
        main = next(iter(golden))
        validation = self.threshold(program)
        chosen = max(theta for theta, value in validation.items() if task.loss(value, validation[0]) <= BUDGET)
        slower = program.with_thresholds(chosen)
        row: dict[str, Any] = {"task": task.name, "case": asdict(case), "method": case.method, "seed": self.seed}
        # the baseline has none where others trained it
        where = {one.meta.get("device", "cpu") for one in (network, self.float(case.gates))}
        row["device"] = ", ".join(sorted(where - {"cpu"})) or "cpu"
        row |= {"density": density(network), **compression(network, program, parsed(case.pattern))}
        row |= {"measure": main, "float": reference, "pruned": figures, "golden": golden}
        row["loss"] = task.loss(golden[main], reference[main])
        row["skipped"] = _share(program.with_thresholds(0), task.test)
        if case.theta:
            row["skipped_as_trained"] = _share(program, task.test)
        row["validation"] = {str(theta): value for theta, value in validation.items()}
        row["theta"] = chosen
        row["golden_at_theta"] = task.measure(slower)
        row["skipped_at_theta"] = _share(slower, task.test)
        if task.teacher is None:
            values = gates.gate_values(network, task.test.x[:100], task.test.lengths[:100])
            names = {name for found in values.values() for name in found}
            row["gates_near_0_or_1"] = {
                name: round(
                    float(np.mean([gates.binary_share(found[name]) for found in values.values() if name in found])), 4
                )
                for name in sorted(names)
            }
        row["seconds"] = round(time.perf_counter() - start, 1)
        return row

    def threshold(self, program: Program) -> Curve:
        """The deciding figure on validation data for rising Θ, common to all vectors, up to the first that costs too much.

        All sequences count: eleven runs of the golden model are little beside the epochs of a training.
        """
        found: Curve = {}
        for theta in THETAS:
            found[theta] = next(iter(self.task.measure(program.with_thresholds(theta), self.task.validation).values()))
            if self.task.loss(found[theta], found[0]) > BUDGET:
                break
        return found


def parsed(text: str) -> Pattern:
    return pattern.parse(text)


def _read(path: Path, key: str) -> Network | None:
    """A network that was kept under a key; None where there is none."""
    found = Network.load(path) if path.exists() else None
    return found if found is not None and found.meta.get("bench") == key else None


def density(network: Network) -> float:
    """Share of nonzero weights in the matrices of the recurrent layers."""
    matrices = [matrix for layer in network.layers if cell(layer.kind).recurrent for matrix in _matrices(layer)]
    return round(sum(np.count_nonzero(matrix) for matrix in matrices) / sum(matrix.size for matrix in matrices), 6)


def compression(network: Network, program: Program, wanted: Pattern) -> dict[str, float]:
    """32-bit float weights of the dense model over what is stored, indices counted.

    ``compression_weights``: matrices of the recurrent layers. ``compression_model``: everything, with heads and biases. Where the
    recurrent layers were factored, the dense model is the one before.
    """
    dense = stored = other_dense = other_stored = 0
    for layer, made in zip(network.layers, program.layers, strict=True):
        recurrent = cell(layer.kind).recurrent
        for key, matrix in (("x", layer.w_x), ("h", layer.w_h), ("p", layer.w_p)):
            if matrix is None:
                continue
            form = made.formats["w" + key]
            own = wanted if recurrent and key != "p" else DENSE
            bits = own.storage(matrix, 1 if key == "p" else layer.gates, form.width).bits
            whole = 0 if key == "p" else matrix.shape[0] * (layer.units if key == "h" else matrix.shape[1])
            if recurrent:
                dense, stored = dense + 32 * whole, stored + bits
            else:
                other_dense, other_stored = other_dense + 32 * whole, other_stored + bits
        other_dense += 32 * layer.bias.size
        other_stored += made.formats["acc"].width * layer.bias.size
    return {
        "compression_weights": round(dense / stored, 3),
        "compression_model": round((dense + other_dense) / (stored + other_stored), 3),
    }


def _matrices(layer: Any) -> list[NDArray]:
    return [matrix for matrix in (layer.w_x, layer.w_h, layer.w_p) if matrix is not None]


def _share(program: Program, part: Part) -> float:
    some = part.take(slice(None, 100))
    return round(float(temporal.skipped(program, some.x, some.lengths).total), 4)


Unit = tuple[str, int]
"""A task and a seed."""


class Progress:
    """What the processes report, as one line: rows, time left, and what each of them does."""

    def __init__(self, units: Sequence[Unit], work: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.fresh = sum(len(plan_of(name).cases) for name, _ in units), 0, 0
        self.waiting = {unit: _likely(unit, work) for unit in units}
        """Units that have not begun, and how many rows they will find: those take no time."""
        self.now: dict[Unit, str] = {}
        self.left = TimeLeft(clock)
        self.left(0, self.total)

    def hear(self, unit: Unit, what: str, value: Any = None) -> None:
        """A unit has ``kept`` so many rows, measured a ``row``, ``say``s what it does, or is at its ``end``."""
        if what == "kept":
            self.waiting.pop(unit)
            self.done += value
        elif what == "row":
            self.done, self.fresh = self.done + 1, self.fresh + 1
        elif what == "say":
            self.now[unit] = value
        else:
            self.now.pop(unit, None)

    def __str__(self) -> str:
        ahead = self.total - self.done - sum(self.waiting.values())
        rows = f"{self.done} of {self.total} rows{self.left(self.fresh, self.fresh + ahead)}"
        return "; ".join([rows, *(f"{Path(name).stem} {seed}: {text}" for (name, seed), text in self.now.items())])


def _likely(unit: Unit, work: Path) -> int:
    """Rows of the plan as it is, though perhaps of another network: to know that, the data would have to be opened."""
    plan, count = plan_of(unit[0]), 0
    for case in plan.cases:
        path = _folder(work, *unit) / f"{case.slug}.json"
        count += path.exists() and artefact.read_json(path).get("key", "").endswith(f" {plan.measuring(case)}")
    return count


_reports: Any = None
"""Where a process tells how far it is."""


def _report_to(reports: Any) -> None:
    global _reports
    _reports = reports


def _seed_rows(name: str, seed: int, folder: Path, work: Path, device: str) -> tuple[str, list[dict[str, Any]]]:
    """What a task is and how it is trained, and all rows of a seed, in a process of its own."""

    def tell(what: str, value: Any = None) -> None:
        _reports.put(((name, seed), what, value))

    tell("say", "data")
    bench = Bench(name, seed, folder, work, device=device, say=lambda text: tell("say", text))
    found = {case: bench.kept(case) for case in bench.plan.cases}
    tell("kept", sum(row is not None for row in found.values()))
    for case, row in found.items():
        if row is None:
            found[case] = bench.row(case)
            tell("row")
    tell("end")
    about = f"{bench.task.data}. {bench.plan.words(bench.task)}"
    return about, [row for row in found.values() if row is not None]


def measure(
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    work: Path,
    jobs: int = 1,
    shown: Shown | None = None,
    device: str = "cpu",
) -> tuple[dict[str, Any], dict[str, str]]:
    """The record of the given tasks and seeds, and the reasons why tasks were skipped.

    Floats are trained on ``device``, integers always on the CPU. Tasks and seeds run in ``jobs`` processes; ``shown`` is told how
    many rows are there, how long the others will take at the pace so far, and what each process does.
    """
    skipped = {name: reason for name in names if (reason := missing(name, folder)) is not None}
    work.mkdir(parents=True, exist_ok=True)
    units = [(name, seed) for seed in seeds for name in names if name not in skipped]
    context, progress = get_context("spawn"), Progress(units, work)
    reports = context.SimpleQueue()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_report_to, initargs=(reports,)) as pool:
        running = [pool.submit(_seed_rows, name, seed, folder, work, device) for name, seed in units]
        try:
            while not all(one.done() for one in running):
                wait(running, POLL, FIRST_EXCEPTION)
                for one in running:
                    if one.done():
                        one.result()
                while not reports.empty():
                    progress.hear(*reports.get())
                if shown is not None:
                    shown.at(progress.done, progress.total)
                    shown.say(str(progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(getattr(pool, "_processes", {}).values()):
                process.terminate()
            raise
    found = [(name, seed, *one.result()) for (name, seed), one in zip(units, running, strict=True)]
    found.sort(key=lambda unit: (names.index(unit[0]), unit[1]))
    rows = [row for *_, part in found for row in part]
    about = {row["task"]: data for _, _, data, part in found for row in part[:1]}
    return {"tasks": about, "rows": rows, "means": means(rows)}, skipped


def _folder(work: Path, name: str, seed: int) -> Path:
    """Where rows and networks of a task and seed are kept."""
    return work / f"{Path(name).stem}-{seed}"


def forget(names: Sequence[str], seeds: Sequence[int], work: Path) -> None:
    """Remove what the work folder has of these tasks and seeds, and of the seeds whose baselines teach them."""
    for name in names:
        teachers = PLANS[name].teachers if name in PLANS else 1
        for folder in {_folder(work, name, seed + more) for seed in seeds for more in range(teachers)}:
            for path in (path for kind in ("json", "safetensors", "checkpoint") for path in folder.glob(f"*.{kind}")):
                path.unlink()


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """A record in which the rows measured now replace those of their task and seed, and the others stay.

    A seed is measured over the whole plan: what the plan no longer has is dropped from the task's other seeds too.
    """
    before: Mapping[str, Any] = {"tasks": {}, "rows": []} if old is None else old
    tasks = {**before.get("tasks", {}), **new["tasks"]}
    order = sorted(tasks, key=lambda name: list(PLANS).index(name) if name in PLANS else len(PLANS))
    rows: list[Mapping[str, Any]] = []
    for name in order:
        earlier, measured = ([row for row in part["rows"] if row["task"] == name] for part in (before, new))
        if not measured:
            rows += earlier
            continue
        seeds, plan = {row["seed"] for row in measured}, [row["case"] for row in measured]
        kept = [row for row in earlier if row["seed"] not in seeds and row["case"] in plan]
        rows += sorted(kept + measured, key=lambda row: (row["seed"], plan.index(row["case"])))
    return {"tasks": {name: tasks[name] for name in order}, "rows": rows, "means": means(rows)}


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread (largest minus smallest) over seeds of every case."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], str(sorted(row["case"].items()))), []).append(row)
    made = []
    for group in groups.values():
        first = group[0]
        main = first["measure"]
        mean: dict[str, Any] = {key: first[key] for key in ("task", "case", "method", "measure")}
        mean["seeds"] = len(group)
        mean["devices"] = sorted({row.get("device", "cpu") for row in group})
        for key in (
            "density",
            "compression_weights",
            "compression_model",
            "loss",
            "skipped",
            "theta",
            "skipped_at_theta",
        ):
            mean[key] = _mean([row[key] for row in group])
        for key in ("float", "pruned", "golden", "golden_at_theta"):
            mean[key] = {name: _mean([row[key][name] for row in group]) for name in first[key]}
            mean[f"{key}_spread"] = round(max(values := [row[key][main] for row in group]) - min(values), 6)
        if "skipped_as_trained" in first:
            mean["skipped_as_trained"] = _mean([row["skipped_as_trained"] for row in group])
        by_theta = [lost(row["golden_at_theta"][main], row["golden"][main], main not in ERRORS) for row in group]
        mean["loss_by_theta"] = _mean(by_theta)
        mean["loss_spread"] = round(max(values := [row["loss"] for row in group]) - min(values), 3)
        if "gates_near_0_or_1" in first:
            names = first["gates_near_0_or_1"]
            mean["gates_near_0_or_1"] = {
                name: _mean([row["gates_near_0_or_1"][name] for row in group]) for name in names
            }
        made.append(mean)
    return made


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if len(known) == len(values) else None
