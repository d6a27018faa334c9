"""Many light nodes at one relay: a socket, a key and a session each, and nothing more."""

import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from shem.identity.keys import PrivateKey
from shem.identity.proof import sign_solution
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SystemRng
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.relay_codec import decode_packet, encode_packet

Address = tuple[str, int]

AT_ONCE = 64
PATIENCE_S = 30.0
BUFFER_BYTES = 4 << 20


@dataclass(eq=False)
class Visitor:
    """One node; `step` takes it from the greeting to its own slot."""

    relay: Address
    host: str = "127.0.0.1"
    key: PrivateKey = field(default_factory=lambda: PrivateKey.generate(SystemRng()))
    session_id: bytes = b""
    slot: int = 0
    is_registered: bool = False

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((self.host, 0))

    def begin(self) -> None:
        self._ask(r.Session())

    def step(self) -> None:
        """Take what has arrived."""
        while True:
            try:
                data, source = self.socket.recvfrom(4096)
            except BlockingIOError:
                return
            self._on_packet(decode_packet(data), source)

    def _on_packet(self, packet: r.Packet, source: Address) -> None:
        match packet.content:
            case r.Request(request_id, r.Ping()):
                pong = r.Packet(packet.session_id, r.Response(request_id, r.Code.OK, r.Pong()))
                self.socket.sendto(encode_packet(pong), source)
            case r.Response(_, _, r.Session(challenge_req=asked)) if asked is not None:
                self.session_id = packet.session_id
                solver = Solver(asked.challenge, asked.difficulty)
                while (solution := solver.step()) is None:
                    pass
                proof = r.ChallengeResponse(solution, sign_solution(solution, [self.key]))
                self._ask(r.Session(challenge_resp=proof))
            case r.Response(_, r.Code.OK, r.Session()):
                self._ask(r.Register())
            case r.Response(_, r.Code.OK, r.Register()):
                self.is_registered = True
                self._ask(r.FindNode(node_id_to_bytes(self.key.node_id)))
            case r.Response(_, r.Code.OK, r.Node() as node):
                self.slot = node.slot
            case r.Response(_, code, _):
                raise AssertionError(f"the relay answers {code}")

    def _ask(self, body: r.RequestBody) -> None:
        packet = r.Packet(self.session_id, r.Request(time.monotonic_ns() & 0xFFFFFFFF, body))
        self.socket.sendto(encode_packet(packet), self.relay)


def register(visitors: Iterable[Visitor]) -> None:
    """Register all, some at a time; TimeoutError when the relay loses one."""
    waiting = list(visitors)[::-1]
    poll = select.epoll()
    busy: dict[int, Visitor] = {}
    give_up = time.monotonic() + PATIENCE_S
    while waiting or busy:
        while waiting and len(busy) < AT_ONCE:
            visitor = waiting.pop()
            busy[visitor.socket.fileno()] = visitor
            poll.register(visitor.socket, select.EPOLLIN)
            visitor.begin()
        for number, _ in poll.poll(1.0):
            busy[number].step()
            if busy[number].slot:
                poll.unregister(number)
                del busy[number]
        if time.monotonic() > give_up:
            raise TimeoutError(f"{len(busy) + len(waiting)} visitors are not registered")
    poll.close()
