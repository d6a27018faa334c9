"""A devnet whose requestor loses data, and what tests await.

Its key is kept outside of its data directory: emptied, or put back to an earlier state, it is still
the same requestor.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET

WAIT_S = 120.0


class KeyedDevnet(Devnet):
    """Relay, requestor, provider and agent; the requestor's data comes and goes."""

    @property
    def data(self) -> Path:
        """The requestor's data directory."""
        return self.directory / "requestor" / "data"

    def empty_requestor(self) -> None:
        """Lose everything but the key; the requestor's daemon must be down."""
        shutil.rmtree(self.data)

    def back_up(self) -> Path:
        """Copy the data directory of a daemon that is down."""
        copy = self.directory / "backup"
        shutil.copytree(self.data, copy)
        return copy

    def restore(self, copy: Path) -> None:
        shutil.rmtree(self.data)
        shutil.copytree(copy, self.data)

    def golem(self) -> shem.Golem:
        requestor = self.requestor
        return shem.Golem(
            "e2e", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET
        )

    def begun(self) -> list[str]:
        """Return the payload's own marks of the commands that have begun, of all activities."""
        found = (self.directory / "agent" / "data").glob("exe-unit/work/*/*/vol-*/ledger.txt")
        lines = (line for path in found for line in path.read_text().splitlines())
        return [line for line in lines if "begin" in line]

    def log_of(self, name: str) -> str:
        return (self.directory / name / f"{name}.log").read_text(errors="replace")

    async def handed_over(self, activity_id: str) -> None:
        """Wait until the agent has given the activity's results to the node."""

        async def done() -> bool:
            lines = self.log_of("agent").splitlines()
            return any("journal.handed_over" in line and activity_id in line for line in lines)

        await until(done)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - other processes make it true
            await asyncio.sleep(0.05)
