import contextlib

from hypothesis import given
from hypothesis import strategies as st

from shem.wire.errors import WireError
from shem.wire.gsb import (
    BroadcastRequest,
    CallReply,
    CallRequest,
    Code,
    FrameReader,
    Hello,
    ReplyType,
    decode_packet,
    encode_packet,
    frame,
)
from shem.wire.protobuf import parse, read_varint, varint

PACKETS = st.one_of(
    st.builds(Hello, st.text(), st.text(), st.binary()),
    st.builds(CallRequest, st.text(), st.text(), st.text(), st.binary(), st.booleans()),
    st.builds(
        CallReply,
        st.text(),
        st.sampled_from([Code.OK, Code.BAD_REQUEST, Code.SERVICE_FAILURE]),
        st.sampled_from(ReplyType),
        st.binary(),
    ),
    st.builds(BroadcastRequest, st.text(), st.binary(), st.text()),
)


@given(PACKETS)
def test_a_packet_comes_back(packet: CallRequest) -> None:
    assert decode_packet(encode_packet(packet)) == packet


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 20)))
def test_frames_survive_any_fragmentation(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, packets))
    reader, found = FrameReader(), []
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]

    assert found == packets


@given(st.binary(max_size=60))
def test_any_bytes_are_a_packet_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_packet(data)
    with contextlib.suppress(WireError):
        parse(data)


@given(st.integers(0, (1 << 64) - 1))
def test_a_varint_comes_back(value: int) -> None:
    encoded = varint(value)

    assert read_varint(encoded, 0) == (value, len(encoded))
