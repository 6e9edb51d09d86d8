"""The engine: a Program on an array of processing elements, streams in and out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from sparsegate.array import HardwareConfig, Layout
from sparsegate.program import Program
from sparsegate_hw.engine.buffer import SequenceBuffer
from sparsegate_hw.engine.core import Core, Counters, TracePort, saturation_sites, state_ports
from sparsegate_hw.engine.encoder import THRESHOLD_BITS
from sparsegate_hw.engine.output import output_payload
from sparsegate_hw.engine.pe import WeightWrite


class Engine(wiring.Component):
    """A sparse recurrent accelerator.

    ``layout`` is the Program's placement on ``config``, where that has been made already.

    Members
    -------
    x : stream of columns' values, frames of ``program.inputs``; ``last`` with the final value of a sequence's final frame.
    y : stream of outputs, frames of ``program.outputs``, one a step (or a sequence, for a layer that runs on the last step);
        with ``config.outputs`` > 1 ``data`` is an array of so many values, in unit order.
    threshold : Θ of each of ``program.vectors``, in LSBs; change it only when no frame is
        in work or waiting: after the last step's ``step_done``, before the next sequence's first value.
    counters : see :class:`Counters`.
    step_start, step_done : pulses when a frame is taken and when its last result is there.
    trace : see :class:`Trace`.
    state_in, state_out, load, save : with ``config.states``, if some layer has a state. While ``load`` is 1, every
        sequence takes a frame of
        ``Layout.pack_state`` before its first step; while ``save`` is 1, it gives one after its last.
    weights : with ``config.loaded``, writes a word of a PE's weight memory
    (:class:`~sparsegate_hw.engine.pe.WeightWrite`), only while no
        frame is in work or waiting. All are to be written before the first frame; in a simulation they are there already.
    too_long : of a Program that does not stream: a sequence had more than ``config.steps`` frames; see :class:`SequenceBuffer`.

    A Program with layers in both directions of time (``not program.streams``) is given whole sequences, which a buffer holds while
    pass after pass runs over them; the state ports then serve each pass with recurrent layers in turn.

    Timing: exactly ``sparsegate.array.cycles.predict`` without stalls. State, sent values and accumulators restart from zero
    after a frame with ``last``, and after reset, which first clears an accumulator address a cycle.
    """

    def __init__(self, program: Program, config: HardwareConfig | None = None, layout: Layout | None = None) -> None:
        self.program, self.config = program, config or HardwareConfig()
        self.layout = layout = layout or Layout(program, self.config)

        super().__init__(
            {
                "x": In(stream.Signature(data.StructLayout({"data": signed(program.input_format.width), "last": 1}))),
                "y": Out(stream.Signature(output_payload(layout, program.output_format.width))),
                "threshold": In(THRESHOLD_BITS).array(len(program.vectors)),
                "counters": Out(Counters(program)),
                "step_start": Out(1),
                "step_done": Out(1),
                "trace": Out(TracePort(layout)),
                **(state_ports(layout) if layout.states else {}),
                **({"weights": In(WeightWrite(layout))} if self.config.loaded else {}),
                **({} if program.streams else {"too_long": Out(1)}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.core = core = Core(self.layout)
        if self.program.streams:
            connect(m, flipped(self.x), core.x)
            connect(m, core.y, flipped(self.y))
        else:
            m.submodules.buffer = buffer = SequenceBuffer(self.program, self.config.steps)
            connect(m, flipped(self.x), buffer.i)
            connect(m, buffer.feed, core.x)
            connect(m, core.y, buffer.collect)
            connect(m, buffer.o, flipped(self.y))
            m.d.comb += self.too_long.eq(buffer.too_long)
        if self.layout.states:
            connect(m, flipped(self.state_in), core.state_in)
            connect(m, core.state_out, flipped(self.state_out))
            m.d.comb += [core.load.eq(self.load), core.save.eq(self.save)]
        if self.config.loaded:
            connect(m, flipped(self.weights), core.weights)
        connect(m, core.trace, flipped(self.trace))
        connect(m, core.counters, flipped(self.counters))
        m.d.comb += [
            *(into.eq(value) for into, value in zip(core.threshold, self.threshold, strict=True)),
            self.step_start.eq(core.step_start),
            self.step_done.eq(core.step_done),
        ]
        return m


__all__ = ["Engine", "saturation_sites"]
