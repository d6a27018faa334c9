"""What travels over the bus: calls, their handlers, and the two levels of failure.

A call fails on one of two levels (docs/protocol/gsb-identity.md §1.7, §2.5): the *transport* says
that nobody answered properly (`GsbError`, text only), or the *service* answered with an error of
its own in a good reply (`RemoteError`, any value). Services see `Call`s; how well a caller is
proven stands in `Call.caller`, and what it merely wrote about itself in `Call.caller_text`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import ZERO_NODE

CALL_TIMEOUT_S: Final = 120.0
"""For calls of which the caller did not say how long it waits: twice the longest REST poll."""


class GsbCode(IntEnum):
    """Codes of a CallReply that carries a text instead of a document."""

    BAD_REQUEST = 400
    SERVICE_FAILURE = 500


class GsbError(ShemError):
    """The bus, here or at the peer, could not bring the call to a proper answer."""

    code = "gsb-error"

    def __init__(self, message: str, gsb_code: GsbCode = GsbCode.SERVICE_FAILURE) -> None:
        super().__init__(message)
        self.gsb_code = gsb_code


class NoSuchEndpoint(GsbError):
    """Nothing is bound at the address."""

    code = "gsb-no-endpoint"

    def __init__(self, message: str = "endpoint address not found") -> None:
        super().__init__(message, GsbCode.BAD_REQUEST)


class RemoteError(ShemError):
    """The service answered `{"Err": payload}`."""

    code = "remote-error"

    def __init__(self, payload: object, address: str = "") -> None:
        super().__init__(f"{address or 'the service'} answered with an error: {payload!r}")
        self.payload = payload


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it reaches a handler; `data` is the payload as sent, compressed or not."""

    caller: Caller
    address: str
    data: bytes
    no_reply: bool = False
    caller_text: str = ""
    timeout_s: float = CALL_TIMEOUT_S
    """How long the caller waits for the answer, or for each item of a stream."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; a stream's items are not final, and its end need not be an item."""

    data: bytes
    final: bool


Endpoint = Callable[[Call], AsyncGenerator[Reply, None]]
"""What the router delivers to: whoever answers, with one reply or a stream of them."""
Handler = Callable[[Call], Awaitable[bytes]]
"""Answers one call with one payload; a GsbError becomes the transport error of the reply."""
StreamHandler = Callable[[Call], AsyncIterator[bytes]]
"""Answers one call with any number of payloads."""
Guard = Callable[[Call, Handler], Awaitable[bytes]]
"""Sees a call before its binding; refuses by raising, passes by calling the second argument."""
StreamGuard = Callable[[Call, StreamHandler], AsyncIterator[bytes]]

LOCAL_CALLER = Caller(ZERO_NODE, Assurance.LOCAL)
"""A process of this node that acts for no identity in particular."""
