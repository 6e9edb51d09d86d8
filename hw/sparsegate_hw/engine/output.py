"""The output buffer: collects the final layer's results and sends them as a frame in unit order."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout, timing
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.engine.pe import depth_bits
from sparsegate_hw.fabric.primitives import memory_style


def finals(layout: Layout) -> list[int]:
    """The last phase of each pass, whose results are the pass's output."""
    return [run.phases[-1] for run in layout.passes]


def output_width(layout: Layout) -> int:
    """Bits of the widest output of any pass."""
    return max(layout.phases[number].phase.formats["h"].width for number in finals(layout))


def output_payload(layout: Layout, width: int | None = None) -> data.StructLayout:
    """Payload of an output stream: ``data`` one value, or an array of ``config.outputs``, the first unit's first; ``last`` with
    the final beat of a sequence's final frame. ``width`` of a value: a pass's where omitted.
    """
    value, beat = signed(output_width(layout) if width is None else width), layout.config.outputs
    return data.StructLayout({"data": value if beat == 1 else data.ArrayLayout(value, beat), "last": 1})


class OneByOne(wiring.Component):
    """Gives the ``beat`` values of an output stream's beats one after the other.

    Members: ``i`` stream of :func:`output_payload` with an array of values, ``o`` the same with one value of ``width`` bits.

    Timing: latency 1, a beat every ``beat`` + 1 cycles. ``i.ready`` is a register: what takes the values may be far from what
    gives the beats, whose memories all wait for it.
    """

    def __init__(self, width: int, beat: int) -> None:
        self._beat = beat
        value = signed(width)
        wide = data.StructLayout({"data": data.ArrayLayout(value, beat), "last": 1})
        super().__init__(
            {
                "i": In(stream.Signature(wide)),
                "o": Out(stream.Signature(data.StructLayout({"data": value, "last": 1}))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        values = Signal.like(self.i.payload.data, name="values", reset_less=True)
        # a bit for every value that is left, so that the last one is seen without counting
        left = Signal(self._beat)
        last = Signal()
        m.d.comb += [
            self.i.ready.eq(~left[0]),
            self.o.valid.eq(left[0]),
            self.o.payload.data.eq(values[0]),
            self.o.payload.last.eq(last & (left == 1)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [values.eq(self.i.payload.data), last.eq(self.i.payload.last), left.eq(~0)]
        with m.Elif(self.o.ready):
            m.d.sync += [
                values.as_value().eq(values.as_value() >> self.o.payload.data.shape().width),
                left.eq(left >> 1),
            ]
        return m


class OutputBuffer(wiring.Component):
    """One memory a lane, written by position and read by unit; with ``config.outputs`` > 1 so many of them, in which consecutive
    positions lie in turn.

    Members: ``write`` (valid, position within the phase), ``h`` of every lane; ``start`` with ``run`` (the pass) and
    ``last`` begin a
    frame; ``busy`` until its last beat is out of the memories; ``o`` stream of :func:`output_payload`.

    Timing: the first beat is valid ``timing.OUTPUT`` cycles after ``start``, then one a cycle; ``busy`` lasts as many
    cycles as the frame has beats, without stalls.
    """

    latency = timing.OUTPUT

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._phases = [layout.phases[number] for number in finals(layout)]
        self._depth = max(phase.positions for phase in self._phases)
        width = output_width(layout)
        super().__init__(
            {
                "write": In(wiring.Signature({"valid": Out(1), "position": Out(depth_bits(self._depth))})),
                "h": In(signed(width)).array(layout.lanes),
                "start": In(1),
                "run": In(depth_bits(len(self._phases))),
                "last": In(1),
                "busy": Out(1),
                "o": Out(stream.Signature(output_payload(layout))),
            }
        )

    def model(self, values: Any, run: int = 0) -> list[int]:
        """Integer model: values (lanes, positions) to the frame in unit order."""
        units = self._layout.units(finals(self._layout)[run])
        frame = {
            int(unit): int(value)
            for unit, value in zip(units.reshape(-1), values.reshape(-1), strict=True)
            if unit >= 0
        }
        return [frame[unit] for unit in range(len(frame))]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, phases = self._layout, self._phases
        turns, beat = layout.lane_clusters, layout.config.outputs
        width, depth = output_width(layout), self._depth // beat
        address = Signal(depth_bits(depth))
        move = Signal()
        # a beat's values lie at one address, by the low bits of their positions
        low = beat.bit_length() - 1
        values = []
        for lane in range(layout.lanes):
            for place in range(beat):
                memory = Memory(shape=signed(width), depth=depth, init=[], attrs=memory_style(platform, width, depth))
                m.submodules[f"lane_{lane}" if beat == 1 else f"lane_{lane}_{place}"] = memory
                write, read = memory.write_port(), memory.read_port()
                here = self.write.valid
                if low:
                    here = here & (self.write.position[:low] == place)
                m.d.comb += [
                    write.en.eq(here),
                    write.addr.eq(self.write.position[low:]),
                    write.data.eq(self.h[lane]),
                    read.addr.eq(address),
                    read.en.eq(move),
                ]
                values.append(read.data)
        beats = [Cat(values[lane * beat : (lane + 1) * beat]) for lane in range(layout.lanes)]

        run = Signal.like(self.run, name="run_now")
        blocks = constant(m, run, [phase.phase.block // beat - 1 for phase in phases], "blocks")
        strides = constant(m, run, [phase.phase.block // beat * turns for phase in phases], "strides")
        outputs = constant(m, self.run, [phase.phase.units // beat - 1 for phase in phases], "outputs")
        # units in order: unit block of the cluster, lane, turn, index in block; position = (unit block * block + index) *
        # turns + turn; an index is that of a beat
        base = Signal.like(address, name="base")
        turn = Signal(range(max(2, turns)))
        lane = Signal(range(max(2, layout.lanes)))
        index = Signal.like(blocks, name="index")
        left = Signal.like(outputs, name="left")
        last = Signal()
        fetched, fetched_last = Signal(), Signal()
        fetched_lane = Signal.like(lane, name="fetched_lane")
        m.d.comb += move.eq(~self.o.valid | self.o.ready)
        with m.If(move):
            m.d.sync += [
                fetched.eq(self.busy),
                fetched_lane.eq(lane),
                fetched_last.eq(last & (left == 0)),
                self.o.valid.eq(fetched),
                Value.cast(self.o.payload.data).eq(Array(beats)[fetched_lane]),
                self.o.payload.last.eq(fetched_last),
            ]
        with m.If(move & self.busy):
            m.d.sync += left.eq(left - 1)
            with m.If(index != blocks):
                m.d.sync += [index.eq(index + 1), address.eq(address + turns)]
            with m.Else():
                m.d.sync += index.eq(0)
                with m.If(turn != turns - 1):
                    m.d.sync += [turn.eq(turn + 1), address.eq(base + turn + 1)]
                with m.Else():
                    m.d.sync += [turn.eq(0), address.eq(base)]
                    with m.If(lane != layout.lanes - 1):
                        m.d.sync += lane.eq(lane + 1)
                    with m.Else():
                        m.d.sync += [lane.eq(0), base.eq(base + strides), address.eq(base + strides)]
            with m.If(left == 0):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), last.eq(self.last), left.eq(outputs), run.eq(self.run)]
            m.d.sync += [counter.eq(0) for counter in (address, base, turn, lane, index)]
        return m
