"""What passes through to an activity as it is: HTTP calls (`…/proxy-http/…`), sealed messages.

Rules (docs/protocol/activity-exeunit.md §2.8): method, path with its query, headers and body go to
the ExeUnit, status, headers and body come back. What is meant for this node alone stays here: the
application key in the header or in the query, and the headers of the connection. A sealed message
(§2.7) is for an ExeUnit in an enclave to open; any other answers that it has no such endpoint.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from shem.activity.peer import Peers
from shem.activity.records import Activity
from shem.kernel.errors import PeerError, TimedOut
from shem.wire.errors import WireError
from shem.wire.flexbuffers import as_bytes

CALL_TIMEOUT_S: Final = 120.0
HEADERS_MAX: Final = 200
HEADER_SIZE_MAX: Final = 65_536
TOKEN_PARAMETER: Final = "authToken"
_OF_THE_CONNECTION: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_FORWARDED: Final = _OF_THE_CONNECTION | {"accept-encoding", "authorization", "host"}

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request as it goes to the ExeUnit."""

    method: str
    path: str
    headers: dict[str, list[str]]
    body: bytes

    def wire(self) -> dict[str, object]:
        return {
            "method": self.method,
            "path": self.path,
            "body": self.body or None,
            "headers": self.headers,
        }


@dataclass(frozen=True, slots=True)
class HttpHead:
    """Status and headers of an answer."""

    status: int
    headers: Headers


def build_call(
    method: str, path: str, query: str, headers: Iterable[tuple[str, str]], body: bytes
) -> HttpCall:
    """Compose the request from what a REST client sent."""
    kept: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in NOT_FORWARDED:
            kept.setdefault(name.lower(), []).append(value)
    shown = query if TOKEN_PARAMETER not in query else _without_token(query)
    return HttpCall(method, f"{path}?{shown}" if shown else path, kept, body)


def _without_token(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([pair for pair in pairs if pair[0] != TOKEN_PARAMETER])


class Proxy:
    """Carries calls."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def call(self, activity: Activity, call: HttpCall) -> tuple[HttpHead, bytes]:
        """Return the whole answer."""
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/GsbHttpCallMessage",
            call.wire(),
            timeout_s=CALL_TIMEOUT_S,
        )
        if not isinstance(reply, dict):
            raise WireError("an HTTP answer is a map")
        return _head(reply.get("header")), _body(reply.get("body"))

    async def sealed(self, activity: Activity, message: bytes, timeout_s: float) -> bytes:
        """Return the answer to a message that only the ExeUnit can read."""
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/CallEncryptedService",
            {
                "activityId": activity.activity_id,
                "sender": activity.identity,
                "bytes": message,
            },
            timeout_s=timeout_s,
        )
        return as_bytes(reply)

    async def stream(
        self, activity: Activity, call: HttpCall
    ) -> tuple[HttpHead, AsyncGenerator[bytes, None]]:
        """Return the head, and the body as it comes."""
        items = self._peers.stream(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/GsbHttpCallStreamingMessage",
            call.wire(),
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                head = _first_head(await anext(items, None))
        except TimeoutError as error:
            await items.aclose()
            raise TimedOut("Timeout") from error
        except BaseException:
            await items.aclose()
            raise
        return head, _chunks(items)


def _first_head(item: object) -> HttpHead:
    if not isinstance(item, dict) or "Header" not in item:
        raise PeerError("Service error: the service answered without a header")
    return _head(item["Header"])


async def _chunks(items: AsyncGenerator[object, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(items):
        async for item in items:
            if not isinstance(item, dict) or "Body" not in item:
                raise WireError("an HTTP stream goes on with bodies")
            yield _body(item["Body"])


def _head(value: object) -> HttpHead:
    if not isinstance(value, dict):
        raise WireError("an HTTP answer has a header")
    status, given = value.get("status_code"), value.get("response_headers", {})
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise WireError(f"{status!r} is no HTTP status")
    if not isinstance(given, dict):
        raise WireError("response_headers are a map")
    return HttpHead(status, list(_headers(given)))


def _headers(given: dict[str, Any]) -> Iterable[tuple[str, str]]:
    count = size = 0
    for name, values in given.items():
        for value in values if isinstance(values, list) else [values]:
            count, size = count + 1, size + len(name) + len(str(value))
            if count > HEADERS_MAX or size > HEADER_SIZE_MAX:
                raise WireError("an HTTP answer with too many headers")
            if not isinstance(value, str) or any(c in f"{name}{value}" for c in "\r\n\0"):
                raise WireError("a header is one line of text")
            if name.lower() not in _OF_THE_CONNECTION:
                yield name, value


def _body(value: object) -> bytes:
    if not isinstance(value, dict) or "msg_bytes" not in value:
        raise WireError("an HTTP body has msg_bytes")
    return as_bytes(value["msg_bytes"])
