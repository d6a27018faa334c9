"""A chain to rent through: program, requestor's daemon, provider's daemon, our agent and ExeUnit.

The daemons are those of the town; a chain is a pair of their names.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

import shem
from shem.devnet.package import serve_package
from tests.interop import renting_program
from tests.interop.agents import ProviderAgent, provider_agent
from tests.interop.daemon import PASSED_ON, environment
from tests.interop.deal import until
from tests.interop.town import OTHER, YAGNA, Town

ENDED_S = 20.0
SUBNETS = {YAGNA: "at-yagna", OTHER: "at-shem"}
"""Where an agent offers, by the daemon that it uses."""
Chain = tuple[str, str]
"""The daemons of requestor and provider, by name."""


@dataclass
class Site:
    """The town with an agent at two of its daemons, and the payload they may be rented for."""

    town: Town
    agents: dict[str, ProviderAgent]
    package: shem.WasmPackage

    def golem(self, chain):
        daemon = self.town.parties[chain[0]].daemon
        return shem.Golem(
            "interop", api_url=daemon.api_url, app_key=daemon.app_key, subnet=SUBNETS[chain[1]]
        )

    def program(self, chain):
        """Return command and environment of a program of its own that rents and then waits."""
        command = [sys.executable, renting_program.__file__, self.package.url, self.package.hash]
        return command, self.environment(chain)

    async def states(self, chain, activity):
        """Return what both daemons say of the activity."""
        found = []
        for name in chain:
            state = await self.town.parties[name].rest.activity.state(activity.id)
            found.append(state.current)
        return found

    def environment(self, chain):
        """Return the environment of a program of the requestor, whatever it is written with."""
        daemon = self.town.parties[chain[0]].daemon
        return environment(PASSED_ON) | {
            "YAGNA_API_URL": daemon.api_url,
            "YAGNA_APPKEY": daemon.app_key,
            "YAGNA_SUBNET": SUBNETS[chain[1]],
        }

    async def open(self):
        """Wait until every agent has its offer out."""
        await asyncio.gather(*(until(agent.has_offer, ENDED_S) for agent in self.agents.values()))


@asynccontextmanager
async def site_at(town: Town, folders: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Put an agent at two of the town's daemons, and serve the payload."""
    async with AsyncExitStack() as stack:
        package = await stack.enter_async_context(serve_package(folders.mktemp("package")))
        agents = {}
        for name, subnet in SUBNETS.items():
            daemon = town.parties[name].daemon
            agent = provider_agent(daemon, folders.mktemp("agents") / subnet, subnet)
            agents[name] = await stack.enter_async_context(agent)
        yield Site(town, agents, package)
