"""Rows of activities, create intents and provider events, as dataclasses.

One node may hold both roles of an activity: rows are keyed by (activity id, role), and every row
names the identity that owns it. Event dates of one identity grow strictly, at microseconds, so that
a cursor by date (`afterTimestamp`) neither misses nor repeats; they are assigned at the commit.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

import msgspec

from shem.activity.states import ActivityState, State
from shem.kernel import times
from shem.kernel.errors import ShemError
from shem.kernel.ids import ActivityId, AgreementId, NodeId
from shem.store.unit import Fetch, Row, Unit

ACTIVITIES_MAX: Final = 1_000
"""Activities read at once: of one agreement, or alive in one role."""
EVENT_STEP_NS: Final = 1_000


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
    usage: tuple[float, ...] | None
    usage_ns: int
    destroy_ns: int | None
    created_ns: int

    @property
    def state_topic(self) -> str:
        return state_topic(self.activity_id)


def state_topic(activity_id: str) -> str:
    return f"activity.state:{activity_id}"


def events_topic(identity: str) -> str:
    return f"activity.events:{identity}"


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
        usage=None if vector is None else msgspec.json.decode(vector, type=tuple[float, ...]),
        usage_ns=row["usage_ns"],
        destroy_ns=row["destroy_ns"],
        created_ns=row["created_ns"],
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


async def alive_activities(fetch: Fetch, role: Role) -> list[Activity]:
    rows = await fetch(
        "SELECT * FROM activity WHERE role = :role AND state <> 'Terminated'"
        " ORDER BY created_ns DESC LIMIT :most",
        role=role,
        most=ACTIVITIES_MAX,
    )
    return [_activity(row) for row in rows]


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
    unit.notify(activity.state_topic)


def save_state(unit: Unit, activity: Activity, state: ActivityState, now_ns: int) -> None:
    unit.execute(
        "UPDATE activity SET state = :state, pending = :pending, reason = :reason,"
        " error_message = :error, state_ns = :now WHERE activity_id = :id AND role = :role",
        expect=1,
        state=state.current,
        pending=state.pending,
        reason=state.reason,
        error=state.error_message,
        now=now_ns,
        id=activity.activity_id,
        role=activity.role,
    )
    unit.notify(activity.state_topic)


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


def save_destroy(unit: Unit, activity: Activity, destroy_ns: int | None) -> None:
    """Note when the destruction was asked for; None takes it back."""
    unit.execute(
        "UPDATE activity SET destroy_ns = :now WHERE activity_id = :id AND role = :role",
        expect=1,
        now=destroy_ns,
        id=activity.activity_id,
        role=activity.role,
    )


def _vector(usage: tuple[float, ...] | None) -> str | None:
    return None if usage is None else msgspec.json.encode(usage).decode()


# --- create intents ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Intent:
    """A requestor's wish for one activity, written before it is sent."""

    intent_id: str
    identity: NodeId
    agreement_id: AgreementId
    provider: NodeId
    state: str
    activity_id: ActivityId | None
    message: str | None


async def load_intents(fetch: Fetch, identity: str, agreement_id: str) -> list[Intent]:
    """Return the agreement's intents, newest first."""
    rows = await fetch(
        "SELECT * FROM activity_intent WHERE identity = :identity AND agreement_id = :agreement"
        " ORDER BY created_ns DESC, intent_id LIMIT :most",
        identity=identity,
        agreement=agreement_id,
        most=ACTIVITIES_MAX,
    )
    return [
        Intent(
            intent_id=row["intent_id"],
            identity=NodeId(row["identity"]),
            agreement_id=AgreementId(row["agreement_id"]),
            provider=NodeId(row["provider"]),
            state=row["state"],
            activity_id=cast("ActivityId | None", row["activity_id"]),
            message=row["message"],
        )
        for row in rows
    ]


def save_intent(unit: Unit, intent: Intent, now_ns: int) -> None:
    """Insert an intent, or overwrite its outcome; `done` is never overwritten."""
    unit.execute(
        "INSERT INTO activity_intent (intent_id, identity, agreement_id, provider, state,"
        " activity_id, message, created_ns) VALUES (:intent, :identity, :agreement, :provider,"
        " :state, :activity, :message, :now)"
        " ON CONFLICT (identity, agreement_id, intent_id) DO UPDATE SET state = excluded.state,"
        " activity_id = excluded.activity_id, message = excluded.message"
        " WHERE activity_intent.state <> 'done'",
        intent=intent.intent_id,
        identity=intent.identity,
        agreement=intent.agreement_id,
        provider=intent.provider,
        state=intent.state,
        activity=intent.activity_id,
        message=intent.message,
        now=now_ns,
    )


# --- provider events --------------------------------------------------------------------------


class EventKind(StrEnum):
    """What a provider agent is told."""

    CREATE = "CreateActivity"
    DESTROY = "DestroyActivity"


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One row of the provider agent's event log."""

    activity_id: str
    agreement_id: str
    kind: EventKind
    requestor_pub_key: str | None
    event_ns: int

    def json(self) -> dict[str, object]:
        detail = (
            {} if self.requestor_pub_key is None else {"requestorPubKey": self.requestor_pub_key}
        )
        return {
            "activityId": self.activity_id,
            "agreementId": self.agreement_id,
            "eventType": {self.kind.value: detail},
            "eventDate": times.to_rfc3339(self.event_ns),
        }


def append_event(
    unit: Unit, activity: Activity, kind: EventKind, now_ns: int, pub_key: str | None = None
) -> None:
    """Append to the log of the activity's identity; the date is made unique at the commit."""
    topic = events_topic(activity.identity)
    unit.serialise(topic)
    unit.execute(
        "INSERT INTO activity_event (identity, activity_id, agreement_id, kind, app_session_id,"
        " requestor_pub_key, event_ns) SELECT :identity, :activity, :agreement, :kind, :session,"
        " :pub_key, CASE WHEN coalesce(max(event_ns), 0) >= :now"
        " THEN max(event_ns) + :step ELSE :now END"
        " FROM activity_event WHERE identity = :identity",
        identity=activity.identity,
        activity=activity.activity_id,
        agreement=activity.agreement_id,
        kind=kind,
        session=activity.app_session_id,
        pub_key=pub_key,
        now=times.truncate_to_us(now_ns),
        step=EVENT_STEP_NS,
    )
    unit.notify(topic)


async def load_events(
    fetch: Fetch, identity: str, after_ns: int, app_session_id: str | None, most: int
) -> list[ProviderEvent]:
    session = "" if app_session_id is None else " AND app_session_id = :session"
    wanted = {} if app_session_id is None else {"session": app_session_id}
    rows = await fetch(
        "SELECT activity_id, agreement_id, kind, requestor_pub_key, event_ns FROM activity_event"
        f" WHERE identity = :identity AND event_ns > :after{session}"
        " ORDER BY event_ns LIMIT :most",
        identity=identity,
        after=after_ns,
        most=most,
        **wanted,
    )
    return [
        ProviderEvent(
            activity_id=row["activity_id"],
            agreement_id=row["agreement_id"],
            kind=EventKind(row["kind"]),
            requestor_pub_key=row["requestor_pub_key"],
            event_ns=row["event_ns"],
        )
        for row in rows
    ]
