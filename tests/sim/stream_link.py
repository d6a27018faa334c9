"""Two `Streams` joined by a link that loses, repeats, delays and reorders; time is virtual."""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count

from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.streams import DeliverMessage, SendPacket, StreamLost, Streams, StreamUp
from shem.net.types import Channel

NODES = (NodeId("0x" + "11" * 20), NodeId("0x" + "22" * 20))
STEPS_MAX = 200_000


@dataclass(slots=True)
class Faults:
    """What the link does to a packet."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: float = 0.001
    jitter_s: float = 0.0
    corrupt: float = 0.0


@dataclass(slots=True)
class End:
    """One node and all that it told."""

    streams: Streams
    messages: dict[Channel, list[bytes]] = field(default_factory=dict)
    lost: list[StreamLost] = field(default_factory=list)
    ups: list[StreamUp] = field(default_factory=list)


class Link:
    """Drives both ends; `run` lets virtual time pass."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.starts = 0
        self.ends = [self._start(0), self._start(1)]
        self.sent_packets = 0
        self.log: deque[str] = deque(maxlen=200)
        self._heap: list[tuple[float, int, int, bytes]] = []
        self._tie = count()

    def _start(self, side: int) -> End:
        self.starts += 1
        return End(Streams(NODES[side], SeededRng(self.random.randrange(1 << 32))))

    def send(self, side: int, channel: Channel, message: bytes) -> None:
        self.ends[side].streams.send(NODES[1 - side], channel, message, self.now)
        self._collect(side)

    def restart(self, side: int) -> End:
        """Kill one node and start it anew: it remembers nothing. Returns the old one."""
        old = self.ends[side]
        self.ends[side] = self._start(side)
        return old

    def received(self, side: int, channel: Channel = Channel.RELIABLE) -> list[bytes]:
        return self.ends[side].messages.get(channel, [])

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        for _ in range(STEPS_MAX):
            for side in (0, 1):
                self._collect(side)
            due = min([until, *self._deadlines()])
            if self._heap and self._heap[0][0] <= due:
                self.now, _, side, packet = heapq.heappop(self._heap)
                self.ends[side].streams.receive(NODES[1 - side], packet, self.now)
                continue
            self.now = max(self.now, due)
            if self.now >= until:
                return
            for end in self.ends:
                end.streams.tick(self.now)
        raise AssertionError(f"no rest after {STEPS_MAX} steps at {self.now:.3f} s")

    def run_until_quiet(self, bound_s: float, step_s: float = 1.0) -> float:
        """Let time pass until nothing is queued or under way; return how long that took."""
        started = self.now
        while self.now - started < bound_s:
            if not self._heap and not any(self.busy(side) for side in (0, 1)):
                return self.now - started
            self.run(step_s)
        raise AssertionError(f"still busy after {bound_s} s")

    def busy(self, side: int) -> bool:
        return self.ends[side].streams.queued_bytes(NODES[1 - side]) > 0

    def _deadlines(self) -> list[float]:
        found = (end.streams.next_deadline() for end in self.ends)
        return [each for each in found if each is not None]

    def _collect(self, side: int) -> None:
        end = self.ends[side]
        for output in end.streams.outputs():
            match output:
                case SendPacket(_, packet):
                    self._carry(1 - side, packet)
                case DeliverMessage(_, channel, message):
                    end.messages.setdefault(channel, []).append(message)
                case StreamLost():
                    end.lost.append(output)
                case StreamUp():
                    end.ups.append(output)

    def _carry(self, to: int, packet: bytes) -> None:
        self.sent_packets += 1
        faults, draw = self.faults, self.random
        for _ in range(1 + (draw.random() < faults.repeat)):
            if draw.random() < faults.loss:
                continue
            carried = packet
            if draw.random() < faults.corrupt:
                at = draw.randrange(len(packet))
                carried = packet[:at] + bytes([packet[at] ^ 0x55]) + packet[at + 1 :]
            arrival = self.now + faults.delay_s + draw.random() * faults.jitter_s
            heapq.heappush(self._heap, (arrival, next(self._tie), to, carried))
