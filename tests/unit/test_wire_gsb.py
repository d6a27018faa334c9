import json
from dataclasses import fields
from pathlib import Path

import pytest

from shem.wire.errors import WireError
from shem.wire.gsb import (
    CallReply,
    CallRequest,
    Code,
    FrameReader,
    Hello,
    Ping,
    RegisterReply,
    ReplyType,
    decode_packet,
    encode_packet,
    frame,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/gsb_frames.json").read_text())
CODES = {
    "REGISTER_CONFLICT": Code.CONFLICT,
    "REGISTER_BAD_REQUEST": Code.BAD_REQUEST,
    "NOT_REGISTERED": Code.NOT_FOUND,
    "NOT_SUBSCRIBED": Code.NOT_FOUND,
    "CALL_REPLY_BAD_REQUEST": Code.BAD_REQUEST,
    "SUBSCRIBE_BAD_REQUEST": Code.BAD_REQUEST,
    "SERVICE_FAILURE": Code.SERVICE_FAILURE,
}


def expected(entry: dict, name: str, found: object) -> object:
    text = entry["fields"].get(name)
    if isinstance(found, bytes):
        return bytes.fromhex(text or "")
    if isinstance(found, Code):
        return CODES[text] if text else Code.OK
    if isinstance(found, ReplyType):
        return ReplyType[text or "FULL"]
    return type(found)() if text is None else text


@pytest.mark.parametrize("entry", VECTORS["frames"], ids=lambda entry: entry["name"])
def test_a_frame_of_the_real_bus_is_read_and_written_alike(entry: dict) -> None:
    data = bytes.fromhex(entry["hex"])

    (packet,) = FrameReader().feed(data)
    message = decode_packet(packet)

    assert type(message).__name__.lower() == entry["packet"].replace("_", "")
    for field in fields(message):
        found = getattr(message, field.name)
        assert found == expected(entry, field.name, found)
    assert frame(encode_packet(message)) == data


def test_a_broadcast_has_its_data_before_its_topic() -> None:
    packet = bytes.fromhex("62110a026d6512077061796c6f61641a027431")

    message = decode_packet(packet)

    assert (message.caller, message.data, message.topic) == ("me", b"payload", "t1")


@pytest.mark.parametrize(
    "hexes",
    [
        "",
        "820100",  # an unknown member of the oneof
        "7201",  # cut off
        "3a051080808080",  # truncated varint
        "3a0210ff",
        "3a031091 03",  # code 401
        "3a021802",  # reply type 2
        "1a03088803",  # RegisterReply 392
        "2a03089003",  # UnregisterReply 400 is no code of that message
        "3a0508ffffffff",
        "12030a01ff",  # service id that is not UTF-8
        "1000",  # a number where a message belongs
        "0b",  # group
        "3a0e10ffffffffffffffffffffffff01",  # varint of more than ten bytes
    ],
)
def test_a_malformed_packet_is_a_wire_error(hexes: str) -> None:
    with pytest.raises(WireError):
        decode_packet(bytes.fromhex(hexes))


def test_unknown_fields_are_skipped() -> None:
    request = CallRequest("me", "/a/B", "7", b"\x01")
    packet = bytearray(encode_packet(request))
    extra = bytes.fromhex("f20703616263f90701020304050607 08".replace(" ", ""))
    packet[1] += len(extra)

    assert decode_packet(bytes(packet) + extra) == request


def test_the_last_member_of_a_repeated_oneof_counts() -> None:
    assert decode_packet(encode_packet(Ping()) + encode_packet(RegisterReply())) == RegisterReply()


def test_frames_are_cut_whatever_way_the_bytes_arrive() -> None:
    packets = [Hello("a", "1", bytes(16)), Ping(), CallReply("1", data=b"x" * 300)]
    stream = b"".join(frame(encode_packet(packet)) for packet in packets)

    for step in (1, 2, 3, 7, len(stream)):
        reader = FrameReader()
        frames = [
            found
            for at in range(0, len(stream), step)
            for found in reader.feed(stream[at : at + step])
        ]
        assert [decode_packet(found) for found in frames] == packets


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    reader = FrameReader(limit=10)
    assert reader.feed(frame(bytes(10))) == [bytes(10)]

    with pytest.raises(WireError):
        reader.feed((11).to_bytes(4, "big"))


def test_an_empty_frame_is_no_packet() -> None:
    (packet,) = FrameReader().feed(bytes(4))

    with pytest.raises(WireError):
        decode_packet(packet)
