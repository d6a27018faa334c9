"""Which way packets go to a node: direct, after a reverse connection, or relayed (spec §6.3).

    no route -> RELAY -> LOOKUP -> DIRECT (each endpoint) -> REVERSE (if we are public) -> relayed

Packets sent meanwhile are held. A session that comes up from either side ends the search. What is
said about a node from outside puts its session in doubt, no more: the session is pinged, and the
record is fetched afresh the next time. Pure.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.net.acceptor import Acceptor
from shem.net.dialler import Dialler
from shem.net.keyring import Keyring
from shem.net.outputs import (
    Address,
    NodeFound,
    PeerUp,
    RouteFailed,
    RouteShaken,
    RouteUp,
)
from shem.net.post import Post
from shem.net.registry import Registry, read_node
from shem.net.relay_link import RelayLink
from shem.net.requests import ASK, DOUBT_PING, IDLE_PING, RETURN_PING, Pattern
from shem.net.session import FRESH_S, CheckAlive, PeerSessions, Session
from shem.net.types import NodeInfo
from shem.wire import relay as r
from shem.wire.forward import forward_head

SEARCHES_MAX: Final = 1_024
HELD_MAX: Final = 128
"""Packets held per search; the oldest is dropped first."""
RELAY_WAIT_S: Final = 10.0
"""How long a search waits for our own relay session."""
REVERSE_WAIT_S: Final = 3.0
REVERSE_COMPLETE_S: Final = 13.0
ENDPOINTS_MAX: Final = 4
"""Addresses tried per node."""
RELAYED_MAX: Final = 8_192
SILENCE_S: Final = 20.0
"""Traffic of a relayed peer after so long a silence is a sign of life."""


class Step(StrEnum):
    """Where a search stands."""

    RELAY = "relay"
    LOOKUP = "lookup"
    DIRECT = "direct"
    REVERSE = "reverse"


@dataclass(frozen=True, slots=True)
class LookUp:
    """Purpose of a Node request."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Reverse:
    """Purpose of a ReverseConnection request."""

    node_id: NodeId


@dataclass(slots=True, eq=False)
class _Search:
    target: NodeId
    step: Step = Step.LOOKUP
    deadline: float = 0.0
    info: NodeInfo | None = None
    endpoints: list[Address] = field(default_factory=list)
    dialled: Address | None = None
    held: deque[bytes] = field(default_factory=lambda: deque(maxlen=HELD_MAX))
    """Flags and payload."""

    @property
    def is_blind(self) -> bool:
        """The node is dialled where it was, and the relay has not yet said where it is."""
        return self.step is Step.DIRECT and self.info is None


@dataclass(slots=True, eq=False)
class _Relayed:
    slot: int
    head: bytes
    heard_at: float


