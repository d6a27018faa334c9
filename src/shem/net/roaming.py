"""This node or a peer is at another address, or back: what follows from it (spec §6.7). Pure.

* Our own address has changed, and we see it: a new relay session is begun, and every peer concerned
  is dialled where it was, both at once and with nobody's help.
* The network is back as it was: what we believe in is asked about.
* An address refuses our datagrams (ICMP, which anybody can forge): who is there is asked, no more.
* The relay says that a peer is back, or that it wants to be dialled: if it is elsewhere than its
  session, it is dialled there, beside it.

A session moves only by a handshake, in which the peer proves who it is.
"""

from collections.abc import Set
from typing import Final

from shem.kernel.ids import NodeId, node_id_from_bytes
from shem.kernel.rates import RateLimit
from shem.net.dialler import DialFailed, Dialler
from shem.net.outputs import Address
from shem.net.registry import read_endpoints
from shem.net.relay_link import RelayLink
from shem.net.router import Router
from shem.net.secure.guard import SessionGuard
from shem.net.session import Session
from shem.wire import relay as r

DIAL_BACK_RATE_PER_S: Final = 20.0
DIAL_BACK_BURST: Final = 100.0
RETURNED_MAX: Final = 1_024
"""Peers said to be back whose whereabouts are being asked."""
SEEN_MOVE_S: Final = 20.0
"""A public address that changes so soon after a move that we saw is no further move."""


class Roaming:
    """See the module."""

    def __init__(
        self, *, dialler: Dialler, link: RelayLink, router: Router, guard: SessionGuard
    ) -> None:
        self._dialler = dialler
        self._link = link
        self._router = router
        self._guard = guard
        self._last_public: Address | None = None
        self._moved_at = -SEEN_MOVE_S
        self._returned: dict[NodeId, None] = {}
        self._dial_back_limit = RateLimit(DIAL_BACK_RATE_PER_S, DIAL_BACK_BURST)

    # --- ourselves

    def on_network_changed(self, moved: Set[Address], back: Set[Address], now: float) -> None:
        """We talk to some addresses from another own one, or can talk to some again."""
        if self._link.address in moved:
            self._moved_at = now
            self._link.renew(now)
            self._router.on_relay_down(now)
        elif self._link.address in back:
            self._link.hurry(now)
        for session in self._router.sessions:
            if session.address in moved:
                self._redial(session, now)
            elif session.address in back:
                self._router.doubt(session, now)

    def on_registered(self, now: float) -> None:
        """The relay sees us somewhere: elsewhere than before if we have moved without noticing."""
        public, before = self._link.public_address, self._last_public
        self._last_public = public or before
        if not public or not before or public == before or self._link.session is None:
            return
        is_seen = now - self._moved_at < SEEN_MOVE_S
        limit = self._moved_at if is_seen else self._link.session.since
        for session in self._router.sessions:
            if session.since < limit:
                self._redial(session, now)

    def _redial(self, session: Session, now: float) -> None:
        assert session.peer is not None
        self._guard.close(session, now, tell=False)
        self._router.connect_at(session.peer.node_id, session.address, now)

    # --- others

    def on_refused(self, address: Address, now: float) -> DialFailed | None:
        """Take an ICMP error about an address."""
        if address == self._link.address:
            self._link.doubt(now)
        elif session := self._router.sessions.by_address.get(address):
            self._router.doubt(session, now)
        return self._dialler.on_refused(address)

    def on_returned(self, node_id: NodeId, now: float) -> None:
        """The relay says that this node has registered anew."""
        default = self._router.registry.default_of(node_id)
        is_known = self._router.sessions.find(default) is not None
        self._router.on_hint(node_id, now, from_relay=True)
        if is_known and len(self._returned) < RETURNED_MAX:
            self._returned[default] = None
            self._router.look_up(default, now)

    def on_looked_up(self, node_id: NodeId, now: float) -> None:
        """The relay has said where a node is, if it knows."""
        if node_id not in self._returned:
            return
        del self._returned[node_id]
        session = self._router.sessions.find(node_id)
        info = self._router.registry.find(node_id, now)
        if session is None or info is None or session.address in info.endpoints:
            return
        for endpoint in info.endpoints[:1]:
            self._dialler.dial(endpoint, node_id, now, forget_me=True)

    def on_dial_back(self, notice: r.DialBack, now: float) -> None:
        """A node asks through the relay to be dialled."""
        node_id = node_id_from_bytes(notice.node_id)
        address = next(iter(read_endpoints(notice.endpoints)), None)
        session = self._router.sessions.find(node_id)
        is_there = session is not None and session.address == address
        if address in (None, self._link.address) or is_there:
            return
        if self._dial_back_limit.allow(0, now):
            assert address is not None
            self._dialler.dial(address, node_id, now, forget_me=False)
