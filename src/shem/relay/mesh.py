"""What the relays of one network say to each other, and the seam by which it gets there.

    Carry     a Forward for a node that is at the other relay
    Notice    a control message for a node that is at the other relay
    Returned  a node has registered here: drop its session, tell its contacts

Relays of one network trust each other. Messages may get lost, as datagrams may. `MemoryMesh` joins
relays of one process; over a message broker every relay has a subject, and all share one. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from shem.kernel.ids import NodeId, node_id_from_bytes, node_id_to_bytes
from shem.wire import relay as r
from shem.wire.errors import WireError
from shem.wire.relay_codec import decode_packet, encode_packet

_CARRY: Final = b"\x01"
_NOTICE: Final = b"\x02"
_RETURNED: Final = b"\x03"
_SLOT_SIZE: Final = 4
FLAGS_SIZE: Final = 2


@dataclass(frozen=True, slots=True)
class Carry:
    """Deliver this Forward."""

    slot: int
    sender: bytes
    """Its slot, as it stands in a Forward."""
    rest: bytes
    """Flags and payload."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Say this to the node in a slot."""

    slot: int
    body: r.ControlBody


@dataclass(frozen=True, slots=True)
class Returned:
    """This node has registered at the relay that sends it."""

    node_id: NodeId
    slot: int


class Mesh(Protocol):
    """Carries messages between the relays of one network."""

    def join(self, name: str, receive: Callable[[bytes], None]) -> None:
        """Have messages to the relay of this name, and those to all, handed over."""

    def leave(self, name: str) -> None: ...

    def send(self, sender: str, relay: str | None, message: bytes) -> None:
        """Send to one relay, or to all others."""


class MemoryMesh:
    """Joins the relays of one process."""

    def __init__(self) -> None:
        self._receivers: dict[str, Callable[[bytes], None]] = {}

    def join(self, name: str, receive: Callable[[bytes], None]) -> None:
        self._receivers[name] = receive

    def leave(self, name: str) -> None:
        self._receivers.pop(name, None)

    def send(self, sender: str, relay: str | None, message: bytes) -> None:
        for name, receive in tuple(self._receivers.items()):
            if name != sender and relay in (None, name):
                receive(message)


def carry_to(slot: bytes, sender: bytes, rest: bytes) -> bytes:
    return _CARRY + slot + sender + rest


def notice_to(slot: int, body: r.ControlBody) -> bytes:
    packet = r.Packet(bytes(r.SESSION_ID_SIZE), r.Control(body))
    return _NOTICE + slot.to_bytes(_SLOT_SIZE, "big") + encode_packet(packet)


def returned(node_id: NodeId, slot: int) -> bytes:
    return _RETURNED + slot.to_bytes(_SLOT_SIZE, "big") + node_id_to_bytes(node_id)


def decode_message(data: bytes) -> Carry | Notice | Returned:
    """Read what another relay sent; WireError."""
    kind, slot = data[:1], int.from_bytes(data[1 : 1 + _SLOT_SIZE], "big")
    rest = data[1 + _SLOT_SIZE :]
    if kind == _CARRY and len(rest) >= _SLOT_SIZE + FLAGS_SIZE:
        return Carry(slot, rest[:_SLOT_SIZE], rest[_SLOT_SIZE:])
    if kind == _RETURNED and len(rest) == r.NODE_ID_SIZE:
        return Returned(node_id_from_bytes(rest), slot)
    if kind == _NOTICE:
        match decode_packet(rest).content:
            case r.Control(body) if body is not None:
                return Notice(slot, body)
    raise WireError("not a message between relays")
