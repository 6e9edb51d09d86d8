"""One task and seed: its networks, trained, pruned and quantized, and the row of every case."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sparsegate import artefact, pattern, quantize, training
from sparsegate.cells import cell
from sparsegate.compress import gates, low_rank, permute
from sparsegate.network import Network
from sparsegate.pattern import Pattern
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training import Recipe, objective, sampling
from sparsegate.training.ensemble import Ensemble
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.gumbel import G2LSTM
from sparsegate.training.objective import Objective
from sparsegate.training.quiet import quiet
from sparsegate.training.schedule import Cubic
from sparsegate.training.trainable import Trainable
from sparsegate_app.bench.accuracy.cases import Case, Plan, plan_of
from sparsegate_app.bench.accuracy.figures import compression, density, skipped
from sparsegate_app.bench.accuracy.record import folder_of
from sparsegate_app.bench.tasks import Task, open_task
from sparsegate_app.console import TimeLeft

THETAS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
BUDGET = 0.3
"""What Θ may cost on validation data: points of a share, percent of any other figure."""
Curve = dict[int, float]
"""The deciding figure at each Θ."""
CALIBRATION = 300
"""Training sequences that formats are calibrated on."""

TEMPERATURE = 2.0
"""At which a baseline's outputs are softened for those who learn from them."""
VERSION = 1
"""Counts up when a change of this module makes networks of an earlier one invalid."""


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
        self.work = folder_of(work, name, seed)
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
        training.fit(model, aim, task.train.x, task.train.lengths, recipe, self.seed, shown, checkpoint=at)
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
        start = training.lstm(task.train.x.shape[2], task.hidden, task.outputs, seed=self.seed, name=task.name)
        model = Trainable(start, G2LSTM if gates == "g2" else nn.LSTM)
        training.fit(
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
        return training.prune_and_fit(
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

    def _epochs(self, what: str) -> training.Progress:
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
        row["skipped"] = skipped(program.with_thresholds(0), task.test)
        if case.theta:
            row["skipped_as_trained"] = skipped(program, task.test)
        row["validation"] = {str(theta): value for theta, value in validation.items()}
        row["theta"] = chosen
        row["golden_at_theta"] = task.measure(slower)
        row["skipped_at_theta"] = skipped(slower, task.test)
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
