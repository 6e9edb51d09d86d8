"""The frames that a host and a board exchange over a UART: pure Python, shared by both ends' tests.

Byte layout, commands and reasons are described in ``docs/reference/board.md``; ``sparsegate_hw.board.packet`` is the other end.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate.errors import SparseGateError
from sparsegate.program import Program

VERSION = 1
SYNC = b"\xa5\x5a"
REPLY = 0x80
"""Set in the command of a reply."""
NAK = 0xFF
"""Command of a reply to a request that was not carried out; its payload is one :class:`Reason`."""
LAST = 1
"""Bit of a FRAME request's flags: the sequence ends with this step."""
OUTPUTS = 1
"""Bit of a FRAME reply's flags: outputs follow."""
DIGEST_BYTES = 8
MAX_PAYLOAD = 0xFFFF
RUN_WORDS = 254
"""Words of weight memories in a WEIGHTS request, at most: with their place they are a request buffer of 256 values."""


class Command(IntEnum):
    """What a request asks for."""

    IDENTIFY = 1
    FRAME = 2
    THRESHOLDS = 3
    COUNTERS = 4
    RESET = 5
    WEIGHTS = 6


class Reason(IntEnum):
    """Why a request was not carried out."""

    CRC = 1
    TIMEOUT = 2
    FRAMING = 3
    LENGTH = 4
    COMMAND = 5
    VALUE = 6
    OPEN = 7
    UNLOADED = 8
    ORDER = 9


TRANSIENT = frozenset({Reason.CRC, Reason.TIMEOUT, Reason.FRAMING})
"""Reasons that come from a disturbed line: sending the same request again helps."""

MEANING = {
    Reason.CRC: "the checksum was wrong",
    Reason.TIMEOUT: "the frame stopped in the middle",
    Reason.FRAMING: "a byte had no stop bit",
    Reason.LENGTH: "the payload has the wrong length for this command",
    Reason.COMMAND: "the command is unknown",
    Reason.VALUE: "a value does not fit the input format",
    Reason.OPEN: "thresholds and weights can change only between sequences",
    Reason.UNLOADED: "not all weights are loaded yet",
    Reason.ORDER: "weights before these are not loaded yet",
}


def crc16(data: bytes) -> int:
    """CRC-16/IBM-3740, also called CCITT-FALSE: polynomial 0x1021, start 0xFFFF, not reflected, no final XOR.

    The check value of ``b"123456789"`` is 0x29B1 (catalogue of parametrised CRC algorithms, reveng.sourceforge.io). A frame
    carries it high byte first, so that the CRC over body and checksum together is 0.
    """
    return binascii.crc_hqx(data, 0xFFFF)


@dataclass(frozen=True)
class Frame:
    """A request or a reply. ``sequence`` is 0..255; a reply repeats the one of its request."""

    command: int
    sequence: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Sync bytes, command, sequence, length (little-endian), payload, CRC (high byte first)."""
        if len(self.payload) > MAX_PAYLOAD:
            raise SparseGateError(
                f"a payload of {len(self.payload)} bytes does not fit a frame, at most {MAX_PAYLOAD} expected"
            )
        body = struct.pack("<BBH", self.command, self.sequence, len(self.payload)) + self.payload
        return SYNC + body + struct.pack(">H", crc16(body))

    @property
    def reason(self) -> Reason | None:
        """The reason that a NAK carries; None for every other frame."""
        if self.command != NAK or len(self.payload) != 1:
            return None
        try:
            return Reason(self.payload[0])
        except ValueError:
            return None


class Decoder:
    """Find frames in a stream of bytes, whatever lies between them.

    After a false start (sync bytes inside garbage, a wrong CRC) the search goes on at the byte after the false sync, so a
    good frame is never swallowed by a broken one before it. ``rejected`` counts wrong CRCs.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._buffer = bytearray()
        self._max_payload = max_payload
        self.rejected = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Give the frames that ``data`` completes."""
        self._buffer += data
        while True:
            start = self._buffer.find(SYNC)
            if start < 0:
                # the last byte may be the first half of a sync
                del self._buffer[: len(self._buffer) - self._buffer.endswith(SYNC[:1])]
                return
            del self._buffer[:start]
            if len(self._buffer) < 6:
                return
            command, sequence, length = struct.unpack_from("<BBH", self._buffer, 2)
            if length > self._max_payload:
                del self._buffer[:1]
                continue
            if len(self._buffer) < 8 + length:
                return
            if crc16(bytes(self._buffer[2 : 8 + length])) != 0:
                self.rejected += 1
                del self._buffer[:1]
                continue
            frame = Frame(command, sequence, bytes(self._buffer[6 : 6 + length]))
            del self._buffer[: 8 + length]
            yield frame

    def skip(self) -> Iterator[Frame]:
        """Give up waiting for the rest of a frame whose length may be damaged; gives the frames that lie inside it."""
        while self._buffer:
            del self._buffer[:1]
            yield from self.feed(b"")


def value_bytes(width: int) -> int:
    """Bytes of a value of ``width`` bits on the line: 1, 2 or 4."""
    for size in (1, 2, 4):
        if width <= 8 * size:
            return size
    raise SparseGateError(f"values of {width} bits do not fit the protocol, at most 32 expected")


def pack(values: ArrayLike, width: int) -> bytes:
    """Signed integers of ``width`` bits, little-endian two's complement."""
    values = np.asarray(values)
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    if values.size and (values.min() < low or values.max() > high):
        raise SparseGateError(f"values lie in {values.min()}..{values.max()}, but {width} bits hold {low}..{high}")
    return values.astype(f"<i{value_bytes(width)}").tobytes()


