"""What a REST call can end with besides its answer.

    ShemError
    ├── ApiError      the node answered with an error: `status`, `message`, `code`
    └── Disconnected  there was no answer; `sent` says whether the node may have acted on the call

An ApiError is a fact. After `Disconnected(sent=True)` it is *unknown whether it happened*: whoever
made the call must ask the node before making it again (docs/sdk.md, "Outages").
"""

from typing import Final

import msgspec

from shem.kernel.errors import ShemError

CODE_OF_STATUS: Final = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    408: "timeout",
    409: "conflict",
    410: "gone",
    501: "not-supported",
}
"""Codes for answers that carry none, as yagna's do not."""
NO_SUCH_ENDPOINT: Final = "endpoint address not found"
CODE_ENDPOINT_GONE: Final = "endpoint-gone"
"""The peer answered, and nobody serves the address there: the ExeUnit is not running."""
CODE_ACTIVITY_ENDED: Final = "activity-ended"
"""The node knows why nobody serves it: the message says by whom and why it was ended."""
CODE_ACTIVITY_ENDING: Final = "activity-ending"
"""Its ExeUnit takes nothing new any more: the message says why."""
GONE: Final = frozenset({CODE_ENDPOINT_GONE, CODE_ACTIVITY_ENDED})
CODE_PEER_UNREACHABLE: Final = "peer-unreachable"
CODE_NO_SUCH_PATH: Final = "no-such-path"
"""An empty 404: the node has no such endpoint, or not for this method."""
MESSAGE_SIZE_MAX: Final = 4_000


class ApiError(ShemError):
    """The node answered, and the answer is an error."""

    def __init__(self, message: str, *, status: int, code: str, call: str) -> None:
        super().__init__(message, status=status, code=code)
        self.call = call

    def __str__(self) -> str:
        return f"{self.call} answered {self.status}: {self.message}"


class Disconnected(ShemError):
    """No answer: the node is not there, went away, or took too long."""

    code = "no-answer"
    status = 503

    def __init__(self, message: str, *, sent: bool, call: str) -> None:
        super().__init__(message)
        self.sent = sent
        self.call = call

    def __str__(self) -> str:
        fate = "unknown whether it happened" if self.sent else "it was not sent"
        return f"{self.call}: {self.message} ({fate})"


class _ErrorBody(msgspec.Struct):
    message: str | None = None
    code: str | None = None


def error_of_answer(call: str, status: int, body: bytes) -> ApiError:
    """Read an error answer of a shem node or of a yagna (JSON, or plain text)."""
    if status == 404 and not body:
        message = "the node has no such endpoint"
        return ApiError(message, status=404, code=CODE_NO_SUCH_PATH, call=call)
    try:
        parsed = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        parsed = _ErrorBody(message=body[:MESSAGE_SIZE_MAX].decode(errors="replace").strip())
    message = (parsed.message or "(no message)")[:MESSAGE_SIZE_MAX]
    return ApiError(message, status=status, code=parsed.code or _code(status, message), call=call)


def _code(status: int, message: str) -> str:
    if NO_SUCH_ENDPOINT in message or "Service receiver was cancelled" in message:
        return CODE_ENDPOINT_GONE
    if status == 500 and "GSB error" in message:
        return CODE_PEER_UNREACHABLE
    return CODE_OF_STATUS.get(status, "internal")
