"""How a handler's outcome becomes CallReplies: items, the end of a stream, errors as text.

One of the places where an unknown exception ends: a broken service must not take the
connection, and the other services, with it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import structlog

from shem.bus.types import GsbCode, GsbError, Reply
from shem.kernel.errors import ShemError
from shem.wire.gsb import CallReply, CallRequest, Code, ReplyType

log = structlog.get_logger()

Send = Callable[[CallReply], Awaitable[None]]
Describe = Callable[[ShemError], tuple[Code, str]]


def describe_locally(error: ShemError) -> tuple[Code, str]:
    """Return code and text as the socket router says it."""
    if isinstance(error, GsbError) and error.gsb_code is GsbCode.BAD_REQUEST:
        return Code.BAD_REQUEST, error.message
    return Code.SERVICE_FAILURE, error.message


def describe_to_peer(error: ShemError) -> tuple[Code, str]:
    """Return code 400 always, with the level in the text (docs/protocol/net.md §9.3)."""
    text = error.message
    if isinstance(error, GsbError) and error.gsb_code is GsbCode.BAD_REQUEST:
        text = f"Bad request: {text}"
    elif not text.startswith("Bad content: "):
        text = f"GSB failure: {text}"
    return Code.BAD_REQUEST, text


async def answer(
    request: CallRequest,
    replies: AsyncGenerator[Reply, None],
    send: Send,
    describe: Describe = describe_locally,
) -> None:
    """Send all replies of a call; with `no_reply` only run it."""

    async def reply(kind: ReplyType, data: bytes, code: Code = Code.OK) -> None:
        if not request.no_reply:
            await send(CallReply(request.request_id, code, kind, data))

    try:
        async with aclosing(replies):
            async for item in replies:
                await reply(ReplyType.FULL if item.final else ReplyType.PARTIAL, item.data)
                if item.final:
                    return
    except ShemError as error:
        code, text = describe(error)
        await reply(ReplyType.FULL, text.encode(), code)
    except Exception:
        log.exception("bus.handler_failed", address=request.address)
        code, text = describe(GsbError("internal error"))
        await reply(ReplyType.FULL, text.encode(), code)
    else:
        await reply(ReplyType.FULL, b"")
