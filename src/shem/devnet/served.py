"""The demo's service as the story knows it: how to ask it, and what it should answer."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shem.devnet import image
from shem.devnet.compose import Devnet
from shem.devnet.counter import Kind
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.runtimes.choice import BuiltIn, RuntimeChoice
from shem.kernel.world import World

PAUSE_MAX_S: Final = 4
"""What a clock that ticks every second may miss on a busy machine; every outage is longer."""


@dataclass(slots=True)
class Served:
    """The service, and how often it was asked."""

    kind: Kind
    url: str
    digest: str
    ticket: Path
    stands_in_because: str | None = None
    """Why it is not a container."""
    asked: int = 0
    by_name: bool = True
    """Whether this requestor's machine knows it; else there is a ticket."""

    @property
    def promise(self) -> str:
        """What is to be seen when it is asked again; a stand-in runs only while it is asked."""
        did = "ran on" if self.kind is Kind.CONTAINER else "is still there"
        return f"the service {did}, and remembers"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What to call the requestor's program with, to ask it."""
        if not self.by_name:
            return ("ask", self.kind, str(self.ticket))
        payload = ("--url", self.url, "--hash", self.digest)
        return ("serve", self.kind, *payload, "--ticket", str(self.ticket))

    def heard(self, event: dict[str, Any]) -> tuple[str, bool]:
        """Take an answer; return it in words, and whether it is as it should be."""
        self.asked += 1
        kept = event["starts"] == 1 and event["asked"] == self.asked
        seen = f"started {_times(event['starts'])}, asked {_times(event['asked'])}"
        if event["ran_s"]:
            kept = kept and event["pause_s"] <= PAUSE_MAX_S
            seen += f"; ran for {event['ran_s']} s, longest pause {event['pause_s']} s"
        return seen, kept


async def container_obstacle(world: World) -> str | None:
    """Return why there can be no container on this machine, or None."""
    missing = image.obstacle()
    if missing is None:
        try:
            await RuntimeChoice(built_in=BuiltIn.CONTAINER).check(world)
        except RuntimeFault as fault:
            return fault.message
    return missing


async def service_for(net: Devnet) -> Served:
    """Choose what the service is, and put its payload where the devnet serves it."""
    ticket = net.directory / "service.ticket"
    obstacle = await container_obstacle(net.world)
    if obstacle is not None:
        return Served(Kind.WASM, net.package.url, net.package.hash, ticket, obstacle)
    made = await asyncio.to_thread(image.write_image, net.package_dir, Entrypoint=["/srv/clock"])
    url = f"{net.package.url.rpartition('/')[0]}/{made.path.name}"
    return Served(Kind.CONTAINER, url, f"sha3:{made.sha3_256}", ticket)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
