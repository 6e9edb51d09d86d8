"""The design that a board's FPGA is configured with: UART, packets, engine, and what connects them to a board's pins."""

from __future__ import annotations

from typing import Any

from amaranth.build import ResourceError
from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Elaboratable,
    Module,
    ResetSignal,
    Signal,
)
from amaranth.lib import data, io, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_hw.arithmetic.relay import Relay
from sparsegate_hw.board.clock import Clock, power_up
from sparsegate_hw.board.packet import Packet
from sparsegate_hw.board.uart import Receiver, Transmitter, divisor_for
from sparsegate_hw.engine.output import OneByOne
from sparsegate_hw.fabric.budget import family

BAUD = 1_000_000
LEDS = ("heartbeat", "busy", "error", "done")


class Board(wiring.Component):
    """Everything but pins: an engine that is spoken to through a UART.

    Parameters
    ----------
    engine : a component with the ports of ``sparsegate_hw.engine.engine.Engine``.
    program : what the engine runs.
    clock_hz : frequency of the clock domain "sync".
    baud : bits a second of the UART.
    timeout_s : seconds after which a frame that stopped in the middle is given up.

    Raises
    ------
    SparseGateError
        If the Program does not stream: every request is a step and its reply, but such a Program answers whole sequences only.
        If the engine has state ports, for which the protocol has no request.

    Members
    -------
    rx, tx : In(1), Out(1)
        The UART's lines, idle high.
    leds : Out(4)
        Bit 0 changes every half second or so while the clock runs; bit 1: busy or inside a sequence; bit 2: the last request was
        refused; bit 3: a sequence has ended.
    """

    def __init__(self, engine: Any, program: Program, clock_hz: int, baud: int = BAUD, timeout_s: float = 0.05) -> None:
        if not program.streams:
            raise SparseGateError(
                "a board runs one step a request, but this Program looks both ways in time and needs whole sequences;"
                " use its engine without the board's wrapper"
            )
        if hasattr(engine, "state_in"):
            raise SparseGateError(
                "a board has no request for states, but this engine has state ports; build it with states=False"
            )
        self.divisor = divisor_for(clock_hz, baud)
        self.clock_hz = clock_hz
        self._engine = engine
        byte = 10 * self.divisor
        loaded = engine.layout if hasattr(engine, "weights") else None
        self._packet = Packet(program, clock_hz, max(round(clock_hz * timeout_s), 4 * byte), 2 * byte, loaded)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(len(LEDS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = Receiver(self.divisor)
        m.submodules.transmitter = transmitter = Transmitter(self.divisor)
        m.submodules.packet = packet = self._packet
        m.submodules.engine = engine = self._engine
        wiring.connect(m, receiver.o, packet.i)
        wiring.connect(m, packet.o, transmitter.i)
        of = family(platform)
        far = of is None or of.far  # the engine may lie far from the packet layer
        if far:
            m.submodules.x = x = Relay(packet.x.payload.shape())
            wiring.connect(m, packet.x, x.i)
            wiring.connect(m, x.o, engine.x)
        else:
            wiring.connect(m, packet.x, engine.x)
        values = engine.y.payload.data.shape()
        if isinstance(values, data.ArrayLayout):
            # the packets' buffer takes a value a cycle: nothing beside the UART
            m.submodules.one_by_one = narrow = OneByOne(packet.identity.output_width, values.length)
            wiring.connect(m, engine.y, narrow.i)
            wiring.connect(m, narrow.o, packet.y)
        elif not far:
            wiring.connect(m, engine.y, packet.y)
        else:
            m.submodules.y = y = Relay(engine.y.payload.shape())
            wiring.connect(m, engine.y, y.i)
            wiring.connect(m, y.o, packet.y)
        wiring.connect(m, engine.counters, packet.counters)
        if packet.loaded is not None:
            wiring.connect(m, packet.weights, engine.weights)
        for target, source in zip(engine.threshold, packet.threshold, strict=True):
            m.d.comb += target.eq(source)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            packet.i_error.eq(receiver.error | receiver.overflow),
            packet.step_start.eq(engine.step_start),
            packet.step_done.eq(engine.step_done),
        ]
        heartbeat = Signal((self.clock_hz // 2).bit_length())
        m.d.sync += [
            heartbeat.eq(heartbeat + 1),
            self.leds.eq(Cat(heartbeat[-1], packet.busy, packet.error, packet.done)),
        ]
        return m


class Top(Elaboratable):
    """A :class:`Board` on the pins of an amaranth-boards platform.

    LEDs that the board lacks are left out; a colour LED serves as up to three.
    """

    def __init__(self, board: Board) -> None:
        self.board = board

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.clock = Clock(self.board.clock_hz)
        m.submodules.board = board = self.board
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [board.rx.eq(rx.i), tx.o.eq(board.tx)]
        for number, port in enumerate(_leds(platform)[: len(LEDS)]):
            m.submodules[f"led_{LEDS[number]}"] = led = io.Buffer("o", port)
            m.d.comb += led.o.eq(board.leds[number])
        return m


class Bare(wiring.Component):
    """A :class:`Board` for a device whose board is not known: a clock pin, no PLL, and no reset but configuration.

    A reset pin would be one more net with a load everywhere, and routing it takes longer than all the rest. A device whose block
    RAMs cannot be read at once resets itself until they can.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        super().__init__({"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(len(LEDS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        of = family(platform)
        wait = of is not None and of.power_up_s > 0
        m.domains.sync = ClockDomain("sync", reset_less=not wait)
        if of is not None and wait:
            m.d.comb += ResetSignal("sync").eq(power_up(m, of.power_up_s, self.board.clock_hz, "sync"))
        m.submodules.board = board = self.board
        m.d.comb += [
            ClockSignal("sync").eq(self.clk),
            board.rx.eq(self.rx),
            self.tx.eq(board.tx),
            self.leds.eq(board.leds),
        ]
        return m


def _leds(platform: Any) -> list[Any]:
    """Ports of the board's LEDs, plain ones first."""
    ports: list[Any] = []
    for kind in ("led", "rgb_led"):
        for name, number in sorted(platform.resources):
            if name != kind or len(ports) >= len(LEDS):
                continue
            try:
                port = platform.request(name, number, dir="-")
            except ResourceError:  # some boards bring their UART out on an LED's pin
                continue
            ports += [port] if kind == "led" else [port.r, port.g, port.b]
    return ports
