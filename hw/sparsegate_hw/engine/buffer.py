"""The sequence buffer: runs a Program whose layers look both ways in time, pass by pass, on an engine that only streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import timing
from sparsegate.errors import SparseGateError
from sparsegate.network.passes import Pass
from sparsegate.program import Program
from sparsegate_hw.engine.pe import depth_bits

Frames = list[list[int]]


@dataclass(frozen=True)
class Region:
    """Where a vector lies: ``rows`` frames of ``size`` values of ``width`` bits from ``base`` on, in the memory of that width.

    Frames lie in the order in which they came: ``reverse`` of the order of time, if a reversed pass gave them.
    """

    size: int
    width: int
    rows: int
    reverse: bool
    base: int

    @property
    def end(self) -> int:
        return self.base + self.rows * self.size


def reads(program: Program) -> list[Pass]:
    """What is read, one after the other: every pass's sources, then the output."""
    end = len(program.layers)
    when = program.layers[program.output_vectors[-1] - 1].when
    return [*program.passes, Pass(range(end, end), program.output_vectors, False, when)]


def regions(program: Program, steps: int) -> dict[int, Region]:
    """Regions of the vectors that pass from one pass to another, in the order in which they are written.

    A region is used again once the last pass that takes its vector is over.
    """
    taken = {vector: turn for turn, read in enumerate(reads(program), 1) for vector in read.sources}
    found: dict[int, Region] = {}
    lives: dict[int, int] = {}
    for turn, vector in enumerate((0, *(this.layers.stop for this in program.passes))):
        layer = program.layers[vector - 1]
        size, form, rows, reverse = program.inputs, program.input_format, steps, False
        if vector:
            size, form, reverse = layer.outputs, layer.formats["h"], layer.reverse
            rows = steps if layer.when == "step" else 1
        others = [found[other] for other, until in lives.items() if until >= turn and found[other].width == form.width]
        # first fit: at the start, or behind a region that lives
        for base in sorted([0, *(other.end for other in others)]):
            if all(base + rows * size <= other.base or other.end <= base for other in others):
                break
        found[vector] = Region(size, form.width, rows, reverse, base)
        lives[vector] = taken[vector]
    return found


@dataclass(frozen=True)
class Segment:
    """One source's part of the frames of a read.

    Its rows go up from the region's first one, or down from the last one (``descends``). ``slot``: position among the sources;
    ``final`` of them; ``following`` is the number of the segment that comes next.
    """

    vector: int
    region: Region
    descends: bool
    slot: int
    final: bool
    following: int


def segments(program: Program, where: dict[int, Region]) -> list[Segment]:
    """Segments of all reads."""
    found: list[Segment] = []
    for read in reads(program):
        begin = len(found)
        for slot, vector in enumerate(read.sources):
            region, final = where[vector], slot == len(read.sources) - 1
            # the row that came last is that of the last step, or of a reversed vector's first one
            last = {"step": read.reverse != region.reverse, "last": not region.reverse, "final": True}[read.when]
            following = begin if final else len(found) + 1
            found.append(Segment(vector, region, last, slot, final, following))
    return found


def _payload(width: int) -> stream.Signature:
    return stream.Signature(data.StructLayout({"data": signed(width), "last": 1}))


