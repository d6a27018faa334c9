"""The relay's protocol, sans IO (docs/protocol/net.md §5).

`receive` takes what arrived at the main socket, `receive_check` what arrived at the second one;
`outputs` is what to do about it. `forward` is the hot path: no protobuf, two look-ups, one
concatenation. Nobody is known here but by the signatures of a solved challenge.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from shem.identity.proof import prove
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId, node_id_from_bytes, node_id_to_bytes
from shem.kernel.rates import RateLimit
from shem.kernel.world import Rng
from shem.relay.directory import (
    FORWARDED_LATELY_S,
    Address,
    Directory,
    RelaySession,
)
from shem.relay.tickets import SALT_SIZE, Tickets
from shem.relay.visibility import Check, Visibility
from shem.wire import relay as r
from shem.wire.forward import HEAD_SIZE, Kind, kind_of
from shem.wire.relay_codec import decode_packet, encode_packet

DIFFICULTY: Final = 16
NEIGHBOURS_MAX: Final = 100
PURGE_INTERVAL_S: Final = 10.0
CONTROL_RATE_PER_S: Final = 100.0
"""Control packets answered per source address; a node sends about one in ten seconds."""
CONTROL_BURST: Final = 400.0
PROOF_RATE_PER_S: Final = 200.0
"""Challenge answers looked at per source host: they cost signature recovery."""
PROOF_BURST: Final = 400.0

log = structlog.get_logger()


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


Output = SendDatagram | SendCheck | SaveSlot


class RelayCore:
    """One relay; `unix_offset_s` turns `now` into Unix time."""

    def __init__(
        self,
        rng: Rng,
        *,
        slots: Iterable[bytes] = (),
        unix_offset_s: float = 0.0,
        difficulty: int = DIFFICULTY,
        now: float = 0.0,
    ) -> None:
        self.directory = Directory(slots)
        self._rng = rng
        self._tickets = Tickets(rng.token(SALT_SIZE))
        self._difficulty = difficulty
        self._unix_offset_s = unix_offset_s
        self._visibility = Visibility()
        self._outputs: list[Output] = []
        self._control_limit = RateLimit(CONTROL_RATE_PER_S, CONTROL_BURST)
        self._proof_limit = RateLimit(PROOF_RATE_PER_S, PROOF_BURST)
        self._next_purge = now + PURGE_INTERVAL_S
        self._answer: dict[type, Callable[[RelaySession, int, object, float], None]] = {
            r.Ping: self._on_ping,
            r.FindNode: self._on_find_node,
            r.FindSlot: self._on_find_slot,
            r.FindNeighbours: self._on_find_neighbours,
            r.AskReverse: self._on_ask_reverse,
        }

    # --- face

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take a datagram from the main socket."""
        match kind_of(data):
            case Kind.FORWARD:
                if forwarded := self.forward(data, source, now):
                    self._outputs.append(SendDatagram(*forwarded))
            case Kind.CONTROL if self._control_limit.allow(source, now):
                try:
                    self._on_control(decode_packet(data), source, now)
                except (PeerError, UsageError) as error:
                    log.debug("relay.refused", source=source, reason=error.message)

    def receive_check(self, data: bytes, source: Address, now: float) -> None:
        """Take a datagram from the second socket: only Pongs are of interest."""
        try:
            packet = decode_packet(data)
        except PeerError:
            return
        match packet.content:
            case r.Response(_, _, r.Pong()):
                if check := self._visibility.answered(source, packet.session_id, now):
                    self._end_check(check, is_public=True, now=now)

    def forward(self, data: bytes, source: Address, now: float) -> tuple[bytes, Address] | None:
        """Return a Forward rewritten for its receiver, or None (the sender is told why)."""
        sender = self.directory.sessions.get(data[1:17])
        if sender is None or sender.address != source:
            if len(data) >= HEAD_SIZE and self._control_limit.allow(source, now):
                # The full id in both places: yagna ignores an empty one.
                gone = r.Disconnected(session_id=data[1:17])
                self._control(data[1:17], gone, source)
            return None
        sender.last_seen = now
        slot = int.from_bytes(data[17:21], "big")
        receiver = self.directory.by_slot.get(slot)
        if receiver is None or len(data) < HEAD_SIZE:
            if self._control_limit.allow(source, now):
                self._control(sender.session_id, r.Disconnected(slot=slot), source)
            return None
        if slot not in sender.recent:
            sender.recent.add(slot)
            self.directory.note_contact(sender.slot, slot, now)
        return receiver.head + sender.slot_bytes + data[21:], receiver.address

    def outputs(self) -> list[Output]:
        """Hand over what is to be done since the last call."""
        taken, self._outputs = self._outputs, []
        return taken

    def next_deadline(self) -> float:
        check = self._visibility.next_deadline()
        return self._next_purge if check is None else min(check, self._next_purge)

    def tick(self, now: float) -> None:
        """Do what time demands."""
        again, failed = self._visibility.due(now)
        for check in again:
            ping = r.Packet(check.session_id, r.Request(self._rng.below(1 << 53), r.Ping()))
            self._outputs.append(SendCheck(encode_packet(ping), check.address))
        for check in failed:
            self._end_check(check, is_public=False, now=now)
        if self._next_purge <= now:
            self._next_purge = now + PURGE_INTERVAL_S
            self._purge(now)

    # --- handshake

    def _on_control(self, packet: r.Packet, source: Address, now: float) -> None:
        content = packet.content
        if isinstance(content, r.Request):
            self._on_request(packet.session_id, content, source, now)
        elif isinstance(content, r.Control) and isinstance(content.body, r.Disconnected):
            session = self.directory.sessions.get(packet.session_id)
            if session is not None and session.address == source:
                self.directory.remove(session)
                log.info("relay.left", node=session.node_id)

    def _on_request(self, sid: bytes, request: r.Request, source: Address, now: float) -> None:
        match request.body:
            case r.Session() as step if step.challenge_resp is not None:
                self._on_proof(sid, request.request_id, step.challenge_resp, source, now)
            case r.Session():
                self._on_greeting(sid, request.request_id, source, now)
            case r.Register():
                self._on_register(sid, request.request_id, source, now)
            case None:
                return
            case body:
                session = self.directory.sessions.get(sid)
                if session is None or session.address != source:
                    refusal = _EMPTY_ANSWER[type(body)]
                    self._respond(sid, request.request_id, r.Code.UNAUTHORIZED, refusal, source)
                    return
                session.last_seen = now
                self._answer[type(body)](session, request.request_id, body, now)

    def _on_greeting(self, sid: bytes, request_id: int, source: Address, now: float) -> None:
        if sid:
            self._respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            return
        ticket = self._tickets.issue(source, self._rng.token(4), now)
        ask = r.ChallengeRequest(self._tickets.challenge(ticket), self._difficulty)
        self._respond(ticket, request_id, r.Code.OK, r.Session(challenge_req=ask), source)

    def _on_proof(
        self, sid: bytes, request_id: int, proof: r.ChallengeResponse, source: Address, now: float
    ) -> None:
        known = self.directory.sessions.get(sid)
        if known is not None and known.address == source:  # our answer was lost
            self._respond(sid, request_id, r.Code.OK, r.Session(), source)
            return
        if known is not None or not self._tickets.is_valid(sid, source, now):
            self._respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            return
        if self.directory.is_full(source) or not self._proof_limit.allow(source[0], now):
            self._respond(sid, request_id, r.Code.TOO_MANY_REQUESTS, r.Session(), source)
            return
        try:
            challenge = self._tickets.challenge(sid)
            proven = prove(challenge, self._difficulty, proof.solution, proof.signatures)
        except PeerError:
            self._respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            raise
        identities = tuple((p.node_id, p.public_key) for p in proven)
        if not self.directory.has_slot(identities[0][0]):
            self._outputs.append(SaveSlot(identities[0][0]))
        slot = self.directory.slot_of(identities[0][0])
        self.directory.add(RelaySession(sid, source, identities, slot, now))
        self._respond(sid, request_id, r.Code.OK, r.Session(), source)

    # --- registration

    def _on_register(self, sid: bytes, request_id: int, source: Address, now: float) -> None:
        session = self.directory.sessions.get(sid)
        if session is None or session.address != source:
            self._respond(sid, request_id, r.Code.UNAUTHORIZED, r.Register(), source)
            return
        session.last_seen = now
        verdict = self._visibility.verdict(source, now)
        if verdict is None:
            self._visibility.begin(source, sid, request_id, now)
            self.tick(now)
            return
        self._complete_register(session, [request_id], is_public=verdict, now=now)

    def _end_check(self, check: Check, *, is_public: bool, now: float) -> None:
        if session := self.directory.sessions.get(check.session_id):
            self._complete_register(session, check.waiting, is_public=is_public, now=now)

    def _complete_register(
        self, session: RelaySession, request_ids: list[int], *, is_public: bool, now: float
    ) -> None:
        session.is_public = is_public
        is_new = not session.is_registered
        self.directory.register(session)
        for request_id in request_ids:
            body = r.Register(_endpoints(session))
            self._respond(session.session_id, request_id, r.Code.OK, body, session.address)
        if is_new:
            log.info("relay.registered", node=session.node_id, slot=session.slot, public=is_public)
            self._announce_return(session, now)

    def _announce_return(self, session: RelaySession, now: float) -> None:
        """Tell those who had to do with the node that their sessions with it are stale.

        A node that re-registers is also told to drop its own relayed routes: a yagna that lost its
        relay session amid traffic is stuck with them otherwise (§5.7).
        """
        for contact, forwarded_at in self.directory.contacts(session.slot):
            self._gone(contact, session.node_id)
            if forwarded_at and now - forwarded_at < FORWARDED_LATELY_S:
                self._gone(session, contact.node_id)

    def _gone(self, receiver: RelaySession, node_id: NodeId) -> None:
        notice = r.Disconnected(node_id=node_id_to_bytes(node_id))
        self._control(receiver.session_id, notice, receiver.address)

    # --- questions

    def _on_ping(self, session: RelaySession, request_id: int, _: object, __: float) -> None:
        self._reply(session, request_id, r.Code.OK, r.Pong())

    def _on_find_node(self, session: RelaySession, request_id: int, body: object, _: float) -> None:
        assert isinstance(body, r.FindNode)
        if len(body.node_id) != r.NODE_ID_SIZE:
            self._reply(session, request_id, r.Code.BAD_REQUEST, r.Node())
            return
        self._reply_node(session, request_id, self.directory.find(node_id_from_bytes(body.node_id)))

    def _on_find_slot(self, session: RelaySession, request_id: int, body: object, _: float) -> None:
        assert isinstance(body, r.FindSlot)
        if self.directory.is_assigned(body.slot):
            self._reply_node(session, request_id, self.directory.by_slot.get(body.slot))

    def _on_find_neighbours(
        self, session: RelaySession, request_id: int, body: object, _: float
    ) -> None:
        assert isinstance(body, r.FindNeighbours)
        count = min(body.count, NEIGHBOURS_MAX)
        nodes = tuple(map(self._describe, self.directory.neighbours(session, count)))
        self._reply(session, request_id, r.Code.OK, r.Neighbours(nodes))

    def _on_ask_reverse(
        self, session: RelaySession, request_id: int, body: object, _: float
    ) -> None:
        assert isinstance(body, r.AskReverse)
        if not session.is_public or len(body.node_id) != r.NODE_ID_SIZE:
            self._reply(session, request_id, r.Code.BAD_REQUEST, r.ReverseAsked())
            return
        target = self.directory.find(node_id_from_bytes(body.node_id))
        if target is None or target is session:
            self._reply(session, request_id, r.Code.NOT_FOUND, r.ReverseAsked())
            return
        notice = r.DialBack(node_id_to_bytes(session.node_id), _endpoints(session))
        self._control(target.session_id, notice, target.address)
        self.directory.note_contact(session.slot, target.slot, 0.0)
        self._reply(session, request_id, r.Code.OK, r.ReverseAsked())

    def _reply_node(
        self, session: RelaySession, request_id: int, found: RelaySession | None
    ) -> None:
        if found is None:
            self._reply(session, request_id, r.Code.NOT_FOUND, r.Node())
            return
        if found is not session:
            self.directory.note_contact(session.slot, found.slot, 0.0)
        self._reply(session, request_id, r.Code.OK, self._describe(found))

    def _describe(self, session: RelaySession) -> r.Node:
        return r.Node(
            identities=tuple(
                r.Identity(key, node_id_to_bytes(node_id)) for node_id, key in session.identities
            ),
            endpoints=_endpoints(session),
            seen_ts=int(session.last_seen + self._unix_offset_s),
            slot=session.slot,
        )

    # --- sending and cleaning up

    def _reply(
        self, session: RelaySession, request_id: int, code: r.Code, body: r.ResponseBody
    ) -> None:
        self._respond(session.session_id, request_id, code, body, session.address)

    def _respond(
        self, sid: bytes, request_id: int, code: r.Code, body: r.ResponseBody, to: Address
    ) -> None:
        packet = r.Packet(sid, r.Response(request_id, code, body))
        self._outputs.append(SendDatagram(encode_packet(packet), to))

    def _control(self, sid: bytes, body: r.ControlBody, to: Address) -> None:
        packet = r.Packet(sid, r.Control(body))
        self._outputs.append(SendDatagram(encode_packet(packet), to))

    def _purge(self, now: float) -> None:
        self._visibility.forget_old(now)
        for session in self.directory.expired(now):
            log.info("relay.expired", node=session.node_id)
            self.directory.remove(session)
        for session in self.directory.sessions.values():
            session.recent.clear()


def _endpoints(session: RelaySession) -> tuple[r.Endpoint, ...]:
    return (r.Endpoint(*session.address),) if session.is_public else ()


_EMPTY_ANSWER: Final[dict[type, r.ResponseBody]] = {
    r.Ping: r.Pong(),
    r.FindNode: r.Node(),
    r.FindSlot: r.Node(),
    r.FindNeighbours: r.Neighbours(),
    r.AskReverse: r.ReverseAsked(),
}
