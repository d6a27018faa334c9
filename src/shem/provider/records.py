"""What the agent remembers: settings and cursors, agreements, activities.

Rows in, dataclasses out; each write is one unit of work and durable when it returns. States:

    agreement   approving → approved → breaking → ended     (breaking: we still owe the node a
                        └──────────────────────────┘         termination)
    activity    running → stopping → reporting → ended      (reporting: we still owe the node the
                                                             word Terminated)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shem.exeunit.agreement import flatten
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.store.unit import Row, Store

OPEN_ROWS_MAX: Final = 1_000
SETTING_ROWS_MAX: Final = 1_000


class AgreementState(StrEnum):
    """Where an agreement is, as the agent sees it."""

    APPROVING = "approving"
    APPROVED = "approved"
    BREAKING = "breaking"
    ENDED = "ended"


class ActivityPhase(StrEnum):
    """Where an activity's process is."""

    RUNNING = "running"
    STOPPING = "stopping"
    REPORTING = "reporting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class AgreementRecord:
    """An agreement that the agent approved, or tried to."""

    agreement_id: str
    state: AgreementState
    reason: dict[str, Any] | None
    body: dict[str, Any]
    """What `agreement.json` says."""
    expires_ns: int
    created_ns: int

    @property
    def demand(self) -> dict[str, Any]:
        """The requestor's side, flat."""
        return flatten(self.body["agreement"]["demand"]["properties"])

    @property
    def offer(self) -> dict[str, Any]:
        """Our side, flat."""
        return flatten(self.body["agreement"]["offer"]["properties"])

    @property
    def requestor(self) -> str:
        return str(self.body["agreement"]["demand"]["requestorId"])


