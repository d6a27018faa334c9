"""Handshakes under way: our own Hellos, and those of others that we have answered. Pure.

A Hello is repeated until it is answered, refused, or given up. A Hello from outside gets the same
answer each time it comes, and costs memory only for a while; what names a channel before its FINISH
is here waits a little. Spec: docs/protocol/encryption.md §2.3.
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.ids import NodeId
from shem.kernel.world import Rng
from shem.net.keyring import Keyring
from shem.net.secure.handshake import Initiator, Responder
from shem.net.secure.noise import KEY_SIZE, KeyPair
from shem.net.secure.packets import NUMBER_LIMIT, Hello, wrap_hello

HELLO_TIMES_S: Final = (0.0, 0.25, 0.6, 1.2, 2.0)
HELLO_TIMEOUT_S: Final = 3.0
ATTEMPTS_MAX: Final = 1_024
HALF_OPEN_MAX: Final = 1_024
"""Answered Hellos held at once; the oldest gives way."""
HALF_OPEN_PER_PEER_MAX: Final = 2
HALF_OPEN_LIFETIME_S: Final = 6.0
EARLY_MAX: Final = 32
"""Packets held per half-open channel."""
REQUEST_ID_LIMIT: Final = 1 << 53


@dataclass(slots=True, eq=False)
class Attempt:
    """One Hello of ours."""

    target: NodeId
    initiator: Initiator
    request_id: str
    message: bytes
    started: float
    sent: int = 0

    def next_deadline(self) -> float:
        if self.sent < len(HELLO_TIMES_S):
            return self.started + HELLO_TIMES_S[self.sent]
        return self.started + HELLO_TIMEOUT_S


@dataclass(slots=True, eq=False)
class HalfOpen:
    """One answered Hello."""

    responder: Responder
    expires: float
    early: deque[bytes] = field(default_factory=lambda: deque(maxlen=EARLY_MAX))

    @property
    def initiator(self) -> NodeId:
        return self.responder.hello.initiator


class Greetings:
    """All handshakes of a node; its static key lives as long as the process."""

    def __init__(self, rng: Rng, keys: Keyring) -> None:
        self._rng = rng
        self._keys = keys
        self._static = KeyPair(rng.token(KEY_SIZE))
        self._attempts: dict[NodeId, Attempt] = {}
        self._by_number: dict[int, Attempt] = {}
        self._half_open: dict[int, HalfOpen] = {}

    # --- our own

    def __contains__(self, target: NodeId) -> bool:
        return target in self._attempts

    @property
    def is_full(self) -> bool:
        return len(self._attempts) >= ATTEMPTS_MAX

    def begin(self, target: NodeId, number: int, now: float) -> None:
        ephemeral = KeyPair(self._rng.token(KEY_SIZE))
        initiator = Initiator(self._keys.keys, target, number, self._static, ephemeral)
        request_id = str(self._rng.below(REQUEST_ID_LIMIT))
        message = wrap_hello(initiator.hello, request_id)
        attempt = Attempt(target, initiator, request_id, message, now)
        self._attempts[target] = attempt
        self._by_number[number] = attempt

    def attempt_for(self, target: NodeId) -> Attempt | None:
        return self._attempts.get(target)

    def attempt_numbered(self, number: int) -> Attempt | None:
        return self._by_number.get(number)

    def end(self, target: NodeId) -> None:
        if attempt := self._attempts.pop(target, None):
            del self._by_number[attempt.initiator.hello.number]

    def due(self, now: float) -> tuple[list[Attempt], list[Attempt]]:
        """Return the attempts to transmit now, and those given up."""
        again, failed = [], []
        for attempt in tuple(self._attempts.values()):
            if now >= attempt.started + HELLO_TIMEOUT_S:
                self.end(attempt.target)
                failed.append(attempt)
            elif attempt.next_deadline() <= now:
                while attempt.sent < len(HELLO_TIMES_S) and attempt.next_deadline() <= now:
                    attempt.sent += 1
                again.append(attempt)
        return again, failed

    def next_deadline(self) -> float | None:
        return min((a.next_deadline() for a in self._attempts.values()), default=None)

    # --- those of others

    def answer(self, hello: Hello, number: int, now: float) -> bytes:
        """Return the answer to a Hello; PeerError when it gets none."""
        theirs = [h.responder for h in self._half_open.values() if h.initiator == hello.initiator]
        for known in theirs:
            if known.hello == hello:
                return known.answer
        ephemeral = KeyPair(self._rng.token(KEY_SIZE))
        responder = Responder(self._keys.keys, hello, number, self._static, ephemeral)
        if len(theirs) >= HALF_OPEN_PER_PEER_MAX:
            del self._half_open[theirs[0].number]
        if len(self._half_open) >= HALF_OPEN_MAX:
            del self._half_open[next(iter(self._half_open))]
        self._half_open[number] = HalfOpen(responder, now + HALF_OPEN_LIFETIME_S)
        return responder.answer

    def half_open(self, number: int) -> HalfOpen | None:
        return self._half_open.get(number)

    def complete(self, number: int) -> None:
        del self._half_open[number]

    def forget_old(self, now: float) -> None:
        for number in [n for n, h in self._half_open.items() if h.expires <= now]:
            del self._half_open[number]

    def new_number(self, taken: Container[int]) -> int:
        """Draw a channel number that names nothing yet."""
        while True:
            number = self._rng.below(NUMBER_LIMIT)
            if not any(number in each for each in (taken, self._half_open, self._by_number)):
                return number
