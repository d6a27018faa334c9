"""Requests under way: when they are transmitted, and which answer belongs to which (spec §6.1).

A yagna drops repeats of a request id silently and never repeats an answer, so that a transmission
after a loss needs a fresh id; an answer to any of them counts. Ids start at a random number,
because two fresh peers with equal ids shadow each other at a third node. Pure.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.world import Rng
from shem.net.outputs import Address, Output, SendDatagram
from shem.wire import relay as r
from shem.wire.relay_codec import encode_packet

REQUEST_ID_LIMIT: Final = 1 << 53
PENDING_MAX: Final = 16_384
"""More than the limits of sessions, searches, attempts and finders add up to."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Transmission times, counted from the first, and when to give up (seconds)."""

    times: tuple[float, ...]
    timeout: float
    keep_id: bool = False
    """Repeat the id: for a message which must not be processed twice."""


ASK: Final = Pattern((0.0, 0.75, 1.5, 2.25), 3.0)
"""Questions to the relay."""
LATENCY_PING: Final = Pattern((0.0, 0.5, 1.0, 1.5), 2.0)
IDLE_PING: Final = Pattern((0.0, 0.2, 0.4, 0.7, 0.9, 1.2, 1.4, 1.9), 2.4)
"""After 15 s of silence, as a yagna does it (§6.4)."""
DOUBT_PING: Final = Pattern((0.0, 0.2, 0.5, 0.9, 1.4), 2.0)
"""After a hint that the peer is gone."""
RETURN_PING: Final = Pattern((0.0, 0.15, 0.3, 0.5), 0.8)
"""After the relay's word that the peer is back: it knows best."""


class FindNear:
    """Purpose of the Neighbours request."""


@dataclass(slots=True, eq=False)
class _Pending:
    purpose: Hashable
    address: Address
    session_id: bytes
    body: r.RequestBody
    pattern: Pattern
    started: float
    sent: int = 0
    ids: dict[int, float] = field(default_factory=dict)

    def next_deadline(self) -> float:
        if self.sent < len(self.pattern.times):
            return self.started + self.pattern.times[self.sent]
        return self.started + self.pattern.timeout


@dataclass(frozen=True, slots=True)
class Answer:
    """Which request was answered, and after how long."""

    purpose: Hashable
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request that was given up, and when it had begun."""

    purpose: Hashable
    started: float


class Requests:
    """The requests of one node; `purpose` names each, at most one per purpose is under way."""

    def __init__(self, rng: Rng, outputs: list[Output]) -> None:
        self._outputs = outputs
        self._next_id = rng.below(REQUEST_ID_LIMIT)
        self._pending: dict[Hashable, _Pending] = {}
        self._by_id: dict[int, _Pending] = {}

    def __contains__(self, purpose: Hashable) -> bool:
        return purpose in self._pending

    def start(
        self,
        purpose: Hashable,
        address: Address,
        session_id: bytes,
        body: r.RequestBody,
        *,
        pattern: Pattern,
        now: float,
    ) -> None:
        """Transmit, unless the same is already under way or there is too much of it."""
        if purpose in self._pending or len(self._pending) >= PENDING_MAX:
            return
        pending = _Pending(purpose, address, session_id, body, pattern, now)
        self._pending[purpose] = pending
        self._transmit(pending, now)

    def cancel(self, purpose: Hashable) -> None:
        pending = self._pending.pop(purpose, None)
        if pending is not None:
            for request_id in pending.ids:
                del self._by_id[request_id]

    def answered(self, packet: r.Packet, source: Address, now: float) -> Answer | None:
        """Match a response by id, source and session; None when nobody waits for it."""
        assert isinstance(packet.content, r.Response)
        request_id = packet.content.request_id
        pending = self._by_id.get(request_id)
        if pending is None or pending.address != source:
            return None
        if pending.session_id and packet.session_id != pending.session_id:
            return None
        sent_at = pending.ids[request_id]
        self.cancel(pending.purpose)
        return Answer(pending.purpose, now - sent_at)

    def tick(self, now: float) -> list[Unanswered]:
        """Transmit what is due; return what is given up."""
        failed = []
        for pending in [p for p in self._pending.values() if p.next_deadline() <= now]:
            if now >= pending.started + pending.pattern.timeout:
                self.cancel(pending.purpose)
                failed.append(Unanswered(pending.purpose, pending.started))
            else:
                self._transmit(pending, now)
        return failed

    def next_deadline(self) -> float | None:
        return min((p.next_deadline() for p in self._pending.values()), default=None)

    def _transmit(self, pending: _Pending, now: float) -> None:
        """Send once, however many transmissions a late tick has missed."""
        while pending.sent < len(pending.pattern.times) and pending.next_deadline() <= now:
            pending.sent += 1
        if pending.pattern.keep_id and pending.ids:
            request_id = next(iter(pending.ids))
        else:
            request_id = self._next_id
            self._next_id = (self._next_id + 1) % REQUEST_ID_LIMIT
            self._by_id[request_id] = pending
            pending.ids[request_id] = now
        packet = r.Packet(pending.session_id, r.Request(request_id, pending.body))
        self._outputs.append(SendDatagram(encode_packet(packet), pending.address))
