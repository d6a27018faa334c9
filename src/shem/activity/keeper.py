"""Takes over the results of an activity when its ExeUnit has ended, and keeps them for a time.

An agent that hands results over has its ExeUnit say so from the first report on (`keeps`). When the
process has ended it sends every batch of its journal, as often as it likes, and then that this was
all (`KeptAll`); only then does it forget the activity. They are kept for the agreement's life plus
the agreed retention, whoever has read them, and within the bounds below, the oldest going first
(docs/adr/0010-results-outlive-their-exeunit.md).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from shem.activity.keptrows import (
    Keeping,
    KeptActivity,
    KeptBatch,
    add_size,
    count_kept_batches,
    delete_batch,
    delete_kept,
    load_kept,
    load_kept_batch,
    load_kept_batches,
    load_oldest,
    load_total,
    save_keeping,
    save_kept_batch,
    save_kept_results,
    save_promise,
)
from shem.activity.messages import LOCAL, Body, error_payload
from shem.activity.parties import OVER, Agreements
from shem.activity.records import Activity, Role, load_activity
from shem.activity.results import parse_results
from shem.activity.script import COMMANDS_MAX, script_digest
from shem.bus.router import Binding, Bus
from shem.bus.types import Call
from shem.kernel import failpoints
from shem.kernel.errors import Conflict, PeerError, ShemError, UsageError
from shem.kernel.ids import ActivityId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.permissions import NODE, Action, decide
from shem.rest.terms import RETENTION_DEFAULT_S, retention_s
from shem.store.unit import Store, StoreClosed, Unit
from shem.wire.errors import WireError

KEPT_SIZE_MAX: Final = 4 << 30
"""Bytes of results, of all activities together."""
KEPT_ACTIVITIES_MAX: Final = 100_000
BATCHES_MAX: Final = 10_000
"""Of one activity: what an ExeUnit accepts."""
CLEAN_UP_S: Final = 600.0
"""Between two looks for results whose time is over."""
RETENTION_OVER: Final = "their time is over"
NO_ROOM: Final = "there is no room for more"

log = structlog.get_logger()


class Keeper:
    """Answers the agent, and cleans up."""

    def __init__(
        self,
        store: Store,
        market: Agreements,
        world: World,
        *,
        size_max: int = KEPT_SIZE_MAX,
        activities_max: int = KEPT_ACTIVITIES_MAX,
    ) -> None:
        self._store = store
        self._market = market
        self._world = world
        self._size_max = size_max
        self._activities_max = activities_max

    def bind(self, bus: Bus) -> list[Binding]:
        served: dict[str, Callable[[Call, object], Awaitable[object]]] = {
            f"{LOCAL}/KeepBatch": self._keep_batch,
            f"{LOCAL}/KeptAll": self._kept_all,
        }
        return [bus.serve(address, fn, error=error_payload) for address, fn in served.items()]

    async def _keep_batch(self, call: Call, body: object) -> object:
        """Take some results of one batch, from an index on; what is here already stays."""
        self._require_local(call)
        fields = Body(body)
        wanted, first = _batch(fields, body), fields.count("from")
        activity_id, batch_id = wanted.activity_id, wanted.batch_id
        entries = parse_results(_member(body, "results"), wanted.commands, first)
        async with self._store.unit(activity_id) as unit:
            activity = await self._provided(unit, activity_id)
            kept = await load_kept(unit.fetch, activity_id)
            if kept is not None and kept.state is not Keeping.PROMISED:
                return None
            save_promise(unit, activity, self._now_ns())
            known = await load_kept_batch(unit.fetch, activity_id, batch_id)
            if known is None:
                save_kept_batch(unit, activity, wanted)
                add_size(unit, activity_id, len(msgspec.json.encode(wanted.script)))
                known = wanted
            elif script_digest(known.script) != script_digest(wanted.script):
                raise Conflict(f"batch {batch_id} is kept with another script")
            if first > known.stored:
                raise Conflict(f"batch {batch_id}: results from {known.stored} on are missing")
            fresh = entries[known.stored - first :]
            add_size(unit, activity_id, save_kept_results(unit, activity, known, fresh))
        failpoints.passing("kept.batch")
        return None

    async def _kept_all(self, call: Call, body: object) -> object:
        """Note that all batches are here; Conflict when some are not.

        With `lost`, why there is nothing to hand over: then nothing is promised any more.
        """
        self._require_local(call)
        fields = Body(body)
        activity_id, lost = fields.text("activityId"), fields.optional_text("lost")
        async with self._store.unit(activity_id) as unit:
            activity = await self._provided(unit, activity_id)
            kept = await load_kept(unit.fetch, activity_id)
            if kept is not None and kept.state is not Keeping.PROMISED:
                return None
            if lost is not None:
                if kept is not None:
                    save_keeping(unit, activity_id, Keeping.DROPPING)
                log.warning("results.lost", activity=activity_id, reason=lost)
            else:
                many = await count_kept_batches(unit.fetch, activity_id)
                if many != fields.count("batches"):
                    raise Conflict(f"{many} batches are here, not {fields.count('batches')}")
                save_promise(unit, activity, self._now_ns())
                save_keeping(unit, activity_id, Keeping.KEPT, self._now_ns())
                log.info("results.kept", activity=activity_id, batches=many)
            unit.notify(exeunit_topic(activity_id))
        failpoints.passing("kept.all")
        await self._make_room()
        return None

    def _require_local(self, call: Call) -> None:
        decide(call.caller, Action.NODE_REPORT_ACTIVITY, NODE, now_ns=self._now_ns()).require()

    async def _provided(self, unit: Unit, activity_id: str) -> Activity:
        activity = await load_activity(unit.fetch, activity_id, Role.PROVIDER)
        if activity is None:
            raise PeerError("DAO error: Diesel error: NotFound")
        return activity

    # --- the time after -----------------------------------------------------------------------

    async def run(self) -> None:
        """Clean up now and then, for ever."""
        while True:
            try:
                await self.clean_up()
            except StoreClosed:
                return
            except ShemError as error:
                log.warning("results.clean_up_failed", reason=error.message)
            await self._world.clock.sleep(CLEAN_UP_S)

    async def clean_up(self) -> None:
        """Drop what is over, and what an earlier run had begun to drop."""
        cursor = (0, "")
        while page := await load_oldest(self._store.fetch, cursor):
            for kept in page:
                if kept.state is Keeping.DROPPING:
                    await self._remove(kept.activity_id)
                elif await self._is_over(kept):
                    await self._drop(kept, RETENTION_OVER)
            cursor = (page[-1].since_ns, page[-1].activity_id)
        await self._make_room()

    async def _is_over(self, kept: KeptActivity) -> bool:
        """Tell whether the agreement has ended, and the retention after it as well."""
        agreement = await self._market.agreement(kept.agreement_id, Role.PROVIDER)
        if agreement is None:
            ended_ns, kept_s = kept.since_ns, RETENTION_DEFAULT_S
        elif agreement.state in OVER:
            event = await self._market.ending_of(kept.agreement_id, Role.PROVIDER)
            ended_ns = kept.since_ns if event is None else event.event_ns
            kept_s = retention_s(msgspec.json.decode(agreement.offer_properties))
        else:
            return False
        return self._now_ns() > ended_ns + int(kept_s * NS_PER_S)

    async def _make_room(self) -> None:
        """Drop the oldest until what is left is within bounds."""
        many, size = await load_total(self._store.fetch)
        cursor = (0, "")
        while many > self._activities_max or size > self._size_max:
            page = await load_oldest(self._store.fetch, cursor)
            if not page:
                return
            for kept in page:
                if many <= self._activities_max and size <= self._size_max:
                    return
                if kept.state is Keeping.KEPT:
                    await self._drop(kept, NO_ROOM)
                    many, size = many - 1, size - kept.size
            cursor = (page[-1].since_ns, page[-1].activity_id)

    async def _drop(self, kept: KeptActivity, why: str) -> None:
        log.warning(
            "results.dropped",
            activity=kept.activity_id,
            agreement=kept.agreement_id,
            size=kept.size,
            reason=why,
        )
        async with self._store.unit(kept.activity_id) as unit:
            save_keeping(unit, kept.activity_id, Keeping.DROPPING)
        await self._remove(kept.activity_id)

    async def _remove(self, activity_id: str) -> None:
        """Delete batch by batch: one commit with all of them would hold up everybody."""
        while page := await load_kept_batches(self._store.fetch, activity_id, 0):
            for batch in page:
                async with self._store.unit(activity_id) as unit:
                    delete_batch(unit, activity_id, batch.batch_id)
        async with self._store.unit(activity_id) as unit:
            delete_kept(unit, activity_id)

    def _now_ns(self) -> int:
        return self._world.clock.wall_ns()


def exeunit_topic(activity_id: str) -> str:
    """Changes when an ExeUnit shows up, and when its results are here in its place."""
    return f"activity.exeunit:{activity_id}"


def _member(body: object, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None


def _batch(fields: Body, body: object) -> KeptBatch:
    """Read the batch's own fields; WireError or UsageError when they are none."""
    script = _member(body, "script")
    if not isinstance(script, list) or len(script) > COMMANDS_MAX:
        raise WireError(f"a script is a list of at most {COMMANDS_MAX} commands")
    position = fields.count("position")
    if position >= BATCHES_MAX:
        raise UsageError(f"an activity has at most {BATCHES_MAX} batches")
    return KeptBatch(
        activity_id=ActivityId(fields.text("activityId")),
        batch_id=fields.text("batchId"),
        position=position,
        accepted_ns=fields.count("acceptedNs"),
        script=script,
        commands=len(script),
        stored=0,
    )
