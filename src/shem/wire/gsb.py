"""Packets of the service bus (protobuf package GSB_API) and their framing on a socket.

One `Packet` holds one message; `_LAYOUT` is the whole protocol. The same packets travel between a
process and its node, one be32 length before each, and between nodes, where the net frames them.
Pure; sources: docs/protocol/gsb-identity.md §1.2, §1.3 and docs/protocol/net.md §9.2.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from shem.wire import protobuf
from shem.wire.errors import WireError

FRAME_SIZE_MAX: Final = 64 * 1024 * 1024
LENGTH_SIZE: Final = 4


class Code(IntEnum):
    """Result codes; which of them a message may carry stands in `_CODES`."""

    OK = 0
    BAD_REQUEST = 400
    NOT_FOUND = 404
    CONFLICT = 409
    SERVICE_FAILURE = 500


class ReplyType(IntEnum):
    """Whether more replies to the same call follow."""

    FULL = 0
    PARTIAL = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """First packet of either side of a socket; informative."""

    name: str
    version: str
    instance_id: bytes


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """Serve all addresses under a prefix."""

    service_id: str


@dataclass(frozen=True, slots=True)
class RegisterReply:
    """Answer to `RegisterRequest`."""

    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True, slots=True)
class UnregisterRequest:
    """Stop serving a prefix."""

    service_id: str


@dataclass(frozen=True, slots=True)
class UnregisterReply:
    """Answer to `UnregisterRequest`."""

    code: Code = Code.OK


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call; `no_reply` asks for silence."""

    caller: str
    address: str
    request_id: str
    data: bytes = b""
    no_reply: bool = False


@dataclass(frozen=True, slots=True)
class CallReply:
    """One answer to a call; with a code other than OK the data is UTF-8 text."""

    request_id: str
    code: Code = Code.OK
    reply_type: ReplyType = ReplyType.FULL
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """Receive a topic's broadcasts."""

    topic: str


@dataclass(frozen=True, slots=True)
class SubscribeReply:
    """Answer to `SubscribeRequest`."""

    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True, slots=True)
class UnsubscribeRequest:
    """Receive a topic's broadcasts no longer."""

    topic: str


@dataclass(frozen=True, slots=True)
class UnsubscribeReply:
    """Answer to `UnsubscribeRequest`."""

    code: Code = Code.OK


@dataclass(frozen=True, slots=True)
class BroadcastRequest:
    """A message to all subscribers of a topic."""

    caller: str
    data: bytes
    topic: str


