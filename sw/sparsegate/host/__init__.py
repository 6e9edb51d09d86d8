"""The host's side of a board: run sequences through it, survive a bad line, compare with the golden model."""

from __future__ import annotations

from sparsegate.host.board import BAUD, SIMULATED, Board, HostError, HostResult, SimulatedBoard, run, weight_requests

__all__ = ["BAUD", "SIMULATED", "Board", "HostError", "HostResult", "SimulatedBoard", "run", "weight_requests"]
