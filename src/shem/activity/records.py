"""Rows of activities, as dataclasses.

One node may hold both roles of an activity: rows are keyed by (activity id, role), and every row
names the identity that owns it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from shem.activity.states import ActivityState, State
from shem.kernel.errors import ShemError
from shem.kernel.ids import ActivityId, AgreementId, NodeId
from shem.store.unit import Fetch, Row, Unit

ACTIVITIES_MAX: Final = 1_000
"""Activities read at once: of one agreement, or alive in one role."""


class Role(StrEnum):
    """Which side of the agreement a row belongs to."""

    REQUESTOR = "Requestor"
    PROVIDER = "Provider"


class UnknownActivity(ShemError):
    """No such activity here; yagna's words and status."""

    code = "unknown-activity"

    def __init__(self, activity_id: str) -> None:
        super().__init__(f"DAO error: Not found: agreement id for activity: {activity_id}")


@dataclass(frozen=True, slots=True)
class Activity:
    """One role's view of an activity."""

    activity_id: ActivityId
    role: Role
    identity: NodeId
    agreement_id: AgreementId
    requestor: NodeId
    provider: NodeId
    app_session_id: str | None
    intent_id: str | None
    state: ActivityState
    before: State | None
    """What it was before it became Unresponsive."""
    usage: tuple[float, ...] | None
    usage_ns: int
    destroy_ns: int | None
    created_ns: int
    state_ns: int = 0
    """When this node learned the state."""

    @property
    def is_ending(self) -> bool:
        """It has ended, or was asked to."""
        return self.destroy_ns is not None or not self.state.alive

    @property
    def state_topic(self) -> str:
        return state_topic(self.activity_id)


def state_topic(activity_id: str) -> str:
    return f"activity.state:{activity_id}"


def provided_topic(identity: str) -> str:
    """Changes with every state and usage of the activities that an identity provides."""
    return f"activity.provided:{identity}"


def _activity(row: Row) -> Activity:
    pending = row["pending"]
    vector = row["usage_vector"]
    return Activity(
        activity_id=ActivityId(row["activity_id"]),
        role=Role(row["role"]),
        identity=NodeId(row["identity"]),
        agreement_id=AgreementId(row["agreement_id"]),
        requestor=NodeId(row["requestor"]),
        provider=NodeId(row["provider"]),
        app_session_id=row["app_session_id"],
        intent_id=row["intent_id"],
        state=ActivityState(
            State(row["state"]),
            None if pending is None else State(pending),
            row["reason"],
            row["error_message"],
        ),
        before=None if row["before"] is None else State(row["before"]),
        usage=None if vector is None else msgspec.json.decode(vector, type=tuple[float, ...]),
        usage_ns=row["usage_ns"],
        destroy_ns=row["destroy_ns"],
        created_ns=row["created_ns"],
        state_ns=row["state_ns"],
    )


async def load_activity(fetch: Fetch, activity_id: str, role: Role) -> Activity | None:
    rows = await fetch(
        "SELECT * FROM activity WHERE activity_id = :id AND role = :role LIMIT 1",
        id=activity_id,
        role=role,
    )
    return _activity(rows[0]) if rows else None


async def roles_of(fetch: Fetch, activity_id: str) -> list[Activity]:
    """Return both roles' rows of an activity, as far as this node has them."""
    rows = await fetch(
        "SELECT * FROM activity WHERE activity_id = :id ORDER BY role LIMIT 2", id=activity_id
    )
    return [_activity(row) for row in rows]