@dataclass(frozen=True, slots=True)
class BroadcastReply:
    """Answer to `BroadcastRequest`, on a socket only."""

    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a sign of life."""


@dataclass(frozen=True, slots=True)
class Pong:
    """A sign of life."""


Packet = (
    Hello
    | RegisterRequest
    | RegisterReply
    | UnregisterRequest
    | UnregisterReply
    | CallRequest
    | CallReply
    | SubscribeRequest
    | SubscribeReply
    | UnsubscribeRequest
    | UnsubscribeReply
    | BroadcastRequest
    | BroadcastReply
    | Ping
    | Pong
)

_TEXT: Final = "text"
_BYTES: Final = "bytes"
_FLAG: Final = "flag"
_CODE: Final = "code"
_TYPE: Final = "type"

_LAYOUT: Final[dict[int, tuple[type[Any], tuple[tuple[str, str], ...]]]] = {
    1: (Hello, (("name", _TEXT), ("version", _TEXT), ("instance_id", _BYTES))),
    2: (RegisterRequest, (("service_id", _TEXT),)),
    3: (RegisterReply, (("code", _CODE), ("message", _TEXT))),
    4: (UnregisterRequest, (("service_id", _TEXT),)),
    5: (UnregisterReply, (("code", _CODE),)),
    6: (
        CallRequest,
        (
            ("caller", _TEXT),
            ("address", _TEXT),
            ("request_id", _TEXT),
            ("data", _BYTES),
            ("no_reply", _FLAG),
        ),
    ),
    7: (
        CallReply,
        (("request_id", _TEXT), ("code", _CODE), ("reply_type", _TYPE), ("data", _BYTES)),
    ),
    8: (SubscribeRequest, (("topic", _TEXT),)),
    9: (SubscribeReply, (("code", _CODE), ("message", _TEXT))),
    10: (UnsubscribeRequest, (("topic", _TEXT),)),
    11: (UnsubscribeReply, (("code", _CODE),)),
    12: (BroadcastRequest, (("caller", _TEXT), ("data", _BYTES), ("topic", _TEXT))),
    13: (BroadcastReply, (("code", _CODE), ("message", _TEXT))),
    14: (Ping, ()),
    15: (Pong, ()),
}
"""By the number in `Packet`: the message and its fields, numbered from 1 in this order."""
_TAGS: Final = {message: tag for tag, (message, _) in _LAYOUT.items()}
_CODES: Final[dict[type[Any], tuple[Code, ...]]] = {
    RegisterReply: (Code.OK, Code.BAD_REQUEST, Code.CONFLICT),
    UnregisterReply: (Code.OK, Code.NOT_FOUND),
    CallReply: (Code.OK, Code.BAD_REQUEST, Code.SERVICE_FAILURE),
    SubscribeReply: (Code.OK, Code.BAD_REQUEST),
    UnsubscribeReply: (Code.OK, Code.NOT_FOUND),
    BroadcastReply: (Code.OK, Code.BAD_REQUEST),
}


def encode_packet(packet: Packet) -> bytes:
    """Return the packet without a length prefix."""
    tag = _TAGS[type(packet)]
    parts = []
    for number, (name, kind) in enumerate(_LAYOUT[tag][1], 1):
        value = getattr(packet, name)
        if kind == _BYTES:
            parts.append(protobuf.put_raw(number, value))
        elif kind == _TEXT:
            parts.append(protobuf.put_text(number, value))
        else:
            parts.append(protobuf.put_uint(number, int(value)))
    return protobuf.put_message(tag, b"".join(parts))


def decode_packet(data: bytes) -> Packet:
    """Read one packet; WireError when it is empty, unknown or malformed."""
    fields = protobuf.parse(data)
    known = [tag for tag in fields.numbers if tag in _LAYOUT]
    if not known:
        raise WireError("gsb: empty or unknown packet")
    message, layout = _LAYOUT[known[-1]]
    inner = protobuf.parse(fields.raw(known[-1]))
    values = [
        _read(inner, number, kind, message) for number, (_, kind) in enumerate(layout, start=1)
    ]
    packet: Packet = message(*values)
    return packet


def _read(fields: protobuf.Fields, number: int, kind: str, message: type[Any]) -> object:
    if kind == _TEXT:
        return fields.text(number)
    if kind == _BYTES:
        return fields.raw(number)
    if kind == _FLAG:
        return fields.flag(number)
    value = fields.uint(number)
    allowed = _CODES[message] if kind == _CODE else tuple(ReplyType)
    for member in allowed:
        if member == value:
            return member
    raise WireError(f"gsb: {message.__name__} with {kind} {value}")


def frame(packet: bytes) -> bytes:
    """Return the packet with its be32 length before it."""
    return len(packet).to_bytes(LENGTH_SIZE, "big") + packet


class FrameReader:
    """Cuts a byte stream into frames; WireError when one announces more than `limit` bytes."""

    def __init__(self, limit: int = FRAME_SIZE_MAX) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take in received bytes and return the frames they complete, without their lengths."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= LENGTH_SIZE:
            start = at + LENGTH_SIZE
            size = int.from_bytes(buffer[at:start], "big")
            if size > self._limit:
                raise WireError(f"gsb: a frame of {size} bytes; the limit is {self._limit}")
            if len(buffer) - start < size:
                break
            at = start + size
            frames.append(bytes(buffer[start:at]))
        del buffer[:at]
        return frames
