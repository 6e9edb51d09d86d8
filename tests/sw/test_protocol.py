"""Encoder and decoder of the board protocol."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.protocol import (
    NAK,
    RUN_WORDS,
    SYNC,
    Command,
    Decoder,
    Frame,
    Identity,
    Reason,
    StepReply,
    WeightsReply,
    crc16,
    decode_counters,
    decode_thresholds,
    decode_weights,
    encode_counters,
    encode_step,
    encode_thresholds,
    encode_weights,
    longest_reply,
    pack,
    unpack,
    value_bytes,
)
from sparsegate.quantize import quantize

FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40))


@pytest.fixture(scope="module")
def program():
    shapes = [synthetic.Shape("lstm", 4), synthetic.Shape("linear", 2, when="last")]
    x = np.random.default_rng(0).normal(size=(3, 5, 3))
    return quantize(synthetic.network(3, shapes, 0), x)


def test_layout_of_a_frame():
    frame = Frame(Command.FRAME, 7, b"\x01\x02").encode()
    assert frame[:8] == b"\xa5\x5a\x02\x07\x02\x00\x01\x02"
    assert frame[8:] == crc16(frame[2:8]).to_bytes(2, "big")
    assert crc16(b"123456789") == 0x29B1


@settings(derandomize=True, deadline=None)
@given(st.lists(FRAMES, max_size=5), st.integers(1, 7))
def test_frames_survive_any_chopping(frames, size):
    data = b"".join(frame.encode() for frame in frames)
    decoder = Decoder()
    found = [frame for start in range(0, len(data), size) for frame in decoder.feed(data[start : start + size])]
    assert found == frames
    assert decoder.rejected == 0


@settings(derandomize=True, deadline=None)
@given(FRAMES, st.data())
def test_one_wrong_bit_is_always_found(frame, data):
    encoded = bytearray(frame.encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << (bit % 8)
    decoder = Decoder()
    assert list(decoder.feed(bytes(encoded))) == []
    assert list(decoder.skip()) == []


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=30), FRAMES)
def test_a_good_frame_after_garbage_is_found(garbage, frame):
    decoder = Decoder(max_payload=64)
    found = list(decoder.feed(garbage + frame.encode()))
    found += decoder.skip()
    assert found[-1] == frame


def test_a_false_start_does_not_swallow_the_next_frame():
    frame = Frame(Command.RESET, 3)
    decoder = Decoder()
    assert list(decoder.feed(SYNC + b"\x02\x00\x02\x00" + frame.encode())) == [frame]
    assert decoder.rejected == 1
    # a length that never comes true is given up
    assert list(decoder.feed(SYNC + b"\x02\x00\x30\x00" + frame.encode())) == []
    assert list(decoder.skip()) == [frame]
    # and one beyond the longest is not waited for
    short = Decoder(max_payload=8)
    assert list(short.feed(SYNC + b"\x02\x00\x09\x00" + frame.encode())) == [frame]


def test_too_long_a_payload_is_refused():
    with pytest.raises(SparseGateError, match="65536 bytes does not fit a frame, at most 65535"):
        Frame(1, 0, bytes(65536)).encode()


@settings(derandomize=True, deadline=None)
@given(st.integers(2, 32), st.data())
def test_values_round_trip(width, data):
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    values = data.draw(st.lists(st.integers(low, high), max_size=9))
    packed = pack(values, width)
    assert len(packed) == len(values) * value_bytes(width)
    assert unpack(packed, width).tolist() == values
    with pytest.raises(
        SparseGateError, match=f"values lie in {low - 1}..{high + 1}, but {width} bits hold {low}..{high}"
    ):
        pack([low - 1, high + 1], width)


def test_values_wider_than_the_protocol():
    with pytest.raises(SparseGateError, match="values of 33 bits"):
        value_bytes(33)


def test_little_endian():
    assert pack([-2, 258], 12) == b"\xfe\xff\x02\x01"
    assert pack([-1], 20) == b"\xff\xff\xff\xff"
    assert encode_step([-1, 5], 8, True) == b"\x01\xff\x05"
    assert encode_step([-1, 5], 8, False) == b"\x00\xff\x05"


def test_identity(program):
    identity = Identity.of(program, 80_000_000)
    assert Identity.decode(identity.encode()) == identity
    assert identity.only_last
    assert identity.shape.hex() == program.shape_digest[:16]
    assert identity.contents.hex() == program.digest[:16]
    assert (identity.inputs, identity.outputs, identity.layers, identity.sites) == (3, 2, 2, 8)
    with pytest.raises(SparseGateError, match="version 9 of the protocol, this SparseGate version 1"):
        Identity.decode(b"\x09" + identity.encode()[1:])
    with pytest.raises(SparseGateError, match=r"has 1 bytes, expected \d+"):
        Identity.decode(b"\x01")
    with pytest.raises(SparseGateError, match="version nothing"):
        Identity.decode(b"")


@pytest.mark.parametrize("outputs", [None, [1, -2, 3]])
def test_step_reply(outputs):
    reply = StepReply(123456, None if outputs is None else np.array(outputs))
    found = StepReply.decode(reply.encode(16), 3, 16)
    assert found.cycles == 123456
    assert (None if found.outputs is None else found.outputs.tolist()) == outputs
    with pytest.raises(SparseGateError, match=r"has \d+ bytes, expected \d+"):
        StepReply.decode(reply.encode(16) + b"x", 3, 16)


def test_thresholds_and_counters(program):
    assert decode_thresholds(encode_thresholds((1, 2, 65535))) == (1, 2, 65535)
    with pytest.raises(SparseGateError, match=r"thresholds lie in 0..65536, expected 0..65535"):
        encode_thresholds((0, 65536))
    payload = encode_counters([*range(11), 2**32 + 4])
    counters = decode_counters(payload, program)
    assert list(counters.values()) == [*range(11), 4]
    assert counters["saturations.lstm0.tanh_c"] == 9
    with pytest.raises(SparseGateError, match="counters have 44 bytes, expected 48"):
        decode_counters(payload[:-4], program)
    assert longest_reply(program) == 48


def test_reasons():
    assert Frame(NAK, 0, bytes([Reason.CRC])).reason is Reason.CRC
    assert Frame(NAK, 0, bytes([200])).reason is None
    assert Frame(Command.RESET, 0, bytes([Reason.CRC])).reason is None


def test_weights(program):
    words = np.arange(RUN_WORDS) * 257
    pe, address, found = decode_weights(encode_weights(3, 16383, words))
    assert (pe, address, found.tolist()) == (3, 16383, words.tolist())
    assert encode_weights(1, 2, [0xBEEF]) == b"\x01\x00\x02\x00\xef\xbe"
    for count in (0, RUN_WORDS + 1):
        with pytest.raises(SparseGateError, match=f"1 to {RUN_WORDS} words of weights, found {count}"):
            encode_weights(0, 0, range(count))
    reply = WeightsReply(True, 32, 3, 4, 8)
    assert WeightsReply.decode(reply.encode()) == reply
    assert len(reply.encode()) <= longest_reply(program)
    with pytest.raises(SparseGateError, match="has 8 bytes, expected 9"):
        WeightsReply.decode(bytes(8))


def test_an_identity_says_who_has_the_weights(program):
    for loaded in (False, True):
        identity = Identity.of(program, 1, loaded)
        assert Identity.decode(identity.encode()) == identity
    assert Identity.of(program, 1).encode() != identity.encode()
