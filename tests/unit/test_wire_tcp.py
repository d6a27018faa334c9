"""The segments that yagna sends are read and written back byte for byte (net.md §8.1, §8.2)."""

import json
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from shem.kernel.ids import NodeId
from shem.wire import tcp
from shem.wire.errors import WireError

VECTORS = json.loads(Path("tests/vectors/vtcp_segments.json").read_text())
ADDRESSES = json.loads(Path("tests/vectors/net_handshake.json").read_text())["ipv6_of_node"]
FLAGS = {"FIN": tcp.FIN, "SYN": tcp.SYN, "RST": tcp.RST, "PSH": tcp.PSH, "ACK": tcp.ACK}
SYN = bytes.fromhex(VECTORS["segments"][0]["hex"])


@pytest.mark.parametrize("vector", VECTORS["segments"], ids=lambda vector: vector["class"])
def test_reads_a_segment_of_yagna(vector):
    segment = tcp.decode_segment(bytes.fromhex(vector["hex"]))

    assert segment.source.hex() == vector["src"]
    assert segment.destination.hex() == vector["dst"]
    assert (segment.source_port, segment.destination_port) == (
        vector["src_port"],
        vector["dst_port"],
    )
    assert (segment.seq, segment.ack, segment.window) == (
        vector["seq"],
        vector["ack"],
        vector["window"],
    )
    assert segment.flags == sum(FLAGS[name] for name in vector["flags"])
    assert segment.options.hex() == vector["options_hex"]
    assert segment.payload.hex() == vector["data_hex"]


def test_writes_every_captured_segment_back_byte_for_byte():
    captured = [*VECTORS["segments"], *(s for c in VECTORS["connections"] for s in c["segments"])]

    for vector in captured:
        packet = bytes.fromhex(vector["hex"])
        assert tcp.encode_segment(tcp.decode_segment(packet)) == packet


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["what"])
def test_refuses_an_invalid_segment(vector):
    with pytest.raises(WireError):
        tcp.decode_segment(bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize("vector", ADDRESSES, ids=lambda vector: vector["node_id"][:8])
def test_virtual_address_of_a_node(vector):
    address = IPv6Address(tcp.ipv6_of_node(NodeId(vector["node_id"])))

    assert address == IPv6Address(vector["ipv6"])


@pytest.mark.parametrize("size", [0, 1, 39, 59])
def test_refuses_a_packet_shorter_than_its_headers(size):
    with pytest.raises(WireError, match="too short"):
        tcp.decode_segment(SYN[:size])


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xF0])
def test_refuses_a_header_length_outside_the_segment(offset):
    broken = SYN[:52] + bytes([offset]) + SYN[53:]

    with pytest.raises(WireError, match="length"):
        tcp.decode_segment(broken)


def test_refuses_another_ip_version():
    with pytest.raises(WireError, match="IPv6"):
        tcp.decode_segment(b"\x45" + SYN[1:])


def test_ignores_bytes_after_the_packet():
    assert tcp.decode_segment(SYN + b"\xaa" * 5) == tcp.decode_segment(SYN)


def test_our_syn_announces_what_yagnas_does():
    assert tcp.decode_segment(SYN).options == tcp.SYN_OPTIONS

    options = tcp.read_syn_options(tcp.SYN_OPTIONS)

    assert options == tcp.SynOptions(mss=1338, window_shift=7, selective_ack=True)


def test_a_syn_without_options_announces_the_least():
    assert tcp.read_syn_options(b"") == tcp.SynOptions(mss=536, window_shift=None)


def test_a_window_shift_beyond_the_standard_is_cut():
    assert tcp.read_syn_options(b"\x03\x03\xff\x00").window_shift == 14


@pytest.mark.parametrize("options", ["02", "0200", "0205053a", "0104040a", "01010101020400"])
def test_refuses_an_option_that_runs_over_the_end(options):
    with pytest.raises(WireError, match="option"):
        tcp.read_syn_options(bytes.fromhex(options))


def test_reads_and_writes_the_selective_acknowledgements_of_yagna():
    found = [v for v in VECTORS["segments"] if v["class"] == "SACK ACK"]
    assert found

    for vector in found:
        options = bytes.fromhex(vector["options_hex"])
        blocks = tcp.read_sack_blocks(options)
        assert len(blocks) == 1
        assert blocks[0][0] < blocks[0][1]
        assert tcp.sack_options(blocks) == options


def test_every_option_of_a_lossy_exchange_of_yagnas_is_understood():
    lines = Path("tests/vectors/recordings/vtcp_loss.jsonl").read_text().splitlines()[1:]
    blocks = 0
    for segment in map(json.loads, lines):
        options = bytes.fromhex(segment["options_hex"])
        if "SYN" in segment["flags"]:
            assert tcp.read_syn_options(options) == tcp.SynOptions(1338, 7, True)
        for first, end in tcp.read_sack_blocks(options):
            assert 0 < (first - segment["ack"]) % 2**32 < (end - segment["ack"]) % 2**32 < 2**31
            blocks += 1

    assert blocks > 20


def test_skips_a_selective_acknowledgement_with_half_a_block():
    assert tcp.read_sack_blocks(bytes.fromhex("0506000000010000")) == []


def test_checksum_of_an_odd_payload():
    packet = tcp.encode_segment(tcp.Segment(b"\x01" * 16, b"\x02" * 16, 5, 1, 7, 8, 16, 9, b"abc"))

    assert tcp.decode_segment(packet).payload == b"abc"
    with pytest.raises(WireError, match="checksum"):
        tcp.decode_segment(packet[:-1] + b"d")
