"""What the session layer asks its driver to do or to know; see `core`."""

from dataclasses import dataclass

from shem.kernel.ids import NodeId
from shem.net.types import NodeInfo, Peer

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send from the node's one socket."""

    data: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class SendOneShot:
    """Send from a fresh port, which is closed again (spec §6.7)."""

    data: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class ControlSealed:
    """A control packet passed inside an encrypted channel; only said while somebody watches."""

    data: bytes
    address: Address
    is_inward: bool


@dataclass(frozen=True, slots=True)
class DeliverPacket:
    """A Forward arrived from this peer."""

    peer: Peer
    flags: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A sign of life after silence."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class RouteUp:
    """Packets to this node have a way now."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class RouteFailed:
    """No way to this node was found; what was held for it is dropped."""

    node_id: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class RouteShaken:
    """The session ended, was replaced, or is in doubt: the peer may have lost its streams."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class StreamsTainted:
    """The peer's streams began in the clear, and now it speaks encrypted: they must begin anew."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class ChannelUp:
    """An encrypted channel with this node is open, or a new one in the place of another."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class RelayUp:
    """We are registered; None means not reachable from outside."""

    public_address: Address | None


@dataclass(frozen=True, slots=True)
class RelayDown:
    """The relay session is gone; a new one is being made."""

    reason: str


@dataclass(frozen=True, slots=True)
class NodeFound:
    """The relay's answer about a node; None when it does not know it, or did not answer."""

    node_id: NodeId
    info: NodeInfo | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NeighboursFound:
    """The relay's answer about our neighbourhood; None when it did not answer."""

    nodes: tuple[NodeInfo, ...] | None


Output = (
    SendDatagram
    | SendOneShot
    | ControlSealed
    | DeliverPacket
    | PeerUp
    | RouteUp
    | RouteFailed
    | RouteShaken
    | StreamsTainted
    | ChannelUp
    | RelayUp
    | RelayDown
    | NodeFound
    | NeighboursFound
)
