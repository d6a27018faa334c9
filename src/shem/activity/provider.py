"""The provider's node: the services that requestors and ExeUnits call.

`/public/activity` is for the agreement's requestor, `/local/activity` for processes of this node
(docs/protocol/activity-exeunit.md §3.1, §3.3, §5.2). State and event are committed before anyone is
answered; waiting calls wake at the commit. Failpoint: `create.committed`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from shem.activity.eventlog import EventKind, append_event
from shem.activity.intents import NEVER, Intent, IntentState, is_ruled_out, save_intent
from shem.activity.keptrows import save_promise
from shem.activity.messages import (
    LOCAL,
    PUBLIC,
    Body,
    error_payload,
    usage_body,
)
from shem.activity.parties import APPROVED, Agreement, Agreements, require
from shem.activity.records import (
    ACTIVITIES_MAX,
    Activity,
    Role,
    UnknownActivity,
    activities_of_agreement,
    activity_of_intent,
    load_activity,
    load_states,
    save_activity,
    save_destroy,
    save_state,
    save_usage,
)
from shem.activity.states import ActivityState, State, advance
from shem.activity.usages import Usages
from shem.activity.watch import SILENT, Watch
from shem.bus.router import Binding, Bus
from shem.bus.types import Call
from shem.kernel import failpoints
from shem.kernel.errors import NotFound, PeerError, TimedOut, UsageError
from shem.kernel.ids import ActivityId, AgreementId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World, new_hex_id
from shem.permissions import NODE, Action, decide
from shem.store.unit import Store, Unit

DEFAULT_WAIT_S: Final = 30.0
"""Of a create or destroy that names no timeout."""
DESTROY_REPEAT_NS: Final = NS_PER_S
"""Repeated destroys within this time are one event."""
STATS_RECENT_NS: Final = 3_600 * NS_PER_S


class ActivityFailed(PeerError):
    """The activity ended instead of starting."""

    code = "activity-failed"


class ProviderServices:
    """Answers on the bus."""

    def __init__(self, store: Store, market: Agreements, watch: Watch, world: World) -> None:
        self.usages = Usages(store, world)
        self._store = store
        self._market = market
        self._watch = watch
        self._world = world
        self.waiting: Counter[str] = Counter()
        """How many creates wait for an activity to start."""

    def bind(self, bus: Bus) -> list[Binding]:
        served: dict[str, Callable[[Call, Body], Awaitable[object]]] = {
            f"{PUBLIC}/CreateActivity": self._create,
            f"{PUBLIC}/ResolveIntent": self._resolve_intent,
            f"{PUBLIC}/DestroyActivity": self._destroy,
            f"{PUBLIC}/GetActivityState": self._get_state,
            f"{PUBLIC}/GetActivityUsage": self._get_usage,
            f"{LOCAL}/SetActivityState": self._set_state,
            f"{LOCAL}/SetActivityUsage": self._set_usage,
            f"{LOCAL}/GetAgreementId": self._get_agreement_id,
            f"{LOCAL}/Stats": self._stats,
        }
        return [
            bus.serve(address, _with_body(fn), error=error_payload)
            for address, fn in served.items()
        ]

    # --- create -------------------------------------------------------------------------------

    async def _create(self, call: Call, body: Body) -> object:
        agreement_id = body.text("agreementId")
        agreement = await self._market.agreement(agreement_id, Role.PROVIDER)
        if agreement is None:
            raise NotFound(f"Not found: {agreement_id}")
        require(call.caller, Action.CREATE_ACTIVITY, agreement, self._now_ns())
        intent_id = body.optional_text("intentId")
        activity = await self._begin(agreement, intent_id, body.pub_key())
        failpoints.passing("create.committed")
        return await self._started(activity, body.timeout_s(DEFAULT_WAIT_S))

    async def _begin(
        self, agreement: Agreement, intent_id: str | None, pub_key: str | None
    ) -> Activity:
        """Create the activity and its event, or return the one this intent made before."""
        async with self._store.unit(agreement.agreement_id) as unit:
            if intent_id is not None:
                known = await activity_of_intent(
                    unit.fetch,
                    Role.PROVIDER,
                    agreement.requestor,
                    agreement.agreement_id,
                    intent_id,
                )
                if known is not None:
                    return known
                await self._refuse_ruled_out(unit, agreement, intent_id)
            fresh = await self._market.agreement(agreement.agreement_id, Role.PROVIDER)
            state = agreement.state if fresh is None else fresh.state
            if state != APPROVED:
                raise UsageError(
                    f"Bad request: Agreement {agreement.agreement_id} is not Approved."
                    f" Current state: {state}"
                )
            before = await activities_of_agreement(unit.fetch, agreement.agreement_id)
            if len(before) >= ACTIVITIES_MAX:
                raise UsageError(f"Bad request: more than {ACTIVITIES_MAX} activities")
            activity = self._new_activity(agreement, intent_id)
            save_activity(unit, activity)
            append_event(unit, activity, EventKind.CREATE, activity.created_ns, pub_key)
        return activity

    async def _refuse_ruled_out(self, unit: Unit, agreement: Agreement, intent_id: str) -> None:
        """A create that comes after its intent was resolved comes too late."""
        if await is_ruled_out(unit.fetch, agreement.provider, agreement.agreement_id, intent_id):
            raise UsageError(f"Bad request: intent {intent_id} is {NEVER}")

    async def _resolve_intent(self, call: Call, body: Body) -> object:
        """Say which activity an intent made; once this says none, it never will make one."""
        agreement_id, intent_id = body.text("agreementId"), body.text("intentId")
        agreement = await self._market.agreement(agreement_id, Role.PROVIDER)
        if agreement is None:
            raise NotFound(f"Not found: {agreement_id}")
        require(call.caller, Action.CREATE_ACTIVITY, agreement, self._now_ns())
        async with self._store.unit(agreement.agreement_id) as unit:
            known = await activity_of_intent(
                unit.fetch, Role.PROVIDER, agreement.requestor, agreement.agreement_id, intent_id
            )
            if known is None:
                ruled_out = Intent(
                    intent_id=intent_id,
                    identity=agreement.provider,
                    agreement_id=AgreementId(agreement.agreement_id),
                    provider=agreement.provider,
                    state=IntentState.FAILED,
                    activity_id=None,
                    message=NEVER,
                )
                save_intent(unit, ruled_out, self._now_ns())
        if known is not None and known.state.current is State.NEW and known.state.alive:
            raise TimedOut("Timeout")  # it is being started: its own create decides
        return {"activityId": None if known is None else known.activity_id}

    def _new_activity(self, agreement: Agreement, intent_id: str | None) -> Activity:
        now_ns = self._now_ns()
        return Activity(
            activity_id=ActivityId(new_hex_id(self._world.rng)),
            role=Role.PROVIDER,
            identity=agreement.provider,
            agreement_id=AgreementId(agreement.agreement_id),
            requestor=agreement.requestor,
            provider=agreement.provider,
            app_session_id=agreement.app_session_id,
            intent_id=intent_id,
            state=ActivityState(State.NEW),
            before=None,
            usage=None,
            usage_ns=now_ns,
            destroy_ns=None,
            created_ns=now_ns,
        )

    async def _started(self, activity: Activity, timeout_s: float) -> str:
        """Wait until the ExeUnit has reported in; in vain, the activity is destroyed."""
        self.waiting[activity.activity_id] += 1
        try:
            activity = await self._activity_when(
                activity.activity_id, lambda it: it.state.started or it.is_ending, timeout_s
            )
        finally:
            self.waiting[activity.activity_id] -= 1
            last = self.waiting[activity.activity_id] <= 0
            if last:
                del self.waiting[activity.activity_id]
        state = activity.state
        if state.started and not activity.is_ending:
            return activity.activity_id
        if state.current is State.NEW and not activity.is_ending:
            if last:
                await self.request_destroy(activity.activity_id)
            raise TimedOut("Timeout")
        raise ActivityFailed(
            f"Activity {activity.activity_id} was abruptly terminated."
            f" Reason: {state.reason}, message: {state.error_message}"
        )

    async def _activity_when(
        self, activity_id: str, wanted: Callable[[Activity], bool], timeout_s: float
    ) -> Activity:
        """Return the activity once it is as wanted, or as it is when the time is up."""
        deadline = self._world.clock.monotonic() + timeout_s
        topics = self._store.topics
        while True:
            activity = await self._load(activity_id)
            version = topics.version(activity.state_topic)
            activity = await self._load(activity_id)
            left_s = deadline - self._world.clock.monotonic()
            if wanted(activity) or left_s <= 0:
                return activity
            await topics.changed(activity.state_topic, version, left_s)

    # --- destroy, state, usage ----------------------------------------------------------------

    async def _destroy(self, call: Call, body: Body) -> object:
        activity = await self._load(body.text("activityId"))
        require(call.caller, Action.DESTROY_ACTIVITY, activity, self._now_ns())
        if activity.state.ended:
            return None
        await self.request_destroy(activity.activity_id)
        activity = await self._activity_when(
            activity.activity_id, lambda it: it.state.ended, body.timeout_s(DEFAULT_WAIT_S)
        )
        if not activity.state.ended:
            raise TimedOut("Timeout")
        return None

    async def request_destroy(self, activity_id: str) -> None:
        """Tell the provider agent to end an activity, unless it ends already."""
        async with self._store.unit(activity_id) as unit:
            activity = await load_activity(unit.fetch, activity_id, Role.PROVIDER)
            now_ns = self._now_ns()
            if activity is None or not activity.state.alive:
                return
            if activity.destroy_ns is not None and now_ns - activity.destroy_ns < DESTROY_REPEAT_NS:
                return
            save_destroy(unit, activity, now_ns)
            append_event(unit, activity, EventKind.DESTROY, now_ns)

    async def _get_state(self, call: Call, body: Body) -> object:
        activity = await self._load(body.text("activityId"))
        require(call.caller, Action.GET_ACTIVITY_STATE, activity, self._now_ns())
        return activity.state.wire()

    async def _get_usage(self, call: Call, body: Body) -> object:
        activity = await self._load(body.text("activityId"))
        require(call.caller, Action.GET_ACTIVITY_USAGE, activity, self._now_ns())
        return usage_body(*self.usages.latest(activity))

    async def _load(self, activity_id: str) -> Activity:
        activity = await load_activity(self._store.fetch, activity_id, Role.PROVIDER)
        if activity is None:
            raise UnknownActivity(activity_id)
        return activity

    # --- for ExeUnits and other local processes -----------------------------------------------

    def _require_local(self, call: Call) -> None:
        decide(call.caller, Action.NODE_REPORT_ACTIVITY, NODE, now_ns=self._now_ns()).require()

    async def _set_state(self, call: Call, body: Body) -> object:
        self._require_local(call)
        await self.set_state(body.text("activityId"), body.state(), keeps=body.flag("keeps"))
        return None

    async def set_state(
        self, activity_id: str, reported: ActivityState, *, keeps: bool = False
    ) -> None:
        """Store a reported state; Conflict when the table of states does not allow it.

        `keeps`: the agent will hand the results over when the ExeUnit has ended.
        """
        async with self._store.unit(activity_id) as unit:
            activity = await load_activity(unit.fetch, activity_id, Role.PROVIDER)
            if activity is None:
                raise PeerError("DAO error: Diesel error: NotFound")
            state = advance(activity.state, reported)
            if state.ended and self._watch.is_dead(activity_id, self._world.clock.monotonic()):
                state = replace(state, reason=SILENT, error_message=None)
            if keeps and state.started:
                save_promise(unit, activity, self._now_ns())
            if state != activity.state:
                self.usages.settle(unit, activity)
                save_state(unit, activity, state, self._now_ns())
                if not state.started:
                    self.usages.is_not_well(activity_id)

    async def _set_usage(self, call: Call, body: Body) -> object:
        self._require_local(call)
        activity_id, usage = body.text("activityId"), body.usage()
        if not self.usages.note(activity_id, usage) and not await self._first(activity_id, usage):
            return None
        self._watch.hear(activity_id, self._world.clock.monotonic())
        return None

    async def _first(self, activity_id: str, usage: tuple[float, ...]) -> bool:
        """Take a report that may show that an activity is well again; False: there is none."""
        async with self._store.unit(activity_id) as unit:
            activity = await load_activity(unit.fetch, activity_id, Role.PROVIDER)
            if activity is None:
                return False
            save_usage(unit, activity, usage, self._now_ns())
            if activity.state.current is State.UNRESPONSIVE and activity.before is not None:
                back = ActivityState(activity.before, activity.state.pending)
                save_state(unit, activity, back, self._now_ns())
            if activity.state.started:
                self.usages.is_well(activity)
        return True

    async def _get_agreement_id(self, call: Call, body: Body) -> object:
        self._require_local(call)
        role, activity_id = body.text("role"), body.text("activityId")
        if role not in tuple(Role):
            raise UsageError(f"Bad request: role {role} is neither Provider nor Requestor")
        activity = await load_activity(self._store.fetch, activity_id, Role(role))
        if activity is None:
            raise UnknownActivity(activity_id)
        return activity.agreement_id

    async def _stats(self, call: Call, body: Body) -> object:
        self._require_local(call)
        del body
        recently = self._now_ns() - STATS_RECENT_NS
        return {
            "total": await load_states(self._store.fetch, Role.PROVIDER, 0),
            "last1h": await load_states(self._store.fetch, Role.PROVIDER, recently),
            "lastActivityTs": None,
        }

    def _now_ns(self) -> int:
        return self._world.clock.wall_ns()


def _with_body(
    fn: Callable[[Call, Body], Awaitable[object]],
) -> Callable[[Call, object], Awaitable[object]]:
    async def serve(call: Call, body: object) -> object:
        return await fn(call, Body(body))

    return serve