def unpack(data: bytes, width: int) -> NDArray[np.int64]:
    """Inverse of :func:`pack`."""
    return np.frombuffer(data, f"<i{value_bytes(width)}").astype(np.int64)


_IDENTITY = struct.Struct(f"<B{DIGEST_BYTES}s{DIGEST_BYTES}sHBhHBhBBHI")


@dataclass(frozen=True)
class Identity:
    """What a board says about itself: the IDENTIFY reply.

    ``shape`` and ``contents`` are the first bytes of the Program's two digests. ``sites`` is the number of saturation counters.
    ``only_last``: outputs come with the last step of a sequence only. ``clock_hz`` is the clock that cycles count. ``loaded``:
    weights are not part of the bitstream, but come from the host.
    """

    version: int
    shape: bytes
    contents: bytes
    inputs: int
    input_width: int
    input_frac: int
    outputs: int
    output_width: int
    output_frac: int
    layers: int
    only_last: bool
    sites: int
    clock_hz: int
    loaded: bool = False

    @classmethod
    def of(cls, program: Program, clock_hz: int, loaded: bool = False) -> Identity:
        """What a board that runs ``program`` must answer."""
        source, target = program.input_format, program.output_format
        return cls(
            version=VERSION,
            shape=bytes.fromhex(program.shape_digest)[:DIGEST_BYTES],
            contents=bytes.fromhex(program.digest)[:DIGEST_BYTES],
            inputs=program.inputs,
            input_width=source.width,
            input_frac=source.frac,
            outputs=program.outputs,
            output_width=target.width,
            output_frac=target.frac,
            layers=len(program.layers),
            only_last=program.layers[-1].when != "step",
            sites=sum(len(layer.sites) for layer in program.layers),
            clock_hz=clock_hz,
            loaded=loaded,
        )

    def encode(self) -> bytes:
        """The reply's payload."""
        return _IDENTITY.pack(
            self.version,
            self.shape,
            self.contents,
            self.inputs,
            self.input_width,
            self.input_frac,
            self.outputs,
            self.output_width,
            self.output_frac,
            self.layers,
            self.only_last | self.loaded << 1,
            self.sites,
            self.clock_hz,
        )

    @classmethod
    def decode(cls, payload: bytes) -> Identity:
        """Inverse of :meth:`encode`; another version is refused."""
        if not payload or payload[0] != VERSION:
            found = payload[0] if payload else "nothing"
            raise SparseGateError(
                f"the board speaks version {found} of the protocol, this SparseGate version {VERSION}"
            )
        if len(payload) != _IDENTITY.size:
            raise SparseGateError(f"the board's identity has {len(payload)} bytes, expected {_IDENTITY.size}")
        names = [field.name for field in fields(cls)]
        values = dict(zip(names[:-1], _IDENTITY.unpack(payload), strict=True))
        flags = values["only_last"]
        return cls(**values | {"only_last": bool(flags & 1), "loaded": bool(flags & 2)})


def longest_reply(program: Program) -> int:
    """Bytes of the longest payload that a board running ``program`` sends."""
    sites = sum(len(layer.sites) for layer in program.layers)
    step = 5 + program.outputs * value_bytes(program.output_format.width)
    return max(_IDENTITY.size, step, 4 * (len(COUNTERS) + sites), 2 * len(program.thresholds))


