"""Engines and runs drawn at random: any cells, any shape, any array, any numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.cells import CELLS
from sparsegate.fpga.memory import BLOCK_SHAPES
from sparsegate.network.synthetic import Shape, network, stimulus
from sparsegate.numerics.fixed import narrow
from sparsegate.pattern import NM
from sparsegate.program import Program, RawState
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_sim.simulate import SimulationResult, simulate


@dataclass(frozen=True)
class Case:
    """Everything that decides a run. ``given``: sequences start from drawn states, over all that the formats hold.

    Small tables, so 6 bits by default: they are most of what a simulator has to read.
    """

    inputs: int
    shapes: tuple[Shape, ...]
    hardware: HardwareConfig
    quantization: QuantizeConfig = field(default_factory=lambda: QuantizeConfig(activation_bits=6))
    thresholds: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = (3, 1, 2)
    initial: bool = False
    given: bool = False
    stalls: int | None = None
    seed: int = 1

    def program(self) -> Program:
        floats = network(self.inputs, self.shapes, self.seed, gain=2.0, initial=self.initial)
        x = np.random.default_rng(self.seed).normal(size=(2, 4, self.inputs))
        return quantize(floats, x, config=self.quantization)

    def raw(self, program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Raw sequences and their lengths."""
        lengths = np.array(self.lengths)
        return stimulus(program.input_format, len(lengths), max(lengths), self.inputs, self.seed), lengths

    def state(self, program: Program) -> RawState | None:
        """Drawn initial states (N, size), or None."""
        return states(program, len(self.lengths), self.seed) if self.given else None

    def theta(self, program: Program) -> tuple[int, ...]:
        """Θ of every vector: those of the case, over and over."""
        return tuple(self.thresholds[n % len(self.thresholds)] for n in range(len(program.vectors)))


def states(program: Program, count: int, seed: int) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Raw states over everything that their formats hold."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for layer in program.layers:
        for name, size in layer.carried.items():
            form = layer.formats[name]
            found.setdefault(layer.name, {})[name] = rng.integers(form.min, form.max + 1, (count, size))
        wide = layer.cell.wide
        if wide is not None:
            mine = found[layer.name]
            mine["h"] = narrow(mine[wide], layer.formats[wide].frac, layer.formats["h"])
    return found


def run(case: Case, simulator: str = "icarus", program: Program | None = None) -> SimulationResult:
    """Simulate a case and hold it against the models, sentence in hand."""
    program = case.program() if program is None else program
    raw, lengths = case.raw(program)
    result = simulate(
        program,
        case.hardware,
        raw,
        lengths,
        state=case.state(program),
        simulator=simulator,
        thresholds=case.theta(program),
        stalls=case.stalls,
    )
    assert result.passed, result.summary
    assert (result.cycle_mismatches is None) == (case.stalls is not None)
    hidden = sum(phase.units for phase in program.phases if phase.when == "step") * int(lengths.sum())
    assert result.values_compared > hidden
    assert (result.state is not None) == case.hardware.states
    return result


def cost(case: Case, program: Program) -> int:
    """Cycles that a case takes."""
    trace = golden.run(program, *case.raw(program), case.theta(program), state=case.state(program))
    predicted = cycles.predict(trace, Layout(program, case.hardware), case.hardware.states)
    return int(predicted.end.max())


def draw(seed: int, units: int = 24) -> Case:
    """A case with layers of up to so many units."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def patterns() -> tuple[NM, NM]:
        block = pick(1, 2, 3, 4, 5, 8, 16)
        finer = pick(*(size for size in range(1, block + 1) if block % size == 0))
        both = NM(int(rng.integers(1, block + 1)), block), NM(int(rng.integers(1, finer + 1)), finer)
        return both if chance(0.5) else both[::-1]

    def size() -> int:
        return int(pick(int(rng.integers(1, 5)), int(rng.integers(1, units + 1))))

    recurrent = [kind for kind, what in CELLS.items() if what.recurrent]
    feedforward = [kind for kind, what in CELLS.items() if not what.recurrent]
    shapes = []
    for _ in range(pick(1, 1, 1, 2, 2, 3)):
        kind = pick(*recurrent) if chance(0.8) else pick(*feedforward)
        count = size()
        options = {}
        if CELLS[kind].projectable and chance(0.3):
            options = {"outputs": int(rng.integers(1, count + 1)), "pattern_p": patterns()[0]}
        if CELLS[kind].recurrent and chance(0.3):
            options |= pick({"both": True}, {"both": True}, {"reverse": True})
        shapes.append(Shape(kind, count, *patterns(), **options))
    if chance(0.5):
        shapes.append(Shape(pick(*feedforward), size(), patterns()[0], when=pick("step", "last", "final")))
    bits = int(rng.integers(4, 17))
    quantization = QuantizeConfig(
        activation_bits=bits,
        weight_bits=int(rng.integers(2, 17)),
        state_bits=int(pick(8, 12, 16, 20)),
        output_bits=int(pick(8, 16, 24)),
        table_bits=int(pick(5, 6, 11)),
        operand_bits=40,
    )
    most = max(len(phase.gates) for shape in shapes for phase in CELLS[shape.kind].phases)
    cluster = pick(None, None, most + 1, 2 * most, 2 * most + 1)
    clusters = int(pick(1, 1, 2, 3, 4))
    lanes = pick(*(n for n in range(1, clusters + 1) if clusters % n == 0))
    lengths = tuple(int(rng.integers(1, 5)) for _ in range(pick(1, 2, 3)))
    carried = chance(0.5) and any(CELLS[shape.kind].recurrent for shape in shapes)
    hardware = HardwareConfig(
        rows=(cluster or most) * clusters,
        groups=int(pick(1, 1, 2, 3)),
        lanes=lanes,
        cluster=cluster,
        multiplier=40,
        states=carried,
        steps=max(lengths) + int(pick(0, 0, 1, 5)),
        deep=bool(np.random.default_rng([seed, 1]).random() < 0.4),
    )
    case = Case(
        inputs=size(),
        shapes=tuple(shapes),
        hardware=hardware,
        quantization=quantization,
        thresholds=tuple(int(pick(0, 0, 1, 3, 1 << (bits - 2))) for _ in range(pick(1, 2, 5))),
        lengths=lengths,
        initial=carried and chance(0.3),
        given=carried and chance(0.5),
        stalls=pick(None, None, int(rng.integers(1000))),
        seed=seed,
    )
    if Layout(case.program(), hardware).partial_width > BLOCK_SHAPES[0][1]:  # too wide for a block RAM
        return case
    blocks = int(np.random.default_rng([seed, 2]).choice([0, 0, 1, 3]))
    return replace(case, hardware=replace(hardware, block_banks=blocks))
