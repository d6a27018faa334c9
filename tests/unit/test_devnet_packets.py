"""Packets as the userland internet reads and rewrites them."""

import struct
from ipaddress import IPv4Address

import pytest

from shem.devnet.packets import (
    HEADER_SIZE,
    UDP,
    Nat,
    destination_of,
    ports_of,
    readdressed,
    source_of,
)

HOME, ROUTER, SERVER, STRANGER = "192.0.2.7", "198.19.1.1", "198.18.2.1", "198.18.3.1"


def udp(source: tuple[str, int], destination: tuple[str, int], data: bytes = b"hello") -> bytes:
    size = HEADER_SIZE + 8 + len(data)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, UDP, 0)
    head += IPv4Address(source[0]).packed + IPv4Address(destination[0]).packed
    return head + struct.pack("!HHHH", source[1], destination[1], 8 + len(data), 0) + data


def header_sum(packet: bytes) -> int:
    total = sum(struct.unpack("!10H", packet[:HEADER_SIZE]))
    return (total & 0xFFFF) + (total >> 16)


def test_a_packet_gets_another_source_and_a_good_checksum():
    packet = readdressed(udp((HOME, 5000), (SERVER, 7477)), source=(ROUTER, 20_000))

    assert (source_of(packet), destination_of(packet)) == (ROUTER, SERVER)
    assert ports_of(packet) == (20_000, 7477)
    assert packet.endswith(b"hello")
    assert header_sum(packet) == 0xFFFF


def test_a_router_lets_an_answer_in_and_nothing_else():
    nat = Nat(ROUTER)
    out = nat.outward(udp((HOME, 5000), (SERVER, 7477)))
    assert out is not None
    port = ports_of(out)[0]

    answer = nat.inward(udp((SERVER, 7477), (ROUTER, port)))
    assert answer is not None and destination_of(answer) == HOME
    assert ports_of(answer) == (7477, 5000)
    assert nat.inward(udp((STRANGER, 7477), (ROUTER, port))) is None
    assert nat.inward(udp((SERVER, 7478), (ROUTER, port))) is None
    assert nat.inward(udp((SERVER, 7477), (ROUTER, port + 1))) is None


@pytest.mark.parametrize("per_receiver", [False, True])
def test_a_router_has_one_port_for_all_receivers_or_one_for_each(per_receiver):
    nat = Nat(ROUTER, per_receiver)

    outs = [nat.outward(udp((HOME, 5000), (other, 7477))) for other in (SERVER, STRANGER)]

    ports = {ports_of(out)[0] for out in outs if out is not None}
    assert len(ports) == (2 if per_receiver else 1)


def test_a_router_that_was_restarted_has_forgotten_whom_it_let_in():
    nat = Nat(ROUTER)
    out = nat.outward(udp((HOME, 5000), (SERVER, 7477)))
    assert out is not None
    port = ports_of(out)[0]

    nat.rebind()

    assert nat.inward(udp((SERVER, 7477), (ROUTER, port))) is None
    again = nat.outward(udp((HOME, 5000), (SERVER, 7477)))
    assert again is not None and ports_of(again)[0] != port


@pytest.mark.parametrize("cut", [0, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 7])
def test_a_broken_off_packet_has_no_ports_and_passes_no_router(cut):
    packet = udp((HOME, 5000), (SERVER, 7477))[:cut]

    assert ports_of(packet) is None
    assert Nat(ROUTER).outward(packet) is None
    assert Nat(ROUTER).inward(packet) is None


def test_what_is_not_udp_passes_no_router():
    packet = bytearray(udp((HOME, 5000), (SERVER, 7477)))
    packet[9] = 6

    assert Nat(ROUTER).outward(bytes(packet)) is None
