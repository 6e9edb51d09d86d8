"""Golden model against float torch.nn.LSTM on the same batch, in the same run: ``python -m sparsegate_app.bench.golden``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsegate import artefact, golden
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate.training.trainable import Trainable
from sparsegate_app.bench import cpu

OUT = Path("docs/benchmarks/golden.json")
DEFINITION = """\
Throughput is sequence steps a second, from arrays in memory to outputs in memory, of an LSTM with a linear head of 9 outputs
at every step. Golden: golden.run on raw integers, 8 bits, 2:16, with the columns sent of every step. torch: float32
torch.nn.LSTM and torch.nn.Linear of the same weights on the same batch, called plainly (as in training, autograd
on) and under torch.inference_mode. One thread each (set OMP_NUM_THREADS=1 for numpy's BLAS); best of the repeats, taken in turns.
Ratio: golden throughput / torch throughput. Goal: 0.5 or more."""

PATTERN = NM(2, 16)
CASES = ((12, 64, 370, 29), (64, 256, 128, 32), (123, 1024, 64, 16))
"""Inputs, units, sequences, steps: the shape of JapaneseVowels' test set, a larger layer, one of the published engines' size."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparsegate_app.bench.golden", description=__doc__, epilog=DEFINITION
    )
    parser.add_argument("--repeats", type=int, default=20, help="runs of each, of which the best counts (default: 20)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"JSON file to write (default: {OUT})")
    options = parser.parse_args(arguments)
    rows = [measure(*case, repeats=options.repeats) for case in CASES]
    print(DEFINITION + "\n")
    for row in rows:
        print(
            f"LSTM {row['inputs']}->{row['units']}, {row['sequences']} x {row['steps']}: "
            f"golden {row['golden']:,.0f} steps/s, torch {row['torch']:,.0f} (ratio {row['ratio']:.2f}), "
            f"torch inference_mode {row['torch_inference']:,.0f} (ratio {row['ratio_inference']:.2f})"
        )
    try:
        artefact.write_json(options.out, record(rows))
    except SparseGateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def record(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """JSON value of rows that were measured here."""
    return {"definition": DEFINITION, "processor": cpu.processor(), "rows": list(rows)}


def measure(
    inputs: int, units: int, sequences: int, steps: int, repeats: int = 20, pattern: NM = PATTERN, head: int = 9
) -> dict[str, Any]:
    """Steps a second of golden model and torch on one batch; ``head``: outputs of the linear layer, 0 for none."""
    shapes = [Shape("lstm", units, pattern, pattern), *([Shape("linear", head)] if head else [])]
    network = synthetic.network(inputs, shapes, seed=1)
    x = np.random.default_rng(0).normal(size=(sequences, steps, inputs))
    program = quantize(network, x)
    raw = program.quantize(x)
    model, tensor = Trainable(network), torch.from_numpy(x).float()

    def inference() -> None:
        with torch.inference_mode():
            model(tensor)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = _best([lambda: golden.run(program, raw), lambda: model(tensor), inference], repeats)
    finally:
        torch.set_num_threads(threads)
    ours, plain, fast = (sequences * steps / value for value in seconds)
    return {
        "inputs": inputs,
        "units": units,
        "sequences": sequences,
        "steps": steps,
        "golden": round(ours),
        "torch": round(plain),
        "torch_inference": round(fast),
        "ratio": round(ours / plain, 3),
        "ratio_inference": round(ours / fast, 3),
    }


def _best(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Shortest time of each function, in seconds; they run in turns, so that a busy machine is fair to all."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats + 1):  # the first round warms up
        for position, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[position] = min(best[position], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    sys.exit(main())
