"""Two markets on virtual time, between which messages are lost, doubled, late and out of order."""

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World
from shem.market.ids import Role
from shem.net.memory import MemoryFabric, MemoryNet
from shem.net.types import Channel
from shem.store.committer import InlineCommitter
from tests.sim.market_pair import (
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    STRANGER_SECRET,
    Side,
    running,
)
from tests.sim.virtual_time import VirtualClock

SECRETS = {
    Role.REQUESTOR: REQUESTOR_SECRET,
    Role.PROVIDER: PROVIDER_SECRET,
}
KEPT_MESSAGES = 200


class Weather:
    """What becomes of a message on its way."""

    def __init__(self, rng: SeededRng) -> None:
        self._rng = rng
        self.is_stormy = False
        self.past: list[tuple[MemoryNet, MemoryNet, Channel, bytes]] = []

    def over(self, net: MemoryNet) -> None:
        """Let the weather act on what reaches this node."""
        arrive = net.deliver

        def deliver(sender: MemoryNet, channel: Channel, message: bytes) -> None:
            self.past.append((net, sender, channel, message))
            del self.past[:-KEPT_MESSAGES]
            if not self.is_stormy:
                arrive(sender, channel, message)
                return
            loop = asyncio.get_running_loop()
            for _ in range(self._copies()):
                delay_s = self._rng.unit() * 3 if self._rng.unit() < 0.3 else 0.0
                loop.call_later(delay_s, arrive, sender, channel, message)

        net.deliver = deliver  # type: ignore[method-assign]

    def _copies(self) -> int:
        drawn = self._rng.unit()
        return 0 if drawn < 0.2 else 2 if drawn < 0.35 else 1


class Storm:
    """The two nodes and a stranger; each may be stopped and started on its own store."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = SeededRng(seed)
        self.world = World(clock=VirtualClock(), rng=self.rng)
        self.fabric = MemoryFabric()
        self.weather = Weather(self.rng)
        self.sides: dict[Role, Side] = {}
        self.stranger: Side
        self._folder = folder
        self._stacks: dict[str, AsyncExitStack] = {}

    async def open(self) -> None:
        for role in SECRETS:
            await self.start(role)
        self.stranger = await self._start(STRANGER_SECRET)

    async def close(self) -> None:
        for stack in self._stacks.values():
            await stack.aclose()
        self._stacks.clear()

    async def start(self, role: Role) -> None:
        side = self.sides[role] = await self._start(SECRETS[role])
        self.weather.over(side.net)

    async def restart(self, role: Role) -> None:
        """Stop a node whatever is under way, and start it on what it had committed."""
        await self._stacks.pop(SECRETS[role]).aclose()
        await self.start(role)

    async def _start(self, secret: str) -> Side:
        stack = self._stacks[secret] = AsyncExitStack()
        return await stack.enter_async_context(
            running(
                self.fabric,
                self._folder,
                secret,
                self.world,
                committer=InlineCommitter(lambda: self.rng.unit() / 100),
            )
        )

    def ids(self) -> tuple[NodeId, NodeId]:
        return self.sides[Role.REQUESTOR].node_id, self.sides[Role.PROVIDER].node_id

    async def settle(self, timeout_s: float) -> None:
        """Fair weather until nobody owes the other anything."""
        self.weather.is_stormy = False
        self.fabric.join(*self.ids())
        clock = self.world.clock
        until = clock.monotonic() + timeout_s
        while clock.monotonic() < until:
            await clock.sleep(60)
        for side in self.sides.values():
            left = await side.outbox.pending()
            assert not left, left

    def say_again(self, index: int) -> None:
        """Deliver a message of long ago once more."""
        if self.weather.past:
            net, sender, channel, message = self.weather.past[index % len(self.weather.past)]
            current = {side.net.default_id: side.net for side in self.sides.values()}
            receiver = current.get(net.default_id, net)
            self.fabric.meet(receiver, current.get(sender.default_id, sender))
            MemoryNet.deliver(receiver, current.get(sender.default_id, sender), channel, message)


async def attempt(act: Awaitable[Any]) -> Any:
    """Return what came out, an error included."""
    try:
        return await act
    except ShemError as error:
        return error
