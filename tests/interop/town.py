"""A relay, a real yagna and two nodes of ours, shared by the tests of a module.

A provider's offer is used by one test after another, since a yagna takes five seconds to announce
one; every test has its own demand. Tests may kill what they like: it is up again for the next.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shem.kernel.world import World
from shem.relay.service import Relay
from tests.interop.daemon import Daemon
from tests.interop.deal import Deal, Party, until
from tests.interop.our_node import our_node
from tests.interop.real_yagna import RealYagna, real_yagna

YAGNA = "yagna"
SHEM = "shem"
OTHER = "other shem"
PAIRS = [
    pytest.param((YAGNA, SHEM), id="yagna rents from shem"),
    pytest.param((SHEM, YAGNA), id="shem rents from yagna"),
    pytest.param((SHEM, OTHER), id="shem rents from shem"),
]
"""Requestor and provider."""
WITH_YAGNA = PAIRS[:2]


@dataclass
class Town:
    """The daemons by name."""

    relay: Relay
    parties: dict[str, Party]
    _offers: dict[str, tuple[str, str]] = field(default_factory=dict)
    _subnets: int = 0
    _starts: list[int] = field(default_factory=list)

    @property
    def yagna(self) -> RealYagna:
        daemon = self.parties[YAGNA].daemon
        assert isinstance(daemon, RealYagna)
        return daemon

    @property
    def shem(self) -> Daemon:
        return self.parties[SHEM].daemon

    def subnet(self) -> str:
        self._subnets += 1
        return f"subnet{self._subnets}"

    async def whole_again(self) -> None:
        """Have all daemons up, and those that were restarted known to each other."""
        for party in self.parties.values():
            if not (party.daemon.is_running and await party.daemon.is_up()):
                await party.daemon.kill()
                await party.back()
        starts = [party.daemon.starts for party in self.parties.values()]
        if starts != self._starts:
            self._starts = starts
            await self.meet_again(self.parties[SHEM], self.parties[YAGNA])

    async def meet_again(self, back: Party, other: Party) -> tuple[float, float]:
        """Wait until a node that was restarted reaches the other, and the other it.

        Return the seconds that each took. The first message that a yagna sends on a connection from
        before is lost: it is the answer to our node's greeting, or to this ping (net.md §8.3).
        """
        return await self._reach(back, other), await self._reach(other, back)

    async def _reach(self, caller: Party, called: Party) -> float:
        async def reaches() -> bool:
            ping = ("net", "ping", called.daemon.node_id, "--json")
            code, out, _ = await caller.daemon.run(*ping)
            return code == 0 and [row["ping (tcp)"] for row in json.loads(out)] != [None]

        return await until(reaches)

    async def deal(self, pair: tuple[str, str], *, expires_s: float = 3600) -> Deal:
        """Return a deal on the provider's standing offer, which is published when it has none."""
        requestor, provider = (self.parties[name] for name in pair)
        subnet, offer_id = self._offers.get(pair[1], ("", ""))
        standing = {offer.offer_id for offer in await provider.market.offers.mine()}
        if offer_id in standing:
            return Deal(requestor, provider, subnet, expires_s, offer_id)
        deal = Deal(requestor, provider, self.subnet(), expires_s)
        await deal.offer()
        self._offers[pair[1]] = deal.subnet, deal.offer_id
        return deal


@asynccontextmanager
async def town_at(directory: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), ("127.0.0.1", 0)))
        daemons = {
            YAGNA: real_yagna(directory / "yagna", relay.address),
            SHEM: our_node(directory / "shem", relay.address),
            OTHER: our_node(directory / "other", relay.address),
        }
        town = Town(relay, {})
        for name, daemon in daemons.items():
            party = await Party.at(await stack.enter_async_context(daemon))
            stack.push_async_callback(party.close)
            town.parties[name] = party
        yield town
