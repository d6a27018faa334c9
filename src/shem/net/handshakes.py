"""How handshakes end: with a session, or without one (docs/protocol/net.md §4).

`dialler` and `acceptor` take the steps of a handshake; here is what follows from the last one. When
two nodes dial each other at once, both agree on the session that the smaller id began.
"""

from typing import Final

import structlog

from shem.kernel.caller import Assurance
from shem.kernel.rates import RateLimit
from shem.net.acceptor import Acceptor, claimed_node
from shem.net.dialler import DialFailed, Dialler, Established
from shem.net.keyring import Keyring
from shem.net.outputs import Address
from shem.net.post import Post
from shem.net.relay_link import RelayLink
from shem.net.requests import Answer
from shem.net.router import Router
from shem.net.secure.guard import SessionGuard
from shem.net.session import Session
from shem.net.types import Peer
from shem.wire import relay as r

RESUME_AGAIN_S: Final = (0.15, 0.5, 1.2)
"""ResumeForwarding is not acknowledged, and without it a yagna stays silent."""

log = structlog.get_logger()


class Handshakes:
    """Those of one node."""

    def __init__(
        self,
        post: Post,
        *,
        dialler: Dialler,
        acceptor: Acceptor,
        link: RelayLink,
        router: Router,
        guard: SessionGuard,
        keys: Keyring,
        strangers: RateLimit,
    ) -> None:
        self._post = post
        self._dialler = dialler
        self._acceptor = acceptor
        self._link = link
        self._router = router
        self._guard = guard
        self._own_id = keys.default_id
        self._strangers = strangers

    def tick(self, now: float) -> None:
        self._dialler.tick(now)
        for address in self._dialler.overdue(now):
            self.on_undialled(address, now)

    def on_request(self, packet: r.Packet, body: r.Session, source: Address, now: float) -> None:
        """Take a message of somebody who dials us."""
        if not packet.session_id:
            claimed = claimed_node(body)
            if claimed is not None and claimed < self._own_id:
                # Both dial: the smaller id goes on, so that one session results.
                self._dialler.yield_to_peer(source, now)
        if established := self._acceptor.on_request(packet, body, source, now):
            self._establish(established, now)

    def on_late_proof(
        self, session_id: bytes, proof: r.ChallengeResponse, source: Address, now: float
    ) -> None:
        """Take up a session that we gave up, or tell the peer that it is none: it waits for it."""
        at_source = self._router.sessions.by_address.get(source)
        is_known = at_source is not None and at_source.is_named(session_id)
        if is_known or self._dialler.is_under_way(source, session_id):
            return
        if established := self._dialler.on_late_proof(source, session_id, proof):
            self._establish(established, now)
        elif session_id and source != self._link.address and self._strangers.allow(source, now):
            self._post.disconnect(session_id, source)

    def on_answer(self, answer: Answer, packet: r.Packet, now: float) -> None:
        """Take the answer to a message of a dial of ours."""
        match self._dialler.on_answer(answer, packet, now):
            case Established() as established:
                self._establish(established, now)
            case DialFailed() as failed:
                self.on_failed(failed, now)

    def on_failed(self, failed: DialFailed, now: float) -> None:
        """Tell who wanted the session that there will be none."""
        if failed.target is None:
            self._link.on_dialled(failed, now)
            return
        log.info("peer.undialled", peer=failed.target, address=failed.address, why=failed.reason)
        self._router.on_dial_failed(failed.address, now)

    def on_undialled(self, address: Address, now: float) -> None:
        """Nobody answers there, in time or any more."""
        is_dialling_us = self._acceptor.is_tried_by(address)
        if failed := self._dialler.on_unanswered(address, now, is_dialling_us=is_dialling_us):
            self.on_failed(failed, now)

    def _establish(self, established: Established, now: float) -> None:
        address, sid = established.address, established.session_id
        if address == self._link.address:
            self._link.on_dialled(established, now)
            return
        ids = tuple(proven.node_id for proven in established.proven)
        peer = Peer(ids[0], frozenset(ids), Assurance.PROVEN)
        if self._loses_crossing(established, peer, now):
            return
        self._dialler.cancel(address)
        is_initiator = established.is_initiator
        session = Session(address, sid, peer, now, now, established.own_ids, is_initiator)
        session.may_send = is_initiator
        if is_initiator:
            self._post.control(sid, r.ResumeForwarding(), address)
            for delay in RESUME_AGAIN_S:
                self._post.control(sid, r.ResumeForwarding(), address, at=now + delay)
        log.info("session.up", peer=peer.node_id, address=address, dialled=established.is_initiator)
        self._guard.take(session, now)

    def _loses_crossing(self, established: Established, peer: Peer, now: float) -> bool:
        """Both have dialled at once: agree on the session which the smaller id began."""
        we_are_smaller = self._own_id < peer.node_id
        if established.is_initiator is we_are_smaller:
            return False
        if we_are_smaller and self._dialler.has_answered(established.address):
            return True  # ours will be complete in a moment
        known = self._router.sessions.by_address.get(established.address)
        if known is None or not known.is_fresh(now):
            return False
        is_same = (known.peer, known.own_ids) == (peer, established.own_ids)
        return is_same and known.is_initiator is we_are_smaller
