"""Engines of drawn shapes: RTL, golden model and cycle model give the same integers and the same cycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from sparsegate import cycles, golden
from sparsegate.errors import SparseGateError
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import DENSE, NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate.synthetic import Shape, network, stimulus
from sparsegate_sim.simulate import simulate

PATTERNS = [DENSE, NM(1, 4), NM(3, 4), NM(1, 8), NM(2, 8), NM(1, 16), NM(2, 16)]


@dataclass(frozen=True)
class Case:
    """Everything that decides a run."""

    inputs: int
    shapes: tuple[Shape, ...]
    quantization: QuantizeConfig
    hardware: HardwareConfig
    thresholds: tuple[int, ...]
    stalls: int | None
    seed: int

    def program(self) -> Program:
        x = np.random.default_rng(self.seed).normal(size=(2, 4, self.inputs))
        return quantize(network(self.inputs, self.shapes, self.seed, gain=2.0), x, config=self.quantization)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Input 1..40, hidden 4..96, dense to 1:16, 4 to 16 bits, any array; a head or none, one LSTM or two."""
    shapes = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        patterns = draw(st.sampled_from(PATTERNS)), draw(st.sampled_from(PATTERNS))
        # blocks of both matrices must agree: the finer pattern's M divides the coarser's in every pair of the list
        shapes.append(Shape("lstm", draw(st.integers(4, 96)), *patterns))
    head = draw(st.sampled_from([None, "step", "last"]))
    if head:
        shapes.append(Shape("linear", draw(st.integers(1, 20)), when=head))
    bits = draw(st.integers(4, 16))
    quantization = QuantizeConfig(
        activation_bits=bits,
        weight_bits=draw(st.integers(2, 16)),
        state_bits=draw(st.sampled_from([12, 16])),
        table_bits=draw(st.sampled_from([6, 11])),
    )
    clusters = draw(st.sampled_from([1, 2, 3, 4]))
    lanes = draw(st.sampled_from([n for n in (1, 2, 3, 4) if clusters % n == 0]))
    hardware = HardwareConfig(4 * clusters, draw(st.integers(1, 3)), lanes)
    thresholds = tuple(draw(st.sampled_from([0, 0, 1, 3, 1 << (bits - 2)])) for _ in range(len(shapes) + 1))
    stalls = draw(st.one_of(st.none(), st.integers(0, 1000)))
    return Case(
        draw(st.integers(1, 40)), tuple(shapes), quantization, hardware, thresholds, stalls, draw(st.integers(0, 999))
    )


def affordable(case: Case, most: int) -> tuple[Program, np.ndarray, np.ndarray] | None:
    """Program and stimulus, or None where the multiplier refuses the shape or it takes more than ``most`` cycles."""
    try:
        program = case.program()
        layout = Layout(program, case.hardware)
    except SparseGateError as error:
        if "multiplier" in str(error):
            return None
        raise
    rng = np.random.default_rng(case.seed)
    lengths = rng.integers(1, 4, 2)
    raw = stimulus(program.input_format, 2, int(lengths.max()), case.inputs, case.seed)
    total = cycles.predict(golden.run(program, raw, lengths, case.thresholds), layout).total
    return None if total > most else (program, raw, lengths)


def check(case: Case, simulator: str, work: tuple[Program, np.ndarray, np.ndarray] | None) -> None:
    assert work is not None
    program, raw, lengths = work
    result = simulate(
        program, case.hardware, raw, lengths, simulator=simulator, thresholds=case.thresholds, stalls=case.stalls
    )
    assert result.passed, result.summary
    hidden = sum(layer.units for layer in program.layers if layer.when == "step") * int(lengths.sum())
    assert result.values_compared > hidden
    assert (result.cycle_mismatches is None) == (case.stalls is not None)


