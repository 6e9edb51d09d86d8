"""A network of float layers, independent of any framework: what every importer produces and pruning returns."""

from __future__ import annotations

from sparsegate.network.network import FORMAT, Layer, Network, State, lengths_of, sequences, states_of

__all__ = ["FORMAT", "Layer", "Network", "State", "lengths_of", "sequences", "states_of"]
