"""Training: a float LSTM classifier, to have something to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparsegate.data.datasets import Dataset
from sparsegate.extras import named
from sparsegate_app.stages.quantize import Progress
from sparsegate_app.stages.result import Result, Rows, percent


@dataclass(frozen=True, repr=False)
class Training(Result):
    """A Network that was written to a file, and its ``accuracy`` on so many ``test_sequences``."""

    network: Path
    accuracy: Mapping[str, float]
    test_sequences: int

    @property
    def sentence(self) -> str:
        return f"accuracy, float: {percent(self.accuracy['float'])} of {self.test_sequences} sequences"

    def rows(self) -> Rows:
        return [("network", self.network), ("test accuracy, float", percent(self.accuracy["float"]))]


def train(
    dataset: Dataset,
    out: Path,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    progress: Progress,
    depth: int = 1,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> Training:
    """Train ``depth`` stacked LSTMs of ``hidden`` units with a linear head, and write the Network to ``out``."""
    with named():
        from sparsegate import training

    network = training.train_float(
        dataset, hidden, epochs, seed, progress, depth=depth, checkpoint=checkpoint, device=device
    )
    reached = training.accuracy(network, dataset.x_test, dataset.length_test, dataset.y_test)
    network = replace(network, meta={"data": dataset.name, "seed": seed, "accuracy": {"float": reached}})
    network.save(out)
    return Training(out, {"float": reached}, len(dataset.y_test))
