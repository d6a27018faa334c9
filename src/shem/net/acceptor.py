"""The responder's half of handshakes (docs/protocol/net.md §4.2).

A greeting is accepted from anybody at any time, also on an address with an established session:
a peer that restarted must not have to wait. Nothing changes before its proof is checked. Answers
are kept, and sent again when a request is repeated. Pure.
"""

from dataclasses import dataclass
from typing import Final

from shem.identity.proof import prove, sign_solution
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId, node_id_from_bytes
from shem.kernel.rates import RateLimit
from shem.net.dialler import P2P_DIFFICULTY, Established
from shem.net.keyring import Keyring
from shem.net.outputs import Address
from shem.net.post import Post
from shem.wire import relay as r
from shem.wire.challenge import CHALLENGE_SIZE, Solver

HALF_OPEN_MAX: Final = 512
"""Tries held at once; the oldest gives way."""
HALF_OPEN_LIFETIME_S: Final = 16.0
PEER_DIFFICULTY_MAX: Final = 12
"""Harder challenges of a stranger are refused: this one costs us 4 ms."""
GREETING_RATE_PER_S: Final = 50.0
"""Handshake messages per source host."""
GREETING_BURST: Final = 200.0


@dataclass(slots=True, eq=False)
class _Incoming:
    address: Address
    session_id: bytes
    challenge: bytes
    asked: r.ChallengeRequest | None
    claimed: NodeId | None
    expires: float
    answer: r.Session | None = None
    """Message 4, once the peer has proven itself."""


class Acceptor:
    """All tries of peers, one per address."""

    def __init__(self, post: Post, keys: Keyring) -> None:
        self._post = post
        self._keys = keys
        self._incoming: dict[Address, _Incoming] = {}
        self._limit = RateLimit(GREETING_RATE_PER_S, GREETING_BURST)

    def on_request(
        self, packet: r.Packet, body: r.Session, source: Address, now: float
    ) -> Established | None:
        """Take message 1 or 3; PeerError when it is no good."""
        assert isinstance(packet.content, r.Request)
        if not self._limit.allow(source[0], now):
            return None
        request_id = packet.content.request_id
        if body.challenge_resp is not None:
            return self._on_proof(
                packet.session_id, request_id, body.challenge_resp, source, now=now
            )
        if not packet.session_id:
            self._on_greeting(request_id, body, source, now)
        return None

    def holds(self, address: Address, session_id: bytes) -> bool:
        """Tell whether this id belongs to a try of that address."""
        known = self._incoming.get(address)
        return known is not None and known.session_id == session_id

    def expects(self, node_id: NodeId) -> bool:
        """Tell whether a try that claims to be this node is under way."""
        return any(i.claimed == node_id and i.answer is None for i in self._incoming.values())

    def is_tried_by(self, address: Address) -> bool:
        """Tell whether a try of that address is under way."""
        known = self._incoming.get(address)
        return known is not None and known.answer is None

    def drop(self, address: Address, session_id: bytes) -> None:
        if self.holds(address, session_id):
            del self._incoming[address]

    def forget_old(self, now: float) -> None:
        for address in [a for a, i in self._incoming.items() if i.expires <= now]:
            del self._incoming[address]

    def _on_greeting(self, request_id: int, body: r.Session, source: Address, now: float) -> None:
        known = self._incoming.get(source)
        if known is None or known.answer is not None or known.asked != body.challenge_req:
            known = self._open(body, source, now)
        ask = r.ChallengeRequest(known.challenge, P2P_DIFFICULTY)
        self._post.respond(
            known.session_id, request_id, r.Session(challenge_req=ask), source, code=r.Code.OK
        )

    def _open(self, body: r.Session, source: Address, now: float) -> _Incoming:
        ask = body.challenge_req
        if ask is not None and ask.difficulty > PEER_DIFFICULTY_MAX:
            raise PeerError(f"a challenge of difficulty {ask.difficulty} is refused")
        self._incoming.pop(source, None)
        if len(self._incoming) >= HALF_OPEN_MAX:
            del self._incoming[next(iter(self._incoming))]
        opened = _Incoming(
            address=source,
            session_id=self._post.rng.token(r.SESSION_ID_SIZE),
            challenge=self._post.rng.token(CHALLENGE_SIZE),
            asked=ask,
            claimed=claimed_node(body),
            expires=now + HALF_OPEN_LIFETIME_S,
        )
        self._incoming[source] = opened
        return opened

    def _on_proof(
        self,
        session_id: bytes,
        request_id: int,
        proof: r.ChallengeResponse,
        source: Address,
        *,
        now: float,
    ) -> Established | None:
        known = self._incoming.get(source)
        if known is None or known.session_id != session_id:
            return None
        result: Established | None = None
        if known.answer is None:
            proven = prove(known.challenge, P2P_DIFFICULTY, proof.solution, proof.signatures)
            if proven[0].node_id == self._keys.default_id:
                raise PeerError("a node with our own identity dials us")
            known.answer = r.Session(challenge_resp=self._solve(known.asked))
            own_ids = self._keys.ids
            result = Established(source, session_id, proven, own_ids, is_initiator=False)
        self._post.respond(session_id, request_id, known.answer, source, code=r.Code.OK)
        return result

    def _solve(self, asked: r.ChallengeRequest | None) -> r.ChallengeResponse:
        if asked is None:
            return r.ChallengeResponse(b"")
        solver = Solver(asked.challenge, asked.difficulty)
        while (solution := solver.step()) is None:
            pass
        return r.ChallengeResponse(solution, sign_solution(solution, self._keys.keys))


def claimed_node(body: r.Session) -> NodeId | None:
    """Return the unproven default id of a greeting."""
    if body.identities and len(body.identities[0].node_id) == r.NODE_ID_SIZE:
        return node_id_from_bytes(body.identities[0].node_id)
    return None
