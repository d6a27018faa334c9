"""The relay's protocol, sans IO (docs/protocol/net.md §5).

`receive_batch` takes what arrived at the main socket and returns the Forwards to send on;
`receive_check` takes what arrived at the second socket, `receive_relay` what another relay of the
same network sent; `outputs` is what else to do. Forwarding is the hot path: no protobuf, two
look-ups, one concatenation. Nobody is known here but by the signatures of a solved challenge.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from shem.identity.proof import prove
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.kernel.world import Rng
from shem.relay.directory import FORWARDED_LATELY_S, Directory, RelaySession
from shem.relay.limits import Gate
from shem.relay.mesh import Carry, Notice, Returned, carry_to, decode_message, notice_to, returned
from shem.relay.outputs import Out, Output, SaveSlot, SendCheck, SendDatagram, SendRelay, endpoints
from shem.relay.questions import EMPTY_ANSWER, Questions
from shem.relay.registry import Address, MemoryRegistry, Registration, Registry
from shem.relay.tickets import SALT_SIZE, Tickets
from shem.relay.visibility import Check, Visibility
from shem.wire import relay as r
from shem.wire.forward import FORWARD_BYTE, HEAD_SIZE, Kind, kind_of
from shem.wire.relay_codec import decode_packet, encode_packet

DIFFICULTY: Final = 16
PURGE_INTERVAL_S: Final = 10.0

Datagram = tuple[bytes, Address]

log = structlog.get_logger()


class RelayCore:
    """One relay; `unix_offset_s` turns `now` into Unix time.

    `slots` are the node ids of slots 1, 2, …; a `registry` that several relays share knows its own.
    """

    def __init__(
        self,
        rng: Rng,
        *,
        slots: Iterable[bytes] = (),
        registry: Registry | None = None,
        name: str = "",
        unix_offset_s: float = 0.0,
        difficulty: int = DIFFICULTY,
        now: float = 0.0,
    ) -> None:
        self.directory = Directory(registry or MemoryRegistry(slots), name)
        self._rng = rng
        self._tickets = Tickets(rng.token(SALT_SIZE))
        self._difficulty = difficulty
        self._visibility = Visibility()
        self._out = Out()
        self.counts = self._out.counts
        self._gate = Gate()
        self._questions = Questions(self.directory, self._out, self._gate, unix_offset_s)
        self._next_purge = now + PURGE_INTERVAL_S

    # --- face

    def receive_batch(self, batch: Sequence[Datagram], now: float) -> list[Datagram]:
        """Take datagrams from the main socket; return the Forwards among them, rewritten."""
        sessions, by_slot = self.directory.sessions, self.directory.by_slot
        forwarded = []
        size = 0
        for data, source in batch:
            if data[:1] != FORWARD_BYTE:
                self._receive_other(data, source, now)
                continue
            sender = sessions.get(data[1:17])
            if sender is None or sender.address != source:
                self._refuse_stranger(data, source, now)
                continue
            sender.last_seen = now
            if sender.credit <= 0 and not sender.refill(now):
                self._out.refuse("forward rate")
                continue
            sender.credit -= 1
            slot = data[17:21]
            receiver = by_slot.get(slot)
            if receiver is None or len(data) < HEAD_SIZE:
                self._forward_elsewhere(sender, data, now)
                continue
            if sender.recent is None or slot not in sender.recent:
                self._note_contact(sender, slot, now)
            size += len(data)
            forwarded.append((receiver.head + sender.slot_bytes + data[21:], receiver.address))
        self.counts.forwarded += len(forwarded)
        self.counts.forwarded_bytes += size
        return forwarded

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram; a Forward that results is among the outputs."""
        for forwarded in self.receive_batch([(data, source)], now):
            self._out.emit(SendDatagram(*forwarded))

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

    def receive_relay(self, message: bytes, now: float) -> None:
        """Take a message from another relay of this network."""
        try:
            decoded = decode_message(message)
        except PeerError as error:
            log.warning("relay.message_refused", reason=error.message)
            return
        match decoded:
            case Carry() as carry:
                self._deliver_carried(carry, now)
            case Notice(slot, body):
                if receiver := self.directory.by_slot.get(slot.to_bytes(4, "big")):
                    self._out.control(receiver.session_id, body, receiver.address)
            case Returned(node_id, slot):
                if session := self.directory.by_slot.get(slot.to_bytes(4, "big")):
                    self.directory.remove(session)
                self._announce(node_id, slot)

    def outputs(self) -> list[Output]:
        """Hand over what is to be done since the last call."""
        return self._out.take()

    def next_deadline(self) -> float:
        check = self._visibility.next_deadline()
        return self._next_purge if check is None else min(check, self._next_purge)

    def tick(self, now: float) -> None:
        """Do what time demands."""
        again, failed = self._visibility.due(now)
        for check in again:
            ping = r.Packet(check.session_id, r.Request(self._rng.below(1 << 53), r.Ping()))
            self._out.emit(SendCheck(encode_packet(ping), check.address))
        for check in failed:
            self._end_check(check, is_public=False, now=now)
        if self._next_purge <= now:
            self._next_purge = now + PURGE_INTERVAL_S
            self._purge(now)

    # --- forwarding

    def _refuse_stranger(self, data: bytes, source: Address, now: float) -> None:
        self._out.refuse("unknown session")
        if len(data) >= HEAD_SIZE and self._gate.control(source, now):
            # The full id in both places: yagna ignores an empty one.
            self._out.control(data[1:17], r.Disconnected(session_id=data[1:17]), source)

    def _forward_elsewhere(self, sender: RelaySession, data: bytes, now: float) -> None:
        """Forward to a node of another relay, or tell the sender that the slot is empty."""
        if len(data) < HEAD_SIZE:
            self._out.refuse("cut off")
            return
        slot = int.from_bytes(data[17:21], "big")
        found = self.directory.registry.at_slot(slot)
        if found is not None and found.relay != self.directory.relay:
            self._note_contact(sender, data[17:21], now)
            message = carry_to(data[17:21], sender.slot_bytes, data[21:])
            self._out.emit(SendRelay(found.relay, message))
            return
        self._out.refuse("empty slot")
        if self._gate.control(sender.address, now):
            self._out.control(sender.session_id, r.Disconnected(slot=slot), sender.address)

    def _deliver_carried(self, carry: Carry, now: float) -> None:
        sender = int.from_bytes(carry.sender, "big")
        receiver = self.directory.by_slot.get(carry.slot.to_bytes(4, "big"))
        if receiver is not None:
            self.directory.contacts.note(sender, carry.slot, now)
            data = receiver.head + carry.sender + carry.rest
            self._out.emit(SendDatagram(data, receiver.address))
        elif asker := self.directory.registry.at_slot(sender):
            gone = notice_to(sender, r.Disconnected(slot=carry.slot))
            self._out.emit(SendRelay(asker.relay, gone))

    def _note_contact(self, sender: RelaySession, slot: bytes, now: float) -> None:
        if sender.recent is None:
            sender.recent = set()
        sender.recent.add(slot)
        self.directory.contacts.note(sender.slot, int.from_bytes(slot, "big"), now)

    # --- handshake

    def _receive_other(self, data: bytes, source: Address, now: float) -> None:
        if kind_of(data) is not Kind.CONTROL:
            self._out.refuse("noise")
        elif not self._gate.control(source, now):
            self._out.refuse("control rate")
        else:
            try:
                self._on_control(decode_packet(data), source, now)
            except (PeerError, UsageError) as error:
                self._out.refuse("malformed")
                log.debug("relay.refused", source=source, reason=error.message)

    def _on_control(self, packet: r.Packet, source: Address, now: float) -> None:
        content = packet.content
        if isinstance(content, r.Request):
            self._on_request(packet.session_id, content, source, now)
        elif isinstance(content, r.Control) and isinstance(content.body, r.Disconnected):
            session = self.directory.sessions.get(packet.session_id)
            if session is not None and session.address == source:
                self.directory.remove(session)
                log.debug("relay.left", node=session.node_id)

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
                session = self.directory.find_session(sid, source, now)
                if session is None:
                    refusal = EMPTY_ANSWER[type(body)]
                    self._out.refuse("unknown session")
                    self._out.respond(sid, request.request_id, r.Code.UNAUTHORIZED, refusal, source)
                    return
                session.last_seen = now
                self._questions.answer(session, request.request_id, body, now)

    def _on_greeting(self, sid: bytes, request_id: int, source: Address, now: float) -> None:
        if sid:
            self._out.respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            return
        ticket = self._tickets.issue(source, self._rng.token(4), now)
        ask = r.ChallengeRequest(self._tickets.challenge(ticket), self._difficulty)
        self._out.respond(ticket, request_id, r.Code.OK, r.Session(challenge_req=ask), source)

    def _on_proof(
        self, sid: bytes, request_id: int, proof: r.ChallengeResponse, source: Address, now: float
    ) -> None:
        known = self.directory.sessions.get(sid)
        if known is not None and known.address == source:  # our answer was lost
            self._out.respond(sid, request_id, r.Code.OK, r.Session(), source)
            return
        if known is not None or not self._tickets.is_valid(sid, source, now):
            self._out.refuse("bad ticket")
            self._out.respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            return
        if self.directory.is_full(source) or not self._gate.proof(source, now):
            self._out.refuse("session limit")
            self._out.respond(sid, request_id, r.Code.TOO_MANY_REQUESTS, r.Session(), source)
            return
        if not self._gate.any_proof(now):
            self._out.refuse("proof rate")  # no answer: the node asks again
            return
        try:
            challenge = self._tickets.challenge(sid)
            proven = prove(challenge, self._difficulty, proof.solution, proof.signatures)
        except PeerError:
            self._out.refuse("bad proof")
            self._out.respond(sid, request_id, r.Code.BAD_REQUEST, r.Session(), source)
            return
        identities = tuple((p.node_id, p.public_key) for p in proven)
        registry = self.directory.registry
        if not registry.has_slot(identities[0][0]):
            self._out.emit(SaveSlot(identities[0][0]))
        slot = registry.slot_of(identities[0][0])
        self.directory.add(RelaySession(sid, source, identities, slot, now))
        self._out.counts.handshakes += 1
        self._out.respond(sid, request_id, r.Code.OK, r.Session(), source)

    # --- registration

    def _on_register(self, sid: bytes, request_id: int, source: Address, now: float) -> None:
        session = self.directory.sessions.get(sid)
        if session is None or session.address != source:
            self._out.refuse("unknown session")
            self._out.respond(sid, request_id, r.Code.UNAUTHORIZED, r.Register(), source)
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
        is_succession = self.directory.register(session)
        for request_id in request_ids:
            self._out.reply(session, request_id, r.Code.OK, r.Register(endpoints(session)))
        if is_new:
            log.debug("relay.registered", node=session.node_id, slot=session.slot, public=is_public)
            if is_succession:
                self._announce_identities(session, now)
            else:
                self._announce_return(session, now)

    def _announce_return(self, session: RelaySession, now: float) -> None:
        """Tell those who had to do with the node that their sessions with it are stale.

        A node that re-registers is also told to drop its own relayed routes: a yagna that lost its
        relay session amid traffic is stuck with them otherwise (§5.7).
        """
        self._announce(session.node_id, session.slot)
        self._out.emit(SendRelay(None, returned(session.node_id, session.slot)))
        for slot in self._forwarded_lately(session, now):
            if contact := self.directory.at_slot(slot):
                self._gone(session, contact.node_id)

    def _announce_identities(self, session: RelaySession, now: float) -> None:
        """Have those who know the node by us alone look it up again: its identities changed.

        Sessions that it has made with others are as good as before, and are left alone; a yagna
        would lose track of a node with several identities (docs/protocol/net.md §6.8).
        """
        for slot in self._forwarded_lately(session, now):
            contact = self.directory.by_slot.get(slot.to_bytes(4, "big"))
            if contact and not contact.endpoints and not session.endpoints:
                self._gone(contact, session.node_id)

    def _forwarded_lately(self, session: RelaySession, now: float) -> list[int]:
        contacts = self.directory.contacts.of(session.slot)
        return [slot for slot, at in contacts.items() if at and now - at < FORWARDED_LATELY_S]

    def _announce(self, node_id: NodeId, slot: int) -> None:
        """Tell the contacts that are at this relay."""
        for contact in self.directory.contacts.of(slot):
            if session := self.directory.by_slot.get(contact.to_bytes(4, "big")):
                self._gone(session, node_id)

    def _gone(self, receiver: Registration, node_id: NodeId) -> None:
        notice = r.Disconnected(node_id=node_id_to_bytes(node_id))
        self._out.control(receiver.session_id, notice, receiver.address)

    def _purge(self, now: float) -> None:
        self._visibility.forget_old(now)
        self.directory.contacts.forget_old(now)
        for session in self.directory.expired(now):
            log.debug("relay.expired", node=session.node_id)
            self.counts.expired += 1
            self.directory.remove(session)
        for session in self.directory.sessions.values():
            session.recent = None
