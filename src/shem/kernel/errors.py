"""The error tree: what went wrong, whose fault it was, and the REST status that says so.

    ShemError
    ├── UsageError      400  the caller asked for something impossible
    ├── Unauthorized    401  no or a wrong application key
    ├── Denied          403  the caller is known and not entitled
    ├── NotFound        404
    ├── TimedOut        408  the answer did not come in time; the act may or may not have happened
    ├── Conflict        409  it is in the way of what is already there
    ├── Gone            410  it was there and has ended
    ├── PeerError       500  the peer broke the protocol, or refused
    ├── Unreachable     500  the peer cannot be reached now
    ├── StorageFault    500  our own disk failed
    └── NotSupported    501  not built yet, or not by this peer

`code` is stable and meant for programs (docs/errors.md); `message` is for people and keeps the
words that the published SDKs look for. Errors of a peer never crash a service.
"""

from typing import ClassVar


class ShemError(Exception):
    """Root of all expected errors."""

    status: int = 500
    code: str = "internal"
    _default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code


class UsageError(ShemError):
    """The caller asked for something malformed or impossible."""

    status = 400
    code = "bad-request"


class Unauthorized(ShemError):
    """No or a wrong application key."""

    status = 401
    code = "unauthorized"


class Denied(ShemError):
    """The caller is known and not entitled to the act."""

    status = 403
    code = "forbidden"


class NotFound(ShemError):
    """There is no such thing, or not for this caller."""

    status = 404
    code = "not-found"


class TimedOut(ShemError):
    """No answer in time: the act may or may not have happened."""

    status = 408
    code = "timeout"


class Conflict(ShemError):
    """The act contradicts what is already there."""

    status = 409
    code = "conflict"


class Gone(ShemError):
    """It was there and has ended."""

    status = 410
    code = "gone"


class PeerError(ShemError):
    """The peer broke the protocol or refused; logged at most as a warning."""

    code = "peer-error"


class Unreachable(ShemError):
    """The peer cannot be reached now; the same call may work later."""

    code = "peer-unreachable"


class StorageFault(ShemError):
    """Our own store failed: nothing was acknowledged."""

    code = "storage"


class NotSupported(ShemError):
    """Not built yet, or not known to this peer."""

    status = 501
    code = "not-supported"
