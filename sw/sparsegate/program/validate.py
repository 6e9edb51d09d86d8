"""What a Program must be so that golden model and engine run it exactly: every check, with the sentence that refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsegate.cells import phases_of
from sparsegate.errors import SparseGateError
from sparsegate.network.passes import WHEN
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import MAX_BLOCK
from sparsegate.program.layer import QuantizedLayer
from sparsegate.program.limits import ACTIVATION_BITS, EXACT, FRACS, MAX_THRESHOLD, PRE_BITS, VALUE_BITS, WEIGHT_BITS
from sparsegate.program.matrix import Matrix


def check_layer(layer: QuantizedLayer, source: QFormat) -> None:
    """Refuse a layer that the golden model and the engine could not run exactly; ``source`` is the format of what it takes."""
    _formats(layer, source)
    _numbers(layer)
    _structure(layer)
    _contents(layer)
    _phases(layer)


def _formats(layer: QuantizedLayer, source: QFormat) -> None:
    """Which formats there are, and that they agree with each other and with the source's."""
    what, form = layer.cell, layer.formats
    at = f"layer {layer.name!r}"
    needed = {"x", "h", "wx", "acc", *what.formats}
    needed |= {"wh"} if what.recurrent else set()
    needed |= {"m", "wp", "acc_p"} if layer.matrix_p is not None else set()
    if set(form) != needed:
        raise SparseGateError(f"{at}: formats {sorted(form)} found, expected {sorted(needed)}")
    if form["x"] != source:
        raise SparseGateError(f"{at}: input format {form['x']} differs from its source's {source}")
    for key in what.handed:
        if form[key] != form["gate"]:
            raise SparseGateError(f"{at}: format {key} is {form[key]}, expected the gates' {form['gate']}")
    for key, value in form.items():
        if value.frac not in FRACS:
            raise SparseGateError(f"{at}: format {key} has {value.frac} fractional bits, expected -64 to 64")


def _numbers(layer: QuantizedLayer) -> None:
    """Inputs, and widths that golden model and engine have."""
    what = layer.cell
    form = layer.formats
    at = f"layer {layer.name!r}"
    if layer.inputs < 1:
        raise SparseGateError(f"{at}: it takes no inputs, expected at least 1")
    if not np.issubdtype(layer.bias.dtype, np.integer):
        raise SparseGateError(f"{at}: biases of type {layer.bias.dtype} found, expected integers")
    if layer.step_bits and not what.functions:
        raise SparseGateError(f"{at}: step_bits is {layer.step_bits}, expected 0 for a layer without tables")
    for key, allowed in (
        ("x", ACTIVATION_BITS),
        ("m", ACTIVATION_BITS),
        ("q", ACTIVATION_BITS),
        ("wx", WEIGHT_BITS),
        ("wh", WEIGHT_BITS),
        ("wp", WEIGHT_BITS),
        ("parameter", WEIGHT_BITS),
        ("pre", PRE_BITS),
        ("gate", VALUE_BITS),
        ("h", VALUE_BITS),
        *((state, VALUE_BITS) for state in what.states),
    ):
        if key in form and form[key].width not in allowed:
            raise SparseGateError(
                f"{at}: format {key} is {form[key].width} bits wide, expected {allowed[0]} to {allowed[-1]}"
            )
    if what.recurrent and form["h"].width not in ACTIVATION_BITS:
        raise SparseGateError(f"{at}: format h is {form['h'].width} bits wide, expected 4 to 16")


def _structure(layer: QuantizedLayer) -> None:
    """Blocks, and what the cell can have: a recurrent matrix, a projection, the steps on which it runs, a direction."""
    what = layer.cell
    at = f"layer {layer.name!r}"
    if max(layer.block, layer.block_p) > MAX_BLOCK:
        raise SparseGateError(
            f"{at}: blocks of {max(layer.block, layer.block_p)} units found, expected at most {MAX_BLOCK}"
        )
    if min(layer.units, layer.block, layer.block_p) < 1:
        raise SparseGateError(f"{at}: {layer.units} units in blocks of {layer.block}, both must be positive")
    if what.recurrent != (layer.matrix_h is not None):
        raise SparseGateError(f"{at}: a {layer.kind} layer {'needs' if what.recurrent else 'has no'} recurrent matrix")
    if layer.matrix_p is not None and not what.projectable:
        raise SparseGateError(f"{at}: a {layer.kind} layer cannot have a projection")
    if layer.when not in WHEN or (layer.when != "step" and what.recurrent):
        raise SparseGateError(f"{at}: a {layer.kind} layer cannot run {layer.when!r}")
    if layer.reverse and not what.recurrent:
        raise SparseGateError(f"{at}: a {layer.kind} layer has no direction of time")


def _contents(layer: QuantizedLayer) -> None:
    """Shapes and values of matrices, biases and parameters."""
    what = layer.cell
    form = layer.formats
    at = f"layer {layer.name!r}"
    for key, matrix, columns, gates, units, block in (
        ("wx", layer.matrix_x, layer.inputs, layer.gates, layer.units, layer.block),
        ("wh", layer.matrix_h, layer.outputs, layer.gates, layer.units, layer.block),
        ("wp", layer.matrix_p, layer.units, 1, layer.outputs, layer.block_p),
    ):
        if matrix is not None:
            _matrix(f"{at}: {key}", matrix, columns, form[key], gates, units, block)
    rows = layer.gates + len(what.apart)
    if layer.bias.shape != (rows, layer.units):
        raise SparseGateError(f"{at}: bias has shape {layer.bias.shape}, expected {(rows, layer.units)}")
    if set(layer.parameters) != set(what.parameters):
        raise SparseGateError(f"{at}: parameters {sorted(layer.parameters)} found, expected {sorted(what.parameters)}")
    for key, values in layer.parameters.items():
        if values.shape != (layer.units,) or not np.issubdtype(values.dtype, np.integer):
            raise SparseGateError(f"{at}: {key} has shape {values.shape}, expected ({layer.units},) integers")
        if values.min() < form["parameter"].min or values.max() > form["parameter"].max:
            raise SparseGateError(f"{at}: {key} has values that {form['parameter']} cannot hold")


