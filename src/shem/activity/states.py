"""The life of an Activity as a table (docs/protocol/activity-exeunit.md §5.1).

    New ──► Initialized ──► Deployed ──► Ready        (a report may skip: it tells only the present)
    any alive ──► Unresponsive ──► any alive          (no usage heard / heard again)
    any ──► Terminated                                (final)

Pure. A report that the table does not hold is refused; the same state again is no change.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.kernel.errors import Conflict
from shem.wire.errors import WireError


class State(StrEnum):
    """The wire's names."""

    NEW = "New"
    INITIALIZED = "Initialized"
    DEPLOYED = "Deployed"
    READY = "Ready"
    TERMINATED = "Terminated"
    UNRESPONSIVE = "Unresponsive"


_REPORTED: Final = (State.INITIALIZED, State.DEPLOYED, State.READY)
"""What an ExeUnit says of itself while it lives; `terminate` leads back to the first."""

TRANSITIONS: Final[dict[tuple[State, State], State]] = {
    (State.NEW, State.NEW): State.NEW,
    **{(State.NEW, to): to for to in (*_REPORTED, State.UNRESPONSIVE, State.TERMINATED)},
    **{
        (source, to): to
        for source in (*_REPORTED, State.UNRESPONSIVE)
        for to in (*_REPORTED, State.UNRESPONSIVE, State.TERMINATED)
    },
    (State.TERMINATED, State.TERMINATED): State.TERMINATED,
}
"""(present, reported) → next. Absent: refused; nothing leaves Terminated."""

TEXT_SIZE_MAX: Final = 65_536
"""Longest reason or error message that is kept; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class ActivityState:
    """The pair (current, pending) with what was said about it."""

    current: State
    pending: State | None = None
    reason: str | None = None
    error_message: str | None = None

    @property
    def alive(self) -> bool:
        return State.TERMINATED not in (self.current, self.pending)

    @property
    def ended(self) -> bool:
        return self.current is State.TERMINATED and self.pending is None

    @property
    def started(self) -> bool:
        """The ExeUnit has reported in: what a waiting create waits for."""
        return self.alive and self.current is not State.NEW

    def wire(self) -> dict[str, object]:
        """Return the JSON and FlexBuffers form; absent texts are left out."""
        body: dict[str, object] = {"state": [self.current.value, self._pending_value()]}
        if self.reason is not None:
            body["reason"] = self.reason
        if self.error_message is not None:
            body["errorMessage"] = self.error_message
        return body

    def _pending_value(self) -> str | None:
        return None if self.pending is None else self.pending.value


def parse_state(value: object) -> ActivityState:
    """Read the wire form; WireError when it is none."""
    if not isinstance(value, dict):
        raise WireError("an ActivityState is a map")
    pair = value.get("state")
    if not isinstance(pair, list) or len(pair) != 2:
        raise WireError("ActivityState.state is a pair")
    try:
        current = State(pair[0])
        pending = None if pair[1] is None else State(pair[1])
    except ValueError as error:
        raise WireError(f"ActivityState.state: {error}") from error
    return ActivityState(current, pending, _text(value, "reason"), _text(value, "errorMessage"))


def _text(value: dict[str, object], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise WireError(f"ActivityState.{name} is a text")
    return None if found is None else found[:TEXT_SIZE_MAX]


def advance(present: ActivityState, reported: ActivityState) -> ActivityState:
    """Return the state after a report; Conflict when the table does not allow it."""
    if present.ended and reported.ended:
        return present
    if (present.current, reported.current) not in TRANSITIONS:
        raise Conflict(f"an activity in state {present.current} cannot become {reported.current}")
    return reported
