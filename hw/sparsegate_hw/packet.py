"""Requests from a host, checked and carried out one at a time; the byte layout is described in ``docs/board.md``."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.errors import SparseGateError
from sparsegate.layout import Layout, packet_blocks
from sparsegate.program import Program
from sparsegate.protocol import (
    COUNTERS,
    LAST,
    MAX_PAYLOAD,
    NAK,
    OUTPUTS,
    REPLY,
    RUN_WORDS,
    SYNC,
    Command,
    Identity,
    Reason,
    WeightsReply,
    longest_reply,
    value_bytes,
)
from sparsegate_hw.contents import Contents
from sparsegate_hw.crc import Crc16
from sparsegate_hw.pe import WeightWrite
from sparsegate_hw.primitives import memory_style


def value_signature(width: int) -> stream.Signature:
    """Stream of the engine's inputs or outputs: a signed value, and ``last`` on the final value of a sequence."""
    return stream.Signature(data.StructLayout({"data": signed(width), "last": 1}))


def counters_signature(sites: int) -> wiring.Signature:
    """The engine's counters, all 32 bits, modulo 2**32."""
    return wiring.Signature({name: Out(32) for name in COUNTERS} | {"saturations": Out(32).array(sites)})


class Packet(wiring.Component):
    """The device's end of the protocol, between two byte streams and an engine.

    A request is buffered and acts only after its CRC is right; whatever is wrong with it, the engine never sees it. While a
    request is carried out, received bytes are dropped: a host waits for its reply.

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
    weights : Out(:class:`~sparsegate_hw.pe.WeightWrite`)
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
        x_bytes, y_bytes = value_bytes(x_width), value_bytes(y_width)
        frame_length = 1 + inputs * x_bytes
        threshold_length = 2 * len(self.thresholds)
        loaded = self.loaded
        values = max(inputs, len(self.thresholds), 2 + RUN_WORDS if loaded else 0)
        longest = max(frame_length, threshold_length, 4 + 2 * RUN_WORDS if loaded else 0)
        identity = self.identity.encode()
        # what differs between Programs of a shape is in a memory, of which a bitstream can be given another
        defaults = b"".join(value.to_bytes(2, "little") for value in self.thresholds)
        fixed = identity + defaults
        if loaded:
            array = WeightsReply(False, loaded.rows, loaded.groups, loaded.cluster, loaded.lanes).encode()
            fixed += array
        m.submodules.contents = contents = Contents(8, fixed)
        counters = [getattr(self.counters, name) for name in COUNTERS] + list(self.counters.saturations)
        reply_capacity = max(len(identity), 5 + outputs * y_bytes, 4 * len(counters), threshold_length)

        # --- a request as it is received
        command, sequence = Signal(8), Signal(8)
        length = Signal(16)
        count = Signal(16)  # bytes of the part that is being received
        last = Signal()
        misfit = Signal()  # a value of this frame does not fit the input format
        replay = Signal()  # the reply to the frame ``replay_sequence`` is still in the memory
        replay_sequence = Signal(8)
        reason = Signal(4 if loaded else 3)
        # cycles without a byte; two of their numbers are known a cycle ahead
        quiet = Signal(max(self.timeout, self.gap).bit_length() + 1)
        timed_out, is_quiet = Signal(), Signal()
        answered = Signal()  # a cycle late: counting begins anew
        m.submodules.crc_in = crc_in = Crc16()

        word_width = max(x_width, 16)
        flush = Signal()
        words_in = _Queue(width=word_width, depth=values)
        m.submodules.words_in = ResetInserter(flush)(words_in)

        low = Signal(8)
        odd = Signal()  # the byte before was the low half of a value
        two_bytes = Signal()
        arriving = Signal(16)
        # a value goes to the queue a cycle late
        m.d.sync += [words_in.w_data.eq(arriving), words_in.w_en.eq(0)]
        # known long before a request is complete
        empty, of_frame, of_thresholds, of_weights, again = (
            Signal(name=name) for name in ("empty", "of_frame", "of_thresholds", "of_weights", "again")
        )
        asks = {each: Signal(name=f"asks_{each.name.lower()}") for each in Command}
        m.d.sync += [
            *(asked.eq(command == each) for each, asked in asks.items()),
            two_bytes.eq(
                (x_bytes == 2) | (command == Command.THRESHOLDS) | (bool(loaded) & (command == Command.WEIGHTS))
            ),
            empty.eq(length == 0),
            of_frame.eq(length == frame_length),
            of_thresholds.eq(length == threshold_length),
            of_weights.eq(~length[0] & (length >= 6) & (length <= 4 + 2 * RUN_WORDS)),
            again.eq(replay & (sequence == replay_sequence)),
        ]
        # ``final``: the next byte of the payload is its last; set by the one ``before``, whose ``count`` is the length less two
        too_long, single, final, before = Signal(), Signal(), Signal(), Signal(16)
        m.d.sync += [too_long.eq(length > longest), single.eq(length == 1), before.eq(length - 2)]
        refused = Signal()
        with m.If(two_bytes):
            m.d.comb += arriving.eq(Cat(low, self.i.payload))
        with m.Else():
            m.d.comb += arriving.eq(self.i.payload)
        sign_bits = arriving[x_width - 1 : 8 * x_bytes]

        # --- a reply: written to a memory, then sent
        m.submodules.reply = reply = _Bytes(reply_capacity)
        # written a cycle late, as the decision to write comes late in its cycle
        m.d.sync += reply.write.eq(0)
        reply_length = Signal(range(reply_capacity + 1))
        position = Signal(range(max(reply_capacity, 8) + 2))
        nak = Signal()

        # --- a step of the engine
        is_open = Signal()
        zeros = Signal()  # this step ends an abandoned sequence
        fed = Signal(range(inputs + 1))
        taken = Signal(range(outputs + 1))
        wanted = Signal()  # an output; a cycle late, while the one before is stored
        stepped = Signal()
        running = Signal()
        cycles = Signal(32)
        closing = Signal()
        gives = closing if self.identity.only_last else Const(1)
        m.d.comb += [closing.eq(last | zeros), self.busy.eq(is_open)]
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
        byte = Signal(range(max(y_bytes, 4)))
        word = Signal(32)
        # what a reply is made of; chosen in two cycles where they are many
        words = [*counters, *thresholds]
        some_words = [words[at : at + 8] for at in range(0, len(words), 8)]
        parts = [Signal(32, name=f"words_{8 * at}") for at in range(len(some_words))]
        brief = Signal()  # words of 16 bits
        last_word = Signal()  # a cycle after ``count``
        m.d.sync += last_word.eq(count == Mux(brief, len(words), len(counters)))
        m.d.sync += [part.eq(Array(each)[count[:3]]) for part, each in zip(parts, some_words, strict=True)]
        chosen = parts[0]
        if len(parts) > 1:
            chosen = Signal(32, name="chosen")
            m.d.sync += chosen.eq(Array(parts)[count[3 : len(words).bit_length()]])

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
                self.weights.data.eq(words_in.r_data),
            ]

        # a byte of the fixed contents, a cycle behind its address
        look = Signal(range(len(fixed) + 2), init=len(identity))
        m.d.comb += contents.address.eq(look)

        def refuse(why: Reason, state: str) -> None:
            m.d.sync += [reason.eq(why), nak.eq(1), answered.eq(1)]
            m.next = state

        def send(payload_length: int | Value) -> None:
            m.d.sync += [reply_length.eq(payload_length), nak.eq(0), position.eq(0)]
            m.next = "SEND HEADER"

        def write(address: object, value: object) -> None:
            m.d.sync += [reply.write_address.eq(address), reply.data.eq(value), reply.write.eq(1)]

        def tell(payload_length: int, of: Value) -> None:
            """A reply of fixed contents, a byte a cycle, one cycle behind its address; the first is written twice."""
            write(Mux(position == 0, 0, position - 1), of)
            m.d.sync += [position.eq(position + 1), look.eq(look + 1)]
            with m.If(position == payload_length):
                m.d.sync += replay.eq(0)
                send(payload_length)

        # --- sending: sync, header, payload, CRC
        m.submodules.crc_out = crc_out = Crc16()
        header = Signal(64)
        sent_length = Signal(16)
        m.d.comb += [
            sent_length.eq(reply_length),
            header.eq(Cat(Const(int.from_bytes(SYNC, "little"), 16), command | REPLY, sequence, sent_length)),
        ]
        # a byte is chosen in two cycles; ``settled``: it is that of this position
        byte_out, header_byte, crc_byte = (Signal(8, name=name) for name in ("byte_out", "header_byte", "crc_byte"))
        sending, settling, settled, sent = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [self.o.valid.eq(sending & settled), sent.eq(settled & self.o.ready)]
        m.d.sync += [
            header_byte.eq(header.word_select(position[:3], 8)),
            crc_byte.eq(crc_out.crc.word_select(~position[0], 8)),
            self.o.payload.eq(byte_out),
            settling.eq(sending & ~sent),
            settled.eq(sending & settling & ~sent),
        ]
        # a cycle late: the CRC is chosen three cycles after the last byte that it is made of was taken
        crc_start, crc_valid = Signal(), Signal()
        m.d.sync += [crc_out.data.eq(self.o.payload), crc_out.start.eq(crc_start), crc_out.valid.eq(crc_valid)]
        with m.If(nak):
            m.d.comb += [
                sent_length.eq(1),
                header.eq(Cat(Const(int.from_bytes(SYNC, "little"), 16), Const(NAK, 8), sequence, sent_length)),
            ]

        m.d.comb += [crc_in.data.eq(self.i.payload), self.i.ready.eq(1)]
        m.d.sync += [timed_out.eq(quiet == self.timeout - 1), is_quiet.eq(quiet >= self.gap - 1)]
        m.d.sync += answered.eq(0)
        with m.If(self.i.valid | self.i_error | answered):
            m.d.sync += [quiet.eq(0), timed_out.eq(0), is_quiet.eq(0)]
        with m.Elif(~quiet[-1]):
            m.d.sync += quiet.eq(quiet + 1)

        def receiving() -> None:
            """A frame is on its way: it may stop or break."""
            with m.If(self.i_error):
                refuse(Reason.FRAMING, "DRAIN")
            with m.Elif(timed_out):
                refuse(Reason.TIMEOUT, "NAK")

        with m.FSM(name="state") as machine:
            with m.State("START"):  # after a reset: the thresholds, a byte a cycle
                m.d.comb += self.i.ready.eq(0)
                m.d.sync += [
                    look.eq(look + 1),
                    position.eq(position + 1),
                    threshold.eq(Cat(threshold[8:], contents.o)),
                    shift.eq((position != 0) & ~position[0]),
                ]
                with m.If(position == threshold_length):
                    m.next = "HUNT"
            with m.State("HUNT"), m.If(self.i.valid & (self.i.payload == SYNC[0])):
                m.next = "SYNC"
            with m.State("SYNC"):
                m.d.comb += [crc_in.start.eq(1), flush.eq(1)]
                m.d.sync += [count.eq(0), odd.eq(0), misfit.eq(0), last.eq(0), sequence.eq(0)]
                with m.If(self.i.valid & (self.i.payload == SYNC[1])):
                    m.next = "HEADER"
                with m.Elif(self.i.valid & (self.i.payload != SYNC[0])):
                    m.next = "HUNT"
            with m.State("HEADER"):
                receiving()
                with m.If(self.i.valid):
                    m.d.comb += crc_in.valid.eq(1)
                    m.d.sync += count.eq(count + 1)
                    with m.Switch(count[:2]):
                        with m.Case(0):
                            m.d.sync += command.eq(self.i.payload)
                        with m.Case(1):
                            m.d.sync += sequence.eq(self.i.payload)
                        with m.Case(2):
                            m.d.sync += length[:8].eq(self.i.payload)
                        with m.Case(3):
                            m.d.sync += [length[8:].eq(self.i.payload), count.eq(0)]
                            m.next = "LENGTH"
            with m.State("LENGTH"):  # is compared
                m.d.comb += self.i.ready.eq(0)
                m.next = "ROOM"
            with m.State("ROOM"):
                m.d.comb += self.i.ready.eq(0)
                m.d.sync += final.eq(single)
                with m.If(too_long):
                    refuse(Reason.LENGTH, "DRAIN")
                with m.Elif(empty):
                    m.next = "CRC"
                with m.Else():
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                receiving()
                with m.If(self.i.valid):
                    m.d.comb += crc_in.valid.eq(1)
                    m.d.sync += [count.eq(count + 1), final.eq(count == before)]
                    with m.If(asks[Command.FRAME] & (count == 0)):
                        m.d.sync += last.eq((self.i.payload & LAST) != 0)
                    with m.Elif(two_bytes & ~odd):
                        m.d.sync += [low.eq(self.i.payload), odd.eq(1)]
                    with m.Else():
                        # a payload of the wrong length may overflow the buffer, but is refused before the buffer is used
                        m.d.sync += [words_in.w_en.eq(1), odd.eq(0)]
                        with m.If(asks[Command.FRAME] & sign_bits.any() & ~sign_bits.all()):
                            m.d.sync += misfit.eq(1)
                    with m.If(final):
                        m.d.sync += count.eq(0)
                        m.next = "CRC"
            with m.State("CRC"):
                receiving()
                with m.If(self.i.valid):
                    m.d.comb += crc_in.valid.eq(1)
                    m.d.sync += count.eq(count + 1)
                    with m.If(count[0]):
                        m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(crc_in.match):
                    m.next = "DISPATCH"
                with m.Else():
                    refuse(Reason.CRC, "DRAIN")
            # what follows a broken frame belongs to it, until the line is quiet
            with m.State("DRAIN"), m.If(is_quiet):
                m.next = "NAK"
            with m.State("NAK"):
                m.d.sync += [self.error.eq(1), position.eq(0)]
                m.next = "SEND HEADER"

            with m.State("DISPATCH"):
                m.d.sync += [
                    count.eq(0),
                    position.eq(0),
                    byte.eq(0),
                    fed.eq(0),
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
                    with m.Elif(misfit):
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
                with m.If(refused):
                    m.d.sync += nak.eq(1)
                    m.next = "NAK"
                with m.Elif(asks[Command.IDENTIFY]):
                    m.next = "IDENTIFY"
                with m.Elif(asks[Command.FRAME]):
                    m.next = "FEED"
                    with m.If(again):
                        m.d.sync += nak.eq(0)
                        m.next = "SEND HEADER"
                with m.Elif(asks[Command.THRESHOLDS]):
                    m.next = "SET THRESHOLDS"
                    with m.If(empty):
                        m.next = "WORDS"
                with m.Elif(asks[Command.COUNTERS]):
                    m.next = "WORDS"
                with m.Elif(asks[Command.RESET]):
                    m.next = "RESET"
                    with m.If(zeros):
                        m.next = "FEED"
                if loaded:
                    with m.Else():
                        m.next = "WEIGHTS PE"
                        with m.If(empty):
                            m.next = "WEIGHTS"

            with m.State("IDENTIFY"):
                tell(len(identity), contents.o)

            with m.State("FEED"):
                m.d.comb += [
                    self.x.valid.eq(zeros | words_in.r_rdy),
                    self.x.payload.data.eq(words_in.r_data[:x_width].as_signed()),
                    self.x.payload.last.eq(closing & (fed == inputs - 1)),
                    words_in.r_en.eq(self.x.ready),
                ]
                with m.If(zeros):
                    m.d.comb += self.x.payload.data.eq(0)
                with m.If(self.x.valid & self.x.ready):
                    m.d.sync += fed.eq(fed + 1)
                    with m.If(fed == inputs - 1):
                        m.d.sync += [is_open.eq(~closing), self.done.eq(closing), position.eq(5)]
                        m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += self.y.ready.eq(wanted)
                with m.If(wanted), m.If(self.y.valid):
                    m.d.sync += [value.eq(self.y.payload.data), taken.eq(taken + 1), byte.eq(0)]
                    m.next = "STORE"
                with m.Elif(stepped):
                    m.d.sync += [position.eq(0), word.eq(cycles)]
                    m.next = "FINISH"
            with m.State("STORE"):
                write(position, value[:8])
                m.d.sync += [value.eq(value >> 8), position.eq(position + 1), byte.eq(byte + 1)]
                with m.If(byte == y_bytes - 1):
                    m.next = "COLLECT"
            with m.State("FINISH"):
                with m.If(zeros):
                    m.next = "RESET"
                with m.Elif(position == 0):
                    write(0, gives * OUTPUTS)
                    m.d.sync += position.eq(1)
                with m.Else():
                    write(position, word[:8])
                    m.d.sync += [word.eq(word >> 8), position.eq(position + 1)]
                    with m.If(position == 4):
                        m.d.sync += [replay.eq(1), replay_sequence.eq(sequence)]
                        with m.If(gives):
                            send(5 + outputs * y_bytes)
                        with m.Else():
                            send(5)

            with m.State("SET THRESHOLDS"):
                m.d.comb += words_in.r_en.eq(1)
                m.d.sync += [threshold.eq(words_in.r_data), shift.eq(words_in.r_rdy)]
                with m.If(words_in.r_rdy):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == len(self.thresholds) - 1):
                        m.d.sync += count.eq(len(counters))
                        m.next = "THRESHOLDS"
            with m.State("THRESHOLDS"):  # the last one is on its way
                m.next = "WORDS"

            if loaded:
                given = words_in.r_data[:16]
                with m.State("WEIGHTS PE"), m.If(words_in.r_rdy):
                    m.d.comb += words_in.r_en.eq(1)
                    m.d.sync += [wanted_pe.eq(given), count.eq(2)]
                    m.next = "WEIGHTS ADDRESS"
                    with m.If(given > at_pe):
                        refuse(Reason.ORDER, "NAK")
                with m.State("WEIGHTS ADDRESS"), m.If(words_in.r_rdy):
                    m.d.comb += words_in.r_en.eq(1)
                    with m.If((given >= loaded.weight_depth) | ((wanted_pe == at_pe) & (given > at_address))):
                        refuse(Reason.ORDER, "NAK")
                    with m.Else():
                        m.d.sync += [at_pe.eq(wanted_pe), at_address.eq(given)]
                        m.next = "WRITE WEIGHTS"
                with m.State("WRITE WEIGHTS"), m.If(words_in.r_rdy):
                    m.d.comb += [words_in.r_en.eq(1), self.weights.valid.eq(~complete)]
                    m.d.sync += count.eq(count + 1)
                    with m.If(~complete):  # what comes after the last word goes nowhere
                        m.d.sync += at_address.eq(at_address + 1)
                        with m.If(at_address == loaded.weight_depth - 1):
                            m.d.sync += [at_address.eq(0), at_pe.eq(at_pe + 1)]
                    with m.If(count + 1 == length[1:]):
                        m.next = "WEIGHTS"
                with m.State("WEIGHTS"):  # the array is known, whether all weights are there is not
                    tell(len(array), Mux(position == 1, complete, contents.o))

            with m.State("WORDS"):  # counters or thresholds; a word is taken whole, as the engine goes on counting
                m.next = "CHOOSE WORD"
            with m.State("CHOOSE WORD"):
                m.next = "TAKE WORD"
            with m.State("TAKE WORD"):
                m.d.sync += [word.eq(chosen), count.eq(count + 1), byte.eq(0)]
                m.next = "STORE WORD"
            with m.State("STORE WORD"):
                write(position, word[:8])
                m.d.sync += [word.eq(word >> 8), position.eq(position + 1), byte.eq(byte + 1)]
                with m.If(byte == Mux(brief, 1, 3)):
                    m.next = "WORDS"
                    with m.If(last_word):
                        m.d.sync += replay.eq(0)
                        send(Mux(brief, threshold_length, 4 * len(counters)))

            with m.State("RESET"):
                write(0, zeros)
                m.d.sync += replay.eq(0)
                send(1)

            with m.State("SEND HEADER"):
                m.d.comb += [
                    sending.eq(1),
                    crc_start.eq(position < 2),
                    byte_out.eq(header_byte),
                ]
                m.d.comb += crc_valid.eq(sent & (position >= 2))
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == 5):
                        m.d.sync += position.eq(0)
                        m.next = "FETCH"
            with m.State("FETCH"):  # the memory takes a cycle
                m.next = "SEND PAYLOAD"
                with m.If(position == sent_length):
                    m.d.sync += position.eq(0)
                    m.next = "SEND CRC"
            with m.State("SEND PAYLOAD"):
                m.d.comb += [sending.eq(1), byte_out.eq(Mux(nak, reason, reply.o)), crc_valid.eq(sent)]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    m.next = "FETCH"
            with m.State("SEND CRC"):
                m.d.comb += [sending.eq(1), byte_out.eq(crc_byte)]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position[0]):
                        with m.If(~nak):
                            m.d.sync += self.error.eq(0)
                        m.next = "HUNT"
        m.d.comb += reply.address.eq(position)
        idle = [
            machine.ongoing(state) for state in ("START", "HUNT", "SYNC", "HEADER", "LENGTH", "ROOM", "PAYLOAD", "CRC")
        ]
        m.d.comb += self.busy.eq(is_open | ~Cat(*idle).any())
        return m


PART = 128
"""Bytes of a part of a reply's memory, if it is not in block RAM."""


