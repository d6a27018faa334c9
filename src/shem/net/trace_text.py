"""What passes, said in a line: datagrams, packets of the virtual network, messages. Pure.

Contents are never shown: names, numbers and sizes are. What cannot be read is said to be so.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from shem.kernel.errors import PeerError
from shem.kernel.ids import node_id_from_bytes
from shem.net.secure.packets import ANSWER, DATA, ENCRYPTED, FINISH
from shem.wire import gsb
from shem.wire import relay as r
from shem.wire.forward import UNRELIABLE, Forward, Kind, decode_forward, kind_of
from shem.wire.relay_codec import decode_packet
from shem.wire.tcp import ACK, FIN, PSH, RST, SYN, decode_segment

_FLAGS: Final = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"))
_SEALED: Final = {ANSWER: "encryption: answer", FINISH: "encryption: finish", DATA: "encrypted"}


def is_forward(data: bytes) -> bool:
    return kind_of(data) is Kind.FORWARD


def datagram_text(data: bytes) -> str:
    """Describe a datagram as it is on the wire."""
    try:
        if is_forward(data):
            return _forward(decode_forward(data))
        return _packet(decode_packet(data))
    except PeerError as error:
        return f"unreadable: {error.message}"


def packet_text(flags: int, payload: bytes) -> str:
    """Describe what a Forward carries, once it is open."""
    if flags & UNRELIABLE:
        return f"unreliable message, {len(payload)} B"
    try:
        segment = decode_segment(payload)
    except PeerError as error:
        return f"unreadable: {error.message}"
    names = "|".join(name for bit, name in _FLAGS if segment.flags & bit)
    return (
        f"tcp {segment.source_port} > {segment.destination_port} {names or '-'}"
        f" seq {segment.seq} ack {segment.ack} win {segment.window}, {len(segment.payload)} B"
    )


def message_text(message: bytes) -> str:
    """Describe a GSB message."""
    try:
        packet = gsb.decode_packet(message)
    except PeerError as error:
        return f"unreadable: {error.message}"
    match packet:
        case gsb.CallRequest(_, address, number, data, no_reply):
            kind = "push" if no_reply else "call"
            return f"{kind} {address} #{number}, {len(data)} B"
        case gsb.CallReply(number, code, reply_type, data):
            part = ", more to come" if reply_type is gsb.ReplyType.PARTIAL else ""
            return f"reply #{number} {code.name}, {len(data)} B{part}"
        case gsb.BroadcastRequest(_, data, topic):
            return f"broadcast {topic}, {len(data)} B"
        case _:
            return type(packet).__name__


def _forward(forward: Forward) -> str:
    slot = f" slot {forward.slot}" if forward.slot else ""
    if forward.flags & ENCRYPTED:
        kind = _SEALED.get(forward.payload[0], "unknown") if forward.payload else "empty"
    else:
        kind = "unreliable" if forward.flags & UNRELIABLE else "stream"
    return f"Forward{slot} {kind}, {len(forward.payload)} B"


def _packet(packet: r.Packet) -> str:
    match packet.content:
        case r.Request(number, body):
            return f"{_body(body)} #{number}"
        case r.Response(number, code, body):
            return f"{_body(body)} {int(code)} #{number}"
        case r.Control(body):
            return _body(body)


def _body(body: object) -> str:
    details = _DETAILS.get(type(body))
    name = "unknown" if body is None else type(body).__name__
    return f"{name} {details(body)}".rstrip() if details else name


def _session(body: r.Session) -> str:
    parts = []
    if body.challenge_req is not None:
        parts.append(f"challenge of difficulty {body.challenge_req.difficulty}")
    if body.challenge_resp is not None:
        parts.append(f"proof of {len(body.challenge_resp.signatures)} identities")
    if body.identities:
        parts.append(f"from {_ids(i.node_id for i in body.identities)}")
    return ", ".join(parts)


def _node(body: r.Node) -> str:
    if not body.identities:
        return ""
    return f"{_ids(i.node_id for i in body.identities)} slot {body.slot} {_at(body.endpoints)}"


def _disconnected(body: r.Disconnected) -> str:
    if body.session_id is not None:
        return f"session {body.session_id.hex()}"
    return f"slot {body.slot}" if body.slot is not None else f"node {_ids([body.node_id or b''])}"


def _ids(raw: Iterable[bytes]) -> str:
    return " ".join(
        node_id_from_bytes(each) if len(each) == r.NODE_ID_SIZE else "?" for each in raw
    )


def _at(endpoints: Iterable[r.Endpoint]) -> str:
    return " ".join(f"at {e.address}:{e.port}" for e in endpoints) or "at no address"


_DETAILS: Final[dict[type, Callable[[Any], str]]] = {
    r.Session: _session,
    r.Register: lambda body: _at(body.endpoints) if body.endpoints else "",
    r.FindNode: lambda body: _ids([body.node_id]),
    r.FindSlot: lambda body: str(body.slot),
    r.FindNeighbours: lambda body: str(body.count),
    r.AskReverse: lambda body: _ids([body.node_id]),
    r.Node: _node,
    r.Neighbours: lambda body: f"{len(body.nodes)} nodes",
    r.DialBack: lambda body: f"{_ids([body.node_id])} {_at(body.endpoints)}",
    r.Disconnected: _disconnected,
}
