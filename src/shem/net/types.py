"""The words the layers above speak with the net: channels, peers, and what `status` tells.

Spec: docs/protocol/net.md §9.4 (channels), §10 (what the daemon shows). No behaviour here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.kernel.caller import Assurance
from shem.kernel.ids import NodeId

MESSAGE_SIZE_MAX: Final = 32 * 1024 * 1024
"""Longest GSB message accepted from or sent to a peer on a stream channel."""
DATAGRAM_MESSAGE_MAX: Final = 65_507 - 23 - 30 - 4
"""Longest message for the unreliable channel at all; under 1364 it is not fragmented."""


class Channel(StrEnum):
    """The three ways a message travels (spec §9.4)."""

    RELIABLE = "reliable"
    TRANSFER = "transfer"
    UNRELIABLE = "unreliable"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a message: all identities of its session, and how well they are proven."""

    node_id: NodeId
    """The default identity."""
    identities: frozenset[NodeId]
    assurance: Assurance


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the relay knows of a node."""

    node_id: NodeId
    identities: tuple[NodeId, ...]
    """Default first."""
    endpoints: tuple[tuple[str, int], ...]
    slot: int
    seen_s: int
    """Unix seconds."""
    encryption: tuple[str, ...] = ()
    """What we speak with it, when it is encrypted."""


@dataclass(frozen=True, slots=True)
class NetStatus:
    """The figures of `net status`; byte counts are totals since start."""

    node_id: NodeId
    listen_address: tuple[str, int]
    public_address: tuple[str, int] | None
    sessions: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One row of `net sessions`."""

    node_id: NodeId
    address: tuple[str, int]
    kind: str
    """`relay` or `p2p`."""
    session_id: str
    up_s: float
    seen_s: float
    """Seconds since the last datagram."""
    ping_s: float | None
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """One row of `net sockets`: a virtual TCP connection."""

    local_port: int
    remote: str
    """Virtual IPv6 address of the other end; empty for a listener."""
    remote_port: int
    state: str
    received_bytes: int
    sent_bytes: int
