"""A budget for a network's matrices, and patterns for all of them that meet one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sparsegate import artefact
from sparsegate.array import HardwareConfig
from sparsegate.cells.matrices import KEYS, TITLES, Key
from sparsegate.compress.sensitivity import digest, pruned
from sparsegate.errors import SparseGateError
from sparsegate.network import Network
from sparsegate.pattern import NM

FORMAT = "sparsegate-allocation"
VERSION = 1

Kind = Literal["us", "nonzeros", "block_rams"]
NAMES: dict[Kind, str] = {"us": "microseconds a step", "nonzeros": "stored entries", "block_rams": "block RAMs"}

MHZ = 80.0
"""Clock at which microseconds are counted where none is given: that of the bitstreams."""


@dataclass(frozen=True)
class Budget:
    """A limit, inclusive: ``us`` microseconds a step, ``nonzeros`` stored entries, or ``block_rams`` of an ECP5.

    A step is the longest there is: every column of every layer is sent, layers that run on a sequence's end included.
    """

    kind: Kind
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SparseGateError(f"a budget is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise SparseGateError(f"a budget of {self.limit:g} {NAMES[self.kind]} found, expected a positive number")


@dataclass(frozen=True)
class Allocation:
    """Patterns of every matrix, and what they are predicted to cost and to lose.

    ``patterns``: layer -> key ("x", "h", "p") -> N:M. ``loss``: sum of what the scan lost with each. ``cycles`` and ``us`` are of
    one step with nothing skipped, ``block_rams`` of the whole design (see :func:`block_rams`). ``network`` is the digest of the
    network.
    """

    network: str
    budget: Budget
    patterns: Mapping[str, Mapping[Key, NM]]
    loss: float
    nonzeros: int
    cycles: int
    us: float
    block_rams: int
    mhz: float
    hardware: HardwareConfig

    def check(self, network: Network) -> None:
        """Refuse a network that is not the one that this was made for."""
        if self.network != digest(network):
            raise SparseGateError("the allocation is of another network; make one for this with 'sparsegate allocate'")
        for layer in network.layers:
            own = {key for key in KEYS if getattr(layer, f"w_{key}") is not None}
            found = set(self.patterns.get(layer.name, ()))
            if found != own:
                raise SparseGateError(
                    f"the allocation has patterns for {_names(found)} of layer {layer.name!r}, expected {_names(own)}"
                )

    def apply(self, network: Network) -> Network:
        """The network pruned at once by magnitude to the patterns; fine-tuning is to follow."""
        return pruned(
            network, {(name, key): nm for name, chosen in self.patterns.items() for key, nm in chosen.items()}
        )

    @property
    def pairs(self) -> dict[str, tuple[NM, NM]]:
        """Layer -> patterns of Wx and Wh (of Wx twice without a Wh), as ``train.prune_and_finetune`` takes them."""
        return {name: (chosen["x"], chosen.get("h", chosen["x"])) for name, chosen in self.patterns.items()}

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        patterns = {name: {key: str(nm) for key, nm in chosen.items()} for name, chosen in self.patterns.items()}
        own = {key: getattr(self, key) for key in ("loss", "nonzeros", "cycles", "us", "block_rams", "mhz")}
        return {
            "format": FORMAT,
            "version": VERSION,
            "network": self.network,
            "budget": asdict(self.budget),
            "patterns": patterns,
            **own,
            "hardware": asdict(self.hardware),
        }

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        artefact.write_json(path, self.as_json())

    @classmethod
    def load(cls, path: str | Path) -> Allocation:
        """Read what :meth:`save` wrote."""
        values = artefact.read_record(path, FORMAT, VERSION, "allocation; 'sparsegate allocate' writes one")
        with artefact.reading(path):
            return cls(
                network=str(values["network"]),
                budget=Budget(values["budget"]["kind"], float(values["budget"]["limit"])),
                patterns={
                    str(name): {key: NM.parse(chosen[key]) for key in KEYS if key in chosen}
                    for name, chosen in values["patterns"].items()
                },
                loss=float(values["loss"]),
                nonzeros=int(values["nonzeros"]),
                cycles=int(values["cycles"]),
                us=float(values["us"]),
                block_rams=int(values["block_rams"]),
                mhz=float(values["mhz"]),
                hardware=HardwareConfig(**values["hardware"]),
            )


def _names(keys: set[Key]) -> str:
    return ", ".join(TITLES[key] for key in KEYS if key in keys) or "no matrix"
