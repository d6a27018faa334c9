"""`/me` and `/version/get` (docs/protocol/gsb-identity.md §3.6, §4.3)."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.contract import NodeIdText, Promise
from shem.api.kit import Context, json_reply, open_route, route


class Me(msgspec.Struct):
    """As whom the caller acts."""

    identity: NodeIdText
    name: str
    role: str


class Release(msgspec.Struct, rename="camel"):
    """One version; its times are UTC without a zone."""

    version: str
    name: str
    seen: bool
    release_ts: str
    insertion_ts: str
    update_ts: str | None


class VersionInfo(msgspec.Struct):
    """What runs, and what could."""

    current: Release
    pending: Release | None


async def me(_request: Request, who: Context) -> Response:
    return json_reply({"identity": who.identity, "name": who.name, "role": who.role})


def routes(version: dict[str, object]) -> list[Route]:
    """`version` is the VersionInfo that the bus serves as well."""

    async def get_version(_request: Request) -> Response:
        return json_reply(version)

    mine = Promise("The identity and the key of the caller", {200: Me})
    known = Promise("The version of this node", {200: VersionInfo}, is_open=True)
    return [route("GET", "/me", me, mine), open_route("/version/get", get_version, known)]
