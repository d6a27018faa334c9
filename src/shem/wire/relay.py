"""Control packets of the hybrid net: sessions, discovery, keep-alive (docs/protocol/net.md §2.1).

The words only; `relay_codec` reads and writes them. Node ids are 20 raw bytes here. A body that
this version does not know is None: the request id stays readable, the rest is ignored.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

SESSION_ID_SIZE: Final = 16
NODE_ID_SIZE: Final = 20
PROTOCOL_VERSION: Final = "0.0.1"
SHA3_512_LEADING_ZEROS: Final = 10
UDP: Final = 17
IDENTITIES_MAX: Final = 64
"""Identities, signatures or endpoints per message; a node has a handful."""
NODES_MAX: Final = 256
"""Entries of one Neighbours answer; 64 KiB of UDP hold about 500."""


class Code(IntEnum):
    """Status codes of responses."""

    UNDEFINED = 0
    OK = 200
    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    NOT_FOUND = 404
    TIMEOUT = 408
    CONFLICT = 409
    PAYLOAD_TOO_LARGE = 413
    TOO_MANY_REQUESTS = 429
    SERVER_ERROR = 500
    GATEWAY_TIMEOUT = 504


@dataclass(frozen=True, slots=True)
class ChallengeRequest:
    """Prove yourself over these bytes."""

    challenge: bytes
    difficulty: int
    version: str = PROTOCOL_VERSION
    caps: int = 0
    kind: int = SHA3_512_LEADING_ZEROS


@dataclass(frozen=True, slots=True)
class ChallengeResponse:
    """A solved challenge, signed by every identity, the default one first."""

    solution: bytes
    signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """A public key (64 bytes) and its node id: a claim until a signature proves it."""

    public_key: bytes
    node_id: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node says, or is said, to listen."""

    address: str
    port: int
    protocol: int = UDP


@dataclass(frozen=True, slots=True)
class Session:
    """One step of a handshake, in either direction."""

    challenge_req: ChallengeRequest | None = None
    challenge_resp: ChallengeResponse | None = None
    encryptions: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()


@dataclass(frozen=True, slots=True)
class Register:
    """Make me visible; the answer tells the public endpoint, if there is one."""

    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class FindNode:
    """Who and where is this node?"""

    node_id: bytes
    public_key: bool = True


@dataclass(frozen=True, slots=True)
class FindSlot:
    """Who has this slot?"""

    slot: int
    public_key: bool = True


@dataclass(frozen=True, slots=True)
class FindNeighbours:
    """Which nodes are near to me?"""

    count: int
    public_key: bool = True


@dataclass(frozen=True, slots=True)
class AskReverse:
    """Let that node dial me."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""


@dataclass(frozen=True, slots=True)
class Node:
    """What the relay knows of a node; empty when it comes with an error code."""

    identities: tuple[Identity, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    seen_ts: int = 0
    slot: int = 0
    encryptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nodes, nearest first."""

    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class ReverseAsked:
    """The other node was told to dial."""


@dataclass(frozen=True, slots=True)
class Pong:
    """I am; also the body of errors for which there is no better one."""


@dataclass(frozen=True, slots=True)
class DialBack:
    """From the relay: dial this node (Control.ReverseConnection)."""

    node_id: bytes
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class PauseForwarding:
    """Hold back Forwards on this session."""

    slot: int = 0


@dataclass(frozen=True, slots=True)
class ResumeForwarding:
    """Forwards may flow on this session."""

    slot: int = 0


@dataclass(frozen=True, slots=True)
class StopForwarding:
    """Known, and not implemented by any yagna."""

    slot: int = 0
    code: int = 0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Exactly one of the three is gone."""

    slot: int | None = None
    node_id: bytes | None = None
    session_id: bytes | None = None


RequestBody = Session | Register | FindNode | FindSlot | FindNeighbours | AskReverse | Ping | None
ResponseBody = Session | Register | Node | Neighbours | ReverseAsked | Pong | None
ControlBody = DialBack | PauseForwarding | ResumeForwarding | StopForwarding | Disconnected | None


@dataclass(frozen=True, slots=True)
class Request:
    """A question; answered by the Response with the same id."""

    request_id: int
    body: RequestBody


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Without a body yagna does not see it, so always give one."""

    request_id: int
    code: int
    body: ResponseBody


@dataclass(frozen=True, slots=True)
class Control:
    """A notice that nobody answers."""

    body: ControlBody


@dataclass(frozen=True, slots=True)
class Packet:
    """One control datagram; the session id is empty only in a handshake's first message."""

    session_id: bytes
    content: Request | Response | Control
