"""Requests from a host, carried out one at a time and replied to; the byte layout is described in ``docs/board.md``."""

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
        m = Module()
        inputs, outputs = self.identity.inputs, self.identity.outputs
        x_width, y_width = self.identity.input_width, self.identity.output_width
        y_bytes = value_bytes(y_width)
        loaded = self.loaded
        identity = self.identity.encode()
        # what differs between Programs of a shape is in a memory, of which a bitstream can be given another
        defaults = b"".join(value.to_bytes(2, "little") for value in self.thresholds)
        fixed = identity + defaults
        if loaded:
            array = WeightsReply(False, loaded.rows, loaded.groups, loaded.cluster, loaded.lanes).encode()
            fixed += array
        m.submodules.contents = contents = Contents(8, fixed)
        counters = [getattr(self.counters, name) for name in COUNTERS] + list(self.counters.saturations)
        threshold_length = 2 * len(self.thresholds)
        reply_capacity = max(len(identity), 5 + outputs * y_bytes, 4 * len(counters), threshold_length)

        # --- a request
        m.submodules.request = request = Request(self.identity, len(self.thresholds), self.timeout, self.gap)
        wiring.connect(m, wiring.flipped(self.i), request.i)
        m.d.comb += request.i_error.eq(self.i_error)
        words, last = request.words, request.last
        refused = Signal()
        replay = Signal()  # the reply to the frame ``replay_sequence`` is still in the memory
        replay_sequence = Signal(8)
        # known long before a request is complete
        empty, of_frame, of_thresholds, of_weights, again = (
            Signal(name=name) for name in ("empty", "of_frame", "of_thresholds", "of_weights", "again")
        )
        asks = {each: Signal(name=f"asks_{each.name.lower()}") for each in Command}
        m.d.sync += [
            *(asked.eq(request.command == each) for each, asked in asks.items()),
            empty.eq(request.length == 0),
            of_frame.eq(request.length == request.frame_length),
            of_thresholds.eq(request.length == request.threshold_length),
            of_weights.eq(~request.length[0] & (request.length >= 6) & (request.length <= 4 + 2 * RUN_WORDS)),
            again.eq(replay & (request.sequence == replay_sequence)),
        ]

        # --- its reply: written to a memory, then sent
        m.submodules.reply = reply = Reply(reply_capacity, len(request.reason))
        wiring.connect(m, reply.o, wiring.flipped(self.o))
        nak, reason, length = Signal(), Signal.like(request.reason), Signal.like(reply.length)
        m.d.comb += [
            reply.command.eq(request.command),
            reply.sequence.eq(request.sequence),
            reply.length.eq(length),
            reply.nak.eq(nak),
            reply.reason.eq(reason),
        ]
        # what opens the line for a request, from registers alone
        began = Signal()
        m.d.sync += began.eq(0)
        m.d.comb += request.answered.eq(began | reply.done)
        place = Signal.like(reply.address, name="place")  # of the next byte
        count = Signal(range(len(counters) + len(self.thresholds) + 1))
        # written and sent a cycle late, as the decisions come late in their cycle
        m.d.sync += [reply.write.eq(0), reply.start.eq(0)]

        # --- a step of the engine
        is_open = Signal()
        zeros = Signal()  # this step ends an abandoned sequence
        # the step's inputs are on their way to the engine, and the next one is the last
        feeding, final = Signal(), Signal()
        fed = Signal(range(inputs + 1))
        taken = Signal(range(outputs + 1))
        wanted = Signal()  # an output; a cycle late, while the one before is stored
        stepped = Signal()
        running = Signal()
        cycles = Signal(32)
        closing = Signal()
        gives = closing if self.identity.only_last else Const(1)
        m.d.comb += closing.eq(last | zeros)
        m.d.sync += wanted.eq(gives & (taken != outputs))
        with m.If(self.step_start):
            m.d.sync += [running.eq(1), cycles.eq(1)]
        with m.Elif(running):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(self.step_done):
            m.d.sync += [running.eq(0), stepped.eq(1)]
        # the Program's own thresholds, until a host sets others
        thresholds = [Signal(16, name=f"threshold_{number}") for number in range(len(self.thresholds))]
        m.d.comb += [port.eq(register) for port, register in zip(self.threshold, thresholds, strict=True)]
        # new ones move in from the last to the first
        threshold, shift = Signal(16), Signal()
        m.d.sync += shift.eq(0)
        with m.If(shift):
            m.d.sync += [into.eq(value) for into, value in zip(thresholds, [*thresholds[1:], threshold], strict=True)]
        value = Signal(signed(8 * y_bytes))
        byte = Signal(range(max(y_bytes, 5)))
        word = Signal(32)
        # what a reply is made of; chosen in two cycles where they are many
        tellable = [*counters, *thresholds]
        some_words = [tellable[at : at + 8] for at in range(0, len(tellable), 8)]
        parts = [Signal(32, name=f"words_{8 * at}") for at in range(len(some_words))]
        brief = Signal()  # words of 16 bits
        last_word = Signal()  # a cycle after ``count``
        m.d.sync += last_word.eq(count == Mux(brief, len(tellable), len(counters)))
        m.d.sync += [part.eq(Array(each)[count[:3]]) for part, each in zip(parts, some_words, strict=True)]
        chosen = parts[0]
        if len(parts) > 1:
            chosen = Signal(32, name="chosen")
            m.d.sync += chosen.eq(Array(parts)[count[3 : len(tellable).bit_length()]])

        if loaded:
            # words before this place are written; a request that is sent again goes back to where it began
            at_pe = Signal(range(loaded.config.pes + 1))
            at_address = Signal(range(max(2, loaded.weight_depth)))
            wanted_pe = Signal.like(at_pe)
            complete = Signal()
            m.d.comb += [
                complete.eq(at_pe == loaded.config.pes),
                self.weights.pe.eq(at_pe),
                self.weights.address.eq(at_address),
                self.weights.data.eq(words.payload),
            ]

        m.d.comb += [
            self.x.valid.eq(feeding & (zeros | words.valid)),
            self.x.payload.data.eq(Mux(zeros, 0, words.payload[:x_width].as_signed())),
            self.x.payload.last.eq(closing & final),
            words.ready.eq(feeding & self.x.ready),
        ]
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += [fed.eq(fed + 1), final.eq(fed == inputs - 2), feeding.eq(~final)]

        # a byte of the fixed contents is a cycle behind its address
        look = Signal(range(len(fixed) + 2), init=len(identity))
        m.d.comb += contents.address.eq(look)

        def refuse(why: Reason) -> None:
            m.d.sync += [reason.eq(why), nak.eq(1)]
            m.next = "REFUSE"

        def write(address: object, value: object) -> None:
            m.d.sync += [reply.address.eq(address), reply.data.eq(value), reply.write.eq(1)]

        def tell(payload_length: int, of: Value) -> None:
            """A reply of fixed contents, a byte a cycle."""
            write(place, of)
            m.d.sync += [place.eq(place + 1), look.eq(look + 1), length.eq(payload_length)]
            with m.If(place == payload_length - 1):
                m.d.sync += replay.eq(0)
                m.next = "REPLY"

        with m.FSM(name="state"):
            with m.State("START"):  # after a reset: the thresholds, a byte a cycle
                m.d.sync += [
                    look.eq(look + 1),
                    place.eq(place + 1),
                    threshold.eq(Cat(threshold[8:], contents.o)),
                    shift.eq((place != 0) & ~place[0]),
                ]
                with m.If(place == threshold_length):
                    m.d.sync += began.eq(1)
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.sync += [nak.eq(request.broken), reason.eq(request.reason)]
                with m.If(request.valid):
                    m.next = "DISPATCH"
                with m.If(request.broken):
                    m.next = "REFUSE"

            with m.State("DISPATCH"):
                m.d.sync += [
                    count.eq(0),
                    place.eq(Mux(asks[Command.FRAME], 5, 0)),
                    byte.eq(0),
                    fed.eq(0),
                    final.eq(int(inputs == 1)),
                    taken.eq(0),
                    stepped.eq(0),
                    zeros.eq(0),
                ]
                # a request that is refused, or whose command is not known, says why; the others do not look at it
                m.d.sync += [refused.eq(1), reason.eq(Reason.LENGTH), look.eq(0), brief.eq(0)]
                m.next = "DECIDE"
                with m.If(asks[Command.FRAME]):
                    with m.If(~of_frame):
                        pass
                    with m.Elif(request.misfit):
                        m.d.sync += reason.eq(Reason.VALUE)
                    if loaded:
                        with m.Elif(~complete):
                            m.d.sync += reason.eq(Reason.UNLOADED)
                    with m.Else():
                        m.d.sync += refused.eq(0)
                with m.Elif(asks[Command.THRESHOLDS]):
                    m.d.sync += brief.eq(1)
                    with m.If(empty):
                        m.d.sync += [refused.eq(0), count.eq(len(counters))]
                    with m.Elif(of_thresholds):
                        m.d.sync += [refused.eq(is_open), reason.eq(Reason.OPEN)]
                with m.Elif(asks[Command.IDENTIFY] | asks[Command.COUNTERS] | asks[Command.RESET]):
                    m.d.sync += [refused.eq(~empty), zeros.eq(asks[Command.RESET] & is_open)]
                if loaded:
                    with m.Elif(asks[Command.WEIGHTS]):
                        m.d.sync += look.eq(len(identity) + threshold_length)
                        with m.If(empty):
                            m.d.sync += refused.eq(0)
                        with m.Elif(of_weights):
                            m.d.sync += [refused.eq(is_open), reason.eq(Reason.OPEN)]
                with m.Else():
                    m.d.sync += reason.eq(Reason.COMMAND)
            with m.State("DECIDE"):
                m.d.sync += look.eq(look + 1)  # the first byte is on its way
                with m.If(refused):
                    m.d.sync += nak.eq(1)
                    m.next = "REFUSE"
                with m.Elif(asks[Command.IDENTIFY]):
                    m.next = "IDENTIFY"
                with m.Elif(asks[Command.FRAME]):
                    with m.If(again):
                        m.next = "REPLY"
                    with m.Else():
                        m.d.sync += feeding.eq(1)
                        m.next = "FEED"
                with m.Elif(asks[Command.THRESHOLDS]):
                    m.next = "SET THRESHOLDS"
                    with m.If(empty):
                        m.next = "WORDS"
                with m.Elif(asks[Command.COUNTERS]):
                    m.next = "WORDS"
                with m.Elif(asks[Command.RESET]):
                    m.next = "RESET"
                    with m.If(zeros):
                        m.d.sync += feeding.eq(1)
                        m.next = "FEED"
                if loaded:
                    with m.Else():
                        m.next = "WEIGHTS PE"
                        with m.If(empty):
                            m.next = "WEIGHTS"

            with m.State("IDENTIFY"):
                tell(len(identity), contents.o)

            with m.State("FEED"), m.If(~feeding):
                m.d.sync += [is_open.eq(~closing), self.done.eq(closing)]
                m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += self.y.ready.eq(wanted)
                m.d.sync += [value.eq(self.y.payload.data), word.eq(cycles), byte.eq(0)]
                with m.If(wanted), m.If(self.y.valid):
                    m.d.sync += taken.eq(taken + 1)
                    m.next = "STORE"
                with m.Elif(stepped):
                    m.next = "FINISH"
            with m.State("STORE"):
                write(place, value[:8])
                m.d.sync += [value.eq(value >> 8), place.eq(place + 1), byte.eq(byte + 1)]
                with m.If(byte == y_bytes - 1):
                    m.next = "COLLECT"
            with m.State("FINISH"):
                m.d.sync += [byte.eq(byte + 1), length.eq(Mux(gives, 5 + outputs * y_bytes, 5))]
                with m.If(byte == 0):
                    write(0, gives * OUTPUTS)
                with m.Else():
                    write(byte, word[:8])
                    m.d.sync += word.eq(word >> 8)
                with m.If(zeros):
                    m.next = "RESET"
                with m.Elif(byte == 4):
                    m.d.sync += [replay.eq(1), replay_sequence.eq(request.sequence)]
                    m.next = "REPLY"

            with m.State("SET THRESHOLDS"):
                m.d.comb += words.ready.eq(1)
                m.d.sync += [threshold.eq(words.payload), shift.eq(words.valid)]
                with m.If(words.valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == len(self.thresholds) - 1):
                        m.d.sync += count.eq(len(counters))
                        m.next = "THRESHOLDS"
            with m.State("THRESHOLDS"):  # the last one is on its way
                m.next = "WORDS"

            if loaded:
                given = words.payload[:16]
                with m.State("WEIGHTS PE"), m.If(words.valid):
                    m.d.comb += words.ready.eq(1)
                    m.d.sync += wanted_pe.eq(given)
                    m.next = "WEIGHTS ADDRESS"
                    with m.If(given > at_pe):
                        refuse(Reason.ORDER)
                with m.State("WEIGHTS ADDRESS"), m.If(words.valid):
                    m.d.comb += words.ready.eq(1)
                    with m.If((given >= loaded.weight_depth) | ((wanted_pe == at_pe) & (given > at_address))):
                        refuse(Reason.ORDER)
                    with m.Else():
                        m.d.sync += [at_pe.eq(wanted_pe), at_address.eq(given)]
                        m.next = "WRITE WEIGHTS"
                with m.State(
                    "WRITE WEIGHTS"
                ):  # all words of the request have come, one is there in every cycle until the last
                    m.d.comb += [words.ready.eq(1), self.weights.valid.eq(words.valid & ~complete)]
                    with m.If(words.valid & ~complete):  # what comes after the last word goes nowhere
                        m.d.sync += at_address.eq(at_address + 1)
                        with m.If(at_address == loaded.weight_depth - 1):
                            m.d.sync += [at_address.eq(0), at_pe.eq(at_pe + 1)]
                    with m.If(~words.valid):
                        m.next = "WEIGHTS"
                with m.State("WEIGHTS"):  # the array is known, whether all weights are there is not
                    tell(len(array), Mux(place == 0, complete, contents.o))

            with m.State("WORDS"):  # counters or thresholds; a word is taken whole, as the engine goes on counting
                m.next = "CHOOSE WORD"
            with m.State("CHOOSE WORD"):
                m.next = "TAKE WORD"
            with m.State("TAKE WORD"):
                m.d.sync += [word.eq(chosen), count.eq(count + 1), byte.eq(0)]
                m.next = "STORE WORD"
            with m.State("STORE WORD"):
                write(place, word[:8])
                m.d.sync += [word.eq(word >> 8), place.eq(place + 1), byte.eq(byte + 1)]
                m.d.sync += [replay.eq(0), length.eq(Mux(brief, threshold_length, 4 * len(counters)))]
                with m.If(byte == Mux(brief, 1, 3)):
                    m.next = "WORDS"
                    with m.If(last_word):
                        m.next = "REPLY"

            with m.State("RESET"):
                write(0, zeros)
                m.d.sync += [replay.eq(0), length.eq(1)]
                m.next = "REPLY"

            with m.State("REFUSE"):
                m.d.sync += self.error.eq(1)
                m.next = "REPLY"
            with m.State("REPLY"):
                m.d.sync += reply.start.eq(1)
                m.next = "SEND"
            with m.State("SEND"), m.If(reply.done):
                with m.If(~nak):
                    m.d.sync += self.error.eq(0)
                m.next = "IDLE"
        m.d.comb += self.busy.eq(is_open | ~request.idle)
        return m
