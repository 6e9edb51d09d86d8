"""The memories of engine and UART, kind by kind, and the block RAMs that they take of a device with blocks of 18 kbit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from sparsegate.array import images, timing
from sparsegate.array.layout import Layout
from sparsegate.array.pipelines import column_width, pipelines, result_width, state_count, state_width
from sparsegate.array.place import weight_shape
from sparsegate.cells import PROJECTION
from sparsegate.fpga.memory import contents_blocks, packet_blocks, rom_blocks
from sparsegate.numerics import tables
from sparsegate.protocol import RUN_WORDS

Memory = tuple[str, int, int, int]
"""Kind, width in bits, depth in words, and how many there are."""


def block_rams(layout: Layout) -> dict[str, int]:
    """Block RAMs (DP16KD) that engine and UART take on an ECP5, as Yosys maps their memories.

    They are what the hardware asks for (``sparsegate.fpga.memory``), so the count is exact: ``weights``, ``biases`` and
    ``tables``, which are read-only; the lanes' ``states``; the ``columns`` that are listed; ``packets`` of the UART, and the output
    buffer with them. Only the sequence buffer of a Program in both directions of time, where the choice is Yosys', is not counted.
    """
    return block_rams_of(layout, layout.index_width, layout.weight_depth, layout.position_depth)


def memories(layout: Layout) -> Iterator[Memory]:
    """Kind, width, depth and number of the memories of engine and UART but accumulators and identity."""
    yield from _inside(layout, layout.index_width, layout.weight_depth, layout.position_depth)
    yield from _around(layout)


def block_rams_of(layout: Layout, index_width: int, weight_depth: int, position_depth: int) -> dict[str, int]:
    """The same of a layout that differs from this one in these numbers only: a search counts many."""
    found = {"weights": 0, "biases": 0, "tables": 0, "states": 0, "packets": 0}
    for kind, width, depth, count in _inside(layout, index_width, weight_depth, position_depth):
        replaceable = kind == "biases" or (kind == "weights" and not layout.config.loaded)
        found[kind] += count * (contents_blocks if replaceable else rom_blocks)(width, depth)
    for kind, count in _outside(layout).items():
        found[kind] = found.get(kind, 0) + count
    return found


def _inside(layout: Layout, index_width: int, weight_depth: int, position_depth: int) -> Iterator[Memory]:
    """Memories of the PEs and lanes, and the output buffer."""
    entry = index_width + layout.weight_width
    words, planes = (weight_depth, 1) if layout.config.loaded else weight_shape(entry, weight_depth)
    lane = [(column_width(layout), position_depth)]
    lane += [(state_width(layout), position_depth)] * state_count(layout)
    if layout.states:
        lane.append((result_width(layout), position_depth))
    finals = [layout.phases[run.phases[-1]] for run in layout.passes]
    beat = layout.config.outputs
    buffer = max(p.phase.formats["h"].width for p in finals), max(p.positions for p in finals) // beat
    yield "weights", planes * entry, words, layout.config.pes
    yield "biases", layout.bias_word(), position_depth, layout.lanes
    yield from (("tables", *shape, layout.lanes) for shape in _tables(layout))
    yield from (("states", *shape, layout.lanes) for shape in lane if shape[0])
    yield "packets", *buffer, layout.lanes * beat


@lru_cache(maxsize=8)
def _outside(layout: Layout) -> dict[str, int]:
    """Block RAMs of what neither weights nor positions change: columns as they are listed, and the UART's packets."""
    found = {"columns": 0, "packets": 0}
    for kind, width, depth, count in _around(layout):
        found[kind] += count * (packet_blocks if kind == "packets" else rom_blocks)(width, depth)
    return found


def _around(layout: Layout) -> Iterator[Memory]:
    """Columns as they are listed, and the UART's packets."""
    program, groups = layout.program, range(layout.groups)
    outputs, given = program.outputs, program.output_format.width
    reply = 8, 5 + outputs * -(-given // 8)
    values = max(program.inputs, len(program.vectors), 2 + RUN_WORDS if layout.config.loaded else 0)
    yield "packets", *reply, 1
    yield "packets", max(16, program.input_format.width), values - 1, 1
    inputs = [max(1, layout.input_depth(group)) for group in groups]
    lists = [
        (inputs[group], 2 * inputs[group], 1) for group in groups
    ]  # longest section, whole depth, how many such lists
    for group in groups:
        depths = [
            max(layout.bank_depth(number, group, at) for at in range(layout.lanes))
            for number in range(len(layout.phases))
        ]
        lists.append((max(1, *depths), max(1, sum(depths)), layout.lanes))
    sources = [program.layers[run.of.layers.start].formats["x"].width for run in layout.passes]
    sent_inputs = max(sources), max(run.inputs for run in layout.passes)
    yield "columns", *sent_inputs, 1
    for places, depth, many in lists:
        yield "columns", max(1, (places - 1).bit_length()) + layout.delta_width, depth, many


class _Lookups(timing.StageArithmetic):
    """Collects the functions that a cell looks up."""

    def __init__(self, step_bits: int) -> None:
        super().__init__(step_bits, timing.SHALLOW)  # functions are the same in any
        self.functions: list[str] = []

    def lookup(self, function: str, value: int) -> int:
        self.functions.append(function)
        return super().lookup(function, value)


def _tables(layout: Layout) -> Iterator[tuple[int, int]]:
    """Width and depth of every table of a lane."""
    for phase in (pipeline.phase for pipeline in pipelines(layout)):
        if phase.spec is PROJECTION:
            continue
        counted = _Lookups(phase.step_bits)
        phase.spec.step(counted)
        for function in counted.functions:
            table = tables.table(function, phase.formats["pre"], phase.formats["gate"], phase.step_bits)
            yield sum(images.table_fields(table)), table.depth
