"""The shared way out of the session layer: datagrams now or a little later, and requests. Pure."""

import heapq
from itertools import count

from shem.kernel.world import Rng
from shem.net.outputs import Address, Output, SendDatagram, SendOneShot
from shem.net.requests import Requests
from shem.wire import relay as r
from shem.wire.relay_codec import encode_packet


class Post:
    """Collects outputs; the parts of the core share one."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.outputs: list[Output] = []
        self.requests = Requests(rng, self.outputs)
        self._later: list[tuple[float, int, SendDatagram]] = []
        self._order = count()

    def emit(self, output: Output) -> None:
        self.outputs.append(output)

    def respond(
        self, session_id: bytes, request_id: int, body: r.ResponseBody, to: Address, *, code: int
    ) -> None:
        packet = r.Packet(session_id, r.Response(request_id, code, body))
        self.emit(SendDatagram(encode_packet(packet), to))

    def control(
        self, session_id: bytes, body: r.ControlBody, to: Address, *, at: float | None = None
    ) -> None:
        """Send a notice, now or at a time."""
        datagram = SendDatagram(encode_packet(r.Packet(session_id, r.Control(body))), to)
        if at is None:
            self.emit(datagram)
        else:
            heapq.heappush(self._later, (at, next(self._order), datagram))

    def disconnect(self, session_id: bytes, to: Address) -> None:
        self.control(session_id, r.Disconnected(session_id=session_id), to)

    def forget_me(self, node_id: bytes, to: Address) -> None:
        """Ask a peer, from a port of its own, to drop what it still holds for us (§6.7)."""
        notice = r.Control(r.Disconnected(node_id=node_id))
        packet = r.Packet(self.rng.token(r.SESSION_ID_SIZE), notice)
        self.emit(SendOneShot(encode_packet(packet), to))

    def tick(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self.emit(heapq.heappop(self._later)[2])

    def next_deadline(self) -> float | None:
        return self._later[0][0] if self._later else None

    def take(self) -> list[Output]:
        """Hand over the outputs; the list itself stays shared."""
        taken = self.outputs.copy()
        self.outputs.clear()
        return taken