# shapes that must be there whatever is drawn
ODD_HIDDEN = Case(
    3,
    (Shape("lstm", 13, NM(1, 8), NM(2, 8)), Shape("linear", 5)),
    QuantizeConfig(),
    HardwareConfig(8),
    (0, 0, 0),
    None,
    1,
)
ONE_SLOT = Case(7, (Shape("lstm", 8, NM(1, 4), NM(1, 4)),), QuantizeConfig(), HardwareConfig(8, 2), (0, 0), 5, 2)
TWO_DENSITIES = Case(
    9,
    (Shape("lstm", 20, NM(3, 4), NM(1, 16)), Shape("linear", 3, when="last")),
    QuantizeConfig(),
    HardwareConfig(16, 3, 2),
    (2, 1, 0),
    6,
    3,
)
DENSE_LAYER = Case(
    5, (Shape("lstm", 6),), QuantizeConfig(activation_bits=4, weight_bits=2), HardwareConfig(4), (0, 1), 7, 4
)
WIDE = Case(
    4,
    (Shape("lstm", 9, NM(1, 4), NM(1, 4)),),
    QuantizeConfig(activation_bits=16, weight_bits=16, table_bits=6),
    HardwareConfig(4, 3),
    (0, 0),
    None,
    5,
)
STACK = Case(
    6,
    (Shape("lstm", 12, NM(2, 8), NM(1, 8)), Shape("lstm", 10, NM(1, 4), DENSE), Shape("linear", 4)),
    QuantizeConfig(),
    HardwareConfig(12, 2, 1, 4),
    (1, 2, 0, 0),
    8,
    6,
)
LARGE = Case(
    40,
    (Shape("lstm", 96, NM(1, 16), NM(1, 16)), Shape("linear", 20)),
    QuantizeConfig(),
    HardwareConfig(16),
    (0, 0, 0),
    None,
    7,
)
SINGLE = Case(1, (Shape("lstm", 4, NM(1, 4), NM(1, 4)),), QuantizeConfig(), HardwareConfig(4), (0, 0), 9, 8)


FIXED = {
    "hidden size no multiple of the block": ODD_HIDDEN,
    "one slot, two groups": ONE_SLOT,
    "two densities, last-only head": TWO_DENSITIES,
    "dense": DENSE_LAYER,
    "16 bits": WIDE,
    "stack": STACK,
    "96 units at 1:16": LARGE,
    "one input": SINGLE,
}


@pytest.mark.icarus
@pytest.mark.parametrize("name", FIXED)
def test_fixed_shapes_on_icarus(name: str) -> None:
    check(FIXED[name], "icarus", affordable(FIXED[name], 12_000))


@pytest.mark.parametrize("name", ["hidden size no multiple of the block", "one slot, two groups", "one input"])
def test_fixed_shapes_on_amaranth(name: str) -> None:
    check(FIXED[name], "amaranth", affordable(FIXED[name], 12_000))


DRAWN = settings(
    deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.icarus
@pytest.mark.slow
@settings(DRAWN, max_examples=12)
@given(cases())
def test_drawn_shapes_on_icarus(case: Case) -> None:
    work = affordable(case, 12_000)
    assume(work is not None)
    check(case, "icarus", work)


@pytest.mark.slow
@settings(DRAWN, max_examples=10)
@given(cases())
def test_drawn_shapes_on_amaranth(case: Case) -> None:
    work = affordable(case, 2_000)
    assume(work is not None)
    check(case, "amaranth", work)


def test_threshold_zero_is_the_plain_lstm_whatever_the_route() -> None:
    """Θ = 0 through deltas, against b + W x with no delta anywhere: golden's x^ is x itself."""
    program = ODD_HIDDEN.program()
    raw = stimulus(program.input_format, 2, 5, 3, seed=1)
    trace = golden.run(program, raw, thresholds=(0, 0, 0))
    assert (trace.held[0] == raw[:, -1]).all()
    assert (trace.held[1] == trace.layers[0][:, -1]).all()
    assert simulate(program, HardwareConfig(8), raw, simulator="amaranth", thresholds=(0, 0, 0)).passed
