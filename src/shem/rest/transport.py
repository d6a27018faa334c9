"""One HTTP call: deadline, authorization, errors as types. Knows no endpoint.

Every session names itself anew (`Shem-Program`), so that a node tells its program from others with
the same key, and from an earlier run that died; a yagna does not look at it.

A connection on which an error was answered is closed, not reused: yagna may leave such a
connection unusable (docs/protocol/market.md §3.2).
"""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from shem.kernel.errors import ShemError
from shem.kernel.world import SystemRng, new_hex_id
from shem.rest.errors import ApiError, Disconnected, error_of_answer

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 30.0
"""For calls that have no timeout of their own at the node."""
POLL_MARGIN_S: Final = 10.0
"""What a call gets beyond the time that the node was asked to wait."""
CONNECT_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 100
STREAM_LINE_MAX: Final = 1024 * 1024
"""Half of the longest line of an event stream that is read."""
EVENT_STREAM: Final = "text/event-stream"
ANSWER_SIZE_MAX: Final = 64 * 1024 * 1024

Query = Mapping[str, str | int | float | None]


class Transport:
    """An open HTTP session with one node."""

    def __init__(self, api_url: str, app_key: str) -> None:
        self.api_url = api_url.rstrip("/")
        self._app_key = app_key
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            headers={
                "Authorization": f"Bearer {self._app_key}",
                "Shem-Program": new_hex_id(SystemRng()),
            },
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            read_bufsize=STREAM_LINE_MAX,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = msgspec.UNSET,
        wait_s: float | None = None,
    ) -> bytes:
        """Make one call; `wait_s` is how long the node itself may take to answer.

        Raises ApiError for an error answer, Disconnected when there is none.
        """
        import aiohttp

        if self._session is None:
            raise ShemError("the REST client is not open: use `async with`")
        name = f"{method} {path}"
        total_s = CALL_TIMEOUT_S if wait_s is None else wait_s + POLL_MARGIN_S
        payload: dict[str, Any] = {}
        if body is not msgspec.UNSET:
            payload["data"] = msgspec.json.encode(body)
            payload["headers"] = {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                self.api_url + path,
                params=_plain(query),
                timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S),
                **payload,
            ) as answer:
                return await _read(name, answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            message = f"no node answers at {self.api_url}"
            raise Disconnected(message, sent=False, call=name) from error
        except TimeoutError as error:
            message = f"no answer within {total_s:g} s"
            raise Disconnected(message, sent=True, call=name) from error
        except aiohttp.ClientError as error:
            message = f"the connection broke ({type(error).__name__})"
            raise Disconnected(message, sent=True, call=name) from error

    async def lines(self, path: str, *, silence_s: float) -> AsyncGenerator[bytes, None]:
        """GET an event stream and yield its lines as they come.

        It ends when the node ends it; Disconnected when it breaks, or says nothing for `silence_s`.
        """
        import aiohttp

        if self._session is None:
            raise ShemError("the REST client is not open: use `async with`")
        name = f"GET {path}"
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        try:
            async with self._session.get(
                self.api_url + path, headers={"Accept": EVENT_STREAM}, timeout=limits
            ) as answer:
                if answer.status >= 400:
                    await _read(name, answer)
                async for line in answer.content:
                    yield line
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            message = f"no node answers at {self.api_url}"
            raise Disconnected(message, sent=False, call=name) from error
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            message = f"the stream broke ({type(error).__name__})"
            raise Disconnected(message, sent=True, call=name) from error

    async def read(self, kind: type[T], path: str, **options: Any) -> T:
        """GET and decode."""
        return decode(kind, "GET " + path, await self.call("GET", path, **options))

    async def post(self, kind: type[T], path: str, **options: Any) -> T:
        """POST and decode."""
        return decode(kind, "POST " + path, await self.call("POST", path, **options))


def segment(text: str) -> str:
    """Quote an id so that it stays one segment of a path."""
    return quote(text, safe="")


def decode(kind: type[T], call: str, body: bytes) -> T:
    """Decode an answer; one that does not have the promised form is an ApiError too."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"the answer has an unexpected form: {error}"
        raise ApiError(message, status=200, code="unexpected-answer", call=call) from error


async def _read(name: str, answer: "aiohttp.ClientResponse") -> bytes:
    if (answer.content_length or 0) > ANSWER_SIZE_MAX:
        answer.close()
        raise ApiError("the answer is too large", status=200, code="unexpected-answer", call=name)
    body = await answer.read()
    if answer.status >= 400:
        answer.close()
        raise error_of_answer(name, answer.status, body)
    return body


def _plain(query: Query | None) -> dict[str, str] | None:
    if query is None:
        return None
    return {name: str(value) for name, value in query.items() if value is not None}
