"""Rows of what a provider's node keeps of activities whose ExeUnit has ended.

An activity is `promised` from its ExeUnit's first report on, if its agent will hand the results
over, and `kept` once all are here: from then on what is not here was never accepted. `dropping` is
for the clean-up alone: to everyone else the activity is not kept any more.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from shem.activity.records import Activity
from shem.kernel.ids import ActivityId, AgreementId
from shem.store.unit import Fetch, Row, Unit

PAGE_MAX: Final = 50
"""Rows that are read at once; the script of a batch has at most a megabyte."""

Result = dict[str, Any]


class Keeping(StrEnum):
    """How far the results of an activity are here."""

    PROMISED = "promised"
    KEPT = "kept"
    DROPPING = "dropping"


@dataclass(frozen=True, slots=True)
class KeptActivity:
    """An activity whose results are here, or will be."""

    activity_id: ActivityId
    agreement_id: AgreementId
    state: Keeping
    size: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """A batch that an ExeUnit had accepted; `stored` of its results are here, from index 0."""

    activity_id: ActivityId
    batch_id: str
    position: int
    """The batches of an activity are numbered in the order of their acceptance."""
    accepted_ns: int
    script: list[Any]
    commands: int
    stored: int


def _activity(row: Row) -> KeptActivity:
    return KeptActivity(
        ActivityId(row["activity_id"]),
        AgreementId(row["agreement_id"]),
        Keeping(row["state"]),
        row["size"],
        row["since_ns"],
    )


def _batch(row: Row) -> KeptBatch:
    return KeptBatch(
        activity_id=ActivityId(row["activity_id"]),
        batch_id=row["batch_id"],
        position=row["position"],
        accepted_ns=row["accepted_ns"],
        script=msgspec.json.decode(row["script"], type=list[Any]),
        commands=row["commands"],
        stored=row["stored"],
    )


async def load_kept(fetch: Fetch, activity_id: str) -> KeptActivity | None:
    rows = await fetch(
        "SELECT * FROM kept_activity WHERE activity_id = :id LIMIT 1", id=activity_id
    )
    return _activity(rows[0]) if rows else None


async def load_oldest(fetch: Fetch, after: tuple[int, str]) -> list[KeptActivity]:
    """Return a page of kept activities after a cursor, the oldest first."""
    rows = await fetch(
        "SELECT * FROM kept_activity WHERE since_ns > :ns OR since_ns = :ns AND activity_id > :id"
        " ORDER BY since_ns, activity_id LIMIT :most",
        ns=after[0],
        id=after[1],
        most=PAGE_MAX,
    )
    return [_activity(row) for row in rows]


async def load_total(fetch: Fetch) -> tuple[int, int]:
    """Return how many activities are kept or promised, and their size in bytes."""
    rows = await fetch(
        "SELECT count(*) AS many, CAST(COALESCE(SUM(size), 0) AS BIGINT) AS size"
        " FROM kept_activity LIMIT 1"
    )
    return rows[0]["many"], rows[0]["size"]


async def load_kept_batch(fetch: Fetch, activity_id: str, batch_id: str) -> KeptBatch | None:
    rows = await fetch(
        "SELECT * FROM kept_batch WHERE activity_id = :activity AND batch_id = :batch LIMIT 1",
        activity=activity_id,
        batch=batch_id,
    )
    return _batch(rows[0]) if rows else None


async def load_kept_batches(fetch: Fetch, activity_id: str, first: int) -> list[KeptBatch]:
    """Return a page of an activity's batches from number `first` on."""
    rows = await fetch(
        "SELECT * FROM kept_batch WHERE activity_id = :activity AND position >= :first"
        " ORDER BY position LIMIT :most",
        activity=activity_id,
        first=first,
        most=PAGE_MAX,
    )
    return [_batch(row) for row in rows]


