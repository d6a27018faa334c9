"""`RestClient`: everything a program may ask of its node, typed.

async with RestClient("http://127.0.0.1:7465", app_key) as node:
    me = await node.identity.me()
    demand = await node.market.demands.publish(properties, constraints)
"""

from types import TracebackType
from typing import Self

from shem.rest.activity import Activities
from shem.rest.market import Market
from shem.rest.models import Me, NetStatus, Version
from shem.rest.transport import Transport


class Identity:
    """`/me` and `/version`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def me(self) -> Me:
        return await self._transport.read(Me, "/me")

    async def version(self) -> Version:
        return await self._transport.read(Version, "/version/get")


class NetApi:
    """`/net-api/v2/net`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self) -> NetStatus:
        return await self._transport.read(NetStatus, "/net-api/v2/net/status")


class RestClient:
    """A client of one node; open it with `async with`."""

    def __init__(self, api_url: str, app_key: str) -> None:
        self.transport = Transport(api_url, app_key)
        self.market = Market(self.transport)
        self.activity = Activities(self.transport)
        self.identity = Identity(self.transport)
        self.net = NetApi(self.transport)

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.transport.close()
