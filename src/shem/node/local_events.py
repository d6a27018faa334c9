"""Tells processes on the bus what they subscribed to: locked identities, new application keys.

An event is a call to `<endpoint>/<name>` (docs/protocol/gsb-identity.md §3.1, §3.4). It is told
once: whoever does not answer has missed it and asks for the state instead.
"""

from types import TracebackType
from typing import Final, Self

import structlog

from shem.bus.router import Bus
from shem.kernel.caller import Caller
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.tasks import TaskScope

log = structlog.get_logger()

SUBSCRIBERS_MAX: Final = 64
EVENTS_UNDER_WAY_MAX: Final = 256
"""Calls to subscribers that have not answered yet; further events are lost for all."""
ANSWER_TIMEOUT_S: Final = 10.0
_ELSEWHERE: Final = ("/net/", "/from/", "/udp/", "/transfer/")


class Subscribers:
    """The endpoints that hear one kind of event; told while the `async with` block lasts."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._endpoints: list[str] = []
        self._tasks = TaskScope()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._endpoints.clear()
        await self._tasks.__aexit__(kind, error, trace)

    def add(self, endpoint: str) -> int:
        """Tell `endpoint` from now on, once per event; return its number."""
        if not endpoint.startswith("/") or f"{endpoint}/".startswith(_ELSEWHERE):
            raise UsageError(f"{endpoint!r} is not an endpoint of this node")
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= SUBSCRIBERS_MAX:
                raise UsageError(f"at most {SUBSCRIBERS_MAX} endpoints can subscribe")
            self._endpoints.append(endpoint)
        return self._endpoints.index(endpoint)

    def remove(self, endpoint: str) -> None:
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)

    def tell(self, caller: Caller, body: object) -> None:
        """Send an event to all, each on its own."""
        for endpoint in self._endpoints:
            if self._tasks.size >= EVENTS_UNDER_WAY_MAX:
                log.warning("subscriber.event_lost", endpoint=endpoint)
                continue
            self._tasks.spawn(self._tell_one(caller, endpoint, body), f"event {endpoint}")

    async def _tell_one(self, caller: Caller, endpoint: str, body: object) -> None:
        address = f"{endpoint}/{self._name}"
        try:
            await self._bus.request(caller, address, body, timeout_s=ANSWER_TIMEOUT_S)
        except ShemError as error:
            log.info("subscriber.silent", endpoint=endpoint, error=error.message)
