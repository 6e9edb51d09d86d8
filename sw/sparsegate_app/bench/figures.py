"""Cycles and counts of a Program on an array, by the cycle model and the layout: no tool runs."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from sparsegate import estimate, golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.fpga.devices import device
from sparsegate.golden import Stream, Trace
from sparsegate.program import Phase, Program
from sparsegate.protocol import Command, Frame, StepReply, value_bytes

TENTH = 0.1
STEPS = 256
"""Steps of the case whose columns are drawn."""
SEED = 1
MIDDLE = 2
"""Steps at either end of a sequence that are left out where it is to be in full swing."""


def drawn(program: Program, steps: int, share: float, seed: int = SEED) -> Trace:
    """A trace of one sequence in which each column moves with probability ``share``; 1 sends every column at every step.

    Its values mean nothing: the cycle model takes from a trace which columns move, and nothing else.
    """
    form = golden.run(program, np.zeros((1, 1, program.inputs), np.int64))
    rng = np.random.default_rng(seed)
    passes = []
    for run in form.passes:
        length = 1 if run.of.when != "step" else steps

        def stream(like: Stream, length: int = length) -> Stream:
            size = like.values.shape[2]
            # random() lies below 1
            sent = rng.random((1, length, size)) < share
            return Stream(np.zeros(sent.shape, np.int64), sent, np.ones((1, size), np.int64), like.primed)

        streams = tuple(stream(like) for like in run.streams)
        passes.append(replace(run, streams=streams, lengths=np.full(1, length)))
    return replace(form, passes=tuple(passes), lengths=np.full(1, steps))


def every_step(layout: Layout) -> list[Phase]:
    """The phases that run at every step: the work of a step."""
    return [phase.phase for number, phase in enumerate(layout.phases) if layout.every_step(number)]


def nonzeros(phase: Phase) -> int:
    """Entries of real blocks of all columns: N a block, never more than the block has rows."""
    unit_blocks = phase.blocks // phase.gates
    short = phase.units - (unit_blocks - 1) * phase.block
    return sum(
        term.matrix.columns
        * phase.gates
        * ((unit_blocks - 1) * min(term.matrix.entries, phase.block) + min(term.matrix.entries, short))
        for term in phase.terms
    )


def dense(phase: Phase) -> int:
    """MACs of the same phase without sparsity."""
    return sum(term.matrix.columns * phase.gates * phase.units for term in phase.terms)


def full(program: Program, layout: Layout) -> dict[str, Any]:
    """Figures of a step with nothing skipped, in the middle of a sequence."""
    steps = 4 * MIDDLE
    trace = drawn(program, steps, 1.0)
    found = cycles.predict(trace, layout)
    end, middle = found.end[0], slice(MIDDLE, steps - MIDDLE)
    taken = float(end[middle].max() - end[MIDDLE - 1]) / (steps - 2 * MIDDLE)
    macs = sum(nonzeros(phase) for phase in every_step(layout))
    return {
        "cycles_per_step": round(taken, 3),
        "latency": round(float(found.busy[0, middle].mean()), 3),
        "alone": round(float(cycles.predict(trace, layout, apart=True).busy[0, middle].mean()), 3),
        "columns_skipped": 0.0,
        "occupancy_matvec": round(macs / (layout.config.pes * float(found.matvec[0, middle].mean())), 5),
        "occupancy_total": round(macs / (layout.config.pes * taken), 5),
        "group_imbalance": round(found.imbalance, 4),
        "steps": steps - 2 * MIDDLE,
    }


def counted(trace: Trace, layout: Layout) -> dict[str, Any]:
    """Figures of a whole run."""
    found = cycles.predict(trace, layout)
    return {
        "cycles_per_step": round(found.total / int(trace.lengths.sum()), 3),
        "latency": round(float(found.busy[found.end >= 0].mean()), 3),
        "alone": round(float(cycles.predict(trace, layout, apart=True).busy[found.end >= 0].mean()), 3),
        "columns_skipped": round(1 - found.columns_sent / found.columns_seen, 5),
        "occupancy_matvec": round(found.occupancy_matvec, 5),
        "occupancy_total": round(found.occupancy_total, 5),
        "group_imbalance": round(found.imbalance, 4),
        "steps": int(trace.lengths.sum()),
    }


def limits(layout: Layout) -> dict[str, Any]:
    """What bounds a step with nothing skipped, in cycles, were everything else for nothing; and the memory that weights take.

    ``multipliers``: an entry a PE and cycle. ``array``: the same with idle rows, padding and groups of unequal length.
    ``read_out``: an accumulator of every PE row a cycle. ``cell_lanes``: a unit a lane and cycle. ``input``: a value a
    cycle. ``output``: ``config.outputs`` values a cycle. ``uart_bytes``: on a board's UART, both ways.
    """
    program = layout.program
    numbers = [number for number in range(len(layout.phases)) if layout.every_step(number)]
    beats = positions = units = 0
    for number in numbers:
        phase = layout.phases[number]
        in_group = [
            sum(matrix.burst * int(np.count_nonzero(matrix.group == group)) for matrix in phase.matrices)
            for group in range(layout.groups)
        ]
        beats += max(in_group)
        positions += phase.positions
        units += phase.phase.units
    macs = sum(nonzeros(layout.phases[number].phase) for number in numbers)
    streams_out = layout.every_step(len(layout.phases) - 1)
    stored = sum(nonzeros(phase) for phase in program.phases) * layout.entry_width
    return {
        "cycles": {
            "multipliers": round(macs / layout.config.pes, 2),
            "array": beats,
            "read_out": positions,
            "cell_lanes": round(units / layout.lanes, 2),
            "input": program.inputs,
            "output": layout.output_beats if streams_out else 0,
        },
        "weight_bits": stored,
        "weight_memory_bits": layout.config.pes * layout.weight_depth * layout.entry_width,
        "entry_bits": layout.entry_width,
        "uart_bytes": uart_bytes(program, streams_out),
    }


def uart_bytes(program: Program, streams_out: bool) -> int:
    """Bytes of a step's request and reply on a board's UART, with or without outputs."""
    request = bytes(1 + program.inputs * value_bytes(program.input_format.width))
    outputs = np.zeros(program.outputs, np.int64) if streams_out else None
    reply = StepReply(0, outputs).encode(program.output_format.width)
    return sum(len(Frame(Command.FRAME, 0, payload).encode()) for payload in (request, reply))


def overlap(program: Program, config: HardwareConfig) -> list[dict[str, Any]]:
    """Figures of a step with nothing skipped where phases wait for the read-out of the one before, in one bank of accumulators,
    and where more banks let them run meanwhile; ``built``: which the configuration has. Empty where a step has one phase.
    """
    layouts = {Layout(program, replace(config, banks=banks)).acc_banks: banks for banks in (1, 2, 3)}
    built = Layout(program, config)
    if len(every_step(built)) == 1:
        return []
    keys = ("cycles_per_step", "occupancy_matvec", "occupancy_total")
    rows = []
    for found, banks in sorted(layouts.items()):
        figures = full(program, Layout(program, replace(config, banks=banks)))
        rows.append({"banks": found, "built": found == built.acc_banks} | {key: figures[key] for key in keys})
    return rows


def beyond(program: Program, config: HardwareConfig, on: str) -> dict[str, Any]:
    """Cycles of a step with nothing skipped on an array that is not built, and the sizes from which its area is estimated."""
    layout, chip = Layout(program, config), device(on)
    found = full(program, layout)
    return {
        "hardware": asdict(config) | {"lanes": layout.lanes},
        "cycles_per_step": found["cycles_per_step"],
        "occupancy_total": found["occupancy_total"],
        "sizes": estimate.sizes(layout, chip),
    }
