"""The node's local services: what the command line, and any other process of this machine, asks.

Keys (`local_identity`, `local_app_keys`), the net (`local_net`), the version and the shutdown;
yagna's own command line works with them (tests/interop/test_interop_yagna_cli.py). Only the ping
is public.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from shem.bus.router import Binding, Bus
from shem.bus.types import Call
from shem.identity.service import IdentityService
from shem.kernel.errors import ShemError
from shem.kernel.times import to_naive
from shem.kernel.version import YAGNA_VERSION, shem_version
from shem.kernel.world import World
from shem.node import bodies
from shem.node.local_app_keys import LocalAppKeys
from shem.node.local_identity import LocalIdentity
from shem.node.local_net import LocalNet, NetFace, bind_diagnostics

VERSION: Final = "/local/version"
CONTROL: Final = "/local/control"


class LocalServices:
    """Bound while its `async with` block lasts; `stop` is called when a shutdown is asked for."""

    def __init__(
        self,
        bus: Bus,
        net: NetFace,
        identity: IdentityService,
        *,
        stop: Callable[[], None],
        world: World | None = None,
    ) -> None:
        self._bus = bus
        self._net = net
        self._identity = identity
        self._stop = stop
        self._world = world or World()
        self._started_ns = self._world.clock.wall_ns()
        self._parts = AsyncExitStack()
        self._bindings: list[Binding] = []

    async def __aenter__(self) -> Self:
        bus = self._bus
        for part in (LocalIdentity(bus, self._identity), LocalAppKeys(bus, self._identity)):
            await self._parts.enter_async_context(part)
        self._bindings = [
            *LocalNet(self._net, self._world.clock).bind(bus),
            bind_diagnostics(bus),
            bus.serve(f"{VERSION}/check", self._check_version),
            bus.serve(f"{VERSION}/skip", self._skip_version),
            bus.serve(f"{CONTROL}/ShutdownRequest", self._shut_down, error=_bare_error),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._bindings:
            self._bindings.pop().close()
        await self._parts.aclose()

    def version_info(self) -> dict[str, object]:
        """Return the version that clients of yagna look for; `name` says who it really is."""
        moment = to_naive(self._started_ns)
        current = {
            "version": YAGNA_VERSION,
            "name": f"(shem {shem_version()})",
            "seen": True,
            "releaseTs": moment,
            "insertionTs": moment,
            "updateTs": None,
        }
        return {"current": current, "pending": None}

    async def _check_version(self, _call: Call, _body: object) -> object:
        return self.version_info()

    async def _skip_version(self, _call: Call, _body: object) -> object:
        return None

    async def _shut_down(self, _call: Call, body: object) -> object:
        bodies.flag(bodies.fields(body), "graceful", default=False)
        self._stop()
        return None


def _bare_error(error: ShemError) -> object:
    return error.message