def _phases(layer: QuantizedLayer) -> None:
    """Thresholds, and that no accumulator and no intermediate of the cell can overflow."""
    what = layer.cell
    at = f"layer {layer.name!r}"
    count = len(phases_of(what, layer.matrix_p is not None))
    if len(layer.thresholds) != count:
        raise SparseGateError(f"{at}: {len(layer.thresholds)} thresholds found, expected {count}")
    for phase in layer.phases:
        acc = phase.formats["acc"]
        if min(term.shift for term in phase.terms) < 0:
            raise SparseGateError(f"{at}: the accumulator has {acc.frac} fractional bits, fewer than its products")
        if phase.bound >= EXACT:
            raise SparseGateError(f"{at}: accumulators may reach {phase.bound}, beyond the exact range of 2**53")
        if phase.peak >= 1 << 63:
            raise SparseGateError(f"{at}: an intermediate of the cell may reach {phase.peak}, beyond 63 bits")
        if phase.bound > acc.max:
            raise SparseGateError(f"{at}: accumulators may reach {phase.bound}, but {acc} ends at {acc.max}")
        if not 0 <= phase.threshold <= MAX_THRESHOLD:
            raise SparseGateError(f"{at}: threshold {phase.threshold} found, expected 0 to {MAX_THRESHOLD}")


def _matrix(at: str, matrix: Matrix, columns: int, form: QFormat, gates: int, units: int, block: int) -> None:
    """Shape, indices in their block and in order, weights in their format, none beyond the units."""
    index, weight = matrix.index, matrix.weight
    unit_blocks = -(-units // block)
    expected = (unit_blocks * gates, columns)
    if (
        index.shape != weight.shape
        or index.ndim != 3
        or index.shape[:2] != expected
        or not 1 <= matrix.entries <= block
    ):
        raise SparseGateError(
            f"{at} has entries of shape {index.shape} and {weight.shape}, expected {expected} times 1..{block} entries"
        )
    if not (np.issubdtype(index.dtype, np.integer) and np.issubdtype(weight.dtype, np.integer)):
        raise SparseGateError(f"{at} holds {index.dtype} indices and {weight.dtype} weights, expected integers")
    if index.min() < 0 or index.max() >= block:
        raise SparseGateError(f"{at} has indices in {index.min()}..{index.max()}, expected 0..{block - 1}")
    if matrix.entries > 1 and (np.diff(index, axis=2) <= 0).any():
        raise SparseGateError(f"{at}: an index repeats or descends within a block and column")
    if weight.min() < form.min or weight.max() > form.max:
        raise SparseGateError(f"{at} has weights in {weight.min()}..{weight.max()}, which {form} cannot hold")
    short = units - (unit_blocks - 1) * block  # units in the last unit block
    if (weight[-gates:][index[-gates:] >= short] != 0).any():
        raise SparseGateError(f"{at} has weights for units beyond the layer's {units}")


def check_program(
    layers: Sequence[QuantizedLayer],
    source: QFormat,
    threshold: int,
    sources: Sequence[tuple[int, ...]],
    output: Sequence[int],
) -> None:
    """Refuse layers that do not fit together, or that are wrong by themselves; ``source`` and ``threshold`` are the input's.

    ``sources`` and ``output`` are numbers of vectors, 0 the input.
    """
    if not 0 <= threshold <= MAX_THRESHOLD:
        raise SparseGateError(f"input threshold {threshold} found, expected 0 to {MAX_THRESHOLD}")
    if len({layer.name for layer in layers}) != len(layers):
        raise SparseGateError("two layers of the Program have the same name")
    forms = [
        source,
        *(layer.formats.get("h", source) for layer in layers),
    ]  # validated below
    sizes = [layers[0].inputs]
    for position, (layer, taken) in enumerate(zip(layers, sources, strict=True)):
        at = f"layer {layer.name!r}"
        if not all(0 <= vector <= position for vector in taken):
            raise SparseGateError(f"{at} takes vectors {taken}, expected earlier ones, 0 to {position}")
        given = forms[taken[0]]
        if any(forms[vector] != given for vector in taken):
            raise SparseGateError(f"{at} takes vectors of different formats, expected one")
        check_layer(layer, given)
        width = sum(sizes[vector] for vector in taken)
        if layer.inputs != width:
            raise SparseGateError(f"{at} takes {layer.inputs} inputs, its source gives {width}")
        if layer.when != "step" and taken == (0,):
            raise SparseGateError(f"{at} runs on the {layer.when} step only, so another layer must come before it")
        sizes.append(layer.outputs)
    if not all(0 < vector <= len(layers) for vector in output):
        raise SparseGateError(f"the output is made of vectors {tuple(output)}, expected 1 to {len(layers)}")
    if len({forms[vector] for vector in output}) != 1:
        raise SparseGateError("the output is made of vectors of different formats, expected one")
