"""Accuracy of every stage, over patterns, bit widths and seeds: ``python -m sparsegate.bench.accuracy``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsegate import artefact, datasets, train
from sparsegate.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig

PATTERNS = ("2:8", "4:16", "1:8", "2:16", "1:16", "2:32")
OUT = Path("docs/benchmarks/accuracy.json")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sparsegate.bench.accuracy", description=__doc__)
    parser.add_argument("--task", default=datasets.VOWELS, help="'vowels' or an .npz file (default: vowels)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0..SEEDS-1 (default: 3)")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, metavar="N:M", help=f"default: {' '.join(PATTERNS)}")
    parser.add_argument("--bits", nargs="+", type=int, default=[8], help="weight and activation bits (default: 8)")
    parser.add_argument("--hidden", type=int, default=64, help="LSTM units (default: 64)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"JSON file to write (default: {OUT})")
    options = parser.parse_args(arguments)
    try:
        patterns = [NM.parse(text) for text in options.patterns]
        configs = [QuantizeConfig(activation_bits=bits, weight_bits=bits) for bits in options.bits]
        dataset = datasets.load(options.task)
        rows = []
        for row in measure(dataset, patterns, configs, range(options.seeds), options.hidden):
            rows.append(row)
            print(_line(row), flush=True)
        artefact.write_json(options.out, {"rows": rows, "means": means(rows)})
    except SparseGateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nMean over {options.seeds} seeds:")
    for row in means(rows):
        print(_line(row))
    print(f"\nWritten to {options.out}")
    return 0


def measure(
    dataset: Dataset,
    patterns: Sequence[NM],
    configs: Sequence[QuantizeConfig],
    seeds: Sequence[int],
    hidden: int = 64,
) -> Iterator[dict[str, Any]]:
    """Train, prune and quantize for every seed, pattern and width; a row as soon as it is there. Accuracies are fractions."""

    def accuracy(model: Network | Program) -> float:
        return round(train.accuracy(model, dataset.x_test, dataset.length_test, dataset.y_test), 6)

    for seed in seeds:
        start = time.perf_counter()
        network = train.train_float(dataset, hidden, seed=seed)
        seconds_float = time.perf_counter() - start
        for pattern in patterns:
            start = time.perf_counter()
            pruned = train.prune_and_finetune(network, dataset, pattern, seed=seed)
            seconds_prune = time.perf_counter() - start
            for config in configs:
                start = time.perf_counter()
                program = train.quantize_and_finetune(pruned, dataset, config, seed=seed)
                yield {
                    "task": dataset.name,
                    "hidden": hidden,
                    "pattern": str(pattern),
                    "bits": config.weight_bits,
                    "seed": seed,
                    "density_x": density(pruned, "w_x"),
                    "density_h": density(pruned, "w_h"),
                    "accuracy_float": accuracy(network),
                    "accuracy_pruned": accuracy(pruned),
                    "accuracy_golden": accuracy(program),
                    "seconds": round(seconds_float + seconds_prune + time.perf_counter() - start, 1),
                }


def density(network: Network, key: str) -> float:
    """Share of nonzero weights of the first layer's Wx or Wh."""
    weights = getattr(network.layers[0], key)
    return round(float(np.count_nonzero(weights) / weights.size), 6)


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows averaged over seeds, with ``loss``: golden below float, in points."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["hidden"], row["pattern"], row["bits"]), []).append(row)
    averaged = []
    for group in groups.values():
        mean = {key: value for key, value in group[0].items() if key not in ("seed", "seconds")}
        for key in ("accuracy_float", "accuracy_pruned", "accuracy_golden", "density_x", "density_h"):
            mean[key] = round(sum(row[key] for row in group) / len(group), 6)
        mean["seeds"] = len(group)
        mean["loss"] = round(100 * (mean["accuracy_float"] - mean["accuracy_golden"]), 2)
        averaged.append(mean)
    return averaged


def _line(row: dict[str, Any]) -> str:
    tail = f"loss {row['loss']:5.2f} points" if "loss" in row else f"seed {row['seed']}  {row['seconds']:5.1f} s"
    return (
        f"{row['task']}  {row['pattern']:>5}  {row['bits']:>2} bits  weights kept {row['density_x']:.1%} / {row['density_h']:.1%}  "
        f"float {row['accuracy_float']:.2%}  pruned {row['accuracy_pruned']:.2%}  golden {row['accuracy_golden']:.2%}  {tail}"
    )


if __name__ == "__main__":
    sys.exit(main())
