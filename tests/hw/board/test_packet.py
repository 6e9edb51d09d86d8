"""The packet layer: every command, and what it does when the line misbehaves."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from amaranth.hdl import Const, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.protocol import (
    NAK,
    REPLY,
    RUN_WORDS,
    Command,
    Decoder,
    Frame,
    Identity,
    Reason,
    StepReply,
    WeightsReply,
    decode_counters,
    decode_thresholds,
    encode_step,
    encode_thresholds,
    encode_weights,
)
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_hw.board.packet import Packet, counters_signature, value_signature

TIMEOUT, GAP, CLOCK = 200, 30, 80_000_000


def make_program(
    inputs: int = 3,
    outputs: int = 2,
    when: str = "step",
    bits: int = 8,
    output_bits: int = 16,
    seed: int = 0,
    lstms: int = 1,
) -> Program:
    """A Program of the wanted sizes: LSTMs of 4 units and a linear layer."""
    stack = [synthetic.Shape("lstm", 4, NM(1, 2), NM(1, 2))] * lstms
    shapes = [*stack, synthetic.Shape("linear", outputs, when=when)]
    network = synthetic.network(inputs, shapes, seed)
    x = np.random.default_rng(seed).normal(size=(4, 6, inputs))
    config = QuantizeConfig(activation_bits=bits, output_bits=output_bits)
    return quantize(network, x, config=config)


class StandIn(wiring.Component):
    """y_j = (sum of all inputs since the sequence began) + j + threshold[0], modulo its width: every frame counts, in order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        sites = sum(len(layer.cell.sites) for layer in program.layers)
        super().__init__(
            {
                "x": In(value_signature(program.input_format.width)),
                "y": Out(value_signature(program.output_format.width)),
                "threshold": In(16).array(1 + len(program.layers)),
                "counters": Out(counters_signature(sites)),
                "step_start": Out(1),
                "step_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inputs, outputs = self.program.inputs, self.program.outputs
        width = self.program.output_format.width
        count = Signal(range(max(inputs, outputs) + 1))
        total = Signal(signed(width))
        last = Signal()
        gives = last if self.program.layers[-1].when == "last" else Const(1)
        m.d.sync += self.counters.cycles.eq(self.counters.cycles + 1)
        for number, counter in enumerate(self.counters.saturations):
            m.d.comb += counter.eq(0x01020304 * (number + 1))
        with m.FSM():
            with m.State("IN"):
                m.d.comb += self.x.ready.eq(1)
                with m.If(self.x.valid):
                    m.d.comb += self.step_start.eq(count == 0)
                    m.d.sync += [
                        count.eq(count + 1),
                        total.eq(total + self.x.payload.data),
                        self.counters.columns_seen.eq(self.counters.columns_seen + 1),
                    ]
                    with m.If(self.x.payload.data != 0):
                        m.d.sync += self.counters.columns_sent.eq(self.counters.columns_sent + 1)
                    with m.If(self.x.payload.last & (count != inputs - 1)):  # never in the middle of a frame
                        m.d.sync += total.eq(total + 1)
                    with m.If(count == inputs - 1):
                        m.d.sync += [last.eq(self.x.payload.last), count.eq(0)]
                        m.next = "WORK"
            with m.State("WORK"):  # a step is done before its outputs come
                m.d.comb += self.step_done.eq(1)
                m.d.sync += [count.eq(0), self.counters.steps.eq(self.counters.steps + 1)]
                m.next = "RESULT"
            with m.State("RESULT"):
                with m.If(gives):
                    m.next = "OUT"
                with m.Else():
                    m.next = "OVER"
            with m.State("OUT"):
                m.d.comb += [
                    self.y.valid.eq(1),
                    self.y.payload.data.eq((total + count + self.threshold[0])[:width].as_signed()),
                    self.y.payload.last.eq(last & (count == outputs - 1)),
                ]
                with m.If(self.y.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == outputs - 1):
                        m.d.sync += count.eq(0)
                        m.next = "OVER"
            with m.State("OVER"):
                with m.If(last):
                    m.d.sync += total.eq(0)
                m.next = "IN"
        return m


class Model:
    """The stand-in's integers in Python."""

    def __init__(self, program: Program) -> None:
        self.program, self.total = program, 0

    def step(self, values: list[int], last: bool, threshold: int = 0) -> list[int] | None:
        self.total += sum(values)
        width = self.program.output_format.width
        raw = [(self.total + j + threshold) & ((1 << width) - 1) for j in range(self.program.outputs)]
        if last:
            self.total = 0
        if self.program.layers[-1].when == "last" and not last:
            return None
        return [value - (1 << width) if value >> (width - 1) else value for value in raw]


class Device:
    """Packet layer and stand-in engine, with a host's view of the byte streams."""

    def __init__(self, program, seed=0, loaded=None):
        self.program = program
        self.random = random.Random(seed)
        self.packet = Packet(program, CLOCK, timeout=TIMEOUT, gap=GAP, loaded=loaded)
        self.written = []  # PE, address and word, in order
        self.engine = StandIn(program)
        self.model = Model(program)
        self.sequence = 0
        self.nonzero = 0  # of all values drawn
        m = Module()
        m.submodules.packet, m.submodules.engine = self.packet, self.engine
        wiring.connect(m, self.packet.x, self.engine.x)
        wiring.connect(m, self.engine.y, self.packet.y)
        wiring.connect(m, self.engine.counters, self.packet.counters)
        for target, source in zip(self.engine.threshold, self.packet.threshold, strict=True):
            m.d.comb += target.eq(source)
        m.d.comb += [
            self.packet.step_start.eq(self.engine.step_start),
            self.packet.step_done.eq(self.engine.step_done),
        ]
        self.module = m
        self.decoder = Decoder()
        self.replies = []

    def run(self, bench):
        async def main(ctx):
            await bench(ctx, self)

        async def listen(ctx):
            while True:
                ctx.set(self.packet.o.ready, self.random.random() < 0.6)
                _, _, valid, ready, payload = await ctx.tick().sample(
                    self.packet.o.valid, self.packet.o.ready, self.packet.o.payload
                )
                if valid and ready:
                    self.replies += self.decoder.feed(bytes([payload]))

        async def note(ctx):
            port = self.packet.weights
            async for _, _, valid, *item in ctx.tick().sample(port.valid, port.pe, port.address, port.data):
                if valid:
                    self.written.append(tuple(item))

        simulator = Simulator(self.module)
        simulator.add_clock(1e-6)
        simulator.add_testbench(main)
        if self.packet.loaded:
            simulator.add_testbench(note, background=True)
        simulator.add_testbench(listen, background=True)
        simulator.run()

    async def send(self, ctx, data):
        """Bytes, with pauses between them."""
        for byte in data:
            ctx.set(self.packet.i.payload, byte)
            ctx.set(self.packet.i.valid, 1)
            await ctx.tick().until(self.packet.i.ready)
            ctx.set(self.packet.i.valid, 0)
            if self.random.random() < 0.4:
                await ctx.tick().repeat(1 + self.random.randrange(5))

    async def reply(self, ctx, limit=2000):
        """The next reply, or None."""
        for _ in range(limit):
            if self.replies:
                return self.replies.pop(0)
            await ctx.tick()
        return None

    async def ask(self, ctx, command, payload=b"", sequence=None):
        """Send a request, give its reply."""
        if sequence is None:
            self.sequence = sequence = (self.sequence + 1) & 0xFF
        await self.send(ctx, Frame(command, sequence, payload).encode())
        reply = await self.reply(ctx)
        assert reply is not None
        assert reply.sequence == sequence
        return reply

    async def step(self, ctx, values, last=False, threshold=0):
        """One time step, compared with the model."""
        payload = encode_step(values, self.program.input_format.width, last)
        reply = await self.ask(ctx, Command.FRAME, payload)
        self.check(reply, self.model.step(values, last, threshold))
        return reply

    def check(self, reply, expected):
        assert reply.command == Command.FRAME | REPLY
        step = StepReply.decode(reply.payload, self.program.outputs, self.program.output_format.width)
        assert (None if step.outputs is None else step.outputs.tolist()) == expected
        assert step.cycles > 0

    def draw(self):
        form = self.program.input_format
        values = [self.random.randint(form.min, form.max) for _ in range(self.program.inputs)]
        self.nonzero += sum(value != 0 for value in values)
        return values


@pytest.mark.parametrize(
    ("inputs", "outputs", "when", "bits", "output_bits", "lstms"),
    [
        (3, 2, "step", 8, 16, 1),
        (1, 1, "step", 4, 8, 1),
        (5, 3, "last", 16, 20, 1),
        (2, 4, "last", 12, 6, 1),
        (7, 1, "step", 6, 32, 1),
        # more counters and thresholds than are chosen in one cycle: two sixteens of words, and three
        (3, 2, "step", 8, 16, 2),
        (2, 1, "last", 8, 16, 5),
    ],
)
def test_every_command(inputs, outputs, when, bits, output_bits, lstms):
    program = make_program(inputs, outputs, when, bits, output_bits, lstms=lstms)
    device = Device(program, seed=inputs)

    async def bench(ctx, device):
        reply = await device.ask(ctx, Command.IDENTIFY)
        assert Identity.decode(reply.payload) == Identity.of(program, CLOCK)
        for length in (3, 1, 4):
            for t in range(length):
                await device.step(ctx, device.draw(), last=t == length - 1)
                assert ctx.get(device.packet.busy) == (t != length - 1)
                assert ctx.get(device.packet.done) == (t == length - 1)
        reply = await device.ask(ctx, Command.COUNTERS)
        counters = decode_counters(reply.payload, program)
        assert counters["steps"] == 8
        assert counters["columns_seen"] == 8 * inputs
        saturations = [value for name, value in counters.items() if name.startswith("saturations.")]
        assert saturations == [(0x01020304 * (n + 1)) & 0xFFFFFFFF for n in range(len(saturations))]
        reply = await device.ask(ctx, Command.THRESHOLDS)
        assert decode_thresholds(reply.payload) == program.thresholds
        wanted = (0x1234, *range(7, 7 + len(program.layers)))
        reply = await device.ask(ctx, Command.THRESHOLDS, encode_thresholds(wanted))
        assert decode_thresholds(reply.payload) == wanted
        await device.step(ctx, device.draw(), threshold=0x1234)
        reply = await device.ask(ctx, Command.THRESHOLDS, encode_thresholds((0,) * len(wanted)))
        assert (reply.command, reply.reason) == (NAK, Reason.OPEN)
        # a reset closes the sequence once; a second one has nothing to do
        for open_ in (1, 0):
            reply = await device.ask(ctx, Command.RESET)
            assert (reply.command, reply.payload) == (Command.RESET | REPLY, bytes([open_]))
            device.model.total = 0
        # the step that closed it was one of zeros
        reply = await device.ask(ctx, Command.COUNTERS)
        assert decode_counters(reply.payload, program)["columns_sent"] == device.nonzero
        assert decode_counters(reply.payload, program)["steps"] == 10
        await device.step(ctx, device.draw(), last=True, threshold=0x1234)

    device.run(bench)


def test_a_retry_does_not_feed_a_frame_twice():
    device = Device(make_program(), seed=1)

    async def bench(ctx, device):
        values = device.draw()
        payload = encode_step(values, 8, False)
        first = await device.ask(ctx, Command.FRAME, payload, sequence=9)
        again = await device.ask(ctx, Command.FRAME, payload, sequence=9)
        assert first == again
        device.check(first, device.model.step(values, False))
        # the same number after another command is a new frame
        await device.ask(ctx, Command.COUNTERS, sequence=10)
        other = await device.ask(ctx, Command.FRAME, payload, sequence=9)
        device.check(other, device.model.step(values, False))
        # a bad frame in between does not make the device forget
        await device.send(ctx, b"\xa5\x5a\x02\x09\x00\x00\x00\x00")
        assert (await device.reply(ctx)).reason == Reason.CRC
        assert await device.ask(ctx, Command.FRAME, payload, sequence=9) == other
        await device.step(ctx, values, last=True)

    device.run(bench)


def test_refusals():
    device = Device(make_program(inputs=3, bits=6), seed=2)

    async def bench(ctx, device):
        async def refused(command, payload=b""):
            reply = await device.ask(ctx, command, payload)
            assert reply.command == NAK
            assert ctx.get(device.packet.error) == 1
            return reply.reason

        for command in (Command.IDENTIFY, Command.COUNTERS, Command.RESET):
            assert await refused(command, b"x") == Reason.LENGTH
        assert await refused(Command.FRAME, b"\0\0\0") == Reason.LENGTH
        assert await refused(Command.FRAME) == Reason.LENGTH
        assert await refused(Command.FRAME, bytes(5)) == Reason.LENGTH
        assert await refused(Command.FRAME, bytes(600)) == Reason.LENGTH
        assert await refused(Command.THRESHOLDS, bytes(4)) == Reason.LENGTH
        assert await refused(77) == Reason.COMMAND
        # what follows a broken frame belongs to it, whatever it looks like
        inner = Frame(Command.RESET, 200).encode()
        assert await refused(Command.FRAME, bytes(300) + inner) == Reason.LENGTH
        assert await device.reply(ctx, limit=100) is None
        # a length that no command has is not waited for
        await device.send(ctx, b"\xa5\x5a\x02\x63\xff\xff")
        reply = await device.reply(ctx, limit=TIMEOUT // 2)
        assert (reply.sequence, reply.reason) == (0x63, Reason.LENGTH)
        for wrong in (32, -33, 127, -128):
            assert await refused(Command.FRAME, struct.pack("<Bbbb", 1, 0, wrong, 0)) == Reason.VALUE
        await device.step(ctx, [31, -32, 0], last=True)
        assert ctx.get(device.packet.error) == 0
        assert ctx.get(device.engine.counters.steps) == 1  # nothing that was refused reached the engine

    device.run(bench)


def test_damaged_frames_never_reach_the_engine():
    device = Device(make_program(inputs=4), seed=3)
    random_ = random.Random(30)

    async def bench(ctx, device):
        for trial in range(40):
            values, last = device.draw(), random_.random() < 0.3
            frame = Frame(Command.FRAME, trial, encode_step(values, 8, last)).encode()
            damaged = bytearray(frame)
            kind = random_.choice(("flip", "lose", "cut", "garbage", "none"))
            if kind == "flip":
                damaged[random_.randrange(len(damaged))] ^= 1 << random_.randrange(8)
            elif kind == "lose":
                del damaged[random_.randrange(len(damaged))]
            elif kind == "cut":
                del damaged[random_.randrange(1, len(damaged)) :]
            elif kind == "garbage":
                damaged[:0] = random_.randbytes(random_.randrange(1, 12))
            await device.send(ctx, damaged)
            reply = await device.reply(ctx, limit=TIMEOUT + 800)
            accepted = reply is not None and reply.command != NAK
            if kind == "none":
                assert accepted
            if kind in ("flip", "lose", "cut"):
                assert not accepted
                assert reply is None or reply.reason in (Reason.CRC, Reason.TIMEOUT, Reason.LENGTH)
            if not accepted:
                reply = await device.ask(ctx, Command.FRAME, frame[6:-2], sequence=trial)
            device.check(reply, device.model.step(values, last))
            assert ctx.get(device.engine.counters.steps) == trial + 1

    device.run(bench)


def test_a_dropped_byte_is_a_framing_error():
    device = Device(make_program(), seed=4)

    async def bench(ctx, device):
        frame = Frame(Command.RESET, 5).encode()
        await device.send(ctx, frame[:5])
        ctx.set(device.packet.i_error, 1)
        await ctx.tick()
        ctx.set(device.packet.i_error, 0)
        await device.send(ctx, frame[6:])
        reply = await device.reply(ctx)
        assert (reply.sequence, reply.reason) == (5, Reason.FRAMING)
        assert (await device.ask(ctx, Command.RESET)).payload == b"\0"

    device.run(bench)


def test_requests_while_a_reply_is_sent_are_dropped():
    device = Device(make_program(), seed=5)

    async def bench(ctx, device):
        await device.send(ctx, Frame(Command.IDENTIFY, 1).encode())
        await device.send(ctx, Frame(Command.COUNTERS, 2).encode())
        assert (await device.reply(ctx)).command == Command.IDENTIFY | REPLY
        assert await device.reply(ctx, limit=TIMEOUT + 500) is None

    device.run(bench)


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        (0xFFFF, 1, "the inputs of a step are 65536 bytes, a frame has at most 65535"),
        (1, 32766, "the contents of the longest reply are 65537 bytes, a frame has at most 65535"),
    ],
)
def test_frames_that_would_be_too_long_are_refused(inputs: int, outputs: int, sentence: str) -> None:
    network = synthetic.network(inputs, [synthetic.Shape("linear", outputs)], 0)
    program = quantize(network, np.ones((1, 1, inputs)))
    with pytest.raises(SparseGateError, match=sentence):
        Packet(program, CLOCK, TIMEOUT, GAP)


def loaded_device(seed):
    program = make_program(inputs=3)
    layout = Layout(program, HardwareConfig(rows=8, loaded=True))
    device = Device(program, seed, layout)
    words = layout.pack(*layout.weights()).reshape(-1)
    places = [(at // layout.weight_depth, at % layout.weight_depth, int(word)) for at, word in enumerate(words)]
    return device, layout, words, places


def test_weights_are_written_once_all_is_well_with_them():
    device, layout, words, places = loaded_device(6)
    depth = layout.weight_depth
    array = WeightsReply(False, 8, 1, layout.cluster, layout.lanes)

    async def bench(ctx, device):
        async def load(start, stop, sequence=None):
            payload = encode_weights(start // depth, start % depth, words[start:stop])
            reply = await device.ask(ctx, Command.WEIGHTS, payload, sequence)
            assert reply.command == Command.WEIGHTS | REPLY
            return WeightsReply.decode(reply.payload)

        async def refused(command, payload=b""):
            reply = await device.ask(ctx, command, payload)
            assert reply.command == NAK
            return reply.reason

        reply = await device.ask(ctx, Command.IDENTIFY)
        assert Identity.decode(reply.payload) == Identity.of(device.program, CLOCK, loaded=True)
        assert WeightsReply.decode((await device.ask(ctx, Command.WEIGHTS)).payload) == array
        assert await refused(Command.FRAME, encode_step([1, 2, 3], 8, True)) == Reason.UNLOADED
        # in runs that end in the middle of memories, one of them damaged and one sent twice, as if its reply was lost
        cuts = [0, 7, 8, len(words) // 2, len(words) - 1, len(words)]
        wanted = []
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            frame = bytearray(Frame(Command.WEIGHTS, 77, encode_weights(0, 0, words[:3])).encode())
            frame[-5] ^= 4
            await device.send(ctx, frame)
            assert (await device.reply(ctx)).reason == Reason.CRC
            assert device.written == wanted
            assert not (await load(start, start + 1)).complete or start + 1 == len(words)
            reply = await load(start, stop)
            assert reply.complete == (stop == len(words))
            wanted += places[start : start + 1] + places[start:stop]
            assert device.written == wanted
        await device.step(ctx, device.draw())
        assert await refused(Command.WEIGHTS, encode_weights(0, 0, words[:1])) == Reason.OPEN
        await device.step(ctx, device.draw(), last=True)
        assert WeightsReply.decode((await device.ask(ctx, Command.WEIGHTS)).payload).complete
        # beginning again takes the weights away; what is beyond the last is not written
        assert not (await load(0, 2)).complete
        assert await refused(Command.FRAME, encode_step([1, 2, 3], 8, True)) == Reason.UNLOADED
        del device.written[:]
        assert not (await load(2, len(words) - 1)).complete
        last = encode_weights(*divmod(len(words) - 1, depth), [words[-1], 1, 2])
        assert WeightsReply.decode((await device.ask(ctx, Command.WEIGHTS, last)).payload).complete
        assert device.written == places[2:]
        await device.step(ctx, device.draw(), last=True)

    device.run(bench)


def test_weights_out_of_place_are_refused():
    device, layout, words, places = loaded_device(7)

    async def bench(ctx, device):
        async def refused(payload):
            reply = await device.ask(ctx, Command.WEIGHTS, payload)
            assert reply.command == NAK
            return reply.reason

        assert await refused(bytes(5)) == Reason.LENGTH
        assert await refused(bytes(4)) == Reason.LENGTH
        assert await refused(bytes(4 + 2 * RUN_WORDS + 2)) == Reason.LENGTH
        reply = await device.ask(ctx, Command.WEIGHTS, encode_weights(0, 0, words[:4]))
        assert reply.command == Command.WEIGHTS | REPLY
        for pe, address in ((0, 5), (1, 0), (256, 0), (0, layout.weight_depth), (0, 256)):
            assert await refused(encode_weights(pe, address, [1])) == Reason.ORDER
        assert device.written == places[:4]
        # a refusal changes nothing: the next run goes on
        await device.ask(ctx, Command.WEIGHTS, encode_weights(0, 4, words[4:6]))
        assert device.written == places[:6]

    device.run(bench)


def test_a_design_with_its_weights_knows_no_such_request():
    device = Device(make_program(), seed=8)

    async def bench(ctx, device):
        assert (await device.ask(ctx, Command.WEIGHTS)).reason == Reason.COMMAND

    device.run(bench)
