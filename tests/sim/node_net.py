"""The net between simulated nodes: loses, doubles, delays, and does not tell at once.

A node that dies is not missed before a while of silence, or before it is back; what is sent to it
meanwhile is lost. A blocked direction swallows what goes that way; both sides notice when it lasts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from shem.kernel.caller import Assurance
from shem.kernel.errors import Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.memory import MemoryFabric, MemoryNet
from shem.net.trace import Trace
from shem.net.types import Channel
from tests.sim.process import Process
from tests.sim.virtual_time import VirtualClock

SILENCE_S = 17.0
"""After so long a silence a session is over."""


@dataclass
class Weather:
    """What becomes of messages; all zero is fair weather."""

    rng: SeededRng
    loss: float = 0.0
    doubling: float = 0.0
    delay_s: float = 0.01
    late: float = 0.0
    """How often a message is up to `late_s` late."""
    late_s: float = 2.0

    def clear(self) -> None:
        self.loss = self.doubling = self.late = 0.0
        self.delay_s = 0.01

    def fates(self) -> list[float]:
        """Return after how many seconds each copy arrives."""
        draw = self.rng.unit()
        copies = 0 if draw < self.loss else 2 if draw < self.loss + self.doubling else 1
        return [self._delay_s() for _ in range(copies)]

    def _delay_s(self) -> float:
        if self.rng.unit() < self.late:
            return self.rng.unit() * self.late_s
        return self.rng.unit() * self.delay_s


class SimFabric(MemoryFabric):
    """A fabric whose nodes may vanish, and whose directions may be blocked."""

    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self.weather = weather
        self._vanished: dict[NodeId, asyncio.TimerHandle] = {}
        self._blocked: set[tuple[NodeId, NodeId]] = set()
        self._noticing: dict[frozenset[NodeId], asyncio.TimerHandle] = {}

    def vanish(self, node: "SimNet") -> None:
        """The node is dead; its peers do not know yet."""
        for identity in node.identities:
            if self._nodes.get(identity) is node:
                del self._nodes[identity]
        timer = asyncio.get_running_loop().call_later(SILENCE_S, self._missed, node.default_id)
        self._vanished[node.default_id] = timer

    def add(self, node: MemoryNet) -> None:
        self._missed(node.default_id)
        super().add(node)

    def remove(self, node: MemoryNet) -> None:
        if self._nodes.get(node.default_id) is node:
            super().remove(node)

    def _missed(self, node_id: NodeId) -> None:
        timer = self._vanished.pop(node_id, None)
        if timer is not None:
            timer.cancel()
            for pair in [pair for pair in self._sessions if node_id in pair]:
                self._lose(pair)

    def block(self, sender: NodeId, receiver: NodeId) -> None:
        """Swallow what goes from one to the other."""
        self._blocked.add((sender, receiver))
        pair = frozenset((sender, receiver))
        if pair not in self._noticing:
            loop = asyncio.get_running_loop()
            self._noticing[pair] = loop.call_later(SILENCE_S, self.cut, sender, receiver)

    def unblock(self, one: NodeId, other: NodeId) -> None:
        self._blocked -= {(one, other), (other, one)}
        timer = self._noticing.pop(frozenset((one, other)), None)
        if timer is not None:
            timer.cancel()
        self.join(one, other)

    def swallows(self, sender: MemoryNet, receiver: NodeId) -> bool:
        """Whether a message is lost on its way without the sender's noticing."""
        has_session = frozenset((sender.default_id, receiver)) in self._sessions
        is_blocked = (sender.default_id, receiver) in self._blocked
        return is_blocked or (receiver in self._vanished and has_session)


class SimNet(MemoryNet):
    """One node's net; what comes in is done inside the node's process."""

    def __init__(self, fabric: SimFabric, identity: NodeId, process: Process) -> None:
        super().__init__(fabric, (identity,), Assurance.PROVEN)
        self._sim = fabric
        self._process = process
        self.trace = Trace(VirtualClock(), lambda _is_on: None)

    async def __aenter__(self) -> "SimNet":
        await super().__aenter__()
        self._process.at_death.append(lambda: self._sim.vanish(self))
        return self

    def seek(self, node_id: NodeId) -> None:
        try:
            self._sim.meet(self, self._sim.peer_of(self, node_id))
        except Unreachable:
            return

    async def send(
        self,
        target: NodeId,
        channel: Channel,
        message: bytes,
        *,
        timeout_s: float,
        sender: NodeId | None = None,
    ) -> None:
        if not self._sim.swallows(self, target):
            await super().send(target, channel, message, timeout_s=timeout_s, sender=sender)

    def deliver(self, sender: MemoryNet, channel: Channel, message: bytes) -> None:
        if self._sim.swallows(sender, self.default_id):
            return
        for after_s in self._sim.weather.fates():
            loop = asyncio.get_running_loop()
            loop.call_later(after_s, self._arrive, sender, channel, message)

    def lost(self, peer: NodeId) -> None:
        self._inside(super().lost, peer)

    def met(self, peer: NodeId) -> None:
        self._inside(super().met, peer)

    def _arrive(self, sender: MemoryNet, channel: Channel, message: bytes) -> None:
        self._inside(super().deliver, sender, channel, message)

    def _inside(self, fn: Callable[..., None], *args: object) -> None:
        process = self._process
        if process.is_paused:
            process.resumed().add_done_callback(lambda _: self._inside(fn, *args))
        elif process.alive:
            process.run(fn, *args)
