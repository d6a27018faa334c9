"""Calls to the provider of an activity, in the name of the identity that rents it.

One place for addresses (docs/protocol/activity-exeunit.md §1), time-outs and error words. Results
travel over the transfer channel.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from shem.activity.messages import translate
from shem.bus.router import Bus
from shem.bus.typed import unwrap
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.wire.flexbuffers import pack

ANSWER_GRACE_S: Final = 1.0
"""How much longer than the service's own timeout we wait for its answer."""
HELLO_S: Final = 2.0
"""How long we wait to learn what a peer can do."""
STREAM_ITEM_TIMEOUT_S: Final = 24 * 3600.0
"""A stream may be silent for as long as a command is."""

Features = Callable[[NodeId], Awaitable[frozenset[str]]]
"""What a peer says it can do; nothing for a legacy peer."""


class Peers:
    """Asks providers."""

    def __init__(self, bus: Bus, features: Features) -> None:
        self._bus = bus
        self._features = features

    async def can(self, provider: NodeId, feature: str) -> bool | None:
        """Tell whether the provider knows a feature; None when it cannot be asked now."""
        try:
            async with asyncio.timeout(HELLO_S):
                return feature in await self._features(provider)
        except (ShemError, TimeoutError):
            return None

    async def ask(
        self,
        owner: NodeId,
        provider: NodeId,
        path: str,
        body: object,
        *,
        timeout_s: float,
        transfer: bool = False,
    ) -> object:
        """Call `/public/<path>` at the provider; errors carry REST's words."""
        address = _address(owner, provider, path, transfer=transfer)
        try:
            return await self._bus.request(
                Caller(owner, Assurance.LOCAL), address, body, timeout_s=timeout_s
            )
        except ShemError as error:
            raise translate(error, f"/net/{provider}/{path}") from error

    async def stream(
        self, owner: NodeId, provider: NodeId, path: str, body: object
    ) -> AsyncGenerator[object, None]:
        """Yield the Ok values of a stream from the provider, over the transfer channel."""
        address = _address(owner, provider, path, transfer=True)
        caller = Caller(owner, Assurance.LOCAL)
        items = self._bus.stream(caller, address, pack(body), timeout_s=STREAM_ITEM_TIMEOUT_S)
        try:
            async with aclosing(items):
                async for item in items:
                    yield unwrap(item, address)
        except ShemError as error:
            raise translate(error, f"/net/{provider}/{path}") from error


def _address(owner: NodeId, provider: NodeId, path: str, *, transfer: bool) -> str:
    return f"{'/transfer' if transfer else ''}/from/{owner}/to/{provider}/{path}"
