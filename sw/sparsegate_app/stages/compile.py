"""Compilation: Verilog, memory images and a manifest in a folder that is addressed by its contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from sparsegate import golden
from sparsegate.array import HardwareConfig, cycles
from sparsegate.extras import named
from sparsegate.network import lengths_of
from sparsegate_app.stages.compiled import MANIFEST, PROGRAM_FILE, Compiled, Source, compiled_of, open_program
from sparsegate_app.stages.result import Result, Rows

RESULTS = ("compile.json", "golden.json", "simulate-*.json", "synth.json", "report.json", "report.html")
"""Files that the stages and the report leave in a compiled folder."""


@dataclass(frozen=True)
class Prediction:
    """Cycles of sequences that are streamed back to back, by the cycle model."""

    data: str
    sequences: int
    steps: int
    cycles: int
    cycles_per_step: float
    longest_step: int
    occupancy_matvec: float
    occupancy_total: float
    columns_seen: int
    columns_sent: int

    def rows(self) -> Rows:
        """What the command line prints of it."""
        return [
            ("predicted cycles", f"{self.cycles} for {self.steps} steps of {self.sequences} sequences"),
            ("cycles a step", f"{self.cycles_per_step:.1f}, from the end of a step to the end of the next"),
            ("longest latency", f"{self.longest_step} cycles, from taking a frame to its last result"),
            (
                "occupancy, matrix-vector and total",
                f"{100 * self.occupancy_matvec:.1f} %, {100 * self.occupancy_total:.1f} %",
            ),
        ]


@dataclass(frozen=True, repr=False)
class Compilation(Result):
    """A compiled folder: ``files`` in it, ``memory_bits`` of all memories, the ``idle_share`` of the array in each layer.

    ``prediction`` is None where no sequences were given; ``compiled`` is what the later stages work on.
    """

    folder: Path
    pes: int
    idle_share: Mapping[str, float]
    memory_bits: Mapping[str, int]
    files: tuple[str, ...]
    digests: Mapping[str, str]
    compiled: Compiled = field(compare=False, metadata={"json": None})
    prediction: Prediction | None = field(default=None, metadata={"optional": True})

    @property
    def stage(self) -> str:
        return "compile"

    @classmethod
    def from_json(cls, values: Mapping[str, Any], **more: Any) -> Self:
        return super().from_json(values, compiled=open_program(Path(values["folder"])), **more)

    @property
    def sentence(self) -> str:
        if self.prediction is None:
            return f"{self.pes} processing elements in {self.folder}"
        return f"predicted: {self.prediction.cycles_per_step:.1f} cycles a step on {self.pes} processing elements"

    def rows(self) -> Rows:
        config = self.compiled.config
        return [
            ("folder", self.folder),
            ("processing elements", f"{config.rows} rows x {config.groups} groups = {config.pes}"),
            *((f"idle share of the array in {layer}", f"{share:.1%}") for layer, share in self.idle_share.items()),
            *(self.prediction.rows() if self.prediction else ()),
        ]


def compile_(source: Source, config: HardwareConfig | None = None, out: str | Path = "build") -> Compilation:
    """Emit ``out/<name>-<digest>/``; where it is there already it keeps its bytes, and loses what later stages found."""
    with named():
        from sparsegate_hw.synthesis import emit

    compiled = compiled_of(source, config)
    folder = emit.build_folder(compiled.program, compiled.config, out)
    manifest = emit.emit(compiled.program, compiled.config, folder, compiled.layout)
    clear(folder)
    return Compilation(
        folder=folder,
        pes=compiled.config.pes,
        idle_share={layer["name"]: layer["idle_share"] for layer in manifest.content["layout"]["layers"]},
        memory_bits=manifest.content["layout"]["memory_bits"],
        files=tuple(sorted((*manifest.content["files"], PROGRAM_FILE, MANIFEST))),
        digests=manifest.content["digests"],
        compiled=compiled.in_folder(folder),
    )


def clear(folder: str | Path) -> None:
    """Remove what the stages left in a compiled folder."""
    for pattern in RESULTS:
        for path in Path(folder).glob(pattern):
            path.unlink()


def predicted(made: Compilation, x: ArrayLike, lengths: ArrayLike | None = None, data: str = "arrays") -> Compilation:
    """The compilation with the cycles of real sequences ``x`` (N, T, I) of ``lengths`` (N,) steps, streamed back to back."""
    program, layout = made.compiled.program, made.compiled.layout
    x = np.asarray(x)
    lengths = lengths_of(x.shape, lengths, program.inputs)
    count = cycles.predict(golden.run(program, program.quantize(x), lengths), layout)
    busy = count.busy[count.end >= 0]
    prediction = Prediction(
        data=data,
        sequences=len(lengths),
        steps=int(lengths.sum()),
        cycles=count.total,
        cycles_per_step=count.total / count.steps,
        longest_step=int(busy.max()),
        occupancy_matvec=count.occupancy_matvec,
        occupancy_total=count.occupancy_total,
        columns_seen=count.columns_seen,
        columns_sent=count.columns_sent,
    )
    return replace(made, prediction=prediction)
