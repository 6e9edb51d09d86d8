"""Pictures of networks, Programs and measurements: each function gives a matplotlib ``Figure``, :func:`save` writes one.

Figures are made without pyplot, so that nothing is kept between calls, and are 8 inches wide: 880 pixels as PNG. Colours are
those of Okabe & Ito (2008), which most colour-blind readers can tell apart. Equal figures are equal files, byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sparsegate import golden
from sparsegate.cells import cell
from sparsegate.network import Network
from sparsegate.pictures.columns import changed_columns
from sparsegate.pictures.curves import accuracy_by_bits, accuracy_by_density, accuracy_by_stage, sensitivity, theta
from sparsegate.pictures.histograms import (
    activation_histograms,
    activations,
    formats_of,
    gate_histograms,
    gates_of,
    weight_histograms,
)
from sparsegate.pictures.look import encoded, save
from sparsegate.pictures.matrices import matrices_of, sparsity_map
from sparsegate.program import Program
from sparsegate.quantize import calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SEQUENCES",
    "accuracy_by_bits",
    "accuracy_by_density",
    "accuracy_by_stage",
    "activation_histograms",
    "activations",
    "changed_columns",
    "encoded",
    "formats_of",
    "gate_histograms",
    "gates_of",
    "of_model",
    "save",
    "sensitivity",
    "sparsity_map",
    "sparsity_maps",
    "theta",
    "weight_histograms",
]

SEQUENCES = 32
"""Sequences that a histogram of gates or activations is made from: enough for its shape, and quick."""


def sparsity_maps(model: Network | Program) -> dict[str, Figure]:
    """By layer, in their order: the maps of all recurrent layers, and of others with many zeros."""
    return {
        layer.name: sparsity_map(model, layer.name)
        for layer in model.layers
        if cell(layer.kind).recurrent or any((matrix == 0).mean() >= 0.5 for _, matrix in matrices_of(layer))
    }


def of_model(
    model: Network | Program, x: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> dict[str, Figure]:
    """Everything that can be drawn of a Network or a Program, and of it on data (N, T, I), by file name without suffix."""
    drawn = {f"sparsity-{name}": figure for name, figure in sparsity_maps(model).items()}
    drawn["weights"] = weight_histograms(model)
    if x is None:
        return drawn
    x = np.asarray(x)[:SEQUENCES]
    lengths = None if lengths is None else np.asarray(lengths)[:SEQUENCES]
    found = gates_of(model, x, lengths)
    if found:
        drawn["gates"] = gate_histograms(found)
    if isinstance(model, Network):
        drawn["activations"] = activation_histograms(calibration.calibrate(model, x, lengths).histograms)
    else:
        drawn["activations"] = activation_histograms(activations(model, x, lengths), formats_of(model))
        drawn["columns"] = changed_columns(golden.run(model, model.quantize(x), lengths))
    return drawn
