"""A network of float layers, independent of any framework: what every importer produces and pruning returns."""

from __future__ import annotations

from sparsegate.network.checks import LARGEST, State, lengths_of, sequences, states_of
from sparsegate.network.evaluate import Evaluation
from sparsegate.network.layer import Layer
from sparsegate.network.network import FORMAT, VERSION, Network

__all__ = [
    "FORMAT",
    "LARGEST",
    "VERSION",
    "Evaluation",
    "Layer",
    "Network",
    "State",
    "lengths_of",
    "sequences",
    "states_of",
]
