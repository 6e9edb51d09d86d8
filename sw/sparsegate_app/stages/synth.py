"""Synthesis: a bitstream, with its area and its highest clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sparsegate.array import HardwareConfig
from sparsegate.extras import named
from sparsegate_app.stages.compiled import Source, compiled_of
from sparsegate_app.stages.result import Result, Rows

if TYPE_CHECKING:
    from sparsegate_hw.synthesis.result import SynthResult


@dataclass(frozen=True, repr=False)
class Synthesis(Result):
    """What synthesis measured (``measured``), and of which Program and Verilog: None where nothing was compiled."""

    measured: SynthResult
    digests: Mapping[str, str | None]

    @property
    def stage(self) -> str:
        return "synth"

    def as_json(self) -> dict[str, Any]:
        one = self.measured
        return one.as_json() | {
            "bitstream": str(one.bitstream),
            "met": one.met,
            "cached": one.cached,
            "tools": dict(one.tools),
            "digests": dict(self.digests),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], **more: Any) -> Self:
        from sparsegate_hw.synthesis.result import SynthResult

        own = {key: value for key, value in values.items() if key not in ("met", "digests")}
        own |= {
            "bitstream": Path(own["bitstream"]),
            "critical_path": tuple(own["critical_path"]),
            "tried": tuple((seed, mhz) for seed, mhz in own["tried"]),
        }
        return cls(SynthResult(**own), values["digests"])

    def seen_from(self, folder: Path) -> Self:
        return self.at(Path(os.path.relpath(self.measured.bitstream, folder)))

    def at(self, bitstream: Path) -> Self:
        """The same result with its bitstream at another path."""
        return replace(self, measured=replace(self.measured, bitstream=bitstream))

    @property
    def sentence(self) -> str:
        one = self.measured
        return f"{one.fmax_mhz:.1f} MHz on {one.device}, bitstream {one.bitstream}"

    def rows(self) -> Rows:
        one = self.measured
        return [
            ("device", one.device + (f" (speed grade {one.speed})" if one.speed else "")),
            (
                "highest clock",
                f"{one.fmax_mhz:.1f} MHz, {'meets' if one.met else 'misses'} the {one.frequency_mhz:g} MHz of the bitstream",
            ),
            ("LUTs", one.luts),
            ("flip-flops", one.ffs),
            ("block RAMs", one.bram),
            *([("single-port memories", one.sprams)] if one.sprams else []),
            ("multipliers", one.dsp),
            ("bitstream", one.bitstream),
            ("seconds", f"{one.seconds:.0f}{' (an earlier run)' if one.cached else ''}"),
        ]


def synth(
    source: Source,
    *,
    board: str | None = None,
    device: str | None = None,
    multipliers: str | None = None,
    frequency_hz: int | None = None,
    seed: int = 1,
    seeds: int | None = None,
    config: HardwareConfig | None = None,
    out: str | Path = "build",
    progress: Callable[[str], None] | None = None,
) -> Synthesis:
    """Synthesize, place, route and pack a bitstream below the folder ``out``, or find it there.

    The options are those of ``sparsegate_hw.synthesis.synth.synthesize``. In the result the bitstream is a path from here.
    """
    with named():
        from sparsegate_hw.synthesis.emit import verilog_digest
        from sparsegate_hw.synthesis.synth import synthesize

    compiled = compiled_of(source, config)
    program, config = compiled.program, compiled.config
    # synthesis makes the engine anew: a folder that was compiled with another version of it must not take the result for its own
    layout = None if compiled.folder is None else compiled.layout
    verilog = None if layout is None else verilog_digest(program, config, layout)
    measured = synthesize(
        program,
        config,
        board=board,
        device=device,
        multipliers=multipliers,
        folder=out,
        seed=seed,
        seeds=seeds,
        progress=progress,
        frequency_hz=frequency_hz,
        layout=layout,
    )
    return Synthesis(measured, {"program": program.digest, "verilog": verilog})
