"""A reply: written to a memory, then sent as a frame; bytes as in ``docs/reference/board.md``."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from sparsegate.fpga.memory import packet_blocks
from sparsegate.protocol import NAK, REPLY, SYNC
from sparsegate_hw.board.crc import Crc16
from sparsegate_hw.fabric.primitives import memory_style

PART = 128
"""Bytes of a part of a reply's memory, if it is not in block RAM."""


class Reply(wiring.Component):
    """Keeps the payload of the last reply, and sends it between header and CRC, as often as it is asked to.

    Parameters
    ----------
    capacity : bytes of the longest payload.
    reasons : bits of a refusal's reason.

    Members
    -------
    write : In(1), address : In, data : In(8)
        A byte of the payload.
    start : In(1)
        Send a reply. A pulse; what follows is held until ``done``.
    command, sequence : In(8), length : In
        The request's; bytes of the payload.
    nak : In(1), reason : In
        Send a refusal instead, whose payload is ``reason``.
    o : Out(stream of 8 bits)
        Bytes to the host.
    done : Out(1)
        The last byte was taken. A pulse.

    Timing: bytes of the header and the CRC every three cycles, those of the payload every four; a byte waits until it is taken.
    """

    def __init__(self, capacity: int, reasons: int) -> None:
        self.capacity = capacity
        super().__init__(
            {
                "write": In(1),
                "address": In(range(max(capacity, 8) + 2)),
                "data": In(8),
                "start": In(1),
                "command": In(8),
                "sequence": In(8),
                "length": In(range(capacity + 1)),
                "nak": In(1),
                "reason": In(reasons),
                "o": Out(stream.Signature(8)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.payload = payload = _Bytes(self.capacity)
        m.submodules.crc = crc = Crc16()
        position = Signal.like(self.address, name="position")
        m.d.comb += [
            payload.write.eq(self.write),
            payload.write_address.eq(self.address),
            payload.data.eq(self.data),
            payload.address.eq(position),
        ]
        header = Signal(64)
        length = Signal(16)
        m.d.comb += [
            length.eq(Mux(self.nak, 1, self.length)),
            header.eq(
                Cat(
                    Const(int.from_bytes(SYNC, "little"), 16),
                    Mux(self.nak, NAK, self.command | REPLY)[:8],
                    self.sequence,
                    length,
                )
            ),
        ]
        # a byte is chosen in two cycles; ``settled``: it is that of this position
        byte, header_byte, crc_byte = (Signal(8, name=name) for name in ("byte", "header_byte", "crc_byte"))
        sending, settling, settled, sent = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [self.o.valid.eq(sending & settled), sent.eq(settled & self.o.ready)]
        m.d.sync += [
            header_byte.eq(header.word_select(position[:3], 8)),
            crc_byte.eq(crc.crc.word_select(~position[0], 8)),
            self.o.payload.eq(byte),
            settling.eq(sending & ~sent),
            settled.eq(sending & settling & ~sent),
            self.done.eq(0),
        ]
        # a cycle late: the CRC is chosen three cycles after the last byte that it is made of was taken
        crc_start, crc_valid = Signal(), Signal()
        m.d.sync += [crc.data.eq(self.o.payload), crc.start.eq(crc_start), crc.valid.eq(crc_valid)]

        with m.FSM(name="state"):
            with m.State("IDLE"):
                m.d.sync += position.eq(0)
                with m.If(self.start):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [
                    sending.eq(1),
                    crc_start.eq(position < 2),
                    byte.eq(header_byte),
                    crc_valid.eq(sent & (position >= 2)),
                ]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == 5):
                        m.d.sync += position.eq(0)
                        m.next = "FETCH"
            with m.State("FETCH"):  # the memory takes a cycle
                m.next = "PAYLOAD"
                with m.If(position == length):
                    m.d.sync += position.eq(0)
                    m.next = "CRC"
            with m.State("PAYLOAD"):
                m.d.comb += [sending.eq(1), byte.eq(Mux(self.nak, self.reason, payload.o)), crc_valid.eq(sent)]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    m.next = "FETCH"
            with m.State("CRC"):
                m.d.comb += [sending.eq(1), byte.eq(crc_byte)]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position[0]):
                        m.d.sync += self.done.eq(1)
                        m.next = "IDLE"
        return m


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
