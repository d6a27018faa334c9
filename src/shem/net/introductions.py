"""Who has proven what to whom, when identities come or go while sessions last.

A message in the name of an identity leaves only when its receiver has had proof that the identity
is ours, and only to somebody who has proven to be whom it is for. What is missing is made up for:
on an encrypted channel by a new one in its place, on a plain session by a new handshake, and where
only the relay vouches for us, by a new registration there. What is under way goes on meanwhile.

A yagna with a session does not answer a new greeting. It does not ask who speaks either, and looks
the speaker up at the relay; to end the session would confuse it (net.md §6.8). So a peer that keeps
silent is one to which anything may be said. Pure. Spec: docs/protocol/net.md §1.1, §6.4.
"""

from collections import deque
from typing import Final

from shem.kernel.ids import NodeId
from shem.net.dialler import Dialler
from shem.net.keyring import Keyring
from shem.net.relay_link import RelayLink
from shem.net.router import Router
from shem.net.secure.layer import Secure
from shem.net.session import Session

AGAIN_S: Final = 2.0
"""How long a node that did not prove to be an identity is not asked for that again."""
ASKED_MAX: Final = 1_024
"""Identities for which their nodes were asked; the one asked for first is forgotten first."""
PATIENCE_S: Final = 0.6
"""How long a peer with a plain session may take to answer a greeting on it."""
GREETED_MAX: Final = 1_024
"""Sessions on which we have greeted again; the first is forgotten first."""


class Introductions:
    """See the module; `sender` None or the default identity needs no introduction."""

    def __init__(
        self, keys: Keyring, secure: Secure, router: Router, dialler: Dialler, link: RelayLink
    ) -> None:
        self._keys = keys
        self._secure = secure
        self._router = router
        self._dialler = dialler
        self._link = link
        self._asked: dict[NodeId, float] = {}
        self._greeted: dict[NodeId, tuple[Session, float]] = {}
        self._patience: deque[tuple[float, NodeId]] = deque()

    def is_ready(self, node_id: NodeId, now: float, sender: NodeId | None = None) -> bool:
        """Tell whether packets to this identity leave at once, to nobody else, known as ours."""
        default = self._router.registry.default_of(node_id)
        if not self._has_way(default, now):
            return False
        theirs = self._theirs(default, now)
        return (theirs is None or node_id in theirs) and self._knows(default, sender, now)

    def connect(self, node_id: NodeId, now: float, sender: NodeId | None = None) -> None:
        """Do the next thing that packets to this identity wait for; then comes RouteUp."""
        default = self._router.registry.default_of(node_id)
        if not self._has_way(default, now):
            self._secure.connect(node_id, now)
        elif not self._knows(default, sender, now):
            self._introduce(node_id, default, now, sender)
        elif now - self._asked.get(node_id, -AGAIN_S) < AGAIN_S:
            self._secure.connect(node_id, now)  # it has not proven to be this one
        else:
            self._asked.pop(node_id, None)
            self._asked[node_id] = now
            if len(self._asked) > ASKED_MAX:
                del self._asked[next(iter(self._asked))]
            self._prove_again(node_id, default, now)

    def on_own_changed(self, now: float) -> None:
        """Our identities are others now: tell the relay, and those with whom we speak."""
        self._link.refresh(now)
        self._secure.renew_used(now)
        for session in self._router.sessions:
            is_known = session.peer is None or self._keys.ids <= session.own_ids
            if (
                session.peer
                and not is_known
                and not self._secure.channel(session.peer.node_id, now)
            ):
                self._greet(session.peer.node_id, session, now)

    def tick(self, now: float) -> None:
        while self._patience and self._patience[0][0] <= now:
            self._secure.settle(self._patience.popleft()[1], now)

    def next_deadline(self) -> float | None:
        return self._patience[0][0] if self._patience else None

    def _has_way(self, default: NodeId, now: float) -> bool:
        return self._router.route_of(default) is not None and self._secure.is_ready(default, now)

    def _theirs(self, default: NodeId, now: float) -> frozenset[NodeId] | None:
        """Return what the peer has proven; None when only the relay speaks for it."""
        if channel := self._secure.channel(default, now):
            return channel.identities
        session = self._router.sessions.find(default)
        return session.peer.identities if session and session.peer else None

    def _knows(self, default: NodeId, sender: NodeId | None, now: float) -> bool:
        if sender is None or sender == self._keys.default_id:
            return True
        if channel := self._secure.channel(default, now):
            return sender in channel.agreed.own_ids
        if self._link.is_up and not self._link.has_proven(sender):
            return False  # a peer that looks us up would find nobody
        session = self._router.sessions.find(default)
        if session is None or sender in session.own_ids:
            return True
        greeted, until = self._greeted.get(default, (None, now))
        is_answering = self._dialler.has_answered(session.address)
        return greeted is session and until <= now and not is_answering

    def _introduce(
        self, node_id: NodeId, default: NodeId, now: float, sender: NodeId | None
    ) -> None:
        is_plain = self._secure.channel(default, now) is None
        if (
            is_plain
            and sender is not None
            and self._link.is_up
            and not self._link.has_proven(sender)
        ):
            self._link.refresh(now)  # its end is told by RelayUp
        else:
            self._prove_again(node_id, default, now)

    def _prove_again(self, node_id: NodeId, default: NodeId, now: float) -> None:
        if self._secure.channel(default, now):
            self._secure.renew(node_id, now)
        elif session := self._router.sessions.find(default):
            self._secure.want(node_id)
            self._greet(default, session, now)

    def _greet(self, default: NodeId, session: Session, now: float) -> None:
        if self._dialler.dial(session.address, default, now, forget_me=False):
            self._greeted.pop(default, None)
            self._greeted[default] = session, now + PATIENCE_S
            if len(self._greeted) > GREETED_MAX:
                del self._greeted[next(iter(self._greeted))]
            self._patience.append((now + PATIENCE_S, default))