class _Bytes(wiring.Component):
    """A memory of bytes; in distributed RAM it has parts, whose choice is behind a register.

    Members: ``o``, the byte at ``address`` two cycles before; ``data`` is written to ``write_address`` where ``write`` holds. A
    byte that is written in the cycle in which it is asked for may be read as it was or as it will be: a reply is written before it
    is sent.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        address = range(max(depth, 8) + 2)
        super().__init__(
            {
                "address": In(address),
                "o": Out(8),
                "write_address": In(address),
                "write": In(1),
                "data": In(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        style = memory_style(platform, 8, self._depth, packet_blocks)
        block = style.get("ram_style") == "block"
        part = self._depth if block else PART
        low = PART.bit_length() - 1
        chosen = Signal(range(max(2, -(-self._depth // PART))))
        found = []
        for number, start in enumerate(range(0, self._depth, part)):
            depth = min(part, self._depth - start)
            m.submodules[f"part_{number}"] = words = memory.Memory(shape=8, depth=depth, init=[], attrs=style)
            write = words.write_port()
            # what costs least: a block RAM gives the new byte by a way around it
            read = words.read_port(transparent_for=[write] if block else [])
            byte = Signal(8, name=f"byte_{number}")
            m.d.comb += [
                write.addr.eq(self.write_address),
                write.data.eq(self.data),
                write.en.eq(self.write),
                read.addr.eq(self.address),
            ]
            if part < self._depth:
                m.d.comb += write.en.eq(self.write & (self.write_address[low:] == number))
            m.d.sync += byte.eq(read.data)
            found.append(byte)
        first = Signal.like(chosen, name="chosen_before")
        m.d.sync += [first.eq(self.address[low:] if len(found) > 1 else 0), chosen.eq(first)]
        m.d.comb += self.o.eq(Array(found)[chosen])
        return m


class _Queue(fifo.SyncFIFOBuffered):
    """A queue whose memory is of the kind that its size asks for."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        if self.depth > 1:
            m.submodules.storage.attrs.update(memory_style(platform, self.width, self.depth - 1, packet_blocks))
        return m
