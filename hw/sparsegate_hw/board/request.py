"""A host's request as it is received: framed, checked, and held until it is answered; bytes as in ``docs/reference/board.md``."""

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
        return _Receiver(self).build()


class _Receiver:
    """One elaboration of a :class:`Request`: parts that share signals, and the states of a frame that arrives."""

    def __init__(self, port: Request) -> None:
        self.port = port
        self.m = Module()

    def build(self) -> Module:
        """The whole module, part by part."""
        m = self.m
        self.x_width = self.port.identity.input_width
        self.x_bytes = value_bytes(self.x_width)
        self.command, self.length = self.port.command, self.port.length

        self.count = Signal(16)  # bytes of the part that is being received
        self.low = Signal(8)
        self.odd = Signal()  # the byte before was the low half of a value
        # known long before a payload is complete
        self.is_step, self.two_bytes, self.empty, self.too_long, self.single = (
            Signal(name=name) for name in ("is_step", "two_bytes", "empty", "too_long", "single")
        )
        # ``final``: the next byte of the payload is its last; set by the one ``before``, whose ``count`` is the length less two
        self.final, self.before = Signal(), Signal(16, name="before")
        m.d.sync += [
            self.is_step.eq(self.command == Command.FRAME),
            self.two_bytes.eq(
                (self.x_bytes == 2)
                | (self.command == Command.THRESHOLDS)
                | (self.port.loaded & (self.command == Command.WEIGHTS))
            ),
            self.empty.eq(self.length == 0),
            self.too_long.eq(self.length > self.port.longest),
            self.single.eq(self.length == 1),
            self.before.eq(self.length - 2),
        ]

        m.submodules.crc = self.crc = Crc16()
        m.d.comb += [self.crc.data.eq(self.port.i.payload), self.port.i.ready.eq(1)]

        self._values()

        # cycles without a byte; two of their numbers are known a cycle ahead
        self._silence()

        with m.FSM(name="state") as machine:
            self._head()
            self._length()
            self._payload()
            self._tail()
        idle = [
            machine.ongoing(state) for state in ("START", "HUNT", "SYNC", "HEADER", "LENGTH", "ROOM", "PAYLOAD", "CRC")
        ]
        m.d.comb += self.port.idle.eq(Cat(*idle).any())
        return m

    def _values(self) -> None:
        """The queue of a payload's values; a value goes there a cycle late."""
        m = self.m
        self.flush = Signal()
        arriving = Signal(16)
        self.queue = _Queue(width=len(self.port.words.payload), depth=self.port.values)
        m.submodules.words = ResetInserter(self.flush)(self.queue)
        m.d.comb += [
            self.port.words.payload.eq(self.queue.r_data),
            self.port.words.valid.eq(self.queue.r_rdy),
            self.queue.r_en.eq(self.port.words.ready),
        ]
        # a value goes to the queue a cycle late
        m.d.sync += [self.queue.w_data.eq(arriving), self.queue.w_en.eq(0)]
        with m.If(self.two_bytes):
            m.d.comb += arriving.eq(Cat(self.low, self.port.i.payload))
        with m.Else():
            m.d.comb += arriving.eq(self.port.i.payload)
        self.sign_bits = arriving[self.x_width - 1 : 8 * self.x_bytes]

    def _silence(self) -> None:
        """Cycles without a byte; two of their numbers are known a cycle ahead."""
        m = self.m
        quiet = Signal(max(self.port.timeout, self.port.gap).bit_length() + 1)
        self.timed_out, self.is_quiet = Signal(), Signal()
        self.gave_up = Signal()  # a cycle late: counting begins anew
        m.d.sync += [
            self.timed_out.eq(quiet == self.port.timeout - 1),
            self.is_quiet.eq(quiet >= self.port.gap - 1),
            self.gave_up.eq(0),
        ]
        with m.If(self.port.i.valid | self.port.i_error | self.gave_up):
            m.d.sync += [quiet.eq(0), self.timed_out.eq(0), self.is_quiet.eq(0)]
        with m.Elif(~quiet[-1]):
            m.d.sync += quiet.eq(quiet + 1)

    def refuse(self, why: Reason, state: str) -> None:
        m = self.m
        m.d.sync += [self.port.reason.eq(why), self.gave_up.eq(1)]
        m.next = state

    def receiving(
        self,
    ) -> None:
        """A frame is on its way: it may stop or break."""
        m = self.m
        with m.If(self.port.i_error):
            self.refuse(Reason.FRAMING, "DRAIN")
        with m.Elif(self.timed_out & ~self.port.i.valid):
            m.d.sync += self.port.broken.eq(1)
            self.refuse(Reason.TIMEOUT, "HELD")

    def _head(self) -> None:
        """Until a frame begins, and its header."""
        m = self.m
        with m.State("START"):
            m.d.comb += self.port.i.ready.eq(0)
            with m.If(self.port.answered):
                m.next = "HUNT"
        with m.State("HUNT"), m.If(self.port.i.valid & (self.port.i.payload == SYNC[0])):
            m.next = "SYNC"
        with m.State("SYNC"):
            m.d.comb += [self.crc.start.eq(1), self.flush.eq(1)]
            m.d.sync += [
                self.count.eq(0),
                self.odd.eq(0),
                self.port.misfit.eq(0),
                self.port.last.eq(0),
                self.port.sequence.eq(0),
            ]
            with m.If(self.port.i.valid & (self.port.i.payload == SYNC[1])):
                m.next = "HEADER"
            with m.Elif(self.port.i.valid & (self.port.i.payload != SYNC[0])):
                m.next = "HUNT"
        with m.State("HEADER"):
            self.receiving()
            with m.If(self.port.i.valid):
                m.d.comb += self.crc.valid.eq(1)
                m.d.sync += self.count.eq(self.count + 1)
                with m.Switch(self.count[:2]):
                    with m.Case(0):
                        m.d.sync += self.command.eq(self.port.i.payload)
                    with m.Case(1):
                        m.d.sync += self.port.sequence.eq(self.port.i.payload)
                    with m.Case(2):
                        m.d.sync += self.length[:8].eq(self.port.i.payload)
                    with m.Case(3):
                        m.d.sync += [self.length[8:].eq(self.port.i.payload), self.count.eq(0)]
                        m.next = "LENGTH"

    def _length(self) -> None:
        """The length is compared, while no byte is taken."""
        m = self.m
        with m.State("LENGTH"):  # is compared
            m.d.comb += self.port.i.ready.eq(0)
            m.next = "ROOM"
        with m.State("ROOM"):
            m.d.comb += self.port.i.ready.eq(0)
            m.d.sync += self.final.eq(self.single)
            with m.If(self.too_long):
                self.refuse(Reason.LENGTH, "DRAIN")
            with m.Elif(self.empty):
                m.next = "CRC"
            with m.Else():
                m.next = "PAYLOAD"

    def _payload(self) -> None:
        """Values into the queue; one that does not fit its format is noted."""
        m = self.m
        with m.State("PAYLOAD"):
            self.receiving()
            with m.If(self.port.i.valid):
                m.d.comb += self.crc.valid.eq(1)
                m.d.sync += [self.count.eq(self.count + 1), self.final.eq(self.count == self.before)]
                with m.If(self.is_step & (self.count == 0)):
                    m.d.sync += self.port.last.eq((self.port.i.payload & LAST) != 0)
                with m.Elif(self.two_bytes & ~self.odd):
                    m.d.sync += [self.low.eq(self.port.i.payload), self.odd.eq(1)]
                with m.Else():
                    # a payload of the wrong length may overflow the queue, but is refused before the queue is used
                    m.d.sync += [self.queue.w_en.eq(1), self.odd.eq(0)]
                    with m.If(self.is_step & self.sign_bits.any() & ~self.sign_bits.all()):
                        m.d.sync += self.port.misfit.eq(1)
                with m.If(self.final):
                    m.d.sync += self.count.eq(0)
                    m.next = "CRC"

    def _tail(self) -> None:
        """The CRC, and what follows: a request held until it is answered, or a broken frame until the line is quiet."""
        m = self.m
        with m.State("CRC"):
            self.receiving()
            with m.If(self.port.i.valid):
                m.d.comb += self.crc.valid.eq(1)
                m.d.sync += self.count.eq(self.count + 1)
                with m.If(self.count[0]):
                    m.next = "CHECK"
        with m.State("CHECK"):
            with m.If(self.crc.match):
                m.d.sync += self.port.valid.eq(1)
                m.next = "HELD"
            with m.Else():
                self.refuse(Reason.CRC, "DRAIN")
        # what follows a broken frame belongs to it, until the line is quiet
        with m.State("DRAIN"), m.If(self.is_quiet):
            m.d.sync += self.port.broken.eq(1)
            m.next = "HELD"
        with m.State("HELD"), m.If(self.port.answered):
            m.d.sync += [self.port.valid.eq(0), self.port.broken.eq(0)]
            m.next = "HUNT"


class _Queue(fifo.SyncFIFOBuffered):
    """A queue whose memory is of the kind that its size asks for."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        if self.depth > 1:
            m.submodules.storage.attrs.update(memory_style(platform, self.width, self.depth - 1, packet_blocks))
        return m
