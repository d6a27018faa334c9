"""`/me` and `/version/get` (docs/protocol/gsb-identity.md §3.6, §4.3)."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.kit import Context, json_reply, route


async def me(_request: Request, who: Context) -> Response:
    return json_reply({"identity": who.identity, "name": who.name, "role": who.role})


def routes(version: dict[str, object]) -> list[Route]:
    """`version` is the VersionInfo that the bus serves as well."""

    async def get_version(_request: Request) -> Response:
        return json_reply(version)

    open_route = Route("/version/get", get_version, methods=["GET"])
    open_route.methods = {"GET"}
    return [route("GET", "/me", me), open_route]
