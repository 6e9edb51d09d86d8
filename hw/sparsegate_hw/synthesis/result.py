"""What synthesis measured, and the folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparsegate import artefact
from sparsegate.errors import SparseGateError

RESULT = "synth.json"
PROGRAM = "program.safetensors"


@dataclass(frozen=True)
class SynthResult:
    """What synthesis measured.

    ``fmax_mhz`` is nextpnr's estimate after routing, for the engine's clock, at the device's speed grade; an upper bound where
    ``untimed`` names cells without delays in its model. ``met`` says whether it reaches ``frequency_mhz``, the clock that the
    bitstream sets up. ``luts``, ``ffs``, ``bram`` (block RAMs: 18 kbit on ECP5, 4 kbit on iCE40), ``dsp`` (multipliers) and
    ``sprams`` (single-port memories) count the whole design, UART included; a LUT used as memory counts as a LUT, and on iCE40
    ``luts`` are logic cells, a LUT and a flip-flop each. ``seed`` is the placement's, the fastest of ``tried``, pairs of seed and
    MHz, None where it found no placement; ``router`` is nextpnr's, empty in what an earlier version built. ``form`` is the digest
    of the design without its memories' contents. ``stages`` are the seconds that Yosys, nextpnr and the packer took when each
    ran, which may have been earlier; ``seconds`` is how long the run took that made the bitstream, ``cached`` whether that was an
    earlier one.
    """

    device: str
    board: str | None
    speed: str
    multipliers: str
    hardware: Mapping[str, Any]
    baud: int
    frequency_mhz: float
    fmax_mhz: float
    luts: int
    ffs: int
    bram: int
    dsp: int
    bitstream: Path
    tools: Mapping[str, str]
    seconds: float
    stages: Mapping[str, float]
    seed: int
    tried: tuple[tuple[int, float | None], ...]
    form: str
    how: str
    critical_path: tuple[str, ...]
    router: str = ""
    untimed: str = ""
    sprams: int = 0
    cached: bool = False

    @property
    def met(self) -> bool:
        return self.fmax_mhz >= self.frequency_mhz

    def as_json(self) -> dict[str, Any]:
        """JSON values; the bitstream is named relative to the folder that holds it."""
        values = asdict(self)
        del values["cached"]
        return values | {
            "bitstream": self.bitstream.name,
            "critical_path": list(self.critical_path),
            "tried": [list(pair) for pair in self.tried],
        }

    @classmethod
    def load(cls, folder: Path) -> SynthResult:
        """What an earlier run left in ``folder``; a SparseGateError if it is damaged or its bitstream is gone."""
        values = artefact.read_json(folder / RESULT)
        with artefact.reading(folder / RESULT):
            values = values | {
                "bitstream": folder / values["bitstream"],
                "critical_path": tuple(values["critical_path"]),
                "tried": tuple((seed, speed) for seed, speed in values["tried"]),
            }
            result = cls(**values, cached=True)
        if not result.bitstream.is_file():
            raise SparseGateError(f"{folder} has no bitstream {result.bitstream.name}")
        return result

    def fresh(self) -> SynthResult:
        """The same, made by this run."""
        return replace(self, cached=False)


def complete(folder: Path) -> bool:
    """Whether a folder holds a whole result; by its name it is then this one, made by another process."""
    try:
        SynthResult.load(folder)
    except SparseGateError:
        return False
    return True
