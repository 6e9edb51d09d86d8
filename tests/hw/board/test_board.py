"""The board top: a tiny engine spoken to through its UART pins only, and its pins on every board."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from sparsegate import golden, host
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.cycles import predict
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.protocol import (
    REPLY,
    Command,
    Decoder,
    Frame,
    Identity,
    Reason,
    StepReply,
    decode_counters,
    encode_step,
)
from sparsegate.quantize import quantize
from sparsegate_hw.board.board import LEDS, Bare, Board, Top
from sparsegate_hw.engine.engine import Engine
from sparsegate_hw.synthesis import boards

CLOCK, BAUD = 4_000_000, 1_000_000


def make_program(when="step"):
    shapes = [synthetic.Shape("lstm", 4, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 2, when=when)]
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    return quantize(synthetic.network(3, shapes, 0), x)


def make_board(program):
    return Board(Engine(program, HardwareConfig(rows=4)), program, CLOCK, BAUD, timeout_s=500e-6)


def with_weights_of_zero(program):
    """The same Program but for its weights: what an engine simulates whose weight memories hold something else."""
    layers = []
    for layer in program.layers:
        matrices = {name: getattr(layer, name) for name in ("matrix_x", "matrix_h") if getattr(layer, name)}
        layers.append(replace(layer, **{n: replace(m, weight=np.zeros_like(m.weight)) for n, m in matrices.items()}))
    return replace(program, layers=tuple(layers))


class Uart:
    """A host's serial port, bit by bit on the pins."""

    def __init__(self, ctx, board):
        self.ctx, self.board = ctx, board
        self.sequence = 0

    async def write(self, data):
        for byte in data:
            for bit in (0, *((byte >> n) & 1 for n in range(8)), 1):
                self.ctx.set(self.board.rx, bit)
                await self.ctx.tick().repeat(self.board.divisor)

    async def read(self, limit=100_000):
        """The next frame, or None."""
        decoder, divisor = Decoder(), self.board.divisor
        while limit > 0:
            await self.ctx.tick()
            limit -= 1
            if self.ctx.get(self.board.tx):
                continue
            await self.ctx.tick().repeat(divisor + divisor // 2)
            byte = 0
            for position in range(8):
                byte |= self.ctx.get(self.board.tx) << position
                await self.ctx.tick().repeat(divisor)
            assert self.ctx.get(self.board.tx) == 1
            for frame in decoder.feed(bytes([byte])):
                return frame
        return None

    async def ask(self, command, payload=b""):
        self.sequence += 1
        await self.write(Frame(command, self.sequence, payload).encode())
        reply = await self.read()
        assert reply is not None
        assert (reply.command, reply.sequence) == (command | REPLY, self.sequence)
        return reply.payload


def test_sequences_through_the_pins():
    program = make_program("last")  # outputs at every step: the host's test below
    board = make_board(program)
    raw = synthetic.stimulus(program.input_format, 3, 4, 3, seed=1)
    lengths = np.array([4, 1, 3])
    expected = golden.run(program, raw, lengths, saturations=True)

    async def bench(ctx):
        uart = Uart(ctx, board)
        await ctx.tick().repeat(20)
        assert Identity.decode(await uart.ask(Command.IDENTIFY)) == Identity.of(program, CLOCK)
        # a sequence that is given up leaves no trace
        await uart.ask(Command.FRAME, encode_step([100, -100, 50], 8, False))
        assert await uart.ask(Command.RESET) == b"\1"
        before = decode_counters(await uart.ask(Command.COUNTERS), program)
        assert before["steps"] == 2
        for n, length in enumerate(lengths):
            for t in range(length):
                last = t == length - 1
                reply = await uart.ask(Command.FRAME, encode_step(raw[n, t], 8, last))
                step = StepReply.decode(reply, 2, program.output_format.width)
                if not last:
                    assert step.outputs is None
                else:
                    assert step.outputs.tolist() == expected.outputs[n, t].tolist()
                assert step.cycles > 0
                assert (ctx.get(board.leds) >> LEDS.index("busy")) & 1 == (not last)
                assert (ctx.get(board.leds) >> LEDS.index("done")) & 1 == last
        counters = decode_counters(await uart.ask(Command.COUNTERS), program)
        assert counters["steps"] - before["steps"] == lengths.sum()
        for layer, sites in expected.saturations.items():
            for site, count in sites.items():
                name = f"saturations.{layer}.{site}"
                assert counters[name] - before[name] == count
        # a broken byte lights the error LED
        await uart.write(Frame(Command.RESET, 1).encode()[:4] + b"\xff")
        reply = await uart.read()
        assert reply.reason == Reason.TIMEOUT
        assert (ctx.get(board.leds) >> LEDS.index("error")) & 1

    simulator = Simulator(board)
    simulator.add_clock(1 / CLOCK)
    simulator.add_testbench(bench)
    simulator.run()


class Pins:
    """A serial port for the host whose other end is the pins of a simulated board. Reading lets simulated time pass."""

    def __init__(self, board, spoil=()):
        self.board, self.spoil = board, set(spoil)
        self.sent, self.received, self.count = bytearray(), bytearray(), 0
        self.time = 0.0
        self.simulator = Simulator(board)
        self.simulator.add_clock(1 / CLOCK)
        self.simulator.add_testbench(self.drive, background=True)
        self.simulator.add_testbench(self.watch, background=True)

    async def drive(self, ctx):
        while True:
            if not self.sent:
                await ctx.tick()
                continue
            byte = self.sent.pop(0)
            for bit in (0, *((byte >> n) & 1 for n in range(8)), 1):
                ctx.set(self.board.rx, bit)
                await ctx.tick().repeat(self.board.divisor)

    async def watch(self, ctx):
        while True:
            await ctx.negedge(self.board.tx)
            await ctx.tick().repeat(self.board.divisor + self.board.divisor // 2)
            byte = 0
            for position in range(8):
                byte |= ctx.get(self.board.tx) << position
                await ctx.tick().repeat(self.board.divisor)
            self.received.append(byte)

    @property
    def in_waiting(self):
        return len(self.received)

    def read(self, size=1):
        for _ in range(20):
            if self.received:
                break
            self.time += 100 / CLOCK
            self.simulator.run_until(self.time)
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def write(self, data):
        # never the sync or the length: the host would have to wait for its timeout, in seconds of simulation
        spoiled = bytearray(data)
        if self.count in self.spoil:
            spoiled[6] ^= 0x10
        self.count += 1
        self.sent += spoiled

    def close(self):
        """The simulation ends with the test."""


def test_a_board_takes_beats_of_outputs_one_by_one():
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    program = quantize(synthetic.network(3, [synthetic.Shape("lstm", 8, NM(1, 4), NM(1, 4))], 0), x)
    engine = Engine(program, HardwareConfig(rows=4, outputs=4))
    pins = Pins(Board(engine, program, CLOCK, BAUD, timeout_s=500e-6), spoil=())
    raw = synthetic.stimulus(program.input_format, 1, 3, 3, seed=4)
    result = host.run(pins, program, raw, np.array([3]), timeout=60)
    assert (result.mismatches, result.values_compared) == (0, 24)


def test_the_host_runs_sequences_through_the_pins():
    program = make_program()
    pins = Pins(make_board(program), spoil=(0, 2, 6))
    raw = synthetic.stimulus(program.input_format, 2, 3, 3, seed=4)
    lengths = np.array([3, 2])
    result = host.run(pins, program, raw, lengths, thresholds=(3, 2, 0), timeout=60)
    assert (result.mismatches, result.values_compared) == (0, 10)
    assert result.retries == 3
    trace = golden.run(program, raw, lengths, (3, 2, 0))
    predicted = predict(trace, Layout(program, HardwareConfig(rows=4)))
    assert result.counters["steps"] == 5
    assert result.counters["columns_seen"] == predicted.columns_seen
    assert result.counters["columns_sent"] == predicted.columns_sent


@pytest.mark.parametrize("groups", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_host_loads_weights_through_the_pins(groups):
    """Into memories that hold zeros; one request is damaged on its way."""
    program = make_program()
    config = HardwareConfig(rows=4, groups=groups, loaded=True)
    board = Board(Engine(with_weights_of_zero(program), config), program, CLOCK, BAUD, timeout_s=500e-6)
    raw = synthetic.stimulus(program.input_format, 2, 3, 3, seed=4)
    lengths = np.array([3, 2])
    trace = golden.run(program, raw, lengths)
    assert (golden.run(with_weights_of_zero(program), raw, lengths).outputs != trace.outputs).any()
    lines = []
    pins = Pins(board, spoil=(3,))
    result = host.run(pins, program, raw, lengths, timeout=60, progress=lines.append)
    layout = Layout(program, config)
    assert lines[1] == f"{config.pes * layout.weight_depth} words of weights loaded"
    assert (result.mismatches, result.values_compared, result.retries) == (0, 10, 1)
    assert (result.outputs == trace.outputs).all()
    predicted = predict(trace, layout, apart=True).busy
    assert [result.cycles[n, :length].tolist() for n, length in enumerate(lengths)] == [
        (predicted[n, :length] + 1).tolist() for n, length in enumerate(lengths)
    ]
    # another host finds them there
    lines = []
    again = host.run(pins, program, raw, lengths, timeout=60, progress=lines.append)
    assert again.mismatches == 0
    assert not any("loaded" in line for line in lines)


@pytest.mark.parametrize(("bare", "expected"), [(False, "clk rst rx tx leds"), (True, "clk rx tx leds")])
def test_plain_ports_without_a_platform(bare, expected):
    board = make_board(make_program())
    text = rtlil.convert(Bare(board) if bare else board, name="top", emit_src=False)
    top = re.search(r"^module \\top$.*?^end$", text, re.DOTALL | re.MULTILINE)
    assert top is not None
    ports = re.findall(r"^  wire .*(?:input|output) .*\\(\w+)$", top[0], re.MULTILINE)
    assert sorted(ports) == sorted(expected.split())


@pytest.mark.parametrize("board", ["ulx3s-85f", "ecpix5-85f", "colorlight-5a-75b", "icesugar-pro", "versa-ecp5"])
def test_pins(board):
    platform = boards.target(board).platform()
    program = make_program()
    engine = Engine(program, HardwareConfig(rows=4))
    plan = platform.prepare(Top(Board(engine, program, 80_000_000)), "top", emit_src=False)
    constraints = plan.files["top.lpf"]
    assert "uart_0__rx__" in constraints
    assert "uart_0__tx__" in constraints
    leds = constraints.count('LOCATE COMP "led_') + constraints.count('LOCATE COMP "rgb_led_')
    # the only LED of the colorlight shares its pin with the UART
    assert leds == {"colorlight-5a-75b": 0, "icesugar-pro": 3}.get(board, 4)
    assert plan.files["top.il"].count("cell \\EHXPLLL ") == 1


def test_the_boards_own_frequency_needs_no_pll():
    platform = boards.target("ulx3s-85f").platform()
    program = make_program()
    top = Top(Board(Engine(program, HardwareConfig(rows=4)), program, 25_000_000))
    assert "EHXPLLL" not in platform.prepare(top, "top", emit_src=False).files["top.il"]


def test_a_gowins_pll_and_pins():
    program = make_program()
    engine = Engine(program, HardwareConfig(rows=4))
    for clock_hz, plls in ((54_000_000, 1), (27_000_000, 0)):
        platform = boards.target("tang-primer-20k").platform()
        plan = platform.prepare(Top(Board(engine, program, clock_hz)), "top", emit_src=False)
        constraints = plan.files["top.cst"]
        assert 'IO_LOC "uart_0__rx__io[0]" T13;' in constraints or 'IO_LOC "uart_0__rx__io" T13;' in constraints
        assert constraints.count('IO_LOC "led_') == 4
        assert plan.files["top.il"].count("cell \\rPLL ") == plls


def test_what_answers_whole_sequences_or_needs_states_is_refused():
    shapes = [synthetic.Shape("lstm", 4, both=True), synthetic.Shape("linear", 2)]
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    program = quantize(synthetic.network(3, shapes, 0), x)
    with pytest.raises(SparseGateError, match="looks both ways in time and needs whole sequences"):
        make_board(program)
    plain = make_program()
    with pytest.raises(SparseGateError, match="no request for states, but this engine has state ports"):
        Board(Engine(plain, HardwareConfig(rows=4, states=True)), plain, CLOCK, BAUD)
