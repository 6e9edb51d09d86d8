"""Error of the fixed-point network against its float network, for every cell, as bits grow."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsegate import golden
from sparsegate.cells import CELLS, cell
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.quantize import QuantizeConfig, quantize

BITS = (6, 8, 10, 12, 16)
INPUTS, UNITS, OUTPUTS = 12, 32, 16
SEQUENCES, STEPS = 16, 40
DEFINITION = f"""\
A layer of {UNITS} units over {INPUTS} inputs (and, as lstm_projected, an LSTM with a projection to {OUTPUTS} outputs), normally
distributed weights of variance 1 / columns, biases of 0.3, peepholes of 0.5, {SEQUENCES} sequences of {STEPS} steps of slowly
moving inputs, on which the formats are calibrated. With b bits: inputs, hidden states and weights have b, gates b + 2, the tables'
inputs min(b + 4, 16), states max(16, b + 8), the outputs of linear layers b. Error: distance of the layer's outputs from the
float network's, over all steps, units and sequences: its root mean square and its maximum, in units of the output."""


def cases() -> dict[str, Shape]:
    """Name -> layer: every cell, and the projection."""
    return {kind: Shape(kind, UNITS) for kind in CELLS} | {"lstm_projected": Shape("lstm", UNITS, outputs=OUTPUTS)}


def config(bits: int) -> QuantizeConfig:
    """Everything grows with ``bits``."""
    return QuantizeConfig(
        activation_bits=bits, weight_bits=bits, state_bits=min(24, max(16, bits + 8)), output_bits=bits
    )


def measure(shape: Shape, bits: int, seed: int = 0) -> dict[str, float]:
    """RMS and largest error of one layer."""
    network = synthetic.network(INPUTS, [shape], seed)
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(0.0, 0.3, (SEQUENCES, STEPS, INPUTS)), axis=1)
    x /= np.maximum(1.0, np.abs(x).max() / 3)
    program = quantize(network, x, config=config(bits))
    trace = golden.run(program, program.quantize(x))
    error = np.abs(program.output_format.real(trace.outputs) - network.evaluate(x).outputs)
    return {"rms": float(np.sqrt(np.mean(error**2))), "max": float(error.max())}


def table(seed: int = 0) -> dict[str, Any]:
    """The whole table."""
    rows = [
        {
            "cell": name,
            "recurrent": cell(shape.kind).recurrent,
            "errors": {str(bits): measure(shape, bits, seed) for bits in BITS},
        }
        for name, shape in cases().items()
    ]
    return {"definition": DEFINITION, "seed": seed, "bits": list(BITS), "rows": rows}
