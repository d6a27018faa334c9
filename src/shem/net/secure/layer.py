"""What is encrypted, to and from whom: the layer between packets and routes. Sans IO.

    send ---> [channel?] --sealed--> route          route --sealed--> [opened once] ---> deliver
                 | no                                 |
                 Hello, answer, FINISH                plain: from those who never spoke encrypted

Rules (docs/protocol/encryption.md §5):
* before the first packet to a node a Hello is sent; what is to be sent waits for what comes of it;
* a refusal, or silence, means plain text under `preferred`, and nothing is sent under `required`;
* an identity that has once spoken encrypted is never believed or sent to in the clear again;
* a packet under an unknown number makes us say Hello, no more: the peer or we have restarted.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId
from shem.kernel.rates import RateLimit
from shem.kernel.world import Rng
from shem.net import outputs as out
from shem.net.keyring import Keyring
from shem.net.registry import Registry
from shem.net.secure.channel import Channel
from shem.net.secure.greetings import Attempt, Greetings
from shem.net.secure.links import Link, Links, Talk
from shem.net.secure.packets import (
    ANSWER,
    DATA,
    ENCRYPTED,
    FINISH,
    FLAGS,
    Hello,
    Kind,
    is_refusal,
    read_head,
    read_hello,
)
from shem.net.secure.pins import Pins
from shem.net.secure.trust import REFUSED_S, SILENT_S, Trust
from shem.net.secure.waiting import Waiting
from shem.net.session import Session
from shem.net.types import Peer
from shem.wire.forward import STREAM, UNRELIABLE

WATCH_INTERVAL_S: Final = 0.5
UNHEARD_S: Final = 6.0
"""Sending so long without opening anything: the peer may have lost the channel."""
SIGN_AFTER_S: Final = 2.0
"""Opening so long without sending anything: the peer is told that its packets arrive."""
USED_WITHIN_S: Final = 60.0
"""Only a channel in use is renewed."""
RENEWAL_PATIENCE_S: Final = 60.0
"""How much longer the node with the greater id waits, so that not both renew at once."""
HELLO_RATE_PER_S: Final = 2.0
HELLO_BURST: Final = 6.0
"""Hellos answered per node: each costs half a millisecond."""
LOST_RATE_PER_S: Final = 0.5
LOST_BURST: Final = 2.0
"""Hellos that packets under unknown numbers make us send, per node."""

log = structlog.get_logger()


class Way(Protocol):
    """What this layer needs of `router.Router`."""

    def send(
        self, node_id: NodeId, flags_and_payload: bytes, now: float, over: Session | None = None
    ) -> None: ...
    def route_of(self, node_id: NodeId) -> str | None: ...
    def connect(self, node_id: NodeId, now: float) -> object: ...
    def distrust(self, node_id: NodeId) -> None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """Something to deliver, and from whom it is: the channel's peer, or who sent it plainly."""

    peer: Peer
    kind: Kind
    payload: bytes

    def is_sealed_by(self, peer: Peer | None) -> bool:
        return (
            peer is not None
            and self.peer.assurance is Assurance.ENCRYPTED
            and self.peer.node_id == peer.node_id
        )


