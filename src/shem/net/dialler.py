"""The initiator's half of handshakes, with the relay and with peers (docs/protocol/net.md §4).

    GREETING --answer--> SOLVING --solved--> PROVING --answer--> established
        ^ \\--silence--\\                      /
        |               PAUSED <---silence---/      (a peer is told to drop the half-open try)
        \\----- 0.2 s ----/

A yagna never repeats an answer and ignores a new greeting while it holds a half-open try, or the
session that it believes was made; hence the Disconnected before each retry, which names the last
session that the peer has offered. When its proof does not come it is resumed all the same: a Ping
then shows that it has sent one, and that it was lost. Pure but for the hashing, which is cut into
slices.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.identity.proof import ProvenIdentity, prove, sign_solution
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.net.keyring import Keyring
from shem.net.outputs import Address
from shem.net.post import Post
from shem.net.requests import Answer, Pattern
from shem.wire import relay as r
from shem.wire.challenge import CHALLENGE_SIZE, Solver

P2P_DIFFICULTY: Final = 1
ATTEMPTS_MAX: Final = 5
SILENT_ATTEMPTS_MAX: Final = 2
"""The same with a peer that has not answered once,"""
KNOWN_ATTEMPTS_MAX: Final = 3
"""and when it was there a moment ago."""
RETRY_PAUSE_S: Final = 0.2
"""Time for a yagna to abort its half-open try."""
ABORT_AGAIN_S: Final = (0.07, 0.14)
"""When the Disconnected that makes it do so is repeated: lost, it would cost 16 s."""
YIELD_S: Final = 1.5
"""How long an own attempt rests while the peer dials us."""
DIALS_MAX: Final = 256
"""Attempts under way; further ones fail at once."""
GIVEN_UP_MAX: Final = 256
"""Attempts whose late answer would still be taken; the oldest is forgotten first."""

RELAY_GREETING: Final = Pattern((0.0, 0.3, 0.7, 1.2, 1.7, 2.3), 3.0)
RELAY_PROOF: Final = Pattern((0.0, 0.3, 0.7, 1.2, 2.0, 3.0, 4.5, 6.0), 8.0)
PEER_GREETING: Final = Pattern((0.0, 0.25, 0.6), 1.2)
"""The second transmission finds a yagna that has just dropped its stale session."""
PEER_PROOF: Final = Pattern((0.0, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0, 4.0), 6.0, keep_id=True)
"""With its id kept: once processed, it must not meet the new session of a yagna. A yagna that is
just starting greets at once, and proves itself seconds later, when it has read its keys."""
RESUME_UNPROVEN_S: Final = (0.8, 1.6, 3.0)
"""When a peer that owes its proof is resumed."""
OVERTAKEN_S: Final = 0.25
"""By how much its Ping may overtake the proof."""


class Stage(StrEnum):
    """Where an attempt stands."""

    GREETING = "greeting"
    SOLVING = "solving"
    PROVING = "proving"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Greet:
    """Purpose of a handshake's first request."""

    address: Address


@dataclass(frozen=True, slots=True)
class Prove:
    """Purpose of a handshake's second request."""

    address: Address


@dataclass(frozen=True, slots=True)
class Established:
    """A handshake succeeded; towards the relay nobody is proven."""

    address: Address
    session_id: bytes
    proven: tuple[ProvenIdentity, ...]
    own_ids: frozenset[NodeId]
    """What we have proven."""
    is_initiator: bool


@dataclass(frozen=True, slots=True)
class DialFailed:
    """An attempt was given up."""

    address: Address
    target: NodeId | None
    reason: str


Result = Established | DialFailed


