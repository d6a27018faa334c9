"""Typed endpoints and answers: documents inside payloads, `{"Ok": …}` and `{"Err": …}`.

Used alike by the in-process bus and by the socket client (docs/protocol/gsb-identity.md §2.5). An
endpoint that raises a `GsbError` answers on the transport level, a `RemoteError` with the
error value it carries, any other `ShemError` with what the endpoint makes of it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from shem.bus.outcome import closing
from shem.bus.types import Call, GsbError, Handler, RemoteError, StreamHandler
from shem.kernel.errors import ShemError
from shem.wire.errors import WireError
from shem.wire.flexbuffers import dumps_reply_err, dumps_reply_ok, unpack

Serve = Callable[[Call, object], Awaitable[object]]
"""`(call, request body) -> Ok value`."""
ServeStream = Callable[[Call, object], AsyncIterator[object]]
ErrorForm = Callable[[ShemError], object]
"""Turns a refusal into the error value of the service's own protocol."""


def as_message(error: ShemError) -> object:
    """Return the error value of services whose error is a record with a text."""
    return {"message": error.message}


def typed(fn: Serve, error: ErrorForm = as_message) -> Handler:
    """Wrap a function of values into a handler of payloads."""

    async def handler(call: Call) -> bytes:
        body = read_body(call)
        try:
            return dumps_reply_ok(await fn(call, body))
        except GsbError:
            raise
        except RemoteError as refusal:
            return dumps_reply_err(refusal.payload)
        except ShemError as refusal:
            return dumps_reply_err(error(refusal))

    return handler


def typed_stream(fn: ServeStream, error: ErrorForm = as_message) -> StreamHandler:
    """Wrap a generator of values into a handler whose every item is an answer of its own."""

    async def handler(call: Call) -> AsyncIterator[bytes]:
        body = read_body(call)
        try:
            async with closing(fn(call, body)) as found:
                async for item in found:
                    yield dumps_reply_ok(item)
        except GsbError:
            raise
        except RemoteError as refusal:
            yield dumps_reply_err(refusal.payload)
        except ShemError as refusal:
            yield dumps_reply_err(error(refusal))

    return handler


def read_body(call: Call) -> object:
    """Decode the request; what cannot be decoded fails on the transport level."""
    try:
        return unpack(call.data)
    except WireError as error:
        raise GsbError(f"Bad content: {error.message}") from error


def unwrap(data: bytes, address: str) -> object:
    """Return the Ok value of an answer; RemoteError for Err, GsbError for what is neither."""
    if not data:
        raise GsbError("empty response from remote service")
    try:
        answer = unpack(data)
    except WireError as error:
        raise GsbError(f"Bad content: {error.message}") from error
    if isinstance(answer, dict) and len(answer) == 1:
        fields = cast("dict[str, object]", answer)
        if "Ok" in fields:
            return fields["Ok"]
        if "Err" in fields:
            raise RemoteError(fields["Err"], address)
    raise GsbError(f"the answer of `{address}` is neither Ok nor Err")
