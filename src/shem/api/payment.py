"""`/payment-api/v1`: not built yet, and says so to every call."""

from typing import NoReturn

from starlette.requests import Request
from starlette.routing import Route

from shem.api.kit import Context, route
from shem.kernel.errors import NotSupported


async def not_yet(request: Request, _who: Context) -> NoReturn:
    raise NotSupported(f"{request.url.path}: payments are not supported yet by this node")


def routes() -> list[Route]:
    path = "/payment-api/v1/{rest:path}"
    return [route(method, path, not_yet) for method in ("GET", "POST", "PUT", "DELETE")]
