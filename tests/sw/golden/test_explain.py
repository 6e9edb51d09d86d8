"""Error of the golden model against the float network, site by site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden
from sparsegate.errors import SparseGateError
from sparsegate.golden.explain import explain
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import QuantizeConfig, quantize

NETWORK = synthetic.network(3, [Shape("lstm", 5), Shape("lstm", 4), Shape("linear", 2)], seed=1)
X = np.random.default_rng(1).normal(size=(4, 6, 3))
LENGTHS = np.array([6, 2, 5, 1])


def test_a_row_for_every_site_in_order():
    rows = explain(NETWORK, quantize(NETWORK, X), X, LENGTHS)
    lstm = ["i", "f", "g", "o", "c", "tanh_c", "h"]
    expected = [("input", "input"), *(("lstm0", s) for s in lstm), *(("lstm1", s) for s in lstm), ("linear2", "h")]
    assert [(row.layer, row.site) for row in rows] == expected
    assert [row.values for row in rows] == [14 * 3] + [14 * 5] * 7 + [14 * 4] * 7 + [14 * 2]


@pytest.mark.parametrize("when", ["step", "last"])
def test_errors_are_those_of_the_outputs(when):
    network = NETWORK.with_layers([*NETWORK.layers[:2], replace(NETWORK.layers[2], when=when)])
    program = quantize(network, X / 2, config=QuantizeConfig(activation_bits=6, output_bits=5))
    trace = golden.run(program, program.quantize(X), LENGTHS, saturations=True)
    floats = network.evaluate(X, LENGTHS)
    rows = {(row.layer, row.site): row for row in explain(network, program, X, LENGTHS)}
    for layer, raw, real in zip(program.layers, trace.layers, floats.layers, strict=True):
        ran = np.arange(6)[None, :] < LENGTHS[:, None]
        if layer.when == "last":
            ran = np.arange(6)[None, :] == LENGTHS[:, None] - 1
        error = np.abs(layer.formats["h"].real(raw) - real)[ran]
        row = rows[layer.name, "h"]
        assert row.max == error.max()
        assert row.mean == pytest.approx(error.mean())
        assert row.largest == np.abs(real[ran]).max()
        assert row.saturations == trace.saturations[layer.name]["h"]
        assert row.lsb == layer.formats["h"].lsb


def test_input_row():
    program = quantize(NETWORK, X / 2)
    row = explain(NETWORK, program, X)[0]
    error = np.abs(program.input_format.real(program.quantize(X)) - X)
    assert (row.max, row.saturations) == (error.max(), program.input_format.saturated(X))
    assert row.saturations > 0


def test_wider_formats_have_smaller_errors():
    coarse, fine = (explain(NETWORK, quantize(NETWORK, X, config=QuantizeConfig(bits, bits)), X) for bits in (6, 14))
    assert all(b.mean < a.mean / 20 for a, b in zip(coarse, fine, strict=True) if a.site != "input")


def test_layers_must_match():
    other = synthetic.network(3, [Shape("lstm", 5), Shape("linear", 2)], seed=1)
    with pytest.raises(SparseGateError, match="network and Program differ in their layers"):
        explain(other, quantize(NETWORK, X), X)