@dataclass(frozen=True)
class StepReply:
    """What a FRAME request gives: clock cycles of the step, and its outputs if the Program has outputs at this step."""

    cycles: int
    outputs: NDArray[np.int64] | None

    def encode(self, width: int) -> bytes:
        """The reply's payload."""
        flags = 0 if self.outputs is None else OUTPUTS
        return struct.pack("<BI", flags, self.cycles) + (b"" if self.outputs is None else pack(self.outputs, width))

    @classmethod
    def decode(cls, payload: bytes, outputs: int, width: int) -> StepReply:
        """Inverse of :meth:`encode`."""
        given = bool(payload and payload[0] & OUTPUTS)
        expected = 5 + (outputs * value_bytes(width) if given else 0)
        if len(payload) != expected:
            raise SparseGateError(f"the board's reply to a frame has {len(payload)} bytes, expected {expected}")
        cycles = struct.unpack_from("<I", payload, 1)[0]
        return cls(cycles, unpack(payload[5:], width) if given else None)


_PLACE = struct.Struct("<HH")
_ARRAY = struct.Struct("<BHHHH")


def encode_weights(pe: int, address: int, words: ArrayLike) -> bytes:
    """Payload of a WEIGHTS request: consecutive words of weight memories, the first one at ``address`` of PE ``pe``."""
    words = np.asarray(words)
    if not 1 <= len(words) <= RUN_WORDS:
        raise SparseGateError(f"a request takes 1 to {RUN_WORDS} words of weights, found {len(words)}")
    return _PLACE.pack(pe, address) + words.astype("<u2").tobytes()


def decode_weights(payload: bytes) -> tuple[int, int, NDArray[np.int64]]:
    """Inverse of :func:`encode_weights`."""
    return *_PLACE.unpack_from(payload), np.frombuffer(payload[_PLACE.size :], "<u2").astype(np.int64)


@dataclass(frozen=True)
class WeightsReply:
    """What a WEIGHTS request gives: whether all weights are there, and the array that decides where each belongs."""

    complete: bool
    rows: int
    groups: int
    cluster: int
    lanes: int

    def encode(self) -> bytes:
        """The reply's payload."""
        return _ARRAY.pack(self.complete, self.rows, self.groups, self.cluster, self.lanes)

    @classmethod
    def decode(cls, payload: bytes) -> WeightsReply:
        """Inverse of :meth:`encode`."""
        if len(payload) != _ARRAY.size:
            raise SparseGateError(f"the board's reply to weights has {len(payload)} bytes, expected {_ARRAY.size}")
        complete, *array = _ARRAY.unpack(payload)
        return cls(bool(complete), *array)


def encode_step(values: ArrayLike, width: int, last: bool) -> bytes:
    """Payload of a FRAME request."""
    return bytes([LAST if last else 0]) + pack(values, width)


def encode_thresholds(thresholds: Sequence[int]) -> bytes:
    """Payload of a THRESHOLDS request or reply."""
    if thresholds and not 0 <= min(thresholds) <= max(thresholds) <= 0xFFFF:
        raise SparseGateError(f"thresholds lie in {min(thresholds)}..{max(thresholds)}, expected 0..65535")
    return struct.pack(f"<{len(thresholds)}H", *thresholds)


def decode_thresholds(payload: bytes) -> tuple[int, ...]:
    """Inverse of :func:`encode_thresholds`."""
    return struct.unpack(f"<{len(payload) // 2}H", payload)


COUNTERS = ("cycles", "steps", "columns_seen", "columns_sent")
"""The counters that every engine has, in the order of the COUNTERS reply; the saturation counters follow."""


def encode_counters(values: Sequence[int]) -> bytes:
    """Payload of a COUNTERS reply: 32 bits each, modulo 2**32."""
    return struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def decode_counters(payload: bytes, program: Program) -> dict[str, int]:
    """Counter names to values; saturation counters are called ``saturations.<layer>.<site>``."""
    names = [*COUNTERS, *(f"saturations.{layer.name}.{site}" for layer in program.layers for site in layer.sites)]
    if len(payload) != 4 * len(names):
        raise SparseGateError(f"the board's counters have {len(payload)} bytes, expected {4 * len(names)}")
    return dict(zip(names, struct.unpack(f"<{len(names)}I", payload), strict=True))
