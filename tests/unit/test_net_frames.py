"""Two prefixes, padding, zeros, nonsense (net.md §9.1)."""

import json
from pathlib import Path

import pytest

from shem.net.frames import FRAME_SIZE_MAX, FrameBuffer, encode_frame
from shem.net.vtcp.queues import Reassembly
from shem.wire.errors import WireError
from shem.wire.tcp import decode_segment

CONNECTIONS = json.loads(Path("tests/vectors/vtcp_segments.json").read_text())["connections"]


@pytest.mark.parametrize("size", range(1, 9))
def test_a_frame_is_padded_to_a_multiple_of_four(size):
    message = bytes(range(1, size + 1))

    frame = encode_frame(message)

    assert len(frame) % 4 == 0
    assert int.from_bytes(frame[:4]) == len(frame) - 4
    assert int.from_bytes(frame[4:8]) == size
    assert FrameBuffer().feed(frame) == [message]


@pytest.mark.parametrize("vector", CONNECTIONS, ids=lambda vector: vector["capture"])
def test_cuts_the_streams_of_yagna_into_its_messages(vector):
    stream = Reassembly(1)
    buffer = FrameBuffer()
    messages = []
    for each in vector["segments"]:
        if each["from_dialler"] and each["data_len"]:
            segment = decode_segment(bytes.fromhex(each["hex"]))
            for piece in stream.accept(each["seq_rel"], segment.payload):
                messages += buffer.feed(piece)

    assert [len(message) for message in messages] == [each["L2"] for each in vector["frames"]]
    assert messages == FrameBuffer().feed(bytes.fromhex(vector["stream_hex"]))


def test_a_frame_may_come_byte_by_byte():
    buffer = FrameBuffer()
    stream = encode_frame(b"one") + encode_frame(b"second")

    messages = [m for n in range(len(stream)) for m in buffer.feed(stream[n : n + 1])]

    assert messages == [b"one", b"second"]
    assert len(buffer) == 0


def test_several_frames_may_come_at_once():
    buffer = FrameBuffer()
    stream = encode_frame(b"a") + encode_frame(b"b") + encode_frame(b"c")[:5]

    assert buffer.feed(stream) == [b"a", b"b"]
    assert len(buffer) == 5


def test_zeros_are_empty_frames():
    assert FrameBuffer().feed(bytes(40) + encode_frame(b"x") + bytes(8)) == [b"x"]


def test_bytes_after_the_message_are_padding():
    assert FrameBuffer().feed(bytes.fromhex("0000000a 00000001 61 ffffffffff")) == [b"a"]


def test_an_empty_message_is_ignored():
    assert FrameBuffer().feed(bytes.fromhex("00000004 00000000")) == []


@pytest.mark.parametrize("outer", [1, 2, 3, FRAME_SIZE_MAX + 1, 0xFFFF_FFFF])
def test_an_impossible_frame_length_is_out_of_step(outer):
    with pytest.raises(WireError, match="frame"):
        FrameBuffer().feed(outer.to_bytes(4))


def test_a_message_longer_than_its_frame_is_out_of_step():
    with pytest.raises(WireError, match="message"):
        FrameBuffer().feed(bytes.fromhex("00000008 00000005 61626364"))
