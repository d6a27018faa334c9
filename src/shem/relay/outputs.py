"""What the relay's core asks its driver to do, and how its parts say so."""

from collections import Counter
from dataclasses import dataclass, field

from shem.kernel.ids import NodeId
from shem.relay.registry import Address, Registration
from shem.wire import relay as r
from shem.wire.relay_codec import encode_packet


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send from the main socket."""

    data: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class SendCheck:
    """Send from the second socket."""

    data: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class SaveSlot:
    """Append this node to the slot file."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class SendRelay:
    """Hand this to another relay of the network; to all others when it is not named."""

    relay: str | None
    message: bytes


Output = SendDatagram | SendCheck | SaveSlot | SendRelay


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    forwarded: int = 0
    forwarded_bytes: int = 0
    handshakes: int = 0
    questions: int = 0
    expired: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Datagrams that had no effect, by reason."""


class Out:
    """Collects outputs and counts; the parts of the core share one."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._outputs: list[Output] = []

    def emit(self, output: Output) -> None:
        self._outputs.append(output)

    def take(self) -> list[Output]:
        taken, self._outputs = self._outputs, []
        return taken

    def refuse(self, reason: str) -> None:
        self.counts.refused[reason] += 1

    def reply(
        self, session: Registration, request_id: int, code: r.Code, body: r.ResponseBody
    ) -> None:
        self.respond(session.session_id, request_id, code, body, session.address)

    def respond(
        self, sid: bytes, request_id: int, code: r.Code, body: r.ResponseBody, to: Address
    ) -> None:
        packet = r.Packet(sid, r.Response(request_id, code, body))
        self.emit(SendDatagram(encode_packet(packet), to))

    def control(self, sid: bytes, body: r.ControlBody, to: Address) -> None:
        packet = r.Packet(sid, r.Control(body))
        self.emit(SendDatagram(encode_packet(packet), to))


def endpoints(entry: Registration) -> tuple[r.Endpoint, ...]:
    """Name its addresses; those of IPv6 in brackets, since a yagna reads `address:port`."""
    return tuple(
        r.Endpoint(f"[{host}]" if ":" in host else host, port) for host, port in entry.endpoints
    )