async def activities_of_agreement(fetch: Fetch, agreement_id: str) -> list[Activity]:
    rows = await fetch(
        "SELECT * FROM activity WHERE agreement_id = :agreement"
        " ORDER BY created_ns, activity_id, role LIMIT :most",
        agreement=agreement_id,
        most=ACTIVITIES_MAX,
    )
    return [_activity(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Sign:
    """As much of a living activity as is looked at every second."""

    activity_id: str
    current: State
    created_ns: int


async def alive_signs(fetch: Fetch, role: Role) -> list[Sign]:
    rows = await fetch(
        "SELECT activity_id, state, created_ns FROM activity"
        " WHERE role = :role AND state <> 'Terminated' ORDER BY created_ns DESC LIMIT :most",
        role=role,
        most=ACTIVITIES_MAX,
    )
    return [Sign(row["activity_id"], State(row["state"]), row["created_ns"]) for row in rows]


async def alive_agreements(fetch: Fetch, role: Role) -> list[str]:
    """Return the agreements under which something lives."""
    rows = await fetch(
        "SELECT DISTINCT agreement_id FROM activity"
        " WHERE role = :role AND state <> 'Terminated' LIMIT :most",
        role=role,
        most=ACTIVITIES_MAX,
    )
    return [row["agreement_id"] for row in rows]


async def provided_by(fetch: Fetch, identity: str) -> list[Activity]:
    """Return the living activities that an identity provides, oldest first."""
    rows = await fetch(
        "SELECT * FROM activity WHERE role = 'Provider' AND state <> 'Terminated'"
        " AND identity = :identity ORDER BY created_ns, activity_id LIMIT :most",
        identity=identity,
        most=ACTIVITIES_MAX,
    )
    return [_activity(row) for row in rows]


async def alive_at(
    fetch: Fetch, provider: str, after: tuple[int, str], most: int
) -> list[Activity]:
    """Return the requestor's living activities at a provider, oldest first, after a cursor."""
    rows = await fetch(
        "SELECT * FROM activity WHERE role = 'Requestor' AND state <> 'Terminated'"
        " AND provider = :provider AND (created_ns > :ns OR created_ns = :ns AND activity_id > :id)"
        " ORDER BY created_ns, activity_id LIMIT :most",
        provider=provider,
        ns=after[0],
        id=after[1],
        most=most,
    )
    return [_activity(row) for row in rows]


async def providers_of_alive(fetch: Fetch) -> list[NodeId]:
    """Return the providers of this node's living activities as requestor."""
    rows = await fetch(
        "SELECT DISTINCT provider FROM activity WHERE role = 'Requestor'"
        " AND state <> 'Terminated' LIMIT :most",
        most=ACTIVITIES_MAX,
    )
    return [NodeId(row["provider"]) for row in rows]


async def activity_of_intent(
    fetch: Fetch, role: Role, requestor: str, agreement_id: str, intent_id: str
) -> Activity | None:
    rows = await fetch(
        "SELECT * FROM activity WHERE role = :role AND requestor = :requestor"
        " AND agreement_id = :agreement AND intent_id = :intent LIMIT 1",
        role=role,
        requestor=requestor,
        agreement=agreement_id,
        intent=intent_id,
    )
    return _activity(rows[0]) if rows else None


async def load_states(fetch: Fetch, role: Role, since_ns: int) -> dict[str, int]:
    """Count the activities that changed since a time, by state."""
    rows = await fetch(
        "SELECT state, count(*) AS many FROM activity WHERE role = :role AND state_ns >= :since"
        " GROUP BY state LIMIT 10",
        role=role,
        since=since_ns,
    )
    return {row["state"]: row["many"] for row in rows}


def save_activity(unit: Unit, activity: Activity) -> None:
    """Insert a new activity; a row that exists already is left alone."""
    unit.execute(
        "INSERT INTO activity (activity_id, role, identity, agreement_id, requestor, provider,"
        " app_session_id, intent_id, state, pending, reason, error_message, state_ns,"
        " usage_vector, usage_ns, destroy_ns, created_ns) VALUES (:id, :role, :identity,"
        " :agreement, :requestor, :provider, :session, :intent, :state, :pending, :reason,"
        " :error, :now, :usage, :usage_ns, :destroy_ns, :now)"
        " ON CONFLICT (activity_id, role) DO NOTHING",
        id=activity.activity_id,
        role=activity.role,
        identity=activity.identity,
        agreement=activity.agreement_id,
        requestor=activity.requestor,
        provider=activity.provider,
        session=activity.app_session_id,
        intent=activity.intent_id,
        state=activity.state.current,
        pending=activity.state.pending,
        reason=activity.state.reason,
        error=activity.state.error_message,
        now=activity.created_ns,
        usage=_vector(activity.usage),
        usage_ns=activity.usage_ns,
        destroy_ns=activity.destroy_ns,
    )
    _notify(unit, activity)


def save_state(unit: Unit, activity: Activity, state: ActivityState, now_ns: int) -> None:
    fell_silent = state.current is State.UNRESPONSIVE
    before = activity.before if activity.state.current is state.current else activity.state.current
    unit.execute(
        "UPDATE activity SET state = :state, pending = :pending, before = :before,"
        " reason = :reason, error_message = :error, state_ns = :now"
        " WHERE activity_id = :id AND role = :role",
        expect=1,
        before=before if fell_silent else None,
        state=state.current,
        pending=state.pending,
        reason=state.reason,
        error=state.error_message,
        now=now_ns,
        id=activity.activity_id,
        role=activity.role,
    )
    _notify(unit, activity)


def save_usage(unit: Unit, activity: Activity, usage: tuple[float, ...], usage_ns: int) -> None:
    unit.execute(
        "UPDATE activity SET usage_vector = :usage, usage_ns = :now"
        " WHERE activity_id = :id AND role = :role",
        expect=1,
        usage=_vector(usage),
        now=usage_ns,
        id=activity.activity_id,
        role=activity.role,
    )
    if activity.role is Role.PROVIDER:
        unit.notify(provided_topic(activity.identity))


def save_destroy(unit: Unit, activity: Activity, destroy_ns: int | None) -> None:
    """Note when the destruction was asked for; None takes it back."""
    unit.execute(
        "UPDATE activity SET destroy_ns = :now WHERE activity_id = :id AND role = :role",
        expect=1,
        now=destroy_ns,
        id=activity.activity_id,
        role=activity.role,
    )


def _notify(unit: Unit, activity: Activity) -> None:
    unit.notify(activity.state_topic)
    if activity.role is Role.PROVIDER:
        unit.notify(provided_topic(activity.identity))


def _vector(usage: tuple[float, ...] | None) -> str | None:
    return None if usage is None else msgspec.json.encode(usage).decode()
