"""Many light nodes at one relay: a socket, a key and a session each, and nothing more."""

import heapq
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shem.identity.keys import PrivateKey
from shem.identity.proof import sign_solution
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SystemRng
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.relay_codec import decode_packet, encode_packet

Address = tuple[str, int]

HOSTS = 16
"""Loopback addresses they come from, since the relay limits what one host may do."""
AT_ONCE = 64
PATIENCE_S = 60.0
RETRY_S = 1.0
PING_S = 15.0
"""A yagna pings a silent relay so often, and so do we."""


@dataclass(eq=False)
class Visitor:
    """One node; it answers, and after a 401 or a Disconnected it comes back at once."""

    relay: Address
    host: str = "127.0.0.1"
    key: PrivateKey = field(default_factory=lambda: PrivateKey.generate(SystemRng()))
    session_id: bytes = b""
    slot: int = 0
    """Known once the whole way from the greeting to the own record has been gone."""
    heard_at: float = 0.0
    greeted_at: float = 0.0
    handshakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((self.host, 0))

    def begin(self) -> None:
        self.slot = 0
        self.session_id = b""
        self.greeted_at = time.monotonic()
        self._ask(r.Session())

    def ping(self) -> None:
        self._ask(r.Ping())

    def step(self) -> None:
        """Take what has arrived."""
        while True:
            try:
                data, source = self.socket.recvfrom(4096)
            except OSError:
                return
            self._on_packet(decode_packet(data), source)

    def _on_packet(self, packet: r.Packet, source: Address) -> None:
        self.heard_at = time.monotonic()
        match packet.content:
            case r.Request(request_id, r.Ping()):
                pong = r.Packet(packet.session_id, r.Response(request_id, r.Code.OK, r.Pong()))
                self.socket.sendto(encode_packet(pong), source)
            case r.Response(_, r.Code.UNAUTHORIZED) | r.Control(r.Disconnected(slot=None)):
                if self.slot:
                    self.begin()
            case r.Response(_, _, r.Session(challenge_req=asked)) if asked is not None:
                self._prove(packet.session_id, asked)
            case r.Response(_, r.Code.OK, r.Session()):
                self.handshakes.append(self.heard_at)
                self._ask(r.Register())
            case r.Response(_, r.Code.OK, r.Register()):
                self._ask(r.FindNode(node_id_to_bytes(self.key.node_id)))
            case r.Response(_, r.Code.OK, r.Node() as node):
                self.slot = node.slot

    def _prove(self, session_id: bytes, asked: r.ChallengeRequest) -> None:
        self.session_id = session_id
        solver = Solver(asked.challenge, asked.difficulty)
        while (solution := solver.step()) is None:
            pass
        proof = r.ChallengeResponse(solution, sign_solution(solution, [self.key]))
        self._ask(r.Session(challenge_resp=proof))

    def _ask(self, body: r.RequestBody) -> None:
        packet = r.Packet(self.session_id, r.Request(time.monotonic_ns() & 0xFFFFFFFF, body))
        self.socket.sendto(encode_packet(packet), self.relay)


class Crowd:
    """Visitors under one poll."""

    def __init__(self, relay: Address, count: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < count + 100:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1_000), hard))
        self.visitors = [Visitor(relay, f"127.0.0.{2 + n % HOSTS}") for n in range(count)]
        self._poll = select.epoll()
        self._by_number = {visitor.socket.fileno(): visitor for visitor in self.visitors}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def register(self) -> float:
        """Bring all in, some at a time; return the seconds. TimeoutError when one is lost."""
        started = time.monotonic()
        waiting = self.visitors[::-1]
        inside: set[Visitor] = set()
        while waiting or inside:
            now = time.monotonic()
            inside = {visitor for visitor in inside if not visitor.slot}
            while waiting and len(inside) < AT_ONCE:
                visitor = waiting.pop()
                visitor.begin()
                inside.add(visitor)
            self._serve(0.05)
            for visitor in inside:
                if not visitor.slot and now - visitor.greeted_at > RETRY_S:
                    visitor.begin()
            if now - started > PATIENCE_S:
                raise TimeoutError(f"{len(inside) + len(waiting)} visitors are not registered")
        return time.monotonic() - started

    def live(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Have all ping as real nodes do, each in its own rhythm."""
        now = time.monotonic()
        give_up = now + seconds
        count = len(self.visitors)
        due = [(now + PING_S * n / count, n) for n in range(count)]
        while now < give_up and not until():
            while due[0][0] <= now:
                at, number = heapq.heappop(due)
                visitor = self.visitors[number]
                if visitor.slot:
                    visitor.ping()
                elif now - visitor.greeted_at > RETRY_S:
                    visitor.begin()
                heapq.heappush(due, (at + (PING_S if visitor.slot else RETRY_S), number))
            self._serve(min(0.05, max(0.0, due[0][0] - now)))
            now = time.monotonic()

    def close(self) -> None:
        self._poll.close()
        for visitor in self.visitors:
            visitor.socket.close()

    def _serve(self, wait_s: float) -> None:
        for number, _ in self._poll.poll(wait_s):
            self._by_number[number].step()


def busiest_second(times: Sequence[float]) -> int:
    """Return how many of these fell into one second at most."""
    ordered = sorted(times)
    most = begin = 0
    for end, at in enumerate(ordered):
        while at - ordered[begin] > 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    return most