class Secure:
    """See the module; node ids are default ones, as `default_of` knows them."""

    def __init__(
        self,
        rng: Rng,
        keys: Keyring,
        *,
        way: Way,
        registry: Registry,
        policy: Encryption,
        pins: Pins | None = None,
    ) -> None:
        self._keys = keys
        self._way = way
        self._registry = registry
        self._trust = Trust(policy, pins or Pins())
        self._greetings = Greetings(rng, keys)
        self._links = Links()
        self._waiting = Waiting(registry.default_of)
        self._outputs: list[out.Output] = []
        self._next_watch = 0.0
        self._hello_limit = RateLimit(HELLO_RATE_PER_S, HELLO_BURST)
        self._lost_limit = RateLimit(LOST_RATE_PER_S, LOST_BURST)

    # --- sending

    def is_ready(self, node_id: NodeId, now: float) -> bool:
        """Tell whether packets to the node need not wait for a handshake."""
        return (
            self._trust.is_off
            or self._links.current(node_id, now) is not None
            or self._trust.is_legacy(node_id, now)
        )

    def channel(self, node_id: NodeId, now: float) -> Channel | None:
        """Return the channel to send on: what both sides have proven stands there."""
        link = self._links.current(node_id, now)
        return link.channel if link else None

    def renew(self, target: NodeId, now: float) -> None:
        """Open a channel in the place of one whose proofs are out of date; then comes RouteUp."""
        self.want(target)
        self._say_hello(self._registry.default_of(target), now)

    def renew_used(self, now: float) -> None:
        """The same for all that were used lately: they go on, and nobody waits."""
        for peer, talk in self._links.talks():
            if now - talk.used_at < USED_WITHIN_S:
                self._say_hello(peer, now)

    def has_channel(self, node_id: NodeId, now: float) -> bool:
        return self._links.current(node_id, now) is not None

    def want(self, target: NodeId) -> None:
        """Say RouteUp when the next route to a node is ready."""
        self._waiting.want(target)

    def connect(self, target: NodeId, now: float) -> None:
        """Make a route to a node, and a channel if it can; then comes RouteUp or RouteFailed."""
        self.want(target)
        self._greet(self._registry.default_of(target), now)

    def send(self, node_id: NodeId, kind: Kind, payload: bytes, now: float) -> None:
        """Send sealed, or plainly where that is right; hold while it is found out."""
        if link := self._links.current(node_id, now):
            self._seal(link, kind, payload, now)
        elif self.is_ready(node_id, now):
            self._send_plain(node_id, kind, payload, now)
        else:
            self._waiting.hold(node_id, kind, payload)
            self._greet(node_id, now)

    def seal(self, node_id: NodeId, kind: Kind, payload: bytes, now: float) -> bytes | None:
        """Return flags and sealed packet for those who know the way themselves."""
        link = self._links.current(node_id, now)
        return FLAGS + link.channel.seal(kind, payload) if link else None

    # --- what arrives

    def receive(
        self, sender: Peer, flags: int, payload: bytes, now: float, over: Session | None = None
    ) -> list[Opened]:
        """Take a Forward from a session, or from the relay; return what is in it for others.

        Handshakes are answered the way they come: the session may be newer than the route.
        """
        if not flags & ENCRYPTED:
            return self._on_plain(sender, flags, payload, now, over)
        if self._trust.is_off:
            return []
        try:
            packet_type, number = read_head(payload)
            if packet_type == DATA:
                return self._on_data(sender, number, payload, now)
            if packet_type == ANSWER:
                self._on_answer(number, payload, now, over)
            elif packet_type == FINISH:
                return self._on_finish(number, payload, now, over)
        except PeerError as error:
            log.debug("secure.refused", sender=sender.node_id, reason=error.message)
        return []

    def on_route_up(self, node_id: NodeId, now: float) -> None:
        """There is a way to this node: begin what was waiting for one."""
        if node_id in self._waiting:
            self._greet(node_id, now)

    def on_route_failed(self, node_id: NodeId, reason: str) -> None:
        self._fail(node_id, reason)

    # --- time

    def outputs(self) -> list[out.Output]:
        """Hand over what is to be known: routes ready or not, streams to probe or to drop."""
        taken, self._outputs = self._outputs, []
        return taken

    def tick(self, now: float) -> None:
        again, failed = self._greetings.due(now)
        for attempt in again:
            self._transmit(attempt, now)
        for attempt in failed:
            self._on_silence(attempt, now)
        for link in self._links.finishes_due(now):
            if link.finish is not None:
                self._way.send(link.channel.peer_id, FLAGS + link.finish, now)
        if self._next_watch <= now:
            self._next_watch = now + WATCH_INTERVAL_S
            self._watch(now)

    def next_deadline(self) -> float | None:
        watch = self._next_watch if self._links else None
        times = (self._greetings.next_deadline(), self._links.next_finish(), watch)
        return min((time for time in times if time is not None), default=None)

    def _watch(self, now: float) -> None:
        self._greetings.forget_old(now)
        self._links.expire(now)
        for peer, talk in self._links.talks():
            link = talk.links[0]
            if talk.owing_since is not None and now - talk.owing_since >= SIGN_AFTER_S:
                self._seal(link, Kind.SIGN_OF_LIFE, b"", now)
            is_unheard = talk.unheard_since is not None and now - talk.unheard_since >= UNHEARD_S
            if is_unheard or self._wants_renewal(talk, now):
                talk.unheard_since = None
                self._say_hello(peer, now)

    def _wants_renewal(self, talk: Talk, now: float) -> bool:
        channel = talk.links[0].channel
        is_first = self._keys.default_id < channel.peer_id
        patience_s = 0.0 if is_first else RENEWAL_PATIENCE_S
        return now - talk.used_at < USED_WITHIN_S and channel.wants_renewal(now - patience_s)

    # --- plain text

    def _send_plain(self, node_id: NodeId, kind: Kind, payload: bytes, now: float) -> None:
        flags = UNRELIABLE if kind is Kind.UNRELIABLE else STREAM
        if kind is Kind.STREAM:
            self._trust.note_plain_stream(node_id)
        self._way.send(node_id, flags.to_bytes(2, "big") + payload, now)

    def _on_plain(
        self, sender: Peer, flags: int, payload: bytes, now: float, over: Session | None
    ) -> list[Opened]:
        kind = Kind.UNRELIABLE if flags & UNRELIABLE else Kind.STREAM
        if self._trust.is_off:
            return [Opened(sender, kind, payload)]
        if kind is Kind.UNRELIABLE and self._is_about_channels(sender, payload, now, over):
            return []
        believed = self._trust.believed(sender)
        if believed is None:
            log.debug("secure.plain_refused", sender=sender.node_id)
            return []
        if kind is Kind.STREAM:
            self._trust.note_plain_stream(sender.node_id)
        return [Opened(believed, kind, payload)]

    def _is_about_channels(
        self, sender: Peer, payload: bytes, now: float, over: Session | None
    ) -> bool:
        attempt = self._greetings.attempt_for(sender.node_id)
        if attempt is not None and is_refusal(payload, attempt.request_id):
            self._on_refused(attempt, now)
            return True
        try:
            hello = read_hello(payload)
            if hello is not None:
                self._on_hello(sender, hello, now, over)
        except PeerError as error:
            log.debug("secure.refused", sender=sender.node_id, reason=error.message)
            return True
        return hello is not None

    def _on_hello(self, sender: Peer, hello: Hello, now: float, over: Session | None) -> None:
        if hello.initiator != sender.node_id or hello.initiator in self._keys:
            if over is None and self._lost_limit.allow(sender.node_id, now):
                self._way.distrust(sender.node_id)
            raise PeerError(f"a Hello in the name of {hello.initiator}")
        if self._hello_limit.allow(sender.node_id, now):
            number = self._greetings.new_number(self._links)
            answer = self._greetings.answer(hello, number, now)
            self._trust.note_hello(sender.node_id)
            self._way.send(sender.node_id, FLAGS + answer, now, over)

    # --- our Hello, and what comes of it

    def _greet(self, node_id: NodeId, now: float) -> None:
        """Settle what waits for this node, or do what it waits for."""
        if self._way.route_of(node_id) is None:
            self._way.connect(node_id, now)
        elif self.is_ready(node_id, now):
            self.settle(node_id, now)
        elif reason := self._trust.is_given_up(node_id, now):
            self._fail(node_id, reason)
        else:
            self._say_hello(node_id, now)

    def _say_hello(self, node_id: NodeId, now: float) -> None:
        if node_id in self._greetings or self._way.route_of(node_id) is None:
            return
        if self._greetings.is_full:
            self._fail(node_id, "too many handshakes")
            return
        self._greetings.begin(node_id, self._greetings.new_number(self._links), now)
        for attempt in self._greetings.due(now)[0]:
            self._transmit(attempt, now)

    def _transmit(self, attempt: Attempt, now: float) -> None:
        self._way.send(attempt.target, UNRELIABLE.to_bytes(2, "big") + attempt.message, now)

    def _on_refused(self, attempt: Attempt, now: float) -> None:
        self._greetings.end(attempt.target)
        self._go_without(attempt.target, REFUSED_S, "does not speak encrypted", now)

    def _on_silence(self, attempt: Attempt, now: float) -> None:
        if self._way.route_of(attempt.target) == "relayed":
            self._way.distrust(attempt.target)
        self._go_without(attempt.target, SILENT_S, "does not answer an encrypted Hello", now)

    def _go_without(self, node_id: NodeId, for_s: float, reason: str, now: float) -> None:
        if self._links.current(node_id, now) is not None:
            self.settle(node_id, now)  # anybody could have said so: the channel goes on
            return
        if self._trust.may_be_plain(node_id):
            self._trust.note_legacy(node_id, now + for_s)
            log.info("secure.plain", peer=node_id, why=reason)
            self._greet(node_id, now)
            return
        log.warning("secure.impossible", peer=node_id, why=reason)
        self._trust.note_given_up(node_id, f"{node_id} {reason}", now)
        self._fail(node_id, f"{node_id} {reason}")

    def _on_answer(self, number: int, packet: bytes, now: float, over: Session | None) -> None:
        attempt = self._greetings.attempt_numbered(number)
        if attempt is None:
            return
        agreed, finish = attempt.initiator.on_answer(packet)
        if agreed.peer_ids[0] != attempt.target:
            raise PeerError(f"{agreed.peer_ids[0]} answers for {attempt.target}")
        self._way.send(attempt.target, FLAGS + finish, now, over)
        channel = Channel(agreed, now)
        if not self._refuse_superseded(channel, now, over):
            self._open_link(channel, finish, now)
            self.settle(attempt.target, now)

    def _on_finish(
        self, number: int, packet: bytes, now: float, over: Session | None
    ) -> list[Opened]:
        if link := self._links.by_number(number):  # our sign of life was lost
            if self._hello_limit.allow(number, now):
                self._seal(link, Kind.SIGN_OF_LIFE, b"", now, over)
            return []
        half_open = self._greetings.half_open(number)
        if half_open is None:
            return []
        agreed = half_open.responder.on_finish(packet)
        self._greetings.complete(number)
        channel = Channel(agreed, now)
        if self._refuse_superseded(channel, now, over):
            return []
        link = self._open_link(channel, None, now)
        self._seal(link, Kind.SIGN_OF_LIFE, b"", now, over)
        self.settle(link.channel.peer_id, now)
        return [opened for each in half_open.early for opened in self._open_early(link, each, now)]

    def _refuse_superseded(self, channel: Channel, now: float, over: Session | None) -> bool:
        """The newest process of a node is the one that counts: tell an older one so."""
        if not self._links.is_superseded(channel):
            return False
        log.warning("secure.second_instance", peer=channel.peer_id)
        packet = channel.seal(Kind.SUPERSEDED, b"")
        self._way.send(channel.peer_id, FLAGS + packet, now, over)
        return True

    def _open_link(self, channel: Channel, finish: bytes | None, now: float) -> Link:
        peer, agreed = channel.peer_id, channel.agreed
        is_other_process = self._links.add(channel, finish, now)
        self._greetings.end(peer)
        self._registry.learn_proven(peer, channel.identities)
        if not self._next_watch:
            self._next_watch = now + WATCH_INTERVAL_S
        if self._trust.note_channel(agreed.peer_ids, now):
            self._outputs.append(out.StreamsTainted(peer))
        if is_other_process:
            self._outputs += (out.RouteShaken(peer), out.PeerUp(peer))
        self._outputs.append(out.ChannelUp(peer))
        log.info("secure.up", peer=peer, opened=agreed.is_initiator)
        link = self._links.by_number(agreed.own_number)
        assert link is not None
        return link

    # --- data

    def _seal(
        self, link: Link, kind: Kind, payload: bytes, now: float, over: Session | None = None
    ) -> None:
        peer = link.channel.peer_id
        talk = self._links.talk(peer)
        assert talk is not None
        talk.owing_since = None
        if kind is not Kind.SIGN_OF_LIFE:
            talk.used_at = now
            if talk.unheard_since is None:
                talk.unheard_since = now
        self._way.send(peer, FLAGS + link.channel.seal(kind, payload), now, over)

    def _on_data(self, sender: Peer, number: int, packet: bytes, now: float) -> list[Opened]:
        if link := self._links.by_number(number):
            return self._open(link, packet, now)
        if half_open := self._greetings.half_open(number):
            half_open.early.append(packet)
        elif sender.node_id not in self._keys and self._lost_limit.allow(sender.node_id, now):
            self._say_hello(sender.node_id, now)
        return []

    def _open_early(self, link: Link, packet: bytes, now: float) -> list[Opened]:
        try:
            return self._open(link, packet, now)
        except PeerError:
            return []

    def _open(self, link: Link, packet: bytes, now: float) -> list[Opened]:
        kind, payload = link.channel.open(packet)
        link.finish = None
        if kind is Kind.SUPERSEDED:
            self._on_superseded(link.channel.peer_id, now)
            return []
        talk = self._links.talk(link.channel.peer_id)
        assert talk is not None
        talk.unheard_since = None
        if kind is not Kind.SIGN_OF_LIFE:
            talk.used_at = now
            if talk.owing_since is None:
                talk.owing_since = now
        return [Opened(link.peer, kind, payload)]

    def _on_superseded(self, node_id: NodeId, now: float) -> None:
        log.warning("secure.superseded", peer=node_id)
        reason = f"{node_id} talks to a newer process with our identity"
        self._links.forget(node_id)
        self._trust.note_given_up(node_id, reason, now)
        self._fail(node_id, reason)

    # --- what waits

    def settle(self, node_id: NodeId, now: float) -> None:
        """It is known how to talk to this node."""
        is_wanted, packets = self._waiting.take(node_id)
        if is_wanted:
            self._outputs.append(out.RouteUp(node_id))
        for kind, payload in packets:
            self.send(node_id, kind, payload, now)

    def _fail(self, node_id: NodeId, reason: str) -> None:
        self._greetings.end(node_id)
        self._waiting.take(node_id)
        self._outputs.append(out.RouteFailed(node_id, reason))
