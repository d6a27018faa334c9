"""The session with the relay: made, registered, kept alive, and made again (spec §4.1, §6.4).

    WAITING --due--> HANDSHAKE --> REGISTERING --> UP
       ^---------- any failure or loss -----------/

A lost session is replaced at once, then with exponential back-off; the cap is ten seconds, because
a node that is back must be found again quickly, and one second while something waits for it. When
our identities change, a successor is made beside the session, which goes on until the relay has
registered the successor. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.net.dialler import DialFailed, Dialler, Established
from shem.net.keyring import Keyring
from shem.net.outputs import Address, RelayDown, RelayUp
from shem.net.post import Post
from shem.net.registry import read_endpoints
from shem.net.requests import ASK, DOUBT_PING, IDLE_PING, LATENCY_PING, Pattern
from shem.net.session import CheckAlive, MeasureLatency, Session
from shem.wire import relay as r

BACKOFF_START_S: Final = 0.5
BACKOFF_MAX_S: Final = 10.0
AWAITED_MAX_S: Final = 1.0
"""The cap while the relay is needed for something."""
AWAITED_FOR_S: Final = 60.0
"""How long it counts as needed: callers rest up to half of that between two tries."""
MISNAMED_MAX: Final = 3
"""Sessions given up in a row because the relay does not find us; then it is let be."""
JITTER: Final = 0.3
REFRESH_AGAIN_S: Final = 2.0
"""When it is tried again to prove changed identities to the relay."""
FAREWELL_S: Final = 4.0
"""How long a session with a successor stays known at the relay: for what is under way."""

log = structlog.get_logger()


class State(StrEnum):
    """Where the link stands."""

    OFF = "off"
    WAITING = "waiting"
    HANDSHAKE = "handshake"
    REGISTERING = "registering"
    UP = "up"


class RegisterUs:
    """Purpose of the Register request."""


@dataclass(frozen=True, slots=True)
class FindUs:
    """Purpose of the question whether the relay knows us by our name."""

    session_id: bytes


class RelayLink:
    """One link; `address` is None for a node without a relay."""

    def __init__(
        self, post: Post, dialler: Dialler, keys: Keyring, address: Address | None
    ) -> None:
        self.address = address
        self.session: Session | None = None
        self.public_address: Address | None = None
        self.state = State.OFF
        self._post = post
        self._dialler = dialler
        self._keys = keys
        self._successor: Session | None = None
        self._refresh_at: float | None = None
        self._misnamed = 0
        self._backoff_s = 0.0
        self._retry_at = 0.0
        self._wanted_until = 0.0

    @property
    def is_up(self) -> bool:
        return self.state is State.UP

    def names(self, session_id: bytes) -> bool:
        """Tell whether the relay may use this id towards us."""
        sessions = (self.session, self._successor)
        return any(session is not None and session.is_named(session_id) for session in sessions)

    def has_proven(self, node_id: NodeId) -> bool:
        """Tell whether others can find this identity of ours at the relay."""
        return self.is_up and self.session is not None and node_id in self.session.own_ids

    def start(self, now: float, address: Address | None = None) -> None:
        """Begin, at the address that may have become known only now."""
        self.address = address or self.address
        if self.address is not None:
            self.state = State.WAITING
            self._retry_at = now

    def stop(self) -> None:
        """Leave the relay for good."""
        if self.session is not None and self.address is not None:
            self._post.disconnect(self.session.session_id, self.address)
        if self.address is not None:
            self._dialler.cancel(self.address)
        self._drop_successor()
        self._cancel_requests()
        self.session = None
        self.state = State.OFF

    def refresh(self, now: float) -> None:
        """Prove our present identities to the relay, unless they are what it knows."""
        is_busy = self._successor is not None or self.state is not State.UP
        if is_busy or self.address is None or self._dialler.is_dialling(self.address):
            return  # what is under way ends here again
        assert self.session is not None
        self._refresh_at = None
        if self.session.own_ids != self._keys.ids:
            self._dialler.dial_relay(self.address, now)

    def on_dialled(self, result: Established | DialFailed, now: float) -> None:
        if isinstance(result, DialFailed):
            if self.is_up:
                self._refresh_at = now + REFRESH_AGAIN_S
                self.doubt(now)
            else:
                self._wait(now, result.reason)
            return
        new = Session(result.address, result.session_id, None, now, now, result.own_ids)
        if self.is_up and self.session is not None:
            self._successor = new
            self._measure(self.session, now)  # the relay sees that both sessions are ours
        else:
            self.session = new
            self.state = State.REGISTERING
        self._post.control(new.session_id, r.ResumeForwarding(), new.address)
        self._post.requests.start(
            RegisterUs, new.address, new.session_id, r.Register(), pattern=ASK, now=now
        )

    def on_registered(self, response: r.Response | None, now: float) -> None:
        """Take the answer to a Register; None when there was none."""
        if response is None:
            self._on_unregistered("no answer to Register", now)
            return
        if response.code != r.Code.OK or not isinstance(response.body, r.Register):
            self._on_unregistered(f"registration refused with code {response.code}", now)
            return
        if self._successor is not None:
            self._succeed(self._successor, now)
        assert self.session is not None
        endpoints = read_endpoints(response.body.endpoints)
        self.public_address = endpoints[0] if endpoints else None
        self.state = State.UP
        self._backoff_s = 0.0
        self._measure(self.session, now)
        self._find_us(self.session, now)
        log.info("relay.session_up", relay=self.address, public=self.public_address)
        self._post.emit(RelayUp(self.public_address))
        self.refresh(now)  # they may have changed meanwhile

    def on_found(self, packet: r.Packet, now: float) -> None:
        """Take the relay's answer about ourselves.

        A signature that was altered on its way is a valid one of somebody else, who is then
        registered at our address: nobody would find us, for as long as the session lives.
        """
        response, own_id = packet.content, node_id_to_bytes(self._keys.default_id)
        assert isinstance(response, r.Response)
        body = response.body
        is_known = isinstance(body, r.Node) and any(i.node_id == own_id for i in body.identities)
        if response.code not in (r.Code.OK, r.Code.NOT_FOUND) or is_known:
            self._misnamed = 0
        elif self._misnamed < MISNAMED_MAX:
            self._misnamed += 1
            self.lost(now, "the relay does not know us by our name")

    def _find_us(self, session: Session, now: float) -> None:
        question = r.FindNode(node_id_to_bytes(self._keys.default_id))
        self._post.requests.start(
            FindUs(session.session_id),
            session.address,
            session.session_id,
            question,
            pattern=ASK,
            now=now,
        )

    def _on_unregistered(self, reason: str, now: float) -> None:
        if self._successor is None:
            self.lost(now, reason)
            return
        log.info("relay.not_refreshed", relay=self.address, reason=reason)
        self._drop_successor()
        self._refresh_at = now + REFRESH_AGAIN_S
        self.doubt(now)

    def _succeed(self, successor: Session, now: float) -> None:
        before = self.session
        assert before is not None
        self._cancel_checks(before)
        farewell = r.Disconnected(session_id=before.session_id)
        self._post.control(before.session_id, farewell, before.address, at=now + FAREWELL_S)
        successor.former_id = before.session_id
        self.session, self._successor = successor, None

    def _drop_successor(self) -> None:
        if self._successor is not None:
            self._post.requests.cancel(RegisterUs)
            self._post.disconnect(self._successor.session_id, self._successor.address)
            self._successor = None

    def _measure(self, session: Session, now: float) -> None:
        purpose = MeasureLatency(session.session_id)
        self._post.requests.cancel(purpose)
        self._post.requests.start(
            purpose, session.address, session.session_id, r.Ping(), pattern=LATENCY_PING, now=now
        )

    def lost(self, now: float, reason: str) -> None:
        """Drop the session and make another one, at once when this one had been up."""
        if self.state is State.OFF or self.session is None or self.address is None:
            return
        self._post.disconnect(self.session.session_id, self.address)
        self._drop_successor()
        self._cancel_requests()
        was_up = self.is_up
        if was_up:
            self._dialler.cancel(self.address)
        self.session = None
        if was_up:
            self._post.emit(RelayDown(reason))
            log.info("relay.session_lost", relay=self.address, reason=reason)
            self.state = State.WAITING
            self._retry_at = now
            self._backoff_s = BACKOFF_START_S
        else:
            self._wait(now, reason)

    def want(self, now: float) -> None:
        """Something waits for the session: rest only shortly between tries."""
        self._wanted_until = now + AWAITED_FOR_S
        if self.state is State.WAITING:
            self._retry_at = min(self._retry_at, now + AWAITED_MAX_S)

    def renew(self, now: float) -> None:
        """Make another session at once: ours is of an address that we no longer have."""
        if self.state is State.OFF or self.address is None:
            return
        self._dialler.cancel(self.address)
        self.lost(now, "our address has changed")
        self.state, self._retry_at, self._backoff_s = State.WAITING, now, 0.0

    def hurry(self, now: float) -> None:
        """The network is back: try now, or ask whether the session still lives."""
        if self.state in (State.WAITING, State.HANDSHAKE):
            self.renew(now)
        else:
            self.doubt(now)

    def doubt(self, now: float) -> None:
        """Ping a session that ends unless the relay answers."""
        self._check(DOUBT_PING, now)

    def watch(self, now: float) -> None:
        """Ping when it has been silent for long, or while we send."""
        if self.session is not None and self.session.is_unheard(now):
            self.doubt(now)
        elif self.session is not None and self.session.is_idle(now):
            self._check(IDLE_PING, now)

    def _check(self, pattern: Pattern, now: float) -> None:
        session = self.session
        if session is None or not self.is_up:
            return
        self._post.requests.start(
            CheckAlive(session.session_id),
            session.address,
            session.session_id,
            r.Ping(),
            pattern=pattern,
            now=now,
        )

    def tick(self, now: float) -> None:
        if self.state is State.WAITING and self._retry_at <= now and self.address is not None:
            self.state = State.HANDSHAKE
            self._dialler.dial_relay(self.address, now)
        elif self._refresh_at is not None and self._refresh_at <= now:
            self._refresh_at = None
            self.refresh(now)

    def next_deadline(self) -> float | None:
        return self._retry_at if self.state is State.WAITING else self._refresh_at

    def _wait(self, now: float, reason: str) -> None:
        if self.state is State.OFF:
            return
        log.info("relay.unreachable", relay=self.address, reason=reason)
        limit_s = AWAITED_MAX_S if now < self._wanted_until else BACKOFF_MAX_S
        self._backoff_s = min(limit_s, max(BACKOFF_START_S, 2 * self._backoff_s))
        spread = 1 - JITTER * self._post.rng.unit()
        self.state = State.WAITING
        self._retry_at = now + self._backoff_s * spread

    def _cancel_requests(self) -> None:
        self._post.requests.cancel(RegisterUs)
        if self.session is not None:
            self._cancel_checks(self.session)

    def _cancel_checks(self, session: Session) -> None:
        self._post.requests.cancel(CheckAlive(session.session_id))
        self._post.requests.cancel(MeasureLatency(session.session_id))
        self._post.requests.cancel(FindUs(session.session_id))
