"""Bytes that a relay may have had a hand in are never taken for proven."""

from shem.kernel.caller import Assurance
from shem.kernel.ids import NodeId
from shem.net.assurance import CONNECTIONS_MAX, StreamAssurance
from shem.net.types import Peer

NODE = NodeId("0x" + "11" * 20)
DIRECT = Peer(NODE, frozenset({NODE}), Assurance.PROVEN)
RELAYED = Peer(NODE, frozenset({NODE}), Assurance.VOUCHED)
SYN, ACK = 0x02, 0x10


def packet(port, flags=ACK):
    return bytes(40) + port.to_bytes(2, "big") + b"\x00\x01" + bytes(9) + bytes([flags]) + bytes(6)


def test_direct_connection_is_proven():
    assert StreamAssurance().of(DIRECT, packet(5)) is DIRECT


def test_connection_opened_through_the_relay_stays_vouched_when_packets_come_directly():
    streams = StreamAssurance()
    streams.of(RELAYED, packet(5, SYN))

    assert streams.of(DIRECT, packet(5)).assurance is Assurance.VOUCHED


def test_connection_that_one_relayed_packet_touched_is_vouched():
    streams = StreamAssurance()
    streams.of(DIRECT, packet(5, SYN))
    streams.of(RELAYED, packet(5))

    assert streams.of(DIRECT, packet(5)).assurance is Assurance.VOUCHED


def test_other_connections_of_the_peer_stay_proven():
    streams = StreamAssurance()
    streams.of(RELAYED, packet(5, SYN))

    assert streams.of(DIRECT, packet(6)) is DIRECT


def test_new_direct_connection_from_the_same_port_is_proven():
    streams = StreamAssurance()
    streams.of(RELAYED, packet(5))

    assert streams.of(DIRECT, packet(5, SYN)) is DIRECT
    assert streams.of(DIRECT, packet(5)) is DIRECT


def test_relay_that_opens_many_connections_cannot_make_them_forgotten():
    streams = StreamAssurance()
    for port in range(CONNECTIONS_MAX + 10):
        streams.of(RELAYED, packet(port, SYN))

    assert streams.of(DIRECT, packet(0)).assurance is Assurance.VOUCHED
    assert streams.of(DIRECT, packet(0, SYN)).assurance is Assurance.VOUCHED
