"""The activity messages of the bus: building, reading, and the two-way table of their errors.

Field names and forms: docs/protocol/activity-exeunit.md §3. Unknown fields are ignored; what is
missing or of a wrong type is the bus error that the reference gives (`Bad content: …`). Pure.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from shem.activity.states import ActivityState, parse_state
from shem.bus.types import GsbError, RemoteError
from shem.kernel import times
from shem.kernel.errors import (
    Conflict,
    Denied,
    NotFound,
    PeerError,
    ShemError,
    TimedOut,
    Unreachable,
    UsageError,
)
from shem.wire.errors import WireError
from shem.wire.flexbuffers import as_bytes

FEATURE_INTENT: Final = "activity.intent"
"""The peer answers a repeated CreateActivity (same `intentId`) with the same activity."""
FEATURE_RESOLVE: Final = "activity.resolve-batch"
"""The peer answers a repeated Exec again, and ResolveBatch."""
FEATURE_RESOLVE_INTENT: Final = "activity.resolve-intent"
"""The peer answers ResolveIntent: which activity an intent made, or that it never will."""
FEATURES: Final = frozenset({FEATURE_INTENT, FEATURE_RESOLVE, FEATURE_RESOLVE_INTENT})

PUBLIC: Final = "/public/activity"
LOCAL: Final = "/local/activity"
EXEUNIT: Final = "/public/exeunit"

USAGE_VECTOR_MAX: Final = 64
ID_LENGTH_MAX: Final = 128
TIMEOUT_MAX_S: Final = 3_600.0
MESSAGE_MAX: Final = 4_096
ENDPOINT_WORDS: Final = ("endpoint address not found", "No service registered")
DUPLICATE_WORDS: Final = "already exists"
ENDING_WORDS: Final = "the activity is ending"
"""How an ExeUnit that takes nothing new any more begins its refusal."""
NEVER_WORDS: Final = "was resolved as never accepted"


# --- reading ----------------------------------------------------------------------------------


class Body:
    """A decoded message; each reader raises the reference's bus error."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise GsbError("Bad content: Serde Error: invalid type: expected a map")
        self._value: dict[str, Any] = value

    def text(self, name: str) -> str:
        found = self.optional_text(name)
        if found is None:
            raise GsbError(f"Bad content: Serde Error: missing field `{name}`")
        return found

    def optional_text(self, name: str) -> str | None:
        found = self._value.get(name)
        if found is not None and (not isinstance(found, str) or len(found) > ID_LENGTH_MAX):
            raise GsbError(f"Bad content: Serde Error: invalid value for `{name}`")
        return found

    def count(self, name: str) -> int:
        """Return a whole number that is not negative."""
        found = self._value.get(name)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 63:
            raise GsbError(f"Bad content: Serde Error: invalid value for `{name}`")
        return found

    def optional_count(self, name: str) -> int | None:
        return None if self._value.get(name) is None else self.count(name)

    def flag(self, name: str) -> bool:
        return self._value.get(name) is True

    def timeout_s(self, default: float = 0.0) -> float:
        """Return the wait the caller asks for, within bounds; nonsense counts as none."""
        found = self._value.get("timeout")
        if not _is_number(found):
            return default
        return min(max(float(found or 0), 0.0), TIMEOUT_MAX_S)

    def state(self) -> ActivityState:
        return parse_state(self._value.get("state"))

    def usage(self) -> tuple[float, ...]:
        usage = self._value.get("usage")
        vector = usage.get("currentUsage") if isinstance(usage, dict) else None
        return parse_vector(vector if vector is not None else [])

    def pub_key(self) -> str | None:
        """Return the requestor's public key as hex."""
        found = self._value.get("requestorPubKey")
        if found is None:
            return None
        raw = as_bytes(found)
        if len(raw) > ID_LENGTH_MAX:
            raise WireError("requestorPubKey is too long")
        return raw.hex()


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def parse_vector(value: object) -> tuple[float, ...]:
    """Read a usage vector; WireError when it is none."""
    if not isinstance(value, list) or len(value) > USAGE_VECTOR_MAX:
        raise WireError(f"a usage vector is a list of at most {USAGE_VECTOR_MAX} numbers")
    for item in value:
        if not _is_number(item):
            raise WireError("a usage vector holds numbers")
    return tuple(float(item) for item in value)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a peer says of an activity's usage."""

    vector: tuple[float, ...] | None
    timestamp: int


def parse_usage(value: object) -> Usage:
    if not isinstance(value, dict):
        raise WireError("an ActivityUsage is a map")
    timestamp = value.get("timestamp", 0)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise WireError("ActivityUsage.timestamp is a number of seconds")
    vector = value.get("currentUsage")
    return Usage(None if vector is None else parse_vector(vector), timestamp)


