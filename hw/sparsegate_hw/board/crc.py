"""The CRC of the board protocol as hardware: one byte a cycle."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import crc, wiring
from amaranth.lib.wiring import In, Out

from sparsegate import protocol


class Crc16(wiring.Component):
    """CRC-16/IBM-3740 (CCITT-FALSE) of a run of bytes.

    Parameters: polynomial 0x1021, start 0xFFFF, not reflected, no final XOR (``amaranth.lib.crc.catalog.CRC16_IBM_3740``).

    Members
    -------
    start : In(1)
        Forget all bytes; wins over ``valid``.
    valid, data : In(1), In(8)
        One more byte.
    crc : Out(16)
        The CRC of all bytes since ``start``.
    match : Out(1)
        The bytes so far end with their own CRC, high byte first.

    Timing: latency 1, one byte a cycle.
    """

    latency = 1

    def __init__(self) -> None:
        super().__init__({"start": In(1), "valid": In(1), "data": In(8), "crc": Out(16), "match": Out(1)})

    @staticmethod
    def model(data: bytes) -> int:
        """The same in Python."""
        return protocol.crc16(data)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.processor = processor = crc.catalog.CRC16_IBM_3740(data_width=8).create()
        m.d.comb += [
            processor.start.eq(self.start),
            processor.valid.eq(self.valid),
            processor.data.eq(self.data),
            self.crc.eq(processor.crc),
            # no final XOR and no reflection, so the residue of a correct run is 0
            self.match.eq(processor.crc == 0),
        ]
        return m
