"""A requestor's record of batches: what was asked, what is known of it, and the results so far.

A row is written before its Exec is sent and never removed. Results are kept in order from index 0
without a gap; an entry, once stored, is never replaced.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from shem.activity.batches import BatchState, Coverage
from shem.kernel import times
from shem.kernel.ids import ActivityId, AgreementId, BatchId, NodeId
from shem.store.unit import Fetch, Row, Unit

BATCHES_MAX: Final = 10_000
"""Batches of one activity: a node that lists them reads no more."""
OPEN_MAX: Final = 10_000
"""Open batches that a restarted node takes up again."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as this node knows it."""

    activity_id: ActivityId
    batch_id: BatchId
    identity: NodeId
    agreement_id: AgreementId
    state: BatchState
    digest: str
    commands: int
    stored: int
    failed: bool
    finished: bool
    message: str | None
    created_ns: int

    @property
    def topic(self) -> str:
        return batch_topic(self.activity_id, self.batch_id)

    @property
    def coverage(self) -> Coverage:
        return Coverage(self.commands, self.stored, self.failed)

    @property
    def open(self) -> bool:
        """Results are to come."""
        return not self.finished and self.state is BatchState.ACCEPTED

    @property
    def pullable(self) -> bool:
        """Results may come: also those of a batch that is not known to be accepted."""
        return not self.finished and self.state in (BatchState.ACCEPTED, BatchState.UNKNOWN)


def batch_topic(activity_id: str, batch_id: str) -> str:
    return f"activity.batch:{activity_id}:{batch_id}"


_COLUMNS: Final = (
    "activity_id, batch_id, identity, agreement_id, state, digest, commands, stored, failed,"
    " finished, message, created_ns"
)


def _batch(row: Row) -> Batch:
    return Batch(
        activity_id=ActivityId(row["activity_id"]),
        batch_id=BatchId(row["batch_id"]),
        identity=NodeId(row["identity"]),
        agreement_id=AgreementId(row["agreement_id"]),
        state=BatchState(row["state"]),
        digest=row["digest"],
        commands=row["commands"],
        stored=row["stored"],
        failed=bool(row["failed"]),
        finished=bool(row["finished"]),
        message=row["message"],
        created_ns=row["created_ns"],
    )


async def load_batch(fetch: Fetch, activity_id: str, batch_id: str) -> Batch | None:
    rows = await fetch(
        f"SELECT {_COLUMNS} FROM activity_batch"
        " WHERE activity_id = :activity AND batch_id = :batch LIMIT 1",
        activity=activity_id,
        batch=batch_id,
    )
    return _batch(rows[0]) if rows else None


async def load_batches(fetch: Fetch, activity_id: str) -> list[tuple[Batch, str]]:
    """Return the activity's batches with their scripts, oldest first."""
    rows = await fetch(
        f"SELECT {_COLUMNS}, script FROM activity_batch WHERE activity_id = :activity"
        " ORDER BY created_ns, batch_id LIMIT :most",
        activity=activity_id,
        most=BATCHES_MAX,
    )
    return [(_batch(row), row["script"]) for row in rows]


async def count_accepted(fetch: Fetch, activity_id: str) -> int:
    rows = await fetch(
        "SELECT count(*) AS many FROM activity_batch"
        " WHERE activity_id = :activity AND state = 'accepted' LIMIT 1",
        activity=activity_id,
    )
    return int(rows[0]["many"])


async def load_open(fetch: Fetch, activity_id: str | None = None) -> list[Batch]:
    """Return the batches whose end is not known: of one activity, or of the whole node."""
    only = "" if activity_id is None else " AND activity_id = :activity"
    wanted = {} if activity_id is None else {"activity": activity_id}
    rows = await fetch(
        f"SELECT {_COLUMNS} FROM activity_batch WHERE finished = 0{only}"
        " ORDER BY created_ns, batch_id LIMIT :most",
        most=OPEN_MAX,
        **wanted,
    )
    return [_batch(row) for row in rows]


async def load_results(fetch: Fetch, batch: Batch, upto: int | None = None) -> list[Result]:
    """Return the stored results from index 0, at most up to index `upto`."""
    last = batch.commands if upto is None else upto
    rows = await fetch(
        "SELECT result FROM activity_result WHERE activity_id = :activity AND batch_id = :batch"
        " AND position <= :last ORDER BY position",
        activity=batch.activity_id,
        batch=batch.batch_id,
        last=last,
    )
    return [msgspec.json.decode(row["result"]) for row in rows]


def save_batch(unit: Unit, batch: Batch, script: str) -> None:
    """Insert a new batch: the intent."""
    unit.execute(
        "INSERT INTO activity_batch (activity_id, batch_id, identity, agreement_id, state, script,"
        " digest, commands, stored, failed, finished, message, created_ns) VALUES (:activity,"
        " :batch, :identity, :agreement, :state, :script, :digest, :commands, 0, 0, 0, NULL, :now)",
        expect=1,
        activity=batch.activity_id,
        batch=batch.batch_id,
        identity=batch.identity,
        agreement=batch.agreement_id,
        state=batch.state,
        script=script,
        digest=batch.digest,
        commands=batch.commands,
        now=batch.created_ns,
    )
    unit.notify(batch.topic)


def save_batch_state(unit: Unit, batch: Batch, state: BatchState, message: str | None) -> Batch:
    """Note what is known now; refused and never-run batches, and empty ones, are finished."""
    finished = state in (BatchState.REFUSED, BatchState.NEVER) or (
        state is BatchState.ACCEPTED and batch.coverage.finished
    )
    unit.execute(
        "UPDATE activity_batch SET state = :state, message = :message, finished = :finished"
        " WHERE activity_id = :activity AND batch_id = :batch",
        expect=1,
        state=state,
        message=message,
        finished=finished,
        activity=batch.activity_id,
        batch=batch.batch_id,
    )
    unit.notify(batch.topic)
    return replace(batch, state=state, message=message, finished=finished)


def save_results(unit: Unit, batch: Batch, fresh: list[Result]) -> None:
    """Append the results that follow what is stored, and note whether they end the batch."""
    failed = batch.failed
    for offset, result in enumerate(fresh):
        failed = failed or result["result"] == "Error"
        unit.execute(
            "INSERT INTO activity_result (activity_id, batch_id, position, identity, result)"
            " VALUES (:activity, :batch, :position, :identity, :result)",
            expect=1,
            activity=batch.activity_id,
            batch=batch.batch_id,
            position=batch.stored + offset,
            identity=batch.identity,
            result=msgspec.json.encode(result).decode(),
        )
    coverage = Coverage(batch.commands, batch.stored + len(fresh), failed)
    unit.execute(
        "UPDATE activity_batch SET stored = :stored, failed = :failed, finished = :finished"
        " WHERE activity_id = :activity AND batch_id = :batch",
        expect=1,
        stored=coverage.stored,
        failed=failed,
        finished=coverage.finished,
        activity=batch.activity_id,
        batch=batch.batch_id,
    )
    unit.notify(batch.topic)


def listed(batch: Batch, script: str) -> dict[str, object]:
    """Return one row of `GET /activity/{id}/exec`."""
    row: dict[str, object] = {
        "batchId": batch.batch_id,
        "state": batch.state.value,
        "script": msgspec.json.decode(script),
        "createdDate": times.to_rfc3339(times.truncate_to_us(batch.created_ns)),
        "resultsStored": batch.stored,
        "commands": batch.commands,
        "isFinished": batch.finished,
    }
    if batch.message is not None:
        row["message"] = batch.message
    return row