async def count_kept_batches(fetch: Fetch, activity_id: str) -> int:
    rows = await fetch(
        "SELECT count(*) AS many FROM kept_batch WHERE activity_id = :activity LIMIT 1",
        activity=activity_id,
    )
    return int(rows[0]["many"])


async def load_kept_results(fetch: Fetch, batch: KeptBatch, upto: int | None) -> list[Result]:
    rows = await fetch(
        "SELECT result FROM kept_result WHERE activity_id = :activity AND batch_id = :batch"
        " AND position <= :last ORDER BY position",
        activity=batch.activity_id,
        batch=batch.batch_id,
        last=batch.commands if upto is None else min(upto, batch.commands),
    )
    return [msgspec.json.decode(row["result"]) for row in rows]


def save_promise(unit: Unit, activity: Activity, now_ns: int) -> None:
    """Note that the results will be handed over; nothing changes when that is known."""
    unit.execute(
        "INSERT INTO kept_activity (activity_id, identity, agreement_id, state, size, since_ns)"
        " VALUES (:id, :identity, :agreement, 'promised', 0, :now)"
        " ON CONFLICT (activity_id) DO NOTHING",
        id=activity.activity_id,
        identity=activity.identity,
        agreement=activity.agreement_id,
        now=now_ns,
    )


def save_kept_batch(unit: Unit, activity: Activity, batch: KeptBatch) -> None:
    unit.execute(
        "INSERT INTO kept_batch (activity_id, batch_id, identity, position, accepted_ns, script,"
        " commands, stored) VALUES (:activity, :batch, :identity, :position, :accepted, :script,"
        " :commands, 0)",
        expect=1,
        activity=activity.activity_id,
        batch=batch.batch_id,
        identity=activity.identity,
        position=batch.position,
        accepted=batch.accepted_ns,
        script=msgspec.json.encode(batch.script).decode(),
        commands=batch.commands,
    )


def save_kept_results(unit: Unit, activity: Activity, batch: KeptBatch, fresh: list[Result]) -> int:
    """Append results to those of the batch; returns their size."""
    size = 0
    for offset, result in enumerate(fresh):
        text = msgspec.json.encode(result).decode()
        size += len(text)
        unit.execute(
            "INSERT INTO kept_result (activity_id, batch_id, position, identity, result)"
            " VALUES (:activity, :batch, :position, :identity, :result)",
            expect=1,
            activity=activity.activity_id,
            batch=batch.batch_id,
            position=batch.stored + offset,
            identity=activity.identity,
            result=text,
        )
    unit.execute(
        "UPDATE kept_batch SET stored = :stored"
        " WHERE activity_id = :activity AND batch_id = :batch",
        expect=1,
        stored=batch.stored + len(fresh),
        activity=activity.activity_id,
        batch=batch.batch_id,
    )
    return size


def add_size(unit: Unit, activity_id: str, size: int) -> None:
    unit.execute(
        "UPDATE kept_activity SET size = size + :size WHERE activity_id = :id",
        expect=1,
        size=size,
        id=activity_id,
    )


def save_keeping(unit: Unit, activity_id: str, state: Keeping, now_ns: int | None = None) -> None:
    """Move an activity on; with `now_ns` its age counts from now."""
    unit.execute(
        "UPDATE kept_activity SET state = :state, since_ns = COALESCE(:now, since_ns)"
        " WHERE activity_id = :id",
        expect=1,
        state=state,
        now=now_ns,
        id=activity_id,
    )


def delete_batch(unit: Unit, activity_id: str, batch_id: str) -> None:
    for table in ("kept_result", "kept_batch"):
        unit.execute(
            f"DELETE FROM {table} WHERE activity_id = :activity AND batch_id = :batch",
            activity=activity_id,
            batch=batch_id,
        )


def delete_kept(unit: Unit, activity_id: str) -> None:
    unit.execute("DELETE FROM kept_activity WHERE activity_id = :id", id=activity_id)
