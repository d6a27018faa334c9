"""IP packets as routers see them: addresses, ports, and their translation by a home router. Pure.

A `Nat` gives each inner address and port an outer port and lets in only what comes from an address
and port that was sent to. The usual home router has one outer port for all receivers; one that is
`per_receiver` has another for each, as those of many companies and mobile networks. IPv4 only.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

UDP: Final = 17
HEADER_SIZE: Final = 20
FIRST_PORT: Final = 20_000

Endpoint = tuple[str, int]


def is_ipv6(packet: bytes) -> bool:
    return packet[0] >> 4 == 6


def source_of(packet: bytes) -> str:
    return str(IPv6Address(packet[8:24]) if is_ipv6(packet) else IPv4Address(packet[12:16]))


def destination_of(packet: bytes) -> str:
    return str(IPv6Address(packet[24:40]) if is_ipv6(packet) else IPv4Address(packet[16:20]))


def ports_of(packet: bytes) -> tuple[int, int] | None:
    """Return source and destination port of a whole UDP packet without options."""
    if len(packet) < HEADER_SIZE + 8 or packet[0] & 15 != 5 or packet[9] != UDP:
        return None
    source, destination = struct.unpack_from("!HH", packet, HEADER_SIZE)
    return source, destination


def readdressed(
    packet: bytes, *, source: Endpoint | None = None, destination: Endpoint | None = None
) -> bytes:
    """Return the UDP packet with another source or destination and good checksums."""
    changed = bytearray(packet)
    for at, endpoint in ((0, source), (1, destination)):
        if endpoint is not None:
            changed[12 + 4 * at : 16 + 4 * at] = IPv4Address(endpoint[0]).packed
            struct.pack_into("!H", changed, HEADER_SIZE + 2 * at, endpoint[1])
    changed[10:12] = bytes(2)
    struct.pack_into("!H", changed, 10, _checksum(changed[:HEADER_SIZE]))
    changed[HEADER_SIZE + 6 : HEADER_SIZE + 8] = bytes(2)  # none: allowed over IPv4
    return bytes(changed)


def _checksum(data: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(slots=True)
class Nat:
    """One router; `address` is its outer one."""

    address: str
    per_receiver: bool = False
    _outer: dict[tuple[Endpoint, Endpoint | None], int] = field(default_factory=dict)
    _inner: dict[int, Endpoint] = field(default_factory=dict)
    _admitted: set[tuple[int, Endpoint]] = field(default_factory=set)
    _next_port: int = FIRST_PORT

    def outward(self, packet: bytes) -> bytes | None:
        """Translate what leaves; None for what it does not know how to."""
        ports = ports_of(packet)
        if ports is None:
            return None
        inner, receiver = (source_of(packet), ports[0]), (destination_of(packet), ports[1])
        key = (inner, receiver if self.per_receiver else None)
        if key not in self._outer:
            self._outer[key] = self._next_port
            self._inner[self._next_port] = inner
            self._next_port += 1
        port = self._outer[key]
        self._admitted.add((port, receiver))
        return readdressed(packet, source=(self.address, port))

    def inward(self, packet: bytes) -> bytes | None:
        """Translate what comes back; None for what nobody inside asked for."""
        ports = ports_of(packet)
        if ports is None or (ports[1], (source_of(packet), ports[0])) not in self._admitted:
            return None
        return readdressed(packet, destination=self._inner[ports[1]])

    def rebind(self) -> None:
        """Forget everything, as after a restart: the same senders get other ports."""
        self._outer.clear()
        self._inner.clear()
        self._admitted.clear()
