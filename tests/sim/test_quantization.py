"""Every kind of weight runs on the engine: matrices of different widths, five levels, compensated and corrected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsegate import golden, quantize, synthetic
from sparsegate.fake_quant import FakeQuant
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig
from sparsegate.synthetic import Shape
from tests.sim.drawn import Case, run

CONFIGS = {
    "matrices of different widths": QuantizeConfig(
        6, 4, matrix_bits={"lstm0.wx": 9, "lstm0.wh": 2, "linear1.wx": 16}, calibration="mse"
    ),
    "five levels": QuantizeConfig(6, weight_levels=5, matrix_bits={"linear1.wx": 6}, calibration="percentile"),
    "two bits, compensated and corrected": QuantizeConfig(6, 2, rounding="compensated", bias_correction=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_engine_golden_and_fake_quantization_agree(name: str) -> None:
    config = CONFIGS[name]
    shapes = (Shape("lstm", 7, NM(2, 4), NM(1, 2)), Shape("linear", 3))
    case = Case(5, shapes, HardwareConfig(4, groups=2, multiplier=40), config, thresholds=(0, 1, 0))
    network = synthetic.network(case.inputs, shapes, case.seed, gain=2.0)
    x = np.random.default_rng(case.seed).normal(size=(2, 4, case.inputs))
    made = FakeQuant(*quantize.prepare(network, x, None, config), config)
    made.thresholds = (0, 1, 0)
    program = case.program()
    assert made.program().with_thresholds(0, 1, 0).digest == program.with_thresholds(0, 1, 0).digest
    run(case, "amaranth", program)
    raw, lengths = case.raw(program)
    with torch.no_grad():
        outputs = made(torch.from_numpy(program.input_format.real(raw)), lengths).numpy()
    trace = golden.run(program, raw, lengths, (0, 1, 0))
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]
    assert (program.output_format.quantize(outputs)[valid] == trace.outputs[valid]).all()
    widths = {form.width for layer in program.layers for key, form in layer.formats.items() if key in ("wx", "wh")}
    assert Layout(program, case.hardware).weight_width == max(widths)  # the memories have entries of one width
