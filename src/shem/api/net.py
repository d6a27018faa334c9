"""`/net-api`: status; its VPN endpoints are not built yet (docs/protocol/net.md §10.1)."""

from collections.abc import Callable
from typing import NoReturn, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.contract import NodeIdText, Promise
from shem.api.kit import Context, json_reply, route
from shem.kernel.errors import NotSupported

Address = tuple[str, int]


class Status(Protocol):
    """What is shown of the net."""

    @property
    def node_id(self) -> str: ...
    @property
    def listen_address(self) -> Address | None: ...
    @property
    def public_address(self) -> Address | None: ...
    @property
    def sessions(self) -> int: ...


class NetStatus(msgspec.Struct, rename="camel"):
    """Where this node can be found."""

    node_id: NodeIdText
    listen_ip: str | None
    public_ip: str | None
    sessions: int


def _text(address: Address | None) -> str | None:
    return None if address is None else f"{address[0]}:{address[1]}"


def routes(status: Callable[[], Status]) -> list[Route]:
    """Serve what `status` tells, and refuse the rest clearly."""

    async def get_status(_request: Request, _who: Context) -> Response:
        now = status()
        shown = {
            "nodeId": now.node_id,
            "listenIp": _text(now.listen_address),
            "publicIp": _text(now.public_address),
            "sessions": now.sessions,
        }
        return json_reply(shown)

    async def vpn(_request: Request, _who: Context) -> NoReturn:
        raise NotSupported("virtual private networks are not supported yet by this node")

    told = Promise("This node on the net", {200: NetStatus})
    tables = [route("GET", "/net-api/v2/net/status", get_status, told)]
    for base in ("/net-api/v1/net", "/net-api/v2/vpn/net"):
        for path in (base, base + "/{rest:path}"):
            tables += [route(method, path, vpn) for method in ("GET", "POST", "DELETE")]
    return tables
