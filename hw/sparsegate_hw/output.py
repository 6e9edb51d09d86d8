"""The output buffer: collects the final layer's results and sends them as a frame in unit order."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.layout import Layout
from sparsegate_hw.pe import depth_bits


def output_payload(layout: Layout) -> data.StructLayout:
    """Payload of the output stream: one output's value; ``last`` with the final value of a sequence's final frame."""
    return data.StructLayout({"data": signed(layout.program.output_format.width), "last": 1})


class OutputBuffer(wiring.Component):
    """One memory a lane, written by position and read by unit.

    Members: ``write`` (valid, position within the layer), ``h`` of every lane; ``start`` and ``last`` begin a frame;
    ``busy`` until its last value is out of the memories; ``o`` stream of :func:`output_payload`.

    Timing: the first value is valid two cycles after ``start``, then one a cycle; ``busy`` lasts ``outputs`` cycles without
    stalls.
    """

    latency = 2

    def __init__(self, layout: Layout) -> None:
        self._layout, self._phase = layout, layout.phases[-1]
        width = layout.program.output_format.width
        super().__init__(
            {
                "write": In(wiring.Signature({"valid": Out(1), "position": Out(depth_bits(self._phase.positions))})),
                "h": In(signed(width)).array(layout.lanes),
                "start": In(1),
                "last": In(1),
                "busy": Out(1),
                "o": Out(stream.Signature(output_payload(layout))),
            }
        )

    def model(self, values: Any) -> list[int]:
        """Integer model: values (lanes, positions) to the frame in unit order."""
        units = self._layout.units(len(self._layout.phases) - 1)
        frame = {
            int(unit): int(value)
            for unit, value in zip(units.reshape(-1), values.reshape(-1), strict=True)
            if unit >= 0
        }
        return [frame[unit] for unit in range(len(frame))]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, phase = self._layout, self._phase
        block, turns, positions = phase.layer.block, phase.turns, phase.positions
        width = layout.program.output_format.width
        address = Signal(depth_bits(positions))
        values = []
        for lane in range(layout.lanes):
            memory = Memory(shape=signed(width), depth=positions, init=[])
            m.submodules[f"lane_{lane}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(self.write.valid),
                write.addr.eq(self.write.position),
                write.data.eq(self.h[lane]),
                read.addr.eq(address),
            ]
            values.append(read.data)

        # units in order: slot, lane, turn, index in block; position = (slot * block + index) * turns + turn
        slot_base = Signal.like(address)
        offset = Signal.like(address)
        turn = Signal(range(max(2, turns)))
        lane = Signal(range(max(2, layout.lanes)))
        index = Signal(range(max(2, block)))
        left = Signal(range(max(2, layout.program.outputs)))
        last = Signal()
        load = Signal()
        m.d.comb += [address.eq(slot_base + offset + turn), load.eq(self.busy & (~self.o.valid | self.o.ready))]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(load):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.data.eq(Array(values)[lane]),
                self.o.payload.last.eq(last & (left == 0)),
                left.eq(left - 1),
            ]
            with m.If(index != block - 1):
                m.d.sync += [index.eq(index + 1), offset.eq(offset + turns)]
            with m.Else():
                m.d.sync += [index.eq(0), offset.eq(0)]
                with m.If(turn != turns - 1):
                    m.d.sync += turn.eq(turn + 1)
                with m.Else():
                    m.d.sync += turn.eq(0)
                    with m.If(lane != layout.lanes - 1):
                        m.d.sync += lane.eq(lane + 1)
                    with m.Else():
                        m.d.sync += [lane.eq(0), slot_base.eq(slot_base + block * turns)]
            with m.If(left == 0):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), last.eq(self.last), left.eq(layout.program.outputs - 1)]
            m.d.sync += [counter.eq(0) for counter in (slot_base, offset, turn, lane, index)]
        return m
