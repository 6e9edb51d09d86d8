"""A host's request as it is received: framed, checked, and held until it is answered; bytes as in ``docs/board.md``."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.fpga.memory import packet_blocks
from sparsegate.protocol import LAST, RUN_WORDS, SYNC, Command, Identity, Reason, value_bytes
from sparsegate_hw.board.crc import Crc16
from sparsegate_hw.fabric.primitives import memory_style


class Request(wiring.Component):
    """One request at a time. Its CRC is looked at before anyone sees it; while it is held, received bytes are dropped.

    Parameters
    ----------
    identity : sizes of a step's frame; whether weights are loaded.
    thresholds : how many a request sets.
    timeout : cycles without a byte after which a frame that has begun is given up.
    gap : cycles without a byte after which a line is quiet and a broken frame is held.

    Members
    -------
    i : In(stream of 8 bits), i_error : In(1)
        Bytes from the host; a received byte was dropped. No byte is taken before the first ``answered``.
    valid, broken : Out(1)
        A request is held; what was received cannot be one, for ``reason`` (:class:`~sparsegate.protocol.Reason`).
    command, sequence : Out(8), length : Out(16)
        The frame's header.
    last, misfit : Out(1)
        Of a step: it ends its sequence; a value does not fit the input format.
    words : Out(stream)
        The payload's values, in as many bits as the widest kind has.
    answered : In(1)
        The request is dealt with: the next one may come. A pulse.
    idle : Out(1)
        No frame is checked or held, nor the rest of a broken one waited out.

    Timing: ``valid`` follows the last byte of a frame after two cycles.
    """

    def __init__(self, identity: Identity, thresholds: int, timeout: int, gap: int) -> None:
        self.identity, self.timeout, self.gap = identity, timeout, gap
        self.loaded = identity.loaded
        self.frame_length = 1 + identity.inputs * value_bytes(identity.input_width)
        self.threshold_length = 2 * thresholds
        self.values = max(identity.inputs, thresholds, 2 + RUN_WORDS if self.loaded else 0)
        self.longest = max(self.frame_length, self.threshold_length, 4 + 2 * RUN_WORDS if self.loaded else 0)
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "i_error": In(1),
                "valid": Out(1),
                "broken": Out(1),
                "reason": Out(4 if self.loaded else 3),
                "command": Out(8),
                "sequence": Out(8),
                "length": Out(16),
                "last": Out(1),
                "misfit": Out(1),
                "words": Out(stream.Signature(max(identity.input_width, 16))),
                "answered": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x_width = self.identity.input_width
        x_bytes = value_bytes(x_width)
        command, length = self.command, self.length

        count = Signal(16)  # bytes of the part that is being received
        low = Signal(8)
        odd = Signal()  # the byte before was the low half of a value
        # known long before a payload is complete
        is_step, two_bytes, empty, too_long, single = (
            Signal(name=name) for name in ("is_step", "two_bytes", "empty", "too_long", "single")
        )
        # ``final``: the next byte of the payload is its last; set by the one ``before``, whose ``count`` is the length less two
        final, before = Signal(), Signal(16)
        m.d.sync += [
            is_step.eq(command == Command.FRAME),
            two_bytes.eq(
                (x_bytes == 2) | (command == Command.THRESHOLDS) | (self.loaded & (command == Command.WEIGHTS))
            ),
            empty.eq(length == 0),
            too_long.eq(length > self.longest),
            single.eq(length == 1),
            before.eq(length - 2),
        ]

        m.submodules.crc = crc = Crc16()
        m.d.comb += [crc.data.eq(self.i.payload), self.i.ready.eq(1)]

        flush = Signal()
        arriving = Signal(16)
        queue = _Queue(width=len(self.words.payload), depth=self.values)
        m.submodules.words = ResetInserter(flush)(queue)
        m.d.comb += [
            self.words.payload.eq(queue.r_data),
            self.words.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.words.ready),
        ]
        # a value goes to the queue a cycle late
        m.d.sync += [queue.w_data.eq(arriving), queue.w_en.eq(0)]
        with m.If(two_bytes):
            m.d.comb += arriving.eq(Cat(low, self.i.payload))
        with m.Else():
            m.d.comb += arriving.eq(self.i.payload)
        sign_bits = arriving[x_width - 1 : 8 * x_bytes]

        # cycles without a byte; two of their numbers are known a cycle ahead
        quiet = Signal(max(self.timeout, self.gap).bit_length() + 1)
        timed_out, is_quiet = Signal(), Signal()
        gave_up = Signal()  # a cycle late: counting begins anew
        m.d.sync += [timed_out.eq(quiet == self.timeout - 1), is_quiet.eq(quiet >= self.gap - 1), gave_up.eq(0)]
        with m.If(self.i.valid | self.i_error | gave_up):
            m.d.sync += [quiet.eq(0), timed_out.eq(0), is_quiet.eq(0)]
        with m.Elif(~quiet[-1]):
            m.d.sync += quiet.eq(quiet + 1)

        def refuse(why: Reason, state: str) -> None:
            m.d.sync += [self.reason.eq(why), gave_up.eq(1)]
            m.next = state

        def receiving() -> None:
            """A frame is on its way: it may stop or break."""
            with m.If(self.i_error):
                refuse(Reason.FRAMING, "DRAIN")
            with m.Elif(timed_out & ~self.i.valid):
                m.d.sync += self.broken.eq(1)
                refuse(Reason.TIMEOUT, "HELD")

        with m.FSM(name="state") as machine:
            with m.State("START"):
                m.d.comb += self.i.ready.eq(0)
                with m.If(self.answered):
                    m.next = "HUNT"
            with m.State("HUNT"), m.If(self.i.valid & (self.i.payload == SYNC[0])):
                m.next = "SYNC"
            with m.State("SYNC"):
                m.d.comb += [crc.start.eq(1), flush.eq(1)]
                m.d.sync += [count.eq(0), odd.eq(0), self.misfit.eq(0), self.last.eq(0), self.sequence.eq(0)]
                with m.If(self.i.valid & (self.i.payload == SYNC[1])):
                    m.next = "HEADER"
                with m.Elif(self.i.valid & (self.i.payload != SYNC[0])):
                    m.next = "HUNT"
            with m.State("HEADER"):
                receiving()
                with m.If(self.i.valid):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += count.eq(count + 1)
                    with m.Switch(count[:2]):
                        with m.Case(0):
                            m.d.sync += command.eq(self.i.payload)
                        with m.Case(1):
                            m.d.sync += self.sequence.eq(self.i.payload)
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
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += [count.eq(count + 1), final.eq(count == before)]
                    with m.If(is_step & (count == 0)):
                        m.d.sync += self.last.eq((self.i.payload & LAST) != 0)
                    with m.Elif(two_bytes & ~odd):
                        m.d.sync += [low.eq(self.i.payload), odd.eq(1)]
                    with m.Else():
                        # a payload of the wrong length may overflow the queue, but is refused before the queue is used
                        m.d.sync += [queue.w_en.eq(1), odd.eq(0)]
                        with m.If(is_step & sign_bits.any() & ~sign_bits.all()):
                            m.d.sync += self.misfit.eq(1)
                    with m.If(final):
                        m.d.sync += count.eq(0)
                        m.next = "CRC"
            with m.State("CRC"):
                receiving()
                with m.If(self.i.valid):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += count.eq(count + 1)
                    with m.If(count[0]):
                        m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(crc.match):
                    m.d.sync += self.valid.eq(1)
                    m.next = "HELD"
                with m.Else():
                    refuse(Reason.CRC, "DRAIN")
            # what follows a broken frame belongs to it, until the line is quiet
            with m.State("DRAIN"), m.If(is_quiet):
                m.d.sync += self.broken.eq(1)
                m.next = "HELD"
            with m.State("HELD"), m.If(self.answered):
                m.d.sync += [self.valid.eq(0), self.broken.eq(0)]
                m.next = "HUNT"
        idle = [
            machine.ongoing(state) for state in ("START", "HUNT", "SYNC", "HEADER", "LENGTH", "ROOM", "PAYLOAD", "CRC")
        ]
        m.d.comb += self.idle.eq(Cat(*idle).any())
        return m


class _Queue(fifo.SyncFIFOBuffered):
    """A queue whose memory is of the kind that its size asks for."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        if self.depth > 1:
            m.submodules.storage.attrs.update(memory_style(platform, self.width, self.depth - 1, packet_blocks))
        return m
