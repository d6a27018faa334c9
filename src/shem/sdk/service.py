"""A Service: scripts to start, run and shut down, that a new program takes up in the right state.

    class Web(shem.Service):
        async def start(self):
            yield shem.Run("server", "install")
        async def run(self):
            while True:
                (status,) = yield shem.Run("server", "status")
                await asyncio.sleep(10)
        async def shutdown(self):
            yield shem.Run("server", "stop")

    async with golem.service(Web(), name="web", payload=…) as running:
        await running.wait()

`yield` gives the script's results back, and raises CommandFailed there when a command failed. The
names are those of yapapi. Where a new program goes on (docs/adr/0009):

| the last one died while | the new one |
|---|---|
| pending | looks for what it had rented, or rents |
| starting | runs `start` again; steps that were sent give their results and are not repeated |
| running | runs `run` from its beginning, once the batch it was in has ended (`self.left`) |
| stopping | runs `shutdown` again, as `start` |
"""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Final

from shem.sdk.activity import Activity
from shem.sdk.batch import Batch, CommandResult
from shem.sdk.script import Script

Results = list[CommandResult]
Steps = AsyncGenerator[Script, Results]


class ServiceState(StrEnum):
    """What a service is doing."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    TERMINATED = "terminated"


TRANSITIONS: Final[dict[ServiceState, frozenset[ServiceState]]] = {
    ServiceState.PENDING: frozenset({ServiceState.STARTING}),
    ServiceState.STARTING: frozenset(
        {ServiceState.RUNNING, ServiceState.STOPPING, ServiceState.PENDING, ServiceState.TERMINATED}
    ),
    ServiceState.RUNNING: frozenset(
        {ServiceState.STOPPING, ServiceState.PENDING, ServiceState.TERMINATED}
    ),
    ServiceState.STOPPING: frozenset({ServiceState.TERMINATED}),
    ServiceState.TERMINATED: frozenset({ServiceState.PENDING}),
}
"""Where a service may go: back to `pending` when its activity was lost and it is rented anew."""


class Service:
    """Override what the service does; each method is an async generator of scripts."""

    activity: Activity
    """Where it runs; there before `start` begins."""
    left: Batch | None = None
    """The batch of `run` in which an earlier program left it; None when it left none."""

    async def start(self) -> Steps:
        """Bring it up; nothing by default. Called again, it must yield the same scripts."""
        return
        yield  # type: ignore[unreachable]

    async def run(self) -> Steps:
        """Keep it going; when this ends, the service is shut down."""
        return
        yield  # type: ignore[unreachable]

    async def shutdown(self) -> Steps:
        """Bring it down in order; nothing by default."""
        return
        yield  # type: ignore[unreachable]
