"""Forward datagrams, and telling them from control packets (docs/protocol/net.md §2, §2.2, §7.2).

A fixed head of 23 bytes and a payload. `relay.core` rewrites heads without this module. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.wire.errors import WireError

FORWARD_BYTE: Final = b"\x0a"
HEAD_SIZE: Final = 23
STREAM: Final = 0x0000
"""Flags of an IPv6 packet of the virtual network."""
UNRELIABLE: Final = 0x0001
"""Flag of a GSB message that is its own datagram."""


class Kind(StrEnum):
    """What a datagram is, by its first byte."""

    FORWARD = "forward"
    CONTROL = "control"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Forward:
    """A decoded Forward; the slot is the receiver's towards the relay, the sender's from it."""

    session_id: bytes
    slot: int
    flags: int
    payload: bytes

    @property
    def is_unreliable(self) -> bool:
        return bool(self.flags & UNRELIABLE)


def kind_of(data: bytes) -> Kind:
    """Tell what a datagram is without parsing it."""
    if not data or data[0] >= 0x80 or data[0] < 0x08:
        return Kind.INVALID
    return Kind.FORWARD if data[0] < 0x10 else Kind.CONTROL


def forward_head(session_id: bytes, slot: int) -> bytes:
    """Return the part of the head that stays the same on a route (flags and payload follow)."""
    return FORWARD_BYTE + session_id + slot.to_bytes(4, "big")


def encode_forward(session_id: bytes, slot: int, flags: int, payload: bytes) -> bytes:
    return forward_head(session_id, slot) + flags.to_bytes(2, "big") + payload


def decode_forward(data: bytes) -> Forward:
    """Read a Forward; WireError when its head is cut off."""
    if len(data) < HEAD_SIZE:
        raise WireError(f"a Forward has at least {HEAD_SIZE} bytes, not {len(data)}")
    return Forward(
        session_id=data[1:17],
        slot=int.from_bytes(data[17:21], "big"),
        flags=int.from_bytes(data[21:23], "big"),
        payload=data[23:],
    )


def encode_unreliable(message: bytes) -> bytes:
    """Return the payload of an unreliable Forward."""
    return len(message).to_bytes(4, "big") + message


def decode_unreliable(payload: bytes) -> bytes:
    """Return the message; more bytes than announced are ignored, fewer are a WireError."""
    length = int.from_bytes(payload[:4], "big")
    if len(payload) < 4 or length > len(payload) - 4:
        raise WireError("an unreliable message is cut off")
    return payload[4 : 4 + length]
