"""Direct sessions with peers that have a channel: their control packets travel inside it.

In the clear only what makes a session is taken (handshakes, Resume, and Pings, which anybody may
send). The rest is forged, or from a peer that has lost the channel: Disconnected and 401 are hints,
upon which the peer is asked and dialled anew, not more often than the limit; Pause and Pong are
ignored.

A new session with such a peer is only a candidate while there is another way to it: handshakes can
be passed on by whoever wants to stand between. It is used once the peer has named it within the
channel, over itself. Pure. Spec: docs/protocol/encryption.md §6.
"""

from typing import Final

from shem.kernel.ids import NodeId
from shem.kernel.rates import RateLimit
from shem.net.dialler import Dialler
from shem.net.outputs import SendDatagram
from shem.net.post import Post
from shem.net.requests import LATENCY_PING
from shem.net.router import Router
from shem.net.secure.layer import Secure
from shem.net.secure.packets import Kind
from shem.net.session import MeasureLatency, Session
from shem.wire import relay as r
from shem.wire.forward import FORWARD_BYTE
from shem.wire.relay_codec import decode_packet, encode_packet

HINT_RATE_PER_S: Final = 0.5
HINT_BURST: Final = 2.0
"""Unauthenticated hints followed per node."""
CANDIDATE_S: Final = 8.0
"""How long a new session may take to be confirmed: longer than who dials us waits for our proof,
which is lost now and then."""
_SESSION_ID: Final = slice(2, 18)
"""Where a control packet that has a session id has it."""


class SessionGuard:
    """See the module."""

    def __init__(self, post: Post, router: Router, dialler: Dialler, secure: Secure) -> None:
        self._post = post
        self._router = router
        self._dialler = dialler
        self._secure = secure
        self._hints = RateLimit(HINT_RATE_PER_S, HINT_BURST)
        self._candidates: dict[NodeId, Session] = {}

    def protects(self, session: Session, now: float) -> bool:
        return session.peer is not None and self._secure.has_channel(session.peer.node_id, now)

    def admits(self, packet: r.Packet, session: Session, now: float) -> bool:
        """Tell whether a control packet in the clear is acted on."""
        match packet.content:
            case r.Request(_, r.Ping() | r.Session()) | r.Control(r.ResumeForwarding()):
                return True
            case r.Response(_, code, _) if code == r.Code.UNAUTHORIZED:
                self._on_hint(session, now)
                return False
            case r.Response(_, _, r.Session()):
                return True
            case r.Control(r.Disconnected() as notice) if notice.session_id is None:
                return True  # nobody obeys these anyway
            case r.Control(r.Disconnected()):
                self._on_hint(session, now)
                return False
        return False

    # --- new sessions

    def take(self, session: Session, now: float) -> None:
        """Use a new session at once, or keep it as a candidate; then ask for its latency."""
        assert session.peer is not None
        node_id = session.peer.node_id
        known = self._router.sessions.find(node_id)
        is_elsewhere = known.address != session.address if known else True
        if is_elsewhere and self.protects(session, now) and self._router.route_of(node_id):
            if before := self._candidates.pop(node_id, None):
                self._drop(before)
            self._router.sessions.hear(session)
            self._candidates[node_id] = session
        else:
            self._router.on_session(session, now)
        self._ask(session, now)

    def confirm(self, session: Session, now: float) -> None:
        """The peer names this session within the channel: it is no one else's."""
        assert session.peer is not None
        if self._candidates.get(session.peer.node_id) is session:
            del self._candidates[session.peer.node_id]
            self._router.on_session(session, now)

    def on_channel(self, node_id: NodeId, now: float) -> None:
        """Ask again what could not be asked without the channel."""
        if candidate := self._candidates.get(node_id):
            self._post.requests.cancel(MeasureLatency(candidate.session_id))
            self._ask(candidate, now)

    def watch(self, now: float) -> None:
        """Drop candidates that were not confirmed, or are no longer listened to."""
        for node_id, session in tuple(self._candidates.items()):
            is_heard = self._router.sessions.by_address.get(session.address) is session
            if not is_heard or session.is_older_than(CANDIDATE_S, now):
                del self._candidates[node_id]
                self._drop(session)

    def _ask(self, session: Session, now: float) -> None:
        self._post.requests.start(
            MeasureLatency(session.session_id),
            session.address,
            session.session_id,
            r.Ping(),
            pattern=LATENCY_PING,
            now=now,
        )

    def _drop(self, session: Session) -> None:
        self._router.sessions.remove(session)
        self._post.requests.cancel(MeasureLatency(session.session_id))
        self._post.disconnect(session.session_id, session.address)

    # --- what leaves

    def sealed(self, output: SendDatagram, now: float) -> SendDatagram:
        """Return a Ping or Pong on a protected session inside the channel, all else as it is."""
        data, address = output.data, output.address
        session = self._router.sessions.by_address.get(address)
        if session is None or data[:1] == FORWARD_BYTE or data[_SESSION_ID] != session.session_id:
            return output
        match decode_packet(data).content:
            case r.Request(_, r.Ping()) | r.Response(_, _, r.Pong()):
                return self._seal(session, data, now) or output
        return output

    def close(self, session: Session, now: float, *, tell: bool) -> None:
        """End a session; tell the peer so that it believes it."""
        assert session.peer is not None
        if self._candidates.get(session.peer.node_id) is session:
            del self._candidates[session.peer.node_id]
            self._drop(session)
            return
        if tell:
            notice = r.Control(r.Disconnected(session_id=session.session_id))
            data = encode_packet(r.Packet(session.session_id, notice))
            datagram = self._seal(session, data, now) or SendDatagram(data, session.address)
            self._post.emit(datagram)
        self._router.close(session, tell=False)

    def _seal(self, session: Session, data: bytes, now: float) -> SendDatagram | None:
        assert session.peer is not None
        packet = self._secure.seal(session.peer.node_id, Kind.CONTROL, data, now)
        return SendDatagram(session.head + packet, session.address) if packet else None

    def _on_hint(self, session: Session, now: float) -> None:
        """Ask the peer, and at the same time dial it: it may have restarted."""
        assert session.peer is not None
        node_id = session.peer.node_id
        if self._hints.allow(node_id, now):
            session.is_doubted = True
            self._router.doubt(session, now)
            self._dialler.dial(session.address, node_id, now, forget_me=False)
