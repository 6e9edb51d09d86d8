"""Every kind of weight runs on the engine: matrices of different widths, five levels, compensated and corrected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsegate import golden, quantize
from sparsegate.array import HardwareConfig, Layout
from sparsegate.compress import low_rank, magnitude, permute
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate.training.fake_quant import FakeQuant
from tests.sim.drawn import Case, run

CONFIGS = {
    "matrices of different widths": QuantizeConfig(
        6, 4, matrix_bits={"lstm0.wx": 9, "lstm0.wh": 2, "linear1.wx": 16}, calibration="mse"
    ),
    "five levels": QuantizeConfig(6, weight_levels=5, matrix_bits={"linear1.wx": 6}, calibration="percentile"),
    "three bits and three levels": QuantizeConfig(
        6, 3, matrix_levels={"lstm0.wx": 3}, bias_correction=True, calibration="mse"
    ),
    "two bits, compensated and corrected": QuantizeConfig(6, 2, rounding="compensated", bias_correction=True),
}


SHAPES = (Shape("lstm", 7, NM(2, 4), NM(1, 2)), Shape("linear", 3))
PROJECTED = (Shape("lstm", 8), Shape("linear", 3))


@pytest.mark.parametrize("name", CONFIGS)
def test_engine_golden_and_fake_quantization_agree(name: str) -> None:
    config = CONFIGS[name]
    case = Case(5, SHAPES, HardwareConfig(4, groups=2, multiplier=40), config, thresholds=(0, 1, 0))
    program = agreed(case, synthetic.network(case.inputs, SHAPES, case.seed, gain=2.0))
    assert program.digest == case.program().with_thresholds(0, 1, 0).digest


def test_a_factored_permuted_and_pruned_layer_on_few_levels() -> None:
    """A projection made by factoring, its units relabelled, and every matrix with a pattern and a width of its own."""
    config = QuantizeConfig(6, 3, matrix_bits={"lstm0.wh": 2, "linear1.wx": 5}, matrix_levels={"lstm0.wp": 5})
    case = Case(5, PROJECTED, HardwareConfig(4, groups=2, multiplier=40), config, thresholds=(0, 1, 0, 1))
    floats = synthetic.network(case.inputs, PROJECTED, case.seed, gain=2.0)
    x = np.random.default_rng(case.seed).normal(size=(2, 4, case.inputs))
    floats = low_rank.factor(floats, {"lstm0": 3}, x)
    orders = permute.search(floats, {"lstm0": ("1:4", "2:4")})
    assert orders
    patterns = {"lstm0": ("1:4", "2:4"), "lstm0.w_p": "2:3", "linear1": "bbs:1:2"}
    program = agreed(case, magnitude.one_shot(permute.permuted(floats, orders), patterns))
    layer = program.layers[0]
    assert [layer.matrix_x.entries, layer.matrix_h.entries, layer.matrix_p.entries] == [1, 2, 2]
    assert np.abs(layer.matrix_p.weight).max() == 2


def agreed(case: Case, floats: Network) -> Program:
    """Golden model, fake-quantization and simulated engine, on a Network of the case's shapes."""
    x = np.random.default_rng(case.seed).normal(size=(2, 4, case.inputs))
    made = FakeQuant(*quantize.prepare(floats, x, None, case.quantization), case.quantization, hold_zeros=True)
    made.thresholds = case.theta(made.made)
    program = made.program()
    run(case, "amaranth", program)
    raw, lengths = case.raw(program)
    with torch.no_grad():
        outputs = made(torch.from_numpy(program.input_format.real(raw)), lengths).numpy()
    trace = golden.run(program, raw, lengths, made.thresholds)
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]
    assert (program.output_format.quantize(outputs)[valid] == trace.outputs[valid]).all()
    keys = ("wx", "wh", "wp")
    widths = {form.width for layer in program.layers for key, form in layer.formats.items() if key in keys}
    assert Layout(program, case.hardware).weight_width == max(widths)  # the memories have entries of one width
    return program