def usage_body(vector: tuple[float, ...] | None, usage_ns: int) -> dict[str, object]:
    """Return the wire and REST form; an activity that never reported has no vector."""
    body: dict[str, object] = {"timestamp": usage_ns // times.NS_PER_S}
    if vector is not None:
        body["currentUsage"] = list(vector)
    return body


def parse_created(value: object) -> str:
    """Read the reply of CreateActivity: an id, or a map with one."""
    found = value.get("activityId") if isinstance(value, dict) else value
    if not isinstance(found, str) or not 0 < len(found) <= ID_LENGTH_MAX:
        raise WireError("CreateActivity was answered without an activity id")
    return found


def parse_resolved_intent(value: object) -> str | None:
    """Read the reply of ResolveIntent: an activity id, or None for never."""
    if not isinstance(value, dict) or "activityId" not in value:
        raise WireError("ResolveIntent was not answered with `activityId`")
    return None if value["activityId"] is None else parse_created(value)


# --- building ---------------------------------------------------------------------------------


def create_activity(
    agreement_id: str, provider: str, timeout_s: float, pub_key: str | None, intent_id: str
) -> dict[str, object]:
    return {
        "providerId": provider,
        "agreementId": agreement_id,
        "timeout": timeout_s,
        "requestorPubKey": None if pub_key is None else bytes.fromhex(pub_key),
        "intentId": intent_id,
    }


def destroy_activity(agreement_id: str, activity_id: str, timeout_s: float) -> dict[str, object]:
    return {"agreementId": agreement_id, "activityId": activity_id, "timeout": timeout_s}


def exec_batch(
    activity_id: str, batch_id: str, commands: list[dict[str, Any]], timeout_s: float
) -> dict[str, object]:
    return {
        "activityId": activity_id,
        "batchId": batch_id,
        "exeScript": commands,
        "timeout": timeout_s,
    }


def get_results(
    activity_id: str, batch_id: str, timeout_s: float, command_index: int | None
) -> dict[str, object]:
    return {
        "activityId": activity_id,
        "batchId": batch_id,
        "timeout": timeout_s,
        "commandIndex": command_index,
    }


# --- errors -----------------------------------------------------------------------------------


def error_payload(error: ShemError) -> object:
    """Return what a service of ours answers as `Err`."""
    if isinstance(error, TimedOut):
        return "timeout"
    if isinstance(error, Denied):
        return {"forbidden": error.message.removeprefix("Forbidden: ")}
    if isinstance(error, NotFound):
        return {"notFound": error.message.removeprefix("Not found: ")}
    if isinstance(error, UsageError | Conflict | WireError):
        return {"badRequest": error.message.removeprefix("Bad request: ")}
    if isinstance(error, ActivityEnding) or error.code == "activity-failed":
        return {"activity": error.message.removeprefix("Service error: ")}
    return {"service": error.message.removeprefix("Service error: ")}


_KINDS: Final[dict[str, tuple[type[ShemError], str]]] = {
    "badRequest": (UsageError, "Bad request"),
    "forbidden": (Denied, "Forbidden"),
    "notFound": (NotFound, "Not found"),
    "service": (PeerError, "Service error"),
    "activity": (PeerError, "Service error"),
    "usageLimitExceeded": (PeerError, "Service error"),
    "RuntimeException": (PeerError, "Service error"),
}


def error_of(payload: object) -> ShemError:
    """Return the error that a peer's `Err` stands for, with REST's words (§2.10)."""
    if payload == "timeout":
        return ProviderTimedOut("Timeout")
    if isinstance(payload, dict) and len(payload) == 1:
        ((kind, text),) = payload.items()
        if kind == "activity" and isinstance(text, str) and text.startswith(ENDING_WORDS):
            return ActivityEnding(f"Service error: {text}"[:MESSAGE_MAX])
        if kind in _KINDS and isinstance(text, str):
            made, words = _KINDS[kind]
            return made(f"{words}: {text}")
    return PeerError(f"Service error: {payload!r}"[:ID_LENGTH_MAX])


class ActivityEnding(PeerError):
    """The ExeUnit takes nothing new any more; what was asked of it did not and will not happen."""

    status = 410
    code = "activity-ending"


class ProviderTimedOut(TimedOut):
    """The provider answered: not in time. REST says the same as for no answer."""


class RemoteGsbError(PeerError):
    """The peer's bus could not deliver."""

    code = "peer-unreachable"

    def __init__(self, address: str, text: str) -> None:
        why = text if text.startswith("GSB failure: ") else f"GSB failure: {text}"
        super().__init__(f"GSB error: Remote service at `{address}` error: {why}"[:MESSAGE_MAX])
        if "Bad content" in text:
            self.code = "peer-error"


class EndpointGone(RemoteGsbError):
    """The peer answered that nothing is bound there: the ExeUnit is not running."""

    code = "endpoint-gone"

    def __init__(self, address: str) -> None:
        super().__init__(address, "Bad request: endpoint address not found")


class ActivityEnded(EndpointGone):
    """Nothing is bound there because the activity has ended: by whom, when, why."""

    code = "activity-ended"

    def __init__(self, story: str, cause: EndpointGone) -> None:
        ShemError.__init__(self, f"{story} ({cause.message})"[:MESSAGE_MAX])


def translate(error: ShemError, address: str) -> ShemError:
    """Return the REST form of what a call to `address` at the peer failed with."""
    match error:
        case RemoteError():
            return error_of(error.payload)
        case Unreachable():
            words = f"GSB error: Remote service at `{address}` error: {error.message}"
            return Unreachable(words[:MESSAGE_MAX])
        case TimedOut():
            return TimedOut("Timeout")
        case GsbError() if any(words in error.message for words in ENDPOINT_WORDS):
            return EndpointGone(address)
        case GsbError():
            return RemoteGsbError(address, error.message)
    return error
