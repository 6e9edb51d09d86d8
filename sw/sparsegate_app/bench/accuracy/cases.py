"""What the benchmark of accuracy measures: its cases, and how each task is trained for them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sparsegate.errors import SparseGateError
from sparsegate.training import Recipe, objective
from sparsegate_app.bench.tasks import Task

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
