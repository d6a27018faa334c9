"""Reads and writes control packets (docs/protocol/net.md §2.1).

`decode_packet` and `encode_packet` are inverse, byte for byte, for everything a yagna 0.17.6
sends. Pure; every malformed datagram is a WireError.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from shem.wire import relay as r
from shem.wire.errors import WireError
from shem.wire.protobuf import (
    Fields,
    parse,
    put_flag,
    put_message,
    put_raw,
    put_text,
    put_uint,
)

_T = TypeVar("_T")


def encode_packet(packet: r.Packet) -> bytes:
    """Serialise in field order, as every protobuf library does."""
    head = put_raw(2, packet.session_id)
    content = packet.content
    match content:
        case r.Request(request_id, body):
            return head + put_message(3, put_uint(1, request_id) + _put_body(_REQUEST, body))
        case r.Response(request_id, code, body):
            start = put_uint(1, request_id) + put_uint(2, code)
            return head + put_message(4, start + _put_body(_RESPONSE, body))
        case r.Control(body):
            return head + put_message(5, _put_body(_CONTROL, body))


def decode_packet(data: bytes) -> r.Packet:
    """Read one control datagram; WireError when it is malformed or has no content."""
    fields = parse(data)
    session_id = fields.raw(2)
    if len(session_id) not in (0, r.SESSION_ID_SIZE):
        raise WireError(f"a session id has {r.SESSION_ID_SIZE} bytes, not {len(session_id)}")
    if inner := fields.message(3):
        return r.Packet(session_id, r.Request(inner.uint(1), _get_body(_READ_REQUEST, inner)))
    if inner := fields.message(4):
        answer = _get_body(_READ_RESPONSE, inner)
        return r.Packet(session_id, r.Response(inner.uint(1), inner.uint(2), answer))
    if inner := fields.message(5):
        return r.Packet(session_id, r.Control(_get_body(_READ_CONTROL, inner)))
    raise WireError("a control packet without content")


def _put_body(tags: Mapping[type, int], body: object) -> bytes:
    if body is None:
        return b""
    return put_message(tags[type(body)], _WRITE[type(body)](body))


def _get_body(readers: Mapping[int, Callable[[Fields], _T]], fields: Fields) -> _T | None:
    """Read the oneof; as protobuf does, the last known member wins."""
    body: _T | None = None
    for number in fields.numbers:
        if (reader := readers.get(number)) and (inner := fields.message(number)):
            body = reader(inner)
    return body


def _limited(items: list[_T], limit: int) -> list[_T]:
    if len(items) > limit:
        raise WireError(f"{len(items)} entries where at most {limit} are accepted")
    return items


# --- writers: one function a message type, in field order


def _put_identity(i: r.Identity) -> bytes:
    return put_raw(1, i.public_key) + put_raw(2, i.node_id)


def _put_endpoint(e: r.Endpoint) -> bytes:
    return put_uint(1, e.protocol) + put_text(2, e.address) + put_uint(3, e.port)


def _put_all(number: int, items: tuple[_T, ...], write: Callable[[_T], bytes]) -> bytes:
    return b"".join(put_message(number, write(item)) for item in items)


def _put_challenge(c: r.ChallengeRequest) -> bytes:
    return (
        put_text(1, c.version)
        + put_uint(2, c.caps)
        + put_uint(3, c.kind)
        + put_uint(4, c.difficulty)
        + put_raw(5, c.challenge)
    )


def _put_proof(c: r.ChallengeResponse) -> bytes:
    return put_raw(1, c.solution) + _put_all(2, c.signatures, bytes)


def _put_session(s: r.Session) -> bytes:
    out = b""
    if s.challenge_req is not None:
        out += put_message(1, _put_challenge(s.challenge_req))
    if s.challenge_resp is not None:
        out += put_message(2, _put_proof(s.challenge_resp))
    out += _put_all(3, s.encryptions, str.encode)
    return out + _put_all(4, s.identities, _put_identity)


def _put_node(n: r.Node) -> bytes:
    return (
        _put_all(1, n.identities, _put_identity)
        + _put_all(2, n.endpoints, _put_endpoint)
        + put_uint(3, n.seen_ts)
        + put_uint(4, n.slot)
        + _put_all(5, n.encryptions, str.encode)
    )


def _put_disconnected(d: r.Disconnected) -> bytes:
    if d.session_id is not None:
        return put_message(3, d.session_id)
    if d.node_id is not None:
        return put_message(2, d.node_id)
    # A member of a oneof is written even when it is 0.
    return put_uint(1, d.slot) if d.slot else b"\x08\x00"


def _put_stop(s: r.StopForwarding) -> bytes:
    return put_uint(1, s.slot) + put_uint(3, s.code)


_WRITE: Final[dict[type, Callable[..., bytes]]] = {
    r.Session: _put_session,
    r.Register: lambda b: _put_all(1, b.endpoints, _put_endpoint),
    r.FindNode: lambda b: put_raw(1, b.node_id) + put_flag(2, b.public_key),
    r.FindSlot: lambda b: put_uint(1, b.slot) + put_flag(2, b.public_key),
    r.FindNeighbours: lambda b: put_uint(1, b.count) + put_flag(2, b.public_key),
    r.AskReverse: lambda b: put_raw(1, b.node_id),
    r.Ping: lambda _: b"",
    r.Node: _put_node,
    r.Neighbours: lambda b: _put_all(1, b.nodes, _put_node),
    r.ReverseAsked: lambda _: b"",
    r.Pong: lambda _: b"",
    r.DialBack: lambda b: put_raw(1, b.node_id) + _put_all(2, b.endpoints, _put_endpoint),
    r.PauseForwarding: lambda b: put_uint(1, b.slot),
    r.ResumeForwarding: lambda b: put_uint(1, b.slot),
    r.StopForwarding: _put_stop,
    r.Disconnected: _put_disconnected,
}
_REQUEST: Final = {
    r.Session: 10,
    r.Register: 20,
    r.FindNode: 30,
    r.FindSlot: 31,
    r.FindNeighbours: 40,
    r.AskReverse: 50,
    r.Ping: 80,
}
_RESPONSE: Final = {
    r.Session: 11,
    r.Register: 20,
    r.Node: 30,
    r.Neighbours: 40,
    r.ReverseAsked: 60,
    r.Pong: 80,
}
_CONTROL: Final = {
    r.DialBack: 10,
    r.PauseForwarding: 20,
    r.ResumeForwarding: 21,
    r.StopForwarding: 22,
    r.Disconnected: 23,
}


# --- readers


def _identities(f: Fields, number: int) -> tuple[r.Identity, ...]:
    raws = _limited(f.every_raw(number), r.IDENTITIES_MAX)
    return tuple(r.Identity(i.raw(1), i.raw(2)) for i in map(parse, raws))


def _endpoints(f: Fields, number: int) -> tuple[r.Endpoint, ...]:
    raws = _limited(f.every_raw(number), r.IDENTITIES_MAX)
    return tuple(r.Endpoint(e.text(2), e.uint(3), e.uint(1)) for e in map(parse, raws))


def _session(f: Fields) -> r.Session:
    ask, proof = f.message(1), f.message(2)
    return r.Session(
        challenge_req=None if ask is None else _challenge(ask),
        challenge_resp=None if proof is None else _proof(proof),
        encryptions=tuple(_limited(f.every_text(3), r.IDENTITIES_MAX)),
        identities=_identities(f, 4),
    )


def _challenge(f: Fields) -> r.ChallengeRequest:
    return r.ChallengeRequest(f.raw(5), f.uint(4), f.text(1), f.uint(2), f.uint(3))


def _proof(f: Fields) -> r.ChallengeResponse:
    return r.ChallengeResponse(f.raw(1), tuple(_limited(f.every_raw(2), r.IDENTITIES_MAX)))


def _node(f: Fields) -> r.Node:
    return r.Node(
        identities=_identities(f, 1),
        endpoints=_endpoints(f, 2),
        seen_ts=f.uint(3),
        slot=f.uint(4) & 0xFFFF_FFFF,
        encryptions=tuple(_limited(f.every_text(5), r.IDENTITIES_MAX)),
    )


def _disconnected(f: Fields) -> r.Disconnected:
    if 3 in f:
        return r.Disconnected(session_id=f.raw(3))
    if 2 in f:
        return r.Disconnected(node_id=f.raw(2))
    if 1 in f:
        return r.Disconnected(slot=f.uint(1) & 0xFFFF_FFFF)
    raise WireError("Disconnected does not say who")


_READ_REQUEST: Final[dict[int, Callable[[Fields], r.RequestBody]]] = {
    10: _session,
    20: lambda f: r.Register(_endpoints(f, 1)),
    30: lambda f: r.FindNode(f.raw(1), f.flag(2)),
    31: lambda f: r.FindSlot(f.uint(1) & 0xFFFF_FFFF, f.flag(2)),
    40: lambda f: r.FindNeighbours(f.uint(1) & 0xFFFF_FFFF, f.flag(2)),
    50: lambda f: r.AskReverse(f.raw(1)),
    80: lambda _: r.Ping(),
}
_READ_RESPONSE: Final[dict[int, Callable[[Fields], r.ResponseBody]]] = {
    11: _session,
    20: lambda f: r.Register(_endpoints(f, 1)),
    30: _node,
    40: lambda f: r.Neighbours(
        tuple(_node(parse(n)) for n in _limited(f.every_raw(1), r.NODES_MAX))
    ),
    60: lambda _: r.ReverseAsked(),
    80: lambda _: r.Pong(),
}
_READ_CONTROL: Final[dict[int, Callable[[Fields], r.ControlBody]]] = {
    10: lambda f: r.DialBack(f.raw(1), _endpoints(f, 2)),
    20: lambda f: r.PauseForwarding(f.uint(1) & 0xFFFF_FFFF),
    21: lambda f: r.ResumeForwarding(f.uint(1) & 0xFFFF_FFFF),
    22: lambda f: r.StopForwarding(f.uint(1) & 0xFFFF_FFFF, f.uint(3)),
    23: _disconnected,
}
