"""Quantization: a Program of a Network, fine-tuned on exact integers, and thresholds within a budget of accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsegate import artefact, pattern
from sparsegate.data.datasets import Dataset
from sparsegate.extras import named
from sparsegate.golden import temporal
from sparsegate.network import Network
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate_app.stages.result import Result, Rows, percent

Progress = Callable[[int, int, float], None]
"""Is told the epoch, the epochs in all, and the loss."""


@dataclass(frozen=True, repr=False)
class Quantization(Result):
    """A Program that was written to a file: its ``digest``, ``accuracy`` on the test sequences, and every Q ``formats`` as text.

    ``thresholds`` by vector, where they were chosen, and the share of products that is ``skipped`` ``before`` and ``after``.
    """

    program: Path
    digest: str
    accuracy: Mapping[str, float]
    formats: Mapping[str, Any]
    thresholds: Mapping[str, int] | None = field(default=None, metadata={"optional": True})
    skipped: Mapping[str, float] | None = field(default=None, metadata={"optional": True})

    @property
    def sentence(self) -> str:
        return f"{self.program}, accuracy of the golden model {percent(self.accuracy['golden'])}"

    def rows(self) -> Rows:
        rows: Rows = [("Program", self.program), ("digest", self.digest), ("input", self.formats["input"])]
        for name, form in self.formats["layers"].items():
            rows.append((name, ", ".join(f"{key} {value}" for key, value in form.items())))
        if self.thresholds is not None and self.skipped is not None:
            after, before = (percent(self.skipped[when]) for when in ("after", "before"))
            rows += [
                ("thresholds", ", ".join(f"{name} {value}" for name, value in self.thresholds.items())),
                ("products skipped on the test sequences", f"{after} (before: {before})"),
            ]
        return [*rows, ("test accuracy, golden model", percent(self.accuracy["golden"]))]


def finetuned(
    network: Network,
    dataset: Dataset,
    config: QuantizeConfig,
    epochs: int,
    seed: int,
    progress: Progress,
    *,
    thresholds: Sequence[int],
    hold_zeros: bool,
    checkpoint: Path,
) -> Program:
    """Calibrate on data and fine-tune on exact integers, as ``sparsegate.training.quantize_and_finetune`` does.

    ``thresholds``: one is for every vector that drives columns (what a final layer gives drives none), else one for each.
    """
    with named():
        from sparsegate import training

    common, *others = thresholds or (0,)
    return training.quantize_and_finetune(
        network,
        dataset,
        replace(config, threshold=0 if others else common),
        epochs,
        seed,
        progress,
        thresholds=thresholds if others else (),
        hold_zeros=hold_zeros,
        checkpoint=checkpoint,
    )


def scattered(path: Path, network: Network) -> bool:
    """Whether the Network of a file was pruned to patterns of which its zeros alone tell: formats know N:M."""
    with artefact.reading(path):
        given = [text for pair in network.meta.get("patterns", {}).values() for text in pair]
        return not all(isinstance(pattern.parse(text), pattern.NM) for text in given)


def raised(
    program: Program, dataset: Dataset, points: float, tried: Callable[[Program, float], None]
) -> tuple[Program, dict[str, Any]]:
    """The Program with thresholds chosen within a budget of accuracy, in points, on training sequences with noise.

    ``tried`` is told every trial and its accuracy. The second value has the fields of a :class:`Quantization`.
    """
    from sparsegate import training

    noisy = dataset.noisy()

    def score(trial: Program) -> float:
        found = training.accuracy(trial, *noisy)
        tried(trial, found)
        return found

    chosen = temporal.choose(program, dataset.x_train, dataset.length_train, score, points / 100)
    before, after = (temporal.skipped(made, dataset.x_test, dataset.length_test).total for made in (program, chosen))
    by_vector = {vector.name: value for vector, value in zip(chosen.vectors, chosen.thresholds, strict=True)}
    return chosen, {"thresholds": by_vector, "skipped": {"before": before, "after": after}}


def written(program: Program, network: Network, dataset: Dataset, out: Path, chosen: Mapping[str, Any]) -> Quantization:
    """Write a Program with what is known of it; ``chosen`` is what :func:`raised` found, if anything."""
    from sparsegate import training

    reached = training.accuracy(program, dataset.x_test, dataset.length_test, dataset.y_test)
    known = dict(network.meta.get("accuracy", {}))
    program = replace(program, meta={**network.meta, "data": dataset.name, "accuracy": {**known, "golden": reached}})
    program.save(out)
    return Quantization(out, program.digest, {"golden": reached}, formats(program), **chosen)


def formats(program: Program) -> dict[str, Any]:
    """Every Q format, as text."""
    return {
        "input": str(program.input_format),
        "layers": {layer.name: {key: str(form) for key, form in layer.formats.items()} for layer in program.layers},
    }
