"""A fine-tuned Program in an existing bitstream: seconds instead of place-and-route; see ``docs/reference/synthesis.md``."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout
from sparsegate.cells.matrices import WEIGHT_FORMATS
from sparsegate.errors import SparseGateError
from sparsegate.fpga.devices import device
from sparsegate.program import Program, QuantizedLayer
from sparsegate_hw.fabric.configuration import Contents
from sparsegate_hw.fabric.family import family
from sparsegate_hw.synthesis import patch, tools
from sparsegate_hw.synthesis.boards import target
from sparsegate_hw.synthesis.plan import Build, Design, sha256
from sparsegate_hw.synthesis.result import PROGRAM, SynthResult
from sparsegate_hw.synthesis.routed import Routed, pack
from sparsegate_hw.synthesis.tools import Progress


@dataclass(frozen=True)
class Patched:
    """What :func:`reprogram` wrote: the ``bitstream``, and the ``program`` that it runs.

    The latter is the one given, with accumulators as wide as the netlist's. ``memories`` were written, ``changed`` of them differ
    from those of the build.
    """

    bitstream: Path
    program: Program
    memories: int
    changed: int
    seconds: float


def reprogram(folder: str | Path, program: Program, bitstream: str | Path, progress: Progress | None = None) -> Patched:
    """Write a bitstream that is the one in ``folder``, made by ``synthesize``, with the contents of ``program``.

    The Program may differ from that of the build in weights, indices, biases, parameters, thresholds and names. Its design
    is elaborated anew and must be the build's but for the contents of memories; what the build's configuration holds must be
    exactly its Program's contents; and the new bitstream, unpacked, must hold exactly the new ones.

    Raises
    ------
    SparseGateError
        If the Program has another shape or needs wider accumulators than the netlist has, the build is damaged, or the device
        is one whose bitstreams cannot be unpacked.
    ToolError
        If a tool is missing or fails.
    """
    started = time.monotonic()
    say = progress or (lambda line: None)
    folder, bitstream = Path(folder), Path(bitstream)
    result = SynthResult.load(folder)
    if family(device(result.device).family).unpacker is None:
        raise SparseGateError(
            f"a bitstream for {result.device} cannot be patched, as no tool unpacks its block RAMs to check it;"
            " synthesize the Program into the same folder, which takes the routed design"
        )
    built = Program.load(folder / PROGRAM)
    program = fitted(program, built)
    bare = None if result.board else result.device
    config = HardwareConfig(**result.hardware)
    chosen = target(result.board, bare, result.multipliers)
    layout = Layout(built, config)
    config = replace(config, bias_bits=layout.bias_bits, partial_bits=layout.partial_width)
    build = Build.of(built, config, chosen, round(result.frequency_mhz * 1e6), result.baud)
    routed = Routed.load(folder)
    say("elaborating the Program of the build")
    if patch.extract(routed.text, routed.places) != _contents(build, built, result):
        raise SparseGateError(f"{folder} is damaged: its configuration does not hold the contents of its Program")
    say("elaborating the new Program")
    contents = _contents(build, program, result)
    old = patch.extract(routed.text, routed.places)
    text = patch.replace(routed.text, routed.places, contents)
    with tempfile.TemporaryDirectory(prefix="sparsegate-") as temporary:
        work = Path(temporary)
        pack(build, text, work, say)
        if unpacked(build, work / f"top.{build.family.bitstream}", work, routed, say) != contents:
            raise SparseGateError("the bitstream, unpacked, does not hold the contents of the Program")
        with artefact.writing(bitstream) as temporary_file:
            shutil.copyfile(work / f"top.{build.family.bitstream}", temporary_file)
    changed = sum(old[name] != contents[name] for name in contents)
    return Patched(bitstream, program, len(contents), changed, round(time.monotonic() - started, 1))


def unpacked(build: Build, bitstream: Path, work: Path, routed: Routed, say: Progress) -> Contents:
    """Contents of the memories in a bitstream in ``work``."""
    name = f"unpacked.{build.family.routed}"
    tools.unpacker(build.family).run(build.family.unpack(bitstream.name, name), work, "unpack.log", say)
    return patch.extract((work / name).read_text(encoding="utf-8"), routed.places)


def _contents(build: Build, program: Program, result: SynthResult) -> Contents:
    design = Design.of(build, program)
    if sha256(design.form) != result.form:
        raise SparseGateError(
            "the design that this SparseGate makes of the Program is another than the build's, though the shapes are the same;"
            " it was built by another version, synthesize again"
        )
    return design.contents


def fitted(program: Program, built: Program) -> Program:
    """The Program with the accumulator widths of another of its shape, whose netlist it is to run on.

    Raises
    ------
    SparseGateError
        A sentence with the first difference of shape, where there is one that wider accumulators do not settle.
    """
    if len(program.layers) != len(built.layers):
        raise SparseGateError(f"the Program has {len(program.layers)} layers, the bitstream runs {len(built.layers)}")
    layers = tuple(_fitted(new, old) for new, old in zip(program.layers, built.layers, strict=True))
    program = replace(program, layers=layers)
    if program.shape_digest != built.shape_digest:
        raise SparseGateError(
            f"the Program has another shape than the bitstream: {program.inputs} inputs of {program.input_format}, "
            f"{program.outputs} outputs, expected {built.inputs} of {built.input_format} and {built.outputs}"
        )
    return program


def _fitted(new: QuantizedLayer, old: QuantizedLayer) -> QuantizedLayer:
    for what in ("kind", "units", "inputs", "outputs", "block", "block_p", "when", "step_bits", "sources", "reverse"):
        found, wanted = getattr(new, what), getattr(old, what)
        if found != wanted:
            raise SparseGateError(f"layer {new.name!r} has {what} {found}, the bitstream was built for {wanted}")
    for key in WEIGHT_FORMATS:
        ours, theirs = getattr(new, f"matrix_{key}"), getattr(old, f"matrix_{key}")
        if ours is not None and theirs is not None and ours.entries != theirs.entries:
            raise SparseGateError(
                f"matrix {key} of layer {new.name!r} has {ours.entries} nonzeros a block and column, the bitstream was built "
                f"for {theirs.entries}"
            )
    formats = dict(new.formats)
    for key, wanted in old.formats.items():
        found = formats.get(key)
        if found == wanted:
            continue
        if key in ("acc", "acc_p") and found is not None and found.frac == wanted.frac:
            if found.width > wanted.width:
                raise SparseGateError(
                    f"the accumulators of layer {new.name!r} need {found.width} bits for their bound, the bitstream's have "
                    f"{wanted.width}"
                )
            formats[key] = wanted
        else:
            raise SparseGateError(
                f"format {key!r} of layer {new.name!r} is {found}, the bitstream was built for {wanted}; quantize with the "
                "formats of the Program that it was built from"
            )
    return replace(new, formats=formats)
