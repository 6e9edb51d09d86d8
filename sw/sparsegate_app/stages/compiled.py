"""What every stage behind quantization works on: a Program and its array, from a file, a folder or memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout, default_rows
from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_app.stages.result import Result

MANIFEST = "manifest.json"
PROGRAM_FILE = "program.safetensors"


@dataclass(frozen=True)
class Compiled:
    """A Program, the array it runs on, and the folder of its compilation (None for a bare Program)."""

    program: Program
    config: HardwareConfig
    folder: Path | None = None

    @cached_property
    def layout(self) -> Layout:
        """The Program's placement on the array: made once, and handed to whoever needs it."""
        return Layout(self.program, self.config)

    def in_folder(self, folder: Path) -> Compiled:
        """The same Program and layout, which a folder holds now."""
        made = Compiled(self.program, self.config, folder)
        made.__dict__["layout"] = self.layout
        return made

    def record(self, result: Result) -> None:
        """Keep a stage's result in the folder, where ``sparsegate report`` finds it."""
        if self.folder is not None:
            artefact.write_json(self.folder / f"{result.stage}.json", result.seen_from(self.folder).as_json())


class Compilation(Protocol):
    """What compilation gave."""

    @property
    def compiled(self) -> Compiled: ...


Source = Compiled | Compilation | Program | str | Path
"""What a Python user has: a Program, its file, or what compilation gave or left in a folder."""


def array_of(program: Program, asked: Mapping[str, Any] | None = None) -> HardwareConfig:
    """The array that a Program gets, with the fields that are ``asked`` for (None: not)."""
    # a Program that starts from a state of its own needs the ports for it
    defaults: dict[str, Any] = {"rows": default_rows(program), "states": bool(program.initial)}
    return HardwareConfig(**(defaults | _given(asked)))


def open_program(path: Path, array: Mapping[str, Any] | None = None) -> Compiled:
    """Read a Program file, or a compiled folder with its array; ``array`` has fields of HardwareConfig by name (None: not given).

    Another array than the folder's is a new compilation.
    """
    if not path.is_dir():
        program = Program.load(path)
        return Compiled(program, array_of(program, array))
    if not (path / MANIFEST).exists():
        raise SparseGateError(f"{path} is a folder, but not one that 'sparsegate compile' made: it has no {MANIFEST}")
    program = Program.load(path / PROGRAM_FILE)
    manifest = artefact.read_json(path / MANIFEST)
    with artefact.reading(path / MANIFEST):
        config = HardwareConfig(**manifest["hardware"])
        if manifest["digests"]["program"] != program.digest:
            raise SparseGateError("the manifest belongs to another Program; compile again")
    other = replace(config, **_given(array))
    return Compiled(program, other, path if other == config else None)


def compiled_of(source: Source, config: HardwareConfig | None = None) -> Compiled:
    """What a stage works on; ``config`` is the array of a Program, or another than the one that it was compiled for."""
    if isinstance(source, Program):
        return Compiled(source, config or array_of(source))
    if isinstance(source, (str, Path)):
        source = open_program(Path(source))
    found = source if isinstance(source, Compiled) else source.compiled
    return found if config in (None, found.config) else Compiled(found.program, config)


def _given(array: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (array or {}).items() if value is not None}