class SequenceBuffer(wiring.Component):
    """Takes a sequence into memory, has the engine run one pass after the other over it, and sends the output.

    Members
    -------
    i : stream of frames of ``program.inputs`` values; ``last`` with the final value of a sequence's final frame.
    o : stream of frames of ``program.outputs`` values in order of time (a single one if the output layer runs at the end only);
        ``last`` with the sequence's final value.
    feed : stream to the engine: the present pass's frames in its direction of time; ``last`` with the pass's final value.
    collect : stream from the engine: the present pass's results; ``last`` with the pass's final value.
    too_long : a sequence had more than ``steps`` frames. The surplus is taken and dropped, the sequence runs as if it had ended
        after ``steps`` frames, and the flag, raised with the first surplus value, stays until reset.

    Timing: one value a cycle in each state, frames without gaps. The first value is valid at ``feed`` (or, after the final pass, at
    ``o``) ``latency`` cycles after ``i`` (or ``collect``) took the last one; the next sequence is taken in only after the present
    one's output has left: ``i`` is ready ``timing.BUFFER_RETURN`` cycles after ``o`` gave its last value.
    Memory: one of each width of vectors, with synchronous ports for one write and one read; :func:`regions` says what they hold.
    """

    latency = timing.BUFFER_FEED

    def __init__(self, program: Program, steps: int) -> None:
        if steps < 1:
            raise SparseGateError(f"a sequence buffer of {steps} steps asked for, expected at least 1")
        self.program, self.steps = program, steps
        self.regions = regions(program, steps)
        fed = max(self.regions[vector].width for this in program.passes for vector in this.sources)
        collected = max(self.regions[this.layers.stop].width for this in program.passes)
        super().__init__(
            {
                "i": In(_payload(program.input_format.width)),
                "o": Out(_payload(program.output_format.width)),
                "feed": Out(_payload(fed)),
                "collect": In(_payload(collected)),
                "too_long": Out(1),
            }
        )

    @property
    def depths(self) -> dict[int, int]:
        """Words of each memory, by width."""
        widths = sorted({region.width for region in self.regions.values()})
        return {width: max(r.end for r in self.regions.values() if r.width == width) for width in widths}

    @property
    def _address_bits(self) -> int:
        return depth_bits(max(self.depths.values()))

    @staticmethod
    def model(
        program: Program, steps: int, sequence: Frames, core: Callable[[int, Frames], Frames]
    ) -> tuple[Frames, bool]:
        """Integer model: a sequence's frames to the output's, and whether it was too long.

        ``core(number, frames)`` runs a pass over frames in the pass's order and gives its results in that order.
        """
        values = {0: sequence[:steps]}  # by vector, in order of time
        for number, this in enumerate(program.passes):
            parts = []
            for vector in this.sources:
                frames = values[vector]
                if this.when != "step":
                    ahead = this.when == "last" or vector == 0 or not program.layers[vector - 1].reverse
                    frames = frames[-1:] if ahead else frames[:1]
                parts.append(frames)
            fed = [list(chain(*step)) for step in zip(*parts, strict=True)]
            given = core(number, fed[::-1] if this.reverse else fed)
            values[this.layers.stop] = given[::-1] if this.reverse else given
        outputs = zip(*(values[vector] for vector in program.output_vectors), strict=True)
        return [list(chain(*step)) for step in outputs], len(sequence) > steps

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # turn 0 takes the sequence, turns 1, 2, ... are the passes, and the last turn sends the output
        turn = Signal(range(len(self.program.passes) + 2))
        extent = Signal(range(max(2, self.steps)))  # frames of the sequence, less one
        ended, over = Signal(), Signal()  # of what is taken, and of what is sent
        m.d.comb += over.eq(self.o.valid & self.o.ready & self.o.payload.last)
        with m.If(ended):
            m.d.sync += turn.eq(turn + 1)
        with m.If(over):
            m.d.sync += turn.eq(0)
        memories = []
        for width, depth in self.depths.items():
            m.submodules[f"memory_{width}"] = memory = Memory(shape=signed(width), depth=depth, init=[])
            memories.append(memory)
        ends = self._store(m, memories, turn, extent, ended, over)
        self._send(m, memories, turn, extent, ended, ends)
        return m

    def _store(
        self, m: Module, memories: list[Memory], turn: Signal, extent: Signal, ended: Signal, over: Signal
    ) -> dict[int, Signal]:
        """Write what comes, one value after the other from the region's base on; returns where each vector's last row begins."""
        where = list(self.regions.items())
        address = Signal(self._address_bits, name="write_address")
        column = Signal(range(max(2, self.program.inputs)))
        surplus, store, complete = Signal(), Signal(), Signal()
        value = Signal(signed(max(self.depths)))
        m.d.comb += complete.eq(column == self.program.inputs - 1)
        with m.If(turn == 0):
            m.d.comb += [
                self.i.ready.eq(1),
                value.eq(self.i.payload.data),
                store.eq(self.i.valid & ~surplus),
                ended.eq(self.i.valid & complete & self.i.payload.last),
            ]
            with m.If(self.i.valid):
                m.d.sync += [column.eq(Mux(complete, 0, column + 1)), self.too_long.eq(self.too_long | surplus)]
                with m.If(complete & ~self.i.payload.last):
                    with m.If(extent == self.steps - 1):
                        m.d.sync += surplus.eq(1)
                    with m.Else():
                        m.d.sync += extent.eq(extent + 1)
        with m.Elif(turn != len(where)):
            m.d.comb += [
                self.collect.ready.eq(1),
                value.eq(self.collect.payload.data),
                store.eq(self.collect.valid),
                ended.eq(self.collect.valid & self.collect.payload.last),
            ]
        with m.If(store):
            m.d.sync += address.eq(address + 1)
        with m.If(ended):
            m.d.sync += address.eq(Array([*(region.base for _, region in where[1:]), 0])[turn])
        with m.If(over):
            m.d.sync += [address.eq(0), extent.eq(0), surplus.eq(0)]
        for memory in memories:
            write = memory.write_port()
            here = Array([int(region.width == len(write.data)) for _, region in where] + [0])[turn]
            m.d.comb += [
                write.addr.eq(address[: len(write.addr)]),
                write.data.eq(value[: len(write.data)].as_signed()),  # exact: it is a value of this width
                write.en.eq(store & here),
            ]
        ends = {}
        for number, (vector, region) in enumerate(where):
            ends[vector] = Signal(self._address_bits, name=f"end_{vector}")
            with m.If(store & (turn == number)):
                m.d.sync += ends[vector].eq(address - (region.size - 1))
        return ends

    def _address(
        self, m: Module, advance: Signal, turn: Signal, extent: Signal, ended: Signal, ends: dict[int, Signal]
    ) -> tuple[Signal, Signal, Signal, Signal]:
        """Count through frame after frame, segment after segment.

        Returns whether a value is to be read, its address, the number of its memory, and whether it is the pass's final one.
        """
        widths = list(self.depths)
        parts = segments(self.program, self.regions)
        begins = [number for number, part in enumerate(parts) if part.slot == 0]
        single = [int(read.when != "step") for read in reads(self.program)]
        starts = [ends[part.vector] if part.descends else Const(part.region.base, self._address_bits) for part in parts]
        # where each source's next row begins; the passes share these registers
        slots = [Signal(self._address_bits, name=f"row_{slot}") for slot in range(1 + max(p.slot for p in parts))]
        rows = Array(slots[part.slot] for part in parts)

        following = Signal(range(max(2, len(parts))))  # the segment to be read next

        def its(values: Iterable[ValueLike]) -> Value:
            return Array(values)[following]

        start, running, fresh, final, closing = (
            Signal(name=name) for name in ("start", "running", "fresh", "final", "closing")
        )
        address, row = (Signal(self._address_bits, name=name) for name in ("read_address", "row"))
        left = Signal(range(max(2, *(part.region.size for part in parts))))
        frames = Signal.like(extent, name="frames")
        source = Signal(range(max(2, len(widths))))
        m.d.sync += start.eq(ended)
        m.d.comb += [
            closing.eq(final & (left == 0) & (frames == 0)),
            row.eq(Mux(fresh, its(starts), rows[following])),
        ]
        with m.If(ended):
            m.d.sync += [following.eq(Array([*begins, 0])[turn]), fresh.eq(1)]
        count = Signal()
        m.d.comb += count.eq(advance & running)
        with m.If(count):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), running.eq(~closing)]
            with m.If(final & (left == 0)):
                m.d.sync += frames.eq(frames - 1)
        with m.If(start):
            m.d.sync += [running.eq(1), frames.eq(Mux(Array([0, *single])[turn], 0, extent))]
        with m.If(start | (count & (left == 0) & ~closing)):
            ends_frame = its(int(part.final) for part in parts)
            m.d.sync += [
                address.eq(row),
                rows[following].eq(row + its(part.region.size * (-1 if part.descends else 1) for part in parts)),
                left.eq(its(part.region.size - 1 for part in parts)),
                source.eq(its(widths.index(part.region.width) for part in parts)),
                final.eq(ends_frame),
                fresh.eq(fresh & ~ends_frame),
                following.eq(its(part.following for part in parts)),
            ]

        return running, address, source, closing

    def _send(
        self,
        m: Module,
        memories: list[Memory],
        turn: Signal,
        extent: Signal,
        ended: Signal,
        ends: dict[int, Signal],
    ) -> None:
        """Read values into the stream whose turn it is.

        One stage is in the memories; another keeps the choice among them out of the streams' paths.
        """
        advance = Signal()
        running, address, source, closing = self._address(m, advance, turn, extent, ended, ends)
        fetched, fetched_last, valid, sending = (
            Signal(name=name) for name in ("fetched", "fetched_last", "valid", "sending")
        )
        fetched_source = Signal.like(source, name="fetched_source")
        value, last = Signal(signed(max(self.depths))), Signal()
        m.d.comb += [
            sending.eq(turn == len(self.program.passes) + 1),
            advance.eq(~valid | Mux(sending, self.o.ready, self.feed.ready)),
        ]
        ports = [memory.read_port() for memory in memories]
        for port in ports:
            m.d.comb += [port.addr.eq(address[: len(port.addr)]), port.en.eq(advance)]
        with m.If(advance):
            chosen = Array(port.data for port in ports)[fetched_source]
            m.d.sync += [fetched.eq(running), fetched_last.eq(closing), fetched_source.eq(source)]
            m.d.sync += [valid.eq(fetched), value.eq(chosen), last.eq(fetched_last)]
        for port, mine in ((self.feed, ~sending), (self.o, sending)):
            m.d.comb += [
                port.valid.eq(valid & mine),
                port.payload.data.eq(value[: len(port.payload.data)].as_signed()),
                port.payload.last.eq(last),
            ]