class Router:
    """Routes and the searches for them; both are keyed by default node ids."""

    def __init__(
        self,
        post: Post,
        *,
        dialler: Dialler,
        acceptor: Acceptor,
        link: RelayLink,
        keys: Keyring,
        own_addresses: frozenset[Address],
    ) -> None:
        self.registry = Registry()
        self.sessions = PeerSessions()
        self._post = post
        self._dialler = dialler
        self._acceptor = acceptor
        self._link = link
        self._keys = keys
        self._own_addresses = own_addresses
        self._searches: dict[NodeId, _Search] = {}
        self._relayed: dict[NodeId, _Relayed] = {}

    # --- sending

    def route_of(self, node_id: NodeId) -> str | None:
        """Return `direct`, `relayed`, or None when there is no route."""
        default = self.registry.default_of(node_id)
        if self.sessions.find(default):
            return "direct"
        return "relayed" if default in self._relayed else None

    def peer_at(self, address: Address) -> NodeId | None:
        """Return who has a session with this address, or is looked for there."""
        if session := self.sessions.by_address.get(address):
            return session.peer.node_id if session.peer else None
        return next((s.target for s in self._searches.values() if s.dialled == address), None)

    def send(
        self, node_id: NodeId, flags_and_payload: bytes, now: float, over: Session | None = None
    ) -> None:
        """Send a packet, over a given session or the best route; without one search it."""
        if over is not None:
            over.send_forward(self._post, over.head + flags_and_payload, now)
            return
        default = self.registry.default_of(node_id)
        if session := self.sessions.find(default):
            session.send_forward(self._post, session.head + flags_and_payload, now)
        elif (relayed := self._relayed.get(default)) and self._link.session:
            self._link.session.send_forward(self._post, relayed.head + flags_and_payload, now)
        elif search := self.connect(default, now):
            search.held.append(flags_and_payload)

    def connect(self, node_id: NodeId, now: float) -> _Search | None:
        """Search a route, unless there is one or a search already."""
        default = self.registry.default_of(node_id)
        if default in self._keys or self.route_of(default):
            return None
        if default in self._searches:
            return self._searches[default]
        if len(self._searches) >= SEARCHES_MAX:
            self._post.emit(RouteFailed(default, "too many searches"))
            return None
        search = _Search(default)
        self._searches[default] = search
        self._look_up(search, now)
        return self._searches.get(default)

    def connect_at(self, node_id: NodeId, address: Address, now: float) -> None:
        """Search a route, first at an address where the node was lately: no relay is needed."""
        if (
            node_id in self._searches
            or self.route_of(node_id)
            or len(self._searches) > SEARCHES_MAX
        ):
            return
        search = _Search(node_id, Step.DIRECT, endpoints=[address])
        self._searches[node_id] = search
        self._next_endpoint(search, now)

    def look_up(self, node_id: NodeId, now: float) -> None:
        """Ask the relay about a node; answered by `NodeFound`."""
        if not self._link.session or not self._link.is_up:
            self._link.want(now)
            self._post.emit(NodeFound(node_id, None, "no relay session"))
            return
        self._ask(LookUp(node_id), r.FindNode(node_id_to_bytes(node_id)), now)

    # --- what arrives

    def on_looked_up(self, node_id: NodeId, response: r.Response | None, now: float) -> None:
        """Take the answer to a Node request; None when there was none."""
        info, reason = None, "the relay does not answer"
        if response is None:
            self._link.doubt(now)
        else:
            try:
                info, reason = self._read(response, now)
            except PeerError as error:
                reason = error.message
        self._post.emit(NodeFound(node_id, info, reason))
        search = self._searches.get(node_id)
        if search is None:
            return
        if search.is_blind and info is not None:
            self._see(search, info, now)
        elif search.step is Step.LOOKUP and info is None:
            self._fail(search, reason)
        elif search.step is Step.LOOKUP and info is not None:
            self._found(search, info, now)

    def on_reverse_answered(self, node_id: NodeId, response: r.Response | None, now: float) -> None:
        search = self._searches.get(node_id)
        if search is None or search.step is not Step.REVERSE:
            return
        if response is None or response.code != r.Code.OK:
            self._relay(search, now)

    def on_dial_failed(self, address: Address, now: float) -> None:
        for search in tuple(self._searches.values()):
            if search.step is Step.DIRECT and search.dialled == address:
                self.registry.expire(search.target)
                self._next_endpoint(search, now)

    def on_session(self, session: Session, now: float) -> None:
        """Take a new direct session, whoever dialled."""
        assert session.peer is not None
        node_id = session.peer.node_id
        self.registry.learn_proven(node_id, session.peer.identities)
        self._relayed.pop(node_id, None)
        for old in self.sessions.add(session):
            self._cancel_checks(old)
            assert old.peer is not None
            session.held.extend(old.held if old.peer.node_id == node_id else ())
            self._post.emit(RouteShaken(old.peer.node_id))
        self._post.emit(PeerUp(node_id))
        for alias in session.peer.identities:
            if search := self._searches.pop(alias, None):
                self._stop_dialling(search)
                self._flush(search, now)
        self._post.emit(RouteUp(node_id))

    def on_relayed(self, info: NodeInfo, now: float) -> None:
        """Take a packet that the relay brought from this node."""
        node_id = info.node_id
        if session := self.sessions.find(node_id):
            self.doubt(session, now)  # it would not go through the relay had it our session
            return
        relayed = self._relayed.get(node_id)
        if relayed is None:
            if node_id not in self._searches:
                self._add_relayed(info, heard_at=now)
                self._post.emit(RouteUp(node_id))
                self._post.emit(PeerUp(node_id))
            return
        if now - relayed.heard_at > SILENCE_S:
            self._post.emit(PeerUp(node_id))
        relayed.heard_at = now

    def on_hint(self, node_id: NodeId, now: float, *, from_relay: bool) -> None:
        """Somebody says that this node is gone or has moved (spec §6.6)."""
        default = self.registry.default_of(node_id)
        if session := self.sessions.find(default):
            self.doubt(session, now, RETURN_PING if from_relay else DOUBT_PING)
        if not from_relay:
            return
        self.registry.forget(default)
        self.drop_relayed(default)
        search = self._searches.get(default)
        if search and not (search.dialled and self._dialler.has_answered(search.dialled)):
            self._stop_dialling(search)
            self._look_up(search, now)
        self._post.emit(PeerUp(default))

    def doubt(self, session: Session, now: float, pattern: Pattern = DOUBT_PING) -> None:
        """Ping a session that ends unless the peer answers; let the streams probe as well."""
        purpose = CheckAlive(session.session_id)
        if purpose in self._post.requests or not session.is_older_than(FRESH_S, now):
            return
        assert session.peer is not None
        self._post.requests.start(
            purpose, session.address, session.session_id, r.Ping(), pattern=pattern, now=now
        )
        if pattern is not IDLE_PING:
            self._post.emit(RouteShaken(session.peer.node_id))

    def close(self, session: Session, *, tell: bool) -> None:
        """End a session; its route is searched again on demand."""
        assert session.peer is not None
        self.sessions.remove(session)
        self._cancel_checks(session)
        self.registry.forget(session.peer.node_id)
        if tell:
            self._post.disconnect(session.session_id, session.address)
        self._post.emit(RouteShaken(session.peer.node_id))

    def drop_relayed(self, node_id: NodeId) -> None:
        if self._relayed.pop(node_id, None):
            self._post.emit(RouteShaken(node_id))

    def distrust(self, node_id: NodeId) -> None:
        """What the relay said of a node cannot be true: its packets are ones of somebody else."""
        self.registry.forget(node_id)
        self.drop_relayed(node_id)

    def on_relay_up(self, now: float) -> None:
        session = self._link.session
        assert session is not None
        for relayed in self._relayed.values():  # of the session that this one succeeds
            relayed.head = forward_head(session.session_id, relayed.slot)
        for search in tuple(self._searches.values()):
            if search.step is Step.RELAY:
                self._look_up(search, now)
            elif search.is_blind:
                self.look_up(search.target, now)

    def on_relay_down(self, now: float) -> None:
        """Drop what depends on the relay session; searches wait for the next one."""
        self.registry.forget_slots()
        for search in self._searches.values():
            if search.step in (Step.LOOKUP, Step.REVERSE):
                self._post.requests.cancel(LookUp(search.target))
                self._post.requests.cancel(Reverse(search.target))
                self._post.emit(NodeFound(search.target, None, "the relay session is lost"))
                search.step, search.deadline = Step.RELAY, now + RELAY_WAIT_S
        for node_id in tuple(self._relayed):
            self.drop_relayed(node_id)

    def tick(self, now: float) -> None:
        for search in tuple(self._searches.values()):
            if search.deadline > now:
                continue
            if search.step is Step.RELAY:
                self._fail(search, "no relay session")
            elif search.step is Step.REVERSE:
                self._relay(search, now)

    def next_deadline(self) -> float | None:
        waiting = (Step.RELAY, Step.REVERSE)
        return min((s.deadline for s in self._searches.values() if s.step in waiting), default=None)

    # --- the steps of a search

    def _look_up(self, search: _Search, now: float) -> None:
        if not self._link.is_up:
            self._link.want(now)
            search.step, search.deadline = Step.RELAY, now + RELAY_WAIT_S
            return
        search.step = Step.LOOKUP
        if info := self.registry.find(search.target, now):
            self._found(search, info, now)
        else:
            self.look_up(search.target, now)

    def _see(self, search: _Search, info: NodeInfo, now: float) -> None:
        """Take what the relay says of a node that is being dialled where it was."""
        if search.dialled in info.endpoints or search.target != info.node_id:
            search.info = info
            return
        self._stop_dialling(search)
        self._found(search, info, now)

    def _found(self, search: _Search, info: NodeInfo, now: float) -> None:
        if info.node_id != search.target:  # the target was an alias
            del self._searches[search.target]
            other = self._searches.setdefault(info.node_id, search)
            if other is not search:
                other.held.extend(search.held)
                return
            search.target = info.node_id
        if self.route_of(search.target):
            self._complete(search, now)
            return
        barred = self._own_addresses | {self._link.public_address, self._link.address}
        search.info = info
        search.endpoints = [e for e in info.endpoints if e not in barred][:ENDPOINTS_MAX]
        search.step = Step.DIRECT
        self._next_endpoint(search, now)

    def _next_endpoint(self, search: _Search, now: float) -> None:
        while search.endpoints:
            address = search.endpoints.pop(0)
            is_known = search.info is None
            if self._dialler.dial(address, search.target, now, forget_me=True, is_known=is_known):
                search.dialled = address
                return
        search.dialled = None
        if search.info is None or not self._link.is_up:
            self._look_up(search, now)
            return
        if self._link.public_address is None:
            self._relay(search, now)
            return
        search.step, search.deadline = Step.REVERSE, now + REVERSE_WAIT_S
        self._ask(Reverse(search.target), r.AskReverse(node_id_to_bytes(search.target)), now)

    def _relay(self, search: _Search, now: float) -> None:
        if search.step is Step.REVERSE and self._acceptor.expects(search.target):
            if search.deadline <= now and search.info is not None:
                search.deadline = now + REVERSE_COMPLETE_S
            return
        assert search.info is not None
        if not self._link.is_up or not search.info.slot:
            self._fail(search, "neither direct nor relayed")
            return
        self._add_relayed(search.info, heard_at=-math.inf)
        self._complete(search, now)

    def _complete(self, search: _Search, now: float) -> None:
        self._searches.pop(search.target, None)
        self._flush(search, now)
        self._post.emit(RouteUp(search.target))

    def _fail(self, search: _Search, reason: str) -> None:
        del self._searches[search.target]
        self._stop_dialling(search)
        self._post.emit(RouteFailed(search.target, reason))

    def _flush(self, search: _Search, now: float) -> None:
        for packet in search.held:
            self.send(search.target, packet, now)

    def _stop_dialling(self, search: _Search) -> None:
        if search.dialled is not None:
            self._dialler.cancel(search.dialled, tell=True)
            search.dialled = None
        self._post.requests.cancel(Reverse(search.target))

    # --- small things

    def _ask(self, purpose: LookUp | Reverse, body: r.RequestBody, now: float) -> None:
        session = self._link.session
        assert session is not None
        self._post.requests.start(
            purpose, session.address, session.session_id, body, pattern=ASK, now=now
        )

    def _read(self, response: r.Response, now: float) -> tuple[NodeInfo | None, str]:
        if response.code != r.Code.OK or not isinstance(response.body, r.Node):
            return None, f"Request failed with code {response.code}"
        info = read_node(response.body)
        self.registry.learn(info, now)
        return info, ""

    def _add_relayed(self, info: NodeInfo, *, heard_at: float) -> None:
        session = self._link.session
        assert session is not None
        head = forward_head(session.session_id, info.slot)
        self._relayed[info.node_id] = _Relayed(info.slot, head, heard_at)
        if len(self._relayed) > RELAYED_MAX:
            del self._relayed[next(iter(self._relayed))]

    def _cancel_checks(self, session: Session) -> None:
        self._post.requests.cancel(CheckAlive(session.session_id))