@dataclass(slots=True, eq=False)
class _Attempt:
    address: Address
    target: NodeId | None
    """None: the relay."""
    challenge: bytes
    """Ours for the peer; empty towards the relay."""
    forget_me: bool = False
    silent_max: int = SILENT_ATTEMPTS_MAX
    stage: Stage = Stage.GREETING
    session_id: bytes = b""
    own_ids: frozenset[NodeId] = frozenset()
    """What our proof says, once it is sent."""
    last_id: bytes = b""
    """The last session that the peer has offered."""
    proved_at: float = 0.0
    overdue_at: float | None = None
    """When a proof counts as lost that the peer has shown to have sent."""
    solver: Solver | None = None
    count: int = 1
    resume_at: float = 0.0
    has_yielded: bool = False


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """What a late answer to a proof of ours would be judged by."""

    target: NodeId
    challenge: bytes
    own_ids: frozenset[NodeId]


class Dialler:
    """All own handshake attempts, one per address."""

    def __init__(self, post: Post, keys: Keyring) -> None:
        self._post = post
        self._keys = keys
        self._attempts: dict[Address, _Attempt] = {}
        self._now = 0.0
        self._given_up: dict[tuple[Address, bytes], _GivenUp] = {}
        """Whom we sent our proof to in vain, by address and session id."""

    def dial_relay(self, address: Address, now: float) -> None:
        self._greet(_Attempt(address, None, b""), now)

    def dial(
        self,
        address: Address,
        target: NodeId,
        now: float,
        *,
        forget_me: bool,
        is_known: bool = False,
    ) -> bool:
        """Begin with a peer; False when there are too many attempts or one with this address."""
        self._now = now
        if address in self._attempts or len(self._attempts) >= DIALS_MAX:
            return False
        attempt = _Attempt(
            address,
            target,
            self._post.rng.token(CHALLENGE_SIZE),
            forget_me=forget_me,
            silent_max=KNOWN_ATTEMPTS_MAX if is_known else SILENT_ATTEMPTS_MAX,
        )
        self._send_forget_me(attempt)
        self._greet(attempt, now)
        return True

    def target_of(self, address: Address) -> NodeId | None:
        """Return whom we try to reach there; None for nobody and for the relay."""
        attempt = self._attempts.get(address)
        return attempt.target if attempt else None

    def is_dialling(self, address: Address) -> bool:
        return address in self._attempts

    def has_answered(self, address: Address) -> bool:
        """Tell whether the peer under this address is taking part in our attempt."""
        attempt = self._attempts.get(address)
        return attempt is not None and attempt.session_id != b""

    def is_under_way(self, address: Address, session_id: bytes) -> bool:
        """Tell whether an attempt is what this half-open session belongs to."""
        attempt = self._attempts.get(address)
        return attempt is not None and attempt.session_id == session_id

    def cancel(self, address: Address, *, tell: bool = False) -> None:
        """Forget an attempt; a yagna that is not told waits 16 s for the rest of it."""
        attempt = self._attempts.pop(address, None)
        if attempt is None:
            return
        self._post.requests.cancel(Greet(address))
        self._post.requests.cancel(Prove(address))
        if tell:
            self._abort_at_peer(attempt, self._now)

    def yield_to_peer(self, address: Address, now: float) -> None:
        """Rest once while the peer, whose id is smaller, dials us."""
        attempt = self._attempts.get(address)
        if attempt and not attempt.has_yielded and attempt.stage is Stage.GREETING:
            attempt.has_yielded = True
            self._pause(attempt, now + YIELD_S)

    def on_answer(self, answer: Answer, packet: r.Packet, now: float) -> Result | None:
        """Take the response to a Greet or Prove."""
        self._now = now
        purpose = answer.purpose
        assert isinstance(purpose, Greet | Prove)
        attempt = self._attempts.get(purpose.address)
        if attempt is None:
            return None
        assert isinstance(packet.content, r.Response)
        body = packet.content.body
        if packet.content.code != r.Code.OK or not isinstance(body, r.Session):
            return self._fail(attempt, f"refused with code {packet.content.code}")
        try:
            if attempt.stage is Stage.GREETING:
                self._on_challenge(attempt, packet.session_id, body.challenge_req)
                return None
            return self._on_proof(attempt, body.challenge_resp)
        except PeerError as error:
            return self._fail(attempt, error.message)

    def on_late_proof(
        self, address: Address, session_id: bytes, proof: r.ChallengeResponse
    ) -> Established | None:
        """Take the end of a handshake that we gave up; None when it is none of ours, or wrong.

        A yagna that proves itself has made the session, and ignores everything else that we say
        until it is resumed, our next greeting and our goodbye to this one included.
        """
        given_up = self._given_up.pop((address, session_id), None)
        if given_up is None or self.has_answered(address):
            return None
        try:
            proven = prove(given_up.challenge, P2P_DIFFICULTY, proof.solution, proof.signatures)
        except PeerError:
            return None
        if proven[0].node_id != given_up.target:
            return None
        return Established(address, session_id, proven, given_up.own_ids, is_initiator=True)

    def on_unanswered(
        self, address: Address, now: float, *, is_dialling_us: bool = False
    ) -> DialFailed | None:
        """Retry a silent peer, after making it forget the half-open try.

        One that dials us meanwhile is left in peace for a while: a yagna whose own attempt is made
        to fail closes its streams, and its attempts survive losses, since we repeat our answers.
        """
        self._now = now
        attempt = self._attempts.get(address)
        if attempt is None:
            return None
        limit = ATTEMPTS_MAX if attempt.last_id else attempt.silent_max
        if attempt.target is None or attempt.count >= limit:
            return self._fail(attempt, "no answer")
        attempt.count += 1
        if is_dialling_us and not attempt.has_yielded:
            attempt.has_yielded = True
            self._pause(attempt, now + YIELD_S)
            return None
        self._abort_at_peer(attempt, now)
        self._send_forget_me(attempt)
        self._pause(attempt, now + RETRY_PAUSE_S)
        return None

    def on_ping(self, address: Address, session_id: bytes, now: float) -> None:
        """Take a sign that the peer believes in the session of which we lack its proof."""
        attempt = self._attempts.get(address)
        if attempt is None or attempt.session_id != session_id or attempt.overdue_at is not None:
            return
        is_late = now - attempt.proved_at >= RESUME_UNPROVEN_S[0]
        if attempt.stage is Stage.PROVING and attempt.target is not None and is_late:
            attempt.overdue_at = now + OVERTAKEN_S

    def overdue(self, now: float) -> list[Address]:
        """Return the peers whose proof was lost on its way."""
        return [
            attempt.address
            for attempt in self._attempts.values()
            if attempt.overdue_at is not None and attempt.overdue_at <= now
        ]

    def on_disconnected(self, address: Address, session_id: bytes) -> DialFailed | None:
        """Take the peer's word that this half-open try is over."""
        attempt = self._attempts.get(address)
        if attempt is None or not session_id or attempt.session_id != session_id:
            return None
        return self._fail(attempt, "disconnected by the peer")

    def on_refused(self, address: Address) -> DialFailed | None:
        """Take an ICMP error about a peer that has not answered: there may be other ways to it."""
        attempt = self._attempts.get(address)
        if attempt is None or attempt.target is None or attempt.stage is not Stage.GREETING:
            return None
        return self._fail(attempt, "refused")

    def tick(self, now: float) -> None:
        """Work on challenges for a slice, and resume what was paused."""
        self._now = now
        for attempt in tuple(self._attempts.values()):
            if attempt.stage is Stage.SOLVING:
                self._solve(attempt, now)
            elif attempt.stage is Stage.PAUSED and attempt.resume_at <= now:
                self._greet(attempt, now)

    def next_deadline(self) -> float | None:
        """Return 0 (at once) while there is hashing to do."""
        times = [
            0.0 if attempt.stage is Stage.SOLVING else attempt.resume_at
            for attempt in self._attempts.values()
            if attempt.stage in (Stage.SOLVING, Stage.PAUSED)
        ]
        times += [a.overdue_at for a in self._attempts.values() if a.overdue_at is not None]
        return min(times, default=None)

    def _greet(self, attempt: _Attempt, now: float) -> None:
        self._attempts[attempt.address] = attempt
        attempt.stage = Stage.GREETING
        attempt.session_id = b""
        ask = r.ChallengeRequest(attempt.challenge, P2P_DIFFICULTY) if attempt.challenge else None
        identities = tuple(
            r.Identity(key.public_key, node_id_to_bytes(key.node_id)) for key in self._keys
        )
        body = r.Session(challenge_req=ask, identities=identities)
        pattern = RELAY_GREETING if attempt.target is None else PEER_GREETING
        self._post.requests.start(
            Greet(attempt.address), attempt.address, b"", body, pattern=pattern, now=now
        )

    def _pause(self, attempt: _Attempt, until: float) -> None:
        self._post.requests.cancel(Greet(attempt.address))
        self._post.requests.cancel(Prove(attempt.address))
        attempt.stage, attempt.session_id, attempt.overdue_at = Stage.PAUSED, b"", None
        attempt.resume_at = until

    def _on_challenge(
        self, attempt: _Attempt, session_id: bytes, ask: r.ChallengeRequest | None
    ) -> None:
        if len(session_id) != r.SESSION_ID_SIZE or ask is None:
            raise PeerError("a greeting was answered without session id or challenge")
        if ask.kind != r.SHA3_512_LEADING_ZEROS:
            raise PeerError(f"challenge of unknown kind {ask.kind}")
        attempt.solver = Solver(ask.challenge, ask.difficulty)
        attempt.session_id = attempt.last_id = session_id
        attempt.stage = Stage.SOLVING

    def _solve(self, attempt: _Attempt, now: float) -> None:
        assert attempt.solver is not None
        solution = attempt.solver.step()
        if solution is None:
            return
        attempt.stage, attempt.proved_at = Stage.PROVING, now
        for delay_s in RESUME_UNPROVEN_S if attempt.target is not None else ():
            notice = r.ResumeForwarding()
            self._post.control(attempt.session_id, notice, attempt.address, at=now + delay_s)
        attempt.own_ids = self._keys.ids
        proof = r.ChallengeResponse(solution, sign_solution(solution, self._keys.keys))
        self._post.requests.start(
            Prove(attempt.address),
            attempt.address,
            attempt.session_id,
            r.Session(challenge_resp=proof),
            pattern=RELAY_PROOF if attempt.target is None else PEER_PROOF,
            now=now,
        )

    def _on_proof(self, attempt: _Attempt, proof: r.ChallengeResponse | None) -> Established:
        proven: tuple[ProvenIdentity, ...] = ()
        if attempt.target is not None:
            if proof is None:
                raise PeerError("the peer proves nothing")
            proven = prove(attempt.challenge, P2P_DIFFICULTY, proof.solution, proof.signatures)
            if proven[0].node_id != attempt.target:
                raise PeerError(f"{proven[0].node_id} answered instead")
        del self._attempts[attempt.address]
        return Established(
            attempt.address, attempt.session_id, proven, attempt.own_ids, is_initiator=True
        )

    def _fail(self, attempt: _Attempt, reason: str) -> DialFailed:
        self.cancel(attempt.address, tell=True)
        return DialFailed(attempt.address, attempt.target, reason)

    def _abort_at_peer(self, attempt: _Attempt, now: float) -> None:
        session_id = attempt.last_id or self._post.rng.token(r.SESSION_ID_SIZE)
        if attempt.target is not None and attempt.last_id:
            self._given_up[attempt.address, session_id] = _GivenUp(
                attempt.target, attempt.challenge, attempt.own_ids
            )
            if len(self._given_up) > GIVEN_UP_MAX:
                del self._given_up[next(iter(self._given_up))]
        self._post.disconnect(session_id, attempt.address)
        notice = r.Disconnected(session_id=session_id)
        for delay_s in ABORT_AGAIN_S:
            self._post.control(session_id, notice, attempt.address, at=now + delay_s)

    def _send_forget_me(self, attempt: _Attempt) -> None:
        if attempt.forget_me:
            self._post.forget_me(node_id_to_bytes(self._keys.default_id), attempt.address)
