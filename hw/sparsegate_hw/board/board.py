"""The design that a board's FPGA is configured with: UART, packets, engine, and what connects them to a board's pins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.build import ResourceError
from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import cdc, data, io, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate_hw.arithmetic.relay import Relay
from sparsegate_hw.board.packet import Packet
from sparsegate_hw.board.uart import Receiver, Transmitter, divisor_for
from sparsegate_hw.engine.output import OneByOne
from sparsegate_hw.fabric.contents import family

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
        # the engine may lie far from the packet layer; on an iCE40 no way is long, and flip-flops are scarce
        far = family(platform) != "ice40"
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


@dataclass(frozen=True)
class Pll:
    """Dividers of an ECP5 EHXPLLL whose feedback is CLKOP and whose output is CLKOS.

    f_vco = input / divide_input * divide_feedback * divide_vco; output = f_vco / divide_output.
    """

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_vco: int
    divide_output: int

    @property
    def vco_hz(self) -> float:
        return self.input_hz / self.divide_input * self.divide_feedback * self.divide_vco

    @property
    def output_hz(self) -> float:
        return self.vco_hz / self.divide_output


def pll_for(input_hz: int, output_hz: int) -> Pll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (ECP5 family data sheet, sysCLOCK PLL timing): input and detector 10 to 400 MHz, VCO 400 to 800 MHz, CLKOP and
    CLKOS 3.125 to 400 MHz, dividers 1 to 128.
    """
    if not 10e6 <= input_hz <= 400e6 or not 3.125e6 <= output_hz <= 400e6:
        raise SparseGateError(
            f"a PLL takes 10 to 400 MHz and gives 3.125 to 400 MHz, but {input_hz / 1e6:g} to {output_hz / 1e6:g} MHz was asked for"
        )
    best: tuple[float, float, Pll] | None = None
    for divide_input in range(1, 129):
        detector = input_hz / divide_input
        if detector < 10e6:
            break
        for divide_feedback in range(1, 81):
            feedback = detector * divide_feedback
            if not 3.125e6 <= feedback <= 400e6:
                continue
            for divide_vco in range(1, 129):
                if not 400e6 <= feedback * divide_vco <= 800e6:
                    continue
                vco = feedback * divide_vco
                divide_output = int(-(-vco // output_hz))
                if divide_output > 128:
                    continue
                candidate = Pll(input_hz, divide_input, divide_feedback, divide_vco, divide_output)
                rank = (output_hz - candidate.output_hz, -vco)  # a faster VCO has less jitter
                if best is None or rank < best[:2]:
                    best = (*rank, candidate)
    if best is None:
        raise SparseGateError(f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz")
    return best[2]


@dataclass(frozen=True)
class Ice40Pll:
    """Dividers of an iCE40 SB_PLL40: output = input / (divide_input + 1) * (divide_feedback + 1) / 2**divide_output."""

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_output: int

    @property
    def output_hz(self) -> float:
        return self.input_hz / (self.divide_input + 1) * (self.divide_feedback + 1) / (1 << self.divide_output)

    @property
    def filter_range(self) -> int:
        """Setting of the loop filter for the detector's frequency."""
        detector = self.input_hz / (self.divide_input + 1)
        return 1 + sum(detector >= limit for limit in (17e6, 26e6, 44e6, 66e6, 101e6))


def ice40_pll_for(input_hz: int, output_hz: int) -> Ice40Pll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (iCE40 sysCLOCK PLL guide, FPGA-TN-02052): detector 10 to 133 MHz, VCO 533 to 1066 MHz, output 16 to 275 MHz.
    """
    best: Ice40Pll | None = None
    for divide_input in range(16):
        detector = input_hz / (divide_input + 1)
        if not 10e6 <= detector <= 133e6:
            continue
        for divide_feedback in range(64):
            if not 533e6 <= detector * (divide_feedback + 1) <= 1066e6:
                continue
            for divide_output in range(1, 7):
                candidate = Ice40Pll(input_hz, divide_input, divide_feedback, divide_output)
                if 16e6 <= candidate.output_hz <= output_hz and (best is None or candidate.output_hz > best.output_hz):
                    best = candidate
    if best is None:
        raise SparseGateError(
            f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; an iCE40's gives 16 to 275 MHz"
        )
    return best


@dataclass(frozen=True)
class GowinPll:
    """Dividers of a Gowin's rPLL: output = input / divide_input * divide_feedback; f_vco = output * divide_output."""

    input_hz: int
    divide_input: int
    divide_feedback: int
    divide_output: int

    @property
    def output_hz(self) -> float:
        return self.input_hz / self.divide_input * self.divide_feedback

    @property
    def vco_hz(self) -> float:
        return self.output_hz * self.divide_output


def gowin_pll_for(input_hz: int, output_hz: int) -> GowinPll:
    """Dividers that give ``output_hz`` as nearly as can be, never more.

    Limits (GW2A data sheet DS102, speed grade C8/I7; dividers from the clock guide, UG286): input and detector 3 to 500 MHz, VCO
    500 to 1250 MHz, output 3.90625 to 625 MHz.
    """
    best: tuple[float, int, float, GowinPll] | None = None
    for divide_input in range(1, 65):
        if not 3e6 <= input_hz / divide_input <= 500e6:
            continue
        for divide_feedback in range(1, 65):
            for divide_output in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
                found = GowinPll(input_hz, divide_input, divide_feedback, divide_output)
                # the packer takes no less than the lowest output, and no more
                if not (3.90625e6 < found.output_hz <= min(output_hz, 625e6) and 500e6 <= found.vco_hz <= 1250e6):
                    continue
                rank = (output_hz - found.output_hz, divide_input, -found.vco_hz)  # a faster detector has less jitter
                if best is None or rank < best[:3]:
                    best = (*rank, found)
    if best is None:
        raise SparseGateError(
            f"no PLL setting gives {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; a Gowin's gives 3.90625 to 625 MHz"
        )
    return best[-1]


POWER_UP_S = 15e-6
"""Seconds after configuration for which an iCE40 stays in reset: its block RAMs read as 0 for the first 3 µs (Lattice errata)."""


def power_up(m: Module, clock_hz: int, domain: str) -> Value:
    """1 until the block RAMs of an iCE40 can be read, counted in a domain without a reset."""
    left = Signal(
        range(int(POWER_UP_S * clock_hz) + 1), init=int(POWER_UP_S * clock_hz), name="power_up", reset_less=True
    )
    with m.If(left != 0):
        m.d[domain] += left.eq(left - 1)
    return left != 0


class Clock(Elaboratable):
    """Drives the clock domain "sync" from a board's clock and reset, through a PLL unless the frequency is the board's own.

    The domain is held in reset until the PLL has locked and the board's reset button, if it has one, is released.
    """

    def __init__(self, clock_hz: int) -> None:
        self.clock_hz = clock_hz

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source = platform.request(platform.default_clk, dir="-")
        reset: Value = Const(0)
        if platform.default_rst is not None:
            m.submodules.reset_buffer = button = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
            reset = button.i
        locked: Value = Const(1)
        direct = int(platform.default_clk_frequency) == self.clock_hz
        of = family(platform)
        ice40 = of == "ice40"
        if direct or not ice40:
            m.submodules.clock_buffer = clock = io.Buffer("i", source)
            if direct:
                m.d.comb += ClockSignal("sync").eq(clock.i)
            else:
                pll = self._gowin if of == "gowin" else self._ecp5
                locked = pll(m, int(platform.default_clk_frequency), clock.i)
        else:
            # the PLL sits at the clock's pin and takes it before any buffer
            locked = self._ice40(m, int(platform.default_clk_frequency), source.io)
        if ice40:
            m.domains.start = ClockDomain("start", reset_less=True, local=True)
            m.d.comb += ClockSignal("start").eq(ClockSignal("sync"))
            reset = reset | power_up(m, self.clock_hz, "start")
        m.submodules.reset = cdc.ResetSynchronizer(reset | ~locked, domain="sync")
        return m

    def _ice40(self, m: Module, frequency: int, pin: Any) -> Value:
        setting = ice40_pll_for(frequency, self.clock_hz)
        locked = Signal()
        m.submodules.pll = Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(setting.divide_input, 4),
            p_DIVF=Const(setting.divide_feedback, 7),
            p_DIVQ=Const(setting.divide_output, 3),
            p_FILTER_RANGE=Const(setting.filter_range, 3),
            i_PACKAGEPIN=pin,
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked

    def _gowin(self, m: Module, frequency: int, clock: Value) -> Value:
        setting = gowin_pll_for(frequency, self.clock_hz)
        locked = Signal()
        off = {f"p_{name}": "false" for name in ("DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL", "DYN_DA_EN")}
        off |= {f"p_{name}_BYPASS": "false" for name in ("CLKOUT", "CLKOUTP", "CLKOUTD")}
        m.submodules.pll = Instance(
            "rPLL",
            p_FCLKIN=f"{frequency / 1e6:g}",
            p_DEVICE="GW2A-18C",
            p_IDIV_SEL=setting.divide_input - 1,
            p_FBDIV_SEL=setting.divide_feedback - 1,
            p_ODIV_SEL=setting.divide_output,
            p_CLKFB_SEL="internal",
            **off,
            i_CLKIN=clock,
            i_CLKFB=Const(0),
            i_RESET=Const(0),
            i_RESET_P=Const(0),
            **{f"i_{name}": Const(0, 6) for name in ("FBDSEL", "IDSEL", "ODSEL")},
            **{f"i_{name}": Const(0, 4) for name in ("PSDA", "DUTYDA", "FDLY")},
            o_CLKOUT=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked

    def _ecp5(self, m: Module, frequency: int, clock: Value) -> Value:
        setting = pll_for(frequency, self.clock_hz)
        locked, feedback = Signal(), Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOS_ENABLE="ENABLED",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=setting.divide_input,
            p_CLKFB_DIV=setting.divide_feedback,
            p_CLKOP_DIV=setting.divide_vco,
            p_CLKOP_CPHASE=setting.divide_vco - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_DIV=setting.divide_output,
            p_CLKOS_CPHASE=setting.divide_output - 1,
            p_CLKOS_FPHASE=0,
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            i_CLKI=clock,
            i_CLKFB=feedback,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_ENCLKOS=Const(0),
            o_CLKOP=feedback,
            o_CLKOS=ClockSignal("sync"),
            o_LOCK=locked,
        )
        return locked


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

    A reset pin would be one more net with a load everywhere, and routing it takes longer than all the rest. An iCE40 resets itself
    until its block RAMs can be read.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        super().__init__({"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(len(LEDS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ice40 = family(platform) == "ice40"
        m.domains.sync = ClockDomain("sync", reset_less=not ice40)
        if ice40:
            m.d.comb += ResetSignal("sync").eq(power_up(m, self.board.clock_hz, "sync"))
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
