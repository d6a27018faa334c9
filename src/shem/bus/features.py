"""What another node understands beyond Golem's own protocol.

Every shem node answers `/public/shem/Hello {version, features}` with its own `{version, features}`.
A node without that service is a legacy one and has no features. Answers are kept for a while; a
peer that shows up anew is asked at once, since it may have been upgraded meanwhile. That has a
second use: a legacy node that knew us before our restart holds a connection to us that is dead, and
loses what it sends on it first (docs/protocol/net.md §8.3). Then that is its answer to our Hello.
"""

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from shem.bus.router import Bus
from shem.bus.types import LOCAL_CALLER, Call, GsbCode, GsbError, RemoteError
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.version import shem_version
from shem.kernel.world import Clock

ADDRESS: Final = "/public/shem/Hello"
EXPIRY_S: Final = 300.0
CACHE_MAX: Final = 4_096
"""Peers whose answer is kept; the oldest goes first."""
FEATURES_MAX: Final = 256
"""Features of one peer that are looked at."""
HELLO_TIMEOUT_S: Final = 10.0
GREETINGS_MAX: Final = 64
"""Greetings under way; beyond, a peer is asked when something needs to know."""

log = structlog.get_logger()


class SignsOfLife(Protocol):
    """What this module needs of `net.service.Net`."""

    def on_peer_up(self, fn: Callable[[NodeId], None]) -> None: ...


class Features:
    """This node's features, and those of its peers."""

    def __init__(
        self,
        bus: Bus,
        net: SignsOfLife,
        own: Collection[str],
        *,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._about = {"version": shem_version(), "features": sorted(own)}
        self._clock = clock
        self._known: dict[NodeId, tuple[float, frozenset[str]]] = {}
        self._greetings = TaskScope()
        self._is_open = False
        net.on_peer_up(self._meet)
        bus.serve(ADDRESS, self._hello)

    async def __aenter__(self) -> Self:
        await self._greetings.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_open = False
        await self._greetings.__aexit__(kind, error, trace)

    async def features(self, peer: NodeId) -> frozenset[str]:
        """Return the peer's features, none for a legacy node; Unreachable or TimedOut if away."""
        known = self._known.get(peer)
        if known is not None and known[0] > self._clock.monotonic():
            return known[1]
        found = await self._ask(peer)
        self._known.pop(peer, None)
        while len(self._known) >= CACHE_MAX:
            del self._known[next(iter(self._known))]
        self._known[peer] = (self._clock.monotonic() + EXPIRY_S, found)
        return found

    def _meet(self, peer: NodeId) -> None:
        self._known.pop(peer, None)
        if self._is_open and self._greetings.size < GREETINGS_MAX:
            self._greetings.spawn(self._greet(peer), f"greeting of {peer}")

    async def _greet(self, peer: NodeId) -> None:
        try:
            await self.features(peer)
        except ShemError as error:
            log.debug("features.no_answer", peer=peer, reason=error.message)

    async def _ask(self, peer: NodeId) -> frozenset[str]:
        address = f"/net/{peer}/{ADDRESS.removeprefix('/public/')}"
        try:
            answer = await self._bus.request(
                LOCAL_CALLER, address, self._about, timeout_s=HELLO_TIMEOUT_S
            )
        except RemoteError:
            return frozenset()
        except GsbError as error:
            if error.gsb_code is GsbCode.BAD_REQUEST:
                return frozenset()
            raise
        listed = answer.get("features") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            return frozenset()
        return frozenset(item for item in listed[:FEATURES_MAX] if isinstance(item, str))

    async def _hello(self, call: Call, body: object) -> object:
        return self._about
