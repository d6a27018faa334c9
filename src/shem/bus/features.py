"""What another node understands beyond Golem's own protocol.

Every shem node answers `/public/shem/Hello {version, features}` with its own `{version, features}`.
A node without that service is a legacy one and has no features. Answers are kept for a while and
forgotten when the peer shows up anew, since it may have been upgraded meanwhile.
"""

from collections.abc import Callable, Collection
from typing import Final, Protocol

from shem.bus.router import Bus
from shem.bus.types import LOCAL_CALLER, Call, GsbCode, GsbError, RemoteError
from shem.kernel.ids import NodeId
from shem.kernel.version import shem_version
from shem.kernel.world import Clock

ADDRESS: Final = "/public/shem/Hello"
EXPIRY_S: Final = 300.0
CACHE_MAX: Final = 4_096
"""Peers whose answer is kept; the oldest goes first."""
FEATURES_MAX: Final = 256
"""Features of one peer that are looked at."""
HELLO_TIMEOUT_S: Final = 10.0


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
        net.on_peer_up(self.forget)
        bus.serve(ADDRESS, self._hello)

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

    def forget(self, peer: NodeId) -> None:
        """Ask again the next time."""
        self._known.pop(peer, None)

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