@dataclass(frozen=True, slots=True)
class ActivityRecord:
    """An activity and its process."""

    activity_id: str
    agreement_id: str
    phase: ActivityPhase
    pid: int | None
    pid_started: float | None
    restarts: int
    reason: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an activity gets no process."""

    reason: str
    message: str


class Records:
    """The agent's store."""

    def __init__(self, store: Store, world: World, identity: NodeId) -> None:
        self._store = store
        self._world = world
        self._identity = identity

    async def setting(self, name: str) -> str | None:
        rows = await self._store.fetch(
            "SELECT value FROM agent_setting WHERE identity = :identity AND name = :name LIMIT 1",
            identity=self._identity,
            name=name,
        )
        return str(rows[0]["value"]) if rows else None

    async def settings(self, prefix: str) -> dict[str, str]:
        """Return the settings whose name begins so."""
        rows = await self._store.fetch(
            "SELECT name, value FROM agent_setting WHERE identity = :identity "
            "AND name >= :prefix AND name < :after ORDER BY name LIMIT :most",
            identity=self._identity,
            prefix=prefix,
            after=prefix + "\U0010ffff",
            most=SETTING_ROWS_MAX,
        )
        return {row["name"]: row["value"] for row in rows}

    async def forget(self, name: str) -> None:
        """Remove a setting; one that is not there is gone already."""
        async with self._store.unit(f"setting:{name}") as unit:
            unit.execute(
                "DELETE FROM agent_setting WHERE identity = :identity AND name = :name",
                identity=self._identity,
                name=name,
            )

    async def set(self, name: str, value: str) -> None:
        async with self._store.unit(f"setting:{name}") as unit:
            unit.execute(
                "INSERT INTO agent_setting (identity, name, value) "
                "VALUES (:identity, :name, :value) "
                "ON CONFLICT (identity, name) DO UPDATE SET value = excluded.value",
                identity=self._identity,
                name=name,
                value=value,
            )

    # ---- agreements -----------------------------------------------------------------------------

    async def open_agreements(self) -> list[AgreementRecord]:
        rows = await self._store.fetch(
            "SELECT * FROM agent_agreement WHERE identity = :identity AND state <> 'ended' "
            "ORDER BY created_ns LIMIT :most",
            identity=self._identity,
            most=OPEN_ROWS_MAX,
        )
        return [_agreement(row) for row in rows]

    async def is_long_over(self, agreement_id: str, before_ns: int) -> bool:
        """Whether an agreement ended before then, or is none of ours."""
        rows = await self._store.fetch(
            "SELECT state, changed_ns FROM agent_agreement WHERE agreement_id = :id LIMIT 1",
            id=agreement_id,
        )
        return all(row["state"] == "ended" and row["changed_ns"] < before_ns for row in rows)

    async def has_open_activities(self, agreement_id: str) -> bool:
        """Whether an activity of an agreement has not ended."""
        rows = await self._store.fetch(
            "SELECT activity_id FROM agent_activity WHERE identity = :identity "
            "AND state <> 'ended' AND agreement_id = :id LIMIT 1",
            identity=self._identity,
            id=agreement_id,
        )
        return bool(rows)

    async def agreement(self, agreement_id: str) -> AgreementRecord | None:
        rows = await self._store.fetch(
            "SELECT * FROM agent_agreement WHERE agreement_id = :id AND identity = :identity "
            "LIMIT 1",
            id=agreement_id,
            identity=self._identity,
        )
        return _agreement(rows[0]) if rows else None

    async def add_agreement(
        self, agreement_id: str, body: Mapping[str, Any], expires_ns: int
    ) -> None:
        """Remember an agreement before it is approved; a repeat changes nothing."""
        now_ns = self._world.clock.wall_ns()
        async with self._store.unit(agreement_id) as unit:
            unit.execute(
                "INSERT INTO agent_agreement "
                "(agreement_id, identity, state, body, expires_ns, created_ns, changed_ns) "
                "VALUES (:id, :identity, 'approving', :body, :expires_ns, :now_ns, :now_ns) "
                "ON CONFLICT (agreement_id) DO NOTHING",
                id=agreement_id,
                identity=self._identity,
                body=json.dumps(body),
                expires_ns=expires_ns,
                now_ns=now_ns,
            )

    async def set_agreement(
        self, agreement_id: str, state: AgreementState, reason: Mapping[str, Any] | None = None
    ) -> None:
        """Move an agreement on; one that has ended stays ended."""
        async with self._store.unit(agreement_id) as unit:
            unit.execute(
                "UPDATE agent_agreement SET state = :state, changed_ns = :now_ns, "
                "reason = COALESCE(:reason, reason) "
                "WHERE agreement_id = :id AND state <> 'ended'",
                id=agreement_id,
                state=str(state),
                reason=None if reason is None else json.dumps(reason),
                now_ns=self._world.clock.wall_ns(),
            )

    async def silences(self) -> dict[str, int]:
        """Return since when requestors are silent, by agreement."""
        rows = await self._store.fetch(
            "SELECT agreement_id, since_ns FROM agent_silence WHERE identity = :identity "
            "ORDER BY since_ns LIMIT :most",
            identity=self._identity,
            most=OPEN_ROWS_MAX,
        )
        return {row["agreement_id"]: row["since_ns"] for row in rows}

    async def set_silence(self, agreement_id: str, since_ns: int | None) -> None:
        """Remember that a requestor is silent, or forget it."""
        async with self._store.unit(agreement_id) as unit:
            unit.execute("DELETE FROM agent_silence WHERE agreement_id = :id", id=agreement_id)
            if since_ns is not None:
                unit.execute(
                    "INSERT INTO agent_silence (agreement_id, identity, since_ns) "
                    "VALUES (:id, :identity, :since_ns)",
                    id=agreement_id,
                    identity=self._identity,
                    since_ns=since_ns,
                )

    # ---- activities -----------------------------------------------------------------------------

    async def open_activities(self) -> list[ActivityRecord]:
        rows = await self._store.fetch(
            "SELECT * FROM agent_activity WHERE identity = :identity AND state <> 'ended' "
            "ORDER BY created_ns LIMIT :most",
            identity=self._identity,
            most=OPEN_ROWS_MAX,
        )
        return [_activity(row) for row in rows]

    async def activity(self, activity_id: str) -> ActivityRecord | None:
        rows = await self._store.fetch(
            "SELECT * FROM agent_activity WHERE activity_id = :id AND identity = :identity LIMIT 1",
            id=activity_id,
            identity=self._identity,
        )
        return _activity(rows[0]) if rows else None

    async def add_activity(
        self, activity_id: str, agreement_id: str, refusal: Refusal | None = None
    ) -> None:
        """Remember an activity before its process is started, or that it will have none."""
        phase = ActivityPhase.RUNNING if refusal is None else ActivityPhase.REPORTING
        now_ns = self._world.clock.wall_ns()
        async with self._store.unit(activity_id) as unit:
            unit.execute(
                "INSERT INTO agent_activity "
                "(activity_id, agreement_id, identity, state, reason, error_message, restarts, "
                "created_ns, changed_ns) VALUES (:id, :agreement_id, :identity, :state, :reason, "
                ":error_message, 0, :now_ns, :now_ns) ON CONFLICT (activity_id) DO NOTHING",
                id=activity_id,
                agreement_id=agreement_id,
                identity=self._identity,
                state=str(phase),
                reason=None if refusal is None else refusal.reason,
                error_message=None if refusal is None else refusal.message,
                now_ns=now_ns,
            )

    async def set_process(
        self, activity_id: str, pid: int, started: float, *, restarts: int
    ) -> None:
        async with self._store.unit(activity_id) as unit:
            unit.execute(
                "UPDATE agent_activity SET pid = :pid, pid_started = :started, "
                "restarts = :restarts, changed_ns = :now_ns WHERE activity_id = :id",
                id=activity_id,
                pid=pid,
                started=started,
                restarts=restarts,
                now_ns=self._world.clock.wall_ns(),
            )

    async def set_activity(
        self,
        activity_id: str,
        phase: ActivityPhase,
        *,
        reason: str | None = None,
        error_message: str | None = None,
    ) -> None:
        """Move an activity on; one that has ended stays ended, the first reason stays."""
        async with self._store.unit(activity_id) as unit:
            unit.execute(
                "UPDATE agent_activity SET state = :state, changed_ns = :now_ns, "
                "reason = COALESCE(reason, :reason), "
                "error_message = COALESCE(error_message, :error_message) "
                "WHERE activity_id = :id AND state <> 'ended'",
                id=activity_id,
                state=str(phase),
                reason=reason,
                error_message=error_message,
                now_ns=self._world.clock.wall_ns(),
            )


def _agreement(row: Row) -> AgreementRecord:
    return AgreementRecord(
        agreement_id=row["agreement_id"],
        state=AgreementState(row["state"]),
        reason=None if row["reason"] is None else json.loads(row["reason"]),
        body=json.loads(row["body"]),
        expires_ns=row["expires_ns"],
        created_ns=row["created_ns"],
    )


def _activity(row: Row) -> ActivityRecord:
    return ActivityRecord(
        activity_id=row["activity_id"],
        agreement_id=row["agreement_id"],
        phase=ActivityPhase(row["state"]),
        pid=row["pid"],
        pid_started=row["pid_started"],
        restarts=row["restarts"],
        reason=row["reason"],
        error_message=row["error_message"],
    )
