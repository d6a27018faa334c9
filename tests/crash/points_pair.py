"""Two nodes without an agent, each with a program, for negotiations one after the other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shem.devnet.compose import Devnet
from shem.devnet.daemons import Node
from tests.crash.points_market import Deal, Side, last_event


@dataclass(frozen=True, slots=True)
class Pair:
    """Both nodes, and their programs."""

    net: Devnet
    sides: tuple[Side, Side]
    nodes: dict[str, Node]

    def deal(self, ends: str) -> Deal:
        ours, theirs = (
            Side(side.name, side.rest, side.subscriptions, cursor=side.cursor)
            for side in self.sides
        )
        return Deal(ours, theirs, ends)

    async def finish(self, deal: Deal) -> None:
        """Withdraw what a deal published, and remember which events were told."""
        await deal.tidy()
        for side in self.sides:
            side.cursor = await last_event(side.rest)

    async def mend(self) -> None:
        """Bring back who is dead after a point that went wrong."""
        for node in self.nodes.values():
            assert node.program.child is not None
            if not node.program.child.alive:
                await node.start()

    def pid(self, name: str) -> int:
        child = self.nodes[name].program.child
        assert child is not None
        return child.pid


@asynccontextmanager
async def paired(folder: Path) -> AsyncIterator[Pair]:
    """Start them; the agent of the devnet is not needed."""
    async with Devnet(folder) as net, net.requestor.rest() as ours, net.provider.rest() as theirs:
        await net.agent.stop()
        sides = (
            Side("requestor", ours, ours.market.demands),
            Side("provider", theirs, theirs.market.offers),
        )
        for side in sides:
            side.cursor = await last_event(side.rest)
        yield Pair(net, sides, {"requestor": net.requestor, "provider": net.provider})
