"""The session layer of a node, sans IO: one socket's datagrams in, decisions out (spec §4 - §7).

`receive`, `send`, `tick`, `next_deadline`, `outputs`. The parts: `relay_link` (our relay session),
`dialler`, `acceptor` and `handshakes`, `router` (routes), `session` (what is established), `post`
(the way out). This module only tells them what arrived. Rules:

* sessions are found by source address, and their id must match; of a peer with an encrypted channel
  only what comes through the channel is believed, control packets included (`secure.layer`);
* who a peer is follows from signatures alone; what the relay says about nodes is vouched for;
* Disconnected is obeyed from the session it names, and a mere hint from everybody else.
"""

from collections.abc import Callable, Iterable, Set
from typing import Final

import structlog

from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId, node_id_from_bytes
from shem.kernel.rates import RateLimit
from shem.kernel.world import Rng
from shem.net.acceptor import Acceptor
from shem.net.dialler import Dialler, Greet, Prove
from shem.net.handshakes import Handshakes
from shem.net.introductions import Introductions
from shem.net.keyring import Keyring
from shem.net.outputs import (
    Address,
    ChannelUp,
    ControlSealed,
    DeliverPacket,
    NeighboursFound,
    Output,
    RouteFailed,
    RouteUp,
    SendDatagram,
)
from shem.net.post import Post
from shem.net.registry import read_node
from shem.net.relay_link import FindUs, RegisterUs, RelayLink
from shem.net.requests import ASK, IDLE_PING, Answer, FindNear, Unanswered
from shem.net.roaming import Roaming
from shem.net.router import LookUp, Reverse, Router
from shem.net.secure.guard import HINT_BURST, HINT_RATE_PER_S, SessionGuard
from shem.net.secure.layer import Opened, Secure
from shem.net.secure.packets import Kind as Sealed
from shem.net.secure.pins import Pins
from shem.net.session import CheckAlive, MeasureLatency, Session
from shem.net.slots import SlotQuestions, WhoIs
from shem.net.types import Peer
from shem.wire import relay as r
from shem.wire.forward import STREAM, UNRELIABLE, Forward, Kind, decode_forward, kind_of
from shem.wire.relay_codec import decode_packet

WATCH_INTERVAL_S: Final = 0.5
"""How often sessions and half-open tries are looked over."""
STRANGER_RATE_PER_S: Final = 20.0
"""Answers per source address to those with whom we have no session."""
STRANGER_BURST: Final = 40.0

log = structlog.get_logger()


