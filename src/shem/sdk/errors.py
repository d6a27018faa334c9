"""What a program is told when something does not work, and what to do next.

    GolemError
    ├── NotReachable      the node, or the provider, did not answer for as long as we were patient
    ├── PermissionDenied  the application key is not known, or may not do this
    ├── NotSupported      this node or this provider does not know how
    ├── NoProvider        nobody agreed to the demand in time
    ├── ActivityGone      the activity has ended: `reason`
    ├── AgreementEnded    … because its agreement has: `ended` says by whom, when and why
    ├── CommandFailed     a command ran and failed: `result`
    ├── BatchUnknown      it is unknown whether the batch was accepted, or there is no such batch
    ├── BatchTimeout      the batch did not finish in the time given; it runs on
    └── NodeRefused       any other error answer: `status`, `message`, `code`

No error is raised for an outage that could be sat out (`patience`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shem.kernel.errors import ShemError
from shem.rest.errors import CODE_ACTIVITY_ENDED, CODE_NO_SUCH_PATH, ApiError, Disconnected

if TYPE_CHECKING:
    from shem.sdk.batch import CommandResult


class GolemError(ShemError):
    """Root of all that the SDK raises."""


class NotReachable(GolemError):
    """The node or the provider did not answer; nothing is lost, try again later."""

    status = 503
    code = "not-reachable"


class PermissionDenied(GolemError):
    """The application key is not known to the node, or is not entitled to the act."""

    status = 403
    code = "forbidden"


class NotSupported(GolemError):
    """This node or provider cannot do that."""

    status = 501
    code = "not-supported"


class NoProvider(GolemError):
    """No provider agreed in time; the message counts what was seen."""

    code = "no-provider"


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agreement or an activity ended."""

    by: str
    """`Requestor`, `Provider`, `Expiry`, or `unknown`."""
    at: str | None
    """RFC 3339, by this node's clock; None when it is not known."""
    why: str
    code: str | None = None
    """`golem.requestor.code` or `golem.provider.code` of the reason."""

    def __str__(self) -> str:
        when = f" at {self.at}" if self.at else ""
        code = f" [{self.code}]" if self.code else ""
        return f"ended by {self.by}{when}: {self.why or 'no reason given'}{code}"


class ActivityGone(GolemError):
    """The activity has ended; its results can still be read where the node kept them."""

    status = 410
    code = "activity-gone"

    def __init__(self, activity_id: str, ended: Ended) -> None:
        super().__init__(f"activity {activity_id} {ended}; rent again to go on")
        self.activity_id = activity_id
        self.ended = ended


class AgreementEnded(ActivityGone):
    """The agreement has ended, and its activities with it."""

    code = "agreement-ended"


class CommandFailed(GolemError):
    """A command of the batch failed; later commands of the batch did not run."""

    code = "command-failed"

    def __init__(self, result: "CommandResult") -> None:
        detail = result.message or "failed"
        output = f": {result.stderr.strip()}" if result.stderr else ""
        super().__init__(f"command {result.index} of batch {result.batch_id}: {detail}{output}")
        self.result = result


class BatchUnknown(GolemError):
    """Whether the batch was accepted is unknown, or the activity has no such batch."""

    status = 404
    code = "batch-unknown"

    def __init__(self, batch_id: str, message: str) -> None:
        super().__init__(message)
        self.batch_id = batch_id


class BatchTimeout(GolemError):
    """The batch did not finish in time. It runs on: `activity.batch(batch_id)` reads it later."""

    status = 408
    code = "batch-timeout"

    def __init__(self, batch_id: str, timeout_s: float) -> None:
        super().__init__(
            f"batch {batch_id} did not finish within {timeout_s:g} s; it runs on, read its results"
            f" with activity.batch({batch_id!r}).results()"
        )
        self.batch_id = batch_id


class NodeRefused(GolemError):
    """The node answered with an error that has no class of its own."""


def explain(error: ApiError | Disconnected) -> GolemError:
    """Turn an error of the REST client into one that says what to do next."""
    if isinstance(error, Disconnected):
        return NotReachable(f"{error}. Is the node running? Set YAGNA_API_URL to where it serves")
    if error.status == 401:
        return PermissionDenied(
            f"{error.message}: set YAGNA_APPKEY to one of the keys of `shem app-key list`"
        )
    if error.status == 403:
        return PermissionDenied(error.message)
    if error.status in {405, 501} or error.code == CODE_NO_SUCH_PATH:
        return NotSupported(f"{error.message} ({error.call})")
    if error.code == CODE_ACTIVITY_ENDED:
        return NodeRefused(error.message, status=410, code=error.code)
    if error.code in {"peer-unreachable", "timeout"}:
        return NotReachable(f"the provider does not answer now, try again later: {error.message}")
    return NodeRefused(str(error), status=error.status, code=error.code)
