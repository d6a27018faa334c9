"""TCP segments inside IPv6 packets: what a Forward of the stream channels carries.

Pure codec. A packet that is not a whole, rightly summed TCP segment is a `WireError`. Options are
kept as raw bytes, read by `read_syn_options` and `read_sack_blocks` where they matter.
Spec: docs/protocol/net.md §8.1 (addresses), §8.2 (layout), §12 (the checksum in one division).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.wire.errors import WireError

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

MSS: Final = 1338
"""What we announce: the virtual interface carries 1398 bytes, 60 of them headers."""
WINDOW_SHIFT: Final = 7
"""Window scale we announce, the same as yagna's."""
SYN_OPTIONS: Final = (
    b"\x02\x04" + MSS.to_bytes(2) + b"\x03\x03" + bytes([WINDOW_SHIFT, 4, 2, 0, 0, 0])
)
"""MSS, window scale, SACK permitted, padding: byte for byte what yagna sends."""

WINDOW_SHIFT_MAX: Final = 14
SACK_BLOCKS_MAX: Final = 4
"""As many as fit the 40 bytes of options."""
_DEFAULT_MSS: Final = 536
_ADDRESSES_CACHED: Final = 8192

_HEADER: Final = struct.Struct(">IHBB16s16sHHIIBBHHH")
_HEADER_SIZE: Final = _HEADER.size
_IP_SIZE: Final = 40
_TCP_SIZE: Final = 20
_CHECKSUM_AT: Final = _IP_SIZE + 16
_ADDRESSES_AT: Final = 8
_VERSION_6: Final = 0x6000_0000
_NEXT_HEADER_TCP: Final = 6
_HOP_LIMIT: Final = 64
_OPTION_END: Final = 0
_OPTION_NOTHING: Final = 1
_OPTION_MSS: Final = 2
_OPTION_WINDOW_SCALE: Final = 3
_OPTION_SACK_PERMITTED: Final = 4
_OPTION_SACK: Final = 5
_BLOCK: Final = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment with the addresses of its IPv6 packet."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    """As on the wire, not scaled."""
    payload: bytes = b""
    options: bytes = b""
    """Raw, a multiple of four bytes."""


@dataclass(frozen=True, slots=True)
class SynOptions:
    """What a SYN or SYN-ACK tells about its sender."""

    mss: int = _DEFAULT_MSS
    window_shift: int | None = None
    selective_ack: bool = False


@lru_cache(maxsize=_ADDRESSES_CACHED)
def ipv6_of_node(node_id: NodeId) -> bytes:
    """Return the virtual address of a node's default identity (spec §8.1)."""
    raw = node_id_to_bytes(node_id)
    address = bytes([raw[0] % 255]) + raw[1:16]
    if not any(address[:15]) and address[15] < 2:
        return address[:15] + b"\x02"
    return address


def encode_segment(segment: Segment) -> bytes:
    """Return the IPv6 packet of `segment`."""
    options, payload = segment.options, segment.payload
    assert len(options) % 4 == 0, "options are padded to words"
    header_size = _TCP_SIZE + len(options)
    packet = bytearray(
        _HEADER.pack(
            _VERSION_6,
            header_size + len(payload),
            _NEXT_HEADER_TCP,
            _HOP_LIMIT,
            segment.source,
            segment.destination,
            segment.source_port,
            segment.destination_port,
            segment.seq,
            segment.ack,
            header_size << 2,
            segment.flags,
            segment.window,
            0,
            0,
        )
    )
    packet += options
    packet += payload
    packet[_CHECKSUM_AT : _CHECKSUM_AT + 2] = (-_remainder(packet) % 0xFFFF).to_bytes(2)
    return bytes(packet)


def decode_segment(packet: bytes) -> Segment:
    """Read one IPv6 packet; bytes after its announced length are ignored."""
    if len(packet) < _HEADER_SIZE:
        raise WireError(f"a packet of {len(packet)} bytes is too short for IPv6 and TCP")
    (
        first, size, next_header, _hops, source, destination, source_port, destination_port,
        seq, ack, offset, flags, window, _checksum, _urgent,
    ) = _HEADER.unpack_from(packet)  # fmt: skip
    header_size = (offset >> 4) * 4
    if first >> 28 != 6 or next_header != _NEXT_HEADER_TCP:
        raise WireError("the packet is not TCP directly in IPv6")
    if not _TCP_SIZE <= header_size <= size or len(packet) < _IP_SIZE + size:
        raise WireError("a length in the packet exceeds the packet")
    if len(packet) > _IP_SIZE + size:
        packet = packet[: _IP_SIZE + size]
    if _remainder(packet):
        raise WireError("wrong TCP checksum")
    payload_at = _IP_SIZE + header_size
    return Segment(
        source,
        destination,
        source_port,
        destination_port,
        seq,
        ack,
        flags,
        window,
        packet[payload_at:],
        packet[_HEADER_SIZE:payload_at],
    )


def read_syn_options(options: bytes) -> SynOptions:
    """Read what a SYN announces, skip the rest; WireError when a length runs astray."""
    mss, shift, selective_ack = _DEFAULT_MSS, None, False
    for kind, value in _read_options(options):
        if kind == _OPTION_MSS and len(value) == 2:
            mss = int.from_bytes(value)
        elif kind == _OPTION_WINDOW_SCALE and len(value) == 1:
            shift = min(value[0], WINDOW_SHIFT_MAX)
        elif kind == _OPTION_SACK_PERMITTED:
            selective_ack = True
    return SynOptions(mss, shift, selective_ack)


def read_sack_blocks(options: bytes) -> list[tuple[int, int]]:
    """Return the blocks (sequence numbers: first, end) of a selective acknowledgement."""
    blocks: list[tuple[int, int]] = []
    for kind, value in _read_options(options):
        if kind == _OPTION_SACK and len(value) % _BLOCK.size == 0:
            blocks += _BLOCK.iter_unpack(value)
    return blocks


def sack_options(blocks: list[tuple[int, int]]) -> bytes:
    """Return the option with these blocks, padded as yagna pads it: `05 len … 00 00`."""
    assert len(blocks) <= SACK_BLOCKS_MAX
    packed = b"".join(_BLOCK.pack(first, end) for first, end in blocks)
    return bytes([_OPTION_SACK, 2 + len(packed)]) + packed + b"\0\0"


def _read_options(options: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(options) and options[at] != _OPTION_END:
        if options[at] == _OPTION_NOTHING:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            raise WireError("a TCP option runs over the end of the options")
        yield options[at], options[at + 2 : at + size]
        at += size


def _remainder(packet: bytes | bytearray) -> int:
    """Return the one's-complement sum of segment and pseudo header, modulo 0xFFFF.

    Since 2**16 = 1 modulo 0xFFFF, the whole is one big number divided once. Addresses and segment
    are contiguous, so only length and protocol of the pseudo header are added apart.
    """
    size = len(packet) - _IP_SIZE
    summed = memoryview(packet)[_ADDRESSES_AT:]
    total = int.from_bytes(summed, "big")
    if size & 1:
        total <<= 8
    return (total + size + _NEXT_HEADER_TCP) % 0xFFFF