class NodeCore:
    """One node; the first key is its default identity."""

    def __init__(
        self,
        rng: Rng,
        keys: Iterable[PrivateKey],
        *,
        relay: Address | None,
        own_addresses: frozenset[Address] = frozenset(),
        encryption: Encryption = Encryption.PREFERRED,
        pins: Pins | None = None,
    ) -> None:
        self._now = 0.0
        self.is_watched = False
        """Somebody wants to know what passes inside encrypted channels, too."""
        self.keys = keys if isinstance(keys, Keyring) else Keyring(keys)
        self._own_id = self.keys.default_id
        self._post = Post(rng)
        self._dialler = Dialler(self._post, self.keys)
        self._acceptor = Acceptor(self._post, self.keys)
        self.link = RelayLink(self._post, self._dialler, self.keys, relay)
        self.router = Router(
            self._post,
            dialler=self._dialler,
            acceptor=self._acceptor,
            link=self.link,
            keys=self.keys,
            own_addresses=own_addresses,
        )
        self._secure = Secure(
            rng,
            self.keys,
            way=self.router,
            registry=self.router.registry,
            policy=encryption,
            pins=pins,
        )
        self._guard = SessionGuard(self._post, self.router, self._dialler, self._secure)
        self._slots = SlotQuestions(self._post)
        self._introductions = Introductions(
            self.keys, self._secure, self.router, self._dialler, self.link
        )
        self._roaming = Roaming(
            dialler=self._dialler, link=self.link, router=self.router, guard=self._guard
        )
        self._next_watch = 0.0
        self._stranger_limit = RateLimit(STRANGER_RATE_PER_S, STRANGER_BURST)
        self._handshakes = Handshakes(
            self._post,
            dialler=self._dialler,
            acceptor=self._acceptor,
            link=self.link,
            router=self.router,
            guard=self._guard,
            keys=self.keys,
            strangers=self._stranger_limit,
        )
        self._hint_limit = RateLimit(HINT_RATE_PER_S, HINT_BURST)
        self._on_answer: dict[type, Callable[[Answer, r.Packet, float], None]] = {
            Greet: self._handshakes.on_answer,
            Prove: self._handshakes.on_answer,
            CheckAlive: self._on_pong,
            MeasureLatency: self._on_pong,
            LookUp: self._on_looked_up,
            Reverse: self._on_reverse_answer,
            WhoIs: self._on_slot_answer,
            FindUs: self._on_found_us,
        }

    # --- face

    def start(self, now: float, relay: Address | None = None) -> None:
        """Begin; also when the relay's address has become known."""
        self._next_watch = self._now = now
        self.link.start(now, relay)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take a datagram; what is malformed is dropped with a debug line."""
        self._now = now
        try:
            match kind_of(data):
                case Kind.FORWARD:
                    self._on_forward(decode_forward(data), source, now)
                case Kind.CONTROL:
                    self._on_control(decode_packet(data), len(data), source, now)
        except (PeerError, UsageError) as error:
            log.debug("datagram.refused", source=source, reason=error.message)

    def send(self, node_id: NodeId, flags: int, payload: bytes, now: float) -> None:
        """Send a packet; it is held while a route is searched and a channel made."""
        self._now = now
        kind = Sealed.UNRELIABLE if flags & UNRELIABLE else Sealed.STREAM
        self._secure.send(self.router.registry.default_of(node_id), kind, payload, now)

    def connect(self, node_id: NodeId, now: float, sender: NodeId | None = None) -> None:
        """Make a route, and a channel where the peer can; answered by RouteUp or RouteFailed."""
        self._now = now
        self._introductions.connect(node_id, now, sender)

    def is_ready(self, node_id: NodeId, now: float, sender: NodeId | None = None) -> bool:
        """Tell whether packets to this identity leave at once, to nobody else, known as ours."""
        return self._introductions.is_ready(node_id, now, sender)

    def on_own_changed(self, now: float) -> None:
        """What is in `keys` has changed."""
        self._now = now
        self._introductions.on_own_changed(now)

    def is_encrypted(self, node_id: NodeId, now: float) -> bool:
        return self._secure.has_channel(node_id, now)

    def find_neighbours(self, count: int, now: float) -> None:
        """Ask the relay; answered by `NeighboursFound`."""
        session = self.link.session
        if session is None or not self.link.is_up:
            self._post.emit(NeighboursFound(None))
            return
        self._post.requests.start(
            FindNear,
            session.address,
            session.session_id,
            r.FindNeighbours(count),
            pattern=ASK,
            now=now,
        )

    def disconnect(self, node_id: NodeId) -> None:
        """Drop the route to a node; the next packet searches one."""
        default = self.router.registry.default_of(node_id)
        if session := self.router.sessions.find(default):
            self._guard.close(session, self._now, tell=True)
        self.router.drop_relayed(default)

    def on_network_changed(self, moved: Set[Address], back: Set[Address], now: float) -> None:
        """Our own address towards some addresses is another one, or there is a way again."""
        self._now = now
        self._roaming.on_network_changed(moved, back, now)

    def on_refused(self, address: Address, now: float) -> None:
        """Somebody says that nobody is there (ICMP)."""
        self._now = now
        if failed := self._roaming.on_refused(address, now):
            self._handshakes.on_failed(failed, now)

    def shutdown(self) -> None:
        """Say goodbye to everybody."""
        for session in self.router.sessions:
            self._guard.close(session, self._now, tell=True)
        self.link.stop()

    def outputs(self) -> list[Output]:
        """Hand over what is to be done; routes are told once packets can leave on them."""
        outputs: list[Output] = []
        while taken := self._post.take():
            for output in taken:
                match output:
                    case RouteUp(node_id):
                        self._secure.on_route_up(node_id, self._now)
                    case RouteFailed(node_id, reason):
                        self._secure.on_route_failed(node_id, reason)
                    case SendDatagram():
                        sealed = self._guard.sealed(output, self._now)
                        if self.is_watched and sealed is not output:
                            outputs.append(ControlSealed(output.data, output.address, False))
                        outputs.append(sealed)
                    case _:
                        outputs.append(output)
            outputs += self._told()
        return outputs + self._told()

    def _told(self) -> list[Output]:
        """Return what the encryption layer has to tell, after hearing it ourselves."""
        outputs = self._secure.outputs()
        for output in outputs:
            if isinstance(output, ChannelUp):
                self._guard.on_channel(output.node_id, self._now)
        return outputs

    def next_deadline(self) -> float:
        times = (
            self._next_watch,
            self._post.next_deadline(),
            self._post.requests.next_deadline(),
            self._dialler.next_deadline(),
            self.link.next_deadline(),
            self.router.next_deadline(),
            self._secure.next_deadline(),
            self._introductions.next_deadline(),
        )
        return min(t for t in times if t is not None)

    def tick(self, now: float) -> None:
        self._now = now
        self._post.tick(now)
        for failed in self._post.requests.tick(now):
            self._on_unanswered(failed, now)
        self._handshakes.tick(now)
        self.link.tick(now)
        self.router.tick(now)
        self._secure.tick(now)
        self._introductions.tick(now)
        if self._next_watch <= now:
            self._next_watch = now + WATCH_INTERVAL_S
            self._watch(now)

    # --- Forwards

    def _on_forward(self, forward: Forward, source: Address, now: float) -> None:
        session = self.router.sessions.by_address.get(source)
        if session is not None and session.is_named(forward.session_id):
            self._on_direct_forward(session, forward, now)
        elif source == self.link.address:
            self._on_relayed_forward(forward, now)
        elif self._dialler.is_dialling(source):
            pass  # its last handshake message is under way
        elif self._stranger_limit.allow(source, now):
            self._post.disconnect(forward.session_id, source)

    def _on_direct_forward(self, session: Session, forward: Forward, now: float) -> None:
        assert session.peer is not None
        opened = self._secure.receive(
            session.peer, forward.flags, forward.payload, now, over=session
        )
        is_protected = self._guard.protects(session, now)
        if not is_protected or any(each.is_sealed_by(session.peer) for each in opened):
            session.heard(len(forward.payload), now)
            if not session.may_send:
                session.resume(self._post, now)  # its Resume got lost
        for each in opened:
            self._deliver(each, session, now)

    def _deliver(self, opened: Opened, session: Session | None, now: float) -> None:
        match opened.kind:
            case Sealed.STREAM:
                self._post.emit(DeliverPacket(opened.peer, STREAM, opened.payload))
            case Sealed.UNRELIABLE:
                self._post.emit(DeliverPacket(opened.peer, UNRELIABLE, opened.payload))
            case Sealed.CONTROL if session is not None and opened.is_sealed_by(session.peer):
                packet = decode_packet(opened.payload)
                if self.is_watched:
                    self._post.emit(ControlSealed(opened.payload, session.address, True))
                if packet.session_id == session.session_id:
                    self._guard.confirm(session, now)
                    self._act(packet, session.address, session, now)

    def _on_relayed_forward(self, forward: Forward, now: float) -> None:
        session = self.link.session
        if session is None or not self.link.names(forward.session_id) or not forward.slot:
            return
        session.heard(len(forward.payload), now)
        info = self.router.registry.by_slot(forward.slot)
        if info is None:
            self._slots.hold(forward, session, now)
            return
        self._deliver_relayed(forward, now)

    def _deliver_relayed(self, forward: Forward, now: float) -> None:
        if info := self.router.registry.by_slot(forward.slot):
            self.router.on_relayed(info, now)
            peer = Peer(info.node_id, frozenset(info.identities), Assurance.VOUCHED)
            for opened in self._secure.receive(peer, forward.flags, forward.payload, now):
                self._deliver(opened, None, now)

    # --- control packets

    def _on_control(self, packet: r.Packet, size: int, source: Address, now: float) -> None:
        session = self._session_at(source)
        if session is not None and session.session_id != packet.session_id:
            session = None
        if session is not None and self._guard.protects(session, now):
            if not self._guard.admits(packet, session, now):
                return
        elif session is not None:
            session.heard(size, now)
        self._act(packet, source, session, now)

    def _act(self, packet: r.Packet, source: Address, session: Session | None, now: float) -> None:
        """Take a control packet that is as good as it gets."""
        match packet.content:
            case r.Request(_, r.Ping()):
                self._on_ping(packet, source, session, now)
            case r.Request(_, r.Session() as body) if source != self.link.address:
                self._handshakes.on_request(packet, body, source, now)
            case r.Response():
                self._on_response(packet, source, session, now)
            case r.Control(r.ResumeForwarding()) if session is not None:
                session.resume(self._post, now)
            case r.Control(r.PauseForwarding()) if session is not None:
                session.may_send = session.peer is None  # the relay does not pause
            case r.Control(r.Disconnected() as notice):
                self._on_disconnected(packet.session_id, notice, source, session, now=now)
            case r.Control(r.DialBack() as notice) if session is self.link.session is not None:
                self._roaming.on_dial_back(notice, now)

    def _session_at(self, source: Address) -> Session | None:
        if source == self.link.address:
            return self.link.session
        return self.router.sessions.by_address.get(source)

    def _session_named(self, session_id: bytes) -> Session | None:
        link = self.link.session
        is_relays = link is not None and link.session_id == session_id
        return link if is_relays else self.router.sessions.named(session_id)

    def _on_ping(
        self, packet: r.Packet, source: Address, session: Session | None, now: float
    ) -> None:
        """Answer anybody; but tell those who believe in a session that we do not have."""
        assert isinstance(packet.content, r.Request)
        sid = packet.session_id
        at_source = self.router.sessions.by_address.get(source)
        is_known = (
            session is not None
            or (at_source is not None and at_source.is_named(sid))
            or self.link.names(sid)  # the public-address check
            or self._dialler.is_dialling(source)
            or self._acceptor.holds(source, sid)
        )
        if session is not None and not session.may_send:
            session.resume(self._post, now)
        if is_known or self._stranger_limit.allow(source, now):
            code = r.Code.OK if is_known else r.Code.UNAUTHORIZED
            self._post.respond(sid, packet.content.request_id, r.Pong(), source, code=code)
        self._dialler.on_ping(source, sid, now)

    def _on_response(
        self, packet: r.Packet, source: Address, session: Session | None, now: float
    ) -> None:
        assert isinstance(packet.content, r.Response)
        if answer := self._post.requests.answered(packet, source, now):
            if answer.purpose is FindNear:
                self._on_neighbours(packet.content, now)
            elif answer.purpose is RegisterUs:
                self._on_registered(packet.content, now)
            else:
                self._on_answer[type(answer.purpose)](answer, packet, now)
        elif isinstance(packet.content.body, r.Session) and packet.content.body.challenge_resp:
            proof = packet.content.body.challenge_resp
            self._handshakes.on_late_proof(packet.session_id, proof, source, now)
        if packet.content.code == r.Code.UNAUTHORIZED and session is not None:
            self._end(session, "the other end does not know the session", now, tell=True)

    def _on_disconnected(
        self,
        packet_sid: bytes,
        notice: r.Disconnected,
        source: Address,
        session: Session | None,
        *,
        now: float,
    ) -> None:
        from_relay = session is not None and session is self.link.session
        if notice.session_id is not None:
            if notice.session_id != packet_sid:
                return
            if session is not None:
                self._end(session, "disconnected by the other end", now, tell=False)
            elif failed := self._dialler.on_disconnected(source, packet_sid):
                self._handshakes.on_failed(failed, now)
            self._acceptor.drop(source, packet_sid)
        elif notice.slot is not None:
            if from_relay and (info := self.router.registry.by_slot(notice.slot)):
                self.router.registry.forget(info.node_id)
                self.router.drop_relayed(info.node_id)
        elif notice.node_id is not None:
            node_id = node_id_from_bytes(notice.node_id)
            if from_relay:
                self._roaming.on_returned(node_id, now)
            elif self._hint_limit.allow(node_id, now):
                self.router.on_hint(node_id, now, from_relay=False)

    # --- answers

    def _on_registered(self, response: r.Response | None, now: float) -> None:
        self.link.on_registered(response, now)
        if self.link.is_up:
            self._roaming.on_registered(now)
            self.router.on_relay_up(now)

    def _on_pong(self, answer: Answer, packet: r.Packet, now: float) -> None:
        assert isinstance(answer.purpose, CheckAlive | MeasureLatency)
        if session := self._session_named(answer.purpose.session_id):
            session.ping_s = answer.round_trip_s

    def _on_found_us(self, _: Answer, packet: r.Packet, now: float) -> None:
        self.link.on_found(packet, now)
        if not self.link.is_up:
            self.router.on_relay_down(now)

    def _on_looked_up(self, answer: Answer, packet: r.Packet, now: float) -> None:
        assert isinstance(answer.purpose, LookUp) and isinstance(packet.content, r.Response)
        self.router.on_looked_up(answer.purpose.node_id, packet.content, now)
        self._roaming.on_looked_up(answer.purpose.node_id, now)

    def _on_reverse_answer(self, answer: Answer, packet: r.Packet, now: float) -> None:
        assert isinstance(answer.purpose, Reverse) and isinstance(packet.content, r.Response)
        self.router.on_reverse_answered(answer.purpose.node_id, packet.content, now)

    def _on_slot_answer(self, answer: Answer, packet: r.Packet, now: float) -> None:
        assert isinstance(answer.purpose, WhoIs) and isinstance(packet.content, r.Response)
        held = self._slots.take(answer.purpose.slot)
        if self.link.session is None or self.link.session.session_id != packet.session_id:
            return  # slots are those of a relay session, and this one is over
        body = packet.content.body
        if packet.content.code == r.Code.OK and isinstance(body, r.Node):
            info = read_node(body)
            if info.slot == answer.purpose.slot:
                self.router.registry.learn(info, now)
                for forward in held:
                    self._deliver_relayed(forward, now)

    def _on_neighbours(self, response: r.Response, now: float) -> None:
        if response.code != r.Code.OK or not isinstance(response.body, r.Neighbours):
            self._post.emit(NeighboursFound(None))
            return
        infos = {info.node_id: info for info in map(read_node, response.body.nodes)}
        infos.pop(self._own_id, None)
        for info in infos.values():
            self.router.registry.learn(info, now)
        self._post.emit(NeighboursFound(tuple(infos.values())))

    def _on_unanswered(self, failed: Unanswered, now: float) -> None:
        match failed.purpose:
            case Greet(address) | Prove(address):
                self._handshakes.on_undialled(address, now)
            case CheckAlive(session_id):
                self._on_silence(session_id, failed.started, now)
            case LookUp(node_id):
                self.router.on_looked_up(node_id, None, now)
                self._roaming.on_looked_up(node_id, now)
            case Reverse(node_id):
                self.router.on_reverse_answered(node_id, None, now)
            case WhoIs(slot):
                self._slots.take(slot)
            case purpose if purpose is FindNear:
                self._post.emit(NeighboursFound(None))
            case purpose if purpose is RegisterUs:
                self._on_registered(None, now)

    # --- keeping alive

    def _watch(self, now: float) -> None:
        self._acceptor.forget_old(now)
        self.link.watch(now)
        self._guard.watch(now)
        for session in self.router.sessions:
            if session.is_unheard(now):
                self.router.doubt(session, now)
            elif session.is_idle(now):
                self.router.doubt(session, now, IDLE_PING)

    def _on_silence(self, session_id: bytes, since: float, now: float) -> None:
        session = self._session_named(session_id)
        if session is not None and session.last_seen < since:
            self._end(session, "silence", now, tell=True)

    def _end(self, session: Session, reason: str, now: float, *, tell: bool) -> None:
        if session.peer is None:
            if session is self.link.session:
                self.link.lost(now, reason)
                self.router.on_relay_down(now)
            return
        log.info("session.down", peer=session.peer.node_id, reason=reason)
        self._guard.close(session, now, tell=tell)
