"""Requests from a host, carried out one at a time and replied to; the byte layout is described in ``docs/reference/board.md``."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout
from sparsegate.errors import SparseGateError
from sparsegate.program import Program
from sparsegate.protocol import (
    COUNTERS,
    MAX_PAYLOAD,
    OUTPUTS,
    RUN_WORDS,
    Command,
    Identity,
    Reason,
    WeightsReply,
    longest_reply,
    value_bytes,
)
from sparsegate_hw.board.reply import Reply
from sparsegate_hw.board.request import Request
from sparsegate_hw.engine.pe import WeightWrite
from sparsegate_hw.fabric.contents import Contents


def value_signature(width: int) -> stream.Signature:
    """Stream of the engine's inputs or outputs: a signed value, and ``last`` on the final value of a sequence."""
    return stream.Signature(data.StructLayout({"data": signed(width), "last": 1}))


def counters_signature(sites: int) -> wiring.Signature:
    """The engine's counters, all 32 bits, modulo 2**32."""
    return wiring.Signature({name: Out(32) for name in COUNTERS} | {"saturations": Out(32).array(sites)})


class Packet(wiring.Component):
    """The device's end of the protocol, between two byte streams and an engine.

    A :class:`~sparsegate_hw.board.request.Request` acts only after its CRC is right; whatever is wrong with it, the engine
    never sees it. While it is carried out and its :class:`~sparsegate_hw.board.reply.Reply` is sent, received bytes are
    dropped: a host waits for its reply. Each of the three has its own states, so that none of their decisions is long.

    Parameters
    ----------
    program : what the engine runs; decides sizes and the identity.
    clock_hz : clock frequency, reported to the host.
    timeout : cycles without a byte after which a frame that has begun is given up.
    gap : cycles without a byte after which a line is quiet and a bad frame is answered.
    loaded : where the engine's weights are to be loaded, its layout. Steps are then refused until every word of every weight
        memory has been written.

    Members
    -------
    i, o : In, Out(stream of 8 bits)
        Bytes from and to the host.
    i_error : In(1)
        A received byte was dropped.
    x, y : Out, In(stream), threshold : Out(16).array, counters : In, step_start, step_done : In(1)
        The engine's ports of the same names.
    weights : Out(:class:`~sparsegate_hw.engine.pe.WeightWrite`)
        The engine's port, where its weights are to be loaded.
    busy : Out(1)
        A request is being carried out or a sequence is open.
    error : Out(1)
        The last request was refused.
    done : Out(1)
        The last step that was run ended its sequence.

    Timing: inputs of a step reach the engine at one a cycle. Its outputs wait in its own buffer until they are stored for the
    reply, ``1 + value_bytes`` cycles each; a step is done before, so the engine never waits for the UART.
    """

    def __init__(self, program: Program, clock_hz: int, timeout: int, gap: int, loaded: Layout | None = None) -> None:
        self.identity = Identity.of(program, clock_hz, loaded is not None)
        self.loaded = loaded
        self.thresholds = program.thresholds
        self.timeout, self.gap = timeout, gap
        request = 1 + program.inputs * value_bytes(program.input_format.width)
        for what, size in (
            ("the inputs of a step", request),
            ("the contents of the longest reply", longest_reply(program)),
        ):
            if size > MAX_PAYLOAD:
                raise SparseGateError(f"{what} are {size} bytes, a frame has at most {MAX_PAYLOAD}")
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "i_error": In(1),
                "o": Out(stream.Signature(8)),
                "x": Out(value_signature(self.identity.input_width)),
                "y": In(value_signature(self.identity.output_width)),
                "threshold": Out(16).array(len(self.thresholds)),
                "counters": In(counters_signature(self.identity.sites)),
                "step_start": In(1),
                "step_done": In(1),
                "busy": Out(1),
                "error": Out(1),
                "done": Out(1),
                **({"weights": Out(WeightWrite(loaded))} if loaded else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        return _Control(self).build()


class _Control:
    """One elaboration of a :class:`Packet`: parts that share signals, and the states that decide on a request."""

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.m = Module()

    def build(self) -> Module:
        """The whole module, part by part."""
        m = self.m
        self.inputs, self.outputs = self.packet.identity.inputs, self.packet.identity.outputs
        self.x_width, y_width = self.packet.identity.input_width, self.packet.identity.output_width
        self.y_bytes = value_bytes(y_width)
        self.loaded = self.packet.loaded
        self.identity = self.packet.identity.encode()
        # what differs between Programs of a shape is in a memory, of which a bitstream can be given another
        defaults = b"".join(value.to_bytes(2, "little") for value in self.packet.thresholds)
        fixed = self.identity + defaults
        if self.loaded:
            self.array = WeightsReply(
                False, self.loaded.rows, self.loaded.groups, self.loaded.cluster, self.loaded.lanes
            ).encode()
            fixed += self.array
        m.submodules.contents = self.contents = Contents(8, fixed)
        self.counters = [getattr(self.packet.counters, name) for name in COUNTERS] + list(
            self.packet.counters.saturations
        )
        self.threshold_length = 2 * len(self.packet.thresholds)
        self.reply_capacity = max(
            len(self.identity), 5 + self.outputs * self.y_bytes, 4 * len(self.counters), self.threshold_length
        )

        self._request()
        self._reply()
        self._step()
        self._thresholds()
        self._words()
        self._place()
        self._feed()

        # a byte of the fixed contents is a cycle behind its address
        self.look = Signal(range(len(fixed) + 2), init=len(self.identity))
        m.d.comb += self.contents.address.eq(self.look)

        with m.FSM(name="state"):
            self._receive()

            self._dispatch()
            self._decide()

            with m.State("IDENTIFY"):
                self.tell(len(self.identity), self.contents.o)

            self._frame()

            self._set_thresholds()

            self._load()

            self._tell_words()

            self._end()
        m.d.comb += self.packet.busy.eq(self.is_open | ~self.request.idle)
        return m

    def _request(self) -> None:
        """The receiver, and what is known of a request before it is complete."""
        m = self.m
        m.submodules.request = self.request = Request(
            self.packet.identity, len(self.packet.thresholds), self.packet.timeout, self.packet.gap
        )
        wiring.connect(m, wiring.flipped(self.packet.i), self.request.i)
        m.d.comb += self.request.i_error.eq(self.packet.i_error)
        self.words, self.last = self.request.words, self.request.last
        self.refused = Signal()
        self.replay = Signal()  # the reply to the frame ``replay_sequence`` is still in the memory
        self.replay_sequence = Signal(8)
        # known long before a request is complete
        self.empty, self.of_frame, self.of_thresholds, self.of_weights, self.again = (
            Signal(name=name) for name in ("empty", "of_frame", "of_thresholds", "of_weights", "again")
        )
        self.asks = {each: Signal(name=f"asks_{each.name.lower()}") for each in Command}
        m.d.sync += [
            *(asked.eq(self.request.command == each) for each, asked in self.asks.items()),
            self.empty.eq(self.request.length == 0),
            self.of_frame.eq(self.request.length == self.request.frame_length),
            self.of_thresholds.eq(self.request.length == self.request.threshold_length),
            self.of_weights.eq(
                ~self.request.length[0] & (self.request.length >= 6) & (self.request.length <= 4 + 2 * RUN_WORDS)
            ),
            self.again.eq(self.replay & (self.request.sequence == self.replay_sequence)),
        ]

    def _reply(self) -> None:
        """The sender of a reply, whose bytes are written to its memory a cycle after they are decided on."""
        m = self.m
        m.submodules.reply = self.reply = Reply(self.reply_capacity, len(self.request.reason))
        wiring.connect(m, self.reply.o, wiring.flipped(self.packet.o))
        self.nak, self.reason, self.length = Signal(), Signal.like(self.request.reason), Signal.like(self.reply.length)
        m.d.comb += [
            self.reply.command.eq(self.request.command),
            self.reply.sequence.eq(self.request.sequence),
            self.reply.length.eq(self.length),
            self.reply.nak.eq(self.nak),
            self.reply.reason.eq(self.reason),
        ]
        # what opens the line for a request, from registers alone
        self.began = Signal()
        m.d.sync += self.began.eq(0)
        m.d.comb += self.request.answered.eq(self.began | self.reply.done)
        self.place = Signal.like(self.reply.address, name="place")  # of the next byte
        self.count = Signal(range(len(self.counters) + len(self.packet.thresholds) + 1))
        # written and sent a cycle late, as the decisions come late in their cycle
        m.d.sync += [self.reply.write.eq(0), self.reply.start.eq(0)]

    def _step(self) -> None:
        """A step of the engine: its inputs on their way, its outputs, and the cycles that it takes."""
        m = self.m
        self.is_open = Signal()
        self.zeros = Signal()  # this step ends an abandoned sequence
        # the step's inputs are on their way to the engine, and the next one is the last
        self.feeding, self.final = Signal(), Signal(name="final")
        self.fed = Signal(range(self.inputs + 1))
        self.taken = Signal(range(self.outputs + 1))
        self.wanted = Signal()  # an output; a cycle late, while the one before is stored
        self.stepped = Signal()
        running = Signal()
        self.cycles = Signal(32)
        self.closing = Signal()
        self.gives = self.closing if self.packet.identity.only_last else Const(1)
        m.d.comb += self.closing.eq(self.last | self.zeros)
        m.d.sync += self.wanted.eq(self.gives & (self.taken != self.outputs))
        with m.If(self.packet.step_start):
            m.d.sync += [running.eq(1), self.cycles.eq(1)]
        with m.Elif(running):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        with m.If(self.packet.step_done):
            m.d.sync += [running.eq(0), self.stepped.eq(1)]

    def _thresholds(self) -> None:
        """The thresholds that hold: the Program's own, until a host sets others, from the last to the first."""
        m = self.m
        self.thresholds = [Signal(16, name=f"threshold_{number}") for number in range(len(self.packet.thresholds))]
        m.d.comb += [port.eq(register) for port, register in zip(self.packet.threshold, self.thresholds, strict=True)]
        # new ones move in from the last to the first
        self.threshold, self.shift = Signal(16), Signal(name="shift")
        m.d.sync += self.shift.eq(0)
        with m.If(self.shift):
            m.d.sync += [
                into.eq(value)
                for into, value in zip(self.thresholds, [*self.thresholds[1:], self.threshold], strict=True)
            ]

    def _words(self) -> None:
        """What a reply is made of: outputs byte by byte, counters and thresholds word by word."""
        m = self.m
        self.value = Signal(signed(8 * self.y_bytes))
        self.byte = Signal(range(max(self.y_bytes, 5)))
        self.word = Signal(32)
        # what a reply is made of; chosen in two cycles where they are many
        tellable = [*self.counters, *self.thresholds]
        some_words = [tellable[at : at + 8] for at in range(0, len(tellable), 8)]
        parts = [Signal(32, name=f"words_{8 * at}") for at in range(len(some_words))]
        self.brief = Signal()  # words of 16 bits
        self.last_word = Signal()  # a cycle after ``count``
        m.d.sync += self.last_word.eq(self.count == Mux(self.brief, len(tellable), len(self.counters)))
        m.d.sync += [part.eq(Array(each)[self.count[:3]]) for part, each in zip(parts, some_words, strict=True)]
        self.chosen = parts[0]
        if len(parts) > 1:
            self.chosen = Signal(32, name="chosen")
            m.d.sync += self.chosen.eq(Array(parts)[self.count[3 : len(tellable).bit_length()]])

    def _place(self) -> None:
        """The place in the PEs' memories that the next word of weights goes to."""
        m = self.m
        if self.loaded:
            # words before this place are written; a request that is sent again goes back to where it began
            self.at_pe = Signal(range(self.loaded.config.pes + 1))
            self.at_address = Signal(range(max(2, self.loaded.weight_depth)))
            self.wanted_pe = Signal.like(self.at_pe)
            self.complete = Signal()
            m.d.comb += [
                self.complete.eq(self.at_pe == self.loaded.config.pes),
                self.packet.weights.pe.eq(self.at_pe),
                self.packet.weights.address.eq(self.at_address),
                self.packet.weights.data.eq(self.words.payload),
            ]

    def _feed(self) -> None:
        """Inputs to the engine: the request's, or zeros that end an abandoned sequence."""
        m = self.m
        m.d.comb += [
            self.packet.x.valid.eq(self.feeding & (self.zeros | self.words.valid)),
            self.packet.x.payload.data.eq(Mux(self.zeros, 0, self.words.payload[: self.x_width].as_signed())),
            self.packet.x.payload.last.eq(self.closing & self.final),
            self.words.ready.eq(self.feeding & self.packet.x.ready),
        ]
        with m.If(self.packet.x.valid & self.packet.x.ready):
            m.d.sync += [
                self.fed.eq(self.fed + 1),
                self.final.eq(self.fed == self.inputs - 2),
                self.feeding.eq(~self.final),
            ]

    def refuse(self, why: Reason) -> None:
        m = self.m
        m.d.sync += [self.reason.eq(why), self.nak.eq(1)]
        m.next = "REFUSE"

    def write(self, address: object, value: object) -> None:
        m = self.m
        m.d.sync += [self.reply.address.eq(address), self.reply.data.eq(value), self.reply.write.eq(1)]

    def tell(self, payload_length: int, of: Value) -> None:
        """A reply of fixed contents, a byte a cycle."""
        m = self.m
        self.write(self.place, of)
        m.d.sync += [self.place.eq(self.place + 1), self.look.eq(self.look + 1), self.length.eq(payload_length)]
        with m.If(self.place == payload_length - 1):
            m.d.sync += self.replay.eq(0)
            m.next = "REPLY"

    def _receive(self) -> None:
        """After a reset the thresholds, a byte a cycle; then a request, or what is wrong with one."""
        m = self.m
        with m.State("START"):  # after a reset: the thresholds, a byte a cycle
            m.d.sync += [
                self.look.eq(self.look + 1),
                self.place.eq(self.place + 1),
                self.threshold.eq(Cat(self.threshold[8:], self.contents.o)),
                self.shift.eq((self.place != 0) & ~self.place[0]),
            ]
            with m.If(self.place == self.threshold_length):
                m.d.sync += self.began.eq(1)
                m.next = "IDLE"
        with m.State("IDLE"):
            m.d.sync += [self.nak.eq(self.request.broken), self.reason.eq(self.request.reason)]
            with m.If(self.request.valid):
                m.next = "DISPATCH"
            with m.If(self.request.broken):
                m.next = "REFUSE"

    def _dispatch(self) -> None:
        """Whether a request is carried out, and where its reply begins."""
        m = self.m
        with m.State("DISPATCH"):
            m.d.sync += [
                self.count.eq(0),
                self.place.eq(Mux(self.asks[Command.FRAME], 5, 0)),
                self.byte.eq(0),
                self.fed.eq(0),
                self.final.eq(int(self.inputs == 1)),
                self.taken.eq(0),
                self.stepped.eq(0),
                self.zeros.eq(0),
            ]
            # a request that is refused, or whose command is not known, says why; the others do not look at it
            m.d.sync += [self.refused.eq(1), self.reason.eq(Reason.LENGTH), self.look.eq(0), self.brief.eq(0)]
            m.next = "DECIDE"
            with m.If(self.asks[Command.FRAME]):
                with m.If(~self.of_frame):
                    pass
                with m.Elif(self.request.misfit):
                    m.d.sync += self.reason.eq(Reason.VALUE)
                if self.loaded:
                    with m.Elif(~self.complete):
                        m.d.sync += self.reason.eq(Reason.UNLOADED)
                with m.Else():
                    m.d.sync += self.refused.eq(0)
            with m.Elif(self.asks[Command.THRESHOLDS]):
                m.d.sync += self.brief.eq(1)
                with m.If(self.empty):
                    m.d.sync += [self.refused.eq(0), self.count.eq(len(self.counters))]
                with m.Elif(self.of_thresholds):
                    m.d.sync += [self.refused.eq(self.is_open), self.reason.eq(Reason.OPEN)]
            with m.Elif(self.asks[Command.IDENTIFY] | self.asks[Command.COUNTERS] | self.asks[Command.RESET]):
                m.d.sync += [self.refused.eq(~self.empty), self.zeros.eq(self.asks[Command.RESET] & self.is_open)]
            if self.loaded:
                with m.Elif(self.asks[Command.WEIGHTS]):
                    m.d.sync += self.look.eq(len(self.identity) + self.threshold_length)
                    with m.If(self.empty):
                        m.d.sync += self.refused.eq(0)
                    with m.Elif(self.of_weights):
                        m.d.sync += [self.refused.eq(self.is_open), self.reason.eq(Reason.OPEN)]
            with m.Else():
                m.d.sync += self.reason.eq(Reason.COMMAND)

    def _decide(self) -> None:
        """The first state of each request."""
        m = self.m
        with m.State("DECIDE"):
            m.d.sync += self.look.eq(self.look + 1)  # the first byte is on its way
            with m.If(self.refused):
                m.d.sync += self.nak.eq(1)
                m.next = "REFUSE"
            with m.Elif(self.asks[Command.IDENTIFY]):
                m.next = "IDENTIFY"
            with m.Elif(self.asks[Command.FRAME]):
                with m.If(self.again):
                    m.next = "REPLY"
                with m.Else():
                    m.d.sync += self.feeding.eq(1)
                    m.next = "FEED"
            with m.Elif(self.asks[Command.THRESHOLDS]):
                m.next = "SET THRESHOLDS"
                with m.If(self.empty):
                    m.next = "WORDS"
            with m.Elif(self.asks[Command.COUNTERS]):
                m.next = "WORDS"
            with m.Elif(self.asks[Command.RESET]):
                m.next = "RESET"
                with m.If(self.zeros):
                    m.d.sync += self.feeding.eq(1)
                    m.next = "FEED"
            if self.loaded:
                with m.Else():
                    m.next = "WEIGHTS PE"
                    with m.If(self.empty):
                        m.next = "WEIGHTS"

    def _frame(self) -> None:
        """A frame: fed, its outputs collected and stored, the cycles of its step at the end."""
        m = self.m
        with m.State("FEED"), m.If(~self.feeding):
            m.d.sync += [self.is_open.eq(~self.closing), self.packet.done.eq(self.closing)]
            m.next = "COLLECT"
        with m.State("COLLECT"):
            m.d.comb += self.packet.y.ready.eq(self.wanted)
            m.d.sync += [self.value.eq(self.packet.y.payload.data), self.word.eq(self.cycles), self.byte.eq(0)]
            with m.If(self.wanted), m.If(self.packet.y.valid):
                m.d.sync += self.taken.eq(self.taken + 1)
                m.next = "STORE"
            with m.Elif(self.stepped):
                m.next = "FINISH"
        with m.State("STORE"):
            self.write(self.place, self.value[:8])
            m.d.sync += [self.value.eq(self.value >> 8), self.place.eq(self.place + 1), self.byte.eq(self.byte + 1)]
            with m.If(self.byte == self.y_bytes - 1):
                m.next = "COLLECT"
        with m.State("FINISH"):
            m.d.sync += [
                self.byte.eq(self.byte + 1),
                self.length.eq(Mux(self.gives, 5 + self.outputs * self.y_bytes, 5)),
            ]
            with m.If(self.byte == 0):
                self.write(0, self.gives * OUTPUTS)
            with m.Else():
                self.write(self.byte, self.word[:8])
                m.d.sync += self.word.eq(self.word >> 8)
            with m.If(self.zeros):
                m.next = "RESET"
            with m.Elif(self.byte == 4):
                m.d.sync += [self.replay.eq(1), self.replay_sequence.eq(self.request.sequence)]
                m.next = "REPLY"

    def _set_thresholds(self) -> None:
        """New thresholds, a word a cycle."""
        m = self.m
        with m.State("SET THRESHOLDS"):
            m.d.comb += self.words.ready.eq(1)
            m.d.sync += [self.threshold.eq(self.words.payload), self.shift.eq(self.words.valid)]
            with m.If(self.words.valid):
                m.d.sync += self.count.eq(self.count + 1)
                with m.If(self.count == len(self.packet.thresholds) - 1):
                    m.d.sync += self.count.eq(len(self.counters))
                    m.next = "THRESHOLDS"
        with m.State("THRESHOLDS"):  # the last one is on its way
            m.next = "WORDS"

    def _load(self) -> None:
        """Weights, each word in its place; what is out of order is refused."""
        m = self.m
        if self.loaded:
            given = self.words.payload[:16]
            with m.State("WEIGHTS PE"), m.If(self.words.valid):
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += self.wanted_pe.eq(given)
                m.next = "WEIGHTS ADDRESS"
                with m.If(given > self.at_pe):
                    self.refuse(Reason.ORDER)
            with m.State("WEIGHTS ADDRESS"), m.If(self.words.valid):
                m.d.comb += self.words.ready.eq(1)
                with m.If(
                    (given >= self.loaded.weight_depth) | ((self.wanted_pe == self.at_pe) & (given > self.at_address))
                ):
                    self.refuse(Reason.ORDER)
                with m.Else():
                    m.d.sync += [self.at_pe.eq(self.wanted_pe), self.at_address.eq(given)]
                    m.next = "WRITE WEIGHTS"
            with m.State(
                "WRITE WEIGHTS"
            ):  # all words of the request have come, one is there in every cycle until the last
                m.d.comb += [self.words.ready.eq(1), self.packet.weights.valid.eq(self.words.valid & ~self.complete)]
                with m.If(self.words.valid & ~self.complete):  # what comes after the last word goes nowhere
                    m.d.sync += self.at_address.eq(self.at_address + 1)
                    with m.If(self.at_address == self.loaded.weight_depth - 1):
                        m.d.sync += [self.at_address.eq(0), self.at_pe.eq(self.at_pe + 1)]
                with m.If(~self.words.valid):
                    m.next = "WEIGHTS"
            with m.State("WEIGHTS"):  # the array is known, whether all weights are there is not
                self.tell(len(self.array), Mux(self.place == 0, self.complete, self.contents.o))

    def _tell_words(self) -> None:
        """Counters or thresholds; a word is taken whole, as the engine goes on counting."""
        m = self.m
        with m.State("WORDS"):  # counters or thresholds; a word is taken whole, as the engine goes on counting
            m.next = "CHOOSE WORD"
        with m.State("CHOOSE WORD"):
            m.next = "TAKE WORD"
        with m.State("TAKE WORD"):
            m.d.sync += [self.word.eq(self.chosen), self.count.eq(self.count + 1), self.byte.eq(0)]
            m.next = "STORE WORD"
        with m.State("STORE WORD"):
            self.write(self.place, self.word[:8])
            m.d.sync += [self.word.eq(self.word >> 8), self.place.eq(self.place + 1), self.byte.eq(self.byte + 1)]
            m.d.sync += [
                self.replay.eq(0),
                self.length.eq(Mux(self.brief, self.threshold_length, 4 * len(self.counters))),
            ]
            with m.If(self.byte == Mux(self.brief, 1, 3)):
                m.next = "WORDS"
                with m.If(self.last_word):
                    m.next = "REPLY"

    def _end(self) -> None:
        """The end of every request: a reset's reply, a refusal, and sending."""
        m = self.m
        with m.State("RESET"):
            self.write(0, self.zeros)
            m.d.sync += [self.replay.eq(0), self.length.eq(1)]
            m.next = "REPLY"

        with m.State("REFUSE"):
            m.d.sync += self.packet.error.eq(1)
            m.next = "REPLY"
        with m.State("REPLY"):
            m.d.sync += self.reply.start.eq(1)
            m.next = "SEND"
        with m.State("SEND"), m.If(self.reply.done):
            with m.If(~self.nak):
                m.d.sync += self.packet.error.eq(0)
            m.next = "IDLE"
