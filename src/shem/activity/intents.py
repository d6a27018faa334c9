"""A requestor's wishes for activities, written before CreateActivity is sent.

`open` means that no answer was told to a program: a repeat under the same intent id is answered by
a shem provider with the same activity. An open intent that has an activity was resolved later, and
waits to be told. `done` and `failed` are what an answer said. A provider keeps those intents here
of which it has said that they never made an activity and never will.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from shem.kernel.ids import ActivityId, AgreementId, NodeId
from shem.store.unit import Fetch, Row, Unit

INTENTS_MAX: Final = 1_000
"""Intents of one agreement, or towards one provider, that are looked at."""
NEVER: Final = "resolved: it made no activity and never will"


Key = tuple[str, str, str]


class IntentState(StrEnum):
    """What is known of a create."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Intent:
    """A requestor's wish for one activity, written before it is sent."""

    intent_id: str
    identity: NodeId
    agreement_id: AgreementId
    provider: NodeId
    state: IntentState
    activity_id: ActivityId | None
    message: str | None

    @property
    def key(self) -> Key:
        return self.identity, self.agreement_id, self.intent_id

    @property
    def never(self) -> bool:
        return self.state is IntentState.FAILED and self.message == NEVER


async def load_intents(fetch: Fetch, identity: str, agreement_id: str) -> list[Intent]:
    """Return the agreement's intents, newest first."""
    rows = await fetch(
        "SELECT * FROM activity_intent WHERE identity = :identity AND agreement_id = :agreement"
        " ORDER BY created_ns DESC, intent_id LIMIT :most",
        identity=identity,
        agreement=agreement_id,
        most=INTENTS_MAX,
    )
    return [_intent(row) for row in rows]


async def load_unanswered(fetch: Fetch, provider: str) -> list[Intent]:
    """Return the intents towards a provider of which nothing is known, oldest first."""
    rows = await fetch(
        "SELECT * FROM activity_intent WHERE provider = :provider AND state = 'open'"
        " AND activity_id IS NULL ORDER BY created_ns, intent_id LIMIT :most",
        provider=provider,
        most=INTENTS_MAX,
    )
    return [_intent(row) for row in rows]


async def load_unanswering(fetch: Fetch) -> list[NodeId]:
    """Return the providers that have left intents unanswered."""
    rows = await fetch(
        "SELECT DISTINCT provider FROM activity_intent WHERE state = 'open'"
        " AND activity_id IS NULL LIMIT :most",
        most=INTENTS_MAX,
    )
    return [NodeId(row["provider"]) for row in rows]


async def is_ruled_out(fetch: Fetch, identity: str, agreement_id: str, intent_id: str) -> bool:
    """Tell whether an intent was resolved as never made."""
    rows = await fetch(
        "SELECT message FROM activity_intent WHERE identity = :identity"
        " AND agreement_id = :agreement AND intent_id = :intent AND state = 'failed' LIMIT 1",
        identity=identity,
        agreement=agreement_id,
        intent=intent_id,
    )
    return bool(rows) and rows[0]["message"] == NEVER


def _intent(row: Row) -> Intent:
    return Intent(
        intent_id=row["intent_id"],
        identity=NodeId(row["identity"]),
        agreement_id=AgreementId(row["agreement_id"]),
        provider=NodeId(row["provider"]),
        state=IntentState(row["state"]),
        activity_id=cast("ActivityId | None", row["activity_id"]),
        message=row["message"],
    )


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
