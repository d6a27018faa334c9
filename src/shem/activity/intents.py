"""A requestor's wishes for activities, written before CreateActivity is sent.

`open` means that no answer came yet: a repeat under the same intent id is answered by a shem
provider with the same activity. `done` and `failed` are what an answer said.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from shem.kernel.ids import ActivityId, AgreementId, NodeId
from shem.store.unit import Fetch, Unit

INTENTS_MAX: Final = 1_000
"""Intents of one agreement that are looked at."""


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


async def load_intents(fetch: Fetch, identity: str, agreement_id: str) -> list[Intent]:
    """Return the agreement's intents, newest first."""
    rows = await fetch(
        "SELECT * FROM activity_intent WHERE identity = :identity AND agreement_id = :agreement"
        " ORDER BY created_ns DESC, intent_id LIMIT :most",
        identity=identity,
        agreement=agreement_id,
        most=INTENTS_MAX,
    )
    return [
        Intent(
            intent_id=row["intent_id"],
            identity=NodeId(row["identity"]),
            agreement_id=AgreementId(row["agreement_id"]),
            provider=NodeId(row["provider"]),
            state=IntentState(row["state"]),
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
