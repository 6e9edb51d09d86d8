"""The whole lowering, from a Network to a bitstream, on one page: :func:`lower`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sparsegate.data.datasets import Dataset
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_app.stages.compile import Compilation, compile_, predicted
from sparsegate_app.stages.compiled import Compiled, array_of
from sparsegate_app.stages.golden import Evaluation, evaluate
from sparsegate_app.stages.result import Result
from sparsegate_app.stages.simulate import Simulation, simulate
from sparsegate_app.stages.synth import Synthesis, synth

Say = Callable[[str], None]
Quantizer = Callable[[Network, Dataset], Program]


class Watch(Protocol):
    """Hears what a lowering does."""

    def stage(self, name: str, detail: str = "") -> AbstractContextManager[Say]:
        """Around a stage, called ``name``; what it gives is told what the stage is doing."""

    def found(self, result: Result) -> None:
        """A stage has this result."""


class _Silent:
    def stage(self, name: str, detail: str = "") -> AbstractContextManager[Say]:
        return nullcontext(lambda text: None)

    def found(self, result: Result) -> None:
        pass


SILENT = _Silent()
"""A watch that says nothing."""


@dataclass(frozen=True)
class Wanted:
    """How far a lowering goes, and on what.

    ``array``: fields of HardwareConfig that are not the Program's defaults. ``simulators``: names, and how many test sequences
    each runs. ``board``: None for no bitstream; ``seed``: of its placement.
    """

    array: Mapping[str, Any] = field(default_factory=dict)
    simulators: Sequence[tuple[str, int]] = ()
    board: str | None = None
    seed: int = 1


@dataclass(frozen=True)
class Lowered:
    """Every stage's result; what was not wanted is empty or None."""

    compilation: Compilation
    evaluation: Evaluation
    simulations: tuple[Simulation, ...]
    synthesis: Synthesis | None


def rounded(network: Network, dataset: Dataset) -> Program:
    """Formats calibrated on the training sequences, every weight rounded: no fine-tuning, no torch."""
    return quantize(network, dataset.x_train, dataset.length_train)


def lower(
    network: Network,
    dataset: Dataset,
    wanted: Wanted,
    out: Path,
    watch: Watch = SILENT,
    quantizer: Quantizer = rounded,
) -> Lowered:
    """Take a Network all the way; each stage's result is kept in a folder below ``out``. A SparseGateError where levels differ."""
    x, y, lengths, data = dataset.x_test, dataset.y_test, dataset.length_test, dataset.name

    # Network -> Program: a Q format for every vector and matrix, weights as integers
    program = quantizer(network, dataset)

    # Program -> Layout: which PE holds which weight, where accumulators and states live
    placed = Compiled(program, array_of(program, wanted.array))

    # Layout -> engine.v, memory images, manifest: the engine in Amaranth, converted by Yosys
    with watch.stage("compile"):
        compilation = compile_(placed, out=out)
        compiled = compilation.compiled

    def keep(result: Result) -> None:
        compiled.record(result)
        watch.found(result)

    # Program -> integers that every later level must give: the golden model on the test sequences
    with watch.stage("golden model"):
        evaluation = evaluate(compiled, x, y, lengths, data=data)
    keep(evaluation)

    # those integers on the Layout -> cycles: the cycle model, exact
    with watch.stage("predict cycles"):
        compilation = predicted(compilation, x, lengths, data=data)
    keep(compilation)

    # engine.v -> values, cycles and counters of the RTL, each compared with the models
    simulations = []
    for simulator, count in wanted.simulators:
        with watch.stage("simulate", f"{simulator}, {count} utterances"):
            simulations.append(simulate(compiled, x[:count], lengths[:count], simulator=simulator, data=data))
        keep(simulations[-1])
        if not simulations[-1].passed:
            raise SparseGateError(simulations[-1].sentence)

    # Program and Layout -> bitstream: the engine in a board's wrapper, synthesized, placed, routed, packed
    synthesis = None
    if wanted.board is not None:
        with watch.stage("synthesize", wanted.board) as say:
            synthesis = synth(compiled, board=wanted.board, seed=wanted.seed, out=out, progress=say)
        keep(synthesis)
    return Lowered(compilation, evaluation, tuple(simulations), synthesis)
