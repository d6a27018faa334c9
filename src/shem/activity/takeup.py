"""A new machine takes up an activity that its identity rented elsewhere.

A ticket names activity, agreement and provider. First the agreement is taken up by the market,
which proves whose it is; then the provider tells the activity's state, and its ExeUnit, if it is
one of ours, the batches with their scripts. From then on the activity is like any other here: what
its batches produced is fetched by the puller. Of a legacy ExeUnit's batches only those can be
read whose ids the program kept. Repeating it is harmless, and asks for the batches again.
"""

from typing import Any, Final

import msgspec
import structlog

from shem.activity import ledger
from shem.activity.batches import BatchState, News, learn
from shem.activity.ledger import Batch
from shem.activity.parties import Agreement
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.puller import Puller
from shem.activity.records import Activity, Role, load_activity, save_activity
from shem.activity.script import COMMANDS_MAX, Script, load_script
from shem.activity.states import ActivityState, parse_state
from shem.kernel.errors import PeerError, ShemError, TimedOut, Unreachable, UsageError
from shem.kernel.ids import ActivityId, AgreementId, parse_batch_id
from shem.kernel.world import World
from shem.store.unit import Store
from shem.wire.errors import WireError

ASK_TIMEOUT_S: Final = 5.0
"""One question of several; each is asked once."""

log = structlog.get_logger()


class TakeUp:
    """Fetches what a new machine lacks."""

    def __init__(self, store: Store, peers: Peers, puller: Puller, world: World) -> None:
        self._store = store
        self._peers = peers
        self._puller = puller
        self._world = world

    async def take_up(self, agreement: Agreement, activity_id: str) -> Activity:
        """Return the requestor's copy of an activity of this agreement, with its batches."""
        activity = await load_activity(self._store.fetch, activity_id, Role.REQUESTOR)
        if activity is None:
            activity = await self._fetch(agreement, activity_id)
        try:
            await self.find_batches(activity)
        except (Unreachable, TimedOut):
            raise
        except ShemError as error:  # a legacy ExeUnit, or none any more
            log.info("takeup.no_batches", activity=activity_id, reason=error.message)
        return activity

    async def _fetch(self, agreement: Agreement, activity_id: str) -> Activity:
        body = {"activityId": activity_id, "timeout": ASK_TIMEOUT_S}
        said = await self._ask(agreement, "activity/GetActivityState", body)
        state = parse_state(said)
        now_ns = self._world.clock.wall_ns()
        activity = _activity(agreement, activity_id, state, now_ns)
        async with self._store.unit(activity_id) as unit:
            save_activity(unit, activity)
        log.info("activity.taken_up", activity=activity_id, peer=agreement.provider)
        return activity

    async def look_behind(self, activity: Activity) -> None:
        """Find batches of which this node knows nothing, if the ExeUnit has some.

        That is so when the data directory was put back to an earlier state. A legacy ExeUnit
        knows no such question.
        """
        known = await ledger.count_accepted(self._store.fetch, activity.activity_id)
        _, total = _page(await self._list(activity, known), activity)
        if total > known:
            await self.find_batches(activity)

    async def find_batches(self, activity: Activity) -> None:
        """Note every batch that the ExeUnit tells of; the puller gets their results."""
        seen, total, found = 0, 1, 0
        while seen < min(total, ledger.BATCHES_MAX):
            batches, total = _page(await self._list(activity, seen), activity)
            if not batches:
                break
            seen += len(batches)
            for batch, script in batches:
                found += await self._keep(batch, script)
        if found:
            log.warning(
                "batches.found",
                activity=activity.activity_id,
                batches=found,
                note="this node had no record of them: it is a new one, or was put back",
            )

    async def _list(self, activity: Activity, first: int) -> object:
        return await self._ask(
            activity,
            f"exeunit/{activity.activity_id}/ListBatches",
            {"activityId": activity.activity_id, "from": first},
            transfer=True,
        )

    async def _keep(self, batch: Batch, script: Script) -> bool:
        """Add a batch to the ledger, or learn that a known one was accepted; True when added."""
        async with self._store.unit(batch.activity_id) as unit:
            known = await ledger.load_batch(unit.fetch, batch.activity_id, batch.batch_id)
            if known is None:
                ledger.save_batch(unit, batch, script.text)
            elif _is_news(known, batch):
                ledger.save_batch_state(unit, known, BatchState.ACCEPTED, None)
        fresh = await ledger.load_batch(self._store.fetch, batch.activity_id, batch.batch_id)
        assert fresh is not None
        self._puller.watch(fresh)
        return known is None

    async def _ask(
        self, owned: Agreement | Activity, path: str, body: object, *, transfer: bool = False
    ) -> object:
        return await self._peers.ask(
            owned.identity,
            owned.provider,
            path,
            body,
            timeout_s=ASK_TIMEOUT_S + ANSWER_GRACE_S,
            transfer=transfer,
        )


def _is_news(known: Batch, told: Batch) -> bool:
    """Tell whether a batch that got no answer turns out to have been accepted."""
    learned = learn(known.state, News.ACCEPTED)
    return learned is not None and learned is not known.state and known.digest == told.digest


def _activity(
    agreement: Agreement, activity_id: str, state: ActivityState, now_ns: int
) -> Activity:
    return Activity(
        activity_id=ActivityId(activity_id),
        role=Role.REQUESTOR,
        identity=agreement.identity,
        agreement_id=AgreementId(agreement.agreement_id),
        requestor=agreement.requestor,
        provider=agreement.provider,
        app_session_id=agreement.app_session_id,
        intent_id=None,
        state=state,
        before=None,
        usage=None,
        usage_ns=now_ns,
        destroy_ns=None,
        created_ns=now_ns,
        state_ns=now_ns,
    )


def _page(said: object, activity: Activity) -> tuple[list[tuple[Batch, Script]], int]:
    """Read an answer to ListBatches."""
    if not isinstance(said, dict) or not isinstance(rows := said.get("batches"), list):
        raise WireError("ListBatches is answered with batches")
    total = said.get("total")
    if type(total) is not int:
        raise WireError("ListBatches is answered with their number")
    return [_batch(row, activity) for row in rows], total


def _batch(row: Any, activity: Activity) -> tuple[Batch, Script]:
    if not isinstance(row, dict) or type(accepted_ns := row.get("acceptedNs")) is not int:
        raise WireError("a batch is a map with the time of its acceptance")
    try:
        batch_id = parse_batch_id(str(row.get("batchId")))
        script = load_script(msgspec.json.encode(row.get("script")).decode())
    except (UsageError, msgspec.MsgspecError, TypeError) as error:
        raise PeerError(f"a batch cannot be read: {error}") from error
    if len(script.commands) > COMMANDS_MAX:
        raise PeerError(f"a script has at most {COMMANDS_MAX} commands")
    batch = Batch(
        activity_id=activity.activity_id,
        batch_id=batch_id,
        identity=activity.identity,
        agreement_id=activity.agreement_id,
        state=BatchState.ACCEPTED,
        digest=script.digest,
        commands=len(script.commands),
        stored=0,
        failed=False,
        finished=False,
        message=None,
        created_ns=min(max(accepted_ns, 0), (1 << 63) - 1),
    )
    return batch, script
