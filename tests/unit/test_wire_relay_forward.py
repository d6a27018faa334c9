"""Forward datagrams against captured ones (docs/protocol/net.md §2, §2.2, §7.2)."""

import json
from pathlib import Path

import pytest

from shem.wire.errors import WireError
from shem.wire.forward import (
    Kind,
    decode_forward,
    decode_unreliable,
    encode_forward,
    encode_unreliable,
    kind_of,
)

FORWARDS = json.loads(Path("tests/vectors/net_forward.json").read_text())["datagrams"]
FIRST_BYTES = json.loads(Path("tests/vectors/net_handshake.json").read_text())["first_byte"]


def test_every_captured_datagram_reads_and_serialises_to_the_same_bytes():
    for entry in FORWARDS:
        data = bytes.fromhex(entry["hex"])
        forward = decode_forward(data)
        assert forward.session_id.hex() == entry["session_id"]
        assert (forward.slot, forward.flags) == (entry["slot"], entry["flags"])
        again = encode_forward(forward.session_id, forward.slot, forward.flags, forward.payload)
        assert again == data


def test_unreliable_payload_is_one_message_behind_its_length():
    entries = [entry for entry in FORWARDS if entry["channel"] == "unreliable"]
    for entry in entries:
        payload = decode_forward(bytes.fromhex(entry["hex"])).payload
        message = decode_unreliable(payload)
        assert len(message) == entry["length_prefix"]
        assert encode_unreliable(message) == payload


@pytest.mark.parametrize("entry", FIRST_BYTES, ids=[e["first_byte"] for e in FIRST_BYTES])
def test_first_byte_tells_the_kind(entry):
    assert kind_of(bytes.fromhex(entry["first_byte"])) == entry["kind"]


def test_empty_datagram_is_invalid():
    assert kind_of(b"") is Kind.INVALID


def test_cut_head_is_refused():
    with pytest.raises(WireError):
        decode_forward(bytes.fromhex(FORWARDS[0]["hex"])[:22])


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\x05abcd", b"\xff\xff\xff\xffabcd"])
def test_cut_unreliable_message_is_refused(payload):
    with pytest.raises(WireError):
        decode_unreliable(payload)


def test_bytes_after_the_unreliable_message_are_ignored():
    assert decode_unreliable(b"\0\0\0\x02abcd") == b"ab"
