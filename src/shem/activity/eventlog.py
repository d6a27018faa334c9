"""What a provider agent is told: an append-only log per identity.

Event dates of one identity grow strictly, at microseconds, so that a cursor by date
(`afterTimestamp`) neither misses nor repeats an event; they are assigned at the commit, in turn.
Events are never consumed (docs/protocol/activity-exeunit.md §2.2).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.activity.records import Activity
from shem.kernel import times
from shem.store.unit import Fetch, Unit

EVENT_STEP_NS: Final = 1_000
EVENTS_MAX: Final = 100
"""Events in one answer."""


def events_topic(identity: str) -> str:
    return f"activity.events:{identity}"


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
