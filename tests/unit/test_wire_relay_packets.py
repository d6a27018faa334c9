"""The control packet codec against packets of the real yagna (docs/protocol/net.md §2.1, §11)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.kernel.errors import PeerError
from shem.wire import relay as r
from shem.wire.errors import WireError
from shem.wire.relay_codec import decode_packet, encode_packet

VECTORS = json.loads(Path("tests/vectors/net_handshake.json").read_text())
PACKETS = VECTORS["control_packets"]


@pytest.mark.parametrize("entry", PACKETS, ids=[p["kind"] for p in PACKETS])
def test_observed_packet_decodes_and_serialises_to_the_same_bytes(entry):
    data = bytes.fromhex(entry["hex"])

    packet = decode_packet(data)

    assert encode_packet(packet) == data
    assert packet.session_id.hex() == entry["decoded"].get("session_id", "")


def test_request_fields_are_those_of_the_decoded_vector():
    data = "12100fedb6f7f016f395cbf7b3c774622e641a090805fa010408021001"

    packet = decode_packet(bytes.fromhex(data))

    session = bytes.fromhex("0fedb6f7f016f395cbf7b3c774622e64")
    assert packet == r.Packet(session, r.Request(5, r.FindSlot(2)))


def test_node_answer_carries_identity_endpoint_and_slot():
    entry = next(p for p in PACKETS if p["kind"] == "response.node 200")
    expected = entry["decoded"]["response"]["node"]

    content = decode_packet(bytes.fromhex(entry["hex"])).content

    assert isinstance(content, r.Response) and isinstance(content.body, r.Node)
    assert content.body.endpoints == (r.Endpoint("127.0.0.1", expected["endpoints"][0]["port"]),)
    assert content.body.identities[0].node_id.hex() == expected["identities"][0]["node_id"]
    assert (content.body.slot, content.body.seen_ts) == (expected["slot"], expected["seen_ts"])


def test_unknown_request_keeps_its_id_and_has_no_body():
    packet = decode_packet(bytes.fromhex("1a060807f2070100"))

    assert packet.content == r.Request(7, None)


def test_disconnected_slot_zero_is_written_and_read():
    packet = r.Packet(bytes(16), r.Control(r.Disconnected(slot=0)))

    assert decode_packet(encode_packet(packet)) == packet


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "empty"),
        ("1203aabbcc1a00", "session id of three bytes"),
        ("121083947a3cbafaeb451381593803234c0c", "no content"),
        ("121083947a3cbafaeb451381593803234c", "cut off"),
        ("1a020880", "cut varint"),
        ("2a03ba0100", "Disconnected names nothing"),
        ("1a03520180", "malformed session"),
    ],
)
def test_malformed_packet_is_refused(data, why):
    with pytest.raises(WireError):
        decode_packet(bytes.fromhex(data))


def test_more_signatures_than_the_limit_are_refused():
    proof = r.ChallengeResponse(bytes(72), (bytes(65),) * (r.IDENTITIES_MAX + 1))
    packet = r.Packet(bytes(16), r.Request(1, r.Session(challenge_resp=proof)))

    with pytest.raises(WireError):
        decode_packet(encode_packet(packet))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_a_peer_error(data):
    try:
        packet = decode_packet(data)
    except PeerError:
        return
    assert decode_packet(encode_packet(packet)) == packet


@given(st.data())
def test_a_flipped_byte_never_crashes_the_decoder(data):
    entry = bytearray(bytes.fromhex(data.draw(st.sampled_from(PACKETS))["hex"]))
    at = data.draw(st.integers(0, len(entry) - 1))
    entry[at] = data.draw(st.integers(0, 255))
    try:
        decode_packet(bytes(entry))
    except PeerError:
        return
